"""Count the usable cores, and share a step's work among threads on them.

Each thread runs single-threaded kernels, and all threads wait for each other once per step. Multi-threaded kernels would wait
hundreds of times per step, each time for the thread whose core another program is using.
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
    """A pool of threads that exists inside a `with` block. Outside of it, `map` runs in the calling thread.

    Inside, torch's own number of threads is set to one and is restored afterwards. Blocks may be nested.
    """

    def __init__(self, count: int = 1):
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        self._before = 1  # torch's number of threads, to restore
        self._depth = 0  # of nested blocks

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
        """Call `function` on each item. Returns: the results in order. Raises: what `function` raises."""
        first, *others = items
        if self._pool is None or not others:
            return [function(item) for item in (first, *others)]
        waiting = [self._pool.submit(function, item) for item in others]
        try:
            results = {0: function(first)}
            for k in range(len(others), 0, -1):  # do here what no other thread has started
                if waiting[k - 1].cancel():
                    results[k] = function(others[k - 1])
        finally:
            errors = [future.exception() for future in waiting if not future.cancelled()]  # waits for them
        for error in filter(None, errors):
            raise error
        return [results[k] if k in results else waiting[k - 1].result() for k in range(len(others) + 1)]


def choose_threads(asked: int | None) -> int:
    """The number of threads to train on: `asked`, else OMP_NUM_THREADS, else the cores of this process."""
    variable = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # torchrun sets it to 1
    if asked is None and variable.isdecimal() and int(variable) > 0:
        asked = int(variable)
    return asked or max(1, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def count_cores() -> int:
    """Count the cores that this process may use, after its affinity (`taskset`) and control groups (`docker --cpus`)."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return max(1, min(cores, math.ceil(min(_quotas(), default=cores))))


def _quotas(root: Path = CGROUPS, groups: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """The CPU limits, in cores, of this process's control groups and their parents, where a limit is set."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # no control groups on this system
        return
    for controllers, name in (line.split(":", 2)[1:] for line in lines if line.count(":") >= 2):
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers  # version 1 has one folder per set of controllers, version 2 a single one
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        group = base / name.strip("/")
        for folder in (group, *group.parents[: len(group.parts) - len(base.parts)]):
            try:
                quota, period = map(int, " ".join((folder / file).read_text() for file in files).split())
            except (OSError, ValueError):  # "max": no limit
                continue
            if quota > 0 and period > 0:
                yield quota / period
