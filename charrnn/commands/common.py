"""Options, arguments and helpers shared by several commands."""

import contextlib
import gc
import glob
import os
import re
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charrnn.errors import SIGNALS, CharrnnError, leave
from charrnn.terminal import output

if TYPE_CHECKING:
    from charrnn.headers import Counters
    from charrnn.inference.model import Model
    from charrnn.options import Options


Complete = Callable[[str], list[str]]  # completes a word for the shell


def option(
    help: str, metavar: str | None = None, names: str = "", complete: Complete | None = None, group: str | None = None
) -> Any:
    """Make an option. `names` are its flags; default: "--" and the parameter's name. `metavar` is its value in the help.

    `group` is the heading above it and the options that follow without one.
    """
    flags = names.split()
    return typer.Option(*flags, help=help, metavar=metavar, autocompletion=complete, show_default=False, rich_help_panel=group)


def argument(metavar: str, help: str, complete: Complete | None = None) -> Any:
    return typer.Argument(metavar=metavar, help=help, autocompletion=complete, show_default=False)


def complete_forecast(incomplete: str) -> list[str]:
    """Complete the name of a forecast model in `runs/`, or a path; empty if none fits: the shell then completes paths."""
    from charrnn.run_folder import FORECAST, list_runs

    return _complete(list_runs(FORECAST), incomplete)


def complete_model(incomplete: str) -> list[str]:
    """Complete the name of a base model or run, or a path; empty if none fits: the shell then completes paths."""
    from charrnn.run_folder import list_bases, list_runs

    return _complete([*list_bases(), *list_runs()], incomplete)


def _complete(known: list[str], incomplete: str) -> list[str]:
    names = [name for name in known if name.startswith(incomplete)]
    return names + (sorted(glob.glob(glob.escape(incomplete) + "*")) if names else [])


MODEL = "The name or folder of a run, a model file, or `english`, the base model. [default: the newest run under runs/]"
TEXTS = "Text files and folders of them; '-' or a pipe for standard input."

ModelArgument = Annotated[Path | None, argument("[MODEL]", help=MODEL, complete=complete_model)]
ModelOption = Annotated[Path | None, option(MODEL, "MODEL", names="-m --model", complete=complete_model, group="Input")]
SAME = "Same as the argument MODEL."
SameModelOption = Annotated[Path | None, option(SAME, "MODEL", names="-m --model", complete=complete_model, group="Input")]
ENCODING = "Encoding of the text. [default: utf-8, or else that of the model's training text]"
EncodingOption = Annotated[str | None, option(ENCODING, "NAME", group="Input")]
CellOption = Annotated[str, option("Kind of recurrent cell. [default: lstm]", "lstm|gru|rnn", group="Model")]
SeedOption = Annotated[int, option("Random seed. [default: 0]", "N")]
JsonFlag = Annotated[bool, option("Print one JSON object.", names="--json", group="Output")]


