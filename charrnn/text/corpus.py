"""Texts as ids: a `Corpus` is a text of any length. Shapes: N characters, V vocabulary size."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from charrnn.text.vocabulary import UNKNOWN, Ids, Vocabulary, code_points, text_of

BLOCK = 1 << 20  # characters in memory at a time when a whole text is scanned
PIECES = 64  # pieces of a long text that `count_ids` samples
PIECE = 1 << 16  # characters of a piece
CHUNK = 1 << 12  # characters between two index entries of an EncodedCorpus; divides BLOCK


class Sliced(Protocol):
    """A sequence whose slices are arrays: an array, or an object that reads or computes them on demand."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class SourceFile:
    """A file that a text was read from."""

    file: str  # absolute path; "-" for standard input
    bytes: int | None  # None for a pipe
    hash: str  # of its bytes


class Corpus:
    """A text of any length as ids. Ids are numbered in order of first appearance; slices are arrays."""

    def __init__(self, ids: Sliced, codes: np.ndarray, firsts: np.ndarray, corpus_hash: str):
        """`codes` are the code points of the alphabet, `firsts` the position where each first appears."""
        self._ids, self._codes, self._firsts = ids, codes, firsts
        self.start, self.stop = 0, len(ids)
        self.corpus_hash = corpus_hash  # equal for equal texts only
        self.notes: list[str] = []  # for the user
        self.files: list[SourceFile] = []
        self.path: Path | None = None  # the file with its ids, if they are cached

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice, /) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        return self._ids[self.start + start : self.start + max(start, stop)]

    @property
    def alphabet(self) -> str:
        """The characters that appear before its end; id i is character i."""
        return text_of(self._codes[: np.searchsorted(self._firsts, self.stop)])

    def split(self, validation: float) -> tuple["Corpus", "Corpus"]:
        """Split off the last `validation`, a fraction in [0, 1). Returns: training text, validation text."""
        training, held_out = copy.copy(self), copy.copy(self)
        training.stop = held_out.start = self.stop - int(len(self) * validation)
        return training, held_out

    def text(self, start: int = 0, stop: int | None = None) -> str:
        """The characters from `start` to `stop`."""
        return text_of(self._codes[self[slice(start, stop)]])

    def lines(self, places: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Line and column, counted from 1, of each position in `places`."""
        line_break = self.alphabet.find("\n")
        where: dict[int, tuple[int, int]] = {}
        line, start, begin = 1, 0, 0  # line and its first position, at `begin`
        for place in sorted(places):
            while begin < place:
                breaks = begin + np.flatnonzero(self[begin : min(begin + PIECE, place)] == line_break)
                line += len(breaks)
                start = int(breaks[-1]) + 1 if len(breaks) else start
                begin = min(begin + PIECE, place)
            where[place] = line, place - start + 1
        return where

    def counts(self) -> np.ndarray:
        """How often each character of the alphabet occurs."""
        return count_ids(self, len(self.alphabet), sampled=False)

    def vocabulary(self, most: int | None = None) -> Vocabulary:
        """All its characters; if there are more than `most`, the `most` frequent ones and the UNKNOWN symbol."""
        alphabet = self.alphabet
        if most is None or len(alphabet) <= most:
            return Vocabulary(alphabet)
        codes = code_points(alphabet)
        order = np.lexsort((codes, -self.counts()))  # by frequency; ties: by code point
        kept = codes[order][codes[order] != ord(UNKNOWN)][:most]
        return Vocabulary(text_of(kept) + UNKNOWN, unknown=True)

    def ids(self, vocabulary: Vocabulary, start: int = 0, stop: int | None = None) -> Ids:
        """The ids of `vocabulary` for the characters from `start` to `stop`, as `Vocabulary.encode` gives them, (n,) int32."""
        return vocabulary.encode(self.alphabet).take(self[slice(start, stop)])

    def encoded(self, vocabulary: Vocabulary) -> Sliced:
        """The whole text in ids of `vocabulary`, without unknown characters. Slices are computed on demand."""
        return EncodedCorpus(self, vocabulary.encode(self.alphabet))


class EncodedCorpus:
    """The result of `Corpus.encoded`; `table` maps the corpus's ids to the vocabulary's, or to -1 for unknown characters."""

    def __init__(self, corpus: Corpus, table: Ids):
        self.corpus = corpus
        self.table = table
        self.before: np.ndarray | None = None  # number of known characters before each chunk, to find the n-th
        if (table < 0).any():
            stay = [np.zeros(1, np.int64)]
            for at in range(0, len(corpus), BLOCK):
                kept = table[corpus[at : at + BLOCK]] >= 0
                stay.append(np.add.reduceat(kept, range(0, len(kept), CHUNK), dtype=np.int64))
            self.before = np.cumsum(np.concatenate(stay))

    def __len__(self) -> int:
        return len(self.corpus) if self.before is None else int(self.before[-1])

    def __getitem__(self, part: slice, /) -> Ids:
        start, stop, _ = part.indices(len(self))
        if self.before is None:
            return self.table.take(self.corpus[start:stop])
        first, last = int(np.searchsorted(self.before, start, "right")) - 1, int(np.searchsorted(self.before, stop))
        ids: Ids = self.table[self.corpus[first * CHUNK : last * CHUNK]]
        return ids[ids >= 0][start - self.before[first] : stop - self.before[first]]


def count_ids(ids: Sliced, vocabulary_size: int, sampled: bool = True) -> np.ndarray:
    """Count each character, (V,). If `sampled`, only PIECES evenly spaced pieces of a long text are counted."""
    counts = np.zeros(vocabulary_size, np.int64)
    for start in range(0, len(ids), max(PIECE, -(-len(ids) // PIECES)) if sampled else PIECE):
        counts += np.bincount(ids[start : start + PIECE], minlength=vocabulary_size)
    return counts
