"""Cut batches from ids: `Windows` from continuous text, `RecordBatches` from lines or paragraphs.

For given ids and seed, the batch of a step is the same on every machine. Shapes: T time steps, B sequences of a batch.
"""

from typing import NamedTuple

import numpy as np

from charrnn.errors import CharrnnError
from charrnn.options import Recipe
from charrnn.text.corpus import Sliced
from charrnn.text.records import RecordText
from charrnn.text.vocabulary import Ids
from charrnn.training.distributed import ALONE, Group

AHEAD = 16  # windows read from the file at once
RESET_EVERY = 50  # steps between two resets of a sequence's state to zero, on average
SHORT_TEXT = 2_000  # characters; below, states are never reset, so that the whole text can be memorized
POOL = 8  # batches whose records are sorted by length together
PAD = -1  # target after the end of a record, ignored by the loss


class Batch(NamedTuple):
    """The data of one step, of this rank."""

    inputs: np.ndarray  # (T, B) ids
    targets: np.ndarray  # (T, B) ids, PAD after a record's end
    fresh: np.ndarray  # (B,) bool, which sequences start from the zero state
    shifts: bool  # whether sequence k first takes over the state of sequence k - 1
    characters: int  # of all ranks together


def fit_windows(characters: int, batch_size: int, seq_length: int) -> tuple[int, int]:
    """Reduce batch size and sequence length to what a text of this length fills."""
    steps = characters - 1  # each character but the last is an input
    seq_length = max(1, min(seq_length, steps))
    return max(1, min(batch_size, steps // seq_length)), seq_length


class Windows:
    """Batches of continuous text, for truncated backpropagation through time.

    The text is cut into B contiguous segments, one per sequence of the batch. A step takes the next T characters of each (a
    window; the last of an epoch may be shorter), and the hidden state is carried to the next step. Segment k + 1 follows
    segment k, so at each epoch the states move on by one sequence, as if the text were read in one piece. States are also
    reset to zero at random: a network that hardly ever saw the zero state would write nonsense from it. Each rank reads only
    its own segments.
    """

    def __init__(self, ids: Sliced, batch_size: int, seq_length: int, seed: int, group: Group = ALONE):
        self.ids = ids
        self.seq_length = seq_length
        self.seed = seed
        self.mine = group.part(batch_size)
        steps = len(ids) - 1
        self.starts = np.arange(batch_size) * steps // batch_size  # neighbouring segments may overlap by one character
        self.segment_length = -(-steps // batch_size)
        self.per_epoch = -(-self.segment_length // seq_length)
        self.notes: list[str] = []  # for the user
        self._piece = -1
        self._ahead = np.empty((0, 0), np.int32)

    def _read(self, piece: int) -> Ids:
        """Read AHEAD windows at once, (AHEAD * T + 1, B): single reads would take as long as a small network's step."""
        if piece != self._piece:
            first, last = (min(k * AHEAD * self.seq_length, self.segment_length) for k in (piece, piece + 1))
            self._piece = piece
            self._ahead = np.stack([self.ids[start + first : start + last + 1] for start in self.starts[self.mine]], axis=1)
        return self._ahead

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        epoch, window = divmod(step, self.per_epoch)
        first = window * self.seq_length
        length = min(self.seq_length, self.segment_length - first)
        ids = self._read(window // AHEAD)[first % (AHEAD * self.seq_length) :][: length + 1]  # (T + 1, B)
        fresh = np.zeros(len(self.starts), bool)
        if len(self.ids) >= SHORT_TEXT:
            fresh |= np.random.default_rng((self.seed, epoch, window)).random(len(fresh)) < 1 / RESET_EVERY
        fresh[0] |= window == 0
        characters = length * len(self.starts)
        return Batch(inputs=ids[:-1], targets=ids[1:], fresh=fresh[self.mine], shifts=window == 0, characters=characters)


class RecordBatches:
    """Batches of whole records of similar length.

    Each epoch shuffles the records, sorts them by length within pools of POOL batches, cuts batches with about as many
    characters as `batch_size` records of mean length, and shuffles the batches. Records are truncated after `seq_length`
    characters. With n ranks, each takes every n-th record of a batch.
    """

    def __init__(self, text: RecordText, batch_size: int, seq_length: int, seed: int, group: Group = ALONE):
        if not len(text):
            raise CharrnnError(f"the text has no {text.kind} with a character of the model's vocabulary")
        self.text = text
        self.seed = seed
        self.group = group
        lengths = text.stops - text.starts
        self.lengths = np.minimum(lengths, seq_length)
        self.cut = int(np.count_nonzero(lengths > seq_length))  # number of truncated records
        note = f"{self.cut:,} {text.kind}s are longer than {seq_length:,} characters; the rest of each is skipped"
        self.notes = [note] if self.cut else []  # for the user
        self.total = int(self.lengths.sum())
        self.per_epoch = max(1, int(self.total // max(batch_size * self.lengths.mean(), self.lengths.max())))
        self.unit = max(1, batch_size // 8)  # batches hold multiples of it: oneDNN keeps code for each shape
        self._epoch = -1
        self._batches: list[np.ndarray] = []

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The record numbers of each batch of an epoch."""
        if epoch != self._epoch:
            generator = np.random.default_rng((self.seed, epoch))
            pools = np.array_split(generator.permutation(len(self.lengths)), max(1, self.per_epoch // POOL))
            for k, pool in enumerate(pools):
                by_length = pool[np.argsort(self.lengths[pool], kind="stable")]
                pools[k] = by_length[::-1] if k % 2 else by_length  # lengths are similar across the border of two pools, too
            order = np.concatenate(pools)
            before = np.cumsum(self.lengths[order]) - self.lengths[order]
            # No record is longer than total / per_epoch characters, so no batch is empty.
            cuts = np.searchsorted(before * self.per_epoch // self.total, np.arange(1, self.per_epoch))
            even = (cuts / self.unit).round().astype(np.int64) * self.unit
            if (np.diff(even, prepend=0, append=len(order)) > 0).all():
                cuts = even
            batches = np.split(order, cuts)
            self._epoch = epoch
            self._batches = [batches[k] for k in generator.permutation(self.per_epoch)]
        return self._batches

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, counted from 0. Each record starts from the zero state."""
        epoch, batch = divmod(step, self.per_epoch)
        batch_records = self.batches(epoch)[batch]
        chosen = batch_records[self.group.rank :: self.group.size]
        lengths = self.lengths[chosen]
        if not len(chosen):  # more ranks than records: this rank gets one record, all padding
            chosen, lengths = batch_records[:1], np.zeros(1, np.int64)
        at = np.arange(max(1, lengths.max()))[:, None]
        places = np.minimum(self.text.starts[chosen] + at, len(self.text.ids) - 1)
        targets = np.where(at < lengths, self.text.ids[places], PAD)
        inputs = np.concatenate([np.full((1, len(chosen)), self.text.line_break), targets[:-1]])
        inputs = np.where(inputs == PAD, self.text.line_break, inputs)
        characters = int(self.lengths[batch_records].sum())
        return Batch(inputs=inputs, targets=targets, fresh=np.ones(len(chosen), bool), shifts=False, characters=characters)

    def padding(self, epoch: int = 0) -> float:
        """The fraction of an epoch's (T, B) entries that are padding."""
        steps = sum(len(batch) * int(self.lengths[batch].max()) for batch in self.batches(epoch))
        return 1 - self.total / steps


def make_batches(text: Sliced | RecordText, recipe: Recipe, group: Group = ALONE) -> Windows | RecordBatches:
    """Make the batches of continuous text or of records. Raises: CharrnnError if there is no record."""
    sizes = (recipe.batch_size, recipe.seq_length, recipe.seed)
    return RecordBatches(text, *sizes, group) if isinstance(text, RecordText) else Windows(text, *sizes, group)
