"""Logits processors: each changes the logits of the next character in place, before it is drawn.

A processor is called with the ids drawn so far (n, B) and the logits (B, V). To add one, write a class and append it in
`Sampler.processors`. The order is: unknown symbol, blank records, top-k, top-p.
Shapes: B batch size, V vocabulary size, n characters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Processor = Callable[[Array, Array], None]


@dataclass(frozen=True)
class Ban:
    """Excludes the characters with these ids."""

    ids: tuple[int, ...]

    def __call__(self, _: Array, logits: Array) -> None:
        logits[:, self.ids] = -np.inf


class NoBlankRecord:
    """Excludes the line break as long as a record has nothing but white space: no training text has a blank record.

    `primes` are the beginnings of the records; `is_space` (V,) tells which characters are white space.
    """

    def __init__(self, line_break: int, is_space: Array, primes: Sequence[str]):
        self.line_break = line_break
        self.is_space = is_space
        self._blank = np.array([not prime.strip() for prime in primes])  # (B,) whether the record is still blank

    def __call__(self, ids: Array, logits: Array) -> None:
        if len(ids):
            self._blank &= self.is_space[ids[-1]]
        if self._blank.any():
            logits[self._blank, self.line_break] = -np.inf


@dataclass(frozen=True)
class TopK:
    """Keeps the `k` likeliest characters; ties: the first in the vocabulary."""

    k: int

    def __call__(self, _: Array, logits: Array) -> None:
        order = np.argsort(-logits, axis=1, kind="stable")
        np.put_along_axis(logits, order[:, self.k :], -np.inf, axis=1)


@dataclass(frozen=True)
class TopP:
    """Nucleus sampling: keeps the smallest set of likeliest characters with total probability `p` (Holtzman et al. 2020)."""

    p: float
    temperature: float

    def __call__(self, _: Array, logits: Array) -> None:
        order = np.argsort(-logits, axis=1, kind="stable")
        best = np.take_along_axis(logits, order, axis=1).astype(np.float64)
        p = np.exp((best - best[:, :1]) / max(self.temperature, 1e-290))  # never 0 / 0
        before = np.cumsum(p, axis=1) - p
        best[before >= self.p * p.sum(axis=1, keepdims=True)] = -np.inf
        np.put_along_axis(logits, order, best.astype(np.float32), axis=1)
