"""The processes that train one model together: its ranks, on one machine or several, as `torchrun` starts them.

`join` gives this process's `Group`: without torchrun a group of one, which needs nothing of `torch.distributed`.
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

TIMEOUT = 300.0  # seconds for which a rank waits for another one; the variable CHARRNN_TIMEOUT says another number
MISSED = 20.0  # seconds, at most, until the agents of torchrun miss one of them: three of its signs of life and a little
AGENT = os.getppid()  # the process of torchrun, where it has started this one
T = TypeVar("T")


class Group:
    """A group of one: this process is rank 0 of 1, and every meeting is empty."""

    rank, size = 0, 1
    local_rank = 0  # among the ranks of its machine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def part(self, items: int) -> slice:
        """Which of so many items are this rank's: a contiguous part, of one size with the others or one apart."""
        return slice(self.rank * items // self.size, (self.rank + 1) * items // self.size)

    def all_gather(self, value: T) -> list[T]:
        """What each rank brings, in their order. Raises: CharrnnError on all ranks, where one has failed (`raise_together`)."""
        return [value]

    def broadcast(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, for all ranks; a CharrnnError of its making is raised on all."""
        return make()

    def sum(self, numbers: "np.ndarray") -> "np.ndarray":
        """The sum of each number over the ranks, (n,) float64: the quick meeting of every step."""
        return numbers

    def average(self, gradients: Sequence["Tensor"]) -> None:
        """Make each of these tensors its mean over the ranks."""

    def averaging_seconds(self, gradients: Any) -> float:
        """How long it takes to average a tensor of so many gradients over the ranks."""
        return 0.0

    def require_same(self, facts: dict[str, Any]) -> None:
        """Raise CharrnnError on all ranks where they don't agree in `facts`: what each is called, and what it is here."""

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        """A CharrnnError inside is raised on all ranks, at their next meeting; one of them says what it is."""
        yield

    @contextlib.contextmanager
    def wait_for_all(self) -> Iterator[None]:
        """What is done inside may take longer than TIMEOUT: then all wait until each of them has done it, or failed."""
        yield


ALONE = Group()


class SharedError(CharrnnError):
    """An error that all ranks have heard of. Its message is empty where another rank says it."""


class Ranks(Group):
    """Several processes: gloo between processors, NCCL between GPUs. Raises: CharrnnError where the others can't be reached."""

    def __init__(self, rank: int, size: int, local_rank: int):
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what it tells, with backtraces, our error line does
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
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun began the store before the ranks
            waited = min(waited, MISSED)
        try:
            store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=waited)))
            store.set_timeout(timeout)
            waited = _seconds()
            name = _agree_on_a_round(store, rank, size)
            self._store = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
            dist.init_process_group(backends, store=self._store, rank=rank, world_size=size, timeout=timeout)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0][:200].rstrip(".") if str(error) else type(error).__name__
            missed = f"rank {rank} of {size} did not meet the others at {where} within {waited:g} s: {reason}"
            raise CharrnnError(f"{missed}; are all of them started, and can this machine reach that one?", 1) from None
        _joined.add(rank)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        message = self._explain(str(error)) if isinstance(error, RuntimeError) else None
        if message is not None:
            with contextlib.suppress(RuntimeError):  # nobody can be asked: then this rank speaks
                message = message if self._store.add("lost", 1) == 1 else ""
        with contextlib.suppress(RuntimeError):
            self._dist.destroy_process_group()
        if message is not None:
            if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":  # agents that met too early would count on one that is gone
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                time.sleep(min(MISSED, _seconds()))
            raise CharrnnError(message, 1) from None

    def _explain(self, error: str) -> str | None:
        """A line for what the engine says of a lost rank; None where it is something else."""
        words = error.lower()
        if "timed out" in words or "timeout" in words:
            what = f"heard nothing of another rank for {_seconds():g} s: that hangs, or its machine can't be reached"
        elif any(sign in words for sign in ("closed by peer", "reset by peer", "broken pipe", "refused", "nccl", "gloo")):
            what = "lost another rank, which ended before the run did"
        else:
            return None
        saved = "what was saved is whole, and --resume goes on from it, as torchrun --max-restarts does by itself"
        return f"rank {self.rank} has {what}; {saved}"

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
            made: list[Any] = [make() if self.rank == 0 else None]
        self.all_gather(None)
        self._dist.broadcast_object_list(made)
        shared: T = made[0]
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


_joined: set[int] = set()  # this process's rank, once it has met the others


def join(abandon: Callable[[str], None] = lambda message: None) -> Group:
    """The group that torchrun's environment variables tell of; without them, a group of one. Raises: CharrnnError.

    Where the process of torchrun is killed before the ranks have met, `abandon` is told in a line, on another thread.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return ALONE
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise CharrnnError(f"WORLD_SIZE is {size} but {name} is not set; start ranks with torchrun, or unset WORLD_SIZE")
    place = [os.environ["RANK"], size, os.environ.get("LOCAL_RANK", "0"), os.environ["MASTER_PORT"]]
    if not all(number.isdecimal() for number in place) or not int(place[0]) < int(size):
        raise CharrnnError(f"RANK {place[0]} of WORLD_SIZE {size} is no place in a group; start ranks with torchrun")
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
            abandon("torchrun was killed before its ranks had met; start it again")
            return


def _agree_on_a_round(store: Any, rank: int, size: int) -> str:
    """A name for this meeting of the ranks, from rank 0. Raises: RuntimeError where not all have heard it within TIMEOUT.

    torchrun's store outlives the ranks that it starts anew, with all that they told each other in it. So each rank asks under
    a new name, and rank 0 answers every question that it finds, until all have heard.
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
    """Whether an error of this process is to be printed: before the ranks have met, those of each machine's first one."""
    return bool(_joined) or not is_distributed() or os.environ.get("LOCAL_RANK", "0") == "0"


def find_job() -> str | None:
    """What one start of torchrun is known by, its --rdzv-id or else its process; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{socket.gethostname()} {os.getppid()}" if name == "none" else name


def is_job_restarted() -> bool:
    """Whether this job may have begun its run already: its ranks were started anew, or it has a name of its own."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" or os.environ.get("TORCHELASTIC_RUN_ID", "none") != "none"


def _seconds() -> float:
    asked = os.environ.get("CHARRNN_TIMEOUT", str(TIMEOUT))
    with contextlib.suppress(ValueError):
        if 0 < float(asked) < 1e7:
            return float(asked)
    raise CharrnnError(f"CHARRNN_TIMEOUT {asked} is no number of seconds")
