"""A text as records: lines or paragraphs, each a sequence of its own that begins from the zero state.

A record is read after a line break and ends with its separator. Letters: N characters of a text, R records.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from charrnn.text.vocabulary import Ids

SEPARATORS = {"line": "\n", "paragraph": "\n\n"}  # what ends a record of each kind
LONGEST = 1_000  # characters of a record that are learned, unless the user asks for another number
HASH_BYTES = 5  # kept of each record's hash: with 40 bits, one in 2^40 / n other texts is taken for one of n records


@dataclass(frozen=True)
class RecordText:
    """A text of records as ids, with the place where each record starts and stops. `find_records` makes one."""

    ids: Ids  # (N,), -1 for characters outside the vocabulary
    kind: str  # of its records: "line" or "paragraph"
    line_break: int  # the id of the line break, after which each record is read
    starts: np.ndarray  # (R,)
    stops: np.ndarray  # (R,), each after the record's separator

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, part: slice) -> "RecordText":
        """The same text with a part of its records."""
        return replace(self, starts=self.starts[part], stops=self.stops[part])


def find_records(ids: Ids, kind: str, line_break: int) -> RecordText:
    """Find where the records of a text of `ids` (N,) start and stop; empty ones are left out."""
    ends = ids == line_break
    if kind == "paragraph":
        ends[1:] &= ends[:-1].copy()
        ends[:1] = False
    stops = np.flatnonzero(ends) + 1
    starts = np.concatenate([[0], stops])[:-1]
    filled = stops - starts > len(SEPARATORS[kind])
    return RecordText(ids, kind=kind, line_break=line_break, starts=starts[filled], stops=stops[filled])


def split(text: str, kind: str) -> tuple[list[str], list[str]]:
    """Split `text` into its records, without separators and blank ones. Returns: the records, and notes for the user."""
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
    """Join `records` to a text in which each ends with its separator."""
    return "".join(record + SEPARATORS[kind] for record in records)


def hold_out(records: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str], int]:
    """Draw `fraction` of the records for validation, at random by `seed`, but leave out those that training has as well.

    Where this leaves out over three quarters, as of a list with many repeats, each is drawn with all of its copies instead.
    Returns: the training part, the records held out in the order drawn, and how many were left out.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(records))
    n = int(len(records) * fraction)
    training = [records[i] for i in np.sort(order[n:])]
    seen = set(training)
    held_out = [records[i] for i in order[:n] if records[i] not in seen]
    if 4 * len(held_out) >= n:
        return training, held_out, n - len(held_out)
    copies = Counter(records)
    distinct = list(copies)
    drawn: set[str] = set()
    for k in generator.permutation(len(distinct)):
        if copies[distinct[k]] <= n:
            n -= copies[distinct[k]]
            drawn.add(distinct[k])
    return [record for record in records if record not in drawn], [records[i] for i in order if records[i] in drawn], 0


def hash_records(records: Iterable[str]) -> np.ndarray:
    """The BLAKE2 hashes of `records`, distinct and sorted, (n, HASH_BYTES) uint8."""
    hashes = {hashlib.blake2b(record.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest() for record in records}
    return np.frombuffer(b"".join(sorted(hashes)), np.uint8).reshape(-1, HASH_BYTES)
