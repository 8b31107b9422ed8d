"""Tables of numbers: read a CSV file into a `Series`; write and draw forecasts."""

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
from charrnn.text.reading import STDIN, read_text, show_source
from charrnn.text.visible import make_visible

DATES = {"date", "time", "datetime", "timestamp"}  # columns with these names are dates, even if they hold numbers
HOURS = {"hour", "hr"}  # columns with these names are hours of the day, if the dates repeat without them
MOST_REPEATS = 0.05  # fraction of rows with a repeated date; more, and at least two, are several series
GAP = 10  # times the median distance of two rows
MOST_NOTED = 3  # repeated dates, and gaps, whose row is noted
TOP = 5  # rows to search for the end of a header of several rows

Readings = list[list[float | None]]  # a column's dates in each format that fits, in seconds; None: missing


@dataclass(frozen=True, kw_only=True)
class Series:
    """N rows of numbers, the oldest first."""

    columns: list[str]  # names of the D inputs
    inputs: np.ndarray  # (N, D) float64
    target_name: str
    target: np.ndarray  # (N,) float64
    known: np.ndarray  # (N,) bool, whether the target's value is in the table; if not, it was filled in
    moment: str  # name of the date column, or "line"
    moments: list[str]  # (N,) date of each row, or its line in the file
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
    """Read a table: CSV with commas, semicolons or tabs ("-" for standard input), the oldest row first.

    Column names are in the first row, if it has no number, or in the comment ("#") right above the first row. Further rows
    without numbers, such as units, are skipped. Numbers may have decimal commas, thousands separators, currency signs, percent
    signs, or end in K, M or B; all cells of a column together decide what a comma means.

    `target` and `columns` are column names or numbers from 1; default: the last column of numbers, and all of them. `reverse`
    reverses a table that starts with its newest row. A missing value is replaced by the last value before it; rows before the
    first value of a column are dropped.

    Raises: CharrnnError if it is not a table, a column does not exist or has text among numbers, a comma is ambiguous, or
    dates are out of order.
    """
    if str(source) != STDIN and Path(source).is_dir():
        raise CharrnnError(f"{source} is a folder; name a file of comma-separated values")
    text = read_text(source, encoding)
    table, names, lines, notes = _parse(text, show_source(source))
    if reverse:
        table, lines = table[::-1], lines[::-1]
    cells = list(zip(*table, strict=True))  # by column
    numbers, dates = _read_columns(cells, names)
    when, moments, readings = _choose_dates(names, cells, dates)
    moment = " ".join(names[j] for j in when) or "line"
    neither = [name for j, name in enumerate(names) if not (numbers[j].is_numeric or dates[j] or j in when)]
    if columns is None:
        notes += [f"column {name} has no numbers and is skipped" for name in neither]
    if when:
        notes += _check_order(readings, name=moment, cells=moments, lines=lines, reverse=reverse)
    usable = [j for j in range(len(names)) if numbers[j].is_numeric and not dates[j]]
    if not usable:
        raise CharrnnError("the table has no column of numbers")
    inputs = usable if columns is None else list(dict.fromkeys(_find(name, names, option="--columns") for name in columns))
    goal = usable[-1] if target is None else _find(target, names, option="--target")
    used = [*inputs, goal]
    for j in used:
        _require_numbers(numbers[j], name=names[j], cells=cells[j], lines=lines)
    notes += [f"column {names[j]}: {numbers[j].note}" for j in dict.fromkeys(used) if numbers[j].note]
    filled, missing, start = _carry_on(np.array([numbers[j].values for j in used], dtype=np.float64).T)
    if start:
        notes.append(f"rows skipped at the start, where some column has no value yet: {start}")
    gaps = {names[j]: f"{count} in {names[j]}" for j, count in zip(used, missing[start:].sum(0), strict=True) if count}
    if gaps:
        notes.append(f"missing values: {', '.join(gaps.values())}; each is replaced by the value before it")
    moments = moments if when else [str(line) for line in lines]
    return Series(
        columns=[names[j] for j in inputs],
        inputs=filled[start:, :-1],
        target_name=names[goal],
        target=filled[start:, -1],
        known=~missing[start:, -1],
        moment=moment,
        moments=moments[start:],
        notes=notes,
    )


