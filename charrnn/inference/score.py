"""How well a model knows a text, in bits per character: honest figures, which compare between models and engines.

Letters: T time steps, S streams, V vocabulary, N characters of a text, R records.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from charrnn.text.corpus import Sliced
from charrnn.training.distributed import ALONE, Group


def scoring_blocks(
    length: int, streams: int, warm_up: int, block: int, stretch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut each `stretch` of `length` steps into parallel streams, each warmed up by the steps before its own part.

    Yields (positions (T, S), counts (T, S)) with T <= `block`: where each stream stands, and whether the step is its own
    to score. Positions below 0 are those of a stream that has not begun.
    """
    for begin in range(0, length, stretch):
        stop = min(begin + stretch, length)
        part = -(-(stop - begin) // streams)
        starts = begin + part * np.arange(streams)
        for first in range(-warm_up if streams > 1 else 0, part, block):
            offset = np.arange(first, min(first + block, part))[:, None]
            at = starts + offset
            yield np.minimum(at, stop - 1), (offset >= 0) & (at < stop)


Array = np.ndarray

# What a character outside the vocabulary costs: an escape, then the choice among the rest of Unicode's scalar values.
# The escape's probability is the same for every model, so that figures compare; known characters pay for it too.
ESCAPE = 2.0**-20
UNICODE = 0x110000 - 0x800

STREAMS = 64  # that a long text is scored in, side by side
STRETCH = 1 << 22  # characters that are cut into streams at a time, so that what is known of a text comes in its order
SIDE_BY_SIDE = 256  # records that are scored at a time
BLOCK = 1 << 20  # logits that scoring works on at a time

# Told of some characters of the text, in any order: their places among its known ones (n,), the logits that foretold them
# (n, V), their ids (n,) and what each costs by these logits, in nats (n,).
Observe = Callable[[Array, Array, Array, Array], None]


@dataclass(frozen=True)
class Score:
    """How well a model knows a text; every character counts, unknown ones too."""

    characters: int
    unknown_characters: int  # characters outside the vocabulary, each charged ESCAPE and a choice among Unicode's rest
    nats: float  # in all
    correct: int  # characters that were the model's top guess
    each: Array | None = field(default=None, compare=False)  # nats of each record, (R,), where the model reads records
    kind: str = ""  # what these records are

    @property
    def nats_per_character(self) -> float:
        return self.nats / self.characters

    @property
    def bits_per_character(self) -> float:
        return self.nats_per_character / math.log(2)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_character, 700.0))

    @property
    def accuracy(self) -> float:
        return self.correct / self.characters

    def worst(self, n: int) -> list[tuple[int, float]]:
        """The `n` records that surprise the model most: (place in the text, bits)."""
        assert self.each is not None
        return [(int(k), float(self.each[k]) / math.log(2)) for k in np.argsort(-self.each, kind="stable")[:n]]

    def to_dict(self) -> dict[str, float]:
        """The figures under the names that `charrnn eval --json` prints."""
        names = "characters unknown_characters bits_per_character nats_per_character perplexity accuracy"
        figures = {name: getattr(self, name) for name in names.split()}
        if self.each is not None:
            figures |= {f"{self.kind}s": len(self.each), f"bits_per_{self.kind}": self.nats / math.log(2) / len(self.each)}
        return figures


