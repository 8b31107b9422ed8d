"""`charrnn train`."""

import contextlib
import ctypes
import glob
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.commands import common
from charrnn.commands.common import CellOption, SeedOption, argument, option
from charrnn.errors import SIGNALS, CharrnnError, Signals, leave
from charrnn.terminal import frame, output
from charrnn.training import distributed

if TYPE_CHECKING:
    from charrnn.options import Options
    from charrnn.training.run import Run

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of the C library's malloc.h
STARTED = time.monotonic() - 0.1  # the start of the process: interpreter and imports have taken about 0.1 s

ENCODING = "Encoding of the text; `bytes` makes each byte a character. [default: utf-8]"
NEWLINES = "`universal` reads CRLF and CR as line breaks, `keep` leaves them as they are. [default: universal]"
BY_LINE = "Make each line a separate sequence, as for a list of names. Validates on random lines."
BY_PARAGRAPH = "Make each paragraph a separate sequence. Blank lines separate paragraphs. Validates on random paragraphs."
MAX_VOCABULARY = "Keep the N most frequent characters; replace the others by one unknown token. [default: all]"
VALIDATION = "Held-out text to validate on: a fraction of the text, taken from its end, or a file. 0 trains on everything. "
VALIDATION += "[default: 0.1, but at most 250,000 characters; 0 below 1,000 characters]"
FOR = "Train for this time, such as 30s, 5m or 1h30m. The learning rate falls to zero by its end. [default: 5m]"
EPOCHS = "Train for N epochs (passes over the text) instead."
STEPS = "Train for N steps (batches) instead. The same seed then gives the same model."
LAYERS = "Number of stacked recurrent layers; 0 leaves only the softmax layer. [default: chosen]"
HIDDEN_SIZE = "Units in each layer. Twice as many take four times the work. [default: chosen]"
EMBEDDING = "Size of the character embedding; 0 feeds one-hot vectors. [default: 32]"
DROPOUT = "Dropout rate. Small texts need more. [default: chosen]"
INIT_FROM = "Fine-tune this model: a run's name or folder, a model file, or `english`, the base model. "
INIT_FROM += "Its cell and sizes are kept; with --layers 1, only its first layer is used. Characters that it lacks are added."
SEQ_LENGTH = "Sequence length: gradients flow back through N characters. [default: chosen]"
BATCH_SIZE = "Sequences in a batch. [default: chosen]"
LEARNING_RATE = "Peak learning rate of Adam; Muon's is four times as high. [default: chosen]"
THREADS = "CPU threads; they change the speed, not the result. [default: one for each core]"
PRECISION = "Floating-point format. auto takes bfloat16 where the hardware is fast at it. [default: auto]"
OUT = "The run's folder, for the model and its checkpoint. [default: runs/NAME, named after the text's file]"
RESUME = "Continue the run in that folder, or the newest run. --for, --epochs and --steps are totals for the whole run."
TENSORBOARD = "Also write logs for TensorBoard; needs charrnn[tensorboard]."


