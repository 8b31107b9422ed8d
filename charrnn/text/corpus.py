"""Texts as ids: a `Corpus` holds one of any length. Letters: N characters, V vocabulary."""

import copy
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from charrnn.text.vocabulary import UNKNOWN, Ids, Vocabulary, code_points, text_of

BLOCK = 1 << 20  # characters that are held at a time when all of a text is read
PIECES = 64  # of a long text that `count_ids` samples
PIECE = 1 << 16  # characters of each of them
CHUNK = 1 << 12  # characters between two marks in a text that some are left out of; it divides BLOCK


class Sliced(Protocol):
    """What has a length and gives an array for a slice of it: an array, or what reads or makes one when asked."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class SourceFile:
    """A file that a text was read from."""

    file: str  # its absolute path, "-" for standard input
    bytes: int | None  # None for a pipe
    hash: str  # of its bytes


class Corpus:
    """A text of any length as ids, which its characters have in the order in which they first appear; slices are arrays."""

    def __init__(self, ids: Sliced, codes: np.ndarray, firsts: np.ndarray, corpus_hash: str):
        """`codes` are the code points of the alphabet, `firsts` the place where each of them first appears."""
        self._ids, self._codes, self._firsts = ids, codes, firsts
        self.start, self.stop = 0, len(ids)
        self.corpus_hash = corpus_hash  # two texts with the same one are the same
        self.notes: list[str] = []  # for the user, on how it was read
        self.files: list[SourceFile] = []
        self.path: Path | None = None  # where its ids are kept

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice, /) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        return self._ids[self.start + start : self.start + max(start, stop)]

    @property
    def alphabet(self) -> str:
        """The characters that appear before its end; character i has the id i."""
        return text_of(self._codes[: np.searchsorted(self._firsts, self.stop)])

    def split(self, validation: float) -> tuple["Corpus", "Corpus"]:
        """Cut the last `validation` (a fraction of 0 to below 1) of it off: (training text, validation text)."""
        training, held_out = copy.copy(self), copy.copy(self)
        training.stop = held_out.start = self.stop - int(len(self) * validation)
        return training, held_out

    def text(self, start: int = 0, stop: int | None = None) -> str:
        """The characters from `start` to `stop`."""
        return text_of(self._codes[self[slice(start, stop)]])

    def lines(self, places: Sequence[int]) -> dict[int, tuple[int, int]]:
        """The line and the column of each of `places`, both from 1 on."""
        line_break = self.alphabet.find("\n")
        where: dict[int, tuple[int, int]] = {}
        line, start = 1, 0  # that the block begins in, and its first character
        for begin in range(0, len(self) if places else 0, PIECE):
            breaks = begin + np.flatnonzero(self[begin : begin + PIECE] == line_break)
            starts = [start, *(breaks + 1).tolist()]  # of the block's lines
            for place in places:
                if begin <= place < begin + PIECE:
                    n = bisect_right(starts, place) - 1
                    where[place] = line + n, place - starts[n] + 1
            line, start = line + len(breaks), starts[-1]
        return where

    def counts(self) -> np.ndarray:
        """How often it has each character of the alphabet."""
        return count_ids(self, len(self.alphabet), sampled=False)

    def vocabulary(self, most: int | None = None) -> Vocabulary:
        """Its characters; or the `most` frequent ones of them and the UNKNOWN symbol, if it has more."""
        alphabet = self.alphabet
        if most is None or len(alphabet) <= most:
            return Vocabulary(alphabet)
        codes = code_points(alphabet)
        order = np.lexsort((codes, -self.counts()))  # the most frequent first, and equals in Unicode's order
        kept = codes[order][codes[order] != ord(UNKNOWN)][:most]
        return Vocabulary(text_of(kept) + UNKNOWN, unknown=True)

    def ids(self, vocabulary: Vocabulary, start: int = 0, stop: int | None = None) -> Ids:
        """The ids that `vocabulary` gives the characters from `start` to `stop`, as `Vocabulary.encode` would, (n,) int32."""
        return vocabulary.encode(self.alphabet).take(self[slice(start, stop)])

    def encoded(self, vocabulary: Vocabulary) -> Sliced:
        """All of it in the ids of `vocabulary`, without the characters that it lacks; a slice is made when asked for."""
        return EncodedCorpus(self, vocabulary.encode(self.alphabet))


class EncodedCorpus:
    """What `Corpus.encoded` gives: `table` has each character's id in the vocabulary, -1 for those to leave out."""

    def __init__(self, corpus: Corpus, table: Ids):
        self.corpus = corpus
        self.table = table
        self.before: np.ndarray | None = None  # how many characters stay before each CHUNK-th: so the n-th is found
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
    """How often `ids` have each character, (V,); if `sampled`, PIECES of a long text are counted, evenly apart."""
    counts = np.zeros(vocabulary_size, np.int64)
    for start in range(0, len(ids), max(PIECE, -(-len(ids) // PIECES)) if sampled else PIECE):
        counts += np.bincount(ids[start : start + PIECE], minlength=vocabulary_size)
    return counts
