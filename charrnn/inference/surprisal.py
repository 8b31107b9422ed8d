"""Where a text surprises a model, and what the model had expected there: what scoring observes, in the order of the text.

Each of `InOrder`, `Top` and `Details` has an `observe` for `Model.score`; `reading_of` is the text whose places they speak of.
Letters: N characters of a text, n of them at a time, V vocabulary, K guesses.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from charrnn.inference import score
from charrnn.inference.model import Model
from charrnn.inference.score import unknown_cost
from charrnn.text.corpus import Corpus
from charrnn.text.reading import corpus_of

Array = np.ndarray

GUESSES = 5  # that are named of each character
BLOCK = 1 << 16  # characters of the text that are held at a time
BEFORE, AFTER = 30, 15  # characters that are shown around a surprising one
BINS = 10  # of equal width, in which probabilities are held to frequencies
LN2 = math.log(2)


def reading_of(model: Model, text: Corpus) -> Corpus:
    """What `model` reads of `text`: all of it or, where it reads records, these, each ended by its separator."""
    return corpus_of(model.whole(text)) if model.records else text


class _Observer:
    """What all observers know: the model, the text, and what a character costs besides what the network says."""

    def __init__(self, model: Model, text: Corpus):
        self.model, self.text = model, text
        self.symbol = model.vocabulary.unknown
        self.table = model.vocabulary.encode(text.alphabet)  # from the text's ids to the model's, -1 for unknown ones
        self.known, self.unknown = (float(unknown_cost(*one, self.symbol, len(model.vocabulary))) for one in ((1, 0), (0, 1)))

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """The model's ids of the text, -1 for unknown characters, block after block, each with the place where it begins."""
        for begin in range(0, len(self.text), BLOCK):
            yield begin, self.table[self.text[begin : begin + BLOCK]]

    def bits(self, targets: Array, nats: Array) -> Array:
        """The surprisals (n,) of known characters, of what they cost by the network's logits alone."""
        besides = self.known if self.symbol is None else np.where(targets == self.symbol, self.unknown, 0.0)
        bits: Array = (nats + besides) / LN2
        return bits

    def guesses(self, logits: Array, targets: Array, nats: Array) -> tuple[Array, Array]:
        """The ids (n, K) of the likeliest characters, likeliest first, and their probabilities (n, K)."""
        K = min(GUESSES, logits.shape[1])
        ids = np.argpartition(-logits, K - 1, axis=1)[:, :K]
        best = np.take_along_axis(logits, ids, axis=1)
        order = np.lexsort((ids, -best))  # of equals the first in the vocabulary
        ids, best = np.take_along_axis(ids, order, axis=1), np.take_along_axis(best, order, axis=1)
        whole = logits[np.arange(len(targets)), targets] + nats  # the logarithm of the sum
        return ids, np.exp(best - whole[:, None] - (self.known if self.symbol is None else 0.0))


class InOrder(_Observer):
    """Gives `see` the whole text, piece after piece, with the surprisal in bits of each character, (n,) float32.

    It holds four bytes for each character of a stretch (`score.STRETCH`), however long the text is.
    """

    def __init__(self, model: Model, text: Corpus, see: Callable[[str, Array], None]):
        super().__init__(model, text)
        self.see = see
        size = len(text) if model.records else min(len(text), score.STRETCH - 1)
        self.kept = np.empty(size + 1, np.float32)  # one that is not filled is handed on by `finish`
        self.seen = 0  # characters of the stretch
        self.first = 0  # the stretch's first, among the known ones
        self.place = 0  # in the text, before which all has been handed on

    def observe(self, at: Array, logits: Array, targets: Array, nats: Array) -> None:
        self.kept[at - self.first] = self.bits(targets, nats)
        self.seen += len(at)
        if self.seen == len(self.kept):
            self._hand_on()
            self.first, self.seen = self.first + self.seen, 0

    def finish(self) -> None:
        """Hand on what is left."""
        self._hand_on()
        while self.place < len(self.text):
            text = self.text.text(self.place, self.place + BLOCK)
            self.place += len(text)
            self.see(text, np.full(len(text), self.unknown / LN2, np.float32))

    def _hand_on(self) -> None:
        done = 0
        while done < self.seen:
            known = self.table[self.text[self.place : self.place + BLOCK]] >= 0
            if np.count_nonzero(known) > self.seen - done:
                known = known[: np.flatnonzero(known)[self.seen - done]]
            bits = np.full(len(known), self.unknown / LN2, np.float32)
            n = int(np.count_nonzero(known))
            bits[known] = self.kept[done : done + n]
            self.see(self.text.text(self.place, self.place + len(known)), bits)
            done, self.place = done + n, self.place + len(known)