@contextlib.contextmanager
def end_by_ctrl_c() -> Iterator[None]:
    """Make Ctrl-C end the program with status 130 after everything written is printed."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, lambda number, _: leave(128 + number))  # a reader may take what is left, or never
        raise typer.Exit(130) from None


@contextlib.contextmanager
def import_quickly() -> Iterator[None]:
    """Import torch with garbage collection off, which would take a tenth of the time and find next to nothing.

    Signals have their default action meanwhile: Python's handlers would only be called at the end.
    """
    handlers = {number: signal.getsignal(number) for name in SIGNALS if (number := getattr(signal, name, None)) is not None}
    handled = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handled:
        signal.signal(number, signal.SIG_DFL)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        for number, handler in handled.items():
            signal.signal(number, handler)


def is_piped() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


@contextlib.contextmanager
def say_waiting(sources: Iterable[str], hint: str = "") -> Iterator[None]:
    """After a second of reading standard input or a named pipe, print what is being read: it may never send anything."""
    from charrnn.text.reading import STDIN, show_source

    names = [show_source(source) for source in sources if source == STDIN or Path(source).is_fifo()]
    timer = threading.Timer(1.0, output.write_line, [f"reading {', '.join(names)} until it ends{hint}"])
    timer.daemon = True
    if names:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def require_sources(named: list[str] | None) -> list[str]:
    """The texts named by the user, or else standard input. Raises: CharrnnError if there is neither, or a name needs quotes."""
    from charrnn.text.reading import STDIN

    if not named and not is_piped():
        raise CharrnnError("no text: name files or folders, or pipe one in")
    names = named or [STDIN]
    joined = " ".join(names)
    for name in names:
        if not os.path.exists(name) and os.path.exists(joined):
            raise CharrnnError(f"{name} does not exist; did you mean {shlex.quote(joined)}?")
        if re.match("https?://", name):
            raise CharrnnError(f"{name} is an address; download it first: curl -LO {shlex.quote(name)}")
    return list(names)


def require_texts(texts: list[str], model: Path | None, command: str) -> None:
    """Raise CharrnnError if one of the texts is a model, with the command that was probably meant."""
    from charrnn.run_folder import STATE, find_model, is_model, is_text

    models = [text for text in texts if is_model(text)]
    if command == "train":  # a run's folder may contain texts
        models = [name for name in models if not os.path.isdir(name)]
    if not models:
        return
    meant = [text for text in texts if text not in models]
    if model is not None and is_text(model):
        meant.append(str(model))
    words = [*(meant or ["TEXT"]), "--init-from" if command == "train" else "-m", models[0]]
    resume = ""
    if command == "train" and (find_model(models[0]).parent / STATE).exists():
        resume = f"; to continue that run: charrnn train --resume -o {shlex.quote(str(find_model(models[0]).parent))}"
    raise CharrnnError(f"{models[0]} is a model, not a text; did you mean: charrnn {command} {shlex.join(words)}{resume}")


def pick_model(named: Path | None, model: Path | None) -> Path | None:
    """The model, given as an argument or with `-m`. Raises: CharrnnError if both are given."""
    if named is not None and model is not None:
        raise CharrnnError(f"{named} and -m {model} both name a model; leave one out")
    return model if named is None else named


def longer(options: "Options", max_epochs: float, counters: "Counters", epochs: float) -> str:
    """The option that continues a completed run for as long again. Its value counts from the start of the run."""
    if max_epochs and epochs >= max_epochs:
        return f"--epochs {2 * max_epochs:g}"
    if options.epochs is not None:
        return f"--epochs {max(int(epochs), options.epochs) + options.epochs:g}"
    if options.steps is not None:
        return f"--steps {max(counters.step, options.steps) + options.steps}"
    assert options.seconds is not None
    done = counters.seconds if counters.seconds > 1.5 * options.seconds else options.seconds  # seconds are rarely exact
    seconds = done + options.seconds
    return f"--for {output.duration(max(seconds, 1)).removesuffix('00s')}"


def suggest_command(word: str) -> str:
    """A hint for an error about an unknown command: what the word may have meant; empty if there is none."""
    from charrnn.run_folder import is_forecast, is_model

    name = shlex.quote(word)
    if is_forecast(word):
        return f"; to forecast with this model: charrnn forecast TABLE -m {name}"
    if is_model(word):
        return f"; to generate text with it: charrnn sample {name}"
    return f"; to train a model on it: charrnn train {name}" if os.path.exists(word) else ""


def require_extra(module: str, what: str, extra: str) -> None:
    """Raise CharrnnError if an extra package that `what` needs is not installed."""
    try:
        import_module(module)
    except ImportError:
        raise CharrnnError(f"{what} needs {module}: pip install 'charrnn[{extra}]'") from None


def load_model(path: Path | None) -> "Model":
    """Load the model at `path`, or the newest one, and print which one that is."""
    from charrnn.inference.model import load

    model = load(path)
    if path is None:
        output.write_line(f"model: {model.path}")
    return model


def as_called(text: str) -> str:
    """Replace `charrnn` in the commands of `text` by what the user can type, if `charrnn` is not on the PATH."""
    if shutil.which("charrnn"):
        return text
    called = shlex.quote(sys.argv[0])
    if called.endswith("__main__.py"):
        called = f"{shlex.quote(sys.executable)} -m charrnn"
    return re.sub(r"\bcharrnn (?=(train|sample|eval|report|info|export|forecast|cache|--help)\b)", lambda _: f"{called} ", text)


def unescape(text: str) -> str:
    r"""Replace the escapes \n, \t and \\ in an option's value by what they mean."""
    return re.sub(r"\\([nt\\])", lambda escape: {"n": "\n", "t": "\t"}.get(escape[1], escape[1]), text)


def print_notes(notes: list[str]) -> None:
    for note in notes:
        output.write_line(f"note: {note}")
