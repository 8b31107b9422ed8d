"""The folder of the cache of long texts: its files and its limit. It does not import NumPy."""

import contextlib
import os
import shutil
import time
from pathlib import Path

from charrnn.errors import CharrnnError

MAX_BYTES = 20_000_000_000  # limit of the cache, or a tenth of the free disk if that is less; the newest file always stays
STALE = 3600  # seconds without a write after which an unfinished file belongs to a killed program


def cache_folder() -> Path:
    """The cache folder. Raises: CharrnnError if the environment does not give an absolute path."""
    folder = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    if not folder.is_absolute():
        raise CharrnnError("a long text can't be cached: set XDG_CACHE_HOME to the absolute path of a folder")
    return folder / "charrnn"


def list_files() -> list[tuple[os.DirEntry[str], os.stat_result]]:
    """The files in the cache, last used first."""
    if not cache_folder().is_dir():
        return []
    files = []
    with os.scandir(cache_folder()) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another program has just removed it
                if entry.name.endswith((".ids", ".tmp")) and not entry.is_dir(follow_symlinks=False):
                    files.append((entry, entry.stat(follow_symlinks=False)))
    return sorted(files, key=lambda file: -file[1].st_mtime)


def size_limit() -> int:
    """The limit of the cache in bytes. The last used file is kept in any case."""
    return min(MAX_BYTES, shutil.disk_usage(cache_folder()).free // 10)


def prune() -> None:
    """Remove the least recently used files beyond the `size_limit`, and unfinished files of killed programs."""
    total = 0
    with contextlib.suppress(OSError):  # another process may do the same
        most = size_limit()
        for file, facts in list_files():
            if file.name.endswith(".ids"):
                total += facts.st_size
                useless = total > max(most, facts.st_size)  # never the last used one
            else:
                useless = facts.st_mtime < time.time() - STALE
            if useless:
                os.unlink(file)
