"""`charrnn train`."""

import contextlib
import glob
import shlex
import time
from collections.abc import Iterator
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

STARTED = time.monotonic() - 0.1  # the start of the process: interpreter and imports have taken about 0.1 s

NEWLINES = "universal reads CRLF and CR as line breaks; keep leaves them in the text. [default: universal]"
MAX_VOCABULARY = "Learn the N most frequent characters only; the rest becomes one unknown symbol. [default: all]"
BY_LINE = "Learn each line as a sequence of its own; whole lines are held out at random."
BY_PARAGRAPH = "The same for paragraphs, which blank lines separate, such as conversations."
VALIDATION = "What is held out to validate on: a fraction of the text's end, or a file. 0 trains on all. "
VALIDATION += "[default: 0.1, and 0 of less than 1,000 characters]"
FOR = "Train for this time (30s, 5m, 1h30m); the learning rate schedule fits it. [default: 5m]"
LAYERS = "Stacked recurrent layers; more learn more and are slower; 0: only the softmax layer. [default: chosen]"
HIDDEN_SIZE = "Units in each layer; twice as many take four times the work. [default: chosen]"
SEQ_LENGTH = "Sequence length: the characters that gradients flow back through. [default: chosen]"
BATCH_SIZE = "Sequences in a batch; more are faster per character, in fewer steps. [default: chosen]"
DROPOUT = "Dropout rate; higher for a small text and many epochs. [default: chosen]"
LEARNING_RATE = "Adam's highest learning rate (Muon's is four times it). [default: chosen]"
PRECISION = "auto, float32 or bfloat16 (faster where the processor has it). [default: auto]"
THREADS = "CPU threads; they change the speed, not the weights. [default: one for each core that it may use]"
INIT_FROM = "Fine-tune this model: a run's folder, a model file or `english`; new characters are added to its vocabulary."
TENSORBOARD = "Write figures and samples for TensorBoard too; takes charrnn[tensorboard]."


