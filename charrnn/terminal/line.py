"""The progress of `charrnn.train` in Python: one line that changes in place on a terminal or in a notebook, else lines."""

import contextlib
import math
import sys
import time
from collections.abc import Sequence

from charrnn.headers import Metrics
from charrnn.terminal.live import TrainingDisplay
from charrnn.terminal.output import duration, on_terminal, terminal_size, write_line
from charrnn.training.events import End, Event, Validation

EVERY = 0.5  # seconds between two updates, since a notebook may store them all


class LineDisplay(TrainingDisplay):
    """A context manager that shows a training run as one line. Pass the run's events to `show`."""

    def __init__(self, quiet: bool = False, history: Sequence[Metrics] = ()):
        in_notebook = type(sys.stdout).__module__.startswith("ipykernel.")
        self._stream = sys.stdout if in_notebook else sys.stderr  # a notebook shows standard error in red
        self._columns = 100 if in_notebook else terminal_size()[0] - 1
        self._silent = quiet
        self._redraws = not quiet and (in_notebook or on_terminal())
        self._line = ""  # the line on the screen
        super().__init__(quiet=quiet or self._redraws, history=history)  # the base class prints plain lines, or nothing

    def __exit__(self, *_: object) -> None:
        if self._line:
            self._write("\n")
        self._line = ""

    def show(self, event: Event) -> None:
        super().show(event)
        if self._redraws and (isinstance(event, Validation) or time.monotonic() - self._drawn >= EVERY):
            self._drawn = time.monotonic()
            line = self._figures()
            self._write(f"\r{line:<{len(self._line)}}")
            self._line = line
        if isinstance(event, End):
            self.say(self._end)

    def note(self, line: str) -> None:
        super().note(line)
        if self._redraws:
            self.say(self.notes[-1])

    def say(self, line: str) -> None:
        """Write a line that stays, below the progress line."""
        self.__exit__()
        if not self._silent:
            write_line(line, self._stream)

    def _figures(self) -> str:
        """The progress line, with as many phrases as fit."""
        now = self.now
        phrases = [f"{int(100 * now.fraction):3}%", f"{duration(now.seconds_left)} left"]
        if math.isfinite(now.train_bits):
            phrases.append(f"train {now.train_bits:.3f}")
        if self.metrics:
            if (last := self.metrics[-1].validation_bits_per_character) is not None:
                phrases.append(f"validation {last:.3f}")
            phrases.append(f"best {min(metrics.bits for metrics in self.metrics):.3f} bits/character")
        phrases.append(f"{now.characters_per_second:,.0f} characters/s")
        while sum(len(phrase) + 2 for phrase in phrases) - 2 > self._columns:
            phrases.pop()
        return "  ".join(phrases)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            self._stream.write(text)
            self._stream.flush()
