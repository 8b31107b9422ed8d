"""Draw charts as SVG markup. Colours come from the page's style sheet, by class."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 460, 270  # readable on a phone; a chart scales with the page
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 34, 40  # margins

Point = tuple[float, float]
Times = Sequence[tuple[float, str]]  # (x value, label)


def shorten(value: float) -> str:
    """Format a number in few characters.

    >>> shorten(1_250_000), shorten(64_000), shorten(0.0125), shorten(0)
    ('1.25M', '64k', '0.0125', '0')
    """
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def choose_ticks(low: float, high: float, most: int) -> list[float]:
    """Choose at most `most` + 1 ticks from `low` to `high`, 1, 2 or 5 times a power of ten apart.

    >>> choose_ticks(0, 10, 5)
    [0, 2, 4, 6, 8, 10]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if (high - low) / step <= most * (1 + 1e-9))
    ticks = [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return [int(tick) if tick == int(tick) else float(f"{tick:.12g}") for tick in ticks]


class Chart:
    """A plot with axes. Points are in data units; `low` and `high` are the lower left and upper right corner."""

    def __init__(self, title: str, low: Point, high: Point, height: int = HEIGHT):
        self.title = title
        self.height = height
        self.low, self.high = low, high
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        return LEFT + (value - self.low[0]) / ((self.high[0] - self.low[0]) or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - (value - self.low[1]) / ((self.high[1] - self.low[1]) or 1) * (self.height - TOP - BOTTOM)

    def text(self, x: float, y: float, text: str, kind: str) -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>')

    def path(self, kind: str, points: Sequence[Point]) -> None:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline class="{kind}" points="{places}"/>')

    def dot(self, kind: str, at: Point, label: str, radius: float) -> None:
        place = f'cx="{self.x(at[0]):.1f}" cy="{self.y(at[1]):.1f}"'
        self.parts.append(f'<circle class="{kind}" {place} r="{radius:.1f}"><title>{escape(label)}</title></circle>')

    def axes(self, x_name: str, y_name: str, percent: bool = False) -> None:
        """Draw the grid, with tick labels and axis names."""
        number: Callable[[float], str] = "{:.0%}".format if percent else shorten
        for tick in choose_ticks(self.low[1], self.high[1], 5):
            self.path("grid", [(self.low[0], tick), (self.high[0], tick)])
            self.text(LEFT - 6, self.y(tick) + 4, number(tick), "tick end")
        for tick in choose_ticks(self.low[0], self.high[0], 5):
            self.text(self.x(tick), self.height - BOTTOM + 16, number(tick), "tick middle")
        self.text((LEFT + WIDTH - RIGHT) / 2, self.height - 6, x_name, "axis middle")
        self.text(4, 12, y_name, "axis")

    def times(self, times: Times) -> None:
        """Draw a time axis at the top, with as many labels as fit, including the last."""
        before = math.inf
        for x, label in reversed(times):
            at = self.x(x)
            if at <= before - 80:
                before = at
                self.parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 4}" y2="{TOP}"/>')
                self.text(at, TOP - 8, label, "tick middle")

    def svg(self, description: str) -> str:
        label = escape(f"{self.title}: {description}")
        return f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{label}">{"".join(self.parts)}</svg>'


def draw_curves(title: str, lines: Mapping[str, Sequence[Point]], y_name: str, times: Times, from_zero: bool = False) -> str:
    """Lines over the characters that a run has read; the name of each is its CSS class, too."""
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    low, high = 0.0 if from_zero else min(ys), max(ys)
    room = (high - low or abs(high) or 1.0) * 0.08
    chart = Chart(title, (0.0, low if from_zero else low - room), (max(xs), high + room))
    chart.axes("characters read", y_name)
    chart.times(times)
    for name, points in lines.items():
        chart.path(f"line {name}", points)
        for x, y in points:
            chart.dot(f"dot {name}", (x, y), f"{name}: {y:.4g} after {shorten(x)} characters", 2.5)
    for k, name in enumerate(lines if len(lines) > 1 else ()):  # the key, in the upper right corner
        x = WIDTH - RIGHT - 96 * (len(lines) - k) + 20
        chart.parts.append(f'<line class="line {name}" x1="{x}" x2="{x + 18}" y1="8" y2="8"/>')
        chart.text(x + 23, 12, name, f"name {name}")
    return chart.svg("; ".join(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in lines.items()))


def draw_reliability(bins: Sequence[tuple[int, float, float]], error: float) -> str:
    """Draw a reliability diagram: fraction of right guesses over their probability. `bins`: (count, probability, fraction)."""
    chart = Chart("Calibration", (0.0, 0.0), (1.0, 1.0), 330)
    chart.axes("probability of the top guess", "how often it is right", percent=True)
    chart.path("ideal", [(0.0, 0.0), (1.0, 1.0)])
    most = max(count for count, *_ in bins) or 1
    width = (chart.x(1.0) - chart.x(0.0)) / len(bins)
    for k, (count, _, _) in enumerate(bins):  # a histogram of the counts at the bottom
        x = chart.x(k / len(bins))
        height = 44 * count / most
        place = f'x="{x + 2:.1f}" y="{chart.y(0.0) - height:.1f}"'
        chart.parts.append(f'<rect class="count" {place} width="{width - 4:.1f}" height="{height:.1f}"/>')
    filled = [(count, probability, frequency) for count, probability, frequency in bins if count]
    for _, probability, frequency in filled:
        chart.path("gap", [(probability, probability), (probability, frequency)])
    chart.path("line validation", [(probability, frequency) for _, probability, frequency in filled])
    for count, probability, frequency in filled:
        label = f"{count:,} guesses of {probability:.1%} on average were right {frequency:.1%} of the time"
        chart.dot("dot validation", (probability, frequency), label, 3.5)
    return chart.svg(f"the expected calibration error is {error:.2%}")
