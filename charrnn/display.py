"""All that is drawn: on a terminal with Rich, elsewhere as plain lines. It takes plain values and knows no network.

Rich is imported where it draws, since most of what is printed is plain lines and the program starts faster without it.

Text from a model or a file is data: it is shown, never read as markup, and its control characters are not obeyed.
"""

import contextlib
import os
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live


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


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class WorkDisplay:
    """Shows how far work has come when it takes long: a bar on a terminal, a line every ten seconds elsewhere.

    `what` says what is being done, `unit` in millions of what.
    """

    def __init__(self, what: str = "reading", unit: str = "MB", quiet: bool = False):
        self.what, self.unit, self.quiet = what, unit, quiet
        self._live: Live | None = None
        self._due = time.monotonic() + 1.0

    def __enter__(self) -> "WorkDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def progress(self, done: int, total: int | None) -> None:
        """Say how much has been done, and of how much, where that is known."""
        now = time.monotonic()
        if self.quiet or now < self._due:
            return
        figures = f"{self.what}: {done / 1e6:,.1f} " + (f"of {total / 1e6:,.1f} " if total else "") + self.unit
        if not _on_terminal():
            self._due = now + 10.0
            write_line(figures)
            return
        self._due = now + 0.1
        from rich.console import Console
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=total, completed=done, width=24, pulse=total is None), Text(figures))
        self._live.update(bar, refresh=True)


class TrainingDisplay:
    """Shows a training run as it goes. Use it as a context manager and call `progress` and `validation`."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self._live: Live | None = None
        self._sample: RenderableType = ""
        self._speed = 0.0
        if not quiet and _on_terminal():
            from rich import console, live

            self._live = live.Live(console=console.Console(stderr=True), refresh_per_second=8, transient=False)

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
            from rich.console import Group
            from rich.progress_bar import ProgressBar
            from rich.table import Table
            from rich.text import Text

            figures = (
                f"{characters_per_second:,.0f} characters/s  {duration(seconds_left)} left  train {_bits(train_bits)} bits"
            )
            bar = Table.grid(padding=(0, 1))
            bar.add_row(
                ProgressBar(total=1.0, completed=fraction, width=24), Text(f"{fraction:4.0%}  {figures}", no_wrap=False)
            )
            self._live.update(Group(self._sample, bar))

    def note(self, line: str) -> None:
        """Say something that has happened."""
        if self._live:
            from rich.text import Text

            self._live.console.print(Text(f"note: {printable(line)}"))
        elif not self.quiet:
            write_line(f"note: {line}")

    def validation(self, record: Mapping[str, Any], fraction: float, best: bool, sample: str) -> None:
        """Say what a validation found: a line, and on a terminal the sample too. `record` is its line in history.jsonl."""
        held_out = record["validation_bits_per_character"]
        figures = f"train {_bits(record['train_bits_per_character'])}"
        if held_out is not None:
            figures += f"  validation {_bits(held_out)}"
        line = f"{fraction:4.0%}  {duration(record['seconds']):>6}  step {record['step']:,}  {figures} bits per character"
        line += "  best" if best else ""
        if self._live:
            from rich.text import Text

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


def print_surprises(title: str, rows: Sequence[tuple[float, str]]) -> None:
    """Print bits beside texts to standard output, each text on one line."""
    print(f"\n{title}")
    for bits, text in rows:
        write_line(f"{bits:7.2f} {text}", sys.stdout)


def print_scores(rows: Mapping[str, str]) -> None:
    """Print a table of names and figures to standard output."""
    left, right = max(map(len, rows)), max(map(len, rows.values()))
    for name, value in rows.items():
        print(f"{name:<{left}}  {value:>{right}}")
