"""How the program ends early: by CharrnnError, the one exception meant for the user, or by a signal."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import NoReturn


class CharrnnError(Exception):
    """An error that the user can fix. `exit_status` is 2 for unusable input, 1 for a failure while running."""

    def __init__(self, message: str, exit_status: int = 2):
        super().__init__(message)
        self.exit_status = exit_status


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


def shorten(names: Sequence[str], most: int = 3) -> str:
    """List at most so many names: "a, b, c and 5 more"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
