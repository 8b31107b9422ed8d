"""The ids of a text, in memory or, for long texts, in a file in the user's cache. `IdWriter` writes it, `load` opens it.

A file has the ids, then a trailer: a line of JSON, the code points of the alphabet, the position where each first appears.
The hash and the length of the trailer are at the end.
"""

import contextlib
import hashlib
import io
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from charrnn.errors import CharrnnError, undo
from charrnn.text.cache_folder import cache_folder, prune
from charrnn.text.corpus import Corpus, Sliced
from charrnn.text.vocabulary import code_points

BLOCK = 1 << 20  # ids, or bytes of a file, hashed at a time; changing it changes the hashes
IN_MEMORY = 1 << 24  # characters; shorter texts stay in memory
FORMAT = 2  # of the files

Width = np.dtype[np.unsignedinteger]


class IdWriter:
    """Converts text to ids, and stores them in a file if there are more than IN_MEMORY."""

    def __init__(self, named: bool):
        self.named = named  # if False, the file has no name and disappears with the corpus
        self.codes = np.empty(0, np.uint32)  # code points of the alphabet
        self.firsts = np.empty(0, np.int64)  # position where each first appears
        self.length = 0
        self._file: IO[bytes] = io.BytesIO()
        self._old: IO[bytes] = self._file  # the file before, while its ids are copied
        self._prefix = secrets.token_hex(8)  # of file names, to remove a file that a signal leaves before it is in `_file`
        self._make_table(_width(0))
        undo.add(self.close)

    def close(self) -> None:
        """Remove unfinished files."""
        undo.discard(self.close)
        for file in (self._file, self._old):
            _drop(file)
        if self.named:
            for path in cache_folder().glob(f"{self._prefix}*"):
                path.unlink(missing_ok=True)

    def write(self, text: str) -> None:
        """Add `text`."""
        ids = self._look_up(text)
        with _storing():
            self._file.write(ids.data)
        self.length += len(ids)
        if isinstance(self._file, io.BytesIO) and not self._fits(self._width):
            self._move(self._width)

    def roll_back(self, length: int) -> None:
        """Remove all but the first `length` characters."""
        alphabet = int(np.searchsorted(self.firsts, length))
        self.codes, self.firsts = self.codes[:alphabet], self.firsts[:alphabet]
        self.length = length
        self._make_table(self._width)
        self._file.seek(length * self._width.itemsize)
        self._file.truncate()

    def finish(self, path: Path | None = None, skipped: Sequence[int] = ()) -> Corpus:
        """Make the corpus. A file with its ids is moved to `path`, with the numbers of `skipped` files in it."""
        if self._width != (fitting := _width(len(self.codes))):  # a skipped file had needed wider ids
            self._move(fitting)
        self._file.flush()
        if isinstance(self._file, io.BytesIO):
            ids: Sliced = np.frombuffer(self._file.getvalue(), self._width)
        else:
            ids = Stored(self._file, self._width, self.length)
        corpus = Corpus(ids, self.codes, firsts=self.firsts, corpus_hash=_hash_corpus(ids, self.codes))
        if isinstance(ids, Stored) and path is not None:
            facts = {"length": self.length, "skipped": list(skipped), "fingerprint": corpus.corpus_hash}
            alphabet = self.codes.astype("<u4").tobytes() + self.firsts.astype("<i8").tobytes()
            trailer = json.dumps(facts).encode() + b"\n" + alphabet
            with _storing():
                self._file.write(trailer + hashlib.sha256(trailer).digest() + len(trailer).to_bytes(8, "little"))
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._file.name, path)
            corpus.path = path
            prune()
            corpus.notes = [f"the text is cached for the next run in {path}, {self._file.tell() / 1e6:,.0f} MB"]
        self._file = io.BytesIO()  # the corpus now owns the file
        return corpus

    def _look_up(self, text: str) -> np.ndarray:
        """Convert `text` to ids, adding new characters to the alphabet."""
        top = np.iinfo(self._width).max  # marks new characters, but may also be an id
        try:
            narrow = text.encode("latin-1")
            codes = np.frombuffer(narrow, np.uint8)
        except UnicodeEncodeError:
            narrow = b""
            codes = code_points(text)
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
        added, first = np.unique(codes[at], return_index=True)
        order = np.argsort(first)
        self.codes = np.concatenate([self.codes, added[order].astype(np.uint32)])
        self.firsts = np.concatenate([self.firsts, self.length + at[first[order]]])
        if len(self.codes) > top + 1:
            self._move(_width(len(self.codes)))
        else:
            self._make_table(self._width)
        return self._look_up(text)

    def _make_table(self, width: Width) -> None:
        self._width = width
        self._table = np.full(0x110000, np.iinfo(width).max, width)  # from code points to ids
        self._table[self.codes] = np.arange(len(self.codes))

    def _fits(self, width: Width) -> bool:
        """Whether the ids stay in memory: half as many if they are wider than two bytes."""
        return self.length * max(2, width.itemsize) <= 2 * IN_MEMORY

    def _move(self, width: Width) -> None:
        """Copy the ids to a new file, or to memory, with this width."""
        old = self._old = self._file
        self._file = io.BytesIO() if isinstance(old, io.BytesIO) and self._fits(width) else self._open()
        try:
            old.seek(0)
            with _storing():
                while block := old.read(BLOCK * self._width.itemsize):
                    self._file.write(np.frombuffer(block, self._width).astype(width, copy=False).data)
        finally:
            _drop(old)
        self._make_table(width)

    def _open(self) -> IO[bytes]:
        folder = cache_folder()
        with _storing():
            folder.mkdir(parents=True, exist_ok=True)
            prune()
            if not self.named:
                return tempfile.TemporaryFile(dir=folder)
            return tempfile.NamedTemporaryFile(dir=folder, prefix=self._prefix, suffix=".tmp", delete=False)


