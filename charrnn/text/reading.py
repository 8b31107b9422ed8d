"""Reads files, folders and pipes of any size into a `Corpus`: once, in blocks, at hundreds of megabytes a second.

The ids of a long text are written to a file in the user's cache folder as they are made, so that memory does not grow with
the text. That file is found again by the hash of the sources' bytes. Files that end in .gz or .zst are unpacked.
"""

import codecs
import contextlib
import functools
import hashlib
import io
import json
import os
import shlex
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from charrnn.errors import CharrnnError
from charrnn.text import id_cache
from charrnn.text.corpus import Corpus, SourceFile
from charrnn.text.id_cache import IdWriter

Watch = Callable[[int, int | None], None]  # told how many bytes have been read, and of how many (None: unknown)
STDIN = "-"
HEAD = 8192  # bytes at the beginning of a UTF-8 text in which a NUL says that it is none
BINARY = "binary"  # instead of the hash of a file that is skipped for its head
ARCHIVES = (".gz", ".zst")  # what the names of compressed files end in
PIECE = 256  # bytes of an archive that are unpacked at a time, to 8 MB at most: zstd makes 128 kB of four bytes
WINDOW = 1 << 26  # bytes that a .zst may refer back to, since they are held in memory


def read_text(sources: Sequence[str | Path], encoding: str = "utf-8") -> tuple[str, list[str]]:
    """Read all `sources` as one string: the text, and notes for the user. Raises what `read_corpus` raises."""
    corpus = read_corpus(sources, encoding)
    return corpus.text(), corpus.notes


def read_corpus(sources: Sequence[str | Path], encoding: str = "utf-8", watch: Watch | None = None) -> Corpus:
    """Read all `sources` (files, folders, '-' for standard input) as one text in one of Python's encodings, or "bytes".

    A folder gives every text file below it in sorted order; hidden files and files that are not text are skipped, and
    named in the corpus's notes. A byte-order mark is dropped, line ends are kept as they are.

    Raises: CharrnnError for what is missing, unreadable, a broken archive, not in `encoding`, empty in all, or changes while
    it is read, and (status 1) if there is no room for the ids of a long text.
    """
    reader = _Reader(sources, encoding=encoding, watch=watch)
    if (corpus := reader.find()) is None:
        corpus = reader.read()
    if not len(corpus):
        raise CharrnnError(f"no text in {', '.join(map(str, sources))}: it is empty")
    skipped = [f"{file.name} is not {encoding} text; passed over" for file in reader.files if not file.is_text]
    corpus.notes = reader.notes + skipped + corpus.notes
    names = [file.name if file.name == STDIN else os.path.abspath(file.name) for file in reader.files]
    corpus.files = [SourceFile(name, bytes=file.size, hash=file.hash) for name, file in zip(names, reader.files, strict=True)]
    return corpus


def build_corpus(text: str | Iterable[str]) -> Corpus:
    """A text that is at hand already, as a whole or piece by piece, as a `Corpus`."""
    with contextlib.closing(IdWriter(named=False)) as writer:
        for piece in [text] if isinstance(text, str) else text:
            writer.write(piece)
        return writer.finish()


@dataclass
class _File:
    """A file to read."""

    name: str  # "-" for standard input
    size: int | None  # in bytes; None for a pipe
    lenient: bool  # found in a folder: it is skipped if it is not text
    hash: str = ""  # of its bytes, as soon as they have been read
    is_text: bool = True  # as far as it has been read

    @property
    def compressed(self) -> bool:
        return self.name.endswith(ARCHIVES)


