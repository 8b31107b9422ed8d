"""Draws a text with each character's background by its surprisal in bits; where there are no colours, with digits below.

`Colours` are those of the terminal, `draw` takes the text piece by piece. It knows no network.
"""

import functools
import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from charrnn.terminal.color import LEVELS
from charrnn.terminal.output import printable

RESET = "\x1b[0m"
BEFORE, AFTER = 14, 6  # columns of context around a surprising character


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
