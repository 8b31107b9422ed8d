"""A trained model: generates text and scores text. This module starts fast, since it does not import torch.

Shapes: B batch size, V vocabulary size.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from charrnn import checkpoint, run_folder
from charrnn.checkpoint import Tensors
from charrnn.errors import CharrnnError
from charrnn.headers import ModelHeader
from charrnn.inference import writing
from charrnn.inference.blocks import RecordBlocks, TextBlocks
from charrnn.inference.sampler import Sampler
from charrnn.inference.score import Piece, Score, Watch, pieces, score
from charrnn.inference.writing import Sample, Seed
from charrnn.network.engine import Network
from charrnn.text.corpus import Corpus
from charrnn.text.reading import build_corpus
from charrnn.text.records import SEPARATORS, find_records, find_spans, hash_records, join, split, unify_breaks
from charrnn.text.vocabulary import Vocabulary

Array = np.ndarray
MAX_BATCH_NUMBERS = 1 << 22  # states and logits of all texts of a batch, in float32 numbers


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
    def short_name(self) -> str:
        """The folder of its run, or the name of a base model, as commands take it."""
        path = self.path or Path()
        return path.stem if path.parent == run_folder.BASES else str(path.parent)

    @property
    def reference(self) -> str | None:
        """How a run refers to it: the name of a base model, or an absolute path; None if it is not in a file."""
        if self.path is None:
            return None
        return self.path.stem if self.path.parent == run_folder.BASES else str(self.path.resolve())

    @property
    def max_batch(self) -> int:
        """The largest batch of texts to generate at once in little memory."""
        config = self.header.config
        return max(1, MAX_BATCH_NUMBERS // (len(self.vocabulary) + 16 * config.num_layers * config.hidden_size))

    def unknown(self, text: str) -> str:
        """The characters of `text` that are not in the vocabulary, each once."""
        return "".join(dict.fromkeys(text[k] for k in np.flatnonzero(self.vocabulary.is_unknown(text))))

    @property
    def encoding(self) -> str:
        """The encoding of its training text; "bytes" if its characters are bytes."""
        origin = self.header.training.origin
        return "utf-8" if origin is None else origin.options.encoding

    @property
    def newlines(self) -> str:
        """How to read line ends of files for this model, as in training: "universal" or "keep" (see `text.decoding`)."""
        origin = self.header.training.origin
        kept = self.vocabulary.encode("\r")[0] >= 0 and (origin is None or origin.options.newlines == "keep")
        return "keep" if kept else "universal"

    def generate(
        self,
        prime: str = "",
        length: int | None = 500,
        sampler: Sampler | None = None,
        seed: Seed = None,
        count: int = 1,
        until: str | Sequence[str] = (),
    ) -> Iterator[list[str]]:
        """Generate `count` texts at once, character by character.

        The network first reads its start character (a line break or, without one, the most frequent character), then `prime`,
        without its unknown characters. A `length` of None never ends. A text ends earlier at one of the strings `until`, a
        line-by-line model's at the end of the line. Text k depends only on the seed and on k, not on `count` (except when
        rounding decides between two nearly equal characters).

        Yields: a list of the next character of each text; "" for a text that has ended.
        Raises: CharrnnError for a negative length or a `count` below 1.

        >>> for [character] in load("runs/the-lamp").generate("NELL:", length=200):  # doctest: +SKIP
        ...     print(character, end="", flush=True)
        """
        characters = self.vocabulary.characters
        ended: list[int] = []
        for step in writing.steps(self, [prime] * count, length, sampler=sampler, seed=seed, until=until):
            drawn = [characters[i] for i in step.ids.tolist()]
            for k in ended:
                drawn[k] = ""
            yield drawn
            if any(step.why):
                ended = [k for k, reason in enumerate(step.why) if reason]

    def write(
        self,
        primes: Sequence[str],
        length: int | None = 500,
        sampler: Sampler | None = None,
        seed: Seed = None,
        until: str | Sequence[str] = (),
    ) -> list[Sample]:
        """Write a text after each of `primes`: `length` characters, or fewer if it reaches one of the strings `until`.

        A line-by-line model stops at the end of the line. With a `length` of None nothing else ends a text. Text k depends
        only on its prime, the seed and k, as in `generate`.
        Raises: CharrnnError for a negative length, no primes, a prime with the end of a record, or an end that can't come.
        """
        return writing.write(self, primes, length, sampler=sampler, seed=seed, until=until)

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

        The record's separator may be at its end. A blank one is never novel.
        Raises: CharrnnError if the model was not trained line by line.
        """
        hashes = self._record_hashes  # sorted
        if hashes is None:
            raise CharrnnError(f"{self.path} is not a model of lines or paragraphs")
        assert self.records is not None
        record = record.removesuffix(SEPARATORS[self.records])
        if not record.strip():
            return False
        own = hash_records([record]).tobytes()
        place = bisect_left(range(len(hashes)), own, key=lambda k: hashes[k].tobytes())
        return place == len(hashes) or hashes[place].tobytes() != own

    def score(self, text: str | Corpus, watch: Watch | None = None) -> Score:
        """Score every character of `text`: bits per character, perplexity, accuracy, number of unknown characters.

        A line-by-line model scores each line on its own, and skips text that is in no record (such as empty lines). Longer
        texts are read in parallel parts. `watch(done, total)` is called with the numbers of characters.

        Raises: CharrnnError if there is nothing to score.
        """
        corpus = self._prepare(text)
        vocabulary = self.vocabulary
        blocks: TextBlocks | RecordBlocks
        if self.records:
            ids = vocabulary.encode(join(split(corpus.text(), self.records)[0], self.records))
            blocks = RecordBlocks(find_records(ids, kind=self.records, line_break=self.start), vocabulary)
        else:
            known = corpus.encoded(vocabulary)
            blocks = TextBlocks(known, start=self.start, unknown=len(corpus) - len(known))
        return score(self.network, blocks, vocabulary=vocabulary, watch=watch)

    def pieces(self, text: str | Corpus, watch: Watch | None = None) -> Iterator[Piece]:
        """Read `text` in one pass and yield it in order, in pieces with the bits, ids and logits of each character.

        Of a line-by-line model, each piece is a line. What follows a character never changes its bits.

        Yields: `inference.score.Piece`.
        Raises: CharrnnError if there is nothing to score.

        >>> for piece in load("english").pieces("The lamp is lit."):  # doctest: +SKIP
        ...     print(list(zip(piece.text, piece.bits)))
        """
        corpus = self._prepare(text)
        return pieces(self.network, corpus, self.vocabulary, start=self.start, kind=self.records, watch=watch)

    def _prepare(self, text: str | Corpus) -> Corpus:
        """The text to score. Raises: CharrnnError if there is nothing to score, TypeError if it is no text."""
        if not isinstance(text, str | Corpus):
            raise TypeError(f"a text to score is one string, not {type(text).__name__}; join several: '\\n'.join(texts)")
        if not len(text):
            raise CharrnnError("nothing to score: the text is empty")
        corpus = build_corpus(text) if isinstance(text, str) else text
        if self.records:
            corpus = unify_breaks(corpus)
            if not find_spans(corpus.text(), self.records):
                raise CharrnnError(f"nothing to score: the text has no {self.records}s")
        return corpus

    def bits_per_character(self, text: str) -> float:
        """The cross-entropy of `text` in bits per character: the lower, the better the model predicts it.

        Raises: CharrnnError if there is nothing to score.
        """
        return self.score(text).bits_per_character


def load(path: str | Path | None = None) -> Model:
    """Load a model from a run's folder, a `model.safetensors` file or a base model's name; default: the newest in `runs/`.

    Raises: CharrnnError if there is none or it can't be read.
    """
    file = run_folder.find_model(path)
    tensors, header = checkpoint.read_model(file)
    return Model(tensors, header, path=file)


def preview(model: Model, seed: int) -> str:
    """A short sample, to show while training."""
    with np.errstate(over="ignore", invalid="ignore"):  # a network that is about to diverge may overflow
        if model.records is None:
            return model.sample(length=160, temperature=0.8, seed=seed)
        records = model.write_records(length=160, sampler=Sampler(temperature=0.8), seed=seed, together=5)
        return SEPARATORS[model.records].join(islice(records, 5))
