"""Show a training run live: on a terminal a frame with curve, sample and metrics, and a summary at the end; else lines.

Losses are in bits per character.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import groupby
from typing import Self

import numpy as np
from rich.text import Text

from charrnn.headers import Metrics
from charrnn.terminal.frame import Frame, draw_bar
from charrnn.terminal.output import count_epochs, draw_dots, duration, on_terminal, write_line
from charrnn.text.visible import make_visible
from charrnn.training.events import End, Event, Progress, Replan, Sample, Setback, Validation

REDRAW = 0.125  # seconds between two drawings, at least
STEADY = 0.5  # seconds to wait after a change of the window's size before drawing the whole frame
POINTS = 1000  # most points of a line
SPAN = 0.1  # smallest range of the curve's y axis, in bits
ROWS = 24  # about the most rows of the summary's table
WIDE = 110  # columns from which the sample is drawn beside the curve
SILENT = 20.0  # most seconds between two lines if there is no frame
TRAIN, VALIDATION = "dim", "bold magenta"
START = replace(Progress(**{field.name: 0 for field in fields(Progress)}), train_bits=math.nan)  # before the first event
WHY = {  # why a run ended: text before and after "N epochs (...)"
    "steps": ("done after", ""),
    "time": ("time is up after", ""),
    "max epochs": ("stopped after", ", to avoid overfitting"),
    "memorized": ("stopped after", ": the text is memorised"),
    "interrupted": ("interrupted after", ""),
}


class Line:
    """A line of the plot: the loss over the fraction of the run. Of several close points only the last is kept."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []

    def add(self, x: float, y: float) -> None:
        """Add a point, and remove points to its right (from before a setback)."""
        while self.points and (self.points[-1][0] >= x or (len(self.points) > 1 and x - self.points[-2][0] < 2 / POINTS)):
            self.points.pop()
        if math.isfinite(y):
            self.points.append((x, y))

    def resample(self, columns: int, end: float) -> list[float]:
        """Interpolate at `columns` positions from 0 to `end`; NaN outside the line."""
        if not self.points:
            return [math.nan] * columns
        xs, ys = zip(*self.points, strict=True)
        values: list[float] = np.interp(np.linspace(0, end, columns), xs, ys, math.nan, math.nan).tolist()
        values[min(round(xs[-1] / end * (columns - 1)), columns - 1)] = ys[-1]
        return values


