"""`charrnn train`."""

import contextlib
import glob
import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.commands import common
from charrnn.commands.common import CellOption, SeedOption, Signals, argument, option
from charrnn.errors import CharrnnError, leave
from charrnn.terminal import frame, output
from charrnn.training import distributed

if TYPE_CHECKING:
    from charrnn.options import Options
    from charrnn.training.run import Run

STARTED = time.monotonic() - 0.1  # the interpreter and these imports have taken about that long already

MAX_VOCABULARY = "Learn the N most frequent characters only; the rest becomes one unknown symbol. [default: all]"
BY_LINE = "Learn each line as a sequence of its own; held out are whole lines at random."
BY_PARAGRAPH = "The same for records that blank lines separate, such as conversations."
VALIDATION = "What is held out to validate on: a fraction of the text's end, or a file. 0 trains on all. "
VALIDATION += "[default: 0.1, and 0 of less than 1,000 characters]"
FOR = "Train so long (30s, 5m, 1h30m); the learning rate is annealed to fit. [default: 5m]"
LAYERS = "Stacked recurrent layers; more learn more and slower; 0 is the softmax layer alone. [default: chosen]"
HIDDEN_SIZE = "Units in each layer; twice as many take four times the work. [default: chosen]"
SEQ_LENGTH = "Characters that gradients flow back through; longer learns longer patterns in fewer steps. [default: chosen]"
BATCH_SIZE = "Streams read side by side; more read faster, in fewer steps. [default: chosen]"
DROPOUT = "The chance that a unit is silenced; higher where a small text is read often. [default: chosen]"
LEARNING_RATE = "Adam's highest step size (Muon's: four times it); too high diverges, too low is slow. [default: chosen]"
PRECISION = "auto, float32 or bfloat16 (faster where the processor has it). [default: auto]"
THREADS = "Cores to train on; they change the time it takes and nothing else. [default: all that the program may use]"
INIT_FROM = "Fine-tune this model: a run's folder, a model file or `english`; new characters are added to its vocabulary."
TENSORBOARD = "Write figures and samples for TensorBoard too; takes charrnn[tensorboard]."


