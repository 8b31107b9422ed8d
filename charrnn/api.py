"""The Python interface: `train` and `load`. torch is imported only when `train` is called."""

import contextlib
import functools
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args, get_type_hints

from charrnn.errors import CharrnnError, Signals
from charrnn.inference import model
from charrnn.inference.model import Model

if TYPE_CHECKING:
    from charrnn.options import Options
    from charrnn.training.events import Event
    from charrnn.training.run import Run
    from charrnn.training.sources import Sources

P = ParamSpec("P")
R = TypeVar("R")
TYPES = {int: "a whole number", float: "a number", str: "a string", NoneType: "None"}
WORD = r"('[^']*'|[^\s;,()]*[^\s;:,()])"
COMMAND = re.compile(rf"charrnn train {WORD}(?: --resume -o {WORD})?")
CHOICE = re.compile(rf"--(device|encoding|init-from|precision) (?!must|and|or){WORD}")
FLAG = re.compile(r"(?<!torchrun )--([a-z]+(?:-[a-z]+)*)")
ARGUMENTS = {  # flags whose argument in Python has another name
    "for": "seconds",
    "model": "its path",
    "resume": "resume=True",
    "force": "force=True",
    "by-line": "records='line'",
    "by-paragraph": "records='paragraph'",
}


def to_python(message: str) -> str:
    """Translate an error or note of the command line for Python users.

    >>> to_python("--hidden-size 0 is too small; replace runs/x with --force")
    'hidden_size 0 is too small; replace runs/x with force=True'
    >>> to_python("the text was piped in; give it again: charrnn train - --resume -o runs/x")
    "the text was piped in; give it again: charrnn.train(text=TEXT, out='runs/x', resume=True)"
    """

    def quote(word: str) -> str:
        return word if word.startswith("'") or word.isupper() else repr(word)

    def call(command: re.Match[str]) -> str:
        text = "text=TEXT" if command[1] == "-" else quote(command[1])
        return f"charrnn.train({text}" + (f", out={quote(command[2])}, resume=True)" if command[2] else ")")

    message = COMMAND.sub(call, message)
    message = CHOICE.sub(lambda choice: f"--{choice[1]}={quote(choice[2])}", message)
    return FLAG.sub(lambda flag: ARGUMENTS.get(flag[1], flag[1].replace("-", "_")), message)


