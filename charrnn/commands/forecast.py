"""`charrnn forecast`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from charrnn.commands import common
from charrnn.commands.common import CellOption, JsonFlag, SeedOption, argument, option
from charrnn.errors import CharrnnError
from charrnn.terminal import output, progress

TABLE = "Comma-separated values (or semicolons, tabs), a row for each moment; '-' or a pipe for standard input."
TARGET = "The column to forecast. [default: the last one of numbers]"
COLUMNS = "The columns to read. [default: all of numbers]"
LAYERS = "Stacked recurrent layers; 0 is a linear function of the last row. [default: 1]"
STEPS = "Steps of learning; the one that forecasts the last fifth of the training rows best is kept. [default: 500]"
VALIDATION = "The share of rows held out, the last ones. [default: 0.3]"
SAVE = "Write truth, forecast and naive forecast as a table."
PLOT = "Draw them (.png, .svg or .pdf); takes charrnn[plot]."


def forecast(
    table: Annotated[str | None, argument("[TABLE]", help=TABLE)] = None,
    target: Annotated[str | None, option("--target", metavar="NAME|NUMBER", help=TARGET)] = None,
    columns: Annotated[str | None, option("--columns", metavar="A,B,...", help=COLUMNS)] = None,
    reverse: Annotated[bool, option("--reverse", help="The table begins with its newest row.")] = False,
    encoding: Annotated[str, option("--encoding", help="The table's encoding. [default: utf-8]")] = "utf-8",
    window: Annotated[int, option("--window", help="Rows that a forecast is made from. [default: 7]")] = 7,
    horizon: Annotated[int, option("--horizon", help="Rows ahead that it is made for. [default: 1]")] = 1,
    cell: CellOption = "lstm",
    layers: Annotated[int, option("--layers", help=LAYERS)] = 1,
    hidden_size: Annotated[int, option("--hidden-size", help="Units in each layer. [default: 10]")] = 10,
    steps: Annotated[int, option("--steps", help=STEPS)] = 500,
    learning_rate: Annotated[float, option("--learning-rate", help="Adam's step size. [default: 0.01]")] = 0.01,
    validation: Annotated[float, option("--validation", metavar="FRACTION", help=VALIDATION)] = 0.3,
    seed: SeedOption = 0,
    model: Annotated[Path | None, option("-m", "--model", help="Forecast with this kept model; all rows are scored.")] = None,
    out: Annotated[Path | None, option("-o", "--out", help="Keep the model in this folder.")] = None,
    force: Annotated[bool, option("--force", help="Replace the model in that folder.")] = False,
    save: Annotated[Path | None, option("--save", metavar="FILE", help=SAVE)] = None,
    plot: Annotated[Path | None, option("--plot", metavar="FILE", help=PLOT)] = None,
    as_json: JsonFlag = False,
    quiet: Annotated[bool, option("-q", "--quiet", help="Print no notes and no progress.")] = False,
) -> None:
    """Forecast a column of numbers, and say how well beside the naive forecast: the value stays as it is."""
    from charrnn.checkpoint import write_atomically
    from charrnn.forecast.forecaster import MODEL, Forecaster
    from charrnn.forecast.plot import draw_plot
    from charrnn.forecast.settings import Settings
    from charrnn.forecast.table import read_series, write_table
    from charrnn.options import require
    from charrnn.terminal.plot import print_plot
    from charrnn.text.reading import STDIN

    require(bool(table) or common.is_piped(), "no table: name a file, or pipe one in")
    if plot is not None:
        require(plot.suffix in (".png", ".svg", ".pdf"), f"--plot {plot}: name a file that ends in .png, .svg or .pdf")
        common.require_extra("matplotlib", "--plot", "plot")
    settings = Settings(
        window=window,
        horizon=horizon,
        cell=cell,
        num_layers=layers,
        hidden_size=hidden_size,
        steps=steps,
        learning_rate=learning_rate,
        validation=validation,
        seed=seed,
    )
    if out is not None:
        require(out.is_dir() or not out.exists(), f"--out {out} is a file; name a folder")
        require(force or not (out / MODEL).exists(), f"{out} holds a forecast model already; replace it with --force")
    if model is None:
        inputs = None if columns is None else columns.split(",")
        series = read_series(table or STDIN, target=target, columns=inputs, reverse=reverse, encoding=encoding)
        network = Forecaster.create(series, settings)
    else:
        chosen = settings != Settings() or target is not None or columns is not None or out is not None
        require(not chosen, "--model keeps its own columns and settings; of the options, only those of files go with it")
        network = Forecaster.load(model)
        kept = network.header
        series = read_series(table or STDIN, target=kept.target, columns=kept.columns, reverse=reverse, encoding=encoding)
    if not quiet:
        common.print_notes(series.notes)
    if model is None:
        _learn(network.learn(series), steps=steps, out=out, quiet=quiet)
    first = settings.training_rows(len(series)) if model is None else 0
    forecasts = network.forecast(series)
    figures = network.report(series, forecasts, first=first)
    moments, lines = network.lines(series, forecasts, first=first)
    if out is not None:
        network.save(out)
    if save is not None:
        write_table(save, [series.moment, series.target_name, "forecast", "naive"], moments=moments, columns=lines)
    if plot is not None:
        write_atomically(plot, draw_plot(plot.suffix, series.target_name, lines=lines))
    if as_json:
        print(json.dumps(figures))
        return
    output.print_forecast(figures, "held-out rows" if model is None else "rows")
    if sys.stdout.isatty():
        print_plot(lines[0], lines[1])


def _learn(learning: Iterator[int], steps: int, out: Path | None, quiet: bool) -> None:
    """Make the folder `out` and train, step by step. A signal ends the program. Raises: CharrnnError where it can't be made."""
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CharrnnError(f"{out} can't be made: {error.strerror or error}", 1) from None
    interrupted = common.Signals()
    with progress.WorkDisplay("learning", unit="steps", quiet=quiet, scale=1) as working:
        for step in learning:
            working.progress(step, steps)
            if interrupted.signal:
                break
    if interrupted.signal:
        output.write_line(f"stopped at step {step}; nothing is kept")
        raise typer.Exit(128 + interrupted.signal)