def train(
    corpus: Annotated[list[str] | None, argument("[CORPUS]...", help=common.TEXTS)] = None,
    encoding: Annotated[str, option("The text's encoding; bytes takes each byte for a character. [default: utf-8]")] = "utf-8",
    max_vocabulary: Annotated[int | None, option(MAX_VOCABULARY, metavar="N")] = None,
    by_line: Annotated[bool, option(BY_LINE, names="--by-line")] = False,
    by_paragraph: Annotated[bool, option(BY_PARAGRAPH, names="--by-paragraph")] = False,
    validation: Annotated[str | None, option(VALIDATION, metavar="FRACTION|FILE")] = None,
    for_: Annotated[str | None, option(FOR, names="--for", metavar="TIME")] = None,
    epochs: Annotated[float | None, option("Train so many passes over the text instead.")] = None,
    steps: Annotated[int | None, option("Train so many windows instead; with one seed, runs repeat exactly.")] = None,
    cell: CellOption = "lstm",
    layers: Annotated[int | None, option(LAYERS)] = None,
    hidden_size: Annotated[int | None, option(HIDDEN_SIZE)] = None,
    embedding: Annotated[int | None, option("Learned numbers per character; 0 feeds one-hot vectors. [default: 32]")] = None,
    seq_length: Annotated[int | None, option(SEQ_LENGTH)] = None,
    batch_size: Annotated[int | None, option(BATCH_SIZE)] = None,
    dropout: Annotated[float | None, option(DROPOUT)] = None,
    learning_rate: Annotated[float | None, option(LEARNING_RATE)] = None,
    seed: SeedOption = 0,
    threads: Annotated[int | None, option(THREADS, metavar="N")] = None,
    device: Annotated[str, option("auto, cpu, cuda or mps. [default: auto]")] = "auto",
    precision: Annotated[str, option(PRECISION)] = "auto",
    out: Annotated[Path | None, option("The run's folder. [default: runs/NAME after the corpus]", names="-o --out")] = None,
    resume: Annotated[bool, option("Continue the run in that folder where it stopped.", names="--resume")] = False,
    force: Annotated[bool, option("Start anew in that folder; the run in it is replaced.", names="--force")] = False,
    init_from: Annotated[Path | None, option(INIT_FROM, metavar="MODEL", complete=common.complete_model)] = None,
    tensorboard: Annotated[bool, option(TENSORBOARD, names="--tensorboard")] = False,
    quiet: Annotated[bool, option("Print nothing but errors.", names="-q --quiet")] = False,
) -> None:
    """Learn a text and keep the best model by validation loss.

    Options that are not given are chosen from the size of the text and the length of the training.
    """
    from charrnn.options import Options, parse_duration, require

    require(not (by_line and by_paragraph), "--by-line and --by-paragraph exclude each other")
    held_out: str | float | None = validation
    if validation is not None:
        with contextlib.suppress(ValueError):  # it names a file
            held_out = float(validation)
    seconds = parse_duration(for_) if for_ is not None else None
    if seconds is epochs is steps is None and not resume:
        seconds = 300.0
    records = "line" if by_line else "paragraph" if by_paragraph else None
    begin = Options(seconds=seconds, epochs=epochs, steps=steps, device=device, threads=threads)
    options = replace(begin, cell=cell, precision=precision, encoding=encoding, records=records)
    options = replace(options, num_layers=layers, hidden_size=hidden_size, embedding_size=embedding, seq_length=seq_length)
    options = replace(options, batch_size=batch_size, seed=seed, max_vocabulary=max_vocabulary)
    options = replace(options, dropout=dropout, learning_rate=learning_rate, validation=held_out)
    sources = list(corpus or []) if resume else common.require_sources(corpus)
    if resume:
        same = (options, init_from, force) == (begin, None, False)
        require(same, "--resume keeps the run's own options; only --for, --epochs, --steps, --device and --threads go with it")
    if tensorboard:
        common.require_extra("tensorboard", "--tensorboard", "tensorboard")
    request = Request(options, sources, out=out, init_from=init_from, resume=resume, force=force)
    with distributed.join(_abandon) as group:
        _train(request, group, quiet=quiet or group.rank > 0, tensorboard=tensorboard and group.rank == 0)


def _abandon(message: str) -> None:
    if distributed.is_main():
        output.write_line(f"error: {message}")
    leave(1)


@dataclass(frozen=True)
class Request:
    """Which run the command line asks for."""

    options: "Options"
    sources: list[str]
    out: Path | None
    init_from: Path | None
    resume: bool
    force: bool


def _train(request: Request, group: distributed.Group, quiet: bool, tensorboard: bool) -> None:
    """Train as one of a group; the first rank shows how it goes, on the terminal and, where asked for, to TensorBoard."""
    from charrnn.terminal.live import TrainingDisplay
    from charrnn.training.device import keep_memory

    if tensorboard:
        from charrnn.terminal.tensorboard import Board
    keep_memory()
    run = _open_run(request, group, quiet)
    folder = run.folder.path
    options = request.options
    if options.seconds is options.epochs is options.steps is None:
        options = run.origin.options  # on to the length that the run had
    interrupted = Signals(again=group.size > 1 or distributed.find_job() is not None)
    display = TrainingDisplay(quiet, run.history)
    with display, Board(folder, run.step) if tensorboard else contextlib.nullcontext() as board:
        for event in run.events(options, started=STARTED, stop=lambda: interrupted.signal != 0):
            if board is not None:
                board.add(event)
            with contextlib.suppress(OSError):  # a terminal that has gone is no reason to stop
                display.show(event)
    signal = max(group.all_gather(interrupted.signal))
    name = shlex.quote(str(folder))
    terminal = not quiet and output.on_terminal()
    if signal and group.rank == 0:
        advice = "" if terminal else f"; continue with --resume -o {name}"
        output.write_line(f"stopped at step {run.step}; saved in {folder}{advice}")
    elif not quiet:
        advice = "" if terminal else f"; write with: charrnn sample -m {name}"
        output.write_line(common.as_called(f"saved in {folder}{advice}"))
    if terminal:
        _print_next(run, length="" if signal else _double_length(options))
    if signal:
        raise typer.Exit(128 + signal)


