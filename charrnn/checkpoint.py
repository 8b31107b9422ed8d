"""Model and state files: safetensors, with JSON under the metadata key `charrnn`. Reading one runs no code from it."""

import contextlib
import json
import math
import os
import secrets
import stat
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from charrnn.errors import CharrnnError, undo
from charrnn.headers import FORMAT, Json, ModelHeader, StateHeader, parse_model, parse_network, parse_state
from charrnn.text.records import HASH_BYTES
from charrnn.version import __version__

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not detected
    fcntl = None  # type: ignore[assignment]

RECORD_HASHES = "fingerprint"  # the tensor with hashes of a model's training records, see `text.records.hash_records`
TEMPORARY = ".charrnn-{}.tmp"  # name of a file while it is written, before it is renamed
LONGEST_HEADER = 1 << 24  # bytes; a vocabulary of all of Unicode needs 15.2 million
LARGEST = 1e6  # largest weight allowed: with larger ones, products could overflow float32
TENSOR_TYPES = {
    "F32",
    "F64",
    "I64",
    "U8",
    "F16",
    "BF16",
}  # in our files; the last two (half precision) since format 2

Tensors = dict[str, np.ndarray]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a regular file completely or not at all; on an error the old file is unchanged.

    A symlink is followed. Unfinished files of killed programs in the folder are removed; a signal leaves none.

    Raises: CharrnnError (status 1).
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(TEMPORARY.format(secrets.token_hex(8)))
    remove = partial(temporary.unlink, missing_ok=True)
    undo.add(remove)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise OSError("it is not a regular file")
        remove_leftovers(target.parent)
        with _create_locked(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # Windows can't rename an open file
                file.close()
            os.replace(temporary, target)
        with contextlib.suppress(OSError):  # not every system can sync a folder
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise CharrnnError(f"{path} can't be written: {error.strerror or error}", 1) from None
    finally:
        with contextlib.suppress(OSError):
            remove()
        undo.discard(remove)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed programs have left in `folder`."""
    for path in folder.glob(TEMPORARY.format("*")):
        with contextlib.suppress(OSError), open(path, "r+b") as file:  # another program has locked it, or has just removed it
            lock(file.fileno())
            path.unlink()


def _create_locked(path: Path) -> BinaryIO:
    """Create a file under a lock. If `remove_leftovers` of another program gets hold of it before that, create it again."""
    while True:
        file = open(path, "wb")  # noqa: SIM115 (the caller closes it)
        try:
            lock(file.fileno())
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:  # not every file system has locks
            return file
        file.close()


def lock(descriptor: int) -> None:
    """Lock a file or folder until its descriptor is closed. Raises: BlockingIOError if another program has the lock."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write(path: Path, tensors: Tensors, header: Json) -> None:
    """Write a safetensors file atomically. Its format is 1, or 2 if it has tensors in half precision."""
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in sorted(tensors.items())}
    newest = max([1, *(2 for tensor in contiguous.values() if tensor.dtype == np.float16)])
    text = json.dumps({"format": newest, "version": __version__, **header}, ensure_ascii=True, allow_nan=False)
    size = sum(tensor.nbytes for tensor in contiguous.values())
    np.empty(2 * size, np.uint8)  # raises MemoryError if memory is short, where safetensors would end the process
    write_atomically(path, save(contiguous, metadata={"charrnn": text}))


