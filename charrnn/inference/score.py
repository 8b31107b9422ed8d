"""How well a model predicts a text, in bits per character. Figures compare between models and between engines.

`score` is the one loop: a network reads a text in blocks and each character is charged its surprisal.
Letters: T time steps, S streams, V vocabulary, N characters of a text, R records, n characters of a block.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from charrnn.text.corpus import Sliced
from charrnn.text.records import RecordText
from charrnn.text.vocabulary import Ids, Vocabulary

Array = np.ndarray

# What a character outside the vocabulary costs: an escape, then the choice among the rest of Unicode's scalar values.
# The escape's probability is the same for every model, so that figures compare. All other characters pay for it too.
ESCAPE = 2.0**-20
UNICODE = 0x110000 - 0x800

STREAMS = 64  # into which a long text is cut, scored side by side
STREAM_LENGTH = 2048  # characters of a stream, at least
WARM_UP = 256  # characters that a stream reads before those that it scores
STRETCH = 1 << 22  # characters that are cut into streams at a time, so that scores come nearly in the order of the text
SIDE_BY_SIDE = 256  # records that are scored at a time
BLOCK = 1 << 20  # logits that are computed at a time
WIDE = 8  # times as many, where one character of each stream takes more

# Is given the characters of each block: their places (n,) in the text without its unknown characters, the logits that
# predicted them (n, V), their ids (n,), and the surprisal of each by these logits, in nats (n,).
Observe = Callable[[Array, Array, Array, Array], None]

State = TypeVar("State", bound=Iterable[Iterable[Any]])  # a network's state: of each layer some arrays or tensors (S, H)


class Scorable(Protocol[State]):
    """A network of either engine. `forward` reads ids (T, S) on from a state: logits (T, S, V) and the state after them."""

    def initial_state(self, batch_size: int) -> State: ...
    def forward(self, ids: Array, state: State) -> tuple[Array, State]: ...


@dataclass(frozen=True)
class Block:
    """T characters of each of S streams, which the network reads at once."""

    inputs: Ids  # (T, S)
    targets: Ids  # (T, S), the character after each input
    places: Array  # (T, S), of the targets in the text without its unknown characters
    counts: Array  # (T, S) bool: whether the target is scored; others are of a warm-up, or padding
    fresh: int  # the first so many streams begin from the zero state
    records: Array | None = None  # (S,), which record each stream is; None: all are of one text

    def add(self, values: Array, sums: Array) -> None:
        """Add `values` (n,), of the characters that count, to the `sums` (R,) of their records, or to that of the text (1,)."""
        if self.records is None:
            sums += values.sum(dtype=np.float64)
        else:
            sums[self.records] += np.bincount(np.nonzero(self.counts)[1], values, len(self.records))


@dataclass
class TextBlocks:
    """Cuts running text into blocks of parallel streams.

    Each STRETCH of a long text is cut into up to STREAMS streams of STREAM_LENGTH characters or more, each warmed up by the
    WARM_UP characters before it. The first one begins from the zero state, after the character `start`.
    Where several processes share a text, one alone is told of unknown characters: the sums over all are the text's.
    """

    ids: Sliced  # (N,), of the text without its unknown characters; they may be more than memory holds
    start: int  # the id that the text is read after
    unknown: int = 0  # how many characters the vocabulary lacks
    part: Callable[[int], slice] = slice  # which of so many streams are scored in this process
    kind: ClassVar = ""

    def cut(self, characters: int) -> Iterator[Block]:
        """Yield blocks of about so many `characters`."""
        length = len(self.ids)
        streams = max(1, min(STREAMS, length // STREAM_LENGTH, WIDE * characters))
        steps = 1 << min(8, max(1, characters // streams).bit_length() - 1)  # a power of two divides the warm-up
        begun = False
        for begin in range(0, length, STRETCH):
            stop = min(begin + STRETCH, length)
            part = -(-(stop - begin) // streams)
            starts = (begin + part * np.arange(streams))[self.part(streams)]
            if not len(starts):
                return
            for first in range(-WARM_UP if streams > 1 else 0, part, steps):
                offset = np.arange(first, min(first + steps, part))[:, None]
                counts = (offset >= 0) & (starts + offset < stop)
                places = np.minimum(starts + offset, stop - 1)
                before = np.maximum(np.concatenate([places[:1] - 1, places]), 0)  # (T + 1, S), each column a stretch of text
                read = np.stack([self.ids[at[0] : at[-1] + 1][at - at[0]] for at in before.T], axis=1)
                inputs = np.where(places > 0, read[:-1], self.start)
                fresh = int(places[0, 0] == 0) if begun else len(starts)  # the first stream after its warm-up, or all
                yield Block(inputs=inputs, targets=read[1:], places=places, counts=counts, fresh=fresh)
                begun = True


class RecordBlocks:
    """Cuts a text of records into blocks, each of records of near lengths side by side, all from the zero state."""

    def __init__(self, text: RecordText):
        inside = text.ids >= 0
        before = np.concatenate([[0], np.cumsum(inside)])  # (N + 1,), characters of the vocabulary before each place
        self.kind, self.start = text.kind, text.line_break
        self.ids = text.ids[inside]
        self.starts = before[text.starts]  # (R,), among these
        self.lengths = before[text.stops] - self.starts  # (R,)
        self.unknown = text.stops - text.starts - self.lengths  # (R,), how many characters the vocabulary lacks

    def cut(self, characters: int) -> Iterator[Block]:
        """Yield blocks of about so many `characters`."""
        order = np.argsort(-self.lengths, kind="stable")
        done = 0
        while done < len(order) and self.lengths[order[done]]:
            longest = int(self.lengths[order[done]])
            chosen = order[done : done + max(1, min(SIDE_BY_SIDE, characters // longest))]
            done += len(chosen)
            offset = np.arange(longest)[:, None]
            places = self.starts[chosen] + offset
            counts = offset < self.lengths[chosen]
            targets = self.ids[np.minimum(places, len(self.ids) - 1)]
            inputs = np.where(counts, np.concatenate([np.full((1, len(chosen)), self.start), targets[:-1]]), self.start)
            steps = max(1, characters // len(chosen))
            for first in range(0, longest, steps):
                t = slice(first, first + steps)
                yield Block(inputs[t], targets[t], places[t], counts[t], fresh=0 if first else len(chosen), records=chosen)


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text; every character counts, unknown ones too."""

    characters: int
    unknown_characters: int  # outside the vocabulary: each is charged ESCAPE and a choice among Unicode's rest
    nats: float  # in all
    correct: int  # characters that were the model's top guess
    each: Array | None = field(default=None, compare=False)  # nats of each record, (R,), where the model reads records
    kind: str = ""  # of these records

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
    network: Scorable[State],
    blocks: TextBlocks | RecordBlocks,
    vocabulary: Vocabulary,
    watch: Callable[[int, int], None] | None = None,
    observe: Observe | None = None,
) -> Score:
    """Score the text that `blocks` are cut from.

    `watch` is told how many characters of how many are done. `observe` is told of each character of the vocabulary; in
    running text all of a STRETCH come before those of the next. Unknown characters are not read: they leave the state as it
    was. But where the vocabulary has a symbol for them, they are read as that symbol, and charged its probability and a
    uniform choice among the rest of Unicode's characters; there is no escape then.
    """
    V = len(vocabulary)
    unknown = np.atleast_1d(blocks.unknown).astype(np.float64)  # (R,), or (1,) of running text
    known, nats = np.zeros_like(unknown), np.zeros_like(unknown)
    correct = done = 0
    for block in blocks.cut(max(1, BLOCK // V)):
        if block.fresh == block.inputs.shape[1]:
            state = network.initial_state(block.fresh)
        elif block.fresh:
            for part in chain.from_iterable(state):
                part[: block.fresh] = 0
        logits, state = network.forward(block.inputs, state)
        done += int(np.count_nonzero(block.counts))
        if watch is not None:
            watch(done, len(blocks.ids))
        if not block.counts.any():
            continue
        chosen = slice(None) if block.counts.all() else block.counts  # a slice copies nothing
        logits = logits[chosen].reshape(-1, V)
        targets = block.targets[chosen].reshape(-1)
        nats_each, right = surprisals(logits, targets)
        if observe is not None:
            observe(block.places[chosen].reshape(-1), logits, targets, nats_each)
        block.add(nats_each, nats)
        block.add(np.ones_like(targets), known)
        if vocabulary.unknown is not None:
            symbols = targets == vocabulary.unknown
            block.add(symbols, unknown)
            right &= ~symbols
        correct += int(np.count_nonzero(right))
    of_known, of_unknown = escape_costs(vocabulary)
    nats += unknown * of_unknown + known * of_known
    characters, unknown_characters = int(known.sum() + np.sum(blocks.unknown)), int(unknown.sum())
    each = nats if blocks.kind else None
    return Score(characters, unknown_characters, nats=float(nats.sum()), correct=correct, each=each, kind=blocks.kind)


def escape_costs(vocabulary: Vocabulary) -> tuple[float, float]:
    """What a character costs besides its surprisal by the logits, in nats: (one of the vocabulary, one outside it)."""
    if vocabulary.unknown is not None:
        return 0.0, math.log(UNICODE - (len(vocabulary) - 1))
    return -math.log1p(-ESCAPE), math.log(UNICODE - len(vocabulary)) - math.log(ESCAPE)


def surprisals(logits: Array, targets: Array) -> tuple[Array, Array]:
    """The surprisal of each of `targets` (n,) in nats under `logits` (n, V), and whether it was the top guess: (n,), (n,)."""
    rows, best = np.arange(len(targets)), logits.argmax(axis=1)
    top = logits[rows, best]
    shifted = logits - top[:, None]
    return np.log(np.exp(shifted, out=shifted).sum(axis=1)) + top - logits[rows, targets], best == targets
