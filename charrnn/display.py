"""All that is drawn: on a terminal with Rich, elsewhere as plain lines. It takes plain values and knows no network.

Text from a model or a file is data: it is shown, never read as markup, and its control characters are not obeyed.
"""

import contextlib
import os
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


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


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(75), duration(3.2), duration(7300)
    ('1m15s', '3s', '2h01m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _bits(value: float) -> str:
    return f"{value:.3f}"


class TrainingDisplay:
    """Shows a training run as it goes. Use it as a context manager and call `progress` and `validation`."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self._live: Live | None = None
        self._sample: RenderableType = Text("")
        self._speed = 0.0
        if not quiet and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._live = Live(console=Console(stderr=True), refresh_per_second=8, transient=False)

    def __enter__(self) -> "TrainingDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with contextlib.suppress(OSError):  # where the terminal has gone
                self._live.update(self._sample)  # the bar goes, the last sample stays
                self._live.stop()

    def progress(self, fraction: float, seconds_left: float, characters_per_second: float, train_bits: float) -> None:
        """Say where the run stands; shown on a terminal only. Speed in characters, loss in bits per character."""
        self._speed = characters_per_second
        if self._live:
            figures = (
                f"{characters_per_second:,.0f} characters/s  {duration(seconds_left)} left  train {_bits(train_bits)} bits"
            )
            bar = Table.grid(padding=(0, 1))
            bar.add_row(
                ProgressBar(total=1.0, completed=fraction, width=24), Text(f"{fraction:4.0%}  {figures}", no_wrap=False)
            )
            self._live.update(Group(self._sample, bar))

    def validation(self, record: Mapping[str, Any], fraction: float, best: bool, sample: str) -> None:
        """Say what a validation found: a line, and on a terminal the sample too. `record` is its line in history.jsonl."""
        held_out = record["validation_bits_per_character"]
        figures = f"train {_bits(record['train_bits_per_character'])}"
        if held_out is not None:
            figures += f"  validation {_bits(held_out)}"
        line = f"{fraction:4.0%}  {duration(record['seconds']):>6}  step {record['step']:,}  {figures} bits per character"
        line += "  best" if best else ""
        if self._live:
            self._live.console.print(Text(line))
            shown = printable(sample)
            self._sample = Text("\n" + "\n".join(shown.split("\n")[:6]) + "\n", style="italic")
            self._live.update(self._sample)
        elif not self.quiet:
            write_line(f"{line}  {self._speed:,.0f} characters/s" if self._speed else line)


def show_cursor() -> None:
    """Give a terminal its cursor back, which the progress bar has hidden."""
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")


def print_scores(rows: Mapping[str, str]) -> None:
    """Print a table of names and figures to standard output."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    Console(file=sys.stdout, color_system=None, width=80).print(table)
