"""Lines at the bottom of the terminal (standard error) that change in place, and a progress bar.

To avoid flicker, only changed lines are written, over the old ones and in a single write. The space below is cleared from the
last line, because tmux saves a screen that is cleared from its first cell to its history. Rich is imported only when needed.
"""

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from charrnn.errors import undo
from charrnn.terminal.output import on_terminal, terminal_size, write_line

if TYPE_CHECKING:
    from rich.text import Text

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"  # the cursor
CUT, WRAP = "\x1b[?7l", "\x1b[?7h"  # long lines: cut, so that a line whose width we misjudge does not become two
ACCENT = "magenta"  # readable on light and dark backgrounds


class Frame:
    """Lines at the bottom of the terminal. `draw` replaces them; `close` removes them and shows the cursor."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(file=io.StringIO(), force_terminal=True, highlight=False)  # converts lines to escapes
        locale = os.environ.get("LC_ALL") or os.environ.get("LANG")  # in the C locale Python still writes UTF-8
        self.unicode = (sys.stderr.encoding or "").lower().startswith("utf") and locale not in ("C", "POSIX")
        self._lines: list[Text] = []
        self._size = (0, 0)
        undo.add(self.close)
        self._write(HIDE)
        self._stops = getattr(signal, "SIGTSTP", None)
        if self._stops is not None and signal.getsignal(self._stops) is signal.SIG_DFL:
            signal.signal(self._stops, self._suspend)

    def size(self) -> tuple[int, int]:
        """Usable columns (without the last: a line that fills it can't be cleared) and rows."""
        columns, rows = terminal_size()
        return max(columns, 2) - 1, rows

    def draw(self, lines: "Sequence[Text]") -> None:
        """Replace the lines drawn before. Lines are cut at the width; if there are too many, only the last ones are drawn."""
        columns, rows = size = self.size()
        lines = [line.copy() for line in lines[-max(rows - 1, 1) :]]
        for line in lines:
            line.truncate(columns, overflow="crop")
        before = self._lines if size == self._size else []
        last = len(lines) - 1 if len(lines) != len(before) else -1  # always drawn, to clear the space below it
        drawn = [
            "" if n != last and line in before[n : n + 1] else self._escape(line) + ("\x1b[J" if n == last else "\x1b[K")
            for n, line in enumerate(lines)
        ]
        self._write(CUT + self._top(columns) + "\r\n".join(drawn) + "\r" + WRAP)
        self._lines, self._size = lines, size

    def close(self) -> None:
        """Remove the lines and show the cursor."""
        self._write(self._top(self.size()[0]) + "\x1b[K\r\n\x1b[J\x1b[A" + SHOW)
        undo.discard(self.close)
        self._lines = []
        if self._stops is not None and signal.getsignal(self._stops) == self._suspend:
            signal.signal(self._stops, signal.SIG_DFL)

    def print(self, lines: "Sequence[Text]") -> None:
        """Write lines that stay. The frame must be closed."""
        self._write("".join(self._escape(line) + "\n" for line in lines))

    def _top(self, columns: int) -> str:
        """The escape that moves the cursor from the last line to the first."""
        cuts = "TMUX" not in os.environ and ("XTERM_VERSION" in os.environ or "STY" in os.environ)  # xterm and GNU screen
        broken = columns < self._size[0] and not cuts  # the terminal was made narrower and has wrapped the lines
        up = sum(max(1, -(-line.cell_len // (columns + 1))) if broken else 1 for line in self._lines[:-1])
        return "\r" + (f"\x1b[{up}A" if up else "")

    def _escape(self, line: "Text") -> str:
        with self.console.capture() as capture:
            self.console.print(line, end="", soft_wrap=True)
        return capture.get()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # the terminal is gone
            sys.stderr.write(text)
            sys.stderr.flush()

    def _suspend(self, number: int, _: FrameType | None) -> None:
        """Handle Ctrl-Z: show the cursor, and after the stop draw the frame below what was written meanwhile."""
        self._write(SHOW + "\r\n")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._suspend)
        self._lines = []
        self._write(HIDE)


def draw_bar(width: int, fraction: float, unicode: bool = True) -> "Text":
    """Draw a progress bar, in steps of half a character."""
    from rich.text import Text

    halves = round(2 * width * min(max(fraction, 0.0), 1.0))
    full, half, rest = ("━", "╸", "─") if unicode else ("=", "-", "-")
    done = full * (halves // 2) + half * (halves % 2)
    return Text().append(done, style=ACCENT).append(rest * (width - len(done)), style="dim")


class WorkDisplay(contextlib.AbstractContextManager["WorkDisplay"]):
    """Shows the progress of long work: a bar on a terminal, a line every ten seconds elsewhere.

    `what` is the work and `unit` the unit shown; `scale` is the size of a unit.
    """

    def __init__(self, what: str = "reading", unit: str = "MB", quiet: bool = False, scale: float = 1e6):
        self.what = what
        self.unit = unit
        self.quiet = quiet
        self.scale = scale
        self._frame: Frame | None = None
        self._due = time.monotonic() + (1.0 if on_terminal() else 10.0)

    def __exit__(self, *_: object) -> None:
        if self._frame:
            self._frame.close()

    def progress(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` (None: unknown) is done."""
        now = time.monotonic()
        if self.quiet or now < self._due:
            return
        terminal = on_terminal()
        self._due = now + (0.125 if terminal else 10.0)
        places = int(self.scale > 1)
        count = f"{done / self.scale:,.{places}f} " + (f"of {total / self.scale:,.{places}f} " if total else "")
        figures = f"{self.what}: {count}{self.unit}"
        if not terminal:
            write_line(figures)
            return
        from rich.text import Text

        self._frame = self._frame or Frame()
        bar = draw_bar(min(24, self._frame.size()[0] // 3), done / total, self._frame.unicode) if total else Text()
        self._frame.draw([bar.append(f" {figures}")])
