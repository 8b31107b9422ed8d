"""`charrnn forecast`."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.commands.common import CellOption, JsonFlag, SeedOption, Signals, argument, is_piped, option_in, print_notes
from charrnn.errors import CharrnnError
from charrnn.terminal import output, progress

if TYPE_CHECKING:
    from charrnn.forecast.forecaster import Forecaster
    from charrnn.forecast.table import Series

TABLE = "Comma-separated values (or semicolons, tabs), a row for each moment; '-' or a pipe for standard input."
HELP = {
    "--target": "The column to forecast. [default: the last one of numbers]",
    "--columns": "The columns to read. [default: all of numbers]",
    "--reverse": "The table begins with its newest row.",
    "--encoding": "The table's encoding. [default: utf-8]",
    "--window": "Rows that a forecast is made from. [default: 7]",
    "--horizon": "Rows ahead that it is made for. [default: 1]",
    "--layers": "Stacked recurrent layers; 0 is a linear function of the last row. [default: 1]",
    "--hidden-size": "Units in each layer. [default: 10]",
    "--steps": "Steps of learning; the one that forecasts the last fifth of the training rows best is kept. [default: 500]",
    "--learning-rate": "Adam's step size. [default: 0.01]",
    "--validation": "The share of rows held out, the last ones. [default: 0.3]",
    "--model": "Forecast with this kept model; all rows are scored.",
    "--out": "Keep the model in this folder.",
    "--force": "Replace the model in that folder.",
    "--save": "Write truth, forecast and naive forecast as a table.",
    "--plot": "Draw them (.png, .svg or .pdf); takes charrnn[plot].",
    "--quiet": "Print no notes and no progress.",
}
_option = partial(option_in, HELP)


def forecast(
    table: Annotated[str | None, argument("[TABLE]", help=TABLE)] = None,
    target: Annotated[str | None, _option("--target", metavar="NAME|NUMBER")] = None,
    columns: Annotated[str | None, _option("--columns", metavar="A,B,...")] = None,
    reverse: Annotated[bool, _option("--reverse")] = False,
    encoding: Annotated[str, _option("--encoding")] = "utf-8",
    window: Annotated[int, _option("--window")] = 7,
    horizon: Annotated[int, _option("--horizon")] = 1,
    cell: CellOption = "lstm",
    layers: Annotated[int, _option("--layers")] = 1,
    hidden_size: Annotated[int, _option("--hidden-size")] = 10,
    steps: Annotated[int, _option("--steps")] = 500,
    learning_rate: Annotated[float, _option("--learning-rate")] = 0.01,
    validation: Annotated[float, _option("--validation", metavar="FRACTION")] = 0.3,
    seed: SeedOption = 0,
    model: Annotated[Path | None, _option("-m", "--model")] = None,
    out: Annotated[Path | None, _option("-o", "--out")] = None,
    force: Annotated[bool, _option("--force")] = False,
    save: Annotated[Path | None, _option("--save", metavar="FILE")] = None,
    plot: Annotated[Path | None, _option("--plot", metavar="FILE")] = None,
    as_json: JsonFlag = False,
    quiet: Annotated[bool, _option("-q", "--quiet")] = False,
) -> None:
    """Forecast a column of numbers, and say how well beside the naive forecast: the value stays as it is."""
    from charrnn.checkpoint import write_atomically
    from charrnn.forecast.forecaster import MODEL, Forecaster
    from charrnn.forecast.plot import draw_plot, require_plotting
    from charrnn.forecast.settings import Settings
    from charrnn.forecast.table import read_series, write_table
    from charrnn.options import require
    from charrnn.terminal.plot import print_plot
    from charrnn.text.reading import STDIN

    source = table or (STDIN if is_piped() else None)
    if source is None:
        raise CharrnnError("no table: name a file, or pipe one in")
    if plot is not None:
        require_plotting(plot)
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
        series = read_series(source, target=target, columns=inputs, reverse=reverse, encoding=encoding)
        network = Forecaster.create(series, settings)
    else:
        chosen = settings != Settings() or target is not None or columns is not None or out is not None
        require(not chosen, "--model keeps its own columns and settings; of the options, only those of files go with it")
        network = Forecaster.load(model)
        kept = network.header
        series = read_series(source, target=kept.target, columns=kept.columns, reverse=reverse, encoding=encoding)
    if not quiet:
        print_notes(series.notes)
    if model is None:
        _learn(network, series, out=out, quiet=quiet)
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


def _learn(network: "Forecaster", series: "Series", out: Path | None, quiet: bool) -> None:
    """Train the network. A signal ends the program. Raises: CharrnnError where the folder `out` can't be made."""
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CharrnnError(f"{out} can't be made: {error.strerror or error}", 1) from None
    interrupted = Signals()
    with progress.WorkDisplay("learning", unit="steps", quiet=quiet, scale=1) as working:
        for event in network.learn(series):
            working.progress(event.step, event.steps)
            if interrupted.signal:
                break
    if interrupted.signal:
        output.write_line(f"stopped at step {event.step}; nothing is kept")
        raise typer.Exit(128 + interrupted.signal)
