"""`python -m charrnn` is `charrnn`: the program, which a signal can end from its first moment on."""

import contextlib
import os
import signal
import sys

from charrnn.errors import leave


def count_free_cores(loadavg: str, cores: int) -> int:
    """The cores that nobody but this process is using, at least 1, by a line of Linux's /proc/loadavg.

    >>> count_free_cores("0.52 0.30 0.20 3/345 9876", cores=8)
    6
    """
    others = int(loadavg.split()[3].split("/")[0]) - 1
    return max(1, cores - others)


def main() -> None:
    """Run the program. Until training takes care of them, Ctrl-C and its kin end it at once: there is nothing to save."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # ignored: by nohup or a shell's '&'
            signal.signal(number, lambda number, _: leave(128 + number))
    for descriptor in range(3):  # a file of ours must not take the place of a closed standard stream
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(1, "w")  # noqa: SIM115 (what is printed can't be written, and is an error like that of a full disk)
    # The threads of NumPy's products spin while they wait for each other: with more of them than free cores, a model runs three
    # times as long. The variable is read when NumPy is imported; training has threads of its own.
    with contextlib.suppress(OSError, ValueError, IndexError):  # not every system says
        with open("/proc/loadavg", encoding="ascii") as file:
            free = count_free_cores(file.read(), os.cpu_count() or 1)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(free))
    from charrnn.cli import main as run

    # It leaves at once: to take torch down takes the interpreter half a second, and the threads of several ranks don't always
    # live through it.
    try:
        run()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)


if __name__ == "__main__":
    main()
