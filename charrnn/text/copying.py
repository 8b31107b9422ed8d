"""Find passages that a sample shares with another, much longer text: exactly, in one scan of the text.

Windows of k characters are found by rolling hashes (Karp & Rabin 1987), and each match is compared character by character.
Memory grows only with the sample. Shapes: M characters of the samples, n windows, k characters of a window.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from charrnn.text.corpus import Corpus
from charrnn.text.vocabulary import Ids, Vocabulary

Array = np.ndarray
Watch = Callable[[int, int], None]  # called with the number of characters searched and the total

PASSAGE = 50  # shortest passage that counts as copied, in characters
BLOCK = 1 << 16  # windows of the text hashed at a time
TOGETHER = 1 << 22  # characters of windows compared at a time
BASE = 0x9E3779B97F4A7C15  # of the hashes, which are polynomials modulo 2^64; odd, so that it has an inverse
BETWEEN = -2  # the id between two samples; -1 is a character of the text that no sample has


@dataclass(frozen=True)
class Passage:
    """A passage that a sample and the text share."""

    length: int
    place: int  # position in the samples
    text_place: int  # position in the text


class CopyFinder:
    """Finds the passages that `samples` share with `text`."""

    def __init__(self, samples: Sequence[str], text: Corpus, watch: Watch = lambda done, total: None):
        self.text = text
        self.watch = watch
        self.lengths = [len(sample) for sample in samples]
        self.vocabulary = Vocabulary("".join(samples))
        parts = [part for sample in samples for part in (self.vocabulary.encode(sample), np.array([BETWEEN], np.int32))]
        self.ids: Ids = np.concatenate(parts)[:-1]  # (M,) of all samples, one after another
        self._values = np.random.default_rng(0).integers(1 << 64, size=len(self.vocabulary) + 2, dtype=np.uint64)
        self._powers = self._inverses = np.empty(0, np.uint64)  # of BASE
        self._terms = self._sums = np.empty(0, np.uint64)  # buffers, reused since allocating takes longer than filling them

    def copied(self, length: int = PASSAGE) -> list[Array]:
        """For each sample, which of its characters are in copied passages of at least `length` characters: (M,) bool."""
        windows = _Windows(self.ids, length, self._hash(self.ids, length))
        order, numbers = windows.drop_repeats()
        is_copied = np.zeros(len(windows.order), bool)
        for _, block in self._blocks(length) if len(is_copied) else ():
            places, ranks = windows.look_up(self._hash(block, length))
            while len(places):
                new = ~is_copied[ranks]
                is_copied[ranks[new][windows.compare(block, places[new], ranks[new])]] = True
                places, ranks = windows.next_of_equal_hash(places, ranks)
        begins = order[is_copied[numbers]]
        edges = np.zeros(len(self.ids) + 1, np.int64)
        np.add.at(edges, begins, 1)
        np.add.at(edges, begins + length, -1)
        inside = np.cumsum(edges) > 0
        stops = np.cumsum(np.array(self.lengths) + 1) - 1
        return [inside[stop - length : stop] for stop, length in zip(stops.tolist(), self.lengths, strict=True)]

    def longest(self) -> Passage:
        """The longest passage that the samples share with the text; ties: the first in the text."""
        best = Passage(0, 0, 0)
        while longer := self._find_longer(best):
            best = longer
        return best

    def _find_longer(self, best: Passage) -> Passage | None:
        """The first passage of the text that is longer than `best`. None starts before `best` does."""
        k = best.length + 1
        windows = _Windows(self.ids, k, self._hash(self.ids, k))
        for at, block in self._blocks(k, best.text_place) if len(windows.order) else ():
            places, ranks = windows.look_up(self._hash(block, k))
            for n in range(len(places)):
                place, rank = places[n : n + 1], ranks[n : n + 1]
                while len(place) and not windows.compare(block, place, rank)[0]:
                    place, rank = windows.next_of_equal_hash(place, rank)
                if len(place):
                    return self._extend(Passage(k, int(windows.order[rank[0]]), at + int(place[0])))
        return None

    def _extend(self, passage: Passage) -> Passage:
        """Extend `passage` to the right as far as both texts are equal."""
        rest = self.ids[passage.place + passage.length :]
        start = passage.text_place + passage.length
        theirs = self.text.ids(self.vocabulary, start, start + len(rest))
        differ = np.flatnonzero(theirs != rest[: len(theirs)])
        return replace(passage, length=passage.length + int(differ[0] if len(differ) else len(theirs)))

    def _blocks(self, k: int, start: int = 0) -> Iterator[tuple[int, Ids]]:
        """Yield (position, ids) of pieces of the text that overlap, so that each window of `k` characters is in one."""
        step = max(BLOCK, k)
        for at in range(start, len(self.text) - k + 1, step):
            yield at, self.text.ids(self.vocabulary, at, at + step + k - 1)
            self.watch(min(at + step, len(self.text)), len(self.text))

    def _hash(self, ids: Ids, k: int) -> Array:
        """The hashes of all windows of `k` characters of `ids`: (n,) uint64, overwritten by the next call."""
        if len(ids) < k:
            return np.empty(0, np.uint64)
        if len(self._powers) < len(ids):
            self._powers, self._inverses = (_powers(base, len(ids)) for base in (BASE, pow(BASE, -1, 1 << 64)))
            self._terms, self._sums = np.empty(len(ids), np.uint64), np.zeros(len(ids) + 1, np.uint64)
        N, n = len(ids), len(ids) - k + 1
        terms = np.take(self._values, ids, out=self._terms[:N], mode="wrap")  # -1 and -2 are the last two
        terms *= self._powers[:N]
        np.cumsum(terms, out=self._sums[1 : N + 1])
        hashes: Array = np.subtract(self._sums[k : N + 1], self._sums[:n], out=self._terms[:n])
        hashes *= self._inverses[:n]
        return hashes


class _Windows:
    """The windows of `k` characters of the samples. A window's rank is its index when sorted by hash."""

    def __init__(self, ids: Ids, k: int, hashes: Array):
        self.ids = ids
        self.k = k
        self.order = np.argsort(hashes)  # start of each window, by rank
        self.hashes = hashes[self.order]
        bits = min(len(hashes).bit_length() + 7, 24)
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, bool)  # whether any window's hash has these first bits
        self._maybe[hashes >> self._shift] = True

    def look_up(self, hashes: Array) -> tuple[Array, Array]:
        """Returns: the indices in `hashes` (n,) of those that a window has, and the first rank of each."""
        places = np.flatnonzero(self._maybe[hashes >> self._shift])
        ranks = np.minimum(np.searchsorted(self.hashes, hashes[places]), len(self.hashes) - 1)
        equal = self.hashes[ranks] == hashes[places]
        return places[equal], ranks[equal]

    def next_of_equal_hash(self, places: Array, ranks: Array) -> tuple[Array, Array]:
        """Of `places` in a block and `ranks` with equal hashes: those with a further rank of the same hash, and that rank."""
        following = np.minimum(ranks + 1, len(self.hashes) - 1)
        has_next = (following > ranks) & (self.hashes[following] == self.hashes[ranks])
        return places[has_next], following[has_next]

    def compare(self, block: Ids, places: Array, ranks: Array) -> Array:
        """Whether the windows at `places` of `block` equal those with these `ranks`: (n,) bool."""
        equal = np.empty(len(places), bool)
        step = max(1, TOGETHER // self.k)
        for n in range(0, len(places), step):
            theirs = sliding_window_view(block, self.k)[places[n : n + step]]
            ours = sliding_window_view(self.ids, self.k)[self.order[ranks[n : n + step]]]
            equal[n : n + step] = (theirs == ours).all(axis=1)
        return equal

    def drop_repeats(self) -> tuple[Array, Array]:
        """Keep one of equal windows. Returns: the start of every window, and its rank now."""
        order = self.order
        first = np.ones(len(order), bool)
        repeats = 1 + np.flatnonzero(self.hashes[1:] == self.hashes[:-1])
        first[repeats] = ~self.compare(self.ids, order[repeats], repeats - 1)
        self.order, self.hashes = order[first], self.hashes[first]
        return order, np.cumsum(first) - 1


def _powers(base: int, n: int) -> Array:
    """The powers 0 to `n` - 1 of `base` modulo 2^64."""
    factors = np.full(n, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)
