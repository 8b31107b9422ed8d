"""A run's folder: its lock, who may begin in it, what is found in it."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from charrnn import checkpoint
from charrnn.checkpoint import temporary_path
from charrnn.errors import CharrnnError

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]


FIGURES = "step", "characters", "seconds", "train_bits_per_character", "learning_rate"  # that each validation has


def history(folder: Path) -> list[dict[str, Any]]:
    """The validations of the run in `folder`, in order; none where it keeps no history.

    Raises: CharrnnError where the file is damaged.
    """
    try:
        lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise CharrnnError(f"{folder / HISTORY} can't be read: {getattr(error, 'strerror', None) or error}") from None
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            figures = [record[key] for key in FIGURES]
            if record["validation_bits_per_character"] is not None:
                figures.append(record["validation_bits_per_character"])
            if not all(math.isfinite(checkpoint.number(figure)) for figure in figures):
                raise ValueError("a figure is none")
            if not isinstance(record.get("sample", ""), str):
                raise TypeError("its sample is no text")
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CharrnnError(
                f"{folder / HISTORY} is damaged in line {number}; without it the report leaves the curves out"
            ) from None
        records.append(record)
    return records


MODEL, STATE, HISTORY, CORPUS = "model.safetensors", "state.safetensors", "history.jsonl", "corpus.json"


class Lock:
    """Holds a run's folder for one process; the system ends it with the process, however that ends.

    What an earlier process left half written is cleared. Raises: CharrnnError where another run holds the folder.
    """

    def __init__(self, folder: Path):
        self.folder, self._descriptor = folder, -1
        try:
            if fcntl is not None:
                self._descriptor = os.open(folder, os.O_RDONLY)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise CharrnnError(f"another run is at work in {folder}; wait for it or name another folder with --out") from None
        except OSError as error:
            if self._descriptor < 0:
                raise CharrnnError(f"{folder} can't be opened: {error.strerror or error}") from None
        for name in (MODEL, STATE, HISTORY, CORPUS):
            with contextlib.suppress(OSError):
                temporary_path(folder / name).unlink(missing_ok=True)

    def check(self) -> None:
        """Raise CharrnnError (status 1) where the folder is no longer the one that was locked."""
        try:
            same = self._descriptor < 0 or os.path.samestat(os.stat(self.folder), os.fstat(self._descriptor))
        except OSError:
            same = False
        if not same:
            raise CharrnnError(f"{self.folder} has been deleted or moved under the run; nothing more can be saved in it", 1)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def _used(folder: Path) -> bool:
    return (folder / MODEL).exists() or (folder / STATE).exists()


def require_unused(folder: Path) -> None:
    """Raise CharrnnError where a new run can't begin in `folder`."""
    if _used(folder):
        raise CharrnnError(f"{folder} holds a run already; continue it with --resume, or replace it with --force")
    if folder.exists() and not folder.is_dir():
        raise CharrnnError(f"--out {folder} is a file; name a folder")


def claim(out: Path | None, name: str, force: bool) -> tuple[Path, Lock]:
    """Make the folder of a new run and lock it: `out`, or `runs/NAME`, numbered where a run stands there already.

    Of two runs that want one folder at the same moment, one gets it. Raises: CharrnnError.
    """
    number = 1
    while True:
        folder = out if out is not None else Path("runs") / (name if number == 1 else f"{name}-{number}")
        number += 1
        fixed = out is not None or force
        if fixed or not folder.exists() or (folder.is_dir() and not _used(folder)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CharrnnError(f"{folder} can't be made: {error.strerror or error}", 1) from None
            try:
                lock = Lock(folder)
            except CharrnnError:
                if fixed:
                    raise
                continue
            if force or not _used(folder):
                return folder, lock
            lock.close()  # another run came first, and has ended since we looked
            if fixed:
                require_unused(folder)


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """The files that the run in `folder` was trained on, as far as can be told; see `Corpus.files`."""
    try:
        files = json.loads((folder / CORPUS).read_bytes())["files"]
        return [dict(facts) for facts in files]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def find_model(path: str | Path | None, runs: Path = Path("runs")) -> Path:
    """The model file that `path` (a run's folder or the file itself) means; without it, that of the newest run.

    Raises: CharrnnError where there is none.
    """
    if path is not None:
        return Path(path) / MODEL if Path(path).is_dir() else Path(path)
    found = sorted(runs.glob(f"*/{MODEL}"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise CharrnnError(f"no model under {runs}/; train one first (charrnn train FILE) or name one with --model")
    return found[-1]
