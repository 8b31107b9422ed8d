"""The folder of a run: claim and lock it, write its files, find models and runs."""

import contextlib
import itertools
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from charrnn import checkpoint
from charrnn.checkpoint import Tensors, lock, remove_leftovers, write_atomically
from charrnn.errors import CharrnnError, shorten
from charrnn.headers import Metrics, ModelHeader, Origin, StateHeader, model_to_json, parse, state_to_json, to_json
from charrnn.text.corpus import SourceFile
from charrnn.text.reading import STDIN

MODEL = "model.safetensors"
STATE = "state.safetensors"
HISTORY = "history.jsonl"
CORPUS = "corpus.json"
FORECAST = "forecast.safetensors"  # the model of `charrnn forecast`
FILES = (MODEL, STATE, HISTORY, CORPUS)  # of a run
RUNS = Path("runs")  # default parent of run folders
BASES = Path(__file__).parent / "bases"  # the base models, which come with the package
HEAD = 4096  # bytes to read to recognize text
LISTED = 10  # most runs listed in an error


class RunFolder:
    """The folder of a run. Only one process can lock it; the lock ends with the process."""

    def __init__(self, path: Path):
        self.path = path
        self._descriptor = -1

    @classmethod
    def claim(cls, out: str | Path | None, name: str, force: bool, texts: Sequence[SourceFile]) -> Self:
        """Make and lock the folder of a new run: `out`, or `runs/NAME`, with a number added if that has a run.

        If two runs claim a folder at once, only one gets it. With `force` an old run in it is replaced.
        Raises: CharrnnError, also if the run would overwrite one of its `texts`.
        """
        fixed = out is not None or force
        for number in itertools.count(1):
            path = Path(out) if out is not None else RUNS / (name if number == 1 else f"{name}-{number}")
            if not fixed and path.exists() and (_is_used(path) or not path.is_dir()):
                continue
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CharrnnError(f"{path} can't be made: {error.strerror or error}", 1) from None
            for file in filter(os.path.exists, (path / name for name in FILES)):
                if any(is_same(file, text.file) for text in texts):
                    raise CharrnnError(f"--out {path}: the run would replace the text {file}; name another folder")
            folder = cls(path)
            try:
                folder.lock()
            except CharrnnError:
                if fixed:
                    raise
                continue
            if force or not _is_used(path):
                break
            folder.unlock()  # another run was there in the meantime
            if fixed:
                require_unused(path)
        return folder

    def lock(self) -> None:
        """Lock the folder and remove unfinished files of killed runs. Raises: CharrnnError if another run has the lock."""
        if self._descriptor >= 0:
            return
        try:
            if os.name != "nt":  # Windows can't open a folder: two runs in one are not detected
                self._descriptor = os.open(self.path, os.O_RDONLY)
                lock(self._descriptor)
        except BlockingIOError:
            self.unlock()
            message = f"another run is using {self.path}; wait for it or choose another folder with --out"
            raise CharrnnError(message) from None
        except OSError as error:
            if self._descriptor < 0:
                raise CharrnnError(f"{self.path} can't be opened: {error.strerror or error}") from None
        remove_leftovers(self.path)

    def unlock(self) -> None:
        """Release the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def discard(self) -> None:
        """Unlock a folder that was just claimed, and remove it if it is empty."""
        self.unlock()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.path,)  # a copy in another process has no lock

    def require_there(self) -> None:
        """Raise CharrnnError (status 1) if the locked folder has been deleted or moved."""
        with contextlib.suppress(OSError):
            if self._descriptor < 0 or os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
                return
        raise CharrnnError(f"{self.path} was deleted or moved during the run; nothing more can be saved in it", 1)

    def open_state(self) -> tuple[Tensors, StateHeader]:
        """Lock the folder and read its state. Raises: CharrnnError if there is none or it is damaged."""
        if not (self.path / STATE).exists():
            raise CharrnnError(f"{self.path} has no checkpoint to resume; start it again with the command that started it")
        self.lock()
        return checkpoint.read_state(self.path / STATE)

    def save_state(self, tensors: Tensors, header: StateHeader) -> None:
        """Write the state. Raises: CharrnnError (status 1) if it can't be written."""
        self.require_there()
        checkpoint.write(self.path / STATE, tensors, state_to_json(header))

    def save_model(self, tensors: Tensors, header: ModelHeader) -> None:
        """Write the model. Raises: CharrnnError (status 1) if it can't be written."""
        checkpoint.write(self.path / MODEL, tensors, model_to_json(header))

    def save_history(self, history: Sequence[Metrics]) -> None:
        """Write one line per validation. Raises: CharrnnError (status 1) if it can't be written."""
        lines = "".join(json.dumps(to_json(metrics)) + "\n" for metrics in history)
        write_atomically(self.path / HISTORY, lines.encode())

    def save_manifest(self, corpus_hash: str, files: Sequence[SourceFile]) -> None:
        """Write the list of source files. Raises: CharrnnError (status 1) if it can't be written."""
        manifest = {"fingerprint": corpus_hash, "files": [vars(file) for file in files]}
        write_atomically(self.path / CORPUS, json.dumps(manifest, indent=1).encode())

    def save_move(self, origin: Origin, files: Sequence[SourceFile]) -> None:
        """Write where the text is now to the list of source files and to the model. Raises: CharrnnError, as they do."""
        self.save_manifest(origin.corpus_hash, files)
        with contextlib.suppress(CharrnnError):  # there is no usable model yet
            tensors, header = checkpoint.read_model(self.path / MODEL)
            moved = replace(header.training.origin or origin, sources=origin.sources)
            self.save_model(tensors, replace(header, training=replace(header.training, origin=moved)))


