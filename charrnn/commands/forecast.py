"""`charrnn forecast`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from charrnn.commands.common import Signals, option, piped
from charrnn.errors import CharrnnError
from charrnn.terminal import output, progress


def forecast(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="[TABLE]",
            help="Comma-separated values (or semicolons, tabs), a row for each moment; '-' or a pipe for standard input.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        option("--target", metavar="NAME|NUMBER", help="The column to forecast. [default: the last one of numbers]"),
    ] = None,
    columns: Annotated[
        str | None, option("--columns", metavar="A,B,...", help="The columns to read. [default: all of numbers]")
    ] = None,
    reverse: Annotated[bool, option("--reverse", help="The table begins with its newest row.")] = False,
    encoding: Annotated[str, option("--encoding", help="The table's encoding. [default: utf-8]")] = "utf-8",
    window: Annotated[int, option("--window", help="Rows that a forecast is made from. [default: 7]")] = 7,
    horizon: Annotated[int, option("--horizon", help="Rows ahead that it is made for. [default: 1]")] = 1,
    cell: Annotated[str, option("--cell", help="lstm, gru or rnn. [default: lstm]")] = "lstm",
    layers: Annotated[
        int, option("--layers", help="Stacked recurrent layers; 0 is a linear function of the last row. [default: 1]")
    ] = 1,
    hidden_size: Annotated[int, option("--hidden-size", help="Units in each layer. [default: 10]")] = 10,
    steps: Annotated[
        int,
        option(
            "--steps",
            help="Steps of learning; the one that forecasts the last fifth of the training rows best is kept. [default: 500]",
        ),
    ] = 500,
    learning_rate: Annotated[float, option("--learning-rate", help="Adam's step size. [default: 0.01]")] = 0.01,
    validation: Annotated[
        float,
        option("--validation", metavar="FRACTION", help="The share of rows held out, the last ones. [default: 0.3]"),
    ] = 0.3,
    seed: Annotated[int, option("--seed", help="Where all randomness begins. [default: 0]")] = 0,
    model: Annotated[Path | None, option("-m", "--model", help="Forecast with this kept model; all rows are scored.")] = None,
    out: Annotated[Path | None, option("-o", "--out", help="Keep the model in this folder.")] = None,
    force: Annotated[bool, option("--force", help="Replace the model in that folder.")] = False,
    save: Annotated[
        Path | None, option("--save", metavar="FILE", help="Write truth, forecast and naive forecast as a table.")
    ] = None,
    plot: Annotated[
        Path | None, option("--plot", metavar="FILE", help="Draw them (.png, .svg or .pdf); takes charrnn[plot].")
    ] = None,
    as_json: Annotated[bool, option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, option("-q", "--quiet", help="Print no notes and no progress.")] = False,
) -> None:
    """Forecast a column of numbers, and say how well beside the naive forecast: the value stays as it is."""
    from charrnn.checkpoint import write_atomically
    from charrnn.forecast.forecaster import MODEL, Forecaster, Settings, training_rows
    from charrnn.forecast.plot import draw_plot, require_plotting
    from charrnn.forecast.table import read_series, write_table
    from charrnn.terminal.plot import print_plot
    from charrnn.text.reading import STDIN

    source = table or (STDIN if piped() else None)
    if source is None:
        raise CharrnnError("no table: name a file, or pipe one in")
    if plot is not None:
        require_plotting(plot)
    settings = Settings(window, horizon, cell, layers, hidden_size, steps, learning_rate, validation, seed)
    if out is not None:
        if out.exists() and not out.is_dir():
            raise CharrnnError(f"--out {out} is a file; name a folder")
        if (out / MODEL).exists() and not force:
            raise CharrnnError(f"{out} holds a forecast model already; replace it with --force")
    if model is None:
        series = read_series(source, target, columns.split(",") if columns is not None else None, reverse, encoding)
        network, first = Forecaster.create(series, settings), training_rows(len(series), settings)
    else:
        if settings != Settings() or target is not None or columns is not None or out is not None:
            raise CharrnnError("--model keeps its own columns and settings; of the options, only those of files go with it")
        network, first = Forecaster.load(model), 0
        series = read_series(source, network.target, network.columns, reverse, encoding)
    if not quiet:
        for note in series.notes:
            output.write_line(f"note: {note}")
    if model is None:
        if out is not None:
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CharrnnError(f"{out} can't be made: {error.strerror or error}", 1) from None
        interrupted = Signals()
        with progress.WorkDisplay("learning", "steps", quiet, scale=1) as working:
            for event in network.learn(series):
                working.progress(event.step, event.steps)
                if interrupted.signal:
                    break
        if interrupted.signal:
            output.write_line(f"stopped at step {event.step}; nothing is kept")
            raise typer.Exit(128 + interrupted.signal)
    forecasts = network.forecast(series)
    figures = network.report(series, forecasts, first)
    moments, lines = network.lines(series, forecasts, first)
    if out is not None:
        network.save(out)
    if save is not None:
        write_table(save, [series.moment, series.target_name, "forecast", "naive"], moments, lines)
    if plot is not None:
        write_atomically(plot, draw_plot(plot.suffix, series.target_name, lines))
    if as_json:
        print(json.dumps(figures))
        return
    output.print_forecast(figures, "held-out rows" if model is None else "rows")
    if sys.stdout.isatty():
        print_plot(lines[0], lines[1])