class TrainingDisplay:
    """A context manager that shows a training run. Pass the run's events to `show`; `history` has earlier validations."""

    def __init__(self, quiet: bool = False, history: Sequence[Metrics] = ()):
        self.quiet = quiet
        self.metrics = list(history)  # of all validations
        self.notes: list[str] = []
        self.train, self.validated = Line(), Line()
        self.now = START
        self.sample, self.best = ("", ""), ("", "")  # title and text, of this session
        self._earlier = list(history)  # validations not yet on the curve
        self._frame: Frame | None = None
        self._drawn = self._resized = -math.inf
        self._said = time.monotonic()  # time of the last line
        self.end = ""  # the line about the end of the run
        self._size = (0, 0)
        self._curve: tuple[tuple[int, ...], list[Text]] = ((), [])  # a cached drawing and its key
        self._unicode = True

    def __enter__(self) -> Self:
        if not self.quiet and on_terminal():
            self._frame = Frame()
            self._unicode = self._frame.unicode
        return self

    def __exit__(self, *_: object) -> None:
        if self._frame:
            self._frame.close()
            self._frame.print(self.summary(self._frame.size()[0]))
        if self.end and not self.quiet:
            write_line(self.end)

    def show(self, event: Event) -> None:
        if isinstance(event, Validation):
            self._show_validation(event)
        elif isinstance(event, Setback):
            begin = f"the loss diverged at step {event.reached:,}: the run continues from step {event.step:,}"
            self.note(f"{begin} with the learning rate {event.learning_rate:g}")
        elif isinstance(event, Replan):
            what = f"model: {event.recipe.describe()}"
            pace = f"{1 / event.ratio:.2g} times slower" if event.ratio < 1 else f"{event.ratio:.2g} times faster"
            self.note(f"training is {pace} than the speed test said: the run starts again with the time that is left; {what}")
            self.train = Line()
        elif isinstance(event, Sample):
            self._set_sample(event.step, event.text)
        elif isinstance(event, End):
            before, after = WHY[event.why]
            done = f"{count_epochs(event.epochs)} ({event.step:,} steps, {duration(event.seconds)})"
            self.end = f"{before} {done}{after}"
        else:
            self.now = event
            if self._frame:
                self._add_earlier()
                self.train.add(event.fraction, event.train_bits)
                if time.monotonic() - self._drawn >= REDRAW:
                    self._draw()
            elif time.monotonic() - self._said >= SILENT:
                self._write_figures(event.step, best=False)

    def note(self, line: str) -> None:
        """Show a line that stays."""
        self.notes.append(f"note: {line}")
        if self._frame:
            self._draw()
        elif not self.quiet:
            write_line(self.notes[-1])

    def _show_validation(self, event: Validation) -> None:
        metrics = event.metrics
        bits = metrics.train_bits_per_character
        self.metrics.append(metrics)
        self.now = replace(self.now, fraction=event.fraction, seconds=metrics.seconds, train_bits=bits)
        if event.best:
            self.best = (f"sample of the best model, step {metrics.step:,}", metrics.sample or "")
        if self._frame:
            self._add_earlier()
            self._add_points(metrics, event.fraction)
        else:
            self._write_figures(metrics.step, best=event.best, validation=metrics.validation_bits_per_character)
        self._set_sample(metrics.step, metrics.sample or "")

    def _set_sample(self, step: int, text: str) -> None:
        self.sample = (f"sample at step {step:,}", text)
        if self._frame:
            self._draw()

    def _write_figures(self, step: int, best: bool, validation: float | None = None) -> None:
        """Write a plain line."""
        now = self.now
        self._said = time.monotonic()
        figures = f"train {now.train_bits:.3f}" + (f"  validation {validation:.3f}" if validation is not None else "")
        line = f"{now.fraction:4.0%}  {duration(now.seconds):>6}  step {step:,}  {figures}{' (best)' * best} bits per character"
        if now.characters_per_second:
            line += f"  {now.characters_per_second:,.0f} characters/s"
        if now.fraction < 1 and now.seconds_left:
            line += f"  {duration(now.seconds_left)} left"
        if not self.quiet:
            write_line(line)

    def _add_earlier(self) -> None:
        """Add the validations of earlier sessions to the curve, at x positions in proportion to their time."""
        for metrics in self._earlier:
            self._add_points(metrics, min(metrics.seconds / max(self.now.seconds, 1e-9), 1.0) * self.now.fraction)
        self._earlier = []

    def _add_points(self, metrics: Metrics, fraction: float) -> None:
        self.train.add(fraction, metrics.train_bits_per_character)
        if metrics.validation_bits_per_character is not None:
            self.validated.add(fraction, metrics.validation_bits_per_character)

    def _draw(self) -> None:
        """Draw the frame. While the window is being resized, draw only the status lines, below blank lines."""
        assert self._frame is not None
        size = self._frame.size()
        self._drawn = time.monotonic()
        if size != self._size:
            self._resized = self._drawn if self._size[0] else -math.inf
            self._size = size
        lines = self.draw_frame(*size)
        if self._drawn - self._resized < STEADY:  # a terminal that wraps long lines scrolls others away, so draw blank ones
            status = self._draw_status(size[0])
            lines = [*[Text()] * (len(lines) - len(status)), *status]
        self._frame.draw(lines)

    def draw_frame(self, columns: int, rows: int) -> list[Text]:
        """Draw the frame for a terminal of this size. Parts that don't fit are left out, the curve first."""
        blank = Text()
        status = self._draw_status(columns)
        room = rows - len(status) - 2
        if columns >= WIDE:
            height = min(10, room - 2)
            if height < 3:
                return status
            half = columns * 3 // 5
            left = self._draw_curve(half - 3, height)
            right = self._draw_sample(*self.sample, width=columns - half, height=height)
            for mine, other in zip(left, right, strict=True):
                mine.pad_right(half - mine.cell_len)
                mine.append_text(other)
            return [blank, *left, blank, *status]
        written = min(6, room - 2)  # rows of the sample, without its title and a blank row
        if written < 1:
            return status
        lines = [blank, *self._draw_sample(*self.sample, width=columns, height=written), blank, *status]
        height = min(8, rows - len(lines) - 4)
        return [blank, *self._draw_curve(columns, height), *lines] if height >= 3 else lines

    def summary(self, columns: int) -> list[Text]:
        """The summary at the end: notes, a table of validations, the curve, a sample of the best model."""
        columns = min(columns, 100)
        lines = [line for note in self.notes for line in self._wrap(note, columns)]
        if self.metrics:
            lines += [Text(), *self._draw_table(columns)]
        if len(self.train.points) > 1:
            lines += [Text(), *self._plot(columns, 8, end=self.train.points[-1][0], seconds=self.now.seconds)]
        title, text = self.best if self.best[0] else self.sample
        if title:
            lines += [Text(), *self._draw_sample(title, text, width=columns, height=None)]
        return [*lines, Text()] if lines else []

    def _draw_status(self, columns: int) -> list[Text]:
        """Draw the last note, the metrics and the progress bar."""
        now = self.now
        phrases = [("train ", f"{now.train_bits:.3f}" if math.isfinite(now.train_bits) else "-", "")]
        if self.metrics:
            if (last := self.metrics[-1].validation_bits_per_character) is not None:
                phrases.append(("validation ", f"{last:.3f}", ""))
            phrases.append(("best ", f"{min(metrics.bits for metrics in self.metrics):.3f}", " bits/character"))
        speed = f"{now.characters_per_second:,.0f}"
        figures = f" {int(100 * now.fraction):3}% {duration(now.seconds_left):>6} left"
        if columns - len(beside := f"{figures} {speed:>9} characters/s") >= 16:
            figures = beside
        else:
            phrases.append(("", speed, " characters/s"))
        lines = [Text()]
        for before, figure, after in phrases:
            phrase = Text(before).append(figure, style="bold").append(after)
            if lines[-1] and lines[-1].cell_len + 2 + phrase.cell_len > columns:
                lines.append(Text())
            lines[-1].append("  " if lines[-1] else "").append_text(phrase)
        bar = draw_bar(max(columns - len(figures), 4), now.fraction, self._unicode).append(figures)
        return [*(self._wrap(self.notes[-1], columns) if self.notes else ()), *lines, bar]

    def _draw_curve(self, width: int, height: int) -> list[Text]:
        """Draw the curve over the whole length of the run; redrawn once per second."""
        key = (width, height, len(self.metrics), int(time.monotonic()))
        if self._curve[0] != key:
            self._curve = (key, self._plot(width, height, end=1.0, seconds=self.now.seconds + self.now.seconds_left))
        return [line.copy() for line in self._curve[1]]

    def _plot(self, width: int, height: int, end: float, seconds: float) -> list[Text]:
        """Plot both losses in `height` rows, up to the fraction `end` of the run, at `seconds`; time axis and legend below."""
        places = max(width - 6, 4)
        losses = [loss for _, loss in (*self.train.points, *self.validated.points)] or [0.0]
        low = min(losses)
        # The scale follows the validations, since the loss falls too steeply before the first one.
        scale = [metrics.bits for metrics in self.metrics] if len(self.metrics) > 1 else losses
        high = max(*scale, low + SPAN)
        curves = [line.resample(2 * places, end) for line in (self.train, self.validated)]
        lines = []
        for n, row in enumerate(draw_dots(curves, height=height, low=low, high=high)):
            label = f"{high:.2f}" if n == 0 else f"{low:.2f}" if n == height - 1 else ""
            lines.append(Text().append(f"{label:>5} ", style="dim"))
            for style, cells in groupby(row, lambda cell: VALIDATION if cell[1] else TRAIN):
                lines[-1].append("".join(map(self._glyph, cells)), style=style)
            lines[-1].rstrip()
        time_at_end = duration(seconds)
        legend = Text().append("train", style=TRAIN)
        if self.validated.points:
            legend.append("  ").append("validation", style=VALIDATION)
        if places >= len(legend) + len(time_at_end) + 30:
            legend.append("  bits per character", style="dim")
        axis = Text().append(f"{'0s':>8} ", style="dim")
        axis.pad_right((width - axis.cell_len - len(time_at_end) - len(legend)) // 2)
        axis.append_text(legend)
        axis.pad_right(max(width - axis.cell_len - len(time_at_end), 1))
        return [*lines, axis.append(time_at_end, style="dim")]

    def _glyph(self, cell: tuple[int, ...]) -> str:
        if not any(cell):
            return " "
        return chr(0x2800 + (cell[0] | cell[1])) if self._unicode else "*" if cell[1] else "."

    def _draw_sample(self, title: str, text: str, width: int, height: int | None) -> list[Text]:
        """Draw a title and the text's first `height` lines (None: all lines)."""
        written = self._wrap(text.strip("\n"), width - 2)[:height] if title else []
        lines = [Text(title or "no sample yet", style="dim")]
        lines += [Text().append("│ " if self._unicode else "| ", style="dim").append_text(line) for line in written]
        return lines + [Text() for _ in range((height or 0) + 1 - len(lines))]

    def _draw_table(self, columns: int) -> list[Text]:
        """Draw the table of validations; if there are many, about ROWS of them, including the last and the best."""
        many = len(self.metrics)
        best = min(range(many), key=lambda n: self.metrics[n].bits)
        chosen = sorted({*(n * (many - 1) // (ROWS - 1) for n in range(ROWS)), best}) if many > ROWS else list(range(many))
        rows = [["time", "step", "characters", "train", "validation"]]
        for metrics in (self.metrics[n] for n in chosen):
            figures = (metrics.train_bits_per_character, metrics.validation_bits_per_character)
            row = [duration(metrics.seconds), f"{metrics.step:,}", f"{metrics.characters:,}"]
            rows.append(row + [f"{bits:.3f}" for bits in figures if bits is not None])
        del rows[0][len(rows[-1]) :]  # no column "validation" without validation text
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for column in (2, 1):  # drop columns that don't fit
            if sum(widths) + 2 * len(widths) + len("best") > columns:
                del widths[column]
                for row in rows:
                    del row[column]
        lines = [Text("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))) for row in rows]
        lines[0].stylize("dim")
        lines[1 + chosen.index(best)].append("  best", style=VALIDATION)
        left_out = f"; {len(chosen)} of {many:,}, the others are in history.jsonl" if many > ROWS else ""
        return [*self._wrap(f"validations, in bits per character{left_out}", columns), *lines]

    def _wrap(self, text: str, width: int) -> list[Text]:
        """Wrap a text, with control characters made visible."""
        visible = make_visible(text)
        if not self._unicode:
            visible = visible.encode("ascii", "backslashreplace").decode("ascii")
        console = self._frame.console if self._frame else None
        return list(Text(visible).wrap(console, max(width, 1), overflow="fold", tab_size=4))  # type: ignore[arg-type]