def train(
    corpus: Annotated[list[str] | None, argument("[CORPUS]...", help=common.TEXTS)] = None,
    encoding: Annotated[str, option(ENCODING, "NAME", group="Data")] = "utf-8",
    newlines: Annotated[str, option(NEWLINES, "universal|keep")] = "universal",
    by_line: Annotated[bool, option(BY_LINE, names="--by-line")] = False,
    by_paragraph: Annotated[bool, option(BY_PARAGRAPH, names="--by-paragraph")] = False,
    max_vocabulary: Annotated[int | None, option(MAX_VOCABULARY, "N")] = None,
    validation: Annotated[str | None, option(VALIDATION, "FRACTION|FILE")] = None,
    for_: Annotated[str | None, option(FOR, "TIME", names="--for", group="Length")] = None,
    epochs: Annotated[float | None, option(EPOCHS, "N")] = None,
    steps: Annotated[int | None, option(STEPS, "N")] = None,
    cell: CellOption = "lstm",
    layers: Annotated[int | None, option(LAYERS, "N")] = None,
    hidden_size: Annotated[int | None, option(HIDDEN_SIZE, "N")] = None,
    embedding: Annotated[int | None, option(EMBEDDING, "N")] = None,
    dropout: Annotated[float | None, option(DROPOUT, "RATE")] = None,
    init_from: Annotated[Path | None, option(INIT_FROM, "MODEL", complete=common.complete_model)] = None,
    seq_length: Annotated[int | None, option(SEQ_LENGTH, "N", group="Optimization")] = None,
    batch_size: Annotated[int | None, option(BATCH_SIZE, "N")] = None,
    learning_rate: Annotated[float | None, option(LEARNING_RATE, "RATE")] = None,
    seed: SeedOption = 0,
    threads: Annotated[int | None, option(THREADS, "N")] = None,
    device: Annotated[str, option("Device to train on. [default: auto]", "auto|cpu|cuda|mps")] = "auto",
    precision: Annotated[str, option(PRECISION, "auto|float32|bfloat16")] = "auto",
    out: Annotated[Path | None, option(OUT, "FOLDER", names="-o --out", group="Output")] = None,
    resume: Annotated[bool, option(RESUME, names="--resume")] = False,
    force: Annotated[bool, option("Start again in that folder and replace the run in it.", names="--force")] = False,
    tensorboard: Annotated[bool, option(TENSORBOARD, names="--tensorboard")] = False,
    quiet: Annotated[bool, option("Print errors only.", names="-q --quiet")] = False,
) -> None:
    """Train a model on a text. The model with the lowest validation loss is saved.

    Whatever you leave out is chosen for you, from the size of your text, the time you allow and a quick speed test.

    Examples:
    charrnn train corpus.txt
    charrnn train corpus.txt --for 1h --hidden-size 512 -o runs/large
    charrnn train names.txt --by-line --epochs 20
    charrnn train letters.txt --init-from english --for 2m
    """
    from charrnn.options import Options, parse_duration, require
    from charrnn.run_folder import find_model

    require(not (by_line and by_paragraph), "--by-line and --by-paragraph can't be combined")
    held_out: str | float | None = validation
    if validation is not None:
        with contextlib.suppress(ValueError):  # it is a file
            held_out = float(validation)
        there = isinstance(held_out, float) or validation == "-" or Path(validation).exists()
        require(there, f"--validation {validation} does not exist; name a file, or a fraction such as 0.1")
    seconds = parse_duration(for_) if for_ is not None else None
    if seconds is epochs is steps is None and not resume:
        seconds = 300.0
    options = Options(
        seconds=seconds,
        epochs=epochs,
        steps=steps,
        cell=cell,
        num_layers=layers,
        hidden_size=hidden_size,
        embedding_size=embedding,
        seq_length=seq_length,
        batch_size=batch_size,
        dropout=dropout,
        learning_rate=learning_rate,
        validation=held_out,
        seed=seed,
        device=device,
        precision=precision,
        encoding=encoding,
        newlines=newlines,
        max_vocabulary=max_vocabulary,
        records="line" if by_line else "paragraph" if by_paragraph else None,
        threads=threads,
    )
    sources = list(corpus or []) if resume else common.require_sources(corpus)
    if resume:
        kept = Options(seconds=seconds, epochs=epochs, steps=steps, device=device, threads=threads)
        same = (options, init_from, force) == (kept, None, False)
        require(same, "--resume keeps the run's own options; only --for, --epochs, --steps, --device and --threads can change")
    common.require_texts(sources, None, "train")
    if tensorboard:
        common.require_extra("tensorboard", "--tensorboard", "tensorboard")
    if init_from is not None:
        find_model(init_from)  # report a mistake before torch is imported
    if not quiet and distributed.is_main():
        output.write_line(f"loading PyTorch, reading {_name_sources(sources, out=out, resume=resume)}")
    with distributed.join(_abandon) as group:
        quiet = quiet or group.rank > 0
        keep_memory()
        run = _open_run(sources, options, out, init_from=init_from, resume=resume, force=force, group=group, quiet=quiet)
        _train(run, options, quiet=quiet, tensorboard=tensorboard and group.rank == 0)


def _abandon(message: str) -> None:
    if distributed.is_main():
        output.write_line(f"error: {message}")
    leave(1)


