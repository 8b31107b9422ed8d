"""A forecast as a picture, by matplotlib, which is an extra."""

import io
from collections.abc import Sequence
from pathlib import Path

from charrnn.errors import CharrnnError
from charrnn.text.visible import make_visible


def require_plotting(path: Path) -> None:
    """Raise CharrnnError where `path` can't be drawn: its ending, or matplotlib is not installed."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise CharrnnError(f"--plot {path}: name a file that ends in .png, .svg or .pdf")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise CharrnnError("--plot takes matplotlib, which is not installed: pip install 'charrnn[plot]'") from None


def draw_plot(suffix: str, target: str, lines: Sequence[Sequence[float]]) -> bytes:
    """Draw truth, forecast and naive forecast with matplotlib; give back the file of that kind."""
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
