"""What the commands share: options and arguments that stand in several of them, signals, and how a model is opened."""

import contextlib
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
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charrnn.errors import CharrnnError, leave
from charrnn.terminal import output

if TYPE_CHECKING:
    from charrnn.headers import Counters
    from charrnn.inference.model import Model
    from charrnn.options import Options


Complete = Callable[[str], list[str]]  # the answers to a shell for what has been typed of a word


def option(help: str, names: str = "", metavar: str | None = None, complete: Complete | None = None) -> Any:
    """An option: `names` are its flags, by default "--" and the parameter's name."""
    return typer.Option(*names.split(), help=help, metavar=metavar, autocompletion=complete, show_default=False)


def argument(metavar: str, help: str, complete: Complete | None = None) -> Any:
    return typer.Argument(metavar=metavar, help=help, autocompletion=complete, show_default=False)


def complete_forecast(incomplete: str) -> list[str]:
    """The forecast models under `runs/` that begin so, and paths beside them; else nothing: then the shell offers paths."""
    from charrnn.run_folder import FORECAST, list_runs

    return _complete(list_runs(FORECAST), incomplete)


def complete_model(incomplete: str) -> list[str]:
    """The base models and runs that begin so, and paths beside them; else nothing: then the shell offers paths."""
    from charrnn.run_folder import list_bases, list_runs

    return _complete([*list_bases(), *list_runs()], incomplete)


def _complete(known: list[str], incomplete: str) -> list[str]:
    names = [name for name in known if name.startswith(incomplete)]
    return names + (sorted(glob.glob(glob.escape(incomplete) + "*")) if names else [])


MODEL = "A run's name or folder, its model file, or `english`, the base model. [default: the newest run under runs/]"
TEXTS = "Files and folders of text; '-' or a pipe for standard input."

ModelArgument = Annotated[Path | None, argument("[MODEL]", help=MODEL, complete=complete_model)]
ModelOption = Annotated[Path | None, option(MODEL, names="-m --model", complete=complete_model)]
EncodingOption = Annotated[str, option("The text's encoding. [default: utf-8]")]
CellOption = Annotated[str, option("lstm, gru or rnn. [default: lstm]")]
SeedOption = Annotated[int, option("Random seed. [default: 0]")]
JsonFlag = Annotated[bool, option("Print one JSON object.", names="--json")]


class Signals:
    """Remembers Ctrl-C, SIGTERM and SIGHUP for the training loop, which saves and ends.

    A second one ends at once. With `again` it doesn't: torchrun passes a signal on to ranks that have had it already.
    """

    def __init__(self, again: bool = False) -> None:
        self.signal = 0
        self.again = again
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._remember)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.signal and not self.again:
            leave(128 + number)
        self.signal = number


def is_piped() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


@contextlib.contextmanager
def say_waiting(sources: Iterable[str], hint: str = "") -> Iterator[None]:
    """Say after a second what is read: standard input, or a named pipe, may stay open and send nothing."""
    from charrnn.text.reading import STDIN

    names = ["standard input" if source == STDIN else source for source in sources if source == STDIN or Path(source).is_fifo()]
    timer = threading.Timer(1.0, output.write_line, [f"reading {', '.join(names)} until it ends{hint}"])
    timer.daemon = True
    if names:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def require_sources(named: list[str] | None) -> list[str]:
    """The texts that are named, or else the pipe. Raises: CharrnnError where there is neither."""
    from charrnn.text.reading import STDIN

    if not named and not is_piped():
        raise CharrnnError("no text: name files or folders, or pipe one in")
    return list(named or [STDIN])


def require_texts(texts: list[str], model: Path | None, command: str) -> None:
    """Raise CharrnnError where a model stands among the texts: with the command that was meant."""
    from charrnn.run_folder import STATE, find_model, is_model, is_text

    models = [text for text in texts if is_model(text)]
    if command == "train":  # what is beside a run in its folder is a text
        models = [name for name in models if not os.path.isdir(name)]
    if not models:
        return
    meant = [text for text in texts if text not in models]
    if model is not None and is_text(model):
        meant.append(str(model))
    words = [*(meant or ["TEXT"]), "--init-from" if command == "train" else "-m", models[0]]
    resume = ""
    if command == "train" and (find_model(models[0]).parent / STATE).exists():
        resume = f"; to go on with that run: charrnn train --resume -o {shlex.quote(str(find_model(models[0]).parent))}"
    raise CharrnnError(f"{models[0]} is a model, not a text; did you mean: charrnn {command} {shlex.join(words)}{resume}")


def pick_model(named: Path | None, model: Path | None) -> Path | None:
    """The model that is named as an argument or with `-m`. Raises: CharrnnError where it is both."""
    if named is not None and model is not None:
        raise CharrnnError(f"{named} and -m {model} both name a model; leave one out")
    return model if named is None else named


def longer(options: "Options", max_epochs: float, counters: "Counters", epochs: float) -> str:
    """The option that has a run which has ended go on for as long again; it counts from the run's beginning."""
    if max_epochs and epochs >= max_epochs:
        return f"--epochs {2 * max_epochs:g}"
    if options.epochs is not None:
        return f"--epochs {max(int(epochs), options.epochs) + options.epochs:g}"
    if options.steps is not None:
        return f"--steps {max(counters.step, options.steps) + options.steps}"
    assert options.seconds is not None
    done = counters.seconds if counters.seconds > 1.5 * options.seconds else options.seconds  # a run hardly ends on the second
    seconds = done + options.seconds
    return f"--for {output.duration(max(seconds, 1)).removesuffix('00s')}"


def suggest_command(word: str) -> str:
    """What may have been meant by a word in place of a command, to end an error with; nothing for other words."""
    from charrnn.run_folder import is_forecast, is_model

    name = shlex.quote(word)
    if is_forecast(word):
        return f"; to forecast with this model: charrnn forecast TABLE -m {name}"
    if is_model(word):
        return f"; to write with this model: charrnn sample {name}"
    return f"; to train a model on it: charrnn train {name}" if os.path.exists(word) else ""


def require_extra(module: str, what: str, extra: str) -> None:
    """Raise CharrnnError where a package that only `what` needs, an extra, is not installed."""
    try:
        import_module(module)
    except ImportError:
        raise CharrnnError(f"{what} takes {module}, which is not installed: pip install 'charrnn[{extra}]'") from None


def load_model(path: Path | None) -> "Model":
    """Open the model at `path`, else the newest one, and say which that is."""
    from charrnn.inference.model import load

    model = load(path)
    if path is None:
        output.write_line(f"model: {model.path}")
    return model


def as_called(text: str) -> str:
    """`text` with its commands such as `charrnn sample` as they can be typed here, where `charrnn` is not on the PATH."""
    if shutil.which("charrnn"):
        return text
    called = shlex.quote(sys.argv[0])
    if called.endswith("__main__.py"):
        called = f"{shlex.quote(sys.executable)} -m charrnn"
    return re.sub(r"\bcharrnn (?=(train|sample|eval|report|info|export|forecast) )", lambda _: f"{called} ", text)


def print_notes(notes: list[str]) -> None:
    for note in notes:
        output.write_line(f"note: {note}")
