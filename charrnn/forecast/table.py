"""Tables of numbers: reads comma-separated values into a `Series`, and writes and draws forecasts."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from charrnn.checkpoint import write_atomically
from charrnn.errors import CharrnnError
from charrnn.text.reading import STDIN, read_text
from charrnn.text.visible import make_visible

MISSING = {"", "-", ".", "?", "na", "n/a", "nan", "none", "null"}  # the text of a cell without a value
LARGEST = 1e60  # no number is larger: the fourth powers of larger ones leave float64
DATES = {"date", "time", "datetime", "timestamp"}  # a column with such a name says when, even in numbers
FORMATS = ("%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y")  # besides ISO 8601


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
    `target` and `columns` are such names, or numbers from 1: by default the last column of numbers, and all of them.
    `reverse` turns around a table that starts with its newest row. A missing value becomes that of the row before; rows
    before a column's first value are left out.
    Raises: CharrnnError where it is not a table, a column does not exist, text is among numbers, dates are out of order.
    """
    if str(source) != STDIN and Path(source).is_dir():
        raise CharrnnError(f"{source} is a folder; name a file of comma-separated values")
    table, names, lines = _parse(read_text([source], encoding)[0], "standard input" if str(source) == STDIN else str(source))
    if reverse:
        table, lines = table[::-1], lines[::-1]
    cells = list(zip(*table, strict=True))  # by column
    values = [[_number(cell) for cell in column] for column in cells]
    numeric = [any(map(_is_number, column)) for column in cells]
    times = [numeric[j] and name.lower() in DATES and None not in values[j] for j, name in enumerate(names)]
    dates = [[values[j]] if times[j] else [] if numeric[j] else _dates(cells[j]) for j in range(len(names))]  # by ways to read
    when = next((j for j, readings in enumerate(dates) if readings), None)
    neither = [name for j, name in enumerate(names) if not numeric[j] and not dates[j] and columns is None]
    notes = [f"column {name} holds no numbers and is left out" for name in neither]
    if when is not None:
        _require_order(dates[when], name=names[when], cells=cells[when], lines=lines, reverse=reverse)
    usable = [j for j in range(len(names)) if numeric[j] and not dates[j]]
    if not usable:
        raise CharrnnError("the table holds no column of numbers")
    inputs = usable if columns is None else list(dict.fromkeys(_find(name, names, option="--columns") for name in columns))
    goal = usable[-1] if target is None else _find(target, names, option="--target")
    used = [*inputs, goal]
    for j in used:
        if not numeric[j]:
            raise CharrnnError(f"column {names[j]} holds no numbers (line {lines[0]}: {cells[j][0]!r})")
        if None in values[j]:
            row = values[j].index(None)
            raise CharrnnError(f"line {lines[row]}, column {names[j]}: {_fault(cells[j][row])}")
    filled, missing, start = _carry_on(np.array([values[j] for j in used], dtype=np.float64).T)
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


def write_table(path: Path, names: Sequence[str], moments: Sequence[str], columns: Sequence[Sequence[float]]) -> None:
    """Write a table of numbers, NaN as an empty cell, atomically. Raises: CharrnnError (status 1) where it can't be written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for moment, *numbers in zip(moments, *columns, strict=True):
        writer.writerow([moment, *("" if math.isnan(number) else repr(number) for number in numbers)])
    write_atomically(path, text.getvalue().encode())


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


def _parse(text: str, source: str) -> tuple[list[list[str]], list[str], list[int]]:
    """The rows of a table, the names of its columns, and the line that each row is in."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    kept = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if not kept:
        raise CharrnnError(f"{source} holds no rows")
    unquoted = re.sub(r'"[^"]*"', "", kept[0][1])
    delimiter = next((mark for mark in "\t;," if mark in unquoted), ",")  # a comma last: it may be part of numbers
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
    width = len(table[0])
    names = [str(j + 1) for j in range(width)]
    if any(_number(cell) is None for cell in table[0]) and not any(map(_is_number, table[0])) and not _dates(table[0]):
        names = [cell or name for cell, name in zip(table.pop(0), names, strict=True)]
        numbers.pop(0)
    else:
        above = [line for number, line in lines if number < numbers[0]]
        said = [cell.strip() for cell in above[-1].lstrip("# \t").split(delimiter)] if above else []
        if len(said) == width and all(said) and not any(map(_is_number, said)):
            names = said
    if not table:
        raise CharrnnError(f"{source} holds the names of columns and no rows")
    return table, names, numbers


def _number(cell: str) -> float | None:
    """The number in a cell; NaN where it is missing, None where it is none."""
    if cell.lower() in MISSING:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None


def _is_number(cell: str) -> bool:
    value = _number(cell)
    return value is not None and not math.isnan(value)


def _fault(cell: str) -> str:
    hint = f"; write {cell.replace(',', '.')}" if cell.count(",") == 1 and _is_number(cell.replace(",", ".")) else ""
    try:
        return f"{cell[:40]!r} is larger than {LARGEST:g}" if abs(float(cell)) > LARGEST else ""
    except ValueError:
        return f"{cell[:40]!r} is no number{hint}"


def _dates(cells: Sequence[str]) -> list[list[float | None]]:
    """The seconds of a column's dates (None where one is missing), in each way of writing dates that fits all of them."""
    readings = []
    for form in (None, *FORMATS):
        try:
            readings.append([None if cell.lower() in MISSING else _seconds(cell, form) for cell in cells])
        except ValueError:
            continue
    return [reading for reading in readings if any(second is not None for second in reading)]


def _seconds(cell: str, form: str | None) -> float:
    moment = datetime.fromisoformat(cell) if form is None else datetime.strptime(cell, form)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _require_order(
    readings: Sequence[Sequence[float | None]], name: str, cells: Sequence[str], lines: list[int], reverse: bool
) -> None:
    """Raise CharrnnError where none of the readings of a date column rises from row to row."""
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
