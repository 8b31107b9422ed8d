"""A trained model: generates text and scores text. This module starts fast, since it does not import torch.

Shapes: B batch size, V vocabulary size.
"""

import math
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Literal

import numpy as np

from charrnn import checkpoint, run_folder
from charrnn.checkpoint import Tensors
from charrnn.errors import CharrnnError
from charrnn.headers import ModelHeader
from charrnn.inference.sampler import Sampler
from charrnn.inference.score import Observe, RecordBlocks, Score, TextBlocks, escape_costs, score, surprisals
from charrnn.network.engine import Network, Stepper
from charrnn.text.corpus import Corpus
from charrnn.text.records import SEPARATORS, find_records, hash_records, join, split
from charrnn.text.vocabulary import Vocabulary, code_points, text_of

Array = np.ndarray
Seed = int | np.random.SeedSequence | None
NOISE = 1 << 18  # random numbers drawn at a time
MAX_BATCH_NUMBERS = 1 << 22  # states and logits of all texts of a batch, in float32 numbers


@dataclass(frozen=True)
class Sample:
    """A generated text."""

    prime: str
    text: str  # without the prime and, for a line-by-line model, without the separator
    bits_per_character: float | None  # of `text`, as `Model.score` counts them; None if it is empty


class Model:
    """A trained model, as returned by `train` and `load`. It generates text and scores text, using only NumPy.

    `path` is its file, `vocabulary.characters` its characters. `records` is "line" or "paragraph" for a model trained line
    by line or paragraph by paragraph, else None.

    >>> model = load("runs/the-lamp")  # doctest: +SKIP
    >>> print(model.sample("NELL:", length=200, temperature=0.7, seed=1))  # doctest: +SKIP
    """

    def __init__(self, tensors: Tensors, header: ModelHeader, path: Path | None = None):
        self.header = header
        self.path = path
        self.vocabulary = Vocabulary(header.vocabulary, header.unknown)
        self.start = int(self.vocabulary.encode(header.start)[0])
        self.network = Network(header.config, tensors)
        self.records = header.records
        self._record_hashes = tensors.get(checkpoint.RECORD_HASHES)

    def __repr__(self) -> str:
        c = self.header.config
        name = f" {self.name}" if self.path else ""
        return f"<Model{name}: {c.num_layers} x {c.hidden_size} {c.cell}, {len(self.vocabulary)} characters>"

    @property
    def name(self) -> str:
        """Its path, or the name of a base model."""
        path = self.path or Path()
        return path.stem if path.parent == run_folder.BASES else str(path)

    @property
    def most_together(self) -> int:
        """The largest batch of texts to generate at once in little memory."""
        config = self.header.config
        return max(1, MAX_BATCH_NUMBERS // (len(self.vocabulary) + 16 * config.num_layers * config.hidden_size))

    def unknown(self, text: str) -> str:
        """The characters of `text` that are not in the vocabulary, each once."""
        return "".join(dict.fromkeys(text[k] for k in np.flatnonzero(self._is_unknown(text))))

    def _is_unknown(self, text: str) -> np.ndarray:
        ids = self.vocabulary.encode(text)
        outside: np.ndarray = (ids < 0) | (ids == self.vocabulary.unknown)
        return outside

    @property
    def newlines(self) -> str:
        """How to read line ends of files for this model, as in training: "universal" or "keep" (see `text.decoding`)."""
        origin = self.header.training.origin
        kept = self.vocabulary.encode("\r")[0] >= 0 and (origin is None or origin.options.newlines == "keep")
        return "keep" if kept else "universal"

    def hint_at_form(self, text: str) -> list[str]:
        """A note for the user if most unknown characters of `text` would be known in another Unicode normal form."""
        unknown = self._is_unknown(text).sum()
        forms: dict[Literal["NFC", "NFD"], str] = {"NFC": "composed", "NFD": "decomposed"} if unknown else {}
        for form, known in forms.items():
            if 2 * self._is_unknown(unicodedata.normalize(form, text)).sum() < unknown:
                cure = f"convert the text: uconv -x any-{form.lower()}"
                return [f"the model was trained on {known} characters (Unicode's {form}); {cure}"]
        return []

    def generate(
        self, prime: str = "", length: int | None = 500, sampler: Sampler | None = None, seed: Seed = None, count: int = 1
    ) -> Iterator[list[str]]:
        """Generate `count` texts at once, character by character.

        The network first reads `prime`, without its unknown characters. Without a prime it starts as after a line break (or
        after the most frequent character, if the vocabulary has no line break). A `length` of None never ends. Text k depends
        only on the seed and on k, not on `count` (except when rounding decides between two nearly equal characters).

        Yields: `length` times, a list of the next character of each text.
        Raises: CharrnnError for a negative length or a `count` below 1.

        >>> for [character] in load("runs/the-lamp").generate("NELL:", length=200):  # doctest: +SKIP
        ...     print(character, end="", flush=True)
        """
        characters = self.vocabulary.characters
        for ids, _ in self._draw([prime] * count, length, sampler=sampler, seed=seed):
            yield [characters[i] for i in ids.tolist()]

    def _draw(
        self, primes: Sequence[str], length: int | None, sampler: Sampler | None, seed: Seed
    ) -> Iterator[tuple[Array, Array]]:
        """Draw the next character of each text. Yields: ids (B,) and logits (B, V), both overwritten by the next step."""
        sampler = sampler or Sampler()
        B, V = len(primes), len(self.vocabulary)
        if B < 1 or (length is not None and length < 0):
            raise CharrnnError(f"can't write {B} texts of {length} characters")
        seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        generators = [np.random.default_rng(child) for child in seeds.spawn(B)]
        state = self._read(primes)
        block = max(1, min(64, NOISE // (B * V)))  # steps
        noise = np.empty((block, B, V), np.float32)
        for n in count() if length is None else range(length):
            if n % block == 0:
                for k, generator in enumerate(generators):
                    noise[:, k] = sampler.noise(generator, (block, V))
            if n:
                state.advance()
            logits = state.logits
            if self.vocabulary.unknown is not None:
                logits = logits.copy()
                logits[:, self.vocabulary.unknown] = -np.inf  # the symbol is not a character to write
            sampler.draw(logits, noise[n % block], state.ids)
            yield state.ids, state.logits

    def _read(self, primes: Sequence[str]) -> Stepper:
        """Run the network over each of `primes`. Returns: its state, as one batch."""
        state, one = self.network.initial_state(len(primes)), self.network.initial_state(1)
        for k, prime in enumerate(primes):
            if not k or prime != primes[k - 1]:
                one = self.network.initial_state(1)
                ids = self.vocabulary.encode_known(prime).tolist()
                for i in ids if ids and not self.records else [self.start, *ids]:
                    one.step([i])
            state.logits[k] = one.logits[0]
            for part, read in zip(chain.from_iterable(state), chain.from_iterable(one), strict=True):
                part[k] = read[0]
        return state

    def write(
        self,
        primes: Sequence[str],
        length: int = 500,
        sampler: Sampler | None = None,
        seed: Seed = None,
        until: str = "",
    ) -> list[Sample]:
        """Write a text after each of `primes`: `length` characters, or fewer if the text reaches `until`.

        A line-by-line model stops at the end of the line. Text k depends only on its prime, the seed and k, as in `generate`.
        Raises: CharrnnError for a negative length, no primes, or a prime with the end of a record.
        """
        separator = SEPARATORS[self.records] if self.records else ""
        for prime in primes if self.records else ():
            if separator in prime or prime.startswith("\n"):
                raise CharrnnError(f"the prime {prime!r} is not the beginning of one {self.records}")
        end = self.vocabulary.encode(separator or until)[:, None]  # (E, 1)
        last = np.full((len(end), len(primes)), -1)  # (E, B) last characters of each text
        if len(separator) > 1:  # the prime may end with the separator's first character
            last[-1] = [self.vocabulary.encode(prime[-1:] or " ")[0] for prime in primes]
        lengths, running = np.full(len(primes), length), np.ones(len(primes), bool)
        nats = np.zeros(len(primes))
        drawn = np.empty((max(length, 0), len(primes)), np.int32)
        for n, (ids, logits) in enumerate(self._draw(primes, length, sampler=sampler, seed=seed), 1):
            drawn[n - 1] = ids
            nats += np.where(running, surprisals(logits, ids)[0], 0.0)
            if len(end):
                last = np.concatenate([last[1:], ids[None]])
                ended = running & (last == end).all(axis=0)
                lengths[ended] = n
                running &= ~ended
                if not running.any():
                    break
        codes = code_points(self.vocabulary.characters)
        bits = (nats / np.maximum(lengths, 1) + escape_costs(self.vocabulary)[0]) / math.log(2)
        samples = []
        for k, prime in enumerate(primes):
            text = (prime + text_of(codes[drawn[: lengths[k], k]])).removesuffix(separator)[len(prime) :]
            samples.append(Sample(prime, text, bits_per_character=float(bits[k]) if lengths[k] else None))
        return samples

    def sample(
        self,
        prime: str = "",
        length: int = 500,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        greedy: bool = False,
        seed: int | None = None,
    ) -> str:
        """Generate `length` characters after `prime`. A line-by-line model stops at the end of the line.

        - `temperature`: below 1 likely characters become likelier, above 1 less likely; 0 is `greedy`
        - `top_k`: draw only from the k likeliest characters; 0: from all
        - `top_p`: nucleus sampling: draw only from the likeliest characters that have this probability in total
        - `greedy`: always take the likeliest character
        - `seed`: the same seed gives the same text; None: a different text each time

        Returns: the text without the prime.
        Raises: CharrnnError for a value out of range.

        >>> load("runs/hihello").sample("h", length=6, greedy=True)  # doctest: +SKIP
        'ihello'
        """
        sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy)
        return self.write([prime], length, sampler=sampler, seed=seed)[0].text

    def write_records(
        self, prime: str = "", length: int = 1000, sampler: Sampler | None = None, seed: int | None = None, together: int = 64
    ) -> Iterator[str]:
        """Generate lines (or paragraphs, as the model was trained) without end.

        Each starts with `prime` and ends where the model ends it, or after `length` more characters. `together` is the batch
        size. Record k depends only on the seed and on k.

        Yields: records, without the separator.
        Raises: CharrnnError if `prime` contains a separator, or the model was not trained line by line.
        """
        if self.records is None:
            raise CharrnnError(f"{self.path} is not a model of lines or paragraphs")
        seeds = np.random.SeedSequence(seed)
        while True:
            for sample in self.write([prime] * together, length, sampler=sampler, seed=seeds):
                yield sample.prime + sample.text

    def is_novel(self, record: str) -> bool:
        """Whether `record` is not in the training text. Of n records there, a new one is mistaken for old in n of 2^40 cases.

        Raises: CharrnnError if the model was not trained line by line.
        """
        hashes = self._record_hashes  # sorted
        if hashes is None:
            raise CharrnnError(f"{self.path} is not a model of lines or paragraphs")
        own = hash_records([record]).tobytes()
        place = bisect_left(range(len(hashes)), own, key=lambda k: hashes[k].tobytes())
        return place == len(hashes) or hashes[place].tobytes() != own

    def preview(self, seed: int) -> str:
        """A short sample, to show while training."""
        if self.records is None:
            return self.sample(length=160, temperature=0.8, seed=seed)
        records = self.write_records(length=160, sampler=Sampler(temperature=0.8), seed=seed, together=5)
        return SEPARATORS[self.records].join(islice(records, 5))

    def score(
        self, text: str | Corpus, watch: Callable[[int, int], None] | None = None, observe: Observe | None = None
    ) -> Score:
        """Score every character of `text`: bits per character, perplexity, accuracy, number of unknown characters.

        A line-by-line model scores each line on its own, and skips text that is in no record (such as empty lines).
        `watch(done, total)` is called with the numbers of characters, `observe` with each known character (see
        `inference.score.Observe`).

        Raises: CharrnnError if there is nothing to score.
        """
        if not len(text):
            raise CharrnnError("nothing to score: the text is empty")
        vocabulary = self.vocabulary
        blocks: TextBlocks | RecordBlocks
        if self.records:
            ids = vocabulary.encode(self.whole(text))
            blocks = RecordBlocks(find_records(ids, kind=self.records, line_break=self.start))
        else:
            known = vocabulary.encode_known(text) if isinstance(text, str) else text.encoded(vocabulary)
            blocks = TextBlocks(known, start=self.start, unknown=len(text) - len(known))
        return score(self.network, blocks, vocabulary=vocabulary, watch=watch, observe=observe)

    def whole(self, text: str | Corpus) -> str:
        """The records of `text`, each with its separator, as one text. Raises: CharrnnError if there are none."""
        assert self.records is not None
        records, _ = split(text if isinstance(text, str) else text.text(), self.records)
        if not records:
            raise CharrnnError(f"nothing to score: the text has no {self.records}s")
        return join(records, self.records)

    def bits_per_character(self, text: str) -> float:
        """The cross-entropy of `text` in bits per character: the lower, the better the model predicts it.

        Raises: CharrnnError if there is nothing to score.
        """
        return self.score(text).bits_per_character


def load(path: str | Path | None = None) -> Model:
    """Load a model from a run's folder, a `model.safetensors` file or a base model's name; default: the newest in `runs/`.

    Raises: CharrnnError if there is none or it can't be read.
    """
    found = run_folder.find_model(path)
    tensors, header = checkpoint.read_model(found)
    return Model(tensors, header, path=found)