class _Reader:
    """Makes a corpus of files: `find` looks for its ids in the cache, `read` reads the files."""

    def __init__(self, sources: Sequence[str | Path], encoding: str, watch: Watch | None):
        self.encoding = encoding
        self.codec = _codec(encoding)
        self.files = [_File(name, size=_size(name), lenient=lenient) for name, lenient in list(_files(sources))]
        sizes = [file.size for file in self.files]
        self.total = None if None in sizes else sum(size or 0 for size in sizes)
        self.done = 0  # bytes, and who is told of them
        self.watch = watch
        self.notes: list[str] = []
        self.stem: Path | None = None  # of the path in the cache, still without its hash; None for what is not kept there
        if self.total is not None and (self.total >= id_cache.IN_MEMORY or any(file.compressed for file in self.files)):
            self.stem = id_cache.cache_folder() / f"v{id_cache.FORMAT}-{self.total}-{self.codec.name}"

    def find(self) -> Corpus | None:
        """The corpus whose ids the cache keeps; None if it does not."""
        if self.stem is None or not list(self.stem.parent.glob(f"{self.stem.name}-*.ids")):
            return None  # nothing to find: the files are read only once
        for file in self.files:
            file.hash = self._hash(file)
        path = self._path(self.stem)
        with _reading(str(path)):
            if path.exists():
                if (found := id_cache.load(path)) is None:
                    self.notes.append(f"{path} was damaged and is made anew")
                elif all(self.files[i].lenient for i in found[1]):  # a file that was named must be text
                    for i in found[1]:
                        self.files[i].is_text = False
                    return found[0]
        self.done = 0
        return None

    def read(self) -> Corpus:
        """Read all files."""
        with contextlib.closing(IdWriter(named=self.stem is not None)) as writer:
            for file in self.files:
                self._write(file, writer)
            skipped = [i for i, file in enumerate(self.files) if not file.is_text]
            return writer.finish(self.stem and self._path(self.stem), skipped)

    def _write(self, file: _File, writer: IdWriter) -> None:
        """Add the text of a file; nothing of one that is skipped is left."""
        hashes: list[bytes] = []
        blocks = _blocks(file.name, count=self._count, hashes=hashes)
        length = writer.length
        file.hash = ""
        try:
            for text in _decode(_unpack(file, blocks), file, codec=self.codec, encoding=self.encoding):
                writer.write(text)
        except _NotTextError:
            if not file.lenient:
                raise
            writer.roll_back(length)
            file.is_text = False
            if file.hash == BINARY:
                return
            for _ in blocks:  # the rest belongs to its hash
                pass
        file.hash = id_cache.join_hashes(hashes)

    def _hash(self, file: _File) -> str:
        """The hash of a file's bytes, the same as reading it gives."""
        with _reading(file.name), open(file.name, "rb") as opened:
            if self.codec.name == "utf-8" and not file.compressed and b"\0" in opened.read(HEAD):
                return BINARY
            hashes = []
            read = functools.partial(os.pread, opened.fileno(), id_cache.BLOCK)  # from a place on
            for block_hash in id_cache.hash_blocks(read, os.fstat(opened.fileno()).st_size):
                hashes.append(block_hash)
                self._count(id_cache.BLOCK)
            return id_cache.join_hashes(hashes)

    def _count(self, size: int) -> None:
        self.done += size
        if self.watch is not None:
            self.watch(self.done, self.total)

    def _path(self, stem: Path) -> Path:
        """The path in the cache for the ids of files with these hashes."""
        hashes = json.dumps([file.hash + Path(file.name).suffix * file.compressed for file in self.files])
        return stem.with_name(f"{stem.name}-{hashlib.sha256(hashes.encode()).hexdigest()}.ids")


class _NotTextError(CharrnnError):
    """A file is not text in the encoding."""


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
    """The name of each file, and whether it is skipped if it is not text."""
    for source in map(str, sources):
        if source == STDIN or not os.path.isdir(source):
            yield source, False
            continue
        files = sorted(_walk(Path(source)))
        if not files:
            raise CharrnnError(f"{source} is a folder without files; name one that holds text")
        yield from ((str(file), True) for file in files)


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, however deep, in no order; hidden ones and what links to folders lead to are left out."""
    folders = [folder]
    while folders:
        folder = folders.pop()
        with _reading(str(folder)), contextlib.suppress(PermissionError):
            for path in folder.iterdir():
                if path.name[0] != "." and path.is_dir() and not path.is_symlink():
                    folders.append(path)
                elif path.name[0] != "." and path.is_file():
                    yield path


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn an error of the system into a line for the user."""
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


