"""The cores that a process may use, and the threads that share a step's work on them.

Each thread runs kernels of one thread, and all meet once per step. Threads that met inside a kernel, hundreds of times in a
step, would wait there for whichever of them another program has taken the core from.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

CGROUPS = Path("/sys/fs/cgroup")


class Threads:
    """Threads that work side by side inside a `with`; outside of it, all is done by the thread that asks.

    Inside, torch's own number of threads is one; afterwards it is what it was before. One `with` may lie inside another.
    """

    def __init__(self, count: int = 1):
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        self._before = 1  # torch's number of threads
        self._depth = 0  # of `with` in `with`

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth > 1:
            return self
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        if self.count > 1:
            self._pool = ThreadPoolExecutor(self.count - 1, "charrnn", initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        torch.set_num_threads(self._before)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """What `function` makes of each item, in their order. Raises: what it raises for one of them."""
        first, *others = items
        if self._pool is None or not others:
            return [function(item) for item in (first, *others)]
        waiting = [self._pool.submit(function, item) for item in others]
        try:
            made = {0: function(first)}
            for k in range(len(others), 0, -1):  # what no other thread has begun, this one does
                if waiting[k - 1].cancel():
                    made[k] = function(others[k - 1])
        finally:
            errors = [future.exception() for future in waiting if not future.cancelled()]  # waits for them
        for error in filter(None, errors):
            raise error
        return [made[k] if k in made else waiting[k - 1].result() for k in range(len(others) + 1)]


def choose_threads(asked: int | None) -> int:
    """How many threads to train on: those that are asked for, or that OMP_NUM_THREADS says, or this process's cores."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # torchrun says one
    if asked is None and said.isdecimal() and int(said) > 0:
        asked = int(said)
    return asked or max(1, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def count_cores() -> int:
    """The cores that this process may use: by its affinity (`taskset`) and its control groups (`docker --cpus`)."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not every system has affinities
        cores = os.cpu_count() or 1
    return max(1, min(cores, math.ceil(min(_quotas(), default=cores))))


def _quotas(root: Path = CGROUPS, groups: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """How many cores' time each control group of this process, or one above it, is given; there may be no limit."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # this system has no control groups
        return
    for controllers, name in (line.split(":", 2)[1:] for line in lines if line.count(":") >= 2):
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers  # version 1 has a folder for each set of controllers, version 2 one for all
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        group = base / name.strip("/")
        for folder in (group, *group.parents[: len(group.parts) - len(base.parts)]):
            try:
                quota, period = map(int, " ".join((folder / file).read_text() for file in files).split())
            except (OSError, ValueError):  # "max": no limit
                continue
            if quota > 0 and period > 0:
                yield quota / period
