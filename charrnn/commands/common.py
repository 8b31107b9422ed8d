"""What the commands share."""

import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from charrnn.errors import CharrnnError
from charrnn.terminal import output


def option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, **more)


class Signals:
    """Remembers Ctrl-C, SIGTERM and SIGHUP for the training loop, which saves and ends.

    A second one ends at once, unless more are to be expected `again`: torchrun hands on what its ranks have had already.
    """

    def __init__(self, again: bool = False) -> None:
        self.signal, self.again = 0, again
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._remember)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.signal and not self.again:
            output.show_cursor()
            os._exit(128 + number)
        self.signal = number


def piped() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


def require_extra(module: str, what: str, extra: str) -> None:
    """Raise CharrnnError where a package that only `what` needs, an extra, is not installed."""
    try:
        import_module(module)
    except ImportError:
        raise CharrnnError(f"{what} takes {module}, which is not installed: pip install 'charrnn[{extra}]'") from None


def load_model(path: Path | None) -> Any:
    from charrnn.inference.model import load

    model = load(path)
    if path is None:
        output.write_line(f"model: {model.path}")
    return model


def text_writer() -> Any:
    """A function that writes text to standard output byte for byte; on a terminal control characters are shown.

    What it writes is seen within a fiftieth of a second, as long as it is called; the rest when the program ends.
    """
    if sys.stdout is None:
        raise CharrnnError("standard output is closed", 1)
    raw, terminal = sys.stdout.buffer, sys.stdout.isatty()
    flushed = 0.0

    def write(text: str) -> None:
        nonlocal flushed
        raw.write((output.printable(text) if terminal else text).encode("utf-8", "surrogateescape"))
        if (now := time.monotonic()) - flushed > 0.02:
            raw.flush()
            flushed = now

    return write