def read(path: Path) -> tuple[Tensors, Json]:
    """Read a file written by `write`, in little more memory than its size. Half precision becomes float32.

    Raises: CharrnnError if it is not such a file, or of a newer format.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is not a regular file")
        with open(path, "rb") as start:
            if int.from_bytes(start.read(8), "little") > LONGEST_HEADER:
                raise ValueError("its header is too long")
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get("charrnn", "null")
            header = json.loads(text, object_pairs_hook=_distinct, parse_float=_finite, parse_constant=_finite)
            names = list(file.keys())
            if any(file.get_slice(name).get_dtype() not in TENSOR_TYPES for name in names):
                raise ValueError("it has tensors of a type that charrnn never writes")
            half = {name for name in names if file.get_slice(name).get_dtype() == "BF16"}  # which NumPy does not know
            tensors = {name: file.get_tensor(name) for name in names if name not in half}
        tensors = {
            name: tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor for name, tensor in tensors.items()
        }
        tensors |= _read_bfloat16(path, half)
    except FileNotFoundError:
        raise CharrnnError(f"{path} does not exist") from None
    except OSError as error:
        raise CharrnnError(f"{path} can't be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise CharrnnError(f"{path} is not a charrnn file: {str(error)[:200]}") from None
    written = header.get("format") if isinstance(header, dict) else None
    if type(written) is not int or written < 1:
        raise CharrnnError(f"{path} is not a charrnn file: its header has no 'charrnn' object with a format")
    if written > FORMAT:
        writer = str(header.get("version", "a newer version"))[:20]
        reads = f"this is charrnn {__version__}, which reads formats up to {FORMAT}; use charrnn {writer}"
        raise CharrnnError(f"{path} has format {written}, written by charrnn {writer}; {reads}")
    return tensors, header


def _read_bfloat16(path: Path, names: set[str]) -> Tensors:
    """Read bfloat16 tensors as float32, from a file whose header has been checked."""
    tensors = {}
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little"))) if names else {}
        start = file.tell()
        for name in names:
            begin, end = header[name]["data_offsets"]
            file.seek(start + begin)
            words = np.frombuffer(file.read(end - begin), "<u2").astype("<u4")
            tensors[name] = (words << 16).view("<f4").reshape(header[name]["shape"])
    return tensors


def _distinct(pairs: list[tuple[str, Any]]) -> Json:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("its header has a key twice")
    return dict(pairs)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"its header has {text} for a number")
    return float(text)


def read_model(path: Path) -> tuple[Tensors, ModelHeader]:
    """Read a model and check its tensors against its header. Raises: CharrnnError with the file and what is wrong."""
    tensors, header = read(path)
    model = _check_network(path, {name: tensor for name, tensor in tensors.items() if name != RECORD_HASHES}, header)
    hashes = tensors.get(RECORD_HASHES)
    if (hashes is not None) != (model.records is not None):
        raise CharrnnError(f"{path}: tensor {RECORD_HASHES!r} is {'missing' if hashes is None else 'unknown'}")
    if hashes is not None and (hashes.dtype != np.uint8 or hashes.ndim != 2 or hashes.shape[1] != HASH_BYTES):
        raise CharrnnError(f"{path}: tensor {RECORD_HASHES!r} is {hashes.dtype} {hashes.shape}, not uint8 (n, {HASH_BYTES})")
    try:
        return tensors, parse_model(header)
    except TypeError:
        raise CharrnnError(f"{path} does not say how the model was trained") from None


def read_state(path: Path) -> tuple[Tensors, StateHeader]:
    """Read a training state and check its network against its header. Raises: CharrnnError with the file and the fault."""
    tensors, header = read(path)
    network = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    _check_network(path, network, header)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise CharrnnError(f"{path}: tensor {name!r} holds numbers that are not finite")
    try:
        return tensors, parse_state(header)
    except (KeyError, TypeError, ValueError, OverflowError, CharrnnError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> CharrnnError:
    """Make the error for an inconsistent state file."""
    return CharrnnError(f"{path} is damaged ({error}); its model may still be good")


def _check_network(path: Path, tensors: Tensors, header: Json) -> ModelHeader:
    """Parse a network's header and check `tensors` against it. Raises: CharrnnError if names, shapes or numbers don't fit."""
    try:
        model = parse_network(header)
    except (KeyError, TypeError, ValueError) as error:
        raise CharrnnError(f"{path}: its configuration is not usable: {error}") from None
    shapes = model.config.shapes()
    if set(shapes) != set(tensors):
        odd = min(set(shapes) ^ set(tensors))
        raise CharrnnError(f"{path}: tensor {odd!r} is {'missing' if odd in shapes else 'unknown'}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise CharrnnError(f"{path}: tensor {name!r} is {tensor.dtype} {tensor.shape}, not float32 {shape}")
        if not is_sound(tensor):
            raise CharrnnError(f"{path}: tensor {name!r} holds numbers that are not finite or beyond {LARGEST:,.0f}")
    return model


def is_sound(tensor: np.ndarray) -> bool:
    """Whether all numbers are finite and at most LARGEST in absolute value."""
    return bool(tensor.min() >= -LARGEST and tensor.max() <= LARGEST)  # false with NaN