def _python_words(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that its errors name Python arguments, such as resume=True, instead of flags."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except CharrnnError as error:
            raise CharrnnError(to_python(str(error)), error.exit_status) from None

    return call


@_python_words
def load(path: str | Path | None = None) -> Model:
    """Load a trained model. This is fast and does not import torch.

    `path` is a run's folder, a model file, the name of a run in `runs/`, or the name of a base model ("english"). The default
    is the newest run in `runs/`.

    Raises: CharrnnError if there is no such model, or its file is damaged.

    >>> load("runs/the-lamp")  # doctest: +SKIP
    <Model runs/the-lamp/model.safetensors: 2 x 256 lstm, 65 characters>
    """
    return model.load(None if path is None else Path(path).expanduser())


@_python_words
def train(
    corpus: str | Path | Iterable[str | Path] | None = None,
    *,
    text: str | Iterable[str] | None = None,
    records: str | None = None,
    validation: str | Path | float | None = None,
    encoding: str = "utf-8",
    newlines: str = "universal",
    max_vocabulary: int | None = None,
    seconds: float | str | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    cell: str = "lstm",
    layers: int | None = None,
    hidden_size: int | None = None,
    embedding: int | None = None,
    seq_length: int | None = None,
    batch_size: int | None = None,
    dropout: float | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    init_from: str | Path | Model | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
    watch: "Callable[[Event], None] | None" = None,
) -> Model:
    """Train a model on files or on a text in memory. The best model is saved and returned.

    Ctrl-C, or a notebook's interrupt, stops the training: the best model so far is saved and returned. Settings that are None
    are chosen for you, from the size of the text, the time and a quick speed test.

    The text:

    - `corpus`: a file or folder, or several
    - `text`: a text in memory, instead of `corpus`: a string, or several (a list, a column of a table, a generator). Strings
      without a line break at the end get one
    - `records`: "line" or "paragraph" trains line by line (or paragraph by paragraph), for texts such as a list of names
    - `validation`: the held-out text: a fraction of the text, or a file; 0 trains on the whole text
    - `encoding`: encoding of the files; "bytes" makes each byte a character
    - `newlines`: "universal" reads CRLF and CR as line breaks; "keep" keeps them in the text
    - `max_vocabulary`: vocabulary size: only the most frequent characters are kept

    The length, one of:

    - `seconds`: a number, or a string such as "30s", "5m" or "1h30m" (default: five minutes)
    - `epochs`: passes over the text
    - `steps`: number of batches; with the same seed and sizes, runs are exactly reproducible

    The network and the training:

    - `cell`: "lstm", "gru" or "rnn"
    - `layers`, `hidden_size`: number of recurrent layers, and units in each
    - `embedding`: embedding size; 0: one-hot vectors
    - `seq_length`: characters per sequence, for truncated backpropagation through time
    - `batch_size`: sequences per batch
    - `dropout`: dropout probability, from 0 to below 1
    - `learning_rate`: peak learning rate of Adam; the schedule ends at zero
    - `seed`: random seed
    - `device`: "auto", "cpu", "cuda" or "mps"
    - `precision`: "auto", "float32" or "bfloat16"
    - `threads`: number of CPU threads; it changes the speed, not the result
    - `init_from`: the model to fine-tune: a Model, its path, or the name of a base model ("english"); with `layers=1`,
      only its first layer is used

    The run:

    - `out`: its folder (default: `runs/NAME`, after the corpus)
    - `resume`: continue the run in `out` (default: the newest run of that corpus)
    - `force`: replace the run in `out`
    - `progress`: show the progress; False prints nothing
    - `watch`: a function to call with each event of the run, see `charrnn.training.events`

    Raises: CharrnnError for unusable input, or if the loss diverges or the run can't be saved.

    >>> model = train("corpora/if-you.txt", seconds="10s", out="runs/rhymes")  # doctest: +SKIP
    >>> model = train(text=["Anna", "Berta", "Clara"], records="line", steps=100)  # doctest: +SKIP
    """
    options = _choose_options(locals())
    sources = _find_sources(corpus, text, records=records, resume=resume, newlines=newlines)
    from charrnn.run_folder import find_resumable
    from charrnn.terminal.frame import WorkDisplay
    from charrnn.training.distributed import join
    from charrnn.training.run import Run
    from charrnn.training.sources import name_run, name_sources

    with _catch_ctrl_c() as early:  # an interrupted import of torch can't be repeated
        import_module("charrnn.training.learner")
    if early.number:
        raise KeyboardInterrupt
    base = init_from.path if isinstance(init_from, Model) else init_from
    folder = None if out is None else Path(out).expanduser()
    with join() as group:
        quiet = not progress or group.rank > 0
        with group.raise_together(), WorkDisplay(quiet=quiet) as reading:
            tell = reading.progress
            group.require_same(vars(options) | {"resume": resume, "force": force, "init_from": base})
            if resume:
                named = (name_run(sources), *name_sources(sources)[:1]) if sources else ()
                begun = folder or group.broadcast(lambda: find_resumable(*named))
                run = Run.resume(begun, sources, options.device, threads=options.threads, watch=tell, group=group)
            else:
                run = Run.create(sources, options, out=folder, init_from=base, force=force, watch=tell, group=group)
        _follow(run, options, quiet=quiet, watch=watch)
    return load(run.folder.path)


def _follow(run: "Run", options: "Options", quiet: bool, watch: "Callable[[Event], None] | None") -> None:
    """Train and show the progress. Raises: KeyboardInterrupt if interrupted before the first step."""
    from charrnn.terminal.line import LineDisplay

    if options.seconds is options.epochs is options.steps is None:
        options = run.origin.options  # the length of the run as it was started
    with LineDisplay(quiet, run.history) as display, _catch_ctrl_c() as interrupt:
        for note in run.notes:
            display.note(to_python(note))
        failures: list[BaseException] = []  # of `watch`
        with contextlib.closing(run.events(options, stop=lambda: bool(interrupt.number or failures))) as events:
            for event in events:
                display.show(event)
                try:
                    if watch is not None and not failures:
                        watch(event)
                except BaseException as error:
                    if interrupt.number and isinstance(error, KeyboardInterrupt):  # a second Ctrl-C
                        raise
                    failures.append(error)
        stopped = any(run.group.all_gather(bool(interrupt.number or failures)))
        if stopped and not run.step:
            raise failures[0] if failures else KeyboardInterrupt
        folder = str(run.folder.path)
        display.say(f"saved in {folder}" + f"; to continue: charrnn.train(out={folder!r}, resume=True)" * stopped)
        if failures and not isinstance(failures[0], KeyboardInterrupt):
            raise failures[0]


def _catch_ctrl_c() -> Signals:
    """Remember Ctrl-C, or a notebook's interrupt; a second one raises KeyboardInterrupt."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    return Signals(["SIGINT"], second=interrupt)


def _choose_options(asked: dict[str, Any]) -> "Options":
    """Make Options from the arguments of `train`. Raises: CharrnnError if one has the wrong type or a bad value."""
    from charrnn.options import KEYS, Options, parse_duration, require

    if isinstance(asked["seconds"], str):
        asked["seconds"] = parse_duration(asked["seconds"])
    elif asked["seconds"] is asked["epochs"] is asked["steps"] is None and not asked["resume"]:
        asked["seconds"] = 300.0
    hints = get_type_hints(Options)
    values = {}
    for field in fields(Options):
        name = KEYS.get(field.name, field.name)
        values[field.name] = _convert(name, asked[name], types=get_args(hints[field.name]) or (hints[field.name],))
    options = Options(**values)
    if asked["resume"]:
        kept = Options(**{name: values[name] for name in ("seconds", "epochs", "steps", "device", "threads")})
        same = (options, asked["force"], asked["init_from"]) == (kept, False, None)
        require(same, "--resume keeps the run's own options; only --for, --epochs, --steps, --device and --threads can change")
    return options


def _convert(name: str, value: Any, types: tuple[type, ...]) -> Any:
    """Convert the value of an argument to one of `types`. Raises: CharrnnError if it has another type."""
    if value is None and NoneType in types:
        return None
    is_number = type(value) is not bool and isinstance(value, numbers.Real)  # NumPy's are Real, too
    if is_number and float in types:
        return float(value)
    if is_number and int in types and float(value).is_integer():
        return int(value)
    if isinstance(value, (str, os.PathLike)) and str in types:
        return str(value)
    raise CharrnnError(f"{name} must be {' or '.join(TYPES[kind] for kind in types)}, not {value!r:.60}")


def _find_sources(corpus: Any, text: Any, records: str | None, resume: bool, newlines: str = "universal") -> "Sources":
    """Returns: the paths, or the text in memory, with a separator after each string.

    Raises: CharrnnError, TypeError for anything else.
    """
    from charrnn.options import require
    from charrnn.text.reading import build_corpus

    if text is not None:
        require(corpus is None, "corpus and text can't be combined: corpus names files, text is the text itself")
        if isinstance(text, str):
            return build_corpus(text)
        _refuse_table("text", text)
        pieces = text if isinstance(text, Iterable) and not isinstance(text, bytes) else [text]
        changed: list[int] = []  # rows with a separator inside
        strings = (_end_string(string, row, records, newlines, changed) for row, string in enumerate(pieces))
        built = build_corpus(iter(lambda: "".join(islice(strings, 1000)), ""))  # joining many at a time is faster
        if changed:
            what = "line breaks became spaces" if records == "line" else "blank lines became line breaks"
            built.notes.append(f"{what} in {len(changed):,} of the texts, so that each is one record (first: row {changed[0]})")
        return built
    _refuse_table("corpus", corpus)
    several = isinstance(corpus, Iterable) and not isinstance(corpus, (str, bytes))
    names = list(corpus) if several else [] if corpus is None else [corpus]
    for name in names:
        require(isinstance(name, (str, os.PathLike)), f"corpus must be a path, or several, not {name!r:.60}")
        is_text = not os.path.exists(name) and (len(str(name)) > 255 or re.search(r"[\s\0]", str(name)))
        require(not is_text, f"no such file: {str(name)!r:.60}; to learn a text itself: charrnn.train(text=TEXT)")
    require(bool(names) or resume, "no text: name files or folders, or give one in memory: charrnn.train(text=TEXT)")
    return [os.path.expanduser(name) for name in names]


def _refuse_table(name: str, value: Any) -> None:
    """Raise TypeError for a table or a dict: to iterate over it gives its column names or keys."""
    if isinstance(value, Mapping):
        raise TypeError(f"{name} is a dict, whose keys would be read; give its values: charrnn.train({name}=list(d.values()))")
    if hasattr(value, "columns"):
        column = next((column for column in value.columns if isinstance(column, (str, int))), "NAME")
        raise TypeError(f"{name} is a table; give one column of it: charrnn.train({name}=table[{column!r:.60}])")


def _end_string(string: Any, row: int, records: str | None, newlines: str, changed: list[int]) -> str:
    """Append a line break to `string`, unless it has one. For `records`, make it one, and note its row in `changed`.

    Raises: CharrnnError if it is not a string.
    """
    from charrnn.text.records import SEPARATORS, join_inside

    if not isinstance(string, str):
        raise CharrnnError(f"text must be a string, or several, not {string!r:.60} (row {row})")
    if records is None:
        return string if string.endswith("\n") else string + "\n"
    lines = string.replace("\r\n", "\n")
    if newlines == "universal":
        lines = lines.replace("\r", "\n")
    lines = lines.strip("\n")
    record = join_inside(lines, records)
    if record != lines:
        changed.append(row)
    return record + SEPARATORS[records]
