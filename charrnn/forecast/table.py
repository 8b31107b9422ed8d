"""Tables of numbers: reads comma-separated values into a `Series`, and writes and draws forecasts."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from charrnn.errors import CharrnnError
from charrnn.forecast.dates import read_dates
from charrnn.forecast.numbers import MISSING, Numbers, is_plain, looks_like_number, plain_number, read_numbers
from charrnn.text.reading import STDIN, read_text
from charrnn.text.visible import make_visible

DATES = {"date", "time", "datetime", "timestamp"}  # a column with such a name says when, even in numbers
TOP = 5  # rows in which the first numbers are looked for, below a header of more than one row


@dataclass(frozen=True, kw_only=True)
class Series:
    """N rows of numbers, the oldest first."""

    columns: list[str]  # the names of the D inputs
    inputs: np.ndarray  # (N, D) float64
    target_name: str
    target: np.ndarray  # (N) float64
    known: np.ndarray  # (N) bool: where the target's value is from the table and was not filled in
    moment: str  # the name of what these are:
    moments: list[str]  # (N) the date of each row, or its line in the file
    notes: list[str]  # for the user: what was filled in or left out

    def __len__(self) -> int:
        return len(self.target)


def read_series(
    source: str | Path,
    target: str | None = None,
    columns: Sequence[str] | None = None,
    reverse: bool = False,
    encoding: str = "utf-8",
) -> Series:
    """Read a table (CSV with commas, semicolons or tabs; '-' for standard input), the oldest row first.

    A first row without a number names the columns, or else the comment ('#') right above it does, if it has as many cells.
    Further such rows, as of units, are left out. Numbers may have decimal commas, thousands separators, currency signs,
    percent signs, or end in K, M or B; the cells of a column decide together what a comma means.
    `target` and `columns` are such names, or numbers from 1: by default the last column of numbers, and all of them.
    `reverse` turns around a table that starts with its newest row. A missing value becomes that of the row before; rows
    before a column's first value are left out.
    Raises: CharrnnError where it is not a table, a column does not exist, text is among numbers, a comma may mean two things,
    dates are out of order.
    """
    if str(source) != STDIN and Path(source).is_dir():
        raise CharrnnError(f"{source} is a folder; name a file of comma-separated values")
    text = read_text(source, encoding)
    table, names, lines, notes = _parse(text, "standard input" if str(source) == STDIN else str(source))
    if reverse:
        table, lines = table[::-1], lines[::-1]
    cells = list(zip(*table, strict=True))  # by column
    numbers, dates = _read_columns(cells, names)
    when = next((j for j, readings in enumerate(dates) if readings), None)
    neither = [name for j, name in enumerate(names) if not numbers[j].is_numeric and not dates[j] and columns is None]
    notes += [f"column {name} holds no numbers and is left out" for name in neither]
    if when is not None:
        _require_order(dates[when], name=names[when], cells=cells[when], lines=lines, reverse=reverse)
    usable = [j for j in range(len(names)) if numbers[j].is_numeric and not dates[j]]
    if not usable:
        raise CharrnnError("the table holds no column of numbers")
    inputs = usable if columns is None else list(dict.fromkeys(_find(name, names, option="--columns") for name in columns))
    goal = usable[-1] if target is None else _find(target, names, option="--target")
    used = [*inputs, goal]
    for j in used:
        _require_numbers(numbers[j], name=names[j], cells=cells[j], lines=lines)
    notes += [f"column {names[j]}: {numbers[j].note}" for j in dict.fromkeys(used) if numbers[j].note]
    filled, missing, start = _carry_on(np.array([numbers[j].values for j in used], dtype=np.float64).T)
    if start:
        notes.append(f"rows left out at the start, where not every column has a value yet: {start}")
    gaps = {names[j]: f"{count} in {names[j]}" for j, count in zip(used, missing[start:].sum(0), strict=True) if count}
    if gaps:
        notes.append(f"missing values: {', '.join(gaps.values())}; the last value before each is carried on")
    moments = [str(line) for line in lines] if when is None else list(cells[when])
    return Series(
        columns=[names[j] for j in inputs],
        inputs=filled[start:, :-1],
        target_name=names[goal],
        target=filled[start:, -1],
        known=~missing[start:, -1],
        moment="line" if when is None else names[when],
        moments=moments[start:],
        notes=notes,
    )


def format_table(names: Sequence[str], moments: Sequence[str], columns: Sequence[Sequence[float]]) -> bytes:
    """A table of numbers as comma-separated values, NaN as an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for moment, *numbers in zip(moments, *columns, strict=True):
        writer.writerow([moment, *("" if math.isnan(number) else repr(number) for number in numbers)])
    return text.getvalue().encode()


