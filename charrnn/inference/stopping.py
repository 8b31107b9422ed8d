"""Stopping criteria: each tells which texts of a batch have just ended, and why.

A criterion is called with the ids drawn last (B,) at every step, and returns (B,) bool. To add one, write a class with `why`
and append it in `writing._find_criteria`. Shapes: B batch size, S characters of a stop string.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from charrnn.text.vocabulary import Ids

Array = np.ndarray


class Criterion(Protocol):
    why: str  # the reason to stop: "until", or the kind of record that has ended

    def __call__(self, ids: Array) -> Array: ...


class StopString:
    """Ends a text that ends with a string, given as ids (S,). A string with an unknown character (-1) never matches.

    `before` has the ids at the end of each prime: a match may begin there, but not end there.
    """

    def __init__(self, string: Ids, why: str, before: Sequence[Ids]):
        self.why = why
        self.string = string[:, None]
        self._last = np.full((len(string), len(before)), -2)  # (S, B) the last characters of each text; -2: none
        for k, ids in enumerate(before):
            tail = ids[max(0, len(ids) - len(string) + 1) :]
            self._last[len(string) - len(tail) :, k] = tail

    def __call__(self, ids: Array) -> Array:
        self._last[:-1] = self._last[1:]
        self._last[-1] = ids
        ended: Array = (self._last == self.string).all(axis=0)
        return ended
