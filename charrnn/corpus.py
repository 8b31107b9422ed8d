"""Text in, numbers out: reads files, folders and pipes, maps characters to ids, splits off validation text, cuts windows.

It knows nothing of networks. Letters: N characters, V vocabulary, B batch, T time steps.
"""

import codecs
import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from charrnn.errors import CharrnnError

Ids = np.ndarray  # int32; -1 stands for a character outside the vocabulary
STDIN = "-"


def read_text(sources: Sequence[str | Path], encoding: str = "utf-8") -> tuple[str, list[str]]:
    """Read all `sources` (files, folders, '-' for standard input) as one text.

    A folder gives every text file below it in sorted order; hidden files and files that are not text are passed over.
    A byte-order mark is dropped, line ends are kept as they are.

    Returns: the text, and a note for each file that was passed over.
    Raises: CharrnnError for what is missing, unreadable, not in `encoding`, or empty in all.
    """
    try:
        codecs.lookup(encoding)
    except (LookupError, ValueError):
        raise CharrnnError(f"unknown encoding {encoding!r}; Python's names are meant, such as utf-8 or latin-1") from None
    texts, notes = [], []
    for source in sources:
        if str(source) == STDIN:
            texts.append(_decode(_read_stdin(), "standard input", encoding))
        elif not Path(source).is_dir():
            texts.append(_decode(_read_file(Path(source)), str(source), encoding))
        else:
            files = sorted(p for p in Path(source).rglob("*") if p.is_file() and not _hidden(p.relative_to(source)))
            for file in files:
                data = _read_file(file)
                try:
                    texts.append(_decode(data, str(file), encoding))
                except CharrnnError:
                    notes.append(f"{file} is not {encoding} text; passed over")
            if not files:
                raise CharrnnError(f"{source} is a folder without files; name one that holds text")
    text = "".join(texts)
    if not text:
        raise CharrnnError(f"no text in {', '.join(map(str, sources))}: it is empty")
    return text, notes


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise CharrnnError("standard input is closed; pipe a text in or name a file")
    return sys.stdin.buffer.read()


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CharrnnError(f"{path} does not exist") from None
    except OSError as error:
        raise CharrnnError(f"{path} can't be read: {error.strerror or error}") from None


def _decode(data: bytes, name: str, encoding: str) -> str:
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"  # the same, less a byte-order mark
        if b"\0" in data[:8192]:
            raise CharrnnError(f"{name} holds NUL bytes, so it is not text; for its bytes as they are, --encoding latin-1")
    try:
        return io.TextIOWrapper(io.BytesIO(data), encoding, newline="").read()
    except (UnicodeDecodeError, UnicodeError) as error:
        where = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise CharrnnError(f"{name} is not {encoding.removesuffix('-sig')}{where}; name its --encoding") from None
    except LookupError:
        raise CharrnnError(f"{encoding} is not an encoding of text") from None


def code_points(text: str) -> np.ndarray:
    """The characters of `text` as numbers, (N,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def fingerprint(text: str) -> str:
    """A hash that tells whether two texts are the same."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Vocabulary:
    """The distinct characters of a text in code-point order; a character's id is its place there.

    >>> Vocabulary("hihello").characters
    'ehilo'
    >>> Vocabulary("hihello").encode("hey")
    array([ 1,  0, -1], dtype=int32)
    """

    def __init__(self, text: str):
        self._codes = np.unique(code_points(text))
        self.characters = self._codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
        self._ids = np.full(int(self._codes[-1]) + 1 if len(self._codes) else 1, -1, np.int32)
        self._ids[self._codes] = np.arange(len(self._codes), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.characters)

    def __repr__(self) -> str:
        return f"Vocabulary({self.characters!r})"

    def encode(self, text: str) -> Ids:
        """The ids of the characters, (N,) int32; -1 for each that the vocabulary lacks."""
        codes = code_points(text)
        known = codes < len(self._ids)
        return np.where(known, self._ids[np.where(known, codes, 0)], np.int32(-1))

    def decode(self, ids: Ids) -> str:
        """The text of `ids` (N,), each of them in 0..V-1."""
        return "".join(self.characters[i] for i in ids)


def split(text: str, validation: float) -> tuple[str, str]:
    """Cut the last `validation` (a fraction of 0 to below 1) of the text off: (training text, validation text)."""
    held_out = int(len(text) * validation)
    return text[: len(text) - held_out], text[len(text) - held_out :]


def fit_windows(characters: int, batch_size: int, seq_length: int) -> tuple[int, int]:
    """The largest (batch_size, seq_length) no larger than asked for that a text of so many characters fills."""
    steps = characters - 1  # each character but the last is an input
    seq_length = max(1, min(seq_length, steps))
    return max(1, min(batch_size, steps // seq_length)), seq_length


FRESH = 50  # windows between two fresh starts of a stream, on average
BY_HEART = 2_000  # characters; a shorter text is read in one piece, to be learned by heart


class Windows:
    """Windows of T characters cut from B contiguous streams of one text, epoch after epoch.

    Window k of a stream follows window k - 1, so the state at the end of one is the state at the start of the next; the
    last window of an epoch is as short as what is left of the streams. A stream ends where the next one starts, so that
    from one epoch to the next the states move on by one stream: the text is read as one piece, from the zero state.

    In a text of some length each stream also begins afresh after FRESH windows on average: a network that has hardly met
    the zero state would write nonsense from it.
    """

    def __init__(self, ids: Ids, batch_size: int, seq_length: int, seed: int):
        self.ids, self.seq_length, self.seed = ids, seq_length, seed
        steps = len(ids) - 1
        self.starts = np.arange(batch_size) * steps // batch_size  # where streams don't divide the text, some share a step
        self.stream_length = -(-steps // batch_size)
        self.per_epoch = -(-self.stream_length // seq_length)

    def __getitem__(self, step: int) -> tuple[Ids, Ids, np.ndarray, bool]:
        """Window number `step` of the run.

        Returns: inputs (T, B), targets (T, B), which streams begin with it from the zero state (B,), and whether the
        states first move on by one stream.
        """
        epoch, window = divmod(step, self.per_epoch)
        first = window * self.seq_length
        length = min(self.seq_length, self.stream_length - first)
        at = self.starts[None, :] + np.arange(first, first + length)[:, None]
        begins = np.zeros(len(self.starts), bool)
        if len(self.ids) >= BY_HEART:
            begins |= np.random.default_rng((self.seed, epoch, window)).random(len(begins)) < 1 / FRESH
        begins[0] |= window == 0
        return self.ids[at], self.ids[at + 1], begins, window == 0


def scoring_blocks(length: int, streams: int, warm_up: int, block: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut `length` steps into parallel streams, each warmed up by the steps before its own part.

    Yields (positions (T, S), counts (T, S)) with T <= `block`: where each stream stands, and whether the step is its own
    to score. Positions below 0 are those of a stream that has not begun.
    """
    part = -(-length // streams)
    starts = part * np.arange(streams)
    for first in range(-warm_up if streams > 1 else 0, part, block):
        offset = np.arange(first, min(first + block, part))[:, None]
        at = starts + offset
        yield np.minimum(at, length - 1), (offset >= 0) & (at < length)
