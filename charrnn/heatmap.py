"""Draws a text with each character's background by its surprisal in bits; where there are no colours, with digits below.

`Colours` are those of the terminal, `draw` takes the text piece by piece. It knows no network.
"""

import functools
import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from charrnn.display import printable

# Magma (van der Walt & Smith 2015): from dark to light without turning back, so that those who see no red or green, and a
# printer without colours, see the same order.
MAGMA = "000004 140e36 3b0f70 641a80 8c2981 b73779 de4968 f7705c fe9f6d fecf92 fcfdbf"
LEVELS = 17  # half bits, from 0 to 8 and more
# Backgrounds and what is written on them, for terminals of 16 colours: blue, grey, light grey and yellow.
SIXTEEN = ("44;97", "100;97", "47;30", "103;30")
RESET = "\x1b[0m"
BEFORE, AFTER = 14, 6  # columns of context around a surprising character

Colour = tuple[int, int, int]


def magma(share: float) -> Colour:
    """The colour at `share`, 0 to 1, of the map."""
    stops = [tuple(bytes.fromhex(stop)) for stop in MAGMA.split()]
    at = share * (len(stops) - 1)
    k = min(int(at), len(stops) - 2)
    red, green, blue = (round(a + (b - a) * (at - k)) for a, b in zip(stops[k], stops[k + 1], strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    """The relative luminance, 0 to 1, as WCAG 2 defines it."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def written(background: Colour) -> Colour:
    """White or black, whichever stands out more from the background: by a contrast of 4.58 at least (WCAG asks for 4.5)."""
    return (0, 0, 0) if luminance(background) > 0.179 else (255, 255, 255)


def _nearest(colour: Colour) -> tuple[int, Colour]:
    """The nearest of the 216 colours that a terminal of 256 has in its cube: its number and what it is."""
    steps = 0, 95, 135, 175, 215, 255
    near = [min(range(6), key=lambda i: abs(steps[i] - part)) for part in colour]
    return 16 + 36 * near[0] + 6 * near[1] + near[2], (steps[near[0]], steps[near[1]], steps[near[2]])


def palette(system: str) -> list[str]:
    """What sets each level's colours on a terminal: of "truecolor", "256" or the 16 of "standard"."""
    colours = [magma(k / (LEVELS - 1)) for k in range(LEVELS)]
    if system == "truecolor":
        return [f"48;2;{r};{g};{b};38;2;{f};{f};{f}" for (r, g, b), (f, *_) in ((c, written(c)) for c in colours)]
    if system == "256":
        near = map(_nearest, colours)
        return [f"48;5;{number};38;5;{231 if written(colour)[0] else 16}" for number, colour in near]
    return [SIXTEEN[k * len(SIXTEEN) // LEVELS] for k in range(LEVELS)]


def terminal_palette() -> list[str] | None:
    """The palette of standard output; None where it has no colours (a pipe, NO_COLOR, TERM=dumb). FORCE_COLOR counts."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    return None if console.no_color or console.color_system is None else palette(console.color_system)


@functools.cache
def shown(character: str) -> tuple[str, int]:
    """What stands for a character on a terminal, and how many columns it takes; 0 for a mark on the one before."""
    from rich.cells import cell_len

    text = {"\n": "↵", "\t": "⇥"}.get(character) or printable(character, keep="")
    return text, cell_len(text)


def visible(text: str) -> str:
    """`text` on one line, with a sign for each line break, tab and control character.

    >>> visible("to be,\\n\\x07or")
    'to be,↵\\\\x07or'
    """
    return "".join(shown(character)[0] for character in text)


class Heatmap:
    """Draws a text that comes in pieces by `write`, a line at a time, none longer than the terminal is wide."""

    def __init__(self, write: Callable[[str], object], colours: list[str] | None, width: int | None = None):
        self.write, self.colours = write, colours
        self.width = width or shutil.get_terminal_size().columns
        self.lines = 0
        self._cells: list[tuple[str, float, int]] = []  # of the line: what is shown, its bits, its columns
        self._used = 0  # columns

    def legend(self) -> None:
        """Say what the colours or digits mean."""
        if self.colours is None:
            self.write("Below each character: its surprisal in whole bits, 9 for more; none below 1 bit.\n\n")
            return
        labels = [f" {k // 2} " if k % 2 == 0 else "   " for k in range(LEVELS - 1)] + [f" {LEVELS // 2}+"]
        cells = ((label, k / 2, len(label)) for k, label in enumerate(labels))
        self.write("bits " + self._painted(cells) + "\n\n")

    def draw(self, text: str, bits: Iterable[float]) -> None:
        for character, surprisal in zip(text, bits, strict=True):
            sign, columns = shown(character)
            if not columns and self._cells:
                before, most, columns = self._cells[-1]
                self._cells[-1] = before + sign, max(most, surprisal), columns
                continue
            if self._used + columns > self.width:
                self._end()
            self._cells.append((sign, surprisal, columns))
            self._used += columns
            if character == "\n":
                self._end()

    def finish(self) -> None:
        """End the last line."""
        if self._cells:
            self._end()

    def _end(self) -> None:
        if self.colours is not None:
            self.write(self._painted(self._cells) + "\n")
        else:
            digits = (f"{min(int(bits), 9) or ' '}".ljust(columns) for _, bits, columns in self._cells)
            line = "".join(sign for sign, _, _ in self._cells)
            self.write(f"{line}\n{''.join(digits).rstrip()}\n")
        self._cells, self._used = [], 0
        self.lines += 1

    def _painted(self, cells: Iterable[tuple[str, float, int]]) -> str:
        assert self.colours is not None
        painted = []
        for level, run in itertools.groupby(cells, lambda cell: min(int(2 * cell[1]), LEVELS - 1)):
            painted.append(f"\x1b[{self.colours[level]}m{''.join(sign for sign, _, _ in run)}")
        return "".join(painted) + RESET


def percent(probability: float) -> str:
    """A probability for people.

    >>> percent(0.314), percent(0.001)
    ('31%', '<1%')
    """
    return f"{probability:.0%}" if probability > 0.005 else "<1%"


def surprise_line(surprise: Mapping[str, Any], symbol: str | None, width: int, emphasis: bool) -> str:
    """One of the most surprising characters on a line: bits, line and column, the character in its context, the guesses.

    `symbol` is the character that stands for all that the model does not know, where it has one.
    """
    before, character, after = (visible(surprise[key]) for key in ("before", "character", "after"))
    marked = f"\x1b[7m{character}{RESET}" if emphasis else f"[{character}]"
    place = f"{surprise['line']}:{surprise['column']}"
    guesses = "  ".join(
        f"{'other' if guess['character'] == symbol else _named(guess['character'])} {percent(guess['probability'])}"
        for guess in surprise["guesses"]
    )
    return f"{surprise['bits']:7.2f} {place:>{width}}  {before[-BEFORE:]:>{BEFORE}}{marked}{after[:AFTER]:<{AFTER}}  {guesses}"


def _named(character: str) -> str:
    return "␣" if character == " " else shown(character)[0]
