"""Read files, folders and pipes of any size into a `Corpus`, once, block by block, at hundreds of megabytes per second.

The ids of a long text go to a file in the user's cache folder, so that memory does not grow with the text. The file is found
again by the hash of the source files. Files that end in .gz or .zst are unpacked.
"""

import contextlib
import functools
import hashlib
import json
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from charrnn.errors import CharrnnError, shorten
from charrnn.text import id_cache
from charrnn.text.archives import is_archive, unpack
from charrnn.text.cache_folder import cache_folder
from charrnn.text.corpus import Corpus, SourceFile
from charrnn.text.decoding import HEAD, Decoder, NotTextError, WrongHeadError
from charrnn.text.id_cache import IdWriter

Watch = Callable[[int, int | None], None]  # called with the bytes read and the total (None: unknown)
STDIN = "-"
RUN_FILES = ("model.safetensors", "state.safetensors")  # a folder with one of them is a run's
WRITTEN = (*RUN_FILES, "history.jsonl", "corpus.json", "report.html", "model.onnx")  # files of a run, never read as text
BINARY = "binary"  # used as the hash of a file that is skipped because of its first bytes


def show_source(source: str | Path) -> str:
    """What a source is called, for people."""
    return "standard input" if str(source) == STDIN else str(source)


def read_text(source: str | Path, encoding: str | None = None, newlines: str = "universal", like: str = "utf-8") -> str:
    """Read a text as one string; without an `encoding`, as one that belongs to a text encoded `like` that.

    Raises: as `read_corpus`; without an `encoding`, the message names no option.
    """
    try:
        return read_any([source], likely_encodings(like) if encoding is None else [encoding], newlines).text()
    except NotTextError as error:
        if not error.encoding or (encoding is not None and error.encoding != "bytes"):
            raise
        raise CharrnnError(f"{error.fault}; save it as UTF-8 text") from None


def read_any(
    sources: Sequence[str | Path],
    encodings: Sequence[str],
    newlines: str,
    watch: Watch | None = None,
    between: str = "\n",
) -> Corpus:
    """Read `sources` in the first of `encodings` that fits; standard input can only be read once, in the first.

    Raises: as `read_corpus`.
    """
    tried = encodings[:1] if STDIN in map(str, sources) else encodings
    for encoding in tried[:-1]:
        with contextlib.suppress(NotTextError):
            return read_corpus(sources, encoding, newlines, watch, between)
    return read_corpus(sources, tried[-1], newlines, watch, between)


def likely_encodings(encoding: str) -> list[str]:
    """How a text may be encoded that belongs to one in `encoding`: charrnn writes UTF-8, or bytes."""
    return [encoding] if encoding in ("bytes", "utf-8") else ["utf-8", encoding]


def read_corpus(
    sources: Sequence[str | Path],
    encoding: str = "utf-8",
    newlines: str = "universal",
    watch: Watch | None = None,
    between: str = "\n",
) -> Corpus:
    """Read all `sources` (files, folders, "-" for standard input) as one text. `encoding` may be "bytes".

    A folder means all text files below it, sorted by name. Hidden files, runs and files that are not text are skipped; the
    corpus's notes name the last two. Byte-order marks are removed; if `encoding` is UTF-8, one of UTF-16 or UTF-32 sets the
    encoding of its file. `newlines` is one of NEWLINES and has no effect on bytes. A file that is followed by another one ends
    with `between`, which consists of line breaks; those that it lacks are added, except to bytes.

    Raises: CharrnnError if a source is missing, unreadable, damaged, not in `encoding` or changes while it is read, if the
    whole text is empty, and (status 1) if the disk has no room for the ids of a long text.
    """
    reader = _Reader(sources, encoding=encoding, newlines=newlines, watch=watch, between=between)
    if (corpus := reader.find()) is None:
        corpus = reader.read()
    skipped = [file.name for file in reader.files if not file.is_text]
    if not len(corpus):
        why = f"its files are not {encoding} text: {shorten(skipped)}" if skipped else "it is empty"
        raise CharrnnError(f"no text in {', '.join(map(show_source, sources))}: {why}")
    if skipped:
        reader.notes.append(f"skipped files that are not {encoding} text: {shorten(skipped)}")
    corpus.notes = reader.notes + reader.decoder.note() + corpus.notes
    names = [file.name if file.name == STDIN else os.path.abspath(file.name) for file in reader.files]
    corpus.files = [SourceFile(name, bytes=file.size, hash=file.hash) for name, file in zip(names, reader.files, strict=True)]
    return corpus