@dataclass(frozen=True)
class Surprise:
    """A character of a text, how much it surprised the model, and what the model had expected instead."""

    bits: float
    character: str
    place: int  # characters of the text before it
    line: int  # from 1 on
    column: int  # from 1 on
    before: str
    after: str
    guesses: tuple[tuple[str, float], ...]  # characters and their probabilities; the model's symbol for unknown ones too

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"guesses": [{"character": c, "probability": p} for c, p in self.guesses]}


class Top(_Observer):
    """Finds the `n` most surprising characters, of equals the first; it holds no more than these."""

    def __init__(self, model: Model, text: Corpus, n: int):
        super().__init__(model, text)
        self.n = n
        self._heap: list[tuple[float, int, list[tuple[str, float]]]] = []  # bits, minus the place among known ones, guesses
        self._outside: list[int] = []  # places of the first n unknown characters, which all cost the same
        for begin, ids in self.blocks() if (self.table < 0).any() else ():
            self._outside += (begin + np.flatnonzero(ids < 0))[: n - len(self._outside)].tolist()
        # The network foretold an unknown character as it did the known one that follows.
        self._before = np.array([place - k for k, place in enumerate(self._outside)], np.int64)
        self._instead: dict[int, list[tuple[str, float]]] = {}

    def observe(self, at: Array, logits: Array, targets: Array, nats: Array) -> None:
        bits = self.bits(targets, nats)
        new = np.flatnonzero(bits > self._heap[0][0]) if len(self._heap) == self.n else np.arange(len(at))
        new = new[np.lexsort((at[new], -bits[new]))][: self.n]
        for row, guesses in zip(new, self._named(new, logits, targets, nats), strict=True):
            entry = float(bits[row]), -int(at[row]), guesses
            if len(self._heap) < self.n:
                heapq.heappush(self._heap, entry)
            else:
                heapq.heappushpop(self._heap, entry)
        rows = np.flatnonzero(np.isin(at, self._before)) if len(self._before) else self._before
        self._instead |= zip(at[rows].tolist(), self._named(rows, logits, targets, nats), strict=True)

    def found(self) -> list[Surprise]:
        """The most surprising characters, the most surprising first."""
        unknown = [
            (self.unknown / LN2, p, self._instead.get(int(i), [])) for p, i in zip(self._outside, self._before, strict=True)
        ]
        known = sorted(self._heap, key=lambda entry: -entry[1])
        places = self._places([-minus for _, minus, _ in known])
        found = unknown + [(bits, place, guesses) for (bits, _, guesses), place in zip(known, places, strict=True)]
        found.sort(key=lambda entry: (-entry[0], entry[1]))
        del found[self.n :]
        where = self._lines(sorted(place for _, place, _ in found))
        read = self.text.text
        return [
            Surprise(
                *(bits, read(p, p + 1), p, *where[p]), read(max(0, p - BEFORE), p), read(p + 1, p + 1 + AFTER), tuple(guesses)
            )
            for bits, p, guesses in found
        ]

    def _named(self, rows: Array, logits: Array, targets: Array, nats: Array) -> list[list[tuple[str, float]]]:
        ids, probabilities = self.guesses(logits[rows], targets[rows], nats[rows])
        characters = self.model.vocabulary.characters
        pairs = zip(ids.tolist(), probabilities.tolist(), strict=True)
        return [[(characters[i], p) for i, p in zip(*pair, strict=True)] for pair in pairs]

    def _places(self, indices: Sequence[int]) -> list[int]:
        """Where the known characters with these numbers, in rising order, stand in the text."""
        if not (self.table < 0).any():
            return list(indices)
        places: list[int] = []
        before = 0
        for begin, ids in self.blocks():
            known = np.flatnonzero(ids >= 0)
            mine = [i for i in indices[len(places) :] if i < before + len(known)]
            places += [begin + int(known[i - before]) for i in mine]
            before += len(known)
        return places

    def _lines(self, places: Sequence[int]) -> dict[int, tuple[int, int]]:
        """The line and the column of each of `places`, in rising order."""
        line_break, where = self.text.alphabet.find("\n"), dict[int, tuple[int, int]]()
        lines, start = 1, 0  # of the line that the block begins in
        for begin in range(0, len(self.text), BLOCK):
            ends = begin + np.flatnonzero(self.text[begin : begin + BLOCK] == line_break)
            for place in places[len(where) :]:
                if place >= begin + BLOCK:
                    break
                n = int(np.searchsorted(ends, place))
                where[place] = lines + n, place - (int(ends[n - 1]) + 1 if n else start) + 1
            if len(ends):
                lines, start = lines + len(ends), int(ends[-1]) + 1
        return where


