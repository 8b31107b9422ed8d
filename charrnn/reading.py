"""Bytes in, a `Corpus` out: reads files, folders and pipes of any size, once, in blocks, at hundreds of megabytes a second.

The ids of a long text are written to a file in the user's cache folder as they are made, so that memory does not grow with
the text. That file is found again by the hash of the sources' bytes, and used again only where its own hash is right.
"""

import codecs
import contextlib
import hashlib
import io
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from charrnn.corpus import Corpus, Sliced, code_points
from charrnn.errors import CharrnnError

Watch = Callable[[int, int | None], None]  # told how many bytes have been read, and of how many, where that is known
STDIN = "-"
BLOCK = 1 << 20  # bytes that are read, looked up and hashed at a time; the hashes depend on it
IN_MEMORY = 1 << 24  # characters up to which a text needs no file
HEAD = 8192  # bytes at the beginning of a UTF-8 text in which a NUL says that it is none
BINARY = "binary"  # stands for the hash of a file that is passed over for its head
FORMAT = 1  # of the cache's files
WIDTHS = tuple(map(np.dtype, ("<u1", "<u2", "<u4")))  # of ids: the smallest that holds the alphabet


def read_text(sources: Sequence[str | Path], encoding: str = "utf-8") -> tuple[str, list[str]]:
    """Read all `sources` as one string: the text, and notes for the user. Raises what `read_corpus` raises."""
    corpus = read_corpus(sources, encoding)
    return corpus.text(), corpus.notes


def read_corpus(sources: Sequence[str | Path], encoding: str = "utf-8", watch: Watch | None = None) -> Corpus:
    """Read all `sources` (files, folders, '-' for standard input) as one text in one of Python's encodings, or "bytes".

    A folder gives every text file below it in sorted order; hidden files and files that are not text are passed over, and
    named in the corpus's notes. A byte-order mark is dropped, line ends are kept as they are.

    Raises: CharrnnError for what is missing, unreadable, not in `encoding`, empty in all, or changes while it is read, and
    (status 1) where there is no room for the ids of a long text.
    """
    codec = _codec(encoding)
    files = list(_files(sources))
    sizes = [_size(name) for name, _ in files]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if watch is not None:
            watch(done, total)

    def passed_over(skipped: list[int]) -> list[str]:
        return [f"{files[i][0]} is not {encoding} text; passed over" for i in skipped]

    notes: list[str] = []
    kept = None  # where the cache keeps this text, its hash still to be added
    if total is not None and total >= IN_MEMORY:
        kept = _cache_folder() / f"v{FORMAT}-{total}-{codec.name}"
        if list(kept.parent.glob(f"{kept.name}-*.ids")):  # else there is nothing to find, and the text is read only once
            path = _named(kept, [_digest(name, codec, count) for name, _ in files])
            found = _load(path) if path.exists() else None
            if found is not None and all(files[i][1] for i in found[1]):  # who names a file wants it read, or an error
                corpus, skipped = found
                corpus.notes = passed_over(skipped)
                return corpus
            if path.exists() and found is None:
                notes.append(f"{path} was damaged and is made anew")
            done = 0
    skipped, digests = [], []
    with _Writer(named=kept is not None) as writer:
        for i, (name, lenient) in enumerate(files):
            pieces: list[bytes] = []
            blocks = _blocks(name, count, pieces if kept else None)
            length = writer.length
            digest = None
            try:
                for text in _decode(blocks, name, codec, encoding):
                    writer.write(text)
            except _NotTextError as error:
                if not lenient:
                    raise
                writer.roll_back(length)
                skipped.append(i)
                digest = BINARY if error.binary else None
                if kept and not error.binary:
                    for _ in blocks:  # the rest belongs to its hash
                        pass
            digests.append(digest or _joined(pieces))
        if not writer.length:
            raise CharrnnError(f"no text in {', '.join(map(str, sources))}: it is empty")
        return writer.finish(_named(kept, digests) if kept else None, skipped, notes + passed_over(skipped))


def corpus_of(text: str) -> Corpus:
    """A text that is at hand already, as a `Corpus`."""
    with _Writer(named=False) as writer:
        writer.write(text)
        return writer.finish(None, [], [])


class _NotTextError(CharrnnError):
    """A file is not text in the encoding; `binary` where its head says so."""

    def __init__(self, message: str, binary: bool = False):
        super().__init__(message)
        self.binary = binary


def _codec(encoding: str) -> codecs.CodecInfo:
    try:
        codec = codecs.lookup("latin-1" if encoding == "bytes" else encoding)
        io.TextIOWrapper(io.BytesIO(), codec.name)  # refuses what does not decode to text
    except (LookupError, ValueError) as error:  # ValueError: a name with a NUL or a lone surrogate in it
        if "not a text encoding" in str(error):
            raise CharrnnError(f"{encoding} is not an encoding of text") from None
        raise CharrnnError(f"unknown encoding {encoding!r}; Python's names are meant, such as utf-8 or latin-1") from None
    if codec.incrementaldecoder is None or codec.name in ("idna", "punycode", "undefined"):
        raise CharrnnError(f"{encoding} is not an encoding of running text")
    return codec


