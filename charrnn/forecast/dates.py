"""Read the cells of a column as dates: days (with or without time of day), weeks, months and quarters."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from charrnn.forecast.numbers import MISSING

ISO = "ISO 8601"
PERIOD = "week or quarter"
DAYS = "%Y/%m/%d %Y.%m.%d %d.%m.%Y %d.%m.%y %d/%m/%Y %m/%d/%Y %d/%m/%y %m/%d/%y %d-%m-%Y %m-%d-%Y %d-%b-%Y %d-%b-%y"
MONTHS = "%Y-%m %Y/%m %YM%m %Y-M%m %m/%Y %m-%Y %b-%Y %b-%y %Y-%b"
SPACED = ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%b %Y", "%B %Y", "%b %y", "%Y %b", "%Y %B")
FORMS = (ISO, PERIOD, *DAYS.split(), *MONTHS.split(), *SPACED)
CLOCK = re.compile(
    r"(?P<day>.*?\d)(?:,?\s+|,|T)(?P<hour>\d{1,2})(?::(?P<minute>\d\d)(?::(?P<second>\d\d(?:[.,]\d+)?))?)?"
    r"(?:[\s-]?(?P<half>[ap])\.?m\.?)?\s?(?P<zone>Z|UTC|GMT|[-+]\d\d:?\d\d)?",
    re.IGNORECASE,
)
WEEK = re.compile(r"(\d{4})[\s/-]*K?W\s?(\d{1,2})|K?W\s?(\d{1,2})[\s/-]*(\d{4})", re.IGNORECASE)
QUARTER = re.compile(r"(\d{4})[\s/-]*Q([1-4])|Q([1-4])[\s/-]*(\d{4})", re.IGNORECASE)


def read_dates(cells: Sequence[str]) -> list[list[float | None]]:
    """Read a column in every date format that fits all its cells. Returns: seconds for each format; None: missing."""
    readings = []
    for form in FORMS:
        try:
            readings.append([None if cell.lower() in MISSING else _seconds(cell, form) for cell in cells])
        except ValueError:
            continue
    return [reading for reading in readings if any(second is not None for second in reading)]


def _seconds(cell: str, form: str) -> float:
    """Convert a date, with or without time of day, to seconds. Raises: ValueError if it does not have this form."""
    if form == ISO:
        try:
            return _in_utc(datetime.fromisoformat(cell))
        except ValueError:
            pass  # such as 2024-01-02 3:45 PM
    found = CLOCK.fullmatch(cell)
    if found is None or not (found["minute"] or found["half"]):
        return _day(cell, form)
    hour, minute, second = int(found["hour"]), int(found["minute"] or 0), float((found["second"] or "0").replace(",", "."))
    if hour > (12 if found["half"] else 24) or minute > 59 or second >= 61:
        raise ValueError(f"{cell} holds no time of day")
    if found["half"]:
        hour = hour % 12 + 12 * (found["half"].lower() == "p")
    return _day(found["day"], form) + 3600 * hour + 60 * minute + second - _offset(found["zone"] or "")


@lru_cache(maxsize=1 << 12)
def _day(cell: str, form: str) -> float:
    """The start of a day, week, month or quarter, in seconds. Raises: ValueError if it does not have this form."""
    if form == ISO:
        return _in_utc(datetime.fromisoformat(cell))
    if form != PERIOD:
        return _in_utc(datetime.strptime(cell, form))
    if week := WEEK.fullmatch(cell):
        return _in_utc(datetime.fromisocalendar(int(week[1] or week[4]), int(week[2] or week[3]), 1))
    if quarter := QUARTER.fullmatch(cell):
        return _in_utc(datetime(int(quarter[1] or quarter[4]), 3 * int(quarter[2] or quarter[3]) - 2, 1))
    raise ValueError(f"{cell} is neither a week nor a quarter")


def _offset(zone: str) -> int:
    """The offset of a time zone such as +01:00 from UTC, in seconds."""
    if not zone or zone.isalpha():
        return 0
    size = 3600 * int(zone[1:3]) + 60 * int(zone[-2:])
    return -size if zone[0] == "-" else size


def _in_utc(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