def build_corpus(text: str | Iterable[str]) -> Corpus:
    """Make a `Corpus` from a text in memory, a string or several."""
    with contextlib.closing(IdWriter(named=False)) as writer:
        for piece in [text] if isinstance(text, str) else text:
            writer.write(piece)
        return writer.finish()


@dataclass
class _File:
    """A file to read."""

    name: str  # "-" for standard input
    size: int | None  # in bytes; None for a pipe
    lenient: bool  # skip it if it is not text, since it was found in a folder
    hash: str = ""  # of its bytes, once they have been read
    is_text: bool = True  # False once it turns out not to be

    @property
    def compressed(self) -> bool:
        return is_archive(self.name)

    @property
    def shown(self) -> str:
        return show_source(self.name)


class _Reader:
    """Makes a corpus from files: `find` looks for its ids in the cache, `read` reads the files."""

    def __init__(self, sources: Sequence[str | Path], encoding: str, newlines: str, watch: Watch | None, between: str):
        self.decoder = Decoder(encoding, newlines)
        files, runs = _find_files(sources)
        self.files = [_File(name, size=_size(name), lenient=lenient) for name, lenient in files]
        sizes = [file.size for file in self.files]
        self.total = None if None in sizes else sum(size or 0 for size in sizes)
        self.between = "" if encoding == "bytes" or len(files) == 1 else between
        self._end = ""  # of the text so far, at most as long as `between`
        self.done = 0  # bytes
        self.watch = watch
        self.notes = [f"skipped what charrnn has written in {shorten(runs)}"] if runs else []
        self.stem: Path | None = None  # path in the cache, without the hash; None: don't cache
        if self.total is not None and (self.total >= id_cache.IN_MEMORY or any(file.compressed for file in self.files)):
            with contextlib.suppress(CharrnnError):  # no cache folder: an error only if the text is long, later
                stem = f"v{id_cache.FORMAT}-{self.total}-{self.decoder.codec.name}-{self.decoder.newlines}"
                stem += f"-{len(self.between)}" * bool(self.between)
                self.stem = cache_folder() / stem

    def find(self) -> Corpus | None:
        """Load the corpus from the cache; None if it is not there."""
        if self.stem is None or not list(self.stem.parent.glob(f"{self.stem.name}-*.ids")):
            return None  # not cached: don't read the files for their hash
        for file in self.files:
            file.hash = self._hash(file)
        path = self._path(self.stem)
        with _reading(str(path)):
            if path.exists():
                if (cached := id_cache.load(path)) is None:
                    self.notes.append(f"{path} was damaged and is rebuilt")
                elif all(self.files[i].lenient for i in cached[1]):  # a file named by the user must be text
                    for i in cached[1]:
                        self.files[i].is_text = False
                    return cached[0]
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
        """Write the text of a file. If it turns out to be skipped, its text is removed again."""
        hashes: list[bytes] = []
        blocks = _blocks(file.name, count=self._count, hashes=hashes)
        length, end = writer.length, self._end
        file.hash = ""
        try:
            for text in filter(None, self.decoder.decode(unpack(file.name, blocks), file.shown)):
                if writer.length == length and length:
                    writer.write(self._missing_breaks())
                writer.write(text)
                self._end = (self._end + text[-len(self.between) :])[-len(self.between) :] if self.between else ""
        except NotTextError as error:
            if not file.lenient:
                raise
            writer.roll_back(length)
            self._end = end
            file.is_text = False
            if isinstance(error, WrongHeadError) and not file.compressed:
                file.hash = BINARY
                return
            for _ in blocks:  # read the rest for the hash
                pass
        file.hash = id_cache.join_hashes(hashes)

    def _missing_breaks(self) -> str:
        """The line breaks of `between` that the text so far lacks at its end."""
        return self.between[len(self._end) - len(self._end.rstrip("\n")) :]

    def _hash(self, file: _File) -> str:
        """The hash of a file's bytes, the same as `_write` computes."""
        with _reading(file.name), open(file.name, "rb") as opened:
            try:
                if not file.compressed:
                    self.decoder.check_head(opened.read(HEAD), file.name)
            except WrongHeadError:
                return BINARY
            hashes = []
            read = functools.partial(os.pread, opened.fileno(), id_cache.BLOCK)  # takes an offset
            for block_hash in id_cache.hash_blocks(read, os.fstat(opened.fileno()).st_size):
                hashes.append(block_hash)
                self._count(id_cache.BLOCK)
            return id_cache.join_hashes(hashes)

    def _count(self, size: int) -> None:
        self.done += size
        if self.watch is not None:
            self.watch(self.done, self.total)

    def _path(self, stem: Path) -> Path:
        """The path in the cache for the ids of these files."""
        hashes = json.dumps([file.hash + Path(file.name).suffix * file.compressed for file in self.files])
        return stem.with_name(f"{stem.name}-{hashlib.sha256(hashes.encode()).hexdigest()}.ids")


