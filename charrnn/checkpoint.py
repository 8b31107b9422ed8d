"""Files in, files out: `model.safetensors` (the model, complete in itself) and `state.safetensors` (what resuming needs).

Both are safetensors with a JSON object under the header's key `charrnn`, so that reading one runs no code; both are written
whole or not at all, by one process at a time. It knows tensors as NumPy arrays and nothing of torch.
"""

import contextlib
import json
import math
import os
import stat
import typing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import charrnn
from charrnn.errors import CharrnnError
from charrnn.text.records import PRINT, SEPARATORS

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]


FORMAT = 1
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
FINGERPRINT = "fingerprint"  # the tensor that says which records a model of records was given; see `records.prints`
LIMIT = 1 << 24  # no size in a configuration is larger, nor a header in bytes: one for all of Unicode has 15.2 million
LARGEST = 1e6  # no weight is larger: with more, products leave float32
KINDS = {"F32", "F64", "I64", "U8"}  # of tensors that stand in our files

Tensors = dict[str, np.ndarray]
Header = dict[str, Any]
T = TypeVar("T")


def temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, flush, fsync, rename, fsync of the folder.

    Raises: CharrnnError (status 1) when it can't be written; what stood there before is untouched then.
    """
    temporary = temporary_path(path)
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # not every system can do this for a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise CharrnnError(f"{path} can't be written: {error.strerror or error}", 1) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write(path: Path, tensors: Tensors, header: Header) -> None:
    """Write `tensors` and `header` as one safetensors file, atomically."""
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in sorted(tensors.items())}
    header = {"format": FORMAT, "version": charrnn.__version__, **header}
    text = json.dumps(header, ensure_ascii=True, allow_nan=False)
    write_atomically(path, save(contiguous, metadata={"charrnn": text}))


def read(path: Path) -> tuple[Tensors, Header]:
    """Read a file that `write` wrote, with no more memory than the file has bytes and a small share for its header.

    Raises: CharrnnError where it is missing, not such a file, or of a newer format.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is no regular file")
        with open(path, "rb") as start:
            if int.from_bytes(start.read(8), "little") > LIMIT:
                raise ValueError("its header is too long")
        with safe_open(path, framework="np") as file:
            header = json.loads(
                (file.metadata() or {}).get("charrnn", "null"),
                object_pairs_hook=_object,
                parse_float=_finite,
                parse_constant=_finite,
            )
            names = list(file.keys())
            if any(file.get_slice(name).get_dtype() not in KINDS for name in names):
                raise ValueError("it holds tensors of a kind that charrnn never writes")
            tensors = {name: file.get_tensor(name) for name in names}
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
        raise CharrnnError(
            f"{path} has format {written}, written by charrnn {writer}; this is charrnn {charrnn.__version__}, "
            f"which reads up to format {FORMAT}: charrnn {writer} reads it"
        )
    return tensors, header


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice in its header")
    return dict(pairs)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} stands in its header for a number")
    return float(text)


def read_model(path: Path) -> tuple[Tensors, Header]:
    """Read a model and hold every tensor to the configuration and the vocabulary that the header states.

    Raises: CharrnnError that names the file and what in it is wrong.
    """
    tensors, header = read(path)
    _check_network(path, {name: tensor for name, tensor in tensors.items() if name != FINGERPRINT}, header)
    prints = tensors.get(FINGERPRINT)
    if (prints is not None) != (header.get("records") is not None):
        raise CharrnnError(f"{path}: tensor {FINGERPRINT!r} is {'missing' if prints is None else 'unknown'}")
    if prints is not None and (prints.dtype != np.uint8 or prints.ndim != 2 or prints.shape[1] != PRINT):
        raise CharrnnError(f"{path}: tensor {FINGERPRINT!r} is {prints.dtype} {prints.shape}, not uint8 (n, {PRINT})")
    if not isinstance(header.get("training"), dict):
        raise CharrnnError(f"{path} does not say how the model was trained")
    return tensors, header


def read_state(path: Path) -> tuple[Tensors, Header]:
    """Read a training state; its network, the tensors `model.*`, is held to the header as that of a model is.

    Raises: CharrnnError that names the file and what in it is wrong.
    """
    tensors, header = read(path)
    _check_network(path, {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}, header)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise CharrnnError(f"{path}: tensor {name!r} holds numbers that are not finite")
    return tensors, header


