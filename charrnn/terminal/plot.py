"""Lines drawn on a terminal in braille dots, two by four in each character cell. It takes plain values."""

import contextlib
import math
import shutil
from collections.abc import Sequence

from charrnn.terminal.output import round_number

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a braille character, by column and row


def draw_dots(lines: Sequence[Sequence[float]], height: int, low: float, high: float) -> list[list[tuple[int, ...]]]:
    """Draw `lines` of equal, even length (a value for each column of dots, NaN where there is none).

    Returns: `height` rows of cells from `high` down to `low`; a cell is the dots of each line, as they are added to U+2800.
    What lies outside is left out.
    """
    rows = 4 * height
    cells = [[[0] * len(lines) for _ in range(len(lines[0]) // 2)] for _ in range(height)]
    for which, line in enumerate(lines):
        before: int | None = None
        for x, value in enumerate(line):
            if math.isnan(value):
                continue
            y = max(-1, min(rows, round((high - value) / ((high - low) or 1.0) * (rows - 1))))
            start = y if before is None else before
            for dot in range(max(min(start, y), 0), min(max(start, y), rows - 1) + 1):
                cells[dot // 4][x // 2][which] |= DOTS[x % 2][dot % 4]
            before = y
    return [[tuple(cell) for cell in row] for row in cells]


def print_plot(truth: Sequence[float], forecast: Sequence[float], height: int = 8) -> None:
    """Draw two lines (NaN where one has no value) on the terminal that standard output is."""
    from rich.console import Console
    from rich.text import Text

    numbers = [value for value in (*truth, *forecast) if not math.isnan(value)]
    low, high = min(numbers), max(numbers)
    labels = [round_number(high), *[""] * (height - 2), round_number(low)]
    margin = max(map(len, labels)) + 1
    width = max(min(shutil.get_terminal_size().columns, 100) - margin - 1, 8)
    columns = [_resample(line, 2 * width) for line in (truth, forecast)]
    drawing = Text()
    for label, cells in zip(labels, draw_dots(columns, height=height, low=low, high=high), strict=True):
        drawing.append(f"{label:>{margin - 1}} ")
        for mine, made in cells:
            drawing.append(chr(0x2800 + (mine | made)), style="bold cyan" if made & ~mine else "")
        drawing.append("\n")
    drawing.append(" " * margin + "truth, ").append("forecast", style="bold cyan")
    with contextlib.suppress(UnicodeError):  # a terminal without such characters has the table
        Console(highlight=False).print(drawing, soft_wrap=True)


def _resample(line: Sequence[float], columns: int) -> list[float]:
    """For each column the mean of the values that fall on it, NaN where there is none."""
    means = []
    for x in range(columns):
        begin = x * len(line) // columns
        part = [v for v in line[begin : max((x + 1) * len(line) // columns, begin + 1)] if not math.isnan(v)]
        means.append(sum(part) / len(part) if part else math.nan)
    return means
