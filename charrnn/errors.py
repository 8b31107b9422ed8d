"""How the program ends early: by CharrnnError, the one exception meant for the user, or by a signal."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn, Self


class CharrnnError(Exception):
    """An error that the user can fix. `exit_status` is 2 for unusable input, 1 for a failure while running."""

    def __init__(self, message: str, exit_status: int = 2):
        super().__init__(message)
        self.exit_status = exit_status


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # they end the program; not every system has all
undo: set[Callable[[], None]] = set()  # called when a signal ends the program, for example to remove an unfinished file


def leave(status: int) -> NoReturn:
    """End the program at once, after removing unfinished files and showing the terminal's cursor again."""
    for action in list(undo):
        with contextlib.suppress(Exception):  # the signal may have interrupted the action itself
            action()
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")
    os._exit(status)


class Signals:
    """Inside a `with` block, remembers Ctrl-C and the like, so that the work can be saved and ended.

    `names` are the signals. `second` is called with the number of each one after the first; None ignores them.
    """

    number = 0  # of the last signal; 0: none has come

    def __init__(self, names: Sequence[str], second: Callable[[int], object] | None):
        self.names = names
        self.second = second
        self._before: dict[int, Any] = {}  # the handlers outside of the block

    def __enter__(self) -> Self:
        in_main = threading.current_thread() is threading.main_thread()  # only the main thread may handle signals
        for name in self.names if in_main else ():
            number = getattr(signal, name, None)  # not every system has all
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.number and self.second is not None:
            self.second(number)
        self.number = number


def shorten(names: Sequence[str], most: int = 3) -> str:
    """List at most so many names: "a, b, c and 5 more"."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
