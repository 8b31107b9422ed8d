"""Views of the scores of a text: each takes its pieces by `add`, and prints to standard output, at the latest at `finish`.

With a `JsonObject` a view writes its member of it, else text. `Heatmap` is one more view. To add a view, write a class like
these and append it in `commands/eval.py`.
"""

import sys
from collections.abc import Sequence
from typing import Protocol

from charrnn.inference.score import Piece, Score, Totals
from charrnn.inference.surprisal import Surprise, Top
from charrnn.terminal.heatmap import RESET, percent
from charrnn.terminal.output import JsonObject, print_figures, write_line
from charrnn.text.visible import LINE_SIGNS, SINGLE_SIGNS, make_visible

BEFORE, AFTER = 14, 6  # columns of context around a surprising character


class View(Protocol):
    def add(self, piece: Piece) -> None: ...
    def finish(self) -> None: ...


class PerLine:
    """Writes each line of a text with its bits per character (line break included)."""

    def __init__(self, json_object: JsonObject | None):
        self.object = json_object
        self._number, self._line, self._bits = 1, "", 0.0

    def add(self, piece: Piece) -> None:
        if not self._line:
            self._number = piece.line
        start = 0
        while start < len(piece.text):
            stop = piece.text.find("\n", start) + 1 or len(piece.text)
            self._line += piece.text[start:stop]
            self._bits += float(piece.bits[start:stop].sum())
            if piece.text[stop - 1] == "\n":
                self._end_line()
            start = stop

    def finish(self) -> None:
        if self._line:
            self._end_line()
        if self.object is not None:
            self.object.close_list()
        else:
            print()

    def _end_line(self) -> None:
        mean = self._bits / len(self._line)
        line = self._line.removesuffix("\n")
        if self.object is not None:
            facts = {"line": self._number, "text": line, "characters": len(self._line), "bits_per_character": mean}
            self.object.extend("per_line", [facts])
        else:
            print(f"{mean:7.4f} {make_visible(line, keep='')}")
        self._number, self._line, self._bits = self._number + 1, "", 0.0


class Summary:
    """Prints the scores of the text, and the `worst` of its `records`."""

    def __init__(self, totals: Totals, worst: int, records: Sequence[str], json_object: JsonObject | None):
        self.totals = totals
        self.worst = worst
        self.records = records
        self.object = json_object

    def add(self, piece: Piece) -> None:
        self.totals.add(piece)

    def finish(self) -> None:
        print_score(self.totals.finish(), self.worst, records=self.records, json_object=self.object)


class MostSurprising:
    """Prints the most surprising characters, which `top` finds; with `emphasis` in reverse video."""

    def __init__(self, top: Top, emphasis: bool, json_object: JsonObject | None):
        self.top = top
        self.emphasis = emphasis
        self.object = json_object

    def add(self, piece: Piece) -> None:
        self.top.add(piece)

    def finish(self) -> None:
        surprises = self.top.finish()
        vocabulary = self.top.vocabulary
        symbol = None if vocabulary.unknown is None else vocabulary.characters[vocabulary.unknown]
        if self.object is not None:
            self.object.put({"top": [surprise.to_dict() for surprise in surprises]})
            return
        width = max(len(f"{surprise.line}:{surprise.column}") for surprise in surprises)
        print(f"\n   bits {'at':>{width}}  {'':13}character        what was expected instead")
        for surprise in surprises:
            print(format_surprise(surprise, symbol=symbol, width=width, emphasis=self.emphasis))


def format_surprise(surprise: Surprise, symbol: str | None, width: int, emphasis: bool) -> str:
    """Format a surprising character on one line: bits, line and column in `width` columns, context, guesses.

    `symbol` is the model's symbol for unknown characters, if it has one.
    """
    before, after = (make_visible(part, signs=LINE_SIGNS) for part in (surprise.before, surprise.after))
    character = make_visible(surprise.character, signs=SINGLE_SIGNS)
    marked = f"\x1b[7m{character}{RESET}" if emphasis else f"[{character}]"
    place = f"{surprise.line}:{surprise.column}"
    names = {symbol: "other", " ": "␣"}
    guesses = "  ".join(f"{names.get(c) or make_visible(c, signs=SINGLE_SIGNS)} {percent(p)}" for c, p in surprise.guesses)
    return f"{surprise.bits:7.2f} {place:>{width}}  {before[-BEFORE:]:>{BEFORE}}{marked}{after[:AFTER]:<{AFTER}}  {guesses}"


def print_score(score: Score, worst: int, records: Sequence[str], json_object: JsonObject | None) -> None:
    """Print a score, and the `worst` of the `records` with their bits."""
    worst_records = [(bits, records[k]) for k, bits in score.worst(worst)] if worst else []
    if json_object is not None:
        json_object.put(score.to_dict())
        if worst:
            json_object.put({"worst": [{"bits": bits, score.kind: record} for bits, record in worst_records]})
        return
    print_figures(score.to_dict())
    if worst:
        print(f"\n   bits {score.kind}")
    for bits, record in worst_records:
        write_line(f"{bits:7.2f} {record}", sys.stdout)
