"""What is printed: lines for people on standard error, and text, tables and figures on standard output.

Rich is imported where it draws, since most of what is printed is plain lines and the program starts faster without it.
"""

import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from charrnn.errors import CharrnnError
from charrnn.text.visible import make_visible

FLUSH_EVERY = 0.02  # seconds, at most, until what a `TextWriter` writes is seen


class TextWriter:
    """Writes text to standard output byte for byte; on a terminal control characters are made visible.

    What it has written last is flushed when the program ends. Raises: CharrnnError (status 1) where there is no output.
    """

    def __init__(self) -> None:
        self._file = require_stdout()
        self._terminal = self._file.isatty()
        self._flushed = 0.0

    def write(self, text: str) -> None:
        shown = make_visible(text) if self._terminal else text
        self._file.buffer.write(shown.encode("utf-8", "surrogateescape"))
        if (now := time.monotonic()) - self._flushed > FLUSH_EVERY:
            self._file.buffer.flush()
            self._flushed = now


def require_stdout() -> TextIO:
    """Standard output. Raises: CharrnnError (status 1) where it is closed."""
    if sys.stdout is None:
        raise CharrnnError("standard output is closed", 1)
    return sys.stdout


def write_line(line: str, stream: TextIO | None = None) -> None:
    """Write one line to standard error; a closed or broken standard error is not a reason to fail."""
    stream = stream or sys.stderr
    with contextlib.suppress(OSError, ValueError, AttributeError):
        encoding = stream.encoding or "ascii"
        print(make_visible(line, keep="").encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def write_wrapped(line: str) -> None:
    """Write one line to standard error, on a terminal in pieces that fit, broken between words."""
    width = max(terminal_size()[0], 20)
    pieces = textwrap.wrap(make_visible(line, keep=""), width, break_on_hyphens=False) if on_terminal() else [line]
    for piece in pieces:
        write_line(piece)


def terminal_size() -> tuple[int, int]:
    """Columns and rows of the terminal that standard error is; the variable COLUMNS overrides them."""
    columns = rows = 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    with contextlib.suppress(KeyError, ValueError):
        columns = int(os.environ["COLUMNS"])
    return columns if columns > 0 else 80, rows if rows > 0 else 24


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(75), duration(3.2), duration(7300)
    ('1m15s', '3s', '2h01m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def round_number(value: float) -> str:
    """A number with five figures.

    >>> round_number(1247700.123), round_number(0.0280018), round_number(831.659973)
    ('1,247,700', '0.028002', '831.66')
    """
    return f"{float(f'{value:.5g}'):,.12g}"


def on_terminal() -> bool:
    """Whether standard error is a terminal on which lines can be redrawn."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def show_cursor() -> None:
    """Give a terminal its cursor back, which the progress bar has hidden."""
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells to standard output, the first column flush left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([f"{name:<{widths[0]}}", *aligned]))


def print_forecast(figures: Mapping[str, Any], rows_scored: str) -> None:
    """Print each figure of a forecast beside that of the naive forecast, then the verdict; `rows_scored` is the rows' kind."""
    ahead = figures["horizon"]
    target = make_visible(figures["target"], keep="")
    rows = [[f"{target}, {ahead} row{'s' * (ahead > 1)} ahead", "network", "naive"]]
    if "verdict" in figures:
        for scale, name in (("", "rmse"), ("", "mae"), ("scaled_", "rmse"), ("scaled_", "mae")):
            label = name.upper() + (", scaled" if scale else "")
            rows.append([label, round_number(figures[f"{scale}{name}"]), round_number(figures[f"{scale}naive_{name}"])])
        verdict = f"Over {figures['scored_rows']:,} {rows_scored} {figures['verdict']}."
    else:
        verdict = "There are no rows to score, so nothing says how good this is."
    print_table([*rows, ["next", round_number(figures["forecast"]), round_number(figures["naive_forecast"])]])
    print(verdict)
