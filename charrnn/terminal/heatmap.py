"""Show a text with the surprisal of each character as background colour or, without colours, as digits below.

`Heatmap` draws on a terminal; `JsonHeatmap` writes the same numbers as JSON.
"""

import functools
import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from charrnn.inference.score import Piece
from charrnn.terminal.output import JsonObject
from charrnn.text.visible import LINE_SIGNS, make_visible

RESET = "\x1b[0m"
LONG = 20  # for longer texts the legend is repeated below
# Magma (van der Walt & Smith 2015): its lightness increases steadily, so that the order is visible with colour blindness and
# in black and white.
MAGMA = "000004 140e36 3b0f70 641a80 8c2981 b73779 de4968 f7705c fe9f6d fecf92 fcfdbf"
LEVELS = 17  # steps of half a bit, from 0 to 8 and more
CUBE = (0, 95, 135, 175, 215, 255)  # values of red, green and blue on a terminal with 256 colours
SIXTEEN = ("44;97", "100;97", "47;30", "103;30")  # backgrounds and text colours: blue, grey, light grey, yellow

Colour = tuple[int, int, int]
Bits = Sequence[float] | np.ndarray  # per character
Cell = tuple[str, float, int]  # text, bits, columns


@functools.cache
def show_character(character: str) -> tuple[str, int]:
    """Returns: the text to show for a character, and its columns; 0 columns for a combining mark."""
    from rich.cells import cell_len

    sign = make_visible(character, signs=LINE_SIGNS)
    return sign, cell_len(sign)


class Heatmap:
    """Draws a text with `write`, line by line, wrapped at the width of the terminal, with a legend.

    `add` takes the next piece of the text, `draw` any text with its surprisals; `finish` ends the text.
    """

    def __init__(self, write: Callable[[str], object], colours: list[str] | None, width: int | None = None):
        self.write = write
        self.colours = colours
        self.width = width or shutil.get_terminal_size().columns
        self.lines = 0
        self._cells: list[Cell] = []  # of the current line
        self._used = 0  # columns of the current line

    def add(self, piece: Piece) -> None:
        self.draw(piece.text, piece.bits)

    def draw(self, text: str, bits: Bits) -> None:
        if not self.lines and not self._cells:
            self._write_legend()
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
        self.write("\n")
        if self.lines > LONG:
            self._write_legend()

    def _write_legend(self) -> None:
        if self.colours is None:
            self.write(
                "The digit below each character is its surprisal in whole bits: 9 means 9 or more, blank means less than 1.\n\n"
            )
            return
        labels = [f" {k // 2} " if k % 2 == 0 else "   " for k in range(LEVELS - 1)] + [f" {LEVELS // 2}+"]
        cells = ((label, k / 2, len(label)) for k, label in enumerate(labels))
        self.write("bits " + _paint(cells, self.colours) + "\n\n")

    def _end_line(self) -> None:
        if self.colours is not None:
            self.write(_paint(self._cells, self.colours) + "\n")
        else:
            digits = (f"{min(int(bits), 9) or ' '}".ljust(columns) for _, bits, columns in self._cells)
            self.write(f"{''.join(sign for sign, _, _ in self._cells)}\n{''.join(digits).rstrip()}\n")
        self._cells, self._used = [], 0
        self.lines += 1


class JsonHeatmap:
    """Writes [character, bits] pairs as the member `heatmap` of a JSON object."""

    def __init__(self, json_object: JsonObject):
        self.object = json_object

    def add(self, piece: Piece) -> None:
        self.object.extend("heatmap", zip(piece.text, piece.bits.tolist(), strict=True))

    def finish(self) -> None:
        self.object.close_list()


def _paint(cells: Iterable[Cell], colours: list[str]) -> str:
    runs = itertools.groupby(cells, lambda cell: min(int(2 * cell[1]), LEVELS - 1))
    return "".join(f"\x1b[{colours[level]}m{''.join(sign for sign, _, _ in run)}" for level, run in runs) + RESET


def percent(probability: float) -> str:
    """Format a probability: "31%" or "<1%"."""
    return f"{probability:.0%}" if probability > 0.005 else "<1%"


def magma(share: float) -> Colour:
    """The colour of the map at `share`, from 0 to 1."""
    stops = [tuple(bytes.fromhex(stop)) for stop in MAGMA.split()]
    at = share * (len(stops) - 1)
    red, green, blue = (round(float(np.interp(at, range(len(stops)), channel))) for channel in zip(*stops, strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    """The relative luminance, 0 to 1, as WCAG 2 defines it."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink(background: Colour) -> Colour:
    """White or black, whichever has more contrast with the background: at least 4.58 (WCAG requires 4.5)."""
    return (0, 0, 0) if luminance(background) > 0.179 else (255, 255, 255)


def palette(system: str) -> list[str]:
    """The escape parameters of each level's colours. `system` is "truecolor", "256" or "standard" (16 colours)."""
    colours = [magma(k / (LEVELS - 1)) for k in range(LEVELS)]
    if system == "truecolor":
        return [f"48;2;{r};{g};{b};38;2;{f};{f};{f}" for (r, g, b), (f, *_) in ((c, ink(c)) for c in colours)]
    if system == "256":  # the nearest of the 216 colours in its cube
        near = np.abs(np.subtract.outer(colours, CUBE)).argmin(axis=2).tolist()
        whites = [ink((CUBE[r], CUBE[g], CUBE[b]))[0] for r, g, b in near]
        return [f"48;5;{16 + 36 * r + 6 * g + b};38;5;{231 if w else 16}" for (r, g, b), w in zip(near, whites, strict=True)]
    return [SIXTEEN[k * len(SIXTEEN) // LEVELS] for k in range(LEVELS)]


def terminal_palette() -> list[str] | None:
    """The palette of standard output; None without colours (a pipe, NO_COLOR, TERM=dumb). FORCE_COLOR overrides."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    return None if console.no_color or console.color_system is None else palette(console.color_system)