def make_harmless(name: str) -> str:
    """A column name that a spreadsheet doesn't take for a formula, with control characters made visible."""
    shown = make_visible(name, keep="")
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown


def format_table(names: Sequence[str], moments: Sequence[str], columns: Sequence[Sequence[float]]) -> bytes:
    """Write a table of numbers as CSV, with empty cells for NaN."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for moment, *numbers in zip(moments, *columns, strict=True):
        writer.writerow([make_visible(moment, keep=""), *("" if math.isnan(number) else repr(number) for number in numbers)])
    return text.getvalue().encode()


def draw_plot(suffix: str, target: str, lines: Sequence[Sequence[float]]) -> bytes:
    """Draw truth, forecast and naive forecast with matplotlib (an extra). Returns: the bytes of the file."""
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
    """Returns: the rows of a table, the column names, the line number of each row, and notes."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    kept = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    given = re.fullmatch(r'\s*"?sep=(.)"?\s*', kept[0][1], re.IGNORECASE) if kept else None  # Excel's first line
    if given:
        kept = kept[1:]
    if not kept:
        raise CharrnnError(f"{source} holds no rows")
    unquoted = re.sub(r'"[^"]*"', "", kept[0][1])
    likely = next((mark for mark in "\t;," if mark in unquoted), ",")  # the comma last, since numbers may contain it
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
            notes.append(f"{where}: no numbers; skipped as part of the header")
        table, numbers = table[count:], numbers[count:]
    else:
        above = [line for number, line in lines if number < numbers[0]]
        said = [cell.strip() for cell in above[-1].lstrip("# \t").split(delimiter)] if above else []
        if len(said) == width and all(said) and not any(map(is_plain, said)):
            names = said
    if not table:
        raise CharrnnError(f"{source} has column names but no rows")
    return table, names, numbers, notes


def _read_rows(kept: list[tuple[int, str]], delimiter: str, source: str) -> tuple[list[list[str]], list[int]]:
    """Returns: the cells of each row, and the number of the line in which the row ends."""
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
    """The number of header rows: the first row, and rows below it that have only text, such as units."""
    for count, row in enumerate(table[1 : 1 + TOP], 1):
        values = [cell for cell in row if cell.lower() not in MISSING and _is_value(cell)]
        if values:
            return count if any(not _is_value(cell) for above in table[1:count] for cell in above) else 1
    return 1


def _read_columns(cells: Sequence[Sequence[str]], names: list[str]) -> tuple[list[Numbers], list[Readings]]:
    """Returns: for each column its numbers, and its dates in every format that fits (empty if it has no dates)."""
    numbers: list[Numbers] = []
    dates: list[Readings] = []
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


def _choose_dates(
    names: list[str], cells: Sequence[Sequence[str]], dates: list[Readings]
) -> tuple[list[int], list[str], Readings]:
    """Choose the first column of dates in which few of them repeat, also together with a time of day in another column.

    Returns: the columns (none without dates; the first one if dates repeat in all), their cells joined, and their dates in
    each format that fits.
    """
    found = [([j], list(cells[j]), dates[j]) for j in range(len(names)) if dates[j]]
    for (day,), days, _ in found[:1]:
        for j, times in enumerate(cells):
            if not dates[j] and (":" in times[0] or names[j].lower() in HOURS):
                joined = [f"{date} {time}" + ":00" * (":" not in time) for date, time in zip(days, times, strict=True)]
                found.append(([day, j], joined, read_dates(joined)))
    fitting = [choice for choice in found if choice[2] and not _find_repeats(choice[2][0])[1]]
    return next(iter(fitting + found), ([], [], []))


