"""The command line: parse, call, print. `main` is the program `charrnn`; every error ends in one line and a status.

Nothing heavy is imported at the top: what only runs a model never reaches torch, and help not even NumPy.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

import charrnn
from charrnn import display
from charrnn.errors import CharrnnError

OUT_OF_MEMORY = "out of memory; take a smaller text, network or batch"
TRIES = 20  # records that are drawn at most for each that is asked for, where only novel ones are printed
STARTED = time.monotonic() - 0.1  # the interpreter and these imports have taken about that long already

app = typer.Typer(
    name="charrnn", add_completion=True, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, **more)


@app.callback(invoke_without_command=False)
def _program(
    version: Annotated[bool, _option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """Learns any text character by character and writes more of it."""


@app.command()
def train(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CORPUS]...", help="Files and folders of text; '-' or a pipe for standard input.", show_default=False
        ),
    ] = None,
    encoding: Annotated[
        str, _option("--encoding", help="The text's encoding; bytes takes each byte for a character. [default: utf-8]")
    ] = "utf-8",
    max_vocabulary: Annotated[
        int | None,
        _option(
            "--max-vocabulary",
            metavar="N",
            help="Learn the N most frequent characters only; the rest becomes one unknown symbol. [default: all]",
        ),
    ] = None,
    by_line: Annotated[
        bool, _option("--by-line", help="Learn each line as a sequence of its own; held out are whole lines at random.")
    ] = False,
    by_paragraph: Annotated[
        bool, _option("--by-paragraph", help="The same for records that blank lines separate, such as conversations.")
    ] = False,
    validation: Annotated[
        str,
        _option(
            "--validation",
            metavar="FRACTION|FILE",
            help="What is held out to validate on: a fraction of the text's end, or a file. 0 trains on all. [default: 0.1]",
        ),
    ] = "0.1",
    for_: Annotated[
        str | None,
        _option(
            "--for", metavar="TIME", help="Train so long (30s, 5m, 1h30m); the learning rate is annealed to fit. [default: 5m]"
        ),
    ] = None,
    epochs: Annotated[float | None, _option("--epochs", help="Train so many passes over the text instead.")] = None,
    steps: Annotated[
        int | None, _option("--steps", help="Train so many windows instead; with one seed, runs repeat exactly.")
    ] = None,
    cell: Annotated[str, _option("--cell", help="lstm, gru or rnn. [default: lstm]")] = "lstm",
    layers: Annotated[
        int | None,
        _option(
            "--layers",
            help="Stacked recurrent layers; more learn more and slower; 0 is the softmax layer alone. [default: chosen]",
        ),
    ] = None,
    hidden_size: Annotated[
        int | None,
        _option("--hidden-size", help="Units in each layer; twice as many take four times the work. [default: chosen]"),
    ] = None,
    embedding: Annotated[
        int | None, _option("--embedding", help="Learned numbers per character; 0 feeds one-hot vectors. [default: 32]")
    ] = None,
    seq_length: Annotated[
        int | None,
        _option(
            "--seq-length",
            help="Characters through which gradients flow back; longer learns longer patterns, in fewer steps. [default: 48]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, _option("--batch-size", help="Streams read side by side; more read faster, in fewer steps. [default: 32]")
    ] = None,
    dropout: Annotated[
        float | None,
        _option(
            "--dropout", help="The chance that a unit is silenced; higher where a small text is read often. [default: chosen]"
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        _option(
            "--learning-rate",
            help="Adam's highest step size (Muon's: four times it); too high diverges, too low is slow. [default: chosen]",
        ),
    ] = None,
    seed: Annotated[int, _option("--seed", help="Where all randomness begins. [default: 0]")] = 0,
    device: Annotated[str, _option("--device", help="auto, cpu, cuda or mps. [default: auto]")] = "auto",
    precision: Annotated[
        str, _option("--precision", help="auto, float32 or bfloat16 (faster where the processor has it). [default: auto]")
    ] = "auto",
    out: Annotated[Path | None, _option("-o", "--out", help="The run's folder. [default: runs/NAME after the corpus]")] = None,
    resume: Annotated[bool, _option("--resume", help="Continue the run in that folder where it stopped.")] = False,
    force: Annotated[bool, _option("--force", help="Start anew in that folder; the run in it is replaced.")] = False,
    init_from: Annotated[
        Path | None, _option("--init-from", metavar="MODEL", help="Begin with this model's weights and vocabulary.")
    ] = None,
    quiet: Annotated[bool, _option("-q", "--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Learn a text and keep the best model by validation loss.

    Options that are not given are chosen from the size of the text and the length of the training.
    """
    from charrnn.reading import STDIN
    from charrnn.recipe import Options, parse_duration

    if by_line and by_paragraph:
        raise CharrnnError("--by-line and --by-paragraph exclude each other")
    try:
        held_out: str | float = float(validation)
    except ValueError:
        held_out = validation
    seconds = parse_duration(for_) if for_ is not None else None
    if seconds is epochs is steps is None and not resume:
        seconds = 300.0
    options = Options(
        seconds,
        epochs,
        steps,
        cell,
        layers,
        hidden_size,
        embedding,
        seq_length,
        batch_size,
        dropout,
        learning_rate,
        held_out,
        seed,
        device,
        precision,
        encoding,
        max_vocabulary,
        "line" if by_line else "paragraph" if by_paragraph else None,
    )
    sources = list(corpus or ([STDIN] if _piped() and not resume else []))
    if not sources and not resume:
        raise CharrnnError("no text: name files or folders, or pipe one in")
    if resume:
        kept = replace(Options(), seconds=seconds, epochs=epochs, steps=steps, device=device)
        if options != kept or init_from is not None or force:
            raise CharrnnError("--resume keeps the run's own options; only --for, --epochs, --steps and --device go with it")
    from charrnn.training import Progress, Run, Setback

    if resume:
        folder = out if out is not None else _run_folder(sources)
        notes: list[str] = []
        with display.WorkDisplay(quiet=quiet) as reading:
            run = Run.resume(folder, sources, device, reading.progress)
        if seconds is epochs is steps is None:
            options = run.options  # on to the length that the run had
    else:
        with display.WorkDisplay(quiet=quiet) as reading:
            run, notes = Run.create(sources, options, out, init_from, force, reading.progress)
        folder = run.out
    if not quiet:
        for note in notes:
            display.write_line(f"note: {note}")
        display.write_line(_describe(run, folder))
    interrupted = _Signals()
    with display.TrainingDisplay(quiet) as screen:
        for event in run.events(options, STARTED, lambda: interrupted.signal != 0):
            with contextlib.suppress(OSError):  # a terminal that has gone is no reason to stop
                if isinstance(event, Progress):
                    screen.progress(event.fraction, event.seconds_left, event.characters_per_second, event.train_bits)
                elif isinstance(event, Setback):
                    screen.note(
                        f"the loss diverged at step {event.reached:,}: the run goes on from step {event.step:,} "
                        f"with the learning rate {event.learning_rate:g}"
                    )
                else:
                    screen.validation(event.record, event.fraction, event.best, event.sample)
    if interrupted.signal:
        display.write_line(f"stopped at step {run.step}; saved in {folder}; continue with --resume -o {folder}")
        raise typer.Exit(128 + interrupted.signal)
    if not quiet:
        display.write_line(f"saved in {folder}; write with: charrnn sample -m {folder}")


