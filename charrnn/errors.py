"""How the program ends before its work is done: by the one exception that is meant for the user, or at once by a signal."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import NoReturn


class CharrnnError(Exception):
    """Something the user can mend. `exit_status` is 2 for unusable input, 1 for what failed while running."""

    def __init__(self, message: str, exit_status: int = 2):
        super().__init__(message)
        self.exit_status = exit_status


undo: set[Callable[[], None]] = set()  # what a signal does before it ends the program: removes a half-written file, a bar


def leave(status: int) -> NoReturn:
    """End the program at once. No half-written file is left, and the terminal has its cursor."""
    for action in list(undo):
        with contextlib.suppress(Exception):  # the signal may have come in the midst of it
            action()
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")
    os._exit(status)


def shorten(names: Sequence[str], most: int = 3) -> str:
    """A list in words, of at most so many names."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
