"""Surprisal of single characters, and what the model expected instead.

`InOrder`, `Top` and `Details` each have a method `observe` to pass to `Model.score`. Their positions refer to the text that
`select_scored_text` returns. Shapes: N characters of a text, n characters of a block, V vocabulary size, K guesses.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from charrnn.inference import score
from charrnn.inference.model import Model
from charrnn.text.corpus import Corpus
from charrnn.text.reading import build_corpus
from charrnn.text.vocabulary import Ids

Array = np.ndarray
Guesses = list[tuple[str, float]]  # characters and their probabilities, likeliest first
GUESSES = 5  # kept per character
BLOCK = 1 << 16  # characters of the text held in memory at a time
BEFORE, AFTER = 30, 15  # characters shown around a surprising one
BINS = 10  # of the calibration, equally wide
LN2 = math.log(2)


def select_scored_text(model: Model, text: Corpus) -> Corpus:
    """The part of `text` that `model` scores: all of it or, for a line-by-line model, its records with their separators."""
    return build_corpus(model.whole(text)) if model.records else text


class _Observer:
    """Base class of the observers."""

    def __init__(self, model: Model, text: Corpus):
        self.model = model
        self.text = text
        self.symbol = model.vocabulary.unknown
        self.table = model.vocabulary.encode(text.alphabet)  # the model's id for each id of the text; -1: unknown
        self.known_cost, self.unknown_cost = score.escape_costs(model.vocabulary)  # nats

    def blocks(self) -> Iterator[tuple[int, Ids]]:
        """Yield blocks of the text: (position of its first character, the model's ids; -1 for unknown characters)."""
        for begin in range(0, len(self.text), BLOCK):
            yield begin, self.table[self.text[begin : begin + BLOCK]]

    def bits(self, targets: Array, nats: Array) -> Array:
        """Convert surprisals under the logits, in nats (n,), to bits (n,) with the cost of unknown characters."""
        besides = self.known_cost if self.symbol is None else np.where(targets == self.symbol, self.unknown_cost, 0.0)
        bits: Array = (nats + besides) / LN2
        return bits

    def guesses(self, logits: Array, targets: Array, nats: Array) -> tuple[Array, Array]:
        """The likeliest characters, likeliest first: ids (n, K) and probabilities (n, K)."""
        K = min(GUESSES, logits.shape[1])
        ids = np.argpartition(-logits, K - 1, axis=1)[:, :K]
        best = np.take_along_axis(logits, ids, axis=1)
        order = np.lexsort((ids, -best))  # ties: the first in the vocabulary
        ids, best = np.take_along_axis(ids, order, axis=1), np.take_along_axis(best, order, axis=1)
        log_sum = logits[np.arange(len(targets)), targets] + nats  # log of the softmax's denominator
        return ids, np.exp(best - log_sum[:, None] - self.known_cost)


class InOrder(_Observer):
    """Calls `see` with the text, piece by piece in order, and the bits (n,) float32 of its characters."""

    def __init__(self, model: Model, text: Corpus, see: Callable[[str, Array], None]):
        super().__init__(model, text)
        self.see = see
        size = len(text) + 1  # one more than there are, so that `finish` handles the last stretch
        self.kept = np.empty(size if model.records else min(size, score.STRETCH), np.float32)
        self.seen = 0  # known characters of this stretch so far
        self.first = 0  # number of known characters before this stretch
        self.place = 0  # position up to which `see` has had the text

    def observe(self, at: Array, logits: Array, targets: Array, nats: Array) -> None:
        self.kept[at - self.first] = self.bits(targets, nats)
        self.seen += len(at)
        if self.seen == len(self.kept):
            self._hand_on()
            self.first, self.seen = self.first + self.seen, 0

    def finish(self) -> None:
        """Call `see` with the rest of the text."""
        self._hand_on(stop=len(self.text))

    def _hand_on(self, stop: int = 0) -> None:
        """Call `see` with the characters kept, and with unknown characters after them up to position `stop`."""
        done = 0
        while done < self.seen or self.place < stop:
            known = self.table[self.text[self.place : self.place + BLOCK]] >= 0
            if np.count_nonzero(known) > self.seen - done:
                known = known[: np.flatnonzero(known)[self.seen - done]]
            bits = np.full(len(known), self.unknown_cost / LN2, np.float32)
            n = int(np.count_nonzero(known))
            bits[known] = self.kept[done : done + n]
            self.see(self.text.text(self.place, self.place + len(known)), bits)
            done += n
            self.place += len(known)


@dataclass(frozen=True)
class Surprise:
    """A surprising character, and what the model expected instead."""

    bits: float
    character: str
    place: int  # position in the text, from 0
    line: int  # from 1
    column: int  # from 1
    before: str
    after: str
    guesses: tuple[tuple[str, float], ...]  # characters and their probabilities, likeliest first

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"guesses": [{"character": c, "probability": p} for c, p in self.guesses]}


