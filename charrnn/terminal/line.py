"""The progress of `charrnn.train` in Python: one line that changes in place on a terminal or in a notebook, else lines."""

import contextlib
import math
import sys
import time
from collections.abc import Sequence
from typing import Self

from charrnn.headers import Metrics
from charrnn.terminal.live import TrainingDisplay
from charrnn.terminal.output import duration, on_terminal, terminal_size, write_line
from charrnn.training.events import End, Event, Validation

EVERY = 0.5  # seconds between two updates, since a notebook may store them all


class LineDisplay:
    """A context manager that shows a training run as one line. Pass the run's events to `show`."""

    def __init__(self, quiet: bool = False, history: Sequence[Metrics] = ()):
        in_notebook = type(sys.stdout).__module__.startswith("ipykernel.")
        self._stream = sys.stdout if in_notebook else sys.stderr  # a notebook shows standard error in red
        self._columns = 100 if in_notebook else terminal_size()[0] - 1
        self._quiet = quiet
        self._redraws = not quiet and (in_notebook or on_terminal())
        self._line = ""  # the line on the screen
        self._drawn = -math.inf  # when it was drawn
        self._run = TrainingDisplay(quiet or self._redraws, history)  # keeps the figures; prints plain lines where none redraws

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_line()

    def show(self, event: Event) -> None:
        self._run.show(event)
        if self._redraws and (isinstance(event, Validation) or time.monotonic() - self._drawn >= EVERY):
            self._drawn = time.monotonic()
            line = self._figures()
            self._write(f"\r{line:<{len(self._line)}}")
            self._line = line
        if isinstance(event, End):
            self.say(self._run.end)

    def note(self, line: str) -> None:
        self._run.note(line)
        if self._redraws:
            self.say(self._run.notes[-1])

    def say(self, line: str) -> None:
        """Write a line that stays, below the progress line."""
        self._end_line()
        if not self._quiet:
            write_line(line, self._stream)

    def _end_line(self) -> None:
        if self._line:
            self._write("\n")
        self._line = ""

    def _figures(self) -> str:
        """The progress line, with as many phrases as fit."""
        now = self._run.now
        metrics = self._run.metrics
        phrases = [f"{int(100 * now.fraction):3}%", f"{duration(now.seconds_left)} left"]
        if math.isfinite(now.train_bits):
            phrases.append(f"train {now.train_bits:.3f}")
        if metrics:
            if (last := metrics[-1].validation_bits_per_character) is not None:
                phrases.append(f"validation {last:.3f}")
            phrases.append(f"best {min(each.bits for each in metrics):.3f} bits/character")
        phrases.append(f"{now.characters_per_second:,.0f} characters/s")
        while sum(len(phrase) + 2 for phrase in phrases) - 2 > self._columns:
            phrases.pop()
        return "  ".join(phrases)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            self._stream.write(text)
            self._stream.flush()