def _find_files(sources: Sequence[str | Path]) -> tuple[list[tuple[str, bool]], list[str]]:
    """Returns: (name, whether to skip it if it is not text) of each file; the folders of runs, which are skipped."""
    named: list[tuple[str, bool]] = []
    runs: list[str] = []
    for source in map(str, sources):
        if source == STDIN or not os.path.isdir(source):
            named.append((source, False))
            continue
        files, below = _walk(Path(source))
        runs += below
        if not files and below:
            cure = f"to continue one: charrnn train --resume -o {shlex.quote(below[0])}"
            raise CharrnnError(f"{source} has runs of charrnn, but no text; {cure}")
        if not files:
            raise CharrnnError(f"{source} is a folder without files; name one with text")
        named += [(str(file), True) for file in sorted(files)]
    return named, runs


def _walk(top: Path) -> tuple[list[Path], list[str]]:
    """Find files below a folder, at any depth, without hidden files, symlinks to folders and files of runs.

    Returns: the files in no order; the folders of runs, which may include `top`.
    """
    files: list[Path] = []
    runs: list[str] = []
    folders = [top]
    while folders:
        folder = folders.pop()
        paths: list[Path] = []
        with _reading(str(folder)), contextlib.suppress(PermissionError):
            paths = [path for path in folder.iterdir() if path.name[0] != "."]
        if is_run := any(path.name in RUN_FILES and _holds_tensors(path) for path in paths):
            runs.append(str(folder))
        if not is_run or folder == top:
            folders += [path for path in paths if path.is_dir() and not path.is_symlink()]
            files += [path for path in paths if path.is_file() and not (is_run and path.name in WRITTEN)]
    return files, sorted(runs)


def _holds_tensors(path: Path) -> bool:
    """Whether a file starts like safetensors: eight bytes of length, then JSON."""
    try:
        if not path.is_file():  # reading a pipe would block
            return False
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn an OSError into a CharrnnError."""
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


def _blocks(name: str, count: Callable[[int], None], hashes: list[bytes]) -> Iterator[bytes]:
    """Yield the blocks of a file, and append their hashes to `hashes`. Raises: CharrnnError if the file changes."""
    if name == STDIN and sys.stdin is None:
        raise CharrnnError("standard input is closed; pipe a text in or name a file")
    with _reading(show_source(name)), contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if name == STDIN else stack.enter_context(open(name, "rb"))
        before = _stamp(file)
        block = b"-"
        while block:
            block = file.read(id_cache.BLOCK)
            if _stamp(file) != before:
                raise CharrnnError(f"{name} changed while it was read; train on a copy of it")
            if block:
                hashes.append(hashlib.sha256(block).digest())
            count(len(block))
            yield block  # the last one is empty


def _stamp(file: IO[bytes]) -> tuple[int, int] | None:
    """Size and modification time of a regular file, to detect changes; None for others."""
    try:
        facts = os.fstat(file.fileno())
    except (OSError, ValueError):  # standard input is not a file
        return None
    return (facts.st_size, facts.st_mtime_ns) if stat.S_ISREG(facts.st_mode) else None
