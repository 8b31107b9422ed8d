"""A training as it goes: on a terminal a frame of curve, sample and figures, and a record at its end; elsewhere plain lines.

It takes plain values and knows no network. Losses are in bits per character.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from rich.text import Text

from charrnn.terminal.frame import Frame, bar
from charrnn.terminal.output import bits, duration, on_terminal, printable, write_line
from charrnn.terminal.plot import dots

REDRAW = 0.125  # seconds between two drawings, at least
STEADY = 0.5  # seconds that a window must have kept its size to be filled
POINTS = 1000  # of a line, at most
SPAN = 0.1  # bits between the ends of the curve's scale, at least
ROWS = 24  # of the table in the record, about
WIDE = 110  # columns from which on the sample stands beside the curve
TRAIN, VALIDATION = "dim", "bold magenta"


class Line:
    """A line that grows to the right: a loss over the share of the run. Of close points the last one stays."""

    def __init__(self) -> None:
        self.x: list[float] = []
        self.y: list[float] = []

    def add(self, x: float, y: float) -> None:
        """Go on to a point; what stands right of it (before a setback) is taken back."""
        while self.x and (self.x[-1] >= x or (len(self.x) > 1 and x - self.x[-2] < 2 / POINTS)):
            self.x.pop()
            self.y.pop()
        if math.isfinite(y):
            self.x.append(x)
            self.y.append(y)

    def at(self, columns: int, end: float) -> list[float]:
        """The values at `columns` places from 0 to `end`, NaN where the line is not."""
        if not self.x:
            return [math.nan] * columns
        values: list[float] = np.interp(np.linspace(0, end, columns), self.x, self.y, math.nan, math.nan).tolist()
        values[min(round(self.x[-1] / end * (columns - 1)), columns - 1)] = self.y[-1]
        return values


class TrainingDisplay:
    """Shows a training run. Use it as a context manager and call `progress`, `validation` and `note`.

    `history` are the records of a resumed run's earlier validations, lines of its history.jsonl.
    """

    def __init__(self, quiet: bool = False, history: Sequence[Mapping[str, Any]] = ()):
        self.quiet, self.records = quiet, list(history)
        self.notes: list[str] = []
        self.train, self.validated = Line(), Line()
        self.fraction = self.seconds = self.left = self.speed = 0.0
        self.bits = math.nan
        self.sample, self.best = ("", ""), ("", "")  # title and text of the latest sample, and of the best model's
        self._frame: Frame | None = None
        self._drawn = self._resized = -math.inf
        self._size = (0, 0)
        self._earlier = list(history)
        self._curve: tuple[object, list[Text]] = None, []

    def __enter__(self) -> "TrainingDisplay":
        if not self.quiet and on_terminal():
            self._frame = Frame()
        return self

    def __exit__(self, *_: object) -> None:
        if self._frame:
            self._frame.close()
            self._frame.print(self.record(self._frame.size()[0]))

    def progress(self, fraction: float, seconds: float, left: float, characters_per_second: float, train_bits: float) -> None:
        """Say where the run stands, in shares of it, seconds (spent and left) and bits; shown on a terminal only."""
        self.fraction, self.seconds, self.left = fraction, seconds, left
        self.speed, self.bits = characters_per_second, train_bits
        if self._frame:
            self._add_earlier()
            self.train.add(fraction, train_bits)
            if time.monotonic() - self._drawn >= REDRAW:
                self._draw()

    def note(self, line: str) -> None:
        """Say something that has happened."""
        self.notes.append(f"note: {line}")
        if self._frame:
            self._draw()
        elif not self.quiet:
            write_line(self.notes[-1])

    def validation(self, record: Mapping[str, Any], fraction: float, best: bool, sample: str) -> None:
        """Say what a validation found and what the model writes now. `record` is its line in history.jsonl."""
        self.records.append(record)
        self.fraction, self.seconds, self.bits = fraction, record["seconds"], record["train_bits_per_character"]
        self.sample = f"sample at step {record['step']:,}", sample
        if best:
            self.best = f"sample of the best model, step {record['step']:,}", sample
        if self._frame:
            self._add_earlier()
            self._add(record, fraction)
            self._draw()
        elif not self.quiet:
            held_out = record["validation_bits_per_character"]
            figures = f"train {bits(self.bits)}" + (f"  validation {bits(held_out)}" if held_out is not None else "")
            line = f"{fraction:4.0%}  {duration(self.seconds):>6}  step {record['step']:,}  {figures} bits per character"
            line += "  best" if best else ""
            write_line(f"{line}  {self.speed:,.0f} characters/s" if self.speed else line)

    def _add_earlier(self) -> None:
        """Put the validations before this sitting where their seconds stand in the run, as far as it has come now."""
        for record in self._earlier:
            self._add(record, min(record["seconds"] / max(self.seconds, 1e-9), 1.0) * self.fraction)
        self._earlier = []

    def _add(self, record: Mapping[str, Any], fraction: float) -> None:
        self.train.add(fraction, record["train_bits_per_character"])
        if record["validation_bits_per_character"] is not None:
            self.validated.add(fraction, record["validation_bits_per_character"])

    def _draw(self) -> None:
        """Draw the frame. While its window changes, only the figures, beneath blank lines: where a terminal breaks lines that
        have become too long, it pushes others out of reach, and those are then blank.
        """
        assert self._frame is not None
        size, now = self._frame.size(), time.monotonic()
        if size != self._size:
            self._resized = now if self._size[0] else -math.inf
        self._size, self._drawn = size, now
        lines = self.picture(*size)
        if now - self._resized < STEADY:
            status = self._status(size[0])
            lines = [*[Text()] * (len(lines) - len(status)), *status]
        self._frame.draw(lines)

    def picture(self, columns: int, rows: int) -> list[Text]:
        """The frame as it stands, for a terminal of that size: what has no room is left out, the curve first."""
        blank, status = Text(), self._status(columns)
        room = rows - len(status) - 2
        written = min(6, room - 2)  # rows for the sample, beside its title and a blank one
        if columns >= WIDE:
            height = min(10, room - 2)
            if height < 3:
                return status
            half = columns * 3 // 5
            left = self._drawn_curve(half - 3, height)
            right = self._sample(*self.sample, columns - half, height)
            for mine, other in zip(left, right, strict=True):
                mine.pad_right(half - mine.cell_len)
                mine.append_text(other)
            return [blank, *left, blank, *status]
        if written < 1:
            return status
        lines = [blank, *self._sample(*self.sample, columns, written), blank, *status]
        height = min(8, rows - len(lines) - 4)
        return [blank, *self._drawn_curve(columns, height), *lines] if height >= 3 else lines

    def record(self, columns: int) -> list[Text]:
        """What stays when the training has ended: notes, the table of validations, the curve, a sample of the best model."""
        columns = min(columns, 100)
        lines = [line for note in self.notes for line in self._wrapped(note, columns)]
        if self.records:
            lines += [Text(), *self._table(columns)]
        if len(self.train.x) > 1:
            lines += [Text(), *self._plot(columns, 8, self.train.x[-1], duration(self.seconds))]
        title, text = self.best if self.best[0] else self.sample
        if title:
            lines += [Text(), *self._sample(title, text, columns, None)]
        return [*lines, Text()] if lines else []

    def _figures(self) -> list[float]:
        """What each validation is judged by."""
        key = "validation_bits_per_character"
        return [r["train_bits_per_character"] if r[key] is None else r[key] for r in self.records]

    def _status(self, columns: int) -> list[Text]:
        """The bar and the figures, in as many lines as they take."""
        lines, phrases = [Text()], [("train ", bits(self.bits) if math.isfinite(self.bits) else "-", "")]
        if self.records:
            last = self.records[-1]["validation_bits_per_character"]
            if last is not None:
                phrases.append(("validation ", bits(last), ""))
            phrases.append(("best ", bits(min(self._figures())), " bits/character"))
        speed, figures = f"{self.speed:,.0f}", f" {int(100 * self.fraction):3}% {duration(self.left):>6} left"
        beside = f" {speed:>9} characters/s"
        if columns - len(figures + beside) >= 16:
            figures += beside
        else:
            phrases.append(("", speed, " characters/s"))
        for before, figure, after in phrases:
            phrase = Text(before).append(figure, style="bold").append(after)
            if lines[-1] and lines[-1].cell_len + 2 + phrase.cell_len > columns:
                lines.append(Text())
            lines[-1].append("  " if lines[-1] else "").append_text(phrase)
        lines.append(bar(max(columns - len(figures), 4), self.fraction, self._unicode).append(figures))
        if self.notes:
            lines[:0] = self._wrapped(self.notes[-1], columns)
        return lines

    def _drawn_curve(self, width: int, height: int) -> list[Text]:
        """The curve over the whole length of the run, drawn anew once a second."""
        key = width, height, len(self.records), int(time.monotonic())
        if self._curve[0] != key:
            self._curve = key, self._plot(width, height, 1.0, duration(self.seconds + self.left))
        return [line.copy() for line in self._curve[1]]

    def _plot(self, width: int, height: int, end: float, time_at_end: str) -> list[Text]:
        """Both lines up to the share `end` of the run, in `height` rows and one for the axis of time."""
        places = max(width - 6, 4)
        losses = [*self.train.y, *self.validated.y] or [0.0]
        low, high = min(losses), max(losses)
        if len(self.records) > 1:  # the scale is that of the validations: before, the loss falls off a cliff
            high = max(self._figures())
        high = max(high, low + SPAN)
        lines = []
        drawn = dots([self.train.at(2 * places, end), self.validated.at(2 * places, end)], height, low, high)
        for n, row in enumerate(drawn):
            label = f"{high:.2f}" if n == 0 else f"{low:.2f}" if n == height - 1 else ""
            lines.append(Text().append(f"{label:>5} ", style="dim"))
            for style, cells in groupby(row, lambda cell: VALIDATION if cell[1] else TRAIN):
                lines[-1].append("".join(map(self._glyph, cells)), style=style)
            lines[-1].rstrip()
        legend = Text().append("train", style=TRAIN)
        if self.validated.x:
            legend.append("  ").append("validation", style=VALIDATION)
        if places >= len(legend) + len(time_at_end) + 30:
            legend.append("  bits per character", style="dim")
        axis = Text().append(f"{'0s':>8} ", style="dim")
        axis.pad_right((width - axis.cell_len - len(time_at_end) - len(legend)) // 2)
        axis.append_text(legend)
        axis.pad_right(max(width - axis.cell_len - len(time_at_end), 1))
        return [*lines, axis.append(time_at_end, style="dim")]

    def _glyph(self, cell: tuple[int, ...]) -> str:
        train, validation = cell
        if not train | validation:
            return " "
        return chr(0x2800 + (train | validation)) if self._unicode else "*" if validation else "."

    def _sample(self, title: str, text: str, width: int, height: int | None) -> list[Text]:
        """A title and the text's first lines in `height` rows; without one, all of them."""
        rail = "│ " if self._unicode else "| "
        lines = self._wrapped(text.strip("\n"), width - 2)[:height]
        shown = [Text().append(rail, style="dim").append_text(line) for line in lines] if title else []
        empty = [Text() for _ in range((height or 0) - len(shown))]
        return [Text(title or "no sample yet: it comes with the first validation", style="dim"), *shown, *empty]

    def _table(self, columns: int) -> list[Text]:
        """The validations, of many about ROWS, among them the last and the best."""
        figures, many = self._figures(), len(self.records)
        best = figures.index(min(figures))
        shown = sorted({*(n * (many - 1) // (ROWS - 1) for n in range(ROWS)), best}) if many > ROWS else range(many)
        cells: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
            ("time", lambda r: duration(r["seconds"])),
            ("step", lambda r: f"{r['step']:,}"),
            ("characters", lambda r: f"{r['characters']:,}"),
            ("train", lambda r: bits(r["train_bits_per_character"])),
            ("validation", lambda r: bits(r["validation_bits_per_character"])),
        ]
        if self.records[-1]["validation_bits_per_character"] is None:
            del cells[4]
        rows = [[name for name, _ in cells], *([cell(self.records[n]) for _, cell in cells] for n in shown)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for column in (2, 1):  # what a narrow terminal has no room for
            if sum(widths) + 2 * len(widths) + len("best") > columns:
                rows, widths = [row[:column] + row[column + 1 :] for row in rows], widths[:column] + widths[column + 1 :]
        lines = [Text("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))) for row in rows]
        lines[0].stylize("dim")
        lines[1 + list(shown).index(best)].append("  best", style=VALIDATION)
        title = "validations, in bits per character"
        if many > ROWS:
            title += f"; {len(shown)} of {many:,}, the others are in history.jsonl"
        return [*self._wrapped(title, columns), *lines]

    def _wrapped(self, text: str, width: int) -> list[Text]:
        """Lines of text that is data: shown, not obeyed, and as wide as a terminal draws it."""
        shown = printable(text)
        if not self._unicode:
            shown = shown.encode("ascii", "backslashreplace").decode("ascii")
        console = self._frame.console if self._frame else None
        return list(Text(shown).wrap(console, max(width, 1), overflow="fold", tab_size=4))  # type: ignore[arg-type]

    @property
    def _unicode(self) -> bool:
        return self._frame is None or self._frame.unicode
