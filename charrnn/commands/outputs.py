"""Output files named by the user: check that they overwrite nothing important, and write them."""

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from charrnn.errors import CharrnnError


def require_output(flag: str, path: Path, inputs: Iterable[str | Path]) -> None:
    """Check that an output is a device, a pipe, or a regular file that is neither a run's nor one of the `inputs`.

    Raises: CharrnnError, with status 1 if it can't be written.
    """
    from charrnn.options import require
    from charrnn.run_folder import CORPUS, HISTORY, is_same

    target = Path(os.path.realpath(path))
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
        if not target.parent.is_dir():
            raise CharrnnError(f"{path} can't be written: there is no folder {target.parent}", 1) from None
    except OSError as error:
        raise CharrnnError(f"{path} can't be written: {error.strerror or error}", 1) from None
    require(not stat.S_ISDIR(mode), f"{flag} {path} is a folder; name a file")
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        return
    require(stat.S_ISREG(mode), f"{flag} {path} is not a regular file")
    require_writable(path, target.parent)
    kept = target.suffix == ".safetensors" or target.name in (HISTORY, CORPUS)
    require(not kept, f"{flag} {path} has a name that is reserved for files of a run; choose another")
    folders = {Path(os.path.realpath(source)) for source in inputs if os.path.isdir(source)}
    read = any(is_same(path, source) for source in inputs) or (path.exists() and folders.intersection(target.parents))
    require(not read, f"{flag} {path} is an input of this command; choose another file")


def require_writable(path: Path, folder: Path) -> None:
    """Raise CharrnnError (status 1) where `path` can't be written, since no file can be made in its `folder`."""
    if not os.access(folder, os.W_OK):
        raise CharrnnError(f"{path} can't be written: the folder {folder} is read-only", 1)


def write_output(path: Path, data: bytes) -> None:
    """Write an output that `require_output` has checked; a regular file atomically.

    Raises: CharrnnError (status 1) if it can't be written.
    """
    from charrnn.checkpoint import write_atomically
    from charrnn.run_folder import is_same

    target = next((stream for stream in (1, 2) if is_same(path, stream)), path)  # /dev/stdout may be a regular file
    if target is path and (path.is_file() or not path.exists()):
        write_atomically(path, data)
        return
    try:
        with contextlib.suppress(BrokenPipeError), open(target, "wb", closefd=target is path) as file:
            file.write(data)
    except OSError as error:
        raise CharrnnError(f"{path} can't be written: {error.strerror or error}", 1) from None
