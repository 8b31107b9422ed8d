"""Score how well a model predicts a text, in bits per character. Scores are comparable between models and engines.

Each character costs its surprisal, -log p(character). `score` adds up a whole text, in blocks of parallel sequences; `pieces`
gives the surprisal of every character, in the text's order.
Shapes: T time steps, S sequences, V vocabulary size, N characters of a text, R records, n characters of a block or piece.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np

from charrnn.inference.blocks import Block, RecordBlocks, TextBlocks
from charrnn.text.corpus import Corpus
from charrnn.text.records import SEPARATORS, find_records, find_spans
from charrnn.text.vocabulary import Ids, Vocabulary

Array = np.ndarray

# A character outside the vocabulary costs an escape, and a uniform choice among the rest of Unicode. The probability of the
# escape is the same for every model, so that scores are comparable, and is taken from all other characters.
ESCAPE = 2.0**-20
UNICODE = 0x110000 - 0x800

BLOCK = 1 << 20  # logits computed at a time

Watch = Callable[[int, int], None]  # called with the number of characters scored, and their total
State = TypeVar("State", bound=Iterable[Iterable[Any]])  # per layer some arrays or tensors (S, H)


class Scorable(Protocol[State]):
    """A network in torch or NumPy. `forward` maps ids (T, S) and a state to logits (T, S, V) and the state after them."""

    def initial_state(self, batch_size: int) -> State: ...
    def forward(self, ids: Array, state: State) -> tuple[Array, State]: ...


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
    network: Scorable[State], blocks: TextBlocks | RecordBlocks, vocabulary: Vocabulary, watch: Watch | None = None
) -> Score:
    """Score a text that `blocks` cuts into blocks.

    The network skips unknown characters. If the vocabulary has a symbol for them, the network reads that symbol instead; they
    cost its probability (no escape) and a choice among the rest of Unicode.
    """
    unknown = np.atleast_1d(blocks.unknown).astype(np.float64)  # (R,); (1,) for continuous text
    known, nats = np.zeros_like(unknown), np.zeros_like(unknown)
    correct = done = 0
    for block, logits in _run(network, blocks, len(vocabulary)):
        done += int(np.count_nonzero(block.counts))
        if watch is not None:
            watch(done, len(blocks.ids))
        if not block.counts.any():
            continue
        chosen = slice(None) if block.counts.all() else block.counts  # a slice makes no copy
        targets = block.targets[chosen].reshape(-1)
        nats_each, right = surprisals(logits[chosen].reshape(-1, len(vocabulary)), targets)
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


def _run(network: Scorable[State], blocks: TextBlocks | RecordBlocks, V: int) -> Iterator[tuple[Block, Array]]:
    """Yield each block with the logits (T, S, V) that predict its targets."""
    for block in blocks.cut(max(1, BLOCK // V)):
        if block.fresh == block.inputs.shape[1]:
            state = network.initial_state(block.fresh)
        elif block.fresh:
            for part in chain.from_iterable(state):
                part[: block.fresh] = 0
        logits, state = network.forward(block.inputs, state)
        if block.blank is not None:
            logits[..., blocks.start][block.blank] = -np.inf
        yield block, logits


@dataclass(frozen=True)
class Piece:
    """Consecutive characters of a text, and what the model says of each."""

    start: int  # position of its first character in the text, from 0
    line: int  # of its first character, from 1
    column: int  # from 1
    text: str  # n characters
    ids: Ids  # (n,), -1 for unknown characters
    logits: Array  # (n, V) that predict the characters
    bits: Array  # (n,) float64, the surprisals with the costs of unknown characters
    correct: Array  # (n,) bool, whether the model's top guess was right


def pieces(
    network: Scorable[State],
    text: Corpus,
    vocabulary: Vocabulary,
    start: int,
    kind: str | None = None,
    watch: Watch | None = None,
) -> Iterator[Piece]:
    """Read `text` in one pass, after the character `start`, and yield it in order, in pieces of bounded size.

    With `kind` "line" or "paragraph" each record starts from the zero state and is a piece; what is in no record is skipped.
    The surprisal of a character never depends on what follows it.
    """
    found = (
        _read_text(network, text, vocabulary, start) if kind is None else _read_records(network, text, vocabulary, start, kind)
    )
    for piece in found:
        yield piece
        if watch is not None:
            watch(piece.start + len(piece.text), len(text))


def _read_text(network: Scorable[State], text: Corpus, vocabulary: Vocabulary, start: int) -> Iterator[Piece]:
    table = vocabulary.encode(text.alphabet)
    step = max(1, BLOCK // len(vocabulary))
    ahead, state = network.forward(np.array([[start]]), network.initial_state(1))  # (1, 1, V): the next character's logits
    line, column = 1, 1
    for begin in range(0, len(text), step):
        ids = table[text[begin : begin + step]]
        logits, state = network.forward(ids[ids >= 0][:, None], state)
        logits = np.concatenate([ahead, logits])[:, 0]
        ahead = logits[None, -1:]
        characters = text.text(begin, begin + len(ids))
        known = ids >= 0
        yield _piece((begin, line, column), characters, ids, logits[np.cumsum(known) - known], vocabulary)
        line += characters.count("\n")
        column = len(characters) - characters.rfind("\n") if "\n" in characters else column + len(characters)


def _read_records(network: Scorable[State], text: Corpus, vocabulary: Vocabulary, start: int, kind: str) -> Iterator[Piece]:
    whole, separator = text.text(), SEPARATORS[kind]
    spans = find_spans(whole, kind)
    room = max(1, 4 * BLOCK // len(vocabulary))  # characters of a group
    line = at = first = 0
    while first < len(spans):
        last = first + 1
        while last < len(spans) and spans[last][1] - spans[first][0] < room:
            last += 1
        ids = vocabulary.encode("".join(whole[begin:stop] + separator for begin, stop in spans[first:last]))
        known = ids >= 0
        blocks = RecordBlocks(find_records(ids, kind=kind, line_break=start), vocabulary)
        logits = np.empty((len(blocks.ids), len(vocabulary)), np.float32)
        for block, computed in _run(network, blocks, len(vocabulary)):
            logits[block.places[block.counts]] = computed[block.counts]
        logits = logits[np.cumsum(known) - known]
        done = 0
        for begin, stop in spans[first:last]:
            line += whole.count("\n", at, begin)
            at = begin
            n = slice(done, done + stop - begin + len(separator))
            done = n.stop
            column = begin - whole.rfind("\n", 0, begin)
            yield _piece((begin, line + 1, column), whole[begin:stop] + separator, ids[n], logits[n], vocabulary)
        first = last


def _piece(place: tuple[int, int, int], text: str, ids: Ids, logits: Array, vocabulary: Vocabulary) -> Piece:
    """Make the piece at `place` (start, line, column)."""
    of_known, of_unknown = escape_costs(vocabulary)
    nats, correct = surprisals(logits, np.maximum(ids, 0))
    known = ids >= 0
    if vocabulary.unknown is not None:
        known = ids != vocabulary.unknown
    of_outside = of_unknown if vocabulary.unknown is None else nats + of_unknown
    bits = np.where(known, nats + of_known, of_outside) / math.log(2)
    return Piece(*place, text, ids=ids, logits=logits, bits=bits, correct=correct & known)


class Totals:
    """Adds up pieces to the Score of the text. `kind` is that of its records."""

    def __init__(self, vocabulary: Vocabulary, kind: str | None = None):
        self.vocabulary = vocabulary
        self.kind = kind
        self._characters = self._unknown = self._correct = 0
        self._bits: list[float] = []  # of each piece

    def add(self, piece: Piece) -> None:
        outside = np.isin(piece.ids, (-1, self.vocabulary.unknown or -1))
        self._characters += len(piece.text)
        self._unknown += int(np.count_nonzero(outside))
        self._correct += int(np.count_nonzero(piece.correct))
        self._bits.append(float(piece.bits.sum()))

    def finish(self) -> Score:
        nats = np.array(self._bits) * math.log(2)
        each = nats if self.kind else None
        counts = (self._characters, self._unknown)
        return Score(*counts, nats=float(nats.sum()), correct=self._correct, each=each, kind=self.kind or "")


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
