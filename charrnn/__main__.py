"""Entry point of `charrnn` and `python -m charrnn`. Handles signals before anything slow is imported."""

import contextlib
import os
import signal
import sys
from typing import NoReturn

from charrnn.errors import SIGNALS, leave


def count_free_cores(loadavg: str, cores: int) -> int:
    """Count the cores that other processes leave free, at least 1, from the text of Linux's /proc/loadavg.

    >>> count_free_cores("0.52 0.30 0.20 3/345 9876", cores=8)
    6
    """
    others = int(loadavg.split()[3].split("/")[0]) - 1
    return max(1, cores - others)


def _fail(error: BaseException) -> NoReturn:
    """Print the error in one line and exit with status 1, with as little memory as possible."""
    starved = isinstance(error, MemoryError) or "failed to map" in str(error) or "allocate memory" in str(error)
    what = "out of memory" if starved else f"charrnn can't start: {type(error).__name__}: {str(error).strip()}"
    os.write(2, f"error: {what.splitlines()[0]}\n".encode(errors="backslashreplace"))
    os._exit(1)


def _is_memory_limited() -> bool:
    """Whether the process may use only so much address space (ulimit -v): OpenBLAS fails if it can't start its threads."""
    try:
        import resource
    except ImportError:  # not on Windows
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def main() -> None:
    """Run the program. Until training handles them, Ctrl-C and similar signals end it at once: there is nothing to save."""
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # ignored: by nohup or a shell's '&'
            signal.signal(number, lambda number, _: leave(128 + number))
    for descriptor in range(3):  # or a file that we open could get the number of a closed standard stream
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(1, "w")  # noqa: SIM115 (read-only, so that printing fails as on a full disk)
    # OpenBLAS threads spin while they wait: with more threads than free cores, a model takes three times as long. NumPy reads
    # the variable when it is imported. Training has its own threads.
    with contextlib.suppress(OSError, ValueError, IndexError):  # not every system has this file
        with open("/proc/loadavg", encoding="ascii") as file:
            free = count_free_cores(file.read(), os.cpu_count() or 1)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1" if _is_memory_limited() else str(free))
    try:
        from charrnn.cli import main as run
    except BaseException as error:  # short of memory, even this may fail
        _fail(error)

    # os._exit, since the interpreter takes half a second to shut torch down, and may crash with the threads of several ranks.
    try:
        run()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException as error:  # there was no memory left to report an error
        _fail(error)


if __name__ == "__main__":
    main()
