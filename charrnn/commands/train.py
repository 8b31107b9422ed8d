"""`charrnn train`."""

import contextlib
import glob
import shlex
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from charrnn import run_folder
from charrnn.commands.common import Signals, option, piped, require_extra
from charrnn.errors import CharrnnError
from charrnn.terminal import output, progress
from charrnn.training import distributed

STARTED = time.monotonic() - 0.1  # the interpreter and these imports have taken about that long already


def train(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CORPUS]...", help="Files and folders of text; '-' or a pipe for standard input.", show_default=False
        ),
    ] = None,
    encoding: Annotated[
        str, option("--encoding", help="The text's encoding; bytes takes each byte for a character. [default: utf-8]")
    ] = "utf-8",
    max_vocabulary: Annotated[
        int | None,
        option(
            "--max-vocabulary",
            metavar="N",
            help="Learn the N most frequent characters only; the rest becomes one unknown symbol. [default: all]",
        ),
    ] = None,
    by_line: Annotated[
        bool, option("--by-line", help="Learn each line as a sequence of its own; held out are whole lines at random.")
    ] = False,
    by_paragraph: Annotated[
        bool, option("--by-paragraph", help="The same for records that blank lines separate, such as conversations.")
    ] = False,
    validation: Annotated[
        str | None,
        option(
            "--validation",
            metavar="FRACTION|FILE",
            help="What is held out to validate on: a fraction of the text's end, or a file. 0 trains on all. "
            "[default: 0.1, and 0 of less than 1,000 characters]",
        ),
    ] = None,
    for_: Annotated[
        str | None,
        option(
            "--for", metavar="TIME", help="Train so long (30s, 5m, 1h30m); the learning rate is annealed to fit. [default: 5m]"
        ),
    ] = None,
    epochs: Annotated[float | None, option("--epochs", help="Train so many passes over the text instead.")] = None,
    steps: Annotated[
        int | None, option("--steps", help="Train so many windows instead; with one seed, runs repeat exactly.")
    ] = None,
    cell: Annotated[str, option("--cell", help="lstm, gru or rnn. [default: lstm]")] = "lstm",
    layers: Annotated[
        int | None,
        option(
            "--layers",
            help="Stacked recurrent layers; more learn more and slower; 0 is the softmax layer alone. [default: chosen]",
        ),
    ] = None,
    hidden_size: Annotated[
        int | None,
        option("--hidden-size", help="Units in each layer; twice as many take four times the work. [default: chosen]"),
    ] = None,
    embedding: Annotated[
        int | None, option("--embedding", help="Learned numbers per character; 0 feeds one-hot vectors. [default: 32]")
    ] = None,
    seq_length: Annotated[
        int | None,
        option(
            "--seq-length",
            help="Characters that gradients flow back through; longer learns longer patterns in fewer steps. [default: chosen]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        option("--batch-size", help="Streams read side by side; more read faster, in fewer steps. [default: chosen]"),
    ] = None,
    dropout: Annotated[
        float | None,
        option(
            "--dropout", help="The chance that a unit is silenced; higher where a small text is read often. [default: chosen]"
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        option(
            "--learning-rate",
            help="Adam's highest step size (Muon's: four times it); too high diverges, too low is slow. [default: chosen]",
        ),
    ] = None,
    seed: Annotated[int, option("--seed", help="Where all randomness begins. [default: 0]")] = 0,
    device: Annotated[str, option("--device", help="auto, cpu, cuda or mps. [default: auto]")] = "auto",
    precision: Annotated[
        str, option("--precision", help="auto, float32 or bfloat16 (faster where the processor has it). [default: auto]")
    ] = "auto",
    out: Annotated[Path | None, option("-o", "--out", help="The run's folder. [default: runs/NAME after the corpus]")] = None,
    resume: Annotated[bool, option("--resume", help="Continue the run in that folder where it stopped.")] = False,
    force: Annotated[bool, option("--force", help="Start anew in that folder; the run in it is replaced.")] = False,
    init_from: Annotated[
        Path | None, option("--init-from", metavar="MODEL", help="Begin with this model's weights and vocabulary.")
    ] = None,
    tensorboard: Annotated[
        bool, option("--tensorboard", help="Write figures and samples for TensorBoard too; takes charrnn[tensorboard].")
    ] = False,
    quiet: Annotated[bool, option("-q", "--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Learn a text and keep the best model by validation loss.

    Options that are not given are chosen from the size of the text and the length of the training.
    """
    from charrnn.options import Options, parse_duration
    from charrnn.text.reading import STDIN

    if by_line and by_paragraph:
        raise CharrnnError("--by-line and --by-paragraph exclude each other")
    held_out: str | float | None = None
    try:
        held_out = None if validation is None else float(validation)
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
    sources = list(corpus or ([STDIN] if piped() and not resume else []))
    if not sources and not resume:
        raise CharrnnError("no text: name files or folders, or pipe one in")
    if resume:
        kept = replace(Options(), seconds=seconds, epochs=epochs, steps=steps, device=device)
        if options != kept or init_from is not None or force:
            raise CharrnnError("--resume keeps the run's own options; only --for, --epochs, --steps and --device go with it")
    if tensorboard:
        require_extra("tensorboard", "--tensorboard", "tensorboard")
    with distributed.join() as group:
        _run(group, options, sources, out, resume, force, init_from, quiet or group.rank > 0, tensorboard)


def _run(
    group: distributed.Group,
    options: Any,
    sources: list[str],
    out: Path | None,
    resume: bool,
    force: bool,
    init_from: Path | None,
    quiet: bool,
    tensorboard: bool,
) -> None:
    """Train as one of a group; the first rank of it shows how it goes."""
    from charrnn.terminal.live import TrainingDisplay
    from charrnn.training.events import Progress, Setback
    from charrnn.training.run import Run

    with group.together(), progress.WorkDisplay(quiet=quiet) as reading:
        group.require_same({**asdict(options), "--resume": resume, "--force": force, "--init-from": init_from})
        begun = group.share(lambda: _run_folder(out, sources) if resume else _begun_by_this_job(out, sources))
        if begun is not None:
            run = Run.resume(begun, sources, options.device, reading.progress, group)
            notes = run.notes if resume else [f"this job goes on from step {run.step:,} of {begun}", *run.notes]
        else:
            run, notes = Run.create(sources, options, out, init_from, force, reading.progress, group)
    folder = run.out
    if options.seconds is options.epochs is options.steps is None:
        options = run.options  # on to the length that the run had
    if not quiet:
        for said in (*(f"note: {note}" for note in notes), _describe(run, folder)):
            for line in output.wrap_line(said):
                output.write_line(line)
    interrupted = Signals(again=group.size > 1 or distributed.job() is not None)
    with TrainingDisplay(quiet, run.history) as screen, _board(tensorboard and group.rank == 0, folder, run.step) as board:
        for event in run.events(options, STARTED, lambda: interrupted.signal != 0):
            if board is not None:
                board.add(event, run.learning_rate(event.fraction) if isinstance(event, Progress) else 0.0)
            with contextlib.suppress(OSError):  # a terminal that has gone is no reason to stop
                if isinstance(event, Progress):
                    speed = event.characters_per_second
                    screen.progress(event.fraction, event.seconds, event.seconds_left, speed, event.train_bits)
                elif isinstance(event, Setback):
                    screen.note(
                        f"the loss diverged at step {event.reached:,}: the run goes on from step {event.step:,} "
                        f"with the learning rate {event.learning_rate:g}"
                    )
                else:
                    screen.validation(event.record, event.fraction, event.best, event.sample)
    signal, terminal = max(group.meet(interrupted.signal)), not quiet and output.on_terminal()
    if signal and group.rank == 0:
        advice = "" if terminal else f"; continue with --resume -o {folder}"
        output.write_line(f"stopped at step {run.step}; saved in {folder}{advice}")
    elif not quiet:
        output.write_line(f"saved in {folder}" + ("" if terminal else f"; write with: charrnn sample -m {folder}"))
    if terminal:
        _print_next(run, folder, "" if signal else _twice(options))
    if signal:
        raise typer.Exit(128 + signal)


def _print_next(run: Any, folder: Path, length: str) -> None:
    """What to type next, for the shell; `length` is how long a run that has ended may go on."""
    from charrnn.text.reading import STDIN

    name = shlex.quote(str(folder))
    text = "- " if STDIN in run.origin["sources"] else ""
    commands = [(f"train {text}--resume {length}-o {name}", "learn on" + (", with the same text piped in" if text else ""))]
    if run.step:
        commands = [(f"sample -m {name}", "write"), (f"eval TEXT -m {name}", "score a text"), *commands]
    width = max(len(command) for command, _ in commands)
    if width + len("  charrnn   # score a text") > output.terminal_size()[0]:
        width = 0
    for command, what in commands:
        output.write_line(f"  charrnn {command:<{width}}  # {what}")


def _twice(options: Any) -> str:
    """The option that says twice the length."""
    if options.seconds:
        return f"--for {output.duration(2 * options.seconds).removesuffix('00s')} "
    return f"--epochs {2 * options.epochs:g} " if options.epochs else f"--steps {2 * options.steps} "


def _board(asked: bool, folder: Path, step: int) -> Any:
    """What writes for TensorBoard, where it is asked for: a context manager, which gives None otherwise."""
    if not asked:
        return contextlib.nullcontext()
    from charrnn.terminal.tensorboard import Board

    return Board(folder, step)


def _run_folder(out: Path | None, sources: list[str]) -> Path:
    """The run that `--resume` can mean: in `out`, or the newest one of the named corpus, or of all."""
    from charrnn.training.data import name_of

    if out is not None:
        return out
    name = name_of(sources) if sources else ""
    runs = [p.parent for p in Path("runs").glob(f"{glob.escape(name)}*/state.safetensors")]
    if not runs:
        raise CharrnnError(f"no run to resume under runs/{name}; name its folder with --out")
    return max(runs, key=lambda folder: (folder / "state.safetensors").stat().st_mtime)


def _begun_by_this_job(out: Path | None, sources: list[str]) -> Path | None:
    """The folder of the run that torchrun's job has begun already, before its ranks were started anew."""
    from charrnn import checkpoint
    from charrnn.training.data import name_of

    if not distributed.job_goes_on():
        return None
    for folder in [out] if out is not None else Path("runs").glob(f"{glob.escape(name_of(sources))}*"):
        with contextlib.suppress(CharrnnError):
            if checkpoint.read(folder / run_folder.STATE)[1].get("job") == distributed.job():
                return folder
    return None


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
