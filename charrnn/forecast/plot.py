"""A forecast as a picture, by matplotlib, which is an extra."""

import io
from collections.abc import Sequence

from charrnn.text.visible import make_visible


def draw_plot(suffix: str, target: str, lines: Sequence[Sequence[float]]) -> bytes:
    """Draw truth, forecast and naive forecast; return the bytes of the file."""
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
