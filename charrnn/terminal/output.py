"""Print messages to standard error; text, tables and plots to standard output.

Rich is imported only by functions that draw, since the program starts faster without it.
"""

import contextlib
import io
import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from charrnn.errors import CharrnnError
from charrnn.text.visible import make_visible

FLUSH_EVERY = 0.02  # seconds between two flushes of a `TextWriter`
WIDEST = 1000  # most columns of a terminal to draw on: a curve over 60,000 would take seconds
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bits of a braille character's dots, by column and row


class TextWriter:
    """Writes text to standard output: byte for byte, but on a terminal with control characters made visible.

    With `raw` each character is a byte. The rest is flushed when the program ends.
    """

    def __init__(self, raw: bool = False) -> None:
        self._file = sys.stdout.buffer
        self._raw = raw
        self._terminal = self._file.isatty()
        self._flushed = 0.0

    def write(self, text: str) -> None:
        if self._raw and not self._terminal:
            self._file.write(text.encode("latin-1"))
        else:
            shown = make_visible(text) if self._terminal else text
            self._file.write(shown.encode("utf-8", "surrogateescape"))
        if (now := time.monotonic()) - self._flushed > FLUSH_EVERY:
            self._file.flush()
            self._flushed = now


class JsonObject:
    """Writes one JSON object to standard output, member by member. A long list is written in parts, as they come."""

    def __init__(self) -> None:
        self._begin = "{"  # what comes before the next member, or the next item of a list
        self._list = ""  # name of the list that is being written

    def put(self, members: Mapping[str, Any]) -> None:
        for name, value in members.items():
            self._write(f"{json.dumps(name)}: {json.dumps(value)}")

    def extend(self, name: str, items: Iterable[Any]) -> None:
        """Append `items` to the list with this name, the last member so far."""
        if self._list != name:
            self._write(f"{json.dumps(name)}: [")
            self._list, self._begin = name, ""
        if written := json.dumps(list(items))[1:-1]:
            self._write(written)

    def close_list(self) -> None:
        """End the list that was written last."""
        sys.stdout.write("]")
        self._begin = ", "

    def close(self) -> None:
        print("}")

    def _write(self, text: str) -> None:
        sys.stdout.write(self._begin + text)
        self._begin = ", "


def print_or_show(text: str, raw: bool = False) -> None:
    """Print `text` to standard output; to the terminal if standard output can't be written. Raises: CharrnnError then."""
    try:
        TextWriter(raw).write(text + "\n" * sys.stdout.isatty())
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        for line in text.split("\n"):
            write_line(line)
        raise CharrnnError(f"standard output can't be written: {error.strerror or error}; the text is above", 1) from None


def escape_unprintable() -> None:
    """Make standard output print characters that its encoding lacks as escapes such as \\u017c."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def write_line(line: str, stream: TextIO | None = None) -> None:
    """Write a line to `stream`, by default standard error. Errors of a closed or broken stream are ignored."""
    stream = stream or sys.stderr
    with contextlib.suppress(OSError, ValueError, AttributeError):
        encoding = stream.encoding or "ascii"
        print(make_visible(line, keep="").encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def write_wrapped(line: str) -> None:
    """Write a line to standard error, with word wrap on a terminal."""
    width = max(terminal_size()[0], 20)
    for piece in textwrap.wrap(make_visible(line, keep=""), width, break_on_hyphens=False) if on_terminal() else [line]:
        write_line(piece)


def terminal_size() -> tuple[int, int]:
    """Columns (at most WIDEST) and rows of the terminal of standard error. The variable COLUMNS overrides the columns."""
    columns = rows = 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    with contextlib.suppress(KeyError, ValueError):
        columns = int(os.environ["COLUMNS"])
    return min(columns, WIDEST) if columns > 0 else 80, rows if rows > 0 else 24


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(75), duration(3.2), duration(7300)
    ('1m15s', '3s', '2h01m')
    """
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded}s"
    return f"{rounded // 60}m{rounded % 60:02d}s" if rounded < 3600 else f"{rounded // 3600}h{rounded % 3600 // 60:02d}m"


def count_epochs(epochs: float) -> str:
    """Format a number of epochs.

    >>> count_epochs(25.0), count_epochs(1), count_epochs(2.2857)
    ('25 epochs', '1 epoch', '2.29 epochs')
    """
    return f"{float(f'{epochs:.3g}'):,g} epoch{'s' * (epochs != 1)}"