@app.command()
def sample(
    model: Annotated[
        Path | None, _option("-m", "--model", help="A run's folder or its model file. [default: the newest run under runs/]")
    ] = None,
    prime: Annotated[
        str | None, _option("-p", "--prime", help="Text to go on from; it is printed first. A pipe does the same.")
    ] = None,
    prime_file: Annotated[Path | None, _option("--prime-file", help="The same from a file.")] = None,
    length: Annotated[
        int | None,
        _option("-n", "--length", help="Characters to write; of a line or paragraph at most. [default: 500 or 1000]"),
    ] = None,
    temperature: Annotated[
        float, _option("-t", "--temperature", help="Below 1 plainer, above 1 wilder; 0 is greedy. [default: 1]")
    ] = 1.0,
    top_k: Annotated[int, _option("--top-k", help="Draw from the K likeliest characters only; 0 is all. [default: 0]")] = 0,
    top_p: Annotated[
        float, _option("--top-p", help="Draw from the likeliest characters that reach this probability. [default: 1]")
    ] = 1.0,
    greedy: Annotated[bool, _option("--greedy", help="Always take the likeliest character.")] = False,
    seed: Annotated[int | None, _option("--seed", help="Repeats a text. [default: another each time]")] = None,
    count: Annotated[int, _option("--count", help="Texts to write, separated by a line of dashes. [default: 1]")] = 1,
    until: Annotated[str | None, _option("--until", help="End a text after it has written this.")] = None,
    novel: Annotated[
        bool, _option("--novel", help="Of a model of lines or paragraphs: only those that its text did not hold.")
    ] = False,
) -> None:
    """Write text with a model."""
    from charrnn.inference import Sampler
    from charrnn.reading import STDIN, read_text

    if prime is not None and prime_file is not None:
        raise CharrnnError("--prime and --prime-file exclude each other")
    if length is not None and length < 0:
        raise CharrnnError(f"--length {length} is below 0")
    if not 1 <= count <= 100_000:
        raise CharrnnError(f"--count {count} is not between 1 and 100000")
    if until == "":
        raise CharrnnError("--until is empty; name the text that ends a sample")
    if seed is not None and seed < 0:
        raise CharrnnError(f"--seed {seed} is below 0")
    sampler = Sampler(temperature, top_k, top_p, greedy)
    loaded = _load(model)
    if prime_file is not None or (prime is None and _piped()):
        source = str(prime_file) if prime_file is not None else STDIN
        try:
            prime = read_text([source])[0]
        except CharrnnError as error:
            if source != STDIN or "empty" not in str(error):
                raise
    prime = prime or ""
    if novel and not loaded.records:
        raise CharrnnError(f"--novel: {loaded.path} is not a model of lines or paragraphs")
    unknown = loaded.unknown(prime)
    if unknown:
        fate = "skipped in the prime" if loaded.vocabulary.unknown is None else "read as its unknown symbol"
        display.write_line(f"warning: the model has never seen {', '.join(map(repr, unknown[:20]))}; {fate}")
    if loaded.records:
        if until is not None:
            raise CharrnnError(f"--until: {loaded.path} ends each {loaded.records} itself")
        _write_records(loaded, prime, 1000 if length is None else length, sampler, seed, count, novel)
        return
    length = 500 if length is None else length
    write = _writer()
    rest: list[list[str]] = [[] for _ in range(count)]  # texts 2, 3, ... wait until the first has been written
    ends = [""] * count  # the last characters of each, in which `until` is looked for
    write(prime)
    for characters in loaded.generate(prime, length, sampler, seed, count):
        for k, character in enumerate(characters):
            if until is not None:
                if ends[k] == until:
                    continue
                ends[k] = (ends[k] + character)[-len(until) :]
            if k == 0:
                write(character)
            else:
                rest[k].append(character)
        if until is not None and all(end == until for end in ends):
            break
    for text in rest[1:]:
        write("\n" + "-" * 20 + "\n" + prime + "".join(text))
    if sys.stdout.isatty():
        write("\n")