def _check_network(path: Path, tensors: Tensors, header: Header) -> None:
    try:
        expected = shapes(header)
    except (KeyError, TypeError, ValueError) as error:
        raise CharrnnError(f"{path}: its configuration is not usable: {error}") from None
    if set(expected) != set(tensors):
        odd = sorted(set(expected) ^ set(tensors))[0]
        raise CharrnnError(f"{path}: tensor {odd!r} is {'missing' if odd in expected else 'unknown'}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise CharrnnError(f"{path}: tensor {name!r} is {tensor.dtype} {tensor.shape}, not float32 {shape}")
        if not sound(tensor):
            raise CharrnnError(f"{path}: tensor {name!r} holds numbers that are not finite or beyond {LARGEST:,.0f}")


def sound(tensor: np.ndarray) -> bool:
    """Whether all of a network's weights are finite and no larger than LARGEST."""
    return bool(tensor.min() >= -LARGEST and tensor.max() <= LARGEST)  # false with NaN


def typed(kind: type[T], values: Any) -> T:
    """Make the dataclass `kind` of a JSON object, each field held to its declared type. Raises: KeyError or TypeError."""
    hints = typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise TypeError(f"{kind.__name__.lower()} is no object")
    for name, value in values.items():
        allowed = typing.get_args(hints[name]) or (hints[name],)
        if type(value) not in allowed and not (type(value) is int and float in allowed):
            raise TypeError(f"{name} is {value!r}"[:100])
    return kind(**values)


def whole(value: Any) -> int:
    """`value`, held to be a whole number from 0 to 2^53. Raises: TypeError."""
    if type(value) is not int or not 0 <= value <= 1 << 53:
        raise TypeError(f"{value!r} is no whole number"[:100])
    return value


def number(value: Any) -> float:
    """`value`, held to be a number. Raises: TypeError."""
    if type(value) not in (int, float) or abs(value) > 1e300:
        raise TypeError(f"{value!r} is no number"[:100])
    return float(value)


def shapes(header: Header) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor that the model of this header has. Raises KeyError, TypeError or ValueError."""
    vocabulary, start, config = header["vocabulary"], header["start"], header["config"]
    if not isinstance(config, dict):
        raise TypeError("it is no object")
    if not isinstance(vocabulary, str) or list(vocabulary) != sorted(set(vocabulary)) or not vocabulary:
        raise ValueError("the vocabulary is not a text of distinct characters in code-point order")
    if not isinstance(start, str) or len(start) != 1 or start not in vocabulary:
        raise ValueError("its start is not a character of the vocabulary")
    if header.get("records") not in (None, *SEPARATORS) or (header.get("records") and start != "\n"):
        raise ValueError(f"its records are none of {', '.join(SEPARATORS)}, or don't begin after a line break")
    vocabulary.encode("utf-8")  # raises ValueError where a character is none of Unicode's
    unknown = set(config) - {"vocabulary_size", "cell", "num_layers", "hidden_size", "embedding_size", "residual"}
    if unknown or type(config.get("residual", False)) is not bool:
        raise ValueError(f"{min(unknown, default='residual')!r} is nothing that it may say")
    sizes = [config[key] for key in ("vocabulary_size", "num_layers", "hidden_size", "embedding_size")]
    if not all(type(size) is int and 0 <= size <= LIMIT for size in sizes):
        raise ValueError("a size is not a whole number in range")
    if header.get("unknown", False) not in (False, True) or (header.get("unknown") and "\ufffd" not in vocabulary):
        raise ValueError("its symbol for unknown characters is not in the vocabulary")
    V, layers, H, E = sizes
    if len(vocabulary) != V or layers > 1000 or H > 65536 or (layers and not H):
        raise ValueError("its sizes don't fit together")
    if config["cell"] not in GATES:
        raise ValueError(f"its cell is none of {', '.join(GATES)}")
    gates = GATES[config["cell"]]
    expected: dict[str, tuple[int, ...]] = {"embedding.weight": (V, E)} if E else {}
    width = E or V
    for i in range(layers):
        expected |= {
            f"layers.{i}.weight_ih_l0": (gates * H, width),
            f"layers.{i}.weight_hh_l0": (gates * H, H),
            f"layers.{i}.bias_ih_l0": (gates * H,),
            f"layers.{i}.bias_hh_l0": (gates * H,),
        }
        width = H
    return expected | {"softmax.weight": (V, width), "softmax.bias": (V,)}
