"""Where a text surprises a model, and what the model expected there: what scoring observes, in the order of the text.

Each of `InOrder`, `Top` and `Details` has an `observe` for `Model.score`, with places in what `select_scored_text` gives.
Letters: N characters of a text, n of them at a time, V vocabulary, K guesses.
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
Guesses = list[tuple[str, float]]  # characters and their probabilities, the likeliest first
GUESSES = 5  # that are kept of each character
BLOCK = 1 << 16  # characters of the text that are held at a time
BEFORE, AFTER = 30, 15  # characters that are shown around a surprising one
BINS = 10  # of equal width, in which probabilities are compared with frequencies
LN2 = math.log(2)


def select_scored_text(model: Model, text: Corpus) -> Corpus:
    """What `model` reads of `text`: all of it, or only its records, each ended by the separator."""
    return build_corpus(model.whole(text)) if model.records else text


class _Observer:
    """What all observers need: the model, the text, and what a character costs besides its surprisal by the logits."""

    def __init__(self, model: Model, text: Corpus):
        self.model = model
        self.text = text
        self.symbol = model.vocabulary.unknown
        self.table = model.vocabulary.encode(text.alphabet)  # from the text's ids to the model's, -1 for unknown ones
        self.known_cost, self.unknown_cost = score.escape_costs(model.vocabulary)  # nats

    def blocks(self) -> Iterator[tuple[int, Ids]]:
        """The model's ids of the text, -1 for unknown characters, block after block, each with the place where it begins."""
        for begin in range(0, len(self.text), BLOCK):
            yield begin, self.table[self.text[begin : begin + BLOCK]]

    def bits(self, targets: Array, nats: Array) -> Array:
        """The surprisals (n,) in bits of characters that cost `nats` (n,) by the network's logits alone."""
        besides = self.known_cost if self.symbol is None else np.where(targets == self.symbol, self.unknown_cost, 0.0)
        bits: Array = (nats + besides) / LN2
        return bits

    def guesses(self, logits: Array, targets: Array, nats: Array) -> tuple[Array, Array]:
        """The ids (n, K) of the likeliest characters, likeliest first, and their probabilities (n, K)."""
        K = min(GUESSES, logits.shape[1])
        ids = np.argpartition(-logits, K - 1, axis=1)[:, :K]
        best = np.take_along_axis(logits, ids, axis=1)
        order = np.lexsort((ids, -best))  # of equals the first in the vocabulary
        ids, best = np.take_along_axis(ids, order, axis=1), np.take_along_axis(best, order, axis=1)
        log_sum = logits[np.arange(len(targets)), targets] + nats  # of the exponentials of all logits
        return ids, np.exp(best - log_sum[:, None] - self.known_cost)


class InOrder(_Observer):
    """Gives `see` the text, piece by piece, with each character's bits, (n,) float32; it holds `score.STRETCH` of them."""

    def __init__(self, model: Model, text: Corpus, see: Callable[[str, Array], None]):
        super().__init__(model, text)
        self.see = see
        size = len(text) + 1  # more than there are, so that `finish` hands them on
        self.kept = np.empty(size if model.records else min(size, score.STRETCH), np.float32)
        self.seen = 0  # characters of the stretch
        self.first = 0  # the stretch's first, among the known ones
        self.place = 0  # in the text, up to which all has been handed on

    def observe(self, at: Array, logits: Array, targets: Array, nats: Array) -> None:
        self.kept[at - self.first] = self.bits(targets, nats)
        self.seen += len(at)
        if self.seen == len(self.kept):
            self._hand_on()
            self.first, self.seen = self.first + self.seen, 0

    def finish(self) -> None:
        """Hand on what is left."""
        self._hand_on(stop=len(self.text))

    def _hand_on(self, stop: int = 0) -> None:
        """Hand on all that is kept, and what comes after it before the place `stop`: unknown characters."""
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
    """A character of a text, how much it surprised the model, and what the model expected instead."""

    bits: float
    character: str
    place: int  # characters of the text before it
    line: int  # from 1 on, as the column
    column: int
    before: str
    after: str
    guesses: tuple[tuple[str, float], ...]  # characters and their probabilities; the model's symbol for unknown ones too

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"guesses": [{"character": c, "probability": p} for c, p in self.guesses]}


class Top(_Observer):
    """Finds the `n` most surprising characters, the first among equals; it holds no more than these."""

    def __init__(self, model: Model, text: Corpus, n: int):
        super().__init__(model, text)
        self.n = n
        self._known: list[tuple[float, int, Guesses]] = []  # sorted: minus the bits, the place among known ones, guesses
        self._outside: list[int] = []  # places of the first n unknown characters, which all cost the same
        for begin, ids in self.blocks() if (self.table < 0).any() else ():
            self._outside += (begin + np.flatnonzero(ids < 0))[: n - len(self._outside)].tolist()
        # Unknown characters are not read: what the network expected there is what it expected of the known one that follows.
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
        """The most surprising characters, the most surprising first."""
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
        """Where the known characters with these numbers, in rising order, are in the text."""
        places: list[int] = []
        before = 0
        for begin, ids in self.blocks():
            known = np.flatnonzero(ids >= 0)
            mine = [i for i in indices[len(places) :] if i < before + len(known)]
            places += [begin + int(known[i - before]) for i in mine]
            before += len(known)
        return places


class Details(_Observer):
    """All that there is to say of each character of a text that is not long: a report's figures."""

    def __init__(self, model: Model, text: Corpus):
        super().__init__(model, text)
        self.ids = np.concatenate([ids for _, ids in self.blocks()])
        known = self.ids >= 0
        n, K = int(np.count_nonzero(known)), min(GUESSES, len(model.vocabulary))
        self._bits = np.empty(n, np.float32)
        self._guesses = np.full((n + 1, K), -1)
        self._probabilities = np.zeros((n + 1, K), np.float32)
        # Of each character among the known ones; of an unknown one, that of the known one that follows.
        self._index: Array = np.cumsum(known) - known
        self._sums = np.zeros((3, BINS))  # of known characters: how many, their probabilities, how many were right

    def observe(self, at: Array, logits: Array, targets: Array, nats: Array) -> None:
        ids, probabilities = self.guesses(logits, targets, nats)
        self._bits[at] = self.bits(targets, nats)
        self._guesses[at], self._probabilities[at] = ids, probabilities
        sure = probabilities[:, 0]
        bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        self._sums += [np.bincount(bins, weights, BINS) for weights in (np.ones(len(at)), sure, ids[:, 0] == targets)]

    @property
    def surprisals(self) -> Array:
        """The surprisal of each character in bits, (N,)."""
        bits = np.full(len(self.ids), self.unknown_cost / LN2, np.float32)
        bits[self.ids >= 0] = self._bits
        return bits

    @property
    def expected(self) -> tuple[Array, Array]:
        """The ids (N, K) of the likeliest characters and their probabilities (N, K); -1 for unknown characters at the end."""
        return self._guesses[self._index], self._probabilities[self._index]

    @property
    def calibration(self) -> list[tuple[int, float, float]]:
        """Of each bin: how many top guesses, their mean probability, and the share that were right (Guo et al. 2017)."""
        means = self._sums[1:] / np.maximum(self._sums[0], 1.0)
        return [(int(n), float(sure), float(right)) for n, sure, right in zip(self._sums[0], *means, strict=True)]

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: how far probability and frequency are apart, each bin by its share (Naeini 2015)."""
        counts, sure, right = self._sums
        return float(np.abs(sure - right).sum() / max(counts.sum(), 1.0))