class Details(_Observer):
    """All that there is to say of each character of a text that is not long: a report's figures.

    `calibration` holds the top guesses' probabilities to what came: for each of BINS equal bins how many fell in it, their
    mean probability and how often they were right (Guo et al. 2017, On Calibration of Modern Neural Networks). Unknown
    characters are left out of it.
    """

    def __init__(self, model: Model, text: Corpus):
        super().__init__(model, text)
        self.ids = np.concatenate([ids for _, ids in self.blocks()])
        known = self.ids >= 0
        n, K = int(np.count_nonzero(known)), min(GUESSES, len(model.vocabulary))
        self._bits = np.empty(n, np.float32)
        self._guessed, self._probabilities = np.full((n + 1, K), -1), np.zeros((n + 1, K), np.float32)
        self._index: Array = (
            np.cumsum(known) - known
        )  # of each character among the known ones, or of the known one that follows
        self._sums = np.zeros((3, BINS))  # how many, their probabilities, how many were right

    def observe(self, at: Array, logits: Array, targets: Array, nats: Array) -> None:
        ids, probabilities = self.guesses(logits, targets, nats)
        self._bits[at] = self.bits(targets, nats)
        self._guessed[at], self._probabilities[at] = ids, probabilities
        sure = probabilities[:, 0]
        bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        self._sums += [np.bincount(bins, weights, BINS) for weights in (np.ones(len(at)), sure, ids[:, 0] == targets)]

    @property
    def surprisals(self) -> Array:
        """The surprisal of each character in bits, (N,)."""
        bits = np.full(len(self.ids), self.unknown / LN2, np.float32)
        bits[self.ids >= 0] = self._bits
        return bits

    @property
    def expected(self) -> tuple[Array, Array]:
        """The ids (N, K) of the likeliest characters and their probabilities (N, K); -1 where the text ends unread."""
        return self._guessed[self._index], self._probabilities[self._index]

    @property
    def calibration(self) -> list[tuple[int, float, float]]:
        counts, sure, right = self._sums
        return [
            (int(n), float(s / n) if n else 0.0, float(r / n) if n else 0.0)
            for n, s, r in zip(counts, sure, right, strict=True)
        ]

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: how far probability and frequency are apart, each bin by its share (Naeini 2015)."""
        counts, sure, right = self._sums
        return float(np.abs(sure - right).sum() / max(counts.sum(), 1.0))