@app.command()
def eval(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...", help="Files and folders of text; '-' or a pipe for standard input.", show_default=False
        ),
    ] = None,
    model: Annotated[
        Path | None, _option("-m", "--model", help="A run's folder or its model file. [default: the newest run under runs/]")
    ] = None,
    encoding: Annotated[str, _option("--encoding", help="The text's encoding. [default: utf-8]")] = "utf-8",
    as_json: Annotated[bool, _option("--json", help="Print one JSON object.")] = False,
    worst: Annotated[
        int,
        _option(
            "--worst", metavar="N", help="Print the N lines or paragraphs that surprise a model of such most. [default: 0]"
        ),
    ] = 0,
) -> None:
    """Say how well a model knows a text, in bits per character."""
    from charrnn.reading import STDIN, read_corpus
    from charrnn.records import split

    sources = list(text or ([STDIN] if _piped() else []))
    if not sources:
        raise CharrnnError("no text: name files or folders, or pipe one in")
    if worst < 0:
        raise CharrnnError(f"--worst {worst} is below 0")
    loaded = _load(model)
    if worst and not loaded.records:
        raise CharrnnError(f"--worst: {loaded.path} is not a model of lines or paragraphs")
    with display.WorkDisplay() as reading:
        corpus = read_corpus(sources, encoding, reading.progress)
    records, notes = split(corpus.text(), loaded.records) if loaded.records else ([], [])
    for note in corpus.notes + notes:
        display.write_line(f"note: {note}")
    with display.WorkDisplay("scoring", "million characters") as scoring:
        scored = loaded.score(corpus, scoring.progress)
    figures = scored.to_dict()
    surprising = [{"bits": bits, loaded.records: records[k]} for k, bits in scored.worst(worst)] if worst else []
    if as_json:
        print(json.dumps(figures | {"worst": surprising} if worst else figures))
    else:
        shown = {
            name.replace("_", " "): f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
            for name, value in figures.items()
        }
        display.print_scores(shown)
        if surprising:
            display.print_surprises(
                f"   bits {loaded.records}", [(found["bits"], found[loaded.records]) for found in surprising]
            )


