"""Choose device and precision, measure the speed, and choose the recipe accordingly."""

import math
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from charrnn.errors import CharrnnError
from charrnn.inference.model import Model
from charrnn.network.char_rnn import CharRNN
from charrnn.network.config import Config
from charrnn.options import Options, Recipe
from charrnn.training.data import Dataset
from charrnn.training.distributed import ALONE, Group
from charrnn.training.recipe import REFERENCE, Facts, choose, relative_work
from charrnn.training.sampled_softmax import SampledSoftmax
from charrnn.training.shards import measure_window
from charrnn.training.threads import Threads, choose_threads

BASE_CHARACTERS = 8_000  # of the text, on which a base model is scored
WINDOW = (48, 32)  # (T, B) of the speed test
MAX_LOGITS = 1 << 14  # most outputs in the speed test: with more, the time is proportional to their number
FAR_OFF = 1.6  # if training is this many times faster or slower than the speed test, the recipe is chosen again


@dataclass(frozen=True)
class Machine:
    """What a run trains on."""

    device: str = "cpu"
    group: Group = ALONE
    threads: Threads = field(default_factory=Threads)

    @classmethod
    def pick(cls, device: str, group: Group, threads: int | None) -> "Machine":
        """Resolve `device` ("auto" and so on); `threads` of None means this process's cores. Raises: CharrnnError."""
        return cls(pick_device(device, group), group, Threads(choose_threads(threads)))


def pick_device(name: str, group: Group = ALONE) -> str:
    """Resolve "auto" to the fastest device; each rank gets its own GPU. Raises: CharrnnError if it is not available."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if group.size > 1:
        available["mps"] = False  # torch.distributed does not support it
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        whose = "torch finds none on this machine" if group.size == 1 else "several ranks can't train on it"
        raise CharrnnError(f"--device {name}: {whose}; use --device cpu")
    if name == "cuda" and group.size > 1:
        if group.local_rank >= (here := torch.cuda.device_count()):
            raise CharrnnError(
                f"more ranks than GPUs ({here}): start with torchrun --nproc-per-node {here}, or use --device cpu"
            )
        return f"cuda:{group.local_rank}"
    return name


def pick_precision(asked: str, cell: str, device: str, group: Group = ALONE) -> str:
    """The precision of matrix products: "auto" is bfloat16 on CPUs that all support it natively. Raises: CharrnnError.

    On a GPU, the casts to bfloat16 take longer than they save at the sizes that are chosen here.
    """
    if asked == "bfloat16" and not can_run_bfloat16(cell, device):
        raise CharrnnError(f"--precision bfloat16: this processor can't run {cell} cells in it; use float32 or auto")
    native = device == "cpu" and has_bfloat16()
    if all(group.all_gather(asked != "auto" or native)):
        return "bfloat16" if asked == "auto" else asked
    return "float32"


def can_run_bfloat16(cell: str, device: str) -> bool:
    """Whether the cell runs in bfloat16 at all, even if slowly: oneDNN has no bfloat16 LSTM for CPUs without AVX-512."""
    model = CharRNN(Config(2, cell=cell, num_layers=1, hidden_size=16, embedding_size=2)).to(device)
    ids = torch.zeros(1, 1, dtype=torch.int64, device=device)
    try:
        model(ids, model.initial_state(1), dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


def measure_speed(machine: Machine, precision: str, logits: int, shards: int = 2, batch_size: int | None = None) -> float:
    """Measure how many characters per second the REFERENCE network trains on, with `logits` outputs and `shards` shards.

    A GPU is measured with `batch_size`, since its steps take about the same time whatever the batch size.
    """
    model = CharRNN(Config(min(logits, MAX_LOGITS), *REFERENCE)).to(machine.device)
    T, B = WINDOW
    if machine.device != "cpu":
        shards, B = 1, batch_size or B
    with machine.threads:
        took = measure_window(model, (T, B), threads=machine.threads, shards=shards, dtype=getattr(torch, precision))
    return T * B / statistics.median(took[1:]) / max(1, logits / MAX_LOGITS)


def measure_base(base: Model, dataset: Dataset) -> float:
    """Bits per character of `base` on the text's beginning; infinite if it lacks most of the text's characters."""
    return base.bits_per_character(dataset.beginning(BASE_CHARACTERS)) if dataset.is_known(base.vocabulary) else math.inf


class Plan:
    """Chooses the recipe from the options, the text and the measured speed of all ranks together.

    Raises: CharrnnError if the precision that the user asked for is not available.
    """

    def __init__(self, options: Options, dataset: Dataset, base: Model | None, machine: Machine):
        cell = options.cell if base is None else base.header.config.cell
        softmax = SampledSoftmax.of(dataset.counts)
        self.options = options
        self.machine = machine
        self.facts = Facts(
            characters=len(dataset.ids),
            vocabulary_size=len(dataset.vocabulary),
            precision=pick_precision(options.precision, cell=cell, device=machine.device, group=machine.group),
            base=None if base is None else base.header.config,
            base_bits=math.inf if base is None else measure_base(base, dataset),
            records=0 if dataset.records is None else len(dataset.records),
            logits=len(dataset.vocabulary) if softmax is None else softmax.width,
        )
        if options.seconds is not None:
            self._measure()

    def _measure(self) -> None:
        threads = self.machine.threads.count if self.machine.device == "cpu" else 1
        counts = [shards for shards in (2, 4, 8, 16) if shards <= max(2, threads)]
        batch_size = self.options.batch_size
        own = [measure_speed(self.machine, self.facts.precision, self.facts.logits or 1, n, batch_size) for n in counts]
        speeds = [sum(speeds) for speeds in zip(*self.machine.group.all_gather(own), strict=False)]
        best = max(range(len(counts)), key=speeds.__getitem__)
        self.facts = replace(self.facts, speed=speeds[best], columns=WINDOW[1] // counts[best])

    def choose(self) -> tuple[Recipe, list[str]]:
        """Choose on rank 0, for all ranks. Returns: the recipe, and notes. Raises: CharrnnError, see `recipe.choose`."""
        options, group = self.options, self.machine.group
        recipe, notes = group.broadcast(lambda: choose(options, self.facts))
        if options.batch_size is None and recipe.batch_size < group.size:
            return group.broadcast(lambda: choose(replace(options, batch_size=group.size), self.facts))
        return recipe, notes

    def revise(self, recipe: Recipe, speed: float) -> tuple[Recipe, float] | None:
        """Choose again if the first speed test was far off; `speed` is the run's, in characters per second.

        Returns: the new recipe and the ratio of the new measured speed to the old one; None to keep `recipe`.
        """
        before = self.facts.speed
        if self.facts.base is not None or not _is_far(speed * relative_work(recipe.num_layers, recipe.hidden_size) / before):
            return None
        self._measure()
        ratio = self.facts.speed / before
        revised, _ = self.choose()
        sizes = [(r.num_layers, r.hidden_size, r.batch_size, r.seq_length) for r in (revised, recipe)]
        return (revised, ratio) if _is_far(ratio) and sizes[0] != sizes[1] else None


def _is_far(ratio: float) -> bool:
    return not 1 / FAR_OFF < ratio < FAR_OFF


def random_state(device: torch.device) -> torch.Tensor:
    """The states of torch's random generators, of the CPU and then of the GPU, as a tensor of bytes."""
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state


def set_random_state(state: torch.Tensor, device: torch.device) -> None:
    """Restore what `random_state` returned. Raises: RuntimeError if it is not a valid state."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:], device)


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively. On others it is emulated, and slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