def _open_run(request: Request, group: distributed.Group, quiet: bool) -> "Run":
    """Begin the run, or take it up again, and describe it."""
    from charrnn.training.run import Run

    options, out, init_from, force = request.options, request.out, request.init_from, request.force
    with group.raise_together(), frame.WorkDisplay(quiet=quiet) as reading:
        group.require_same(asdict(options) | {"--resume": request.resume, "--force": force, "--init-from": init_from})
        begun = group.broadcast(lambda: _find_begun(request))
        if begun is not None:
            run = Run.resume(
                begun, request.sources, device=options.device, threads=options.threads, watch=reading.progress, group=group
            )
            if not request.resume:
                run.notes.insert(0, f"this job goes on from step {run.step:,} of {begun}")
        else:
            run = Run.create(
                request.sources, options, out=out, init_from=init_from, force=force, watch=reading.progress, group=group
            )
    if not quiet:
        for said in (*(f"note: {note}" for note in run.notes), _describe(run)):
            output.write_wrapped(said)
    return run


def _print_next(run: "Run", length: str) -> None:
    """Print what to type next, for the shell; `length` is the option for how long a run that has ended may go on."""
    from charrnn.text.reading import STDIN

    name = shlex.quote(str(run.folder.path))
    piped = STDIN in run.origin.sources
    resume = f"train {'- ' if piped else ''}--resume {length}-o {name}"
    commands = [(resume, "learn on" + (", with the same text piped in" if piped else ""))]
    if run.step:
        commands = [(f"sample -m {name}", "write"), (f"eval TEXT -m {name}", "score a text"), *commands]
    commands = [(common.as_called(f"  charrnn {command}"), what) for command, what in commands]
    width = max(len(command) for command, _ in commands)
    if width + len("  # score a text") > output.terminal_size()[0]:
        width = 0
    for command, what in commands:
        output.write_line(f"{command:<{width}}  # {what}")


def _double_length(options: "Options") -> str:
    """The option that asks for twice the length."""
    if options.seconds:
        return f"--for {output.duration(2 * options.seconds).removesuffix('00s')} "
    return f"--epochs {2 * options.epochs:g} " if options.epochs else f"--steps {2 * (options.steps or 0)} "


def _find_begun(request: Request) -> Path | None:
    """The folder of the run to take up again, if there is one.

    With `--resume` that is `out`, or the newest run of the named corpus, or of all. Without it, it is the run that the same
    job of torchrun began before its ranks were restarted. Raises: CharrnnError where `--resume` finds none.
    """
    from charrnn.checkpoint import read_state
    from charrnn.run_folder import STATE, find_resumable
    from charrnn.training.data import name_run

    name = name_run(request.sources) if request.sources else ""
    if request.resume:
        if request.out is not None:
            return request.out
        return find_resumable(name)
    if not distributed.is_job_restarted():
        return None
    for folder in [request.out] if request.out is not None else Path("runs").glob(f"{glob.escape(name)}*"):
        with contextlib.suppress(CharrnnError):
            if read_state(folder / STATE)[1].job == distributed.find_job():
                return folder
    return None


def _describe(run: "Run") -> str:
    """One line on the run: its text, and the recipe that was chosen."""
    from charrnn.training.batches import RecordBatches

    recipe = run.recipe
    dataset = run.dataset
    shape = f"{recipe.num_layers} x {recipe.hidden_size} {recipe.cell}" if recipe.num_layers else "softmax alone"
    text = f"{len(dataset.ids):,} characters"
    if len(dataset.validation_ids):
        text += f", validates on {len(dataset.validation_ids):,}"
    window = f"{recipe.batch_size} streams, windows of {recipe.seq_length}"
    if isinstance(run.batches, RecordBatches):
        window = f"{recipe.batch_size} {recipe.records}s at a time, padding {run.batches.padding():.1%} of the steps"
    return (
        f"{run.folder.path}: {text}, vocabulary {len(dataset.vocabulary):,}; to read it about {recipe.epochs:g} times takes "
        f"{shape}, embedding {recipe.embedding_size}, {window}, dropout {recipe.dropout:g}, "
        f"learning rate {recipe.learning_rate:g}, {recipe.precision}"
    )
