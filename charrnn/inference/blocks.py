"""Cuts texts into blocks of parallel sequences, to score them quickly.

Shapes: T time steps, S sequences, N characters of a text, R records, n characters of a block.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from charrnn.text.corpus import Sliced
from charrnn.text.records import RecordText
from charrnn.text.vocabulary import Ids, Vocabulary

Array = np.ndarray

SEQUENCES = 64  # most parallel sequences that a text is cut into
MIN_LENGTH = 4096  # characters of a sequence, at least
WARM_UP = 1536  # characters that a sequence reads before those that it scores
LONG_WARM_UP = 512  # the same for texts of SEQUENCES long sequences, whose many errors cancel out
STRETCH = 1 << 22  # characters cut into sequences at a time, so that a text on disk is read nearly in order
MAX_RECORDS = 256  # records of a block
WIDE = 8  # a block may have up to 8 times as many if one time step of all sequences needs them


@dataclass(frozen=True)
class Block:
    """T characters of each of S sequences."""

    inputs: Ids  # (T, S)
    targets: Ids  # (T, S) the character after each input
    places: Array  # (T, S) positions of the targets in the text without unknown characters
    counts: Array  # (T, S) bool, whether the target is scored; the others are warm-up or padding
    fresh: int  # number of sequences, from the first, that start from the zero state
    records: Array | None = None  # (S,) record number of each sequence; None for continuous text
    blank: Array | None = None  # (T, S) bool, whether the record is blank so far, and so can't end; None for continuous text

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
    a sequence first reads the WARM_UP characters before it, which keeps the mean within 0.0005 bits of one pass. `quick`
    reads less, and can be off by 0.002 bits. The first sequence starts from the zero state with the character `start`. If
    several processes share a text, only one of them is given the number of unknown characters.
    """

    ids: Sliced  # (N,) without unknown characters; may be larger than memory
    start: int  # the id before the first character
    unknown: int = 0  # number of unknown characters
    quick: bool = False  # for validation during training
    part: Callable[[int], slice] = slice  # maps the number of sequences to those that this process scores
    kind: ClassVar = ""

    def cut(self, characters: int) -> Iterator[Block]:
        """Yield blocks of about `characters` characters."""
        length = len(self.ids)
        sequences = max(1, min(SEQUENCES, length // (MIN_LENGTH // 2 if self.quick else MIN_LENGTH), WIDE * characters))
        warm_up = 256 if self.quick else LONG_WARM_UP if sequences == SEQUENCES else WARM_UP
        characters *= 1 if self.quick else 2
        steps = 1 << min(8, max(1, characters // sequences).bit_length() - 1)  # a power of two, to divide the warm-up
        begun = False
        for begin in range(0, length, STRETCH):
            stop = min(begin + STRETCH, length)
            part = -(-(stop - begin) // sequences)
            starts = (begin + part * np.arange(sequences))[self.part(sequences)]
            if not len(starts):
                return
            for first in range(-warm_up if sequences > 1 else 0, part, steps):
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

    def __init__(self, text: RecordText, vocabulary: Vocabulary):
        inside = text.ids >= 0
        filled = np.flatnonzero(~inside | ~vocabulary.is_space[text.ids])  # characters that are not white space
        first = filled[np.searchsorted(filled, text.starts)]  # (R,) the first of them in each record
        self.blank = first - text.starts + inside[first]  # (R,) known characters that are read while the record is blank
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
                fresh = 0 if first else len(chosen)
                blank = offset[t] < self.blank[chosen]
                yield Block(inputs[t], targets[t], places[t], counts[t], fresh=fresh, records=chosen, blank=blank)
