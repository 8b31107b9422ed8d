"""A text as numbers: a `Corpus` holds it, a `Vocabulary` says which characters a network knows, `Windows` are cut from it.

It knows nothing of networks, and of files only what `reading` hides from it. Letters: N characters, V vocabulary, B batch,
T time steps.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from charrnn.text.vocabulary import UNKNOWN, Ids, Vocabulary, code_points, text_of

BLOCK = 1 << 20  # characters that a pass over the text holds at a time
LOOKS, LOOK = 64, 1 << 16  # pieces of a text that are looked at for what is frequent in it, and characters of each
CHUNK = 1 << 12  # characters between two marks in a text that some are left out of; it divides BLOCK


class Sliced(Protocol):
    """What has a length and gives an array for a slice of it: an array itself, or what reads or makes one then."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> np.ndarray: ...


class Corpus:
    """A text of any length as ids in the order in which its characters first appear; slices of it are arrays of them.

    Such ids need no look at the whole text first, and the characters of its beginning are the first ones of the alphabet.
    """

    def __init__(self, ids: Sliced, codes: np.ndarray, firsts: np.ndarray, fingerprint: str, notes: Sequence[str] = ()):
        self._all, self._codes, self._firsts = ids, codes, firsts
        self.start, self.stop = 0, len(ids)
        self.fingerprint = fingerprint  # two texts with the same one are the same
        self.notes = list(notes)  # for the user, on how it was read
        self.files: list[dict[str, Any]] = []  # that it was read from: their names, sizes in bytes, and hashes
        self.path: Path | None = None  # where its ids are kept

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice, /) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        return self._all[self.start + start : self.start + max(start, stop)]

    @property
    def alphabet(self) -> str:
        """The characters that stand before the end of it; character i has the id i."""
        return text_of(self._codes[: np.searchsorted(self._firsts, self.stop)])

    def split(self, validation: float) -> tuple["Corpus", "Corpus"]:
        """Cut the last `validation` (a fraction of 0 to below 1) of it off: (training text, validation text)."""
        training, held_out = copy.copy(self), copy.copy(self)
        training.stop = held_out.start = self.stop - int(len(self) * validation)
        return training, held_out

    def text(self, start: int = 0, stop: int | None = None) -> str:
        """The characters from `start` to `stop`."""
        return text_of(self._codes[self[slice(start, stop)]])

    def counts(self) -> np.ndarray:
        """How often each character of the alphabet stands in it."""
        counts = np.zeros(len(self._codes), np.int64)
        for at in range(0, len(self), BLOCK):
            counts += np.bincount(self[at : at + BLOCK], minlength=len(counts))
        return counts[: len(self.alphabet)]

    def vocabulary(self, most: int | None = None) -> "Vocabulary":
        """Its characters; or the `most` frequent ones of them and the UNKNOWN symbol, where it has more."""
        alphabet = self.alphabet
        if most is None or len(alphabet) <= most:
            return Vocabulary(alphabet)
        codes, counts = code_points(alphabet), self.counts()
        order = np.lexsort((codes, -counts))  # the frequent first, and of equals the first in Unicode
        kept = codes[order][codes[order] != ord(UNKNOWN)][:most]
        return Vocabulary(text_of(kept) + UNKNOWN, unknown=True)

    def ids(self, vocabulary: "Vocabulary", start: int = 0, stop: int | None = None) -> Ids:
        """The ids that `vocabulary` gives the characters from `start` to `stop`, as `Vocabulary.encode` would, (n,) int32."""
        ids: Ids = vocabulary.encode(self.alphabet)[self[slice(start, stop)]]
        return ids

    def encoded(self, vocabulary: "Vocabulary") -> Sliced:
        """All of it in the ids of `vocabulary`, without the characters that it lacks; a slice is made when it is asked for."""
        return EncodedCorpus(self, vocabulary.encode(self.alphabet))


class EncodedCorpus:
    """What `Corpus.encoded` gives: `table` says a character's id in the vocabulary, -1 for those to leave out."""

    def __init__(self, corpus: Corpus, table: Ids):
        self.corpus, self.table = corpus, table
        self.before: np.ndarray | None = None  # the characters that stay before each CHUNK-th, to find the n-th of them
        if (table < 0).any():
            stay = [np.zeros(1, np.int64)]
            for at in range(0, len(corpus), BLOCK):
                known = table[corpus[at : at + BLOCK]] >= 0
                stay.append(np.add.reduceat(known, range(0, len(known), CHUNK), dtype=np.int64))
            self.before = np.cumsum(np.concatenate(stay))

    def __len__(self) -> int:
        return len(self.corpus) if self.before is None else int(self.before[-1])

    def __getitem__(self, part: slice, /) -> Ids:
        start, stop, _ = part.indices(len(self))
        if self.before is None:
            ids: Ids = self.table[self.corpus[start:stop]]
            return ids
        first = int(np.searchsorted(self.before, start, "right")) - 1
        last = int(np.searchsorted(self.before, stop))
        ids = self.table[self.corpus[first * CHUNK : last * CHUNK]]
        return ids[ids >= 0][start - self.before[first] : stop - self.before[first]]


def frequencies(ids: Sliced, vocabulary_size: int) -> np.ndarray:
    """How often each of the characters comes among `ids`, (V,); in a long text by LOOKS pieces of it, evenly apart."""
    counts = np.zeros(vocabulary_size, np.int64)
    for start in range(0, len(ids), max(LOOK, -(-len(ids) // LOOKS))):
        counts += np.bincount(ids[start : start + LOOK], minlength=vocabulary_size)
    return counts