def is_same(path: Path, source: str | Path | int) -> bool:
    """Whether `source` (a path, "-" for standard input, or a file descriptor) is the file at `path`."""
    with contextlib.suppress(OSError, ValueError):
        return os.path.samestat(os.stat(path), os.stat(0 if str(source) == STDIN else source))
    return False


def _is_used(folder: Path) -> bool:
    return os.path.exists(folder / MODEL) or os.path.exists(folder / STATE)


def require_unused(folder: Path) -> None:
    """Raise CharrnnError if `folder` can't be used for a new run."""
    if _is_used(folder):
        raise CharrnnError(f"{folder} already has a run; continue it with --resume, or replace it with --force")
    if folder.exists() and not folder.is_dir():
        raise CharrnnError(f"--out {folder} is a file; name a folder")


def read_history(folder: Path) -> list[Metrics]:
    """The validations of the run in `folder`, in order; empty without a history. Raises: CharrnnError if it is damaged."""
    path = folder / HISTORY
    if not path.exists():
        return []
    try:
        if not path.is_file():  # reading a pipe would block
            raise ValueError("it is not a regular file")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CharrnnError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    history = []
    for number, line in enumerate(lines, 1):
        try:
            history.append(parse(Metrics, json.loads(line), exact=False))
        except (ValueError, KeyError, TypeError, RecursionError):
            where = f"{path} is damaged in line {number}"
            raise CharrnnError(f"{where}; without it the report leaves the curves out") from None
    return history


