"""`charrnn forecast`."""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from charrnn.commands import common
from charrnn.commands.common import CellOption, JsonFlag, SeedOption, argument, option
from charrnn.commands.outputs import require_output, require_writable, write_output
from charrnn.errors import CharrnnError
from charrnn.terminal import frame, output

TABLE = "A CSV file (also with semicolons or tabs), one row for each point in time; '-' or a pipe for standard input."
WINDOW = "Number of past rows that a forecast is made from. [default: 7]"
HORIZON = "Distance of the forecast in rows: 1 is the next row. [default: 1]"
VALIDATION = "Fraction of the rows held out for the scores, taken from the end. [default: 0.3]"
LAYERS = "Number of stacked recurrent layers; 0 is a linear function of the last row. [default: 1]"
KEPT = "Forecast with a saved model: its folder, or its name under runs/. All rows are scored."
STEPS = "Training steps. Keeps the model with the lowest error on the last fifth of the training rows. [default: 500]"
SAVE = "Write the true values, the forecasts and the naive forecasts to a CSV file."
PLOT = "Plot them: .png, .svg or .pdf; needs charrnn[plot]."


def forecast(
    table: Annotated[str | None, argument("[TABLE]", help=TABLE)] = None,
    target: Annotated[str | None, option("Column to forecast. [default: the last numeric one]", "COLUMN", group="Data")] = None,
    columns: Annotated[str | None, option("Columns to read. [default: all numeric ones]", "A,B,...")] = None,
    reverse: Annotated[bool, option("The newest row comes first.", names="--reverse")] = False,
    encoding: Annotated[str, option("Encoding of the file. [default: utf-8]", "NAME")] = "utf-8",
    window: Annotated[int, option(WINDOW, "N")] = 7,
    horizon: Annotated[int, option(HORIZON, "N")] = 1,
    validation: Annotated[float, option(VALIDATION, "FRACTION")] = 0.3,
    cell: CellOption = "lstm",
    layers: Annotated[int, option(LAYERS, "N")] = 1,
    hidden_size: Annotated[int, option("Units in each layer. [default: 10]", "N")] = 10,
    model: Annotated[Path | None, option(KEPT, "MODEL", names="-m --model", complete=common.complete_forecast)] = None,
    steps: Annotated[int, option(STEPS, "N", group="Optimization")] = 500,
    learning_rate: Annotated[float, option("Learning rate of Adam. [default: 0.01]", "RATE")] = 0.01,
    seed: SeedOption = 0,
    out: Annotated[Path | None, option("Save the model in this folder.", "FOLDER", names="-o --out", group="Output")] = None,
    force: Annotated[bool, option("Replace the model in that folder.", names="--force")] = False,
    save: Annotated[Path | None, option(SAVE, "FILE")] = None,
    plot: Annotated[Path | None, option(PLOT, "FILE")] = None,
    as_json: JsonFlag = False,
    quiet: Annotated[bool, option("Print no notes and no progress.", names="-q --quiet")] = False,
) -> None:
    """Forecast a column of numbers. The result is compared with the naive forecast, which repeats the last value.

    Examples:
    charrnn forecast prices.csv
    charrnn forecast prices.csv --target close --horizon 5 --plot prices.svg
    charrnn forecast prices.csv -o runs/prices
    charrnn forecast new-prices.csv -m prices --save forecasts.csv
    """
    from charrnn.forecast.settings import Settings
    from charrnn.forecast.table import draw_plot, format_table, make_harmless, read_series
    from charrnn.options import require
    from charrnn.run_folder import FORECAST, find_forecast, is_forecast, is_text
    from charrnn.text.reading import STDIN

    if table and is_forecast(table):
        words = [str(model) if model is not None and is_text(model) else "TABLE", "-m", table]
        raise CharrnnError(f"{table} is a forecast model, not a table; did you mean: charrnn forecast {shlex.join(words)}")
    require(bool(table) or common.is_piped(), "no table: name a file, or pipe one in")
    if plot is not None:
        require(plot.suffix in (".png", ".svg", ".pdf"), f"--plot {plot}: name a file that ends in .png, .svg or .pdf")
        common.require_extra("matplotlib", "--plot", "plot")
    read: list[str | Path] = [table or STDIN, *([model] if model and model.is_file() else [])]
    for flag, path in (("--save", save), ("--plot", plot)):
        if path is not None:
            require_output(flag, path, read)
    require(save is None or save != plot, f"--save and --plot {plot} name one file")
    settings = Settings(window=window, horizon=horizon, cell=cell, num_layers=layers, hidden_size=hidden_size, steps=steps)
    settings = replace(settings, learning_rate=learning_rate, validation=validation, seed=seed)
    if out is not None:
        require(out.is_dir() or not out.exists(), f"--out {out} is a file; name a folder")
        require(force or not (out / FORECAST).exists(), f"{out} already has a forecast model; replace it with --force")
    inputs = None if columns is None else columns.split(",")
    if model is not None:
        chosen = settings != Settings() or target is not None or columns is not None or out is not None
        require(not chosen, "--model brings its own columns and settings; leave out the options that set them, and --out")
        kept = find_forecast(model)
        with common.import_quickly():
            from charrnn.forecast.forecaster import Forecaster
        network = Forecaster.load(kept)
        target, inputs = network.header.target, network.header.columns
    with common.say_waiting([table or STDIN]):
        series = read_series(table or STDIN, target=target, columns=inputs, reverse=reverse, encoding=encoding)
    if model is None:
        with common.import_quickly():
            from charrnn.forecast.forecaster import Forecaster
        network = Forecaster.create(series, settings)
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
        given = [series.moment, series.target_name]
        names = list(map(make_harmless, given))
        changed = [f"{save} names column {old!r} {new!r}" for old, new in zip(given, names, strict=True) if old != new]
        common.print_notes([] if quiet else [f"{note}, so that no spreadsheet runs it" for note in changed])
        write_output(save, format_table([*names, "forecast", "naive"], moments=moments, columns=lines))
    if plot is not None:
        write_output(plot, draw_plot(plot.suffix, series.target_name, lines=lines))
    if as_json:
        print(json.dumps(figures))
        return
    output.print_forecast(figures, "held-out rows" if model is None else "rows")
    if sys.stdout.isatty():
        output.print_plot(lines[0], lines[1])


def _learn(learning: Iterator[int], steps: int, out: Path | None, quiet: bool) -> None:
    """Make the folder `out` and train. Raises: CharrnnError if the folder can't be made or written to."""
    from charrnn.run_folder import FORECAST

    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CharrnnError(f"{out} can't be made: {error.strerror or error}", 1) from None
        require_writable(out / FORECAST, out)
    with frame.WorkDisplay("learning", unit="steps", quiet=quiet, scale=1) as working:
        for step in learning:
            working.progress(step, steps)