def _drop(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # the disk is full, or a signal interrupted a write
        file.close()
    if isinstance(name := getattr(file, "name", None), str):  # a file without a name needs no removing
        Path(name).unlink(missing_ok=True)


@dataclass
class Stored:
    """Ids in a file. Slices are read on demand; the file is not memory-mapped, so it never counts as memory used."""

    file: IO[bytes]
    width: Width
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice, /) -> np.ndarray:
        start, stop, _ = part.indices(self.length)
        begin, end = start * self.width.itemsize, stop * self.width.itemsize
        step = 1 << 30  # systems don't read 2 GiB at once
        pieces = (os.pread(self.file.fileno(), min(step, end - at), at) for at in range(begin, end, step))
        read = b"".join(pieces)
        if len(read) < end - begin:
            cure = "run the command again, `train` with --resume"
            raise CharrnnError(f"the ids of the text in {cache_folder()} were truncated while they were read; {cure}", 1)
        return np.frombuffer(read, self.width)

    def __del__(self) -> None:
        self.file.close()


def _width(alphabet: int) -> Width:
    """The smallest integer type for the ids of an alphabet of this size."""
    return np.min_scalar_type(max(alphabet - 1, 0)).newbyteorder("<")


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    """Turn an OSError into a CharrnnError."""
    try:
        yield
    except OSError as error:
        what = f"this long text can't be cached in {cache_folder()}: {error.strerror or error}"
        cure = "set XDG_CACHE_HOME to a folder with as much free space as the text takes"
        raise CharrnnError(f"{what}; {cure}", 1) from None


def load(path: Path, checked: bool = False) -> tuple[Corpus, list[int]] | None:
    """Load a corpus and the numbers of skipped files; None if missing or damaged. `checked`: check only the trailer."""
    if not path.is_file():  # reading a pipe would block
        return None
    file = open(path, "rb")  # noqa: SIM115 (the corpus keeps it)
    size = os.fstat(file.fileno()).st_size
    ids = Stored(file, _width(0), size)  # as bytes at first; closes the file
    tail = ids[max(0, size - 40) : size].tobytes()  # hash and length of the trailer
    start = size - 40 - int.from_bytes(tail[32:], "little")
    if len(tail) < 40 or start < 0:
        return None
    trailer = ids[start : size - 40].tobytes()
    if hashlib.sha256(trailer).digest() != tail[:32]:
        return None
    line, _, rest = trailer.partition(b"\n")
    facts = json.loads(line)
    codes = np.frombuffer(rest, "<u4", len(rest) // 12)
    ids.width, ids.length = _width(len(codes)), facts["length"]
    if start != len(ids) * ids.width.itemsize or not (checked or _hash_corpus(ids, codes) == facts["fingerprint"]):
        return None
    corpus = Corpus(ids, codes, firsts=np.frombuffer(rest, "<i8", offset=codes.nbytes), corpus_hash=facts["fingerprint"])
    corpus.path = path
    with contextlib.suppress(OSError):
        os.utime(path)  # mark as last used
    return corpus, facts["skipped"]


def hash_blocks(read: Callable[[int], bytes | memoryview], size: int) -> Iterator[bytes]:
    """Hash the blocks that `read` returns for the offsets 0, BLOCK, 2 * BLOCK, ... below `size`, on up to four threads."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda at: hashlib.sha256(read(at)).digest(), range(0, size, BLOCK))


def join_hashes(hashes: Iterable[bytes]) -> str:
    """Combine the hashes of blocks into one, as hex digits."""
    return hashlib.sha256(b"".join(hashes)).hexdigest()


def _hash_corpus(ids: Sliced, codes: np.ndarray) -> str:
    """Hash a text. The hash depends only on the characters, not on how they were read."""
    alphabet = codes.astype("<u4").tobytes()
    return join_hashes([alphabet, *hash_blocks(lambda at: np.ascontiguousarray(ids[at : at + BLOCK]).data, len(ids))])
