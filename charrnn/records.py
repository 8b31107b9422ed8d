"""A text as records: lines or paragraphs, each a sequence of its own that begins from the zero state.

A record is read after a line break and ends with its separator. `split` finds the records of a text, `hold_out` takes some of
them for validation, `Records` makes batches. It knows nothing of networks and files. Letters: T time steps, B records of a
batch.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from charrnn.corpus import Ids, Sliced
from charrnn.distributed import ALONE, Group
from charrnn.errors import CharrnnError

SEPARATORS = {"line": "\n", "paragraph": "\n\n"}  # what ends a record of each kind
LONGEST = 1_000  # characters of a record that are learned, where nothing else is asked for
POOL = 8  # batches among which records of near lengths come together
PAD = -1  # the target after a record's end: nothing to learn, nothing lost
PRINT = 5  # bytes that are kept of each record: 40 bits, so that one in 2^40 / n other texts is taken for one of n records


def split(text: str, kind: str) -> tuple[list[str], list[str]]:
    """The records of `text` without their separators, none of them blank; and notes for the user."""
    notes = []
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        notes.append("its line ends of two characters (CRLF) are read as one line break each")
    text = text.strip("\n") if kind == "paragraph" else text.removesuffix("\n")
    pieces = text.split("\n") if kind == "line" else re.split(r"\n(?:[ \t]*\n)+", text)
    records = [piece for piece in pieces if piece.strip()]
    if kind == "line" and len(records) < len(pieces):
        notes.append(f"{len(pieces) - len(records):,} of its {len(pieces):,} lines are empty and left out")
    return records, notes


def join(records: Iterable[str], kind: str) -> str:
    """The text of `records`, each ended with its separator."""
    return "".join(record + SEPARATORS[kind] for record in records)


def hold_out(records: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str], int]:
    """Take `fraction` of the records out, at random by `seed`: (training, held out in the order drawn, how many were neither).

    Neither are those that were drawn though the training part has the same: to know them again proves nothing.
    """
    order, n = np.random.default_rng(seed).permutation(len(records)), int(len(records) * fraction)
    training = [records[i] for i in np.sort(order[n:])]
    known = set(training)
    held_out = [records[i] for i in order[:n] if records[i] not in known]
    return training, held_out, len(records) - len(training) - len(held_out)


def bounds(ids: Ids, line_break: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Where each record of a text of `ids` (N,) starts and where it stops, after its separator; without empty ones."""
    ends = ids == line_break
    if kind == "paragraph":
        ends[1:] &= ends[:-1].copy()
        ends[:1] = False
    stops = np.flatnonzero(ends) + 1
    starts = np.concatenate([[0], stops])[:-1]
    filled = stops - starts > len(SEPARATORS[kind])
    return starts[filled], stops[filled]


def prints(records: Iterable[str]) -> np.ndarray:
    """Which records there are: PRINT bytes of the BLAKE2 hash of each, distinct and sorted, (n, PRINT) uint8."""
    return np.frombuffer(b"".join(sorted(set(map(digest, records)))), np.uint8).reshape(-1, PRINT)


def digest(record: str) -> bytes:
    """The PRINT bytes that stand for one record."""
    return hashlib.blake2b(record.encode("utf-8", "surrogatepass"), digest_size=PRINT).digest()


class Records:
    """Batches of whole records of near lengths, epoch after epoch; each step is that of `corpus.Windows`.

    Each epoch shuffles the records, sorts them by length within pools of POOL batches, cuts batches of about as many
    characters as `batch_size` records have on average, and shuffles these. All of it follows from (seed, epoch). A record
    longer than `seq_length` is learned so far and no further; its end is not taught then. Of several ranks each takes every
    n-th record of a batch, so that their lengths are alike.
    """

    def __init__(
        self, ids: Sliced, line_break: int, kind: str, batch_size: int, seq_length: int, seed: int, group: Group = ALONE
    ):
        self.ids, self.line_break, self.seed, self.group = ids[0 : len(ids)], line_break, seed, group
        self.starts, stops = bounds(self.ids, line_break, kind)
        if not len(stops):
            raise CharrnnError(f"the text has no {kind} with a character that the model knows")
        self.lengths = np.minimum(stops - self.starts, seq_length)
        self.cut = int(np.count_nonzero(stops - self.starts > seq_length))  # how many are longer
        self.total = int(self.lengths.sum())
        self.per_epoch = max(1, int(self.total // max(batch_size * self.lengths.mean(), self.lengths.max())))
        self.unit = max(1, batch_size // 8)  # of it batches hold multiples, since each shape of theirs takes memory and time
        self._epoch, self._batches = -1, list[np.ndarray]()

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Which records stand in each batch of an epoch."""
        if epoch != self._epoch:
            generator = np.random.default_rng((self.seed, epoch))
            pools = np.array_split(generator.permutation(len(self.starts)), max(1, self.per_epoch // POOL))
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
            self._epoch, self._batches = epoch, [batches[k] for k in generator.permutation(self.per_epoch)]
        return self._batches

    def __getitem__(self, step: int) -> tuple[Ids, Ids, np.ndarray, bool, int]:
        """Batch number `step` of the run.

        Returns: inputs (T, B), targets (T, B) with PAD after a record's end, that all begin from the zero state (B,), that
        no state moves on, and how many characters all ranks learn of it.
        """
        epoch, batch = divmod(step, self.per_epoch)
        whole = self.batches(epoch)[batch]
        chosen = whole[self.group.rank :: self.group.size]
        lengths = self.lengths[chosen]
        if not len(chosen):  # more ranks than records: this one learns nothing of one of them
            chosen, lengths = whole[:1], np.zeros(1, np.int64)
        at = np.arange(max(1, lengths.max()))[:, None]
        places = np.minimum(self.starts[chosen] + at, len(self.ids) - 1)
        targets = np.where(at < lengths, self.ids[places], PAD)
        inputs = np.concatenate([np.full((1, len(chosen)), self.line_break), targets[:-1]])
        inputs = np.where(inputs == PAD, self.line_break, inputs)
        return inputs, targets, np.ones(len(chosen), bool), False, int(self.lengths[whole].sum())

    def padding(self, epoch: int = 0) -> float:
        """The share of an epoch's steps that lie after a record's end."""
        steps = sum(len(batch) * int(self.lengths[batch].max()) for batch in self.batches(epoch))
        return 1 - self.total / steps
