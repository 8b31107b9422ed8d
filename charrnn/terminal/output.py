"""What is printed and plotted, and how far work has come. It takes plain values and knows no network; `live` shows a training.

Rich is imported where it draws, since most of what is printed is plain lines and the program starts faster without it.

Text from a model or a file is data: it is shown, never read as markup, and its control characters are not obeyed.
"""

import contextlib
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    pass


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


def wrap_line(line: str) -> list[str]:
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
