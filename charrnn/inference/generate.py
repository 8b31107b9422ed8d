"""The loop that generates text: logits, processors, draw, stopping criteria.

It knows ids only, no characters. Shapes: B batch size, V vocabulary size, n characters drawn so far.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from charrnn.inference.logits import Processor
from charrnn.inference.sampler import Sampler
from charrnn.inference.stopping import Criterion

Array = np.ndarray
HISTORY = 1 << 12  # characters that processors see, at least


class Engine(Protocol):
    """A network that has read the primes: `logits` (B, V) predict the next characters, `advance` reads those in `ids` (B,)."""

    ids: Array

    @property
    def logits(self) -> Array: ...
    def advance(self) -> object: ...


@dataclass
class Step:
    """The next character of each text."""

    ids: Array  # (B,), overwritten by the next step
    logits: Array  # (B, V) of the model, before any processor; overwritten by the next step
    why: list[str]  # (B,) why each text has ended, with this character or before; "": it goes on


def generate(
    engine: Engine,
    sampler: Sampler,
    noise: Iterator[Array],
    processors: Sequence[Processor] = (),
    criteria: Sequence[Criterion] = (),
    length: int | None = None,
) -> Iterator[Step]:
    """Draw `length` characters of each text (None: endlessly), or fewer if all texts have ended before.

    `noise` yields the `Sampler.noise` of each step, (B, V). A text that has ended stays in the batch; what follows is to be
    ignored.
    """
    why = [""] * len(engine.ids)
    drawn = np.empty((2 * HISTORY, len(why)), engine.ids.dtype) if processors else None
    n = 0
    for number in itertools.count(1) if length is None else range(1, length + 1):
        if number > 1:
            engine.advance()
        logits = engine.logits
        if drawn is not None:
            logits = logits.copy()
            for process in processors:
                process(drawn[:n], logits)
        sampler.draw(logits, next(noise), engine.ids)
        if drawn is not None:
            if n == len(drawn):
                drawn[:HISTORY] = drawn[HISTORY:]
                n = HISTORY
            drawn[n] = engine.ids
            n += 1
        for criterion in criteria:
            for k in np.flatnonzero(criterion(engine.ids)).tolist():
                why[k] = why[k] or criterion.why
        if number == length:
            why = [reason or "length" for reason in why]
        yield Step(engine.ids, engine.logits, why)
        if criteria and all(why):
            return
