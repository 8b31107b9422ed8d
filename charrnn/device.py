"""The machine: which device and precision to train with, and how fast it is. It knows nothing of texts or runs."""

import contextlib
import ctypes
import math
import time
from pathlib import Path

import torch

from charrnn.errors import CharrnnError
from charrnn.model import CharRNN, Config
from charrnn.recipe import REFERENCE

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of the C library's malloc.h


def pick_device(name: str) -> str:
    """The device that `name` means; "auto" is the fastest kind here. Raises: CharrnnError where there is none of that kind."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        raise CharrnnError(f"--device {name}: this machine has none that torch can use; take cpu")
    return name


def pick_precision(asked: str, device: str) -> str:
    """The precision of the products that was `asked` for; "auto" is bfloat16 where the device multiplies it natively."""
    if asked != "auto":
        return asked
    native = has_bfloat16() if device == "cpu" else device == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if native else "float32"


def measure_speed(device: str, precision: str) -> float:
    """Characters per second that the network which `choose` reckons by learns here: the best of a few windows."""
    keep_memory()
    model = CharRNN(Config(64, *REFERENCE)).to(device)
    ids = torch.zeros(48, 32, dtype=torch.int64, device=device)
    best = math.inf
    for _ in range(5):
        began = time.perf_counter()
        logits, _ = model(ids, model.initial_state(ids.shape[1]), dtype=getattr(torch, precision))
        logits.sum().backward()
        logits.sum().item()  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return ids.numel() / best


def keep_memory() -> None:
    """Have the GNU C library keep what is freed: a window takes tens of megabytes, and to get them from the system anew
    each time costs up to a quarter of the time."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems' libraries have no such call
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; elsewhere it is emulated and slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
