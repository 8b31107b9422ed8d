"""Draws the pictures in docs/pictures/ with the code of the program: part of `make docs`. A test compares.

The training display replays the events of a real run. `python scripts/pictures.py record` trains for LENGTH and writes them
into RECORD. The heat map is what `charrnn eval` prints. The pictures load nothing from a network, and no font.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from charrnn import train
from charrnn.headers import Metrics
from charrnn.terminal import live
from charrnn.training.events import Event, Progress, Sample, Validation

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/pictures"
RECORD = Path(__file__).with_suffix(".jsonl")
COLUMNS, ROWS = 80, 24
LENGTH = "5m"  # of the run
MOMENT = 0.96  # fraction of the run that the picture of the training shows
EVERY = 2.0  # seconds between two recorded events of progress, at least
COLOURS = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "FORCE_COLOR": "1"}
TERMINAL = COLOURS | {"COLUMNS": str(COLUMNS + 1), "LC_ALL": "C.UTF-8"}
SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }}
.{unique_id}-title {{ font: 16px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Screen(io.StringIO):
    """Standard error as a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def draw_training() -> str:
    """The training display at MOMENT of the recorded run."""
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    with mock.patch.dict(os.environ, TERMINAL), mock.patch.object(live, "time", clock), contextlib.redirect_stderr(Screen()):
        display = live.TrainingDisplay()
        with display:
            for event in map(parse_event, RECORD.read_text().splitlines()):
                if isinstance(event, Progress):
                    clock.monotonic = lambda seconds=event.seconds: seconds
                display.show(event)
                if isinstance(event, Progress) and event.fraction >= MOMENT:
                    break
            lines = display.draw_frame(COLUMNS, ROWS)
    return draw("training", f"charrnn train corpora/the-lamp.txt --for {LENGTH}", lines[1:])


def draw_heatmap() -> str:
    """The beginning of the book's first scene, coloured by the base model."""
    command = "sed -n 33,43p corpora/the-lamp.txt | charrnn eval -m english --heatmap"
    called = command.replace("charrnn", f"'{sys.executable}' -m charrnn")
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | TERMINAL
    printed = subprocess.run(called, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    return draw("heatmap", command, Text.from_ansi(printed).split())


def draw(name: str, title: str, lines: Iterable[Text]) -> str:
    """A terminal's lines as an SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", no_color=False)
    for line in lines:
        console.print(line, no_wrap=True, highlight=False)
    return console.export_svg(title=title, theme=MONOKAI, code_format=SVG, unique_id=name)


PICTURES = {"training.svg": draw_training, "heatmap.svg": draw_heatmap}


def record() -> None:
    """Train, and keep the events that the display shows."""
    lines: list[str] = []
    due = 0.0

    def watch(event: Event) -> None:
        nonlocal due
        if isinstance(event, Progress) and event.seconds < due:
            return
        if isinstance(event, Progress):
            due = event.seconds + EVERY
        if isinstance(event, Progress | Sample | Validation):
            lines.append(json.dumps({type(event).__name__: asdict(event)}) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        train(ROOT / "corpora/the-lamp.txt", seconds=LENGTH, out=Path(folder, "run"), watch=watch)
    RECORD.write_text("".join(lines))


def parse_event(line: str) -> Event:
    """An event of the recorded run."""
    ((name, values),) = json.loads(line).items()
    if name == "Validation":
        return Validation(**values | {"metrics": Metrics(**values["metrics"])})
    return Progress(**values) if name == "Progress" else Sample(**values)


def main() -> None:
    if sys.argv[1:] == ["record"]:
        record()
    for name, drawing in PICTURES.items():
        (FOLDER / name).write_text(drawing())


if __name__ == "__main__":
    main()
