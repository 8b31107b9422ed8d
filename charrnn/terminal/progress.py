"""How far long work has come. Rich is imported when the bar is drawn first, so that short work starts without it."""

import time
from typing import TYPE_CHECKING, Self

from charrnn.terminal.output import on_terminal, write_line

if TYPE_CHECKING:
    from charrnn.terminal.frame import Frame


class WorkDisplay:
    """Shows how far work has come when it takes long: a bar on a terminal, a line every ten seconds elsewhere.

    `what` says what is being done, `unit` in what, `scale` how many of its ones make one unit.
    """

    def __init__(self, what: str = "reading", unit: str = "MB", quiet: bool = False, scale: float = 1e6):
        self.what = what
        self.unit = unit
        self.quiet = quiet
        self.scale = scale
        self._frame: Frame | None = None
        self._due = time.monotonic() + (1.0 if on_terminal() else 10.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._frame:
            self._frame.close()

    def progress(self, done: int, total: int | None) -> None:
        """Show how much has been done, and of how much, where that is known."""
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

        from charrnn.terminal.frame import Frame, draw_bar

        self._frame = self._frame or Frame()
        line = Text(f" {figures}")
        if total:
            line = draw_bar(min(24, self._frame.size()[0] // 3), done / total, self._frame.unicode) + line
        self._frame.draw([line])
