"""What is computed from the pieces of `score.pieces`: the model's guesses, the most surprising characters, calibration.

`Top` and `Details` are views: `add` takes the next piece, and the result is there after the last one.
Shapes: N characters of a text, n characters of a piece, V vocabulary size, K guesses.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from charrnn.inference.score import Piece, escape_costs
from charrnn.text.corpus import Corpus
from charrnn.text.vocabulary import Vocabulary

Array = np.ndarray
GUESSES = 5  # kept per character
BEFORE, AFTER = 30, 15  # characters shown around a surprising one
BINS = 10  # of the calibration, equally wide


def guess(logits: Array, vocabulary: Vocabulary) -> tuple[Array, Array]:
    """The likeliest characters given `logits` (n, V), likeliest first: ids (n, K) and probabilities (n, K)."""
    K = min(GUESSES, logits.shape[1])
    ids = np.argpartition(-logits, K - 1, axis=1)[:, :K]
    best = np.take_along_axis(logits, ids, axis=1)
    order = np.lexsort((ids, -best))  # ties: the first in the vocabulary
    ids = np.take_along_axis(ids, order, axis=1)
    best = np.take_along_axis(best, order, axis=1)
    top = best[:, :1]
    total = np.exp(logits - top).sum(axis=1, keepdims=True)
    return ids, np.exp(best - top - escape_costs(vocabulary)[0]) / total


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


class Top:
    """Finds the `n` most surprising characters of `text`; ties: the first. It keeps at most 2n of them in memory."""

    def __init__(self, vocabulary: Vocabulary, text: Corpus, n: int):
        self.vocabulary = vocabulary
        self.text = text
        self.n = n
        self._kept: list[Surprise] = []
        self._least = -math.inf  # bits that a character must exceed to be among the first n

    def add(self, piece: Piece) -> None:
        rows = np.flatnonzero(piece.bits > self._least)
        rows = np.sort(rows[np.argsort(-piece.bits[rows], kind="stable")[: self.n]])
        if not len(rows):
            return
        breaks = np.array([-piece.column, *(k for k, c in enumerate(piece.text) if c == "\n")])  # before the start of a line
        lines = np.searchsorted(breaks, rows) - 1
        ids, probabilities = guess(piece.logits[rows], self.vocabulary)
        for row, line, mine in zip(
            rows.tolist(), lines.tolist(), zip(ids.tolist(), probabilities.tolist(), strict=True), strict=True
        ):
            place = piece.start + row
            surprise = Surprise(
                bits=float(piece.bits[row]),
                character=piece.text[row],
                place=place,
                line=piece.line + line,
                column=row - int(breaks[line]),
                before=self.text.text(max(0, place - BEFORE), place),
                after=self.text.text(place + 1, place + 1 + AFTER),
                guesses=tuple((self.vocabulary.characters[i], p) for i, p in zip(*mine, strict=True)),
            )
            self._kept.append(surprise)
        if len(self._kept) >= 2 * self.n:
            self._kept = self.finish()
            self._least = self._kept[-1].bits

    def finish(self) -> list[Surprise]:
        """The most surprising characters, in descending order of bits."""
        return sorted(self._kept, key=lambda surprise: (-surprise.bits, surprise.place))[: self.n]


class Details:
    """Keeps surprisal and guesses of every character of a short text, for the report."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.text = ""  # all pieces, one after another
        self._pieces: list[tuple[Array, ...]] = []
        self._sums = np.zeros((3, BINS))  # per bin of the top guess's probability: count, sum of probabilities, number right

    def add(self, piece: Piece) -> None:
        ids, probabilities = guess(piece.logits, self.vocabulary)
        self.text += piece.text
        self._pieces.append((piece.ids, piece.bits.astype(np.float32), ids, probabilities.astype(np.float32)))
        known = piece.ids >= 0
        sure = probabilities[known, 0]
        right = ids[known, 0] == piece.ids[known]
        bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        self._sums += [np.bincount(bins, weights, BINS) for weights in (np.ones(len(sure)), sure, right)]

    def finish(self) -> None:
        """Join the pieces: ids (N,), surprisals in bits (N,), and the likeliest characters: ids and probabilities (N, K)."""
        self.ids, self.surprisals, self.guesses, self.probabilities = map(np.concatenate, zip(*self._pieces, strict=True))

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