def train(
    corpus: Annotated[list[str] | None, argument("[CORPUS]...", help=common.TEXTS)] = None,
    encoding: Annotated[str, option("The text's encoding; bytes takes each byte for a character. [default: utf-8]")] = "utf-8",
    newlines: Annotated[str, option(NEWLINES)] = "universal",
    max_vocabulary: Annotated[int | None, option(MAX_VOCABULARY, metavar="N")] = None,
    by_line: Annotated[bool, option(BY_LINE, names="--by-line")] = False,
    by_paragraph: Annotated[bool, option(BY_PARAGRAPH, names="--by-paragraph")] = False,
    validation: Annotated[str | None, option(VALIDATION, metavar="FRACTION|FILE")] = None,
    for_: Annotated[str | None, option(FOR, names="--for", metavar="TIME")] = None,
    epochs: Annotated[float | None, option("Train for N epochs, passes over the text, instead.", metavar="N")] = None,
    steps: Annotated[int | None, option("Train for N steps instead; with one seed, runs repeat exactly.", metavar="N")] = None,
    cell: CellOption = "lstm",
    layers: Annotated[int | None, option(LAYERS)] = None,
    hidden_size: Annotated[int | None, option(HIDDEN_SIZE)] = None,
    embedding: Annotated[int | None, option("Size of the character embedding; 0: one-hot vectors. [default: 32]")] = None,
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

    Whatever you leave out is chosen for you, from the size of your text, the time you allow and a quick speed test.
    """
    from charrnn.options import Options, parse_duration, require
    from charrnn.run_folder import find_model

    require(not (by_line and by_paragraph), "--by-line and --by-paragraph exclude each other")
    held_out: str | float | None = validation
    if validation is not None:
        with contextlib.suppress(ValueError):  # it is a file
            held_out = float(validation)
    seconds = parse_duration(for_) if for_ is not None else None
    if seconds is epochs is steps is None and not resume:
        seconds = 300.0
    records = "line" if by_line else "paragraph" if by_paragraph else None
    begin = Options(seconds=seconds, epochs=epochs, steps=steps, device=device, threads=threads)
    options = replace(begin, cell=cell, precision=precision, encoding=encoding, newlines=newlines, records=records)
    options = replace(options, num_layers=layers, hidden_size=hidden_size, embedding_size=embedding, seq_length=seq_length)
    options = replace(options, batch_size=batch_size, seed=seed, max_vocabulary=max_vocabulary)
    options = replace(options, dropout=dropout, learning_rate=learning_rate, validation=held_out)
    sources = list(corpus or []) if resume else common.require_sources(corpus)
    if resume:
        same = (options, init_from, force) == (begin, None, False)
        require(same, "--resume keeps the run's own options; only --for, --epochs, --steps, --device and --threads go with it")
    common.require_texts(sources, None, "train")
    if tensorboard:
        common.require_extra("tensorboard", "--tensorboard", "tensorboard")
    if init_from is not None:
        find_model(init_from)  # report a mistake before torch is imported
    request = Request(options, sources, out=out, init_from=init_from, resume=resume, force=force)
    if not quiet and distributed.is_main():
        output.write_line(f"loading PyTorch, reading {_name_sources(request)}")
    with distributed.join(_abandon) as group:
        _train(request, group, quiet=quiet or group.rank > 0, tensorboard=tensorboard and group.rank == 0)


def _abandon(message: str) -> None:
    if distributed.is_main():
        output.write_line(f"error: {message}")
    leave(1)


@dataclass(frozen=True)
class Request:
    """The run that the command line asks for."""

    options: "Options"
    sources: list[str]
    out: Path | None
    init_from: Path | None
    resume: bool
    force: bool


def _train(request: Request, group: distributed.Group, quiet: bool, tensorboard: bool) -> None:
    """Train as one rank of a group. Rank 0 shows the progress, on the terminal and in TensorBoard files if asked for."""
    from charrnn.terminal.live import TrainingDisplay
    from charrnn.training.device import keep_memory

    if tensorboard:
        from charrnn.terminal.tensorboard import Board
    keep_memory()
    run = _open_run(request, group, quiet)
    options = request.options
    if options.seconds is options.epochs is options.steps is None:
        options = run.origin.options  # the length of the run as it was started
    begun = run.step
    interrupted = Signals(again=group.size > 1 or distributed.find_job() is not None)
    display = TrainingDisplay(quiet, run.history)
    with display, Board(run.folder.path, run.step) if tensorboard else contextlib.nullcontext() as board:
        for event in run.events(options, started=STARTED, stop=lambda: interrupted.signal != 0):
            if board is not None:
                board.add(event)
            with contextlib.suppress(OSError):  # go on if the terminal is gone
                display.show(event)
    signal = max(group.all_gather(interrupted.signal))
    if not quiet or (signal and group.rank == 0):
        _print_end(run, signal=signal, idle=run.step == begun, quiet=quiet)
    if signal:
        raise typer.Exit(128 + signal)


def _open_run(request: Request, group: distributed.Group, quiet: bool) -> "Run":
    """Create or resume the run, and print its description."""
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
        for said in (*(f"note: {note}" for note in run.notes), *_describe(run, options)):
            output.write_wrapped(said)
    return run


def _name_sources(request: Request) -> str:
    """Describe what is being read."""
    from charrnn.text.reading import STDIN

    if request.resume:
        return f"the run in {request.out}" if request.out is not None else "the newest run"
    names = ["standard input" if source == STDIN else source for source in request.sources]
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _find_begun(request: Request) -> Path | None:
    """The folder of the run to resume, if there is one.

    With `--resume`: `out`, or the newest run of the named corpus, or the newest of all. Without it: the run that this job of
    torchrun started before its ranks were restarted. Raises: CharrnnError if `--resume` finds none.
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


def _describe(run: "Run", options: "Options") -> Iterator[str]:
    """Describe the run in lines: text, network, training, and progress or length."""
    from charrnn.training.batches import RecordBatches

    dataset = run.dataset
    text = f"trains on {len(dataset.ids):,} characters"
    if len(dataset.validation_ids):
        text += f", validates on {len(dataset.validation_ids):,}"
    text += f"; vocabulary {len(dataset.vocabulary):,}"
    if isinstance(run.batches, RecordBatches):
        text += f"; padding {run.batches.padding():.1%}"
    yield f"{run.folder.path}: {text}"
    epochs = options.epochs or (options.steps or 0) / run.batches.per_epoch
    plan = output.count_epochs(epochs) if epochs else f"about {output.count_epochs(run.recipe.epochs)}"
    if run.step:
        spent = output.duration(run.counters.seconds)
        plan = f"continues after {output.count_epochs(run.epochs)} ({run.step:,} steps, {spent})"
    yield f"model: {run.recipe.describe()}; {plan}"


def _print_end(run: "Run", signal: int, idle: bool, quiet: bool) -> None:
    """Print where the run is saved and what to type next. `idle`: there was nothing left to train."""
    from charrnn.text.reading import STDIN

    name = shlex.quote(str(run.folder.path))
    piped = STDIN in run.origin.sources
    longer = "" if signal else common.longer(run.origin.options, run.recipe.max_epochs, run.counters, epochs=run.epochs) + " "
    resume = f"train {'- ' if piped else ''}--resume {longer}-o {name}"
    terminal = not quiet and output.on_terminal()
    if longer and idle:
        begin = f"nothing to train: {name} has that length already; {longer.split()[0]} counts from the beginning"
        output.write_line(common.as_called(f"{begin}: charrnn {resume}"))
    advice = f"; continue with: charrnn {resume}" if signal else f"; write with: charrnn sample -m {name}"
    output.write_line(common.as_called(f"saved in {run.folder.path}{'' if terminal else advice}"))
    if not terminal:
        return
    commands = [(resume, "train on" + (", with the same text piped in" if piped else ""))]
    if run.step:
        commands = [(f"sample -m {name}", "write"), (f"eval TEXT -m {name}", "score a text"), *commands]
    commands = [(common.as_called(f"  charrnn {command}"), what) for command, what in commands]
    width = max(len(command) for command, _ in commands)
    if width + len("  # score a text") > output.terminal_size()[0]:
        width = 0
    for command, what in commands:
        output.write_line(f"{command:<{width}}  # {what}")
