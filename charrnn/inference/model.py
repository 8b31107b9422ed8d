"""A trained model: it writes, and says how well it knows a text. It starts at once, since it never imports torch.

`load` gives a `Model`, which has the vocabulary; the `Network` under it knows only ids. Letters: B streams, V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from charrnn import checkpoint, run_folder
from charrnn.errors import CharrnnError
from charrnn.inference.sampler import NOISE, Sampler
from charrnn.inference.score import STREAMS, Observe, Score, score, score_records
from charrnn.network.engine import Network
from charrnn.text.corpus import Corpus
from charrnn.text.records import SEPARATORS, bounds, digest, join, split
from charrnn.text.vocabulary import Vocabulary

Array = np.ndarray


class Model:
    """A trained model: it writes (`sample`, `generate`) and says how well it knows a text (`score`, `bits_per_character`)."""

    def __init__(self, tensors: checkpoint.Tensors, header: checkpoint.Header, path: Path | None = None):
        self.header, self.path = header, path
        self.vocabulary = Vocabulary(header["vocabulary"], header.get("unknown", False))
        self.start = int(self.vocabulary.encode(header["start"])[0])
        self.network = Network(header["config"], tensors)
        self.records: str | None = header.get("records")  # "line" or "paragraph", where each is a sequence of its own
        self._prints = tensors.get(checkpoint.FINGERPRINT)

    def __repr__(self) -> str:
        c = self.header["config"]
        return f"<Model {self.path}: {c['num_layers']} x {c['hidden_size']} {c['cell']}, {len(self.vocabulary)} characters>"

    def unknown(self, text: str) -> str:
        """The characters of `text` that the model has never seen, each once."""
        ids = self.vocabulary.encode(text)
        outside = (-1, self.vocabulary.unknown)
        return "".join(dict.fromkeys(c for c, i in zip(text, ids, strict=True) if i in outside))

    def generate(
        self,
        prime: str = "",
        length: int = 500,
        sampler: Sampler | None = None,
        seed: int | np.random.SeedSequence | None = None,
        count: int = 1,
    ) -> Iterator[list[str]]:
        """Write `count` texts side by side: yields, `length` times, a list of the next character of each.

        The network first reads `prime`; its unknown characters are skipped. Without a prime it begins as after a line
        break (or, where there is none in its vocabulary, after the most frequent character). Text k depends on the seed
        and on k alone, not on `count` (but for the rounding of the products, which can tip a rare near-tie).
        """
        sampler = sampler or Sampler()
        if length < 0 or count < 1:
            raise CharrnnError(f"can't write {count} texts of {length} characters")
        seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        generators = [np.random.default_rng(child) for child in seeds.spawn(count)]
        ids = self.vocabulary.encode(prime)
        ids = ids[ids >= 0]
        first = self.network.initial_state(1)
        for i in [*([self.start] if self.records or not len(ids) else []), *ids.tolist()]:
            first.step([i])
        state = self.network.initial_state(count)
        state.logits[:] = first.logits
        for part, known in zip(chain.from_iterable(state), chain.from_iterable(first), strict=True):
            part[:] = known
        V, characters = len(self.vocabulary), self.vocabulary.characters
        block = max(1, min(64, NOISE // (count * V)))  # steps
        noise = np.empty((block, count, V), np.float32)
        for n in range(length):
            if n % block == 0:
                for k, generator in enumerate(generators):
                    noise[:, k] = sampler.noise(generator, (block, V))
            if n:
                state.advance()
            if self.vocabulary.unknown is not None:
                state.logits[:, self.vocabulary.unknown] = -np.inf  # the symbol is not a character to write
            sampler.draw(state.logits, noise[n % block], state.ids)
            yield [characters[i] for i in state.ids.tolist()]

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
        """Write `length` characters on from `prime` and return them, without the prime.

        A model of records writes on to the end of one, and no more than `length` characters.

        >>> load("runs/hihello").sample("h", length=6, greedy=True)  # doctest: +SKIP
        'ihello'
        """
        sampler = Sampler(temperature, top_k, top_p, greedy)
        if self.records:
            return next(self.write_records(prime, length, sampler, seed, 1))[len(prime) :]
        return "".join(step[0] for step in self.generate(prime, length, sampler, seed))

    def write_records(
        self,
        prime: str = "",
        length: int = 1000,
        sampler: Sampler | None = None,
        seed: int | None = None,
        together: int = STREAMS,
    ) -> Iterator[str]:
        """Write one record after the other, without end: each begins with `prime`, is up to `length` characters longer, and
        stops where the model ends it, its separator left out. `together` are written side by side; record k depends on the
        seed and on k alone. Raises: CharrnnError where the prime holds a separator, or the model knows no records.
        """
        if self.records is None:
            raise CharrnnError(f"{self.path} is not a model of lines or paragraphs")
        separator = SEPARATORS[self.records]
        if separator in prime or prime.startswith("\n"):
            raise CharrnnError(f"the prime {prime!r} is more than the beginning of one {self.records}")
        seeds = np.random.SeedSequence(seed)
        while True:
            texts, open_ = [prime] * together, set(range(together))
            for characters in self.generate(prime, length, sampler, seeds, together):
                for k in list(open_):
                    texts[k] += characters[k]
                    if texts[k].endswith(separator):
                        open_.remove(k)
                        texts[k] = texts[k].removesuffix(separator)
                if not open_:
                    break
            yield from texts

    def is_novel(self, record: str) -> bool:
        """Whether a record was not in the text that the model was given; of n there, one in 2^40 / n is missed."""
        if self._prints is None:
            raise CharrnnError(f"{self.path} is not a model of lines or paragraphs")
        key = digest(record)
        rows, low, high = self._prints, 0, len(self._prints)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if rows[middle].tobytes() < key else (low, middle)
        return not (low < len(rows) and rows[low].tobytes() == key)

    def preview(self, seed: int) -> str:
        """A few lines for whoever watches a training."""
        if self.records is None:
            return self.sample(length=160, temperature=0.8, seed=seed)
        return SEPARATORS[self.records].join(islice(self.write_records("", 160, Sampler(0.8), seed, 5), 5))

    def score(
        self,
        text: str | Corpus,
        watch: Callable[[int, int], None] = lambda done, total: None,
        observe: Observe | None = None,
    ) -> Score:
        """Score every character of `text`; `watch` is told how far it is. Raises: CharrnnError where it is empty.

        A model of records scores each by itself, and what stands in no record not at all. `observe` is told of each known
        character.
        """
        if not len(text):
            raise CharrnnError("nothing to score: the text is empty")
        vocabulary, network = self.vocabulary, self.network
        known = len(vocabulary), vocabulary.unknown
        if self.records:
            encoded = vocabulary.encode(self.whole(text))
            outlines = bounds(encoded, self.start, self.records)
            engine = network.forward, network.initial_state
            result = score_records(*engine, encoded, outlines, self.start, *known, watch, observe)
            return replace(result, kind=self.records)
        ids = vocabulary.encode(text) if isinstance(text, str) else text.encoded(vocabulary)
        left_out = len(text) - len(ids)
        return score(network.forward, network.initial_state, ids, self.start, *known, left_out, watch, observe)

    def whole(self, text: str | Corpus) -> str:
        """What a model of records reads of `text`: the records, each ended by its separator. Raises: CharrnnError."""
        assert self.records is not None
        whole = join(split(text if isinstance(text, str) else text.text(), self.records)[0], self.records)
        if not whole:
            raise CharrnnError(f"nothing to score: the text has no {self.records}s")
        return whole

    def bits_per_character(self, text: str) -> float:
        """The cross-entropy of `text` under the model in bits per character: lower is better, 0 is known by heart."""
        return self.score(text).bits_per_character


def load(path: str | Path | None = None) -> Model:
    """Open a model: a run's folder or its `model.safetensors`; without a path, the newest run under `runs/`.

    Raises: CharrnnError where there is none or it can't be read.
    """
    found = run_folder.find_model(path)
    return Model(*checkpoint.read_model(found), found)
