"""Keeps the ids of a text: short ones in memory, long ones in a file of the user's cache folder, found again by its hash.

`IdWriter` makes ids of text as it comes and gives a `Corpus`; `load` opens one that was kept. A file is used again only
where its own hash is right.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from charrnn.errors import CharrnnError
from charrnn.text.corpus import Corpus, Sliced
from charrnn.text.vocabulary import code_points

BLOCK = 1 << 20  # ids, or bytes of a file, that are hashed at a time; the hashes depend on it
IN_MEMORY = 1 << 24  # characters up to which a text needs no file
FORMAT = 1  # of the files
WIDTHS = tuple(map(np.dtype, ("<u1", "<u2", "<u4")))  # of ids: the smallest that holds the alphabet


class IdWriter:
    """Turns text into ids, piece by piece, and keeps them: at first in memory, from IN_MEMORY characters on in a file.

    Use it as a context manager: a file that was not finished goes away with it.
    """

    def __init__(self, named: bool):
        self.named = named  # else the file has no name, and goes when its corpus does
        self.codes = np.empty(0, np.uint32)  # the alphabet
        self.firsts = np.empty(0, np.int64)  # where each character of it first stands
        self.length = 0
        self._pieces: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._make_table(WIDTHS[0])

    def __enter__(self) -> "IdWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._drop(self._file)

    def write(self, text: str) -> None:
        """Add `text`."""
        while (ids := self._look_up(text)) is None:
            pass
        self.length += len(ids)
        if self._file is not None:
            self._put(self._file, ids)
            return
        self._pieces.append(ids)
        if self.length > IN_MEMORY:
            self._file = self._open()
            while self._pieces:
                self._put(self._file, self._pieces.pop(0))

    def roll_back(self, length: int) -> None:
        """Forget all but the first `length` characters."""
        alphabet = int(np.searchsorted(self.firsts, length))
        self.codes, self.firsts, self.length = self.codes[:alphabet], self.firsts[:alphabet], length
        self._make_table(self._width)
        if self._file is not None:
            self._file.seek(length * self._width.itemsize)
            self._file.truncate()
        elif self._pieces:
            self._pieces = [np.concatenate(self._pieces)[:length]]

    def finish(self, path: Path | None, skipped: list[int], notes: list[str]) -> Corpus:
        """The corpus of all that was written; what went into a file stands at `path` then."""
        if self._width != (fitting := _width(len(self.codes))):  # a file that was passed over had made it wider
            self._convert(fitting)
        if self._file is None:
            ids: Sliced = np.concatenate(self._pieces)
        else:
            self._file.flush()
            ids = Stored(self._file, self._width, self.length)
        corpus = Corpus(ids, self.codes, self.firsts, _fingerprint(ids, self.codes), notes)
        if self._file is not None and path is not None:
            facts = {"length": self.length, "skipped": skipped, "fingerprint": corpus.fingerprint}
            trailer = json.dumps(facts | {"alphabet": self.codes.tolist(), "firsts": self.firsts.tolist()}).encode()
            with _storing():
                self._file.write(trailer + hashlib.sha256(trailer).digest() + len(trailer).to_bytes(8, "little"))
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._file.name, path)
            corpus.path = path
            corpus.notes.append(f"the text's ids are kept in {path} for the next run, {self._file.tell() / 1e6:,.0f} MB")
        self._file = None  # it is the corpus's now
        return corpus

    def _look_up(self, text: str) -> np.ndarray | None:
        """The ids of `text`; or None where it has new characters, which are in the alphabet then."""
        top = np.iinfo(self._width).max  # stands for new characters, and may be an id as well
        try:
            narrow = text.encode("latin-1")
            codes = np.frombuffer(narrow, np.uint8)
        except UnicodeEncodeError:
            narrow, codes = b"", code_points(text)
        if narrow and self._width == np.uint8:
            ids = np.frombuffer(narrow.translate(self._table[:256].tobytes()), np.uint8)
        else:
            ids = self._table.take(codes)
        new = ids == top
        if len(self.codes) > top:
            new &= codes != self.codes[top]
        if not new.any():
            return ids
        at = np.flatnonzero(new)
        found, first = np.unique(codes[at], return_index=True)
        order = np.argsort(first)
        self.codes = np.concatenate([self.codes, found[order].astype(np.uint32)])
        self.firsts = np.concatenate([self.firsts, self.length + at[first[order]]])
        if len(self.codes) > top + 1:
            self._convert(_width(len(self.codes)))
        else:
            self._make_table(self._width)
        return None

    def _make_table(self, width: "np.dtype[Any]") -> None:
        self._width = width
        self._table = np.full(0x110000, np.iinfo(width).max, width)  # from code points to ids
        self._table[self.codes] = np.arange(len(self.codes))

    def _convert(self, width: "np.dtype[Any]") -> None:
        """Go over to ids of another width."""
        if self._file is None:
            self._pieces = [piece.astype(width) for piece in self._pieces]
        else:
            self._file.flush()
            old, new = self._file, self._open()
            try:
                for at in range(0, self.length, BLOCK):
                    ids = np.frombuffer(
                        os.pread(old.fileno(), BLOCK * self._width.itemsize, at * self._width.itemsize), self._width
                    )
                    self._put(new, ids[: self.length - at].astype(width))
            except BaseException:
                self._drop(new)
                raise
            self._file = new
            self._drop(old)
        self._make_table(width)

    def _open(self) -> IO[bytes]:
        folder = cache_folder()
        with _storing():
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob("*.tmp"):  # a killed program's; whoever is at work writes all the time
                if stale.stat().st_mtime < time.time() - 3600:
                    stale.unlink(missing_ok=True)
            if not self.named:
                return tempfile.TemporaryFile(dir=folder)
            descriptor, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
            os.close(descriptor)
            return open(name, "r+b")

    def _drop(self, file: IO[bytes]) -> None:
        with contextlib.suppress(OSError):  # a full disk fails the flush, too
            file.close()
        if self.named:
            Path(file.name).unlink(missing_ok=True)

    def _put(self, file: IO[bytes], ids: np.ndarray) -> None:
        with _storing():
            file.write(ids.data)


class Stored:
    """Ids in a file. A slice is read when it is asked for: the file is not mapped, so that it never counts as memory."""

    def __init__(self, file: IO[bytes], width: "np.dtype[Any]", length: int):
        self._file, self._width, self._length = file, width, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> np.ndarray:
        start, stop, _ = part.indices(self._length)
        begin, end, step = start * self._width.itemsize, stop * self._width.itemsize, 1 << 30  # no system reads 2 GiB at once
        pieces = (os.pread(self._file.fileno(), min(step, end - at), at) for at in range(begin, end, step))
        return np.frombuffer(b"".join(pieces), self._width)

    def __del__(self) -> None:
        self._file.close()


def _width(alphabet: int) -> "np.dtype[Any]":
    """The smallest of the WIDTHS that holds the ids of so many characters."""
    return next(width for width in WIDTHS if alphabet <= np.iinfo(width).max + 1)


def cache_folder() -> Path:
    """Where long texts are kept. Raises: CharrnnError where the environment names no absolute path."""
    folder = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    if not folder.is_absolute():
        raise CharrnnError("nowhere to keep the ids of a long text: set XDG_CACHE_HOME to a folder, as an absolute path")
    return folder / "charrnn"


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CharrnnError(
            f"the ids of this long text can't be kept in {cache_folder()}: {error.strerror or error}; "
            "set XDG_CACHE_HOME to a folder with room for as many bytes as the text has",
            1,
        ) from None


def load(path: Path, checked: bool = False) -> tuple[Corpus, list[int]] | None:
    """The corpus that was kept at `path`, and which files were passed over; None where a single bit of it is wrong.

    Where it was `checked` a moment ago, only its end is held to its hash.
    """
    file = open(path, "rb")  # noqa: SIM115 (the corpus keeps it)
    size = os.fstat(file.fileno()).st_size
    ids = Stored(file, WIDTHS[0], size)  # as bytes, for now; it closes the file
    tail = ids[max(0, size - 40) : size].tobytes()
    start = size - 40 - int.from_bytes(tail[32:], "little")
    if len(tail) < 40 or start < 0:
        return None
    trailer = ids[start : size - 40].tobytes()
    if hashlib.sha256(trailer).digest() != tail[:32]:
        return None
    facts = json.loads(trailer)
    codes = np.array(facts["alphabet"], np.uint32)
    ids._width, ids._length = _width(len(codes)), facts["length"]
    if start != len(ids) * ids._width.itemsize:
        return None
    if not checked and _fingerprint(ids, codes) != facts["fingerprint"]:
        return None
    corpus = Corpus(ids, codes, np.array(facts["firsts"], np.int64), facts["fingerprint"])
    corpus.path = path
    return corpus, facts["skipped"]


def hashes(read: Callable[[int], Any], size: int) -> Iterator[bytes]:
    """The hash of each of the blocks that `read` gives from every BLOCK-th place on, by up to four threads."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda at: hashlib.sha256(read(at)).digest(), range(0, size, BLOCK))


def join_hashes(pieces: Iterable[bytes]) -> str:
    """One hash, in hex, of the hashes of blocks."""
    return hashlib.sha256(b"".join(pieces)).hexdigest()


def _fingerprint(ids: Sliced, codes: np.ndarray) -> str:
    """A hash that is the same for two texts only if they are the same, however they were read."""
    return join_hashes(
        [codes.astype("<u4").tobytes(), *hashes(lambda at: np.ascontiguousarray(ids[at : at + BLOCK]), len(ids))]
    )


def ids_path(kept: Path, digests: list[str]) -> Path:
    """Where the ids of a text of sources with these hashes are kept."""
    return kept.with_name(f"{kept.name}-{hashlib.sha256(json.dumps(digests).encode()).hexdigest()}.ids")
