"""Records: lines or paragraphs of a text, each a sequence of its own that starts from the zero state.

The first input of a record is a line break, its last target the separator. Shapes: N characters of a text, R records.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from charrnn.text.corpus import Corpus
from charrnn.text.reading import build_corpus
from charrnn.text.vocabulary import Ids

SEPARATORS = {"line": "\n", "paragraph": "\n\n"}  # the end of a record of each kind
LONGEST = 1_000  # default maximum length of a record, in characters
BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")  # between two paragraphs
HASH_BYTES = 5  # bytes of a record's hash: with 40 bits, a new text matches one of n records in n of 2^40 cases


@dataclass(frozen=True)
class RecordText:
    """A text of records as ids, with the start and stop of each record. `find_records` makes one."""

    ids: Ids  # (N,), -1 for unknown characters
    kind: str  # "line" or "paragraph"
    line_break: int  # the id of the line break, the first input of each record
    starts: np.ndarray  # (R,)
    stops: np.ndarray  # (R,), after the record's separator

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, part: slice) -> "RecordText":
        """The same text with a part of its records."""
        return replace(self, starts=self.starts[part], stops=self.stops[part])


def find_records(ids: Ids, kind: str, line_break: int) -> RecordText:
    """Find the records in `ids` (N,), without empty ones."""
    ends = ids == line_break
    if kind == "paragraph":
        ends[1:] &= ends[:-1].copy()
        ends[:1] = False
    stops = np.flatnonzero(ends) + 1
    starts = np.concatenate([[0], stops])[:-1]
    filled = stops - starts > len(SEPARATORS[kind])
    return RecordText(ids, kind=kind, line_break=line_break, starts=starts[filled], stops=stops[filled])


def unify_breaks(text: Corpus) -> Corpus:
    """The same text, with line ends of two characters (CRLF) as single line breaks, as `split` reads them."""
    if "\r" not in text.alphabet:
        return text
    return build_corpus(text.text().replace("\r\n", "\n"))


def split(text: str, kind: str) -> tuple[list[str], list[str]]:
    """Split `text` into records, without separators and without blank records. Returns: the records, and notes."""
    notes = []
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        notes.append("its line ends of two characters (CRLF) are read as single line breaks")
    pieces = [piece for _, piece in _cut(text, kind)]
    records = [piece for piece in pieces if piece.strip()]
    if kind == "line" and len(records) < len(pieces):
        notes.append(f"skipped {len(pieces) - len(records):,} of its {len(pieces):,} lines, which are empty")
    return records, notes


def find_spans(text: str, kind: str) -> list[tuple[int, int]]:
    """Start and stop of each record that `split` finds in `text`, which has no CRLF."""
    return [(start, start + len(piece)) for start, piece in _cut(text, kind) if piece.strip()]


def _cut(text: str, kind: str) -> Iterator[tuple[int, str]]:
    """Cut `text` at its separators. Yields: the position of each piece, and the piece."""
    if kind == "line":
        start = 0
        for piece in text.removesuffix("\n").split("\n"):
            yield start, piece
            start += len(piece) + 1
        return
    start = len(text) - len(text.lstrip("\n"))
    stop = len(text.rstrip("\n"))
    for gap in BLANK_LINES.finditer(text, start, stop):
        yield start, text[start : gap.start()]
        start = gap.end()
    yield start, text[start:stop]


def join_inside(text: str, kind: str) -> str:
    """Make one record of `text`: line breaks inside become spaces; for a paragraph, blank lines become line breaks."""
    return BLANK_LINES.sub("\n", text) if kind == "paragraph" else re.sub(r"\n(?:[ \t]*\n)*", " ", text)


def join(records: Iterable[str], kind: str) -> str:
    """Join `records` to a text, with a separator after each."""
    return "".join(record + SEPARATORS[kind] for record in records)


def hold_out(records: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str], int]:
    """Draw a random `fraction` of the records for validation, without those that are also in the training part.

    If this would drop more than three quarters of them (a list with many repeats), records are drawn together with all their
    copies instead.

    Returns: training records, held-out records in the order drawn, number of records dropped.
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
    """The distinct BLAKE2 hashes of `records`, sorted, (n, HASH_BYTES) uint8."""
    hashes = {hashlib.blake2b(record.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest() for record in records}
    return np.frombuffer(b"".join(sorted(hashes)), np.uint8).reshape(-1, HASH_BYTES)