def score(
    forward: Callable[[Array, Any], tuple[Array, Any]],
    initial_state: Callable[[int], Any],
    ids: Sliced,
    start: int,
    vocabulary_size: int,
    unknown: int | None = None,
    left_out: int = 0,
    watch: Callable[[int, int], None] = lambda done, total: None,
    observe: Observe | None = None,
    group: Group = ALONE,
) -> Score:
    """Score a text of `ids` (N,), -1 for unknown ones, read after the character `start` from the zero state.

    Ids that are no array may be more than memory holds; they have no -1 among them, and `left_out` says how many unknown
    characters the text has besides. `watch` is told how many characters of how many are done. `observe` is told of each known
    character; all of a STRETCH come before those of the next.

    Where the vocabulary has a symbol for the unknown, of the id `unknown`, these characters are read as that symbol and
    charged its probability and a uniform choice among the rest of Unicode's characters, and there is no escape.

    `forward` reads ids (T, B) on from a state and gives back logits (T, B, V) and the state after them, by either engine.

    Unknown characters leave the state as it was. Each STRETCH of a long text is cut into up to STREAMS parallel streams of
    2,048 characters or more, each warmed up by the 256 characters before it. Of several ranks each scores its `group`'s part
    of the streams, the first one the unknown characters too: the figures of all add up to the text's.
    """
    known, missing = ids, left_out
    if isinstance(ids, np.ndarray):
        known = ids[ids >= 0]
        missing += len(ids) - len(known)
    streams = max(1, min(STREAMS, len(known) // 2048))
    mine = group.part(streams)
    missing, outside = (missing, missing) if group.rank == 0 else (0, 0)
    fit = max(1, BLOCK // (streams * vocabulary_size))
    block = 1 << min(8, fit.bit_length() - 1)  # steps; a power of two, so that one begins after the warm-up
    state = initial_state(mine.stop - mine.start)
    nats, correct, scored = 0.0, 0, 0
    for at, counts in scoring_blocks(len(known), streams, 256, block, STRETCH) if mine.stop > mine.start else ():
        at, counts = at[:, mine], counts[:, mine]
        if at[0, 0] == 0:  # the first stream has no text before it: it begins here, from the zero state
            for part in chain.from_iterable(state):
                part[0] = 0
        read = _gather(known, np.concatenate([at[:1] - 1, at]))  # (T + 1, S): what is read, and after it what follows
        logits, state = forward(np.where(at > 0, read[:-1], start), state)
        scored += int(np.count_nonzero(counts))
        watch(scored, len(known))
        if not counts.any():
            continue
        targets = read[1:]
        if not counts.all():
            logits, targets, at = logits[counts], targets[counts], at[counts]
        logits, targets = logits.reshape(-1, vocabulary_size), targets.reshape(-1)
        cost, right = _costs(logits, targets)
        if observe is not None:
            observe(at.reshape(-1), logits, targets, cost)
        nats += float(cost.sum(dtype=np.float64))
        correct += int(np.count_nonzero(right))
        if unknown is not None:
            missing += int(np.count_nonzero(targets == unknown))
            correct -= int(np.count_nonzero(right & (targets == unknown)))
    nats += float(unknown_cost(scored, missing, unknown, vocabulary_size))
    return Score(scored + outside, missing, nats, correct)


def score_records(
    forward: Callable[[Array, Any], tuple[Array, Any]],
    initial_state: Callable[[int], Any],
    ids: Array,
    bounds: tuple[Array, Array],
    start: int,
    vocabulary_size: int,
    unknown: int | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
    observe: Observe | None = None,
) -> Score:
    """Score the records of a text of `ids` (N,), each read after `start` from the zero state; `bounds` are theirs.

    All else is as in `score`. Records of near lengths are read side by side.
    """
    begin, stop = bounds  # (R,) each
    before = np.concatenate([[0], np.cumsum(ids >= 0)])
    length = before[stop] - before[begin]  # known characters of each record
    missing = stop - begin - length
    text = ids[ids >= 0]
    nats, correct, done = np.zeros(len(begin)), 0, 0
    order = np.argsort(-length, kind="stable")
    while done < len(order):
        longest = max(1, int(length[order[done]]))
        chosen = order[done : done + max(1, min(SIDE_BY_SIDE, BLOCK // (longest * vocabulary_size)))]
        done += len(chosen)
        at = np.arange(longest)[:, None]
        counts = at < length[chosen]  # (T, S)
        if not counts.any():
            break
        targets = text[np.minimum(before[begin[chosen]] + at, len(text) - 1)]
        inputs = np.where(counts, np.concatenate([np.full((1, len(chosen)), start), targets[:-1]]), start)
        state, block = initial_state(len(chosen)), max(1, BLOCK // (len(chosen) * vocabulary_size))
        for first in range(0, longest, block):
            part = slice(first, first + block)
            logits, state = forward(inputs[part], state)
            mine = counts[part]
            follows = targets[part][mine]
            logits = logits[mine]
            cost, right = _costs(logits, follows)
            if observe is not None:
                observe((before[begin[chosen]] + at[part])[mine], logits, follows, cost)
            nats[chosen] += np.bincount(np.nonzero(mine)[1], cost, len(chosen))
            if unknown is not None:
                missing[chosen] += np.bincount(np.nonzero(mine)[1], follows == unknown, len(chosen)).astype(np.int64)
                right &= follows != unknown
            correct += int(np.count_nonzero(right))
        watch(int(length[order[:done]].sum()), len(text))
    nats += unknown_cost(length, missing, unknown, vocabulary_size)
    return Score(int((stop - begin).sum()), int(missing.sum()), float(nats.sum()), correct, nats)


def _costs(logits: Array, targets: Array) -> tuple[Array, Array]:
    """What each of `targets` (n,) costs in nats under `logits` (n, V), and whether it was the top guess: (n,), (n,)."""
    each, best = np.arange(len(targets)), logits.argmax(axis=1)
    top, right = logits[each, best], logits[each, targets]
    shifted = logits - top[:, None]
    return np.log(np.exp(shifted, out=shifted).sum(axis=1)) + top - right, best == targets


def unknown_cost(known: Any, missing: Any, unknown: int | None, vocabulary_size: int) -> Any:
    """The nats that unknown characters cost besides what the network says, and that known ones pay for the escape."""
    if unknown is not None:
        return missing * math.log(UNICODE - (vocabulary_size - 1))
    return missing * (math.log(UNICODE - vocabulary_size) - math.log(ESCAPE)) - known * math.log1p(-ESCAPE)


def _gather(ids: Sliced, at: Array) -> Array:
    """The ids at the places `at` (T, S); each column stands for one stretch, places before the beginning for the first."""
    at = np.maximum(at, 0)
    return np.stack([ids[column[0] : column[-1] + 1][column - column[0]] for column in at.T], axis=1)
