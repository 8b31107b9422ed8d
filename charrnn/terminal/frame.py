"""A frame: some lines at the bottom of a terminal that change in place. It doesn't know what they say.

Nothing flickers: a line that changed is written over, one that did not is left alone, nothing is erased before it is drawn,
and all goes out in one write. The space below is cleared from a later line on, because tmux takes a screen that is cleared
from its first cell for history. Standard error is the terminal.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from rich.console import Console
from rich.text import Text

from charrnn.terminal.output import terminal_size

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"  # the cursor
CUT, WRAP = "\x1b[?7l", "\x1b[?7h"  # lines at the right margin: where we are wrong about a width, a line must not become two
ACCENT = "magenta"  # legible on light and on dark


class Frame:
    """Lines at the bottom of the terminal. `draw` them, and `close` it to have the lines gone and the cursor back."""

    def __init__(self) -> None:
        self.console = Console(file=io.StringIO(), force_terminal=True, highlight=False)  # turns lines into escapes
        locale = os.environ.get("LC_ALL") or os.environ.get("LANG")  # in the locale C Python writes UTF-8 all the same
        self.unicode = (sys.stderr.encoding or "").lower().startswith("utf") and locale not in ("C", "POSIX")
        self._lines: list[Text] = []
        self._size = (0, 0)
        self._write(HIDE)
        self._stops = getattr(signal, "SIGTSTP", None)
        if self._stops is not None and signal.getsignal(self._stops) is signal.SIG_DFL:
            signal.signal(self._stops, self._suspend)

    def size(self) -> tuple[int, int]:
        """The columns that may be written (not the last: a line that fills it can't be cleared) and the rows."""
        columns, rows = terminal_size()
        return max(columns, 2) - 1, rows

    def draw(self, lines: Sequence[Text]) -> None:
        """Draw these lines in place of those before, each cut at the width; of too many the last ones."""
        columns, rows = size = self.size()
        lines = [line.copy() for line in lines[-max(rows - 1, 1) :]]
        for line in lines:
            line.truncate(columns, overflow="crop")
        before = self._lines if size == self._size else []
        last = len(lines) - 1 if len(lines) != len(before) else -1  # always drawn, to clear what is below it
        drawn = [
            "" if n != last and line in before[n : n + 1] else self._escape(line) + ("\x1b[J" if n == last else "\x1b[K")
            for n, line in enumerate(lines)
        ]
        self._write(CUT + self._top(columns) + "\r\n".join(drawn) + "\r" + WRAP)
        self._lines, self._size = lines, size

    def close(self) -> None:
        """Take the lines away and give the cursor back."""
        self._write(self._top(self.size()[0]) + "\x1b[K\r\n\x1b[J\x1b[A" + SHOW)
        self._lines = []
        if self._stops is not None and signal.getsignal(self._stops) == self._suspend:
            signal.signal(self._stops, signal.SIG_DFL)

    def print(self, lines: Sequence[Text]) -> None:
        """Write lines that stay. The frame must be closed."""
        self._write("".join(self._escape(line) + "\n" for line in lines))

    def _top(self, columns: int) -> str:
        """The escape that moves the cursor from the last line to the first.

        A terminal made narrower may have wrapped lines; xterm and GNU screen cut them.
        """
        wraps = "TMUX" in os.environ or not ("XTERM_VERSION" in os.environ or "STY" in os.environ)
        broken = wraps and columns < self._size[0]
        up = sum(max(1, -(-line.cell_len // (columns + 1))) if broken else 1 for line in self._lines[:-1])
        return "\r" + (f"\x1b[{up}A" if up else "")

    def _escape(self, line: Text) -> str:
        with self.console.capture() as capture:
            self.console.print(line, end="", soft_wrap=True)
        return capture.get()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # where the terminal has gone
            sys.stderr.write(text)
            sys.stderr.flush()

    def _suspend(self, number: int, _: FrameType | None) -> None:
        """Handle Ctrl-Z: the shell gets its cursor, and the frame goes on below what was written meanwhile."""
        self._write(SHOW + "\r\n")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._suspend)
        self._lines = []
        self._write(HIDE)


def draw_bar(width: int, fraction: float, unicode: bool = True) -> Text:
    """A line of which `fraction` is done, in steps of half a character."""
    halves = round(2 * width * min(max(fraction, 0.0), 1.0))
    full, half, rest = ("━", "╸", "─") if unicode else ("=", "-", "-")
    done = full * (halves // 2) + half * (halves % 2)
    return Text().append(done, style=ACCENT).append(rest * (width - len(done)), style="dim")
