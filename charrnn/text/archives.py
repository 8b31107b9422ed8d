"""Unpacks compressed files, block by block."""

import functools
import shlex
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from charrnn.errors import CharrnnError
from charrnn.text.id_cache import BLOCK

ARCHIVES = {".gz": 4096, ".zst": 128}  # bytes to unpack at a time, which expand to at most 4 MB
WINDOW = 1 << 26  # largest window of a .zst file in bytes, since it is held in memory


def is_archive(name: str) -> bool:
    """Whether a file is unpacked when it is read, by its name."""
    return name.endswith(tuple(ARCHIVES))


def unpack(name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the blocks of a file, unpacked if it is compressed. Raises: CharrnnError for a damaged archive."""
    if not is_archive(name):
        yield from blocks
        return
    begin: Callable[[], Any] = functools.partial(zlib.decompressobj, wbits=31)
    damaged: type[Exception] = zlib.error
    if name.endswith(".zst"):
        try:
            import zstandard
        except ImportError:
            raise CharrnnError(f"{name}: a .zst file needs zstandard: pip install 'charrnn[zstd]'") from None
        begin, damaged = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj, zstandard.ZstdError
    archive = None
    unpacked = bytearray()
    size = next(size for end, size in ARCHIVES.items() if name.endswith(end))
    try:
        for block in blocks:
            for at in range(0, len(block), size):
                piece = block[at : at + size]
                while piece and (archive or piece.strip(b"\0")):  # some tools pad the end with zeros
                    archive = archive or begin()
                    unpacked += archive.decompress(piece)
                    piece = archive.unused_data
                    if archive.eof:
                        archive = None
                while len(unpacked) >= BLOCK:
                    yield bytes(unpacked[:BLOCK])
                    del unpacked[:BLOCK]
    except damaged as error:
        if "too much memory" in str(error):
            cure = f"a window of more than {WINDOW >> 20} MB; unpack it first: zstd -d --long=31 {shlex.quote(name)}"
            raise CharrnnError(f"{name} needs too much memory to unpack, {cure}") from None
        raise CharrnnError(f"{name} is damaged, or not such an archive: {error}") from None
    if archive is not None:
        raise CharrnnError(f"{name} is truncated: its archive has no end")
    if unpacked:
        yield bytes(unpacked)
    yield b""