def _train(run: "Run", options: "Options", quiet: bool, tensorboard: bool) -> None:
    """Train as one rank of a group. Rank 0 shows the progress, on the terminal and in TensorBoard files if asked for."""
    from charrnn.terminal.live import TrainingDisplay

    if tensorboard:
        from charrnn.terminal.tensorboard import Board
    if options.seconds is options.epochs is options.steps is None:
        options = run.origin.options  # the length of the run as it was started
    begun = run.step
    again = run.group.size > 1 or distributed.find_job() is not None  # torchrun may send its ranks a signal a second time
    display = TrainingDisplay(quiet, run.history)
    board = Board(run.folder.path, run.step) if tensorboard else None
    with Signals(SIGNALS, second=None if again else lambda number: leave(128 + number)) as interrupted:
        with display, board or contextlib.nullcontext():
            for event in run.events(options, started=STARTED, stop=lambda: interrupted.number != 0):
                if board is not None:
                    board.add(event)
                with contextlib.suppress(OSError):  # go on if the terminal is gone
                    display.show(event)
        signal = max(run.group.all_gather(interrupted.number))
        if not quiet or (signal and run.group.rank == 0):
            _print_end(run, signal=signal, idle=run.step == begun, quiet=quiet)
    if signal:
        raise typer.Exit(128 + signal)


def keep_memory() -> None:
    """Have the GNU C library keep freed memory: to get each window's from the system costs up to a quarter of the time."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems' libraries have no such call
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)  # threads' own arenas would give their memory back all the same


def _open_run(
    sources: list[str],
    options: "Options",
    out: Path | None,
    init_from: Path | None,
    resume: bool,
    force: bool,
    group: distributed.Group,
    quiet: bool,
) -> "Run":
    """Create or resume the run, and print its description."""
    with common.import_quickly():
        from charrnn.training.run import Run

    with group.raise_together(), frame.WorkDisplay(quiet=quiet) as reading:
        group.require_same(asdict(options) | {"--resume": resume, "--force": force, "--init-from": init_from})
        begun = group.broadcast(lambda: _find_begun(sources, out, resume))
        watch = reading.progress
        if begun is not None:
            run = Run.resume(begun, sources, device=options.device, threads=options.threads, watch=watch, group=group)
            if not resume:
                run.notes.insert(0, f"this job continues from step {run.step:,} of {begun}")
        else:
            run = Run.create(sources, options, out=out, init_from=init_from, force=force, watch=watch, group=group)
    if not quiet:
        for line in (*(f"note: {note}" for note in run.notes), *_describe(run, options)):
            output.write_wrapped(line)
    return run


def _name_sources(sources: list[str], out: Path | None, resume: bool) -> str:
    """Describe what is being read."""
    from charrnn.text.reading import show_source

    if resume:
        return f"the run in {out}" if out is not None else "the newest run"
    names = [show_source(source) for source in sources]
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _find_begun(sources: list[str], out: Path | None, resume: bool) -> Path | None:
    """The folder of the run to resume, if there is one.

    With `resume`: `out`, or the newest run of the named corpus, or the newest of all. Without it: the run that this job of
    torchrun started before its ranks were restarted. Raises: CharrnnError if `resume` finds none.
    """
    from charrnn.checkpoint import read_state
    from charrnn.run_folder import STATE, find_resumable
    from charrnn.training.sources import name_run, name_sources

    name = name_run(sources) if sources else ""
    if resume:
        return out if out is not None else find_resumable(name, *name_sources(sources)[:1])
    if not distributed.is_job_restarted():
        return None
    for folder in [out] if out is not None else Path("runs").glob(f"{glob.escape(name)}*"):
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
        if len(dataset.text.held_out) > len(dataset.validation_ids):
            text += f" of {len(dataset.text.held_out):,} held out"
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
        begin = f"nothing to train: {name} has reached that length; {longer.split()[0]} counts from the beginning"
        output.write_line(common.as_called(f"{begin}: charrnn {resume}"))
    advice = f"; continue with: charrnn {resume}" if signal else f"; generate text with: charrnn sample -m {name}"
    output.write_line(common.as_called(f"saved in {run.folder.path}{'' if terminal else advice}"))
    if not terminal:
        return
    commands = [(resume, "continue" + (", with the same text piped in" if piped else ""))]
    if run.step:
        commands = [(f"sample -m {name}", "generate"), (f"eval TEXT -m {name}", "score a text"), *commands]
    commands = [(common.as_called(f"  charrnn {command}"), what) for command, what in commands]
    width = max(len(command) for command, _ in commands)
    if width + len("  # score a text") > output.terminal_size()[0]:
        width = 0
    for command, what in commands:
        output.write_line(f"{command:<{width}}  # {what}")
