"""The machine: which device and precision to train with, how fast it is, and what recipe that affords."""

import contextlib
import ctypes
import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from charrnn.errors import CharrnnError
from charrnn.inference.model import Model
from charrnn.network.char_rnn import CharRNN
from charrnn.network.config import Config
from charrnn.options import Options, Recipe
from charrnn.training.data import Dataset
from charrnn.training.distributed import ALONE, Group
from charrnn.training.recipe import REFERENCE, SPEED, Facts, choose
from charrnn.training.sampled_softmax import SampledSoftmax

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of the C library's malloc.h


def pick_device(name: str, group: Group = ALONE) -> str:
    """The device that `name` means, "auto" the fastest kind; each rank takes the GPU of its number. Raises: CharrnnError."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if group.size > 1:
        available["mps"] = False  # DistributedDataParallel has no way between its devices
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        whose = "this machine has none that torch can use" if group.size == 1 else "several ranks can't train on it here"
        raise CharrnnError(f"--device {name}: {whose}; take cpu")
    if name == "cuda" and group.size > 1:
        if group.local_rank >= (here := torch.cuda.device_count()):
            raise CharrnnError(f"{here} GPUs are here: start as many ranks (torchrun --nproc-per-node {here}) or --device cpu")
        return f"cuda:{group.local_rank}"
    return name


def pick_precision(asked: str, cell: str, device: str, group: Group = ALONE) -> str:
    """The precision of products: "auto" is bfloat16 where every rank's device multiplies it. Raises: CharrnnError."""
    if asked == "bfloat16" and not can_run_bfloat16(cell, device):
        raise CharrnnError(f"--precision bfloat16: this processor can't run an {cell} in it; take float32 or auto")
    native = has_bfloat16() if device == "cpu" else device.startswith("cuda") and torch.cuda.is_bf16_supported()
    if all(group.all_gather(asked != "auto" or native)):
        return "bfloat16" if asked == "auto" else asked
    return "float32"


def can_run_bfloat16(cell: str, device: str) -> bool:
    """Whether a cell runs in bfloat16 there at all, however slowly: oneDNN has no such LSTM for CPUs without AVX-512."""
    model = CharRNN(Config(2, cell=cell, num_layers=1, hidden_size=16, embedding_size=2)).to(device)
    ids = torch.zeros(1, 1, dtype=torch.int64, device=device)
    try:
        model(ids, model.initial_state(1), dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


def measure_speed(device: str, precision: str, logits: int) -> float:
    """Characters per second that the REFERENCE network learns here, with so many logits for each: the best of a few windows."""
    model = CharRNN(Config(logits, *REFERENCE)).to(device)
    return 48 * 32 / window_seconds(model, 48, 32, getattr(torch, precision), 5)


def window_seconds(model: CharRNN, seq_length: int, batch_size: int, dtype: torch.dtype, times: int) -> float:
    """How long `model` takes for a window (T, B), forward and backward: the best of some `times`."""
    keep_memory()
    ids = torch.zeros(seq_length, batch_size, dtype=torch.int64, device=model.softmax.weight.device)
    best = math.inf
    for _ in range(times):
        began = time.perf_counter()
        logits, _ = model(ids, model.initial_state(batch_size), dtype=dtype)
        logits.sum().backward()
        logits.sum().item()  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    model.zero_grad(set_to_none=True)
    return best


def advice(group: Group, model: CharRNN, shape: tuple[int, ...], dtype: torch.dtype) -> list[str]:
    """What to tell the user of several ranks, where a rank's windows (T, B) take less time than their gradients' averaging."""
    if group.size == 1:
        return []
    count = sum(p.numel() for p in model.parameters())
    work = max(group.all_gather(window_seconds(model, shape[0], shape[1], dtype, 2)))
    way = max(group.all_gather(group.averaging_seconds(torch.zeros(count, device=model.softmax.weight.device))))
    if way < work:
        return []
    took = f"{1000 * work:.3g} ms of work and {1000 * way:.3g} ms to average {count * 4e-6:.3g} MB of gradients"
    cure = "more ranks hardly help; a larger --batch-size, which costs no more averaging, does"
    return [f"a step takes each rank {took}: {cure}"]


def choose_recipe(
    options: Options, dataset: Dataset, base: Model | None, device: str, group: Group
) -> tuple[Recipe, list[str]]:
    """Decide how to train on this machine; the first rank decides for all."""
    cell = options.cell if base is None else base.header.config.cell
    precision = pick_precision(options.precision, cell=cell, device=device, group=group)
    softmax = SampledSoftmax.of(dataset.counts)
    logits = len(dataset.vocabulary) if softmax is None else softmax.width
    speed = sum(group.all_gather(measure_speed(device, precision, logits))) if options.seconds is not None else SPEED
    facts = Facts(
        characters=len(dataset.ids),
        vocabulary_size=len(dataset.vocabulary),
        precision=precision,
        speed=speed,
        base=None if base is None else base.header.config,
        records=0 if dataset.records is None else len(dataset.records),
        logits=logits,
    )
    recipe, notes = group.broadcast(lambda: choose(options, facts))
    if options.batch_size is None and recipe.batch_size < group.size:
        return group.broadcast(lambda: choose(replace(options, batch_size=group.size), facts))
    return recipe, notes


def random_state(device: torch.device) -> torch.Tensor:
    """What the generators that this process draws from go on from, the processor's and then the GPU's, as bytes."""
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state


def set_random_state(state: torch.Tensor, device: torch.device) -> None:
    """Go on from what `random_state` gave. Raises: RuntimeError where it is none."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:], device)


def keep_memory() -> None:
    """Have the GNU C library keep freed memory: to get each window's from the system costs up to a quarter of the time."""
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