@app.command()
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
        _option("--target", metavar="NAME|NUMBER", help="The column to forecast. [default: the last one of numbers]"),
    ] = None,
    columns: Annotated[
        str | None, _option("--columns", metavar="A,B,...", help="The columns to read. [default: all of numbers]")
    ] = None,
    reverse: Annotated[bool, _option("--reverse", help="The table begins with its newest row.")] = False,
    encoding: Annotated[str, _option("--encoding", help="The table's encoding. [default: utf-8]")] = "utf-8",
    window: Annotated[int, _option("--window", help="Rows that a forecast is made from. [default: 7]")] = 7,
    horizon: Annotated[int, _option("--horizon", help="Rows ahead that it is made for. [default: 1]")] = 1,
    cell: Annotated[str, _option("--cell", help="lstm, gru or rnn. [default: lstm]")] = "lstm",
    layers: Annotated[
        int, _option("--layers", help="Stacked recurrent layers; 0 is a linear function of the last row. [default: 1]")
    ] = 1,
    hidden_size: Annotated[int, _option("--hidden-size", help="Units in each layer. [default: 10]")] = 10,
    steps: Annotated[
        int,
        _option(
            "--steps",
            help="Steps of learning; the one that forecasts the last fifth of the training rows best is kept. [default: 500]",
        ),
    ] = 500,
    learning_rate: Annotated[float, _option("--learning-rate", help="Adam's step size. [default: 0.01]")] = 0.01,
    validation: Annotated[
        float,
        _option("--validation", metavar="FRACTION", help="The share of rows held out, the last ones. [default: 0.3]"),
    ] = 0.3,
    seed: Annotated[int, _option("--seed", help="Where all randomness begins. [default: 0]")] = 0,
    model: Annotated[Path | None, _option("-m", "--model", help="Forecast with this kept model; all rows are scored.")] = None,
    out: Annotated[Path | None, _option("-o", "--out", help="Keep the model in this folder.")] = None,
    force: Annotated[bool, _option("--force", help="Replace the model in that folder.")] = False,
    save: Annotated[
        Path | None, _option("--save", metavar="FILE", help="Write truth, forecast and naive forecast as a table.")
    ] = None,
    plot: Annotated[
        Path | None, _option("--plot", metavar="FILE", help="Draw them (.png, .svg or .pdf); takes charrnn[plot].")
    ] = None,
    as_json: Annotated[bool, _option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, _option("-q", "--quiet", help="Print no notes and no progress.")] = False,
) -> None:
    """Forecast a column of numbers, and say how well beside the naive forecast: the value stays as it is."""
    from charrnn.checkpoint import write_atomically
    from charrnn.forecast import MODEL, Forecaster, Settings, training_rows
    from charrnn.reading import STDIN
    from charrnn.table import read_series, write_table

    source = table or (STDIN if _piped() else None)
    if source is None:
        raise CharrnnError("no table: name a file, or pipe one in")
    if plot is not None:
        display.require_plotting(plot)
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
            display.write_line(f"note: {note}")
    if model is None:
        if out is not None:
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CharrnnError(f"{out} can't be made: {error.strerror or error}", 1) from None
        interrupted = _Signals()
        with display.WorkDisplay("learning", "steps", quiet, scale=1) as working:
            for event in network.learn(series):
                working.progress(event.step, event.steps)
                if interrupted.signal:
                    break
        if interrupted.signal:
            display.write_line(f"stopped at step {event.step}; nothing is kept")
            raise typer.Exit(128 + interrupted.signal)
    forecasts = network.forecast(series)
    figures = network.report(series, forecasts, first)
    moments, lines = network.lines(series, forecasts, first)
    if out is not None:
        network.save(out)
    if save is not None:
        write_table(save, [series.moment, series.target_name, "forecast", "naive"], moments, lines)
    if plot is not None:
        write_atomically(plot, display.draw_plot(plot.suffix, series.target_name, lines))
    if as_json:
        print(json.dumps(figures))
        return
    display.print_forecast(figures, "held-out rows" if model is None else "rows")
    if sys.stdout.isatty():
        display.print_plot(lines[0], lines[1])


