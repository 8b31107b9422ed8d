"""Score how well a model predicts a text, in bits per character. Scores are comparable between models and engines.

The network reads the text in blocks of parallel sequences; each character costs its surprisal, -log p(character).
Shapes: T time steps, S sequences, V vocabulary size, N characters of a text, R records, n characters of a block.
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

# A character outside the vocabulary costs an escape, and a uniform choice among the rest of Unicode. The probability of the
# escape is the same for every model, so that scores are comparable, and is taken from all other characters.
ESCAPE = 2.0**-20
UNICODE = 0x110000 - 0x800

SEQUENCES = 64  # most parallel sequences that a text is cut into
MIN_LENGTH = 2048  # characters of a sequence, at least
WARM_UP = 256  # characters that a sequence reads before those that it scores
STRETCH = 1 << 22  # characters cut into sequences at a time, so that scores come nearly in the order of the text
MAX_RECORDS = 256  # records of a block
BLOCK = 1 << 20  # logits computed at a time
WIDE = 8  # a block may have up to 8 times as many if one time step of all sequences needs them

# Called with the characters of each block: positions (n,) in the text without unknown characters, logits (n, V) that
# predicted them, ids (n,), and surprisals (n,) under these logits, in nats.
Observe = Callable[[Array, Array, Array, Array], None]

State = TypeVar("State", bound=Iterable[Iterable[Any]])  # per layer some arrays or tensors (S, H)


class Scorable(Protocol[State]):
    """A network in torch or NumPy. `forward` maps ids (T, S) and a state to logits (T, S, V) and the state after them."""

    def initial_state(self, batch_size: int) -> State: ...
    def forward(self, ids: Array, state: State) -> tuple[Array, State]: ...


@dataclass(frozen=True)
class Block:
    """T characters of each of S sequences."""

    inputs: Ids  # (T, S)
    targets: Ids  # (T, S) the character after each input
    places: Array  # (T, S) positions of the targets in the text without unknown characters
    counts: Array  # (T, S) bool, whether the target is scored; the others are warm-up or padding
    fresh: int  # number of sequences, from the first, that start from the zero state
    records: Array | None = None  # (S,) record number of each sequence; None for continuous text

    def add(self, values: Array, sums: Array) -> None:
        """Add `values` (n,) of the scored characters to the `sums` (R,) of their records, or of the whole text (1,)."""
        if self.records is None:
            sums += values.sum(dtype=np.float64)
        else:
            sums[self.records] += np.bincount(np.nonzero(self.counts)[1], values, len(self.records))


@dataclass
class TextBlocks:
    """Cuts continuous text into blocks of parallel sequences.

    Each STRETCH of a long text is cut into up to SEQUENCES sequences of at least MIN_LENGTH characters. To warm up its state,
    a sequence first reads the WARM_UP characters before it. The first one starts from the zero state with the character
    `start`. If several processes share a text, only one of them is given the number of unknown characters.
    """

    ids: Sliced  # (N,) without unknown characters; may be larger than memory
    start: int  # the id before the first character
    unknown: int = 0  # number of unknown characters
    part: Callable[[int], slice] = slice  # maps the number of sequences to those that this process scores
    kind: ClassVar = ""

    def cut(self, characters: int) -> Iterator[Block]:
        """Yield blocks of about `characters` characters."""
        length = len(self.ids)
        sequences = max(1, min(SEQUENCES, length // MIN_LENGTH, WIDE * characters))
        steps = 1 << min(8, max(1, characters // sequences).bit_length() - 1)  # a power of two, to divide WARM_UP
        begun = False
        for begin in range(0, length, STRETCH):
            stop = min(begin + STRETCH, length)
            part = -(-(stop - begin) // sequences)
            starts = (begin + part * np.arange(sequences))[self.part(sequences)]
            if not len(starts):
                return
            for first in range(-WARM_UP if sequences > 1 else 0, part, steps):
                offset = np.arange(first, min(first + steps, part))[:, None]
                counts = (offset >= 0) & (starts + offset < stop)
                places = np.minimum(starts + offset, stop - 1)
                before = np.maximum(np.concatenate([places[:1] - 1, places]), 0)  # (T + 1, S), contiguous text in each column
                read = np.stack([self.ids[at[0] : at[-1] + 1][at - at[0]] for at in before.T], axis=1)
                inputs = np.where(places > 0, read[:-1], self.start)
                fresh = int(places[0, 0] == 0) if begun else len(starts)  # the first sequence after its warm-up, or all
                yield Block(inputs=inputs, targets=read[1:], places=places, counts=counts, fresh=fresh)
                begun = True


class RecordBlocks:
    """Cuts records into blocks of records of similar length. Each record starts from the zero state."""

    def __init__(self, text: RecordText):
        inside = text.ids >= 0
        before = np.concatenate([[0], np.cumsum(inside)])  # (N + 1,) number of known characters before each position
        self.kind, self.start = text.kind, text.line_break
        self.ids = text.ids[inside]
        self.starts = before[text.starts]  # (R,) in `ids`
        self.lengths = before[text.stops] - self.starts  # (R,)
        self.unknown = text.stops - text.starts - self.lengths  # (R,) number of unknown characters

    def cut(self, characters: int) -> Iterator[Block]:
        """Yield blocks of about `characters` characters."""
        order = np.argsort(-self.lengths, kind="stable")
        done = 0
        while done < len(order) and self.lengths[order[done]]:
            longest = int(self.lengths[order[done]])
            chosen = order[done : done + max(1, min(MAX_RECORDS, characters // longest))]
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
    """How well a model predicts a text. Unknown characters count, too."""

    characters: int
    unknown_characters: int  # outside the vocabulary; each costs ESCAPE and a choice among the rest of Unicode
    nats: float  # total cross-entropy
    correct: int  # characters that were the model's top guess
    each: Array | None = field(default=None, compare=False)  # (R,) nats per record; None for continuous text
    kind: str = ""  # "line" or "paragraph"; "" for continuous text

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
        """The `n` records that the model predicts worst: (record number, bits)."""
        assert self.each is not None
        return [(int(k), float(self.each[k]) / math.log(2)) for k in np.argsort(-self.each, kind="stable")[:n]]

    def to_dict(self) -> dict[str, float]:
        """The scores, with the names that `charrnn eval --json` prints."""
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
    """Score a text that `blocks` cuts into blocks.

    `watch(done, total)` is called with numbers of characters, `observe` with the known characters of each block; in running
    text a whole STRETCH is observed before the next. The network skips unknown characters. If the vocabulary has a symbol for
    them, the network reads that symbol instead; they cost its probability (no escape) and a choice among the rest of Unicode.
    """
    V = len(vocabulary)
    unknown = np.atleast_1d(blocks.unknown).astype(np.float64)  # (R,); (1,) for continuous text
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
        chosen = slice(None) if block.counts.all() else block.counts  # a slice makes no copy
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
    """The nats to add to a character's surprisal under the logits: (known character, unknown character)."""
    if vocabulary.unknown is not None:
        return 0.0, math.log(UNICODE - (len(vocabulary) - 1))
    return -math.log1p(-ESCAPE), math.log(UNICODE - len(vocabulary)) - math.log(ESCAPE)


def surprisals(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Returns: the surprisals (n,) of `targets` (n,) under `logits` (n, V), in nats; whether they were the top guess (n,)."""
    rows, best = np.arange(len(targets)), logits.argmax(axis=1)
    top = logits[rows, best]
    shifted = logits - top[:, None]
    return np.log(np.exp(shifted, out=shifted).sum(axis=1)) + top - logits[rows, targets], best == targets