def draw_plot(suffix: str, target: str, lines: Sequence[Sequence[float]]) -> bytes:
    """Draw truth, forecast and naive forecast by matplotlib, which is an extra; return the bytes of the file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.add_subplot()
    for line, label, style in zip(lines, ("truth", "forecast", "naive"), ("k-", "C0-", "C1:"), strict=True):
        axes.plot(line, style, label=label, linewidth=1)
    axes.set_xlabel("row")
    axes.set_ylabel(make_visible(target, keep="").replace("$", r"\$"))
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format=suffix[1:])
    return file.getvalue()


def _parse(text: str, source: str) -> tuple[list[list[str]], list[str], list[int], list[str]]:
    """The rows of a table, the names of its columns, the line that each row is in, and notes."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    kept = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    given = re.fullmatch(r'\s*"?sep=(.)"?\s*', kept[0][1], re.IGNORECASE) if kept else None  # Excel's first line
    if given:
        kept = kept[1:]
    if not kept:
        raise CharrnnError(f"{source} holds no rows")
    unquoted = re.sub(r'"[^"]*"', "", kept[0][1])
    likely = next((mark for mark in "\t;," if mark in unquoted), ",")  # a comma last: it may be part of numbers
    delimiter = given[1] if given else likely
    table, numbers = _read_rows(kept, delimiter=delimiter, source=source)
    width = len(table[0])
    names = [str(j + 1) for j in range(width)]
    notes = []
    if not any(map(is_plain, table[0])) and not all(map(_is_value, table[0])):
        names = [cell or name for cell, name in zip(table[0], names, strict=True)]
        count = _header_rows(table)
        if count > 1:
            where = f"line {numbers[1]}" if count == 2 else f"lines {numbers[1]} to {numbers[count - 1]}"
            notes.append(f"{where}: no numbers; left out as part of the header")
        table, numbers = table[count:], numbers[count:]
    else:
        above = [line for number, line in lines if number < numbers[0]]
        said = [cell.strip() for cell in above[-1].lstrip("# \t").split(delimiter)] if above else []
        if len(said) == width and all(said) and not any(map(is_plain, said)):
            names = said
    if not table:
        raise CharrnnError(f"{source} holds the names of columns and no rows")
    return table, names, numbers, notes


def _read_rows(kept: list[tuple[int, str]], delimiter: str, source: str) -> tuple[list[list[str]], list[int]]:
    """The cells of numbered lines, and the number of the line that each row ends in."""
    reader = csv.reader([line for _, line in kept], delimiter=delimiter, skipinitialspace=True, strict=True)
    table, numbers = [], []
    try:
        for cells in reader:
            numbers.append(kept[reader.line_num - 1][0])
            table.append([cell.strip() for cell in cells])
            if len(cells) != len(table[0]):
                raise CharrnnError(f"{source}, line {numbers[-1]}: {len(cells)} cells, but {len(table[0])} in the first row")
    except csv.Error as error:
        raise CharrnnError(f"{source}, line {kept[reader.line_num - 1][0]}: {error}") from None
    return table, numbers


