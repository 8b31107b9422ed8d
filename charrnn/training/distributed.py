"""Distributed training: several processes (ranks), started by `torchrun` on one machine or more, train one model.

`join` returns this process's `Group`. Without torchrun it is a group of one, which does not use `torch.distributed`.
"""

import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from charrnn.errors import CharrnnError
from charrnn.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

TIMEOUT = 300.0  # seconds to wait for another rank; the environment variable CHARRNN_TIMEOUT overrides it
AGENT_TIMEOUT = 20.0  # seconds until torchrun's agents notice that one of them is gone (three heartbeats and a little)
AGENT = os.getppid()  # torchrun's process, if torchrun started this one
T = TypeVar("T")


class Group:
    """A group of one process, rank 0 of 1: nothing is communicated."""

    rank, size = 0, 1
    local_rank = 0  # among the ranks of this machine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def part(self, items: int) -> slice:
        """This rank's contiguous part of this number of items. The parts' sizes differ by at most one."""
        return slice(self.rank * items // self.size, (self.rank + 1) * items // self.size)

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in order. Raises: CharrnnError on all ranks if one has failed (see `raise_together`)."""
        return [value]

    def broadcast(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0. Returns: the result, on all ranks. Raises: its CharrnnError, on all ranks."""
        return make()

    def sum(self, numbers: "np.ndarray") -> "np.ndarray":
        """Sum each of `numbers` (n,) over the ranks, in float64. Quick enough for every step."""
        return numbers

    def average(self, gradients: Sequence["Tensor"]) -> None:
        """Replace each tensor by its mean over the ranks, in place."""

    def averaging_seconds(self, gradients: Any) -> float:
        """Measure how many seconds averaging a tensor of this size over the ranks takes."""
        return 0.0

    def require_same(self, facts: dict[str, Any]) -> None:
        """Raise CharrnnError on all ranks if they differ in a value of `facts`, whose keys are used in the message."""

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        """Raise a CharrnnError of the block on all ranks, at their next `all_gather`. Only one prints the message."""
        yield

    @contextlib.contextmanager
    def wait_for_all(self) -> Iterator[None]:
        """At the end of the block, wait until all ranks have reached it, even if that takes longer than TIMEOUT."""
        yield


ALONE = Group()


class SharedError(CharrnnError):
    """An error known to all ranks. The message is empty on all but the one that prints it."""


class Ranks(Group):
    """A group of several processes, by gloo on CPUs and NCCL on GPUs. Raises: CharrnnError if the others can't be reached."""

    def __init__(self, rank: int, size: int, local_rank: int):
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # our error line replaces its messages and backtraces
        import torch
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._dist = dist
        self._waits = 0
        timeout = timedelta(seconds=_seconds())
        has_gpu = local_rank < torch.cuda.device_count()
        if has_gpu:
            torch.cuda.set_device(local_rank)
        backends = "cpu:gloo,cuda:nccl" if has_gpu else "cpu:gloo"
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        waited = _seconds()
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun started the store before the ranks
            waited = min(waited, AGENT_TIMEOUT)
        try:
            store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=waited)))
            store.set_timeout(timeout)
            waited = _seconds()
            name = _agree_on_a_round(store, rank, size)
            self._store = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
            dist.init_process_group(backends, store=self._store, rank=rank, world_size=size, timeout=timeout)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0][:200].rstrip(".") if str(error) else type(error).__name__
            missed = f"rank {rank} of {size} could not connect to the others at {where} within {waited:g} s: {reason}"
            raise CharrnnError(f"{missed}; are all of them started, and can this machine reach that address?", 1) from None
        _joined.add(rank)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        message = self._explain(str(error)) if isinstance(error, RuntimeError) else None
        if message is not None:
            with contextlib.suppress(RuntimeError):  # the store is gone: this rank prints the message
                message = message if self._store.add("lost", 1) == 1 else ""
        with contextlib.suppress(RuntimeError):
            self._dist.destroy_process_group()
        if message is not None:
            if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":  # let torchrun notice a lost agent before it restarts the ranks
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                time.sleep(min(AGENT_TIMEOUT, _seconds()))
            raise CharrnnError(message, 1) from None

    def _explain(self, error: str) -> str | None:
        """An error line for torch's message about a lost rank; None if the message is about something else."""
        words = error.lower()
        if "timed out" in words or "timeout" in words:
            what = f"nothing was heard from another rank for {_seconds():g} s: it hangs, or its machine can't be reached"
        elif any(sign in words for sign in ("closed by peer", "reset by peer", "broken pipe", "refused", "nccl", "gloo")):
            what = "another rank stopped unexpectedly"
        else:
            return None
        saved = "the last checkpoint is intact: continue with --resume (torchrun --max-restarts does so by itself)"
        return f"rank {self.rank}: {what}; {saved}"

    def all_gather(self, value: T) -> list[T]:
        return self._gather(value, None)

    def _gather(self, value: T, failed: CharrnnError | None) -> list[T]:
        brought: list[Any] = [None] * self.size
        self._dist.all_gather_object(brought, (None if failed is None else (str(failed), failed.exit_status), value))
        for rank, (error, _) in enumerate(brought):
            if error is not None:
                message, status = error
                raise SharedError("" if self.rank != rank else f"rank {rank}: {message}" if rank else message, status)
        return [value for _, value in brought]

    def broadcast(self, make: Callable[[], T]) -> T:
        with self.raise_together():
            objects: list[Any] = [make() if self.rank == 0 else None]
        self.all_gather(None)
        self._dist.broadcast_object_list(objects)
        shared: T = objects[0]
        return shared

    def sum(self, numbers: "np.ndarray") -> "np.ndarray":
        import torch

        tensor = torch.from_numpy(numbers.astype("float64"))
        self._dist.all_reduce(tensor)
        return tensor.numpy()

    def average(self, gradients: Sequence["Tensor"]) -> None:
        import torch

        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).div_(self.size)
        self._dist.all_reduce(flat)
        for gradient, mean in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def averaging_seconds(self, gradients: Any) -> float:
        took = []
        for _ in range(3):
            began = time.perf_counter()
            self.average([gradients])
            gradients[:1].sum().item()  # waits for a GPU
            took.append(time.perf_counter() - began)
        return min(took)

    def require_same(self, facts: dict[str, Any]) -> None:
        first, *others = self.all_gather(facts | {"charrnn's version": __version__})
        for name, value in first.items():
            for rank, other in enumerate(others, 1):
                if other.get(name) != value:
                    here, there = str(value)[:60], str(other.get(name))[:60]
                    message = f"the ranks differ in {name}: it is {here} on rank 0 and {there} on rank {rank}"
                    raise SharedError("" if self.rank else f"{message}; start all with one command, on one text")

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        try:
            yield
        except SharedError:
            raise
        except CharrnnError as error:
            self._gather(None, error)

    @contextlib.contextmanager
    def wait_for_all(self) -> Iterator[None]:
        self._waits += 1
        try:
            yield
        finally:
            self._store.set(f"done {self._waits} {self.rank}", "")
            self._store.wait([f"done {self._waits} {rank}" for rank in range(self.size)], timedelta(days=1))