def _unpack(file: _File, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of a file, unpacked if it is one archive or several in a row. Raises: CharrnnError for a damaged one."""
    if not file.compressed:
        yield from blocks
        return
    name = file.name
    begin: Callable[[], Any] = functools.partial(zlib.decompressobj, wbits=31)
    damaged: type[Exception] = zlib.error
    if name.endswith(".zst"):
        try:
            import zstandard
        except ImportError:
            raise CharrnnError(f"{name}: to read zstd takes charrnn[zstd] (pip install zstandard)") from None
        begin, damaged = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj, zstandard.ZstdError
    archive = None
    unpacked = bytearray()
    try:
        for block in blocks:
            for at in range(0, len(block), PIECE):
                piece = block[at : at + PIECE]
                while piece and (archive or piece.strip(b"\0")):  # some tools pad the end with zeros
                    archive = archive or begin()
                    unpacked += archive.decompress(piece)
                    piece = archive.unused_data
                    if archive.eof:
                        archive = None
                while len(unpacked) >= id_cache.BLOCK:
                    yield bytes(unpacked[: id_cache.BLOCK])
                    del unpacked[: id_cache.BLOCK]
    except damaged as error:
        if "too much memory" in str(error):
            cure = f"a window of more than {WINDOW >> 20} MB; unpack it first: zstd -d --long=31 {shlex.quote(name)}"
            raise CharrnnError(f"{name} takes too much memory to unpack, {cure}") from None
        raise CharrnnError(f"{name} is damaged, or no such archive: {error}") from None
    if archive is not None:
        raise CharrnnError(f"{name} is cut short: its archive has no end")
    if unpacked:
        yield bytes(unpacked)
    yield b""


def _blocks(name: str, count: Callable[[int], None], hashes: list[bytes]) -> Iterator[bytes]:
    """The bytes of a file in blocks; the hash of each is added to `hashes`. Raises: CharrnnError if the file changes."""
    if name == STDIN and sys.stdin is None:
        raise CharrnnError("standard input is closed; pipe a text in or name a file")
    with _reading("standard input" if name == STDIN else name), contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if name == STDIN else stack.enter_context(open(name, "rb"))
        before = _stamp(file)
        block = b"-"
        while block:
            block = file.read(id_cache.BLOCK)
            if _stamp(file) != before:
                raise CharrnnError(f"{name} has changed while it was read; train on a copy that stays as it is")
            if block:
                hashes.append(hashlib.sha256(block).digest())
            count(len(block))
            yield block  # the last one is empty


def _stamp(file: IO[bytes]) -> tuple[int, int] | None:
    """What changes with a regular file: its size and the time of its last change."""
    try:
        facts = os.fstat(file.fileno())
    except (OSError, ValueError):  # a standard input that is no file
        return None
    return (facts.st_size, facts.st_mtime_ns) if stat.S_ISREG(facts.st_mode) else None


def _decode(blocks: Iterator[bytes], file: _File, codec: codecs.CodecInfo, encoding: str) -> Iterator[str]:
    """The text of a file, piece by piece. Raises: _NotTextError, which names the first byte that is not text."""
    shown = "standard input" if file.name == STDIN else file.name
    assert codec.incrementaldecoder is not None
    decoder = codec.incrementaldecoder()
    done = 0  # bytes, and whether there was any text
    begun = False
    for block in blocks:
        if codec.name == "utf-8" and done < HEAD and b"\0" in block[: HEAD - done]:
            file.hash = "" if file.compressed else BINARY
            raise _NotTextError(f"{shown} holds NUL bytes, so it is not text; for its bytes as they are, --encoding bytes")
        waiting = len(decoder.getstate()[0])  # bytes of a character that the last block broke off
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            where = f" at byte {done - waiting + error.start}" if isinstance(error, UnicodeDecodeError) else ""
            raise _NotTextError(f"{shown} is not {encoding}{where}; name its --encoding") from None
        done += len(block)
        if text:
            yield text if begun else text.removeprefix("\ufeff")
            begun = True
