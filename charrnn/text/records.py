"""A text as records: lines or paragraphs, each a sequence of its own that begins from the zero state.

A record is read after a line break and ends with its separator. `split` finds the records of a text, `hold_out` takes some
of them for validation. It knows nothing of networks and files.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from charrnn.text.vocabulary import Ids

SEPARATORS = {"line": "\n", "paragraph": "\n\n"}  # what ends a record of each kind
LONGEST = 1_000  # characters of a record that are learned, where nothing else is asked for
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