def _find_repeats(reading: Sequence[float | None]) -> tuple[np.ndarray, bool]:
    """Returns: the rows with a date that also stands above, and whether they are so many that there are several series."""
    seconds = np.array(reading, np.float64)  # NaN: missing
    rows = np.flatnonzero(~np.isnan(seconds))
    _, first = np.unique(seconds[rows], return_index=True)
    repeats = np.delete(rows, first)
    return repeats, len(repeats) > max(1, MOST_REPEATS * len(rows))


def _check_order(readings: Readings, name: str, cells: Sequence[str], lines: list[int], reverse: bool) -> list[str]:
    """Returns: notes on repeated dates and on gaps.

    Raises: CharrnnError if the dates of a column repeat, or are not in ascending order in any format that fits.
    """
    falls, breaks = False, []
    for reading in readings:
        seconds = np.array(reading, np.float64)  # NaN: missing
        rows = np.flatnonzero(~np.isnan(seconds))
        repeats, too_many = _find_repeats(reading)
        if too_many:
            where = f"line {lines[repeats[0]]}: {cells[repeats[0]]}"
            cure = "keep one row for each date, for example of one shop or product"
            raise CharrnnError(f"the dates in column {name} repeat in {len(repeats):,} rows ({where}); {cure}")
        steps = np.diff(seconds[rows])
        if not (steps < 0).any():
            gaps = rows[1:][steps > GAP * np.median(steps)] if len(steps) else rows[:0]
            notes = [f"a date repeats (line {lines[row]}: {cells[row]})" for row in repeats[:MOST_NOTED]]
            notes += [f"more repeated dates: {len(repeats) - MOST_NOTED:,}"] * (len(repeats) > MOST_NOTED)
            notes += [f"a gap before line {lines[row]} ({cells[row]})" for row in gaps[:MOST_NOTED]]
            notes += [f"more gaps: {len(gaps) - MOST_NOTED:,}"] * (len(gaps) > MOST_NOTED)
            return [f"column {name}: {note}" for note in notes]
        falls = falls or not (steps > 0).any()
        breaks.append(rows[1:][steps < 0][0])
    order = f"are not in order (line {lines[breaks[0]]}: {cells[breaks[0]]}); sort the rows"
    if falls:
        order = "run from old to new; leave --reverse out" if reverse else "run from new to old; add --reverse"
    raise CharrnnError(f"the dates in column {name} {order}")


def _require_numbers(numbers: Numbers, name: str, cells: Sequence[str], lines: list[int]) -> None:
    """Raise CharrnnError unless the column has only numbers."""
    if not numbers.is_numeric:
        raise CharrnnError(f"column {name} has no numbers (line {lines[0]}: {cells[0]!r})")
    if numbers.fault:
        raise CharrnnError(f"line {lines[numbers.row]}, column {name}: {numbers.fault}")


def _find(name: str, names: list[str], option: str) -> int:
    """Find a column by name, or by number from 1. Raises: CharrnnError that lists the columns."""
    name = name.strip()
    found = [j for j, known in enumerate(names) if known == name]
    if len(found) > 1:
        raise CharrnnError(f"{option} {name}: several columns have that name; give a number from 1 to {len(names)}")
    if found:
        return found[0]
    if name.isdecimal() and 1 <= int(name[:9]) <= len(names):
        return int(name) - 1
    more = ", ..." if len(names) > 20 else ""
    raise CharrnnError(f"{option} {name}: no such column; the columns are {', '.join(names[:20])}{more}")


def _carry_on(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Replace each NaN in `values` (N, D) by the last value above it.

    Returns: the values; where they were missing (N, D) bool; the first row without a missing value after filling.
    """
    missing = np.isnan(values)
    last = np.maximum.accumulate(np.where(missing, 0, np.arange(len(values))[:, None]), axis=0)
    filled = np.take_along_axis(values, last, axis=0)
    return filled, missing, int((~np.isnan(filled)).all(1).argmax())