def round_number(value: float) -> str:
    """Format a number with five significant digits.

    >>> round_number(1247700.123), round_number(0.0280018), round_number(831.659973)
    ('1,247,700', '0.028002', '831.66')
    """
    return f"{float(f'{value:.5g}'):,.12g}"


def on_terminal() -> bool:
    """Whether standard error is a terminal on which lines can be redrawn. `!charrnn` in a notebook is not one."""
    can_move = os.environ.get("TERM", "xterm" if os.name == "nt" else "dumb") not in ("dumb", "unknown")
    return sys.stderr is not None and sys.stderr.isatty() and can_move and "JPY_PARENT_PID" not in os.environ


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells to standard output, the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([f"{name:<{widths[0]}}", *aligned]))


def print_figures(figures: Mapping[str, float]) -> None:
    """Print named figures as a table."""
    numbers = {name: f"{value:,}" if isinstance(value, int) else f"{value:,.4f}" for name, value in figures.items()}
    print_table([(name.replace("_", " "), number) for name, number in numbers.items()])


def print_forecast(figures: Mapping[str, Any], rows_scored: str) -> None:
    """Print the errors of a forecast and of the naive forecast, then the verdict. `rows_scored` names the kind of rows."""
    ahead = figures["horizon"]
    rows = [[f"{make_visible(figures['target'], keep='')}, {ahead} row{'s' * (ahead > 1)} ahead", "network", "naive"]]
    if "verdict" in figures:
        for scale, name in (("", "rmse"), ("", "mae"), ("scaled_", "rmse"), ("scaled_", "mae")):
            label = name.upper() + (", scaled" if scale else "")
            rows.append([label, round_number(figures[f"{scale}{name}"]), round_number(figures[f"{scale}naive_{name}"])])
        verdict = f"Over {figures['scored_rows']:,} {rows_scored} {figures['verdict']}."
    else:
        verdict = "There are no rows to score, so the error is unknown."
    print_table([*rows, ["forecast", round_number(figures["forecast"]), round_number(figures["naive_forecast"])]])
    print(verdict)


def draw_dots(lines: Sequence[Sequence[float]], height: int, low: float, high: float) -> list[list[tuple[int, ...]]]:
    """Draw `lines` of equal, even length in braille dots: one value per column of dots; NaN: none.

    Returns: `height` rows of cells, from `high` down to `low`. A cell has the bits of each line's dots, to add to U+2800.
    """
    rows = 4 * height
    cells = [[[0] * len(lines) for _ in range(len(lines[0]) // 2)] for _ in range(height)]
    for which, line in enumerate(lines):
        before: int | None = None
        for x, value in enumerate(line):
            if math.isnan(value):
                continue
            y = max(-1, min(rows, round((high - value) / ((high - low) or 1.0) * (rows - 1))))
            start = y if before is None else before
            for dot in range(max(min(start, y), 0), min(max(start, y), rows - 1) + 1):
                cells[dot // 4][x // 2][which] |= DOTS[x % 2][dot % 4]
            before = y
    return [[tuple(cell) for cell in row] for row in cells]


def print_plot(truth: Sequence[float], forecast: Sequence[float], height: int = 8) -> None:
    """Draw two lines (NaN: no value) on standard output, if its encoding has braille characters."""
    from rich.console import Console
    from rich.text import Text

    try:
        chr(0x28FF).encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        return
    numbers = [value for value in (*truth, *forecast) if not math.isnan(value)]
    low, high = min(numbers), max(numbers)
    labels = [round_number(high), *[""] * (height - 2), round_number(low)]
    margin = max(map(len, labels)) + 1
    width = max(min(shutil.get_terminal_size().columns, 100) - margin - 1, 8)
    columns = [_resample(line, 2 * width) for line in (truth, forecast)]
    drawing = Text()
    for label, cells in zip(labels, draw_dots(columns, height=height, low=low, high=high), strict=True):
        drawing.append(f"{label:>{margin - 1}} ")
        for mine, forecast_dots in cells:
            drawing.append(chr(0x2800 + (mine | forecast_dots)), style="bold cyan" if forecast_dots & ~mine else "")
        drawing.append("\n")
    drawing.append(" " * margin + "truth, ").append("forecast", style="bold cyan")
    Console(highlight=False).print(drawing, soft_wrap=True)


def _resample(line: Sequence[float], columns: int) -> list[float]:
    """The mean of the values in each column; NaN if there are none."""
    means = []
    for x in range(columns):
        begin = x * len(line) // columns
        part = [v for v in line[begin : max((x + 1) * len(line) // columns, begin + 1)] if not math.isnan(v)]
        means.append(sum(part) / len(part) if part else math.nan)
    return means
