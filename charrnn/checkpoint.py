"""Files in, files out: `model.safetensors` (the model, complete in itself) and `state.safetensors` (what resuming needs).

Both are safetensors with a JSON object under the header's key `charrnn`, so that reading one runs no code; both are written
whole or not at all. It knows tensors as NumPy arrays and nothing of torch.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from charrnn.errors import CharrnnError

FORMAT = 1
MODEL, STATE, HISTORY = "model.safetensors", "state.safetensors", "history.jsonl"
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
LIMIT = 1 << 24  # no size in a configuration is larger

Tensors = dict[str, np.ndarray]
Header = dict[str, Any]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, flush, fsync, rename, fsync of the folder.

    Raises: CharrnnError (status 1) when it can't be written; what stood there before is untouched then.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise CharrnnError(f"{path} can't be written: {error.strerror or error}", 1) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write(path: Path, tensors: Tensors, header: Header) -> None:
    """Write `tensors` and `header` as one safetensors file, atomically."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items())}
    text = json.dumps({"format": FORMAT, **header}, ensure_ascii=True, sort_keys=True)
    write_atomically(path, save(contiguous, metadata={"charrnn": text}))


def read(path: Path) -> tuple[Tensors, Header]:
    """Read a file that `write` wrote.

    Raises: CharrnnError where it is missing, not such a file, or of a newer format.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get("charrnn", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise CharrnnError(f"{path} does not exist") from None
    except OSError as error:
        raise CharrnnError(f"{path} can't be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise CharrnnError(f"{path} is not a charrnn file: {str(error).splitlines()[0]}") from None
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise CharrnnError(f"{path} is not a charrnn file: its header has no 'charrnn' object")
    if header["format"] > FORMAT:
        raise CharrnnError(f"{path} has format {header['format']}; this charrnn reads up to {FORMAT}: install a newer one")
    return tensors, header


def read_model(path: Path) -> tuple[Tensors, Header]:
    """Read a model and hold every tensor to the configuration and the vocabulary that the header states.

    Raises: CharrnnError that names the file and what in it is wrong.
    """
    tensors, header = read(path)
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
        if not np.isfinite(tensor).all():
            raise CharrnnError(f"{path}: tensor {name!r} holds numbers that are not finite")
    return tensors, header


def shapes(header: Header) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor that the model of this header has. Raises KeyError, TypeError or ValueError."""
    vocabulary, start, config = header["vocabulary"], header["start"], header["config"]
    if not isinstance(vocabulary, str) or list(vocabulary) != sorted(set(vocabulary)) or not vocabulary:
        raise ValueError("the vocabulary is not a text of distinct characters in code-point order")
    if not isinstance(start, str) or len(start) != 1 or start not in vocabulary:
        raise ValueError("its start is not a character of the vocabulary")
    sizes = [config[key] for key in ("vocabulary_size", "num_layers", "hidden_size", "embedding_size")]
    if not all(type(size) is int and 0 <= size <= LIMIT for size in sizes):
        raise ValueError("a size is not a whole number in range")
    if header.get("unknown", False) not in (False, True) or (header.get("unknown") and "\ufffd" not in vocabulary):
        raise ValueError("its symbol for unknown characters is not in the vocabulary")
    V, layers, H, E = sizes
    if len(vocabulary) != V or layers > 1000 or (layers and not H):
        raise ValueError("its sizes don't fit together")
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
