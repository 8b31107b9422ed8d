"""Read the cells of a column as numbers, as people and spreadsheets write them.

Cells may have decimal commas, thousands separators, currency signs, percent signs, and K, M or B.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MISSING = {"", "-", ".", "?", "na", "n/a", "nan", "none", "null"}  # cells without a value
LARGEST = 1e60  # largest number allowed: fourth powers must fit into float64
SCALES = {None: "", "k": "e3", "K": "e3", "M": "e6", "B": "e9", "bn": "e9"}
CURRENCY = r"[A-Z]{0,2}[$€£¥₹₽₩₺₪₫฿₴₦]|USD|EUR|GBP|JPY|CNY|INR|CHF|CAD|AUD|KRW|BRL|SEK|NOK|DKK|PLN|CZK|kr|zł|Kč"
CELL = re.compile(
    rf"(?P<sign>[-+−(]?)\s?(?P<before>{CURRENCY})?\s?(?P<inner>[-+−]?)"
    r"(?P<body>[.,]?\d(?:[\d.,'’\s]*\d)?)(?P<power>[eE][-+]?\d+)?"
    rf"\s?(?P<scale>k|K|M|bn|B)?\s?(?P<after>%|{CURRENCY})?(?P<close>[-−)]?)"
)
SIGNS = {"": "", "+": "", "-": "-", "−": "-", "()": "-"}
WHOLE = re.compile(r"\d*|[1-9]\d{0,2}(?P<mark>[,'’\s])\d{3}(?:(?P=mark)\d{3})*|[1-9]\d?(?:,\d\d)+,\d{3}")  # also 12,34,567
AMOUNT = re.compile(r"\W{0,3}\d[\d.,'’\s]*\D{0,6}")  # looks like a number with a unit, such as 12 kg


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of a column."""

    values: list[float | None]  # NaN: missing; None: not a number
    is_numeric: bool  # whether it is a column of numbers, perhaps with faults
    point: str = "."  # the decimal mark
    row: int = 0  # the row of the first fault
    fault: str = ""  # what is wrong there; "" if nothing is
    note: str = ""  # for the user: how the first cell was read that Python would not read as a number


def plain_number(cell: str) -> float | None:
    """Read a cell in Python's notation. Returns: the number; NaN if missing; None if it is not a number."""
    if cell.lower() in MISSING:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None


def is_plain(cell: str) -> bool:
    """Whether a cell has a number in Python's notation."""
    value = plain_number(cell)
    return value is not None and not math.isnan(value)


def looks_like_number(cell: str) -> bool:
    """Whether a cell looks like a number in any notation, except those such as 1M, which may be the name of a month."""
    found = CELL.fullmatch(cell)
    return is_plain(cell) or (found is not None and not found["scale"])


def read_numbers(cells: Sequence[str], has_commas: bool = False) -> Numbers:
    """Read a column of numbers in any notation. All its cells together decide whether "," or "." is the decimal mark.

    `has_commas` says that another column of the table has decimal commas.
    """
    found = [CELL.fullmatch(cell) for cell in cells]
    readings = {mark: [_value(cell, match, point=mark) for cell, match in zip(cells, found, strict=True)] for mark in ".,"}
    point = "," if readings[","].count(None) < readings["."].count(None) else "."
    row, fault = 0, ""
    if None not in readings["."] and None not in readings[","]:
        point, row, fault = _decide(cells, readings, has_commas=has_commas)
    values = readings[point]
    if None in values:
        row = values.index(None)
        fault = _fault(cells[row], other=readings["." if point == "," else ","][row])
    elif not fault:
        row, fault = _compare_units(cells, found, values=values)
    given = [(cell, match) for cell, match in zip(cells, found, strict=True) if cell.lower() not in MISSING]
    likely = sum(match is not None or AMOUNT.fullmatch(cell) is not None for cell, match in given)
    return Numbers(
        values=values,
        is_numeric=any(map(is_plain, cells)) or 0 < len(given) <= 2 * likely,
        point=point,
        row=row,
        fault=fault,
        note=_note(cells, values),
    )


def _value(cell: str, found: re.Match[str] | None, point: str) -> float | None:
    """Read a cell with `point` as the decimal mark. Returns: the number; NaN if missing; None if it is not a number."""
    plain = plain_number(cell)
    if plain is not None and (point == "." or math.isnan(plain)):
        return plain
    if found is None or (found["power"] and found["scale"]):
        return None
    sign = SIGNS.get(found["sign"] + found["inner"] + found["close"])
    whole, _, decimals = found["body"].partition(point)
    if sign is None or not WHOLE.fullmatch(whole.replace(".", ",")) or not (decimals + "0").isdecimal():
        return None
    digits = re.sub(r"\D", "", whole)
    value = float(f"{sign}{digits}.{decimals}{found['power'] or SCALES[found['scale']]}")
    return value if abs(value) <= LARGEST else None


def _decide(cells: Sequence[str], readings: dict[str, list[float | None]], has_commas: bool) -> tuple[str, int, str]:
    """Choose the decimal mark of a column whose cells allow both: 1,348 is 1348 or 1.348; in a column with 870 it is 1348.

    Returns: the mark; if the cells can't decide, also a row and the fault there.
    """
    one, other = (np.array(readings[mark], dtype=np.float64) for mark in ".,")
    rows = np.flatnonzero((one != other) & ~np.isnan(one)).tolist()
    commas = any("," in cells[row] for row in rows)
    points = any("." in cells[row] for row in rows)
    if not commas and not (points and has_commas):
        return ".", 0, ""
    if commas != points and ((one == other) & (abs(one) >= 100) & (abs(one) < 1000)).any():
        return "." if commas else ",", 0, ""
    less, more = sorted((one[rows[0]], other[rows[0]]), key=abs)
    words = f"{cells[rows[0]]!r} can be {more:.15g} or {less:.15g}, and no other cell of the column decides"
    return ".", rows[0], f"{words}; write numbers without thousands separators and with a decimal point"


def _fault(cell: str, other: float | None) -> str:
    """Explain why a cell is not a number. `other` is its value with the other decimal mark, if it has one."""
    try:
        if abs(float(cell)) > LARGEST:
            return f"{cell[:40]!r} is larger than {LARGEST:g}"
    except ValueError:
        pass
    if other is not None:
        return f"{cell[:40]!r} is not a number; write {other:.15g}"
    hint = "; write the number alone, or choose other columns with --columns and --target" if AMOUNT.fullmatch(cell) else ""
    return f"{cell[:40]!r} is not a number{hint}"


def _compare_units(cells: Sequence[str], found: Sequence[re.Match[str] | None], values: list[float | None]) -> tuple[int, str]:
    """Find the first row with another currency than before, or percent among other numbers. Returns: the row, the fault."""
    rows: dict[str, int] = {}
    for row, match in enumerate(found):
        if match is not None and values[row]:
            rows.setdefault(match["before"] or match["after"] or "", row)
    if "%" not in rows:
        rows.pop("", None)  # some rows may leave out the currency
    if len(rows) < 2:
        return 0, ""
    first, row = list(rows.values())[:2]
    return row, f"{cells[row]!r} has a different unit from {cells[first]!r} above it"


def _note(cells: Sequence[str], values: list[float | None]) -> str:
    for cell, value in zip(cells, values, strict=True):
        if value is not None and not math.isnan(value) and value != plain_number(cell):
            return f"{cell!r} is read as {value:.15g}"
    return ""