def _files(sources: Sequence[str | Path]) -> Iterator[tuple[str, bool]]:
    """The name of each file, and whether it may be passed over."""
    for source in sources:
        if str(source) == STDIN or not Path(source).is_dir():
            yield str(source), False
            continue
        files = sorted(p for p in Path(source).rglob("*") if p.is_file() and not _hidden(p.relative_to(source)))
        if not files:
            raise CharrnnError(f"{source} is a folder without files; name one that holds text")
        yield from ((str(file), True) for file in files)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns what the system says about a file into a line for the user."""
    try:
        yield
    except FileNotFoundError:
        raise CharrnnError(f"{name} does not exist") from None
    except OSError as error:
        raise CharrnnError(f"{name} can't be read: {error.strerror or error}") from None


def _size(name: str) -> int | None:
    """The size of a regular file in bytes; None for a pipe."""
    if name == STDIN:
        return None
    with _reading(name):
        facts = os.stat(name)
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def _blocks(name: str, count: Callable[[int], None], pieces: list[bytes] | None) -> Iterator[bytes]:
    """The bytes of a file in blocks; the hash of each is added to `pieces`. Raises: CharrnnError where the file changes."""
    if name == STDIN and sys.stdin is None:
        raise CharrnnError("standard input is closed; pipe a text in or name a file")
    with _reading("standard input" if name == STDIN else name), contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if name == STDIN else stack.enter_context(open(name, "rb"))
        before = _stamp(file)
        block = b"-"
        while block:
            block = file.read(BLOCK)
            if _stamp(file) != before:
                raise CharrnnError(f"{name} has changed while it was read; train on a copy that stays as it is")
            if pieces is not None and block:
                pieces.append(hashlib.sha256(block).digest())
            count(len(block))
            yield block  # the last one is empty


def _stamp(file: IO[bytes]) -> tuple[int, int] | None:
    try:
        facts = os.fstat(file.fileno())
    except (OSError, ValueError):  # a stand-in for standard input, in memory
        return None
    return (facts.st_size, facts.st_mtime_ns) if stat.S_ISREG(facts.st_mode) else None


def _decode(blocks: Iterator[bytes], name: str, codec: codecs.CodecInfo, encoding: str) -> Iterator[str]:
    """The text of a file, piece by piece. Raises: _NotTextError, which names the byte."""
    shown = "standard input" if name == STDIN else name
    assert codec.incrementaldecoder is not None
    decoder = codec.incrementaldecoder()
    done, begun = 0, False
    for block in blocks:
        if codec.name == "utf-8" and done < HEAD and b"\0" in block[: HEAD - done]:
            raise _NotTextError(
                f"{shown} holds NUL bytes, so it is not text; for its bytes as they are, --encoding bytes", True
            )
        waiting = len(decoder.getstate()[0])  # bytes of a character that the last block broke off
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            where = f" at byte {done - waiting + error.start}" if isinstance(error, UnicodeDecodeError) else ""
            raise _NotTextError(f"{shown} is not {encoding}{where}; name its --encoding") from None
        done += len(block)
        if text and not begun:
            text, begun = text.removeprefix("\ufeff"), True
        if text:
            yield text


class _Writer:
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

    def __enter__(self) -> "_Writer":
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
            ids = _Stored(self._file, self._width, self.length)
        corpus = Corpus(ids, self.codes, self.firsts, _fingerprint(ids, self.codes), notes)
        if self._file is not None and path is not None:
            facts = {"length": self.length, "skipped": skipped, "fingerprint": corpus.fingerprint}
            trailer = json.dumps(facts | {"alphabet": self.codes.tolist(), "firsts": self.firsts.tolist()}).encode()
            with _storing():
                self._file.write(trailer + hashlib.sha256(trailer).digest() + len(trailer).to_bytes(8, "little"))
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._file.name, path)
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
        folder = _cache_folder()
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


class _Stored:
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


def _cache_folder() -> Path:
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
            f"the ids of this long text can't be kept in {_cache_folder()}: {error.strerror or error}; "
            "set XDG_CACHE_HOME to a folder with room for as many bytes as the text has",
            1,
        ) from None


def _load(path: Path) -> tuple[Corpus, list[int]] | None:
    """The corpus that was kept at `path`, and which files were passed over; None where a single bit of it is wrong."""
    with _reading(str(path)):
        file = open(path, "rb")  # noqa: SIM115 (the corpus keeps it)
    size = os.fstat(file.fileno()).st_size
    ids = _Stored(file, WIDTHS[0], size)  # as bytes, for now; it closes the file
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
    if start != len(ids) * ids._width.itemsize or _fingerprint(ids, codes) != facts["fingerprint"]:
        return None
    return Corpus(ids, codes, np.array(facts["firsts"], np.int64), facts["fingerprint"]), facts["skipped"]


def _hashes(read: Callable[[int], Any], size: int) -> Iterator[bytes]:
    """The hash of each of the blocks that `read` gives from every BLOCK-th place on, by up to four threads."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda at: hashlib.sha256(read(at)).digest(), range(0, size, BLOCK))


def _joined(hashes: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(hashes)).hexdigest()


def _fingerprint(ids: Sliced, codes: np.ndarray) -> str:
    """A hash that is the same for two texts only if they are the same, however they were read."""
    return _joined([codes.astype("<u4").tobytes(), *_hashes(lambda at: np.ascontiguousarray(ids[at : at + BLOCK]), len(ids))])


def _digest(name: str, codec: codecs.CodecInfo, count: Callable[[int], None]) -> str:
    """The hash of a file's bytes, the same that reading it gives."""
    with _reading(name), open(name, "rb") as file:
        if codec.name == "utf-8" and b"\0" in file.read(HEAD):
            return BINARY
        pieces = []
        for piece in _hashes(lambda at: os.pread(file.fileno(), BLOCK, at), os.fstat(file.fileno()).st_size):
            pieces.append(piece)
            count(BLOCK)
        return _joined(pieces)


def _named(kept: Path, digests: list[str]) -> Path:
    return kept.with_name(f"{kept.name}-{hashlib.sha256(json.dumps(digests).encode()).hexdigest()}.ids")