def main() -> None:
    """Run the program on `sys.argv` and exit with its status: 0, 1 (failed), 2 (unusable input), 128 + a signal's number."""
    try:
        if "--version" in sys.argv[1:2]:
            print(f"charrnn {charrnn.__version__}")
            status = 0
        else:
            status = app(standalone_mode=False, prog_name="charrnn") or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone: nothing is wrong
        status = 0
    except KeyboardInterrupt:
        status = 130
    except CharrnnError as error:
        status = _fail(str(error), error.exit_status)
    except MemoryError:
        status = _fail(OUT_OF_MEMORY, 1)
    except OSError as error:
        status = _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except Exception as error:
        if not hasattr(error, "exit_code"):
            status = _fail(_describe_fault(error), 1)
        else:
            message = error.format_message() if hasattr(error, "format_message") else str(error)  # a usage error of Typer's
            status = _fail(message.rstrip("."), error.exit_code) if message else error.exit_code
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # what can't be written now can't be at the interpreter's end either, which would say so at length
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


def _describe_fault(error: Exception) -> str:
    """One line for an exception that nobody foresaw: what it is and where it arose."""
    if "can't allocate memory" in str(error) or "out of memory" in str(error).lower():
        return OUT_OF_MEMORY
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"charrnn has a fault: {type(error).__name__} in {Path(where.filename).name}, line {where.lineno}: {error}"


def _fail(message: str, status: int) -> int:
    display.write_line(f"error: {message}")
    return status


class _Signals:
    """Remembers Ctrl-C, SIGTERM and SIGHUP for the training loop, which saves and ends; a second one ends at once."""

    def __init__(self) -> None:
        self.signal = 0
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._remember)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            display.show_cursor()
            os._exit(128 + number)
        self.signal = number


def _piped() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


def _load(path: Path | None) -> Any:
    from charrnn.inference import load

    model = load(path)
    if path is None:
        display.write_line(f"model: {model.path}")
    return model


def _run_folder(sources: list[str]) -> Path:
    """The newest run that `--resume` can mean: of the named corpus, or of all."""
    from charrnn.reading import STDIN

    name = "stdin" if sources == [STDIN] else Path(sources[0]).resolve().stem if sources else ""
    runs = [p.parent for p in Path("runs").glob(f"{name}*/state.safetensors")]
    if not runs:
        raise CharrnnError(f"no run to resume under runs/{name}; name its folder with --out")
    return max(runs, key=lambda folder: (folder / "state.safetensors").stat().st_mtime)


def _write_records(model: Any, prime: str, length: int, sampler: Any, seed: int | None, count: int, novel: bool) -> None:
    """Print `count` records of a model of such, only novel ones where asked, out of at most TRIES times as many."""
    from charrnn.records import SEPARATORS

    write, separator = _writer(), SEPARATORS[model.records]
    prime = prime.removesuffix(separator)  # a pipe's last line break
    printed = dropped = 0
    for record in model.write_records(prime, length, sampler, seed, min(count, 64)):
        if novel and not model.is_novel(record):
            dropped += 1
        else:
            write(("" if not printed else separator[1:]) + record + "\n")
            printed += 1
        if printed == count or printed + dropped == TRIES * count:
            break
    if novel:
        display.write_line(f"dropped {dropped:,} {model.records}s that stand in the text that the model was given")
    if printed < count:
        display.write_line(
            f"warning: {printed:,} of {count:,}: the model repeats its text; it was asked {TRIES} times as often"
        )


def _describe(run: Any, folder: Path) -> str:
    r = run.recipe
    shape = f"{r.layers} x {r.hidden_size} {r.cell}" if r.layers else "softmax alone"
    text = f"{len(run.ids):,} characters"
    if len(run.validation_ids):
        text += f", validates on {len(run.validation_ids):,}"
    window = f"{r.batch_size} streams, windows of {r.seq_length}"
    if r.records:
        window = f"{r.batch_size} {r.records}s at a time, padding {run.windows.padding():.1%} of the steps"
    return (
        f"{folder}: {text}, vocabulary {len(run.vocabulary):,}; to read it about {r.passes:g} times takes "
        f"{shape}, embedding {r.embedding}, "
        f"{window}, dropout {r.dropout:g}, "
        f"learning rate {r.learning_rate:g}, {r.precision}"
    )


def _writer() -> Any:
    """A function that writes text to standard output byte for byte; on a terminal control characters are shown.

    What it writes is seen within a fiftieth of a second, as long as it is called; the rest when the program ends.
    """
    if sys.stdout is None:
        raise CharrnnError("standard output is closed", 1)
    raw, terminal = sys.stdout.buffer, sys.stdout.isatty()
    flushed = 0.0

    def write(text: str) -> None:
        nonlocal flushed
        raw.write((display.printable(text) if terminal else text).encode("utf-8", "surrogateescape"))
        if (now := time.monotonic()) - flushed > 0.02:
            raw.flush()
            flushed = now

    return write