def read_manifest(folder: Path) -> list[SourceFile]:
    """The source files of the run in `folder` (see `Corpus.files`); empty if unknown."""
    if not (folder / CORPUS).is_file():  # reading a pipe would block
        return []
    try:
        return [SourceFile(**facts) for facts in json.loads((folder / CORPUS).read_bytes())["files"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def find_resumable(name: str = "", source: str = "") -> Path:
    """The folder of the newest resumable run in `runs/` of the corpus `name`; of any without it. Raises: CharrnnError.

    Runs that read `source`, an absolute path, are preferred: `runs/a-2` may be the second run of a.txt or one of a-2.txt.
    """

    def rank(state: Path) -> tuple[bool, float]:
        files = [Path(file.file).resolve() for file in read_manifest(state.parent)]
        reads_it = any(Path(source) in (file, *file.parents) for file in files[:1])
        return reads_it, state.stat().st_mtime

    numbered = re.compile(f"{re.escape(name)}(-[0-9]+)?" if name else ".*", re.DOTALL)
    states = [state for state in RUNS.glob(f"*/{STATE}") if numbered.fullmatch(state.parent.name)]
    if not states:
        raise CharrnnError(f"no run to resume under runs/{name}; name its folder with --out")
    return max(states, key=rank).parent


def output_folder(model: Path) -> Path:
    """The default folder for outputs about a model: the model's own; for a base model, the current folder."""
    return Path() if model.parent == BASES else model.parent


def list_bases() -> list[str]:
    """The names of the base models."""
    return sorted(path.stem for path in BASES.glob("*.safetensors"))


def list_runs(file: str = MODEL) -> list[str]:
    """The names of the runs in `runs/` that have this file, newest first."""
    files = sorted(RUNS.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in files]


def is_model(name: str | Path) -> bool:
    """Whether `name` is a model: a run's folder, a model file, the name of a run in `runs/` or of a base model."""
    path = Path(name)
    if os.path.exists(path):
        return path.suffix == ".safetensors" or os.path.exists(path / MODEL)
    return str(name) in list_bases() or str(name) in list_runs()


def is_forecast(name: str | Path) -> bool:
    """Whether `name` is a folder, perhaps in `runs/`, with a forecast model."""
    return any(os.path.exists(folder / FORECAST) for folder in (Path(name), RUNS / name))


def is_text(path: str | Path) -> bool:
    """Whether `path` is a file that looks like text. A model file does not: it starts with a number with zero bytes."""
    if not os.path.isfile(path):  # reading a pipe would block
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return head != b"" and b"\0" not in head


def find_model(path: str | Path | None) -> Path:
    """Find the model file for a run's folder, a model file, or the name of a base model or run; default: the newest run.

    Raises: CharrnnError if there is none, or `path` is a text.
    """
    if path is None:
        if runs := list_runs():
            return RUNS / runs[0] / MODEL
        raise CharrnnError("no model under runs/; train one first (charrnn train FILE) or choose one with --model")
    named = Path(path)
    is_folder = os.path.isdir(named)
    file = named / MODEL if is_folder else named
    if file.suffix != ".safetensors" and is_text(file):
        advice = f"to train a model on it: charrnn train {shlex.quote(str(path))}"
        raise CharrnnError(f"{path} is a text, not a model; {advice}")
    if os.path.exists(file):
        return file
    bases = list_bases()
    runs = list_runs()
    if str(path) in bases:
        return BASES / f"{path}.safetensors"
    if str(path) in runs:
        return RUNS / path / MODEL
    known = [f"the runs under runs/: {shorten(runs, LISTED)}"] if runs else []
    known += [f"the base models are: {', '.join(bases)}"] if bases else []
    if (is_folder or not os.path.exists(named)) and is_forecast(named):
        raise CharrnnError(f"{path} is a forecast model; use it with: charrnn forecast TABLE -m {shlex.quote(str(path))}")
    if is_folder:
        raise CharrnnError("; ".join([f"{path} has no model: {file} does not exist", *known]))
    if known and named.suffix != ".safetensors":
        raise CharrnnError("; ".join([f"{path} does not exist", *known]))
    return file


def find_forecast(path: Path) -> Path:
    """Find the file of a forecast model, given its folder (perhaps in `runs/`) or the file itself.

    Raises: CharrnnError if there is none, or `path` is another kind of model or a text.
    """
    for folder in (path, RUNS / path):
        if os.path.exists(folder / FORECAST):
            return folder / FORECAST
    if is_model(path) and path.suffix != ".safetensors":
        raise CharrnnError(
            f"{path} is a model of text, not of numbers; to generate text with it: charrnn sample {shlex.quote(str(path))}"
        )
    if is_text(path):
        raise CharrnnError(f"{path} is a text, not a model; to forecast it: charrnn forecast {shlex.quote(str(path))}")
    if os.path.isfile(path):
        return path
    runs = list_runs(FORECAST)
    known = f"; the forecast models under runs/: {shorten(runs, LISTED)}" if runs else ""
    if os.path.isdir(path):
        raise CharrnnError(f"{path} has no forecast model: {path / FORECAST} does not exist{known}")
    raise CharrnnError(f"{path} does not exist{known}")
