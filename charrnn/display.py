"""What is printed and plotted, and how far work has come. It takes plain values and knows no network; `live` shows a training.

Rich is imported where it draws, since most of what is printed is plain lines and the program starts faster without it.

Text from a model or a file is data: it is shown, never read as markup, and its control characters are not obeyed.
"""

import contextlib
import io
import math
import os
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from charrnn.errors import CharrnnError

if TYPE_CHECKING:
    from charrnn.frame import Frame

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a braille character, by column and row


def printable(text: str, keep: str = "\n\t") -> str:
    """`text` with every character that a terminal would obey (controls, bidirectional marks) shown by its number.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(c if c in keep or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else _shown(c) for c in text)


def _shown(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def write_line(line: str, stream: TextIO | None = None) -> None:
    """Write one line to standard error; a closed or broken standard error is not a reason to fail."""
    stream = stream or sys.stderr
    with contextlib.suppress(OSError, ValueError, AttributeError):
        encoding = stream.encoding or "ascii"
        print(printable(line, keep="").encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def wrapped(line: str) -> list[str]:
    """The line as standard error takes it: a terminal in pieces that fit, broken between words."""
    import textwrap

    if not on_terminal():
        return [line]
    return textwrap.wrap(printable(line, keep=""), max(terminal_size()[0], 20), break_on_hyphens=False)


def terminal_size() -> tuple[int, int]:
    """Columns and rows of the terminal that standard error is; $COLUMNS says otherwise where it is set."""
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


def bits(value: float) -> str:
    """Bits per character, as they are printed."""
    return f"{value:.3f}"


def on_terminal() -> bool:
    """Whether standard error is a terminal on which lines can be drawn anew."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class WorkDisplay:
    """Shows how far work has come when it takes long: a bar on a terminal, a line every ten seconds elsewhere.

    `what` says what is being done, `unit` in what, `scale` how many of its ones make one unit.
    """

    def __init__(self, what: str = "reading", unit: str = "MB", quiet: bool = False, scale: float = 1e6):
        self.what, self.unit, self.quiet, self.scale = what, unit, quiet, scale
        self._frame: Frame | None = None
        self._due = time.monotonic() + (1.0 if on_terminal() else 10.0)

    def __enter__(self) -> "WorkDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        if self._frame:
            self._frame.close()

    def progress(self, done: int, total: int | None) -> None:
        """Say how much has been done, and of how much, where that is known."""
        now = time.monotonic()
        if self.quiet or now < self._due:
            return
        places = int(self.scale > 1)
        count = f"{done / self.scale:,.{places}f} " + (f"of {total / self.scale:,.{places}f} " if total else "")
        figures = f"{self.what}: {count}{self.unit}"
        if not on_terminal():
            self._due = now + 10.0
            write_line(figures)
            return
        self._due = now + 0.125
        from rich.text import Text

        from charrnn.frame import Frame, bar

        self._frame = self._frame or Frame()
        line = Text(f" {figures}")
        if total:
            line = bar(min(24, self._frame.size()[0] // 3), done / total, self._frame.unicode) + line
        self._frame.draw([line])


def show_cursor() -> None:
    """Give a terminal its cursor back, which the progress bar has hidden."""
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")


def print_surprises(title: str, rows: Sequence[tuple[float, str]]) -> None:
    """Print bits beside texts to standard output, each text on one line."""
    print(f"\n{title}")
    for bits, text in rows:
        write_line(f"{bits:7.2f} {text}", sys.stdout)


def print_scores(rows: Mapping[str, str]) -> None:
    """Print a table of names and figures to standard output."""
    print_table(list(rows.items()))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells to standard output, the first column flush left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        shown = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([f"{name:<{widths[0]}}", *shown]))


def print_forecast(figures: Mapping[str, Any], rows_scored: str) -> None:
    """Print what there is to say about a forecast: each figure beside that of the naive forecast, then the verdict.

    `rows_scored` says what kind of rows the figures are about.
    """
    target, ahead = printable(figures["target"], keep=""), figures["horizon"]
    rows = [[f"{target}, {ahead} row{'s' * (ahead > 1)} ahead", "network", "naive"]]
    if "verdict" in figures:
        for scale, name in (("", "rmse"), ("", "mae"), ("scaled_", "rmse"), ("scaled_", "mae")):
            label = name.upper() + (", scaled" if scale else "")
            rows.append([label, _short(figures[f"{scale}{name}"]), _short(figures[f"{scale}naive_{name}"])])
    rows.append(["next", _short(figures["forecast"]), _short(figures["naive_forecast"])])
    print_table(rows)
    if "verdict" in figures:
        print(f"Over {figures['scored_rows']:,} {rows_scored} {figures['verdict']}.")
    else:
        print("There are no rows to score, so nothing says how good this is.")


def _short(value: float) -> str:
    """A number with five figures.

    >>> _short(1247700.123), _short(0.0280018), _short(831.659973)
    ('1,247,700', '0.028002', '831.66')
    """
    return f"{float(f'{value:.5g}'):,.12g}"


def dots(lines: Sequence[Sequence[float]], height: int, low: float, high: float) -> list[list[tuple[int, ...]]]:
    """Draw `lines` of equal, even length (a value for each column of dots, NaN where there is none) in cells of two by four.

    Returns: `height` rows of cells from `high` down to `low`; a cell is the dots of each line, as they are added to U+2800.
    What lies beyond is left out.
    """
    rows = 4 * height
    cells = [[[0] * len(lines) for _ in range(len(lines[0]) // 2)] for _ in range(height)]
    for which, line in enumerate(lines):
        before: int | None = None
        for x, value in enumerate(line):
            if math.isnan(value):
                continue
            y = max(-1, min(rows, round((high - value) / ((high - low) or 1.0) * (rows - 1))))
            begin, end = (y, y) if before is None else (min(y, before), max(y, before))
            for dot in range(max(begin, 0), min(end, rows - 1) + 1):
                cells[dot // 4][x // 2][which] |= DOTS[x % 2][dot % 4]
            before = y
    return [[tuple(cell) for cell in row] for row in cells]


def print_plot(truth: Sequence[float], forecast: Sequence[float], height: int = 8) -> None:
    """Draw two lines (NaN where one has no value) on a terminal, in cells of two by four dots."""
    import shutil

    from rich.console import Console
    from rich.text import Text

    numbers = [value for value in (*truth, *forecast) if not math.isnan(value)]
    low, high = min(numbers), max(numbers)
    labels = [_short(high), *[""] * (height - 2), _short(low)]
    margin = max(map(len, labels)) + 1
    width = max(min(shutil.get_terminal_size().columns, 100) - margin - 1, 8)
    columns = []
    for line in (truth, forecast):
        columns.append([math.nan] * (2 * width))
        for x in range(2 * width):  # the mean of the values that fall on a column of dots
            begin = x * len(line) // (2 * width)
            part = [v for v in line[begin : max((x + 1) * len(line) // (2 * width), begin + 1)] if not math.isnan(v)]
            if part:
                columns[-1][x] = sum(part) / len(part)
    drawing = Text()
    for label, cells in zip(labels, dots(columns, height, low, high), strict=True):
        drawing.append(f"{label:>{margin - 1}} ")
        for mine, made in cells:
            drawing.append(chr(0x2800 + (mine | made)), style="bold cyan" if made & ~mine else "")
        drawing.append("\n")
    drawing.append(" " * margin + "truth, ").append("forecast", style="bold cyan")
    with contextlib.suppress(UnicodeError):  # a terminal without such characters has the table
        Console(highlight=False).print(drawing, soft_wrap=True)


def require_plotting(path: Path) -> None:
    """Raise CharrnnError where `path` can't be drawn: its ending, or matplotlib is not installed."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise CharrnnError(f"--plot {path}: name a file that ends in .png, .svg or .pdf")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise CharrnnError("--plot takes matplotlib, which is not installed: pip install 'charrnn[plot]'") from None


def draw_plot(suffix: str, target: str, lines: Sequence[Sequence[float]]) -> bytes:
    """Draw truth, forecast and naive forecast with matplotlib; give back the file of that kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.add_subplot()
    for line, label, style in zip(lines, ("truth", "forecast", "naive"), ("k-", "C0-", "C1:"), strict=True):
        axes.plot(line, style, label=label, linewidth=1)
    axes.set_xlabel("row")
    axes.set_ylabel(printable(target, keep="").replace("$", r"\$"))
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format=suffix[1:])
    return file.getvalue()
