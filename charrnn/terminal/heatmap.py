"""A text with each character's background by its surprisal in bits; where there are no colours, with digits below.

`Heatmap` draws the text piece by piece on a terminal; `JsonHeatmap` writes the same figures for programs. It knows no network.
"""

import functools
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from charrnn.terminal.color import LEVELS
from charrnn.text.visible import LINE_SIGNS, make_visible

RESET = "\x1b[0m"
LONG = 20  # lines from which on the legend is repeated below them

Bits = Sequence[float] | np.ndarray  # of each character
Cell = tuple[str, float, int]  # what is drawn, its bits, its columns


@functools.cache
def show_character(character: str) -> tuple[str, int]:
    """What stands for a character on a terminal, and how many columns it takes; 0 for a mark on the one before."""
    from rich.cells import cell_len

    sign = make_visible(character, signs=LINE_SIGNS)
    return sign, cell_len(sign)


class Heatmap:
    """Draws a text that comes in pieces by `write`, a line at a time, none longer than the terminal is wide.

    `draw` takes the next piece, each character with its surprisal; `finish` ends the last line.
    """

    def __init__(self, write: Callable[[str], object], colours: list[str] | None, width: int | None = None):
        self.write = write
        self.colours = colours
        self.width = width or shutil.get_terminal_size().columns
        self.lines = 0
        self._cells: list[Cell] = []  # of the line
        self._used = 0  # columns

    def legend(self) -> None:
        """Write what the colours or digits mean."""
        if self.colours is None:
            self.write("Below each character: its surprisal in whole bits, 9 for more; none below 1 bit.\n\n")
            return
        labels = [f" {k // 2} " if k % 2 == 0 else "   " for k in range(LEVELS - 1)] + [f" {LEVELS // 2}+"]
        cells = ((label, k / 2, len(label)) for k, label in enumerate(labels))
        self.write("bits " + _paint(cells, self.colours) + "\n\n")

    def draw(self, text: str, bits: Bits) -> None:
        for character, surprisal in zip(text, np.asarray(bits).tolist(), strict=True):
            sign, columns = show_character(character)
            if not columns and self._cells:
                before, most, columns = self._cells[-1]
                self._cells[-1] = (before + sign, max(most, surprisal), columns)
                continue
            if self._used + columns > self.width:
                self._end_line()
            self._cells.append((sign, surprisal, columns))
            self._used += columns
            if character == "\n":
                self._end_line()

    def finish(self) -> None:
        if self._cells:
            self._end_line()

    def _end_line(self) -> None:
        if self.colours is not None:
            self.write(_paint(self._cells, self.colours) + "\n")
        else:
            digits = (f"{min(int(bits), 9) or ' '}".ljust(columns) for _, bits, columns in self._cells)
            line = "".join(sign for sign, _, _ in self._cells)
            self.write(f"{line}\n{''.join(digits).rstrip()}\n")
        self._cells, self._used = [], 0
        self.lines += 1


class FramedHeatmap(Heatmap):
    """A heatmap with its legend above and, where it is LONG, below too."""

    def draw(self, text: str, bits: Bits) -> None:
        if not self.lines and not self._cells:
            self.legend()
        super().draw(text, bits)

    def finish(self) -> None:
        super().finish()
        self.write("\n")
        if self.lines > LONG:
            self.legend()


class JsonHeatmap:
    """Writes the first member of a JSON object, `heatmap`: a pair of each character and its bits. What follows is not its."""

    def __init__(self, write: Callable[[str], object]):
        self.write = write
        self._begun = False

    def draw(self, text: str, bits: Bits) -> None:
        pairs = json.dumps(list(zip(text, np.asarray(bits, float).round(4).tolist(), strict=True)))
        self.write((", " if self._begun else '{"heatmap": [') + pairs[1:-1])
        self._begun = True

    def finish(self) -> None:
        self.write("], ")


def _paint(cells: Iterable[Cell], colours: list[str]) -> str:
    runs = itertools.groupby(cells, lambda cell: min(int(2 * cell[1]), LEVELS - 1))
    return "".join(f"\x1b[{colours[level]}m{''.join(sign for sign, _, _ in run)}" for level, run in runs) + RESET


def percent(probability: float) -> str:
    """A probability for people: "31%" or "<1%"."""
    return f"{probability:.0%}" if probability > 0.005 else "<1%"
