"""Bytes in, a `Corpus` out: reads files, folders and pipes of any size, once, in blocks, at hundreds of megabytes a second.

The ids of a long text are written to a file in the user's cache folder as they are made, so that memory does not grow with
the text. That file is found again by the hash of the sources' bytes, and used again only where its own hash is right.
Files that end in .gz or .zst are unpacked as they are read.
"""

import codecs
import contextlib
import functools
import hashlib
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from charrnn.errors import CharrnnError
from charrnn.text import id_cache
from charrnn.text.corpus import Corpus
from charrnn.text.id_cache import IdWriter

Watch = Callable[[int, int | None], None]  # told how many bytes have been read, and of how many, where that is known
STDIN = "-"
HEAD = 8192  # bytes at the beginning of a UTF-8 text in which a NUL says that it is none
BINARY = "binary"  # stands for the hash of a file that is passed over for its head
ARCHIVES = (".gz", ".zst")  # what the names of compressed files end in
PIECE = 1 << 12  # bytes of an archive that are unpacked at a time: of the most hostile one, they are some 100 MB


def read_text(sources: Sequence[str | Path], encoding: str = "utf-8") -> tuple[str, list[str]]:
    """Read all `sources` as one string: the text, and notes for the user. Raises what `read_corpus` raises."""
    corpus = read_corpus(sources, encoding)
    return corpus.text(), corpus.notes


def read_corpus(sources: Sequence[str | Path], encoding: str = "utf-8", watch: Watch | None = None) -> Corpus:
    """Read all `sources` (files, folders, '-' for standard input) as one text in one of Python's encodings, or "bytes".

    A folder gives every text file below it in sorted order; hidden files and files that are not text are passed over, and
    named in the corpus's notes. A byte-order mark is dropped, line ends are kept as they are.

    Raises: CharrnnError for what is missing, unreadable, a broken archive, not in `encoding`, empty in all, or changes while
    it is read, and (status 1) where there is no room for the ids of a long text.
    """
    codec = _codec(encoding)
    files = list(_files(sources))
    names = [name for name, _ in files]
    sizes = [_size(name) for name in names]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if watch is not None:
            watch(done, total)

    def passed_over(skipped: list[int]) -> list[str]:
        return [f"{files[i][0]} is not {encoding} text; passed over" for i in skipped]

    def kept_at(digests: list[str]) -> Path:
        assert kept is not None
        return id_cache.ids_path(
            kept, [h + (Path(n).suffix if _compressed(n) else "") for h, n in zip(digests, names, strict=True)]
        )

    def manifest(digests: list[str]) -> list[dict[str, Any]]:
        where = [name if name == STDIN else os.path.abspath(name) for name in names]
        return [dict(file=f, bytes=n, hash=h) for f, n, h in zip(where, sizes, digests, strict=True)]

    notes: list[str] = []
    kept = None  # where the cache keeps this text, its hash still to be added
    if total is not None and (total >= id_cache.IN_MEMORY or any(map(_compressed, names))):
        kept = id_cache.cache_folder() / f"v{id_cache.FORMAT}-{total}-{codec.name}"
        if list(kept.parent.glob(f"{kept.name}-*.ids")):  # else there is nothing to find, and the text is read only once
            found_hashes = [_digest(name, codec, count) for name in names]
            path = kept_at(found_hashes)
            with _reading(str(path)):
                found = id_cache.load(path) if path.exists() else None
            if found is not None and all(files[i][1] for i in found[1]):  # who names a file wants it read, or an error
                corpus, skipped = found
                corpus.notes, corpus.files = passed_over(skipped), manifest(found_hashes)
                return corpus
            if path.exists() and found is None:
                notes.append(f"{path} was damaged and is made anew")
            done = 0
    skipped, digests = [], []
    with IdWriter(named=kept is not None) as writer:
        for i, (name, lenient) in enumerate(files):
            pieces: list[bytes] = []
            blocks = _blocks(name, count, pieces)
            length = writer.length
            digest = None
            try:
                for text in _decode(_unpacked(name, blocks), name, codec, encoding):
                    writer.write(text)
            except _NotTextError as error:
                if not lenient:
                    raise
                writer.roll_back(length)
                skipped.append(i)
                if error.binary and not _compressed(name):
                    digest = BINARY
                else:
                    for _ in blocks:  # the rest belongs to its hash
                        pass
            digests.append(digest or id_cache.join_hashes(pieces))
        if not writer.length:
            raise CharrnnError(f"no text in {', '.join(map(str, sources))}: it is empty")
        corpus = writer.finish(kept_at(digests) if kept else None, skipped, notes + passed_over(skipped))
        corpus.files = manifest(digests)
        return corpus


def corpus_of(text: str) -> Corpus:
    """A text that is at hand already, as a `Corpus`."""
    with IdWriter(named=False) as writer:
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


def _compressed(name: str) -> bool:
    return name.endswith(ARCHIVES)


def _unpacked(name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of a file, unpacked where its name says so; archives may follow each other in one.

    Raises: CharrnnError where an archive is damaged or cut short.
    """
    if not _compressed(name):
        yield from blocks
        return
    damaged: type[Exception] = zlib.error
    begin: Callable[[], Any] = functools.partial(zlib.decompressobj, wbits=31)
    if name.endswith(".zst"):
        try:
            import zstandard
        except ImportError:
            raise CharrnnError(f"{name}: to read zstd takes charrnn[zstd] (pip install zstandard)") from None
        damaged, begin = zstandard.ZstdError, zstandard.ZstdDecompressor().decompressobj
    archive, unpacked = None, bytearray()
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
                if len(unpacked) >= id_cache.BLOCK:
                    yield bytes(unpacked)
                    unpacked.clear()
    except damaged as error:
        raise CharrnnError(f"{name} is damaged, or no such archive: {error}") from None
    if archive is not None:
        raise CharrnnError(f"{name} is cut short: its archive has no end")
    if unpacked:
        yield bytes(unpacked)
    yield b""


def _blocks(name: str, count: Callable[[int], None], pieces: list[bytes]) -> Iterator[bytes]:
    """The bytes of a file in blocks; the hash of each is added to `pieces`. Raises: CharrnnError where the file changes."""
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


def _digest(name: str, codec: codecs.CodecInfo, count: Callable[[int], None]) -> str:
    """The hash of a file's bytes, the same that reading it gives."""
    with _reading(name), open(name, "rb") as file:
        if codec.name == "utf-8" and not _compressed(name) and b"\0" in file.read(HEAD):
            return BINARY
        pieces = []
        for piece in id_cache.hashes(lambda at: os.pread(file.fileno(), id_cache.BLOCK, at), os.fstat(file.fileno()).st_size):
            pieces.append(piece)
            count(id_cache.BLOCK)
        return id_cache.join_hashes(pieces)