def _is_value(cell: str) -> bool:
    return cell.lower() in MISSING or looks_like_number(cell) or bool(read_dates([cell]))


def _header_rows(table: list[list[str]]) -> int:
    """How many rows name the columns: the first one and those below it, as of units, that hold text and nothing else."""
    for count, row in enumerate(table[1 : 1 + TOP], 1):
        values = [cell for cell in row if cell.lower() not in MISSING and _is_value(cell)]
        if values:
            return count if any(not _is_value(cell) for above in table[1:count] for cell in above) else 1
    return 1


def _read_columns(cells: Sequence[Sequence[str]], names: list[str]) -> tuple[list[Numbers], list[list[list[float | None]]]]:
    """The numbers of each column, and its dates by ways to read them, none where it holds no dates."""
    numbers: list[Numbers] = []
    dates: list[list[list[float | None]]] = []
    for name, column in zip(names, cells, strict=True):
        values = [plain_number(cell) for cell in column]
        numeric = any(map(is_plain, column))
        plain = Numbers(values=values, is_numeric=numeric)
        times = numeric and name.lower() in DATES and None not in values
        dates.append([values] if times else [] if numeric else read_dates(column))
        numbers.append(plain if dates[-1] or None not in values else read_numbers(column))
    if any(read.point == "," for read in numbers):
        for j, read in enumerate(numbers):
            if read.point != "," and read.is_numeric and not dates[j]:
                numbers[j] = read_numbers(cells[j], has_commas=True)
    return numbers, dates


def _require_order(
    readings: Sequence[Sequence[float | None]], name: str, cells: Sequence[str], lines: list[int], reverse: bool
) -> None:
    """Raise CharrnnError where the dates of a column, however they are read, do not rise from row to row."""
    falls, breaks = False, []
    for reading in readings:
        seconds = np.array(reading, np.float64)  # NaN where a date is missing
        rows = np.flatnonzero(~np.isnan(seconds))
        steps = np.diff(seconds[rows])
        if not (steps < 0).any():
            return
        falls = falls or not (steps > 0).any()
        breaks.append(rows[1:][steps < 0][0])
    order = f"are in no order (line {lines[breaks[0]]}: {cells[breaks[0]]}); sort the rows"
    if falls:
        order = "run from old to new; leave --reverse out" if reverse else "run from new to old; add --reverse"
    raise CharrnnError(f"the dates in column {name} {order}")


def _require_numbers(numbers: Numbers, name: str, cells: Sequence[str], lines: list[int]) -> None:
    """Raise CharrnnError where a column that is to be read is not one of numbers alone."""
    if not numbers.is_numeric:
        raise CharrnnError(f"column {name} holds no numbers (line {lines[0]}: {cells[0]!r})")
    if numbers.fault:
        raise CharrnnError(f"line {lines[numbers.row]}, column {name}: {numbers.fault}")


def _find(name: str, names: list[str], option: str) -> int:
    """The column of that name or, from 1 on, that number. Raises: CharrnnError that names the columns."""
    name = name.strip()
    found = [j for j, known in enumerate(names) if known == name]
    if len(found) > 1:
        raise CharrnnError(f"{option} {name}: several columns have that name; give a number from 1 to {len(names)}")
    if found:
        return found[0]
    if name.isdecimal() and 1 <= int(name[:9]) <= len(names):
        return int(name) - 1
    more = ", ..." if len(names) > 20 else ""
    raise CharrnnError(f"{option} {name}: there is no such column; there are {', '.join(names[:20])}{more}")


def _carry_on(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Values (N, D) with each NaN replaced by the value above it, where they were, and the first row without one."""
    missing = np.isnan(values)
    last = np.maximum.accumulate(np.where(missing, 0, np.arange(len(values))[:, None]), axis=0)
    filled = np.take_along_axis(values, last, axis=0)
    return filled, missing, int((~np.isnan(filled)).all(1).argmax())