_joined: set[int] = set()  # this process's rank, once it has joined the others


def join(abandon: Callable[[str], None] = lambda message: None) -> Group:
    """Join the group given by torchrun's environment variables; without them, return a group of one. Raises: CharrnnError.

    If torchrun is killed before the ranks have joined, `abandon` is called with an error line, on another thread.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return ALONE
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise CharrnnError(f"WORLD_SIZE is {size} but {name} is not set; start ranks with torchrun, or unset WORLD_SIZE")
    place = [os.environ["RANK"], size, os.environ.get("LOCAL_RANK", "0"), os.environ["MASTER_PORT"]]
    if not all(number.isdecimal() for number in place) or not int(place[0]) < int(size):
        raise CharrnnError(f"RANK {place[0]} of WORLD_SIZE {size} is not a rank of that group; start ranks with torchrun")
    met = threading.Event()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_watch_agent, args=(met, abandon), daemon=True).start()
    try:
        return Ranks(int(place[0]), int(size), int(place[2]))
    finally:
        met.set()


def _watch_agent(met: threading.Event, abandon: Callable[[str], None]) -> None:
    while not met.wait(1.0):
        if os.getppid() != AGENT:
            abandon("torchrun was killed before its ranks were connected; start it again")
            return


def _agree_on_a_round(store: Any, rank: int, size: int) -> str:
    """Agree on a new name for this start of the ranks. Raises: RuntimeError if not all ranks have it within TIMEOUT.

    torchrun's store still has the keys of the ranks before a restart. So each rank asks with a new random key, and rank 0
    answers every request until all ranks have confirmed the name.
    """
    if rank:
        mine = uuid.uuid4().hex
        store.set(f"ask {rank}", mine)
        answer: str = store.get(f"answer {mine}").decode()
        store.set(f"heard {answer} {rank}", "")
        return answer
    name = uuid.uuid4().hex
    waiting = set(range(1, size))
    end = time.monotonic() + _seconds()
    while waiting:
        for other in list(waiting):
            if store.check([f"heard {name} {other}"]):
                waiting.remove(other)
            elif store.check([f"ask {other}"]):
                store.set(f"answer {store.get(f'ask {other}').decode()}", name)
        if waiting and time.monotonic() > end:
            raise RuntimeError(f"{size - len(waiting)} of {size} ranks came")
        time.sleep(0.01)
    return name


def is_distributed() -> bool:
    """Whether this process is one of several ranks."""
    return bool(os.environ.get("RANK")) and os.environ.get("WORLD_SIZE", "1") != "1"


def is_main() -> bool:
    """Whether this process prints its errors. Before the ranks have joined, only the first of each machine does."""
    return bool(_joined) or not is_distributed() or os.environ.get("LOCAL_RANK", "0") == "0"


def find_job() -> str | None:
    """A name for this start of torchrun: its --rdzv-id, else its host and process id; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{socket.gethostname()} {os.getppid()}" if name == "none" else name


def is_job_restarted() -> bool:
    """Whether this job may have started its run before: torchrun restarted the ranks, or the job has its own --rdzv-id."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" or os.environ.get("TORCHELASTIC_RUN_ID", "none") != "none"


def _seconds() -> float:
    asked = os.environ.get("CHARRNN_TIMEOUT", str(TIMEOUT))
    with contextlib.suppress(ValueError):
        if 0 < float(asked) < 1e7:
            return float(asked)
    raise CharrnnError(f"CHARRNN_TIMEOUT must be a number of seconds, not {asked}")