class Top(_Observer):
    """Finds the `n` most surprising characters; ties: the first in the text. It keeps no others in memory."""

    def __init__(self, model: Model, text: Corpus, n: int):
        super().__init__(model, text)
        self.n = n
        self._known: list[tuple[float, int, Guesses]] = []  # sorted: (-bits, position among known characters, guesses)
        self._outside: list[int] = []  # positions of the first n unknown characters, which all cost the same
        for begin, ids in self.blocks() if (self.table < 0).any() else ():
            self._outside += (begin + np.flatnonzero(ids < 0))[: n - len(self._outside)].tolist()
        # The network skips unknown characters, so its guesses for one are those for the next known character.
        self._before = np.array([place - k for k, place in enumerate(self._outside)], np.int64)
        self._instead: dict[int, Guesses] = {}

    def observe(self, at: Array, logits: Array, targets: Array, nats: Array) -> None:
        bits = self.bits(targets, nats)
        new = np.flatnonzero(bits > -self._known[-1][0]) if len(self._known) == self.n else np.arange(len(at))
        new = new[np.lexsort((at[new], -bits[new]))][: self.n]
        entries = zip((-bits[new]).tolist(), at[new].tolist(), self._name_guesses(new, logits, targets, nats), strict=True)
        self._known = sorted([*self._known, *entries])[: self.n]
        rows = np.flatnonzero(np.isin(at, self._before)) if len(self._before) else self._before
        self._instead |= zip(at[rows].tolist(), self._name_guesses(rows, logits, targets, nats), strict=True)

    def found(self) -> list[Surprise]:
        """The most surprising characters, in descending order of bits."""
        bits = self.unknown_cost / LN2
        found = [(bits, place, self._instead.get(int(i), [])) for place, i in zip(self._outside, self._before, strict=True)]
        known = sorted(self._known, key=lambda entry: entry[1])
        places = self._places([k for _, k, _ in known])
        found += [(-minus, place, guesses) for (minus, _, guesses), place in zip(known, places, strict=True)]
        found = sorted(found, key=lambda entry: (-entry[0], entry[1]))[: self.n]
        lines = self.text.lines([place for _, place, _ in found])
        surprises = []
        for bits, place, guesses in found:
            before, after = self.text.text(max(0, place - BEFORE), place), self.text.text(place + 1, place + 1 + AFTER)
            character = self.text.text(place, place + 1)
            surprises.append(Surprise(bits, character, place, *lines[place], before, after, guesses=tuple(guesses)))
        return surprises

    def _name_guesses(self, rows: Array, logits: Array, targets: Array, nats: Array) -> list[Guesses]:
        ids, probabilities = self.guesses(logits[rows], targets[rows], nats[rows])
        characters = self.model.vocabulary.characters
        pairs = zip(ids.tolist(), probabilities.tolist(), strict=True)
        return [[(characters[i], p) for i, p in zip(*pair, strict=True)] for pair in pairs]

    def _places(self, indices: Sequence[int]) -> list[int]:
        """Positions in the text of known characters, given their `indices` among known characters in ascending order."""
        places: list[int] = []
        before = 0
        for begin, ids in self.blocks():
            known = np.flatnonzero(ids >= 0)
            mine = [i for i in indices[len(places) :] if i < before + len(known)]
            places += [begin + int(known[i - before]) for i in mine]
            before += len(known)
        return places


class Details(_Observer):
    """Keeps surprisal and guesses of every character, for the report on a short text."""

    def __init__(self, model: Model, text: Corpus):
        super().__init__(model, text)
        self.ids = np.concatenate([ids for _, ids in self.blocks()])
        known = self.ids >= 0
        n, K = int(np.count_nonzero(known)), min(GUESSES, len(model.vocabulary))
        self._bits = np.empty(n, np.float32)
        self._guesses = np.full((n + 1, K), -1)
        self._probabilities = np.zeros((n + 1, K), np.float32)
        # (N,) index of each character among known characters; for an unknown one, that of the next known one.
        self._index: Array = np.cumsum(known) - known
        self._sums = np.zeros((3, BINS))  # per bin of the top guess's probability: count, sum of probabilities, number right

    def observe(self, at: Array, logits: Array, targets: Array, nats: Array) -> None:
        ids, probabilities = self.guesses(logits, targets, nats)
        self._bits[at] = self.bits(targets, nats)
        self._guesses[at], self._probabilities[at] = ids, probabilities
        sure = probabilities[:, 0]
        bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        self._sums += [np.bincount(bins, weights, BINS) for weights in (np.ones(len(at)), sure, ids[:, 0] == targets)]

    @property
    def surprisals(self) -> Array:
        """The surprisals in bits, (N,)."""
        bits = np.full(len(self.ids), self.unknown_cost / LN2, np.float32)
        bits[self.ids >= 0] = self._bits
        return bits

    @property
    def expected(self) -> tuple[Array, Array]:
        """The likeliest characters: ids (N, K) and probabilities (N, K). Ids are -1 for unknown characters at the end."""
        return self._guesses[self._index], self._probabilities[self._index]

    @property
    def calibration(self) -> list[tuple[int, float, float]]:
        """Per bin: number of top guesses, their mean probability, fraction that were right (Guo et al. 2017)."""
        means = self._sums[1:] / np.maximum(self._sums[0], 1.0)
        return [(int(n), float(sure), float(right)) for n, sure, right in zip(self._sums[0], *means, strict=True)]

    @property
    def calibration_error(self) -> float:
        """The expected calibration error (Naeini et al. 2015): |mean probability - fraction right|, averaged over guesses."""
        counts, sure, right = self._sums
        return float(np.abs(sure - right).sum() / max(counts.sum(), 1.0))
