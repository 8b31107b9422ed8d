"""Batches cut from a text of ids: `Windows` of running text, `RecordBatches` of lines or paragraphs.

Given ids and a seed, batch number `step` is the same on every machine. Letters: T time steps, B batch.
"""

from typing import NamedTuple

import numpy as np

from charrnn.errors import CharrnnError
from charrnn.options import Recipe
from charrnn.text.corpus import Sliced
from charrnn.text.records import RecordText
from charrnn.text.vocabulary import Ids
from charrnn.training.distributed import ALONE, Group

AHEAD = 16  # windows that are read at once
FRESH = 50  # windows between two fresh starts of a stream, on average
BY_HEART = 2_000  # characters; a shorter text is read in one piece, to be learned by heart
POOL = 8  # batches among which records of near lengths come together
PAD = -1  # the target after a record's end: nothing to learn, nothing lost


class Batch(NamedTuple):
    """What a step learns: T time steps of B sequences of this rank."""

    inputs: np.ndarray  # (T, B) ids
    targets: np.ndarray  # (T, B) ids, PAD after a record's end
    fresh: np.ndarray  # (B,), which sequences begin from the zero state
    shifts: bool  # whether the states first move on by one stream
    characters: int  # that all ranks learn together


def fit_windows(characters: int, batch_size: int, seq_length: int) -> tuple[int, int]:
    """The largest (batch_size, seq_length) no larger than asked for that a text of so many characters fills."""
    steps = characters - 1  # each character but the last is an input
    seq_length = max(1, min(seq_length, steps))
    return max(1, min(batch_size, steps // seq_length)), seq_length


class Windows:
    """Windows of T characters cut from B contiguous streams of one text, epoch after epoch.

    Window k of a stream follows window k - 1, so the state at the end of one is the state at the start of the next. The last
    window of an epoch is as short as what is left of the streams. A stream ends where the next one starts, so from one epoch
    to the next the states move on by one stream: the text is read as one piece, from the zero state. In a longer text each
    stream also begins afresh after FRESH windows on average: a network that has hardly met the zero state would write
    nonsense from it. Of several ranks each cuts the windows of its part of the streams, and reads no other text.
    """

    def __init__(self, ids: Sliced, batch_size: int, seq_length: int, seed: int, group: Group = ALONE):
        self.ids = ids
        self.seq_length = seq_length
        self.seed = seed
        self.mine = group.part(batch_size)
        steps = len(ids) - 1
        self.starts = np.arange(batch_size) * steps // batch_size  # where streams don't divide the text, some share a step
        self.stream_length = -(-steps // batch_size)
        self.per_epoch = -(-self.stream_length // seq_length)
        self.notes: list[str] = []  # for the user
        self._piece = -1
        self._ahead = np.empty((0, 0), np.int32)

    def _read(self, piece: int) -> Ids:
        """What AHEAD windows are cut from: read at once, since reads by streams take a small network's time."""
        if piece != self._piece:
            first, last = (min(k * AHEAD * self.seq_length, self.stream_length) for k in (piece, piece + 1))
            self._piece = piece
            self._ahead = np.stack([self.ids[start + first : start + last + 1] for start in self.starts[self.mine]], axis=1)
        return self._ahead

    def __getitem__(self, step: int) -> Batch:
        """Window number `step` of the run."""
        epoch, window = divmod(step, self.per_epoch)
        first = window * self.seq_length
        length = min(self.seq_length, self.stream_length - first)
        ids = self._read(window // AHEAD)[first % (AHEAD * self.seq_length) :][: length + 1]  # (T + 1, B)
        fresh = np.zeros(len(self.starts), bool)
        if len(self.ids) >= BY_HEART:
            fresh |= np.random.default_rng((self.seed, epoch, window)).random(len(fresh)) < 1 / FRESH
        fresh[0] |= window == 0
        characters = length * len(self.starts)
        return Batch(inputs=ids[:-1], targets=ids[1:], fresh=fresh[self.mine], shifts=window == 0, characters=characters)


class RecordBatches:
    """Batches of whole records of near lengths, epoch after epoch, drawn from (seed, epoch).

    Each epoch shuffles the records, sorts them by length within pools of POOL batches, cuts batches of about as many
    characters as `batch_size` records have on average, and shuffles these. Of a record longer than `seq_length` the rest and
    its end are not learned. Of several ranks each takes every n-th record of a batch, so that their lengths are alike.
    """

    def __init__(self, text: RecordText, batch_size: int, seq_length: int, seed: int, group: Group = ALONE):
        if not len(text):
            raise CharrnnError(f"the text has no {text.kind} with a character that the model knows")
        self.text = text
        self.seed = seed
        self.group = group
        lengths = text.stops - text.starts
        self.lengths = np.minimum(lengths, seq_length)
        self.cut = int(np.count_nonzero(lengths > seq_length))  # how many records are longer
        note = f"{self.cut:,} {text.kind}s are longer than {seq_length:,} characters; the rest of each is not learned"
        self.notes = [note] if self.cut else []  # for the user
        self.total = int(self.lengths.sum())
        self.per_epoch = max(1, int(self.total // max(batch_size * self.lengths.mean(), self.lengths.max())))
        self.unit = max(1, batch_size // 8)  # of it batches hold multiples, since each shape of theirs takes memory and time
        self._epoch = -1
        self._batches: list[np.ndarray] = []

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Which records stand in each batch of an epoch."""
        if epoch != self._epoch:
            generator = np.random.default_rng((self.seed, epoch))
            pools = np.array_split(generator.permutation(len(self.lengths)), max(1, self.per_epoch // POOL))
            for k, pool in enumerate(pools):
                by_length = pool[np.argsort(self.lengths[pool], kind="stable")]
                pools[k] = by_length[::-1] if k % 2 else by_length  # where pools meet, lengths are near as well
            order = np.concatenate(pools)
            before = np.cumsum(self.lengths[order]) - self.lengths[order]
            # No record is longer than a batch's share of the characters: one starts in every share.
            cuts = np.searchsorted(before * self.per_epoch // self.total, np.arange(1, self.per_epoch))
            even = (cuts / self.unit).round().astype(np.int64) * self.unit
            if (np.diff(even, prepend=0, append=len(order)) > 0).all():
                cuts = even
            batches = np.split(order, cuts)
            self._epoch = epoch
            self._batches = [batches[k] for k in generator.permutation(self.per_epoch)]
        return self._batches

    def __getitem__(self, step: int) -> Batch:
        """Batch number `step` of the run; each record begins from the zero state."""
        epoch, batch = divmod(step, self.per_epoch)
        whole = self.batches(epoch)[batch]
        chosen = whole[self.group.rank :: self.group.size]
        lengths = self.lengths[chosen]
        if not len(chosen):  # more ranks than records: this one learns nothing of one of them
            chosen, lengths = whole[:1], np.zeros(1, np.int64)
        at = np.arange(max(1, lengths.max()))[:, None]
        places = np.minimum(self.text.starts[chosen] + at, len(self.text.ids) - 1)
        targets = np.where(at < lengths, self.text.ids[places], PAD)
        inputs = np.concatenate([np.full((1, len(chosen)), self.text.line_break), targets[:-1]])
        inputs = np.where(inputs == PAD, self.text.line_break, inputs)
        characters = int(self.lengths[whole].sum())
        return Batch(inputs=inputs, targets=targets, fresh=np.ones(len(chosen), bool), shifts=False, characters=characters)

    def padding(self, epoch: int = 0) -> float:
        """The share of an epoch's steps that lie after a record's end."""
        steps = sum(len(batch) * int(self.lengths[batch].max()) for batch in self.batches(epoch))
        return 1 - self.total / steps


def make_batches(text: Sliced | RecordText, recipe: Recipe, group: Group = ALONE) -> Windows | RecordBatches:
    """The batches of a running text of ids, or of a text of records. Raises: CharrnnError where it holds no record."""
    sizes = (recipe.batch_size, recipe.seq_length, recipe.seed)
    return RecordBatches(text, *sizes, group) if isinstance(text, RecordText) else Windows(text, *sizes, group)
