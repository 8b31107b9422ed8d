"""`charrnn.train` in Python: arguments, progress, errors, and what it must leave unchanged."""

import io
import math
import os
import pydoc
import re
import signal
import subprocess
import sys
import threading
from dataclasses import fields
from inspect import Parameter, signature
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import CORPORA, ROOT, options_of

import charrnn
from charrnn import CharrnnError, Model, load, train
from charrnn.api import _find_sources, to_python
from charrnn.options import KEYS, Options
from charrnn.run_folder import RunFolder
from charrnn.terminal import line, output
from charrnn.training import schedule
from charrnn.training.events import End, Progress, Sample, Validation
from charrnn.training.run import Run
from charrnn.training.sources import read_texts

SMALL = dict(layers=1, hidden_size=8, embedding=4, batch_size=4, seq_length=8, progress=False)
RHYMES = (CORPORA / "if-you.txt").read_text() * 20


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rhymes.txt").write_text(RHYMES)
    return tmp_path


def weights(model):
    return {name: tensor.tobytes() for name, tensor in charrnn.checkpoint.read_model(model.path)[0].items()}


# what it takes


def test_every_option_is_an_argument_with_a_type_and_the_default_of_the_command_line():
    arguments = signature(train).parameters
    assert all(argument.kind is not Parameter.VAR_KEYWORD for argument in arguments.values())
    assert all(argument.annotation is not Parameter.empty for argument in arguments.values())
    for field in fields(Options):
        assert arguments[KEYS.get(field.name, field.name)].default == field.default
    described = re.findall(r"\w+", " ".join(re.findall(r"^ +- (`.*?`):", train.__doc__, re.M)))
    assert sorted(described) == sorted(arguments), "the docstring says what each argument is, once"


def test_the_help_is_of_words():
    text = pydoc.plain(pydoc.render_doc(train))
    assert "train(corpus:" in text
    assert "lambda" not in text
    assert "**" not in text


def test_the_public_names_are_seen_before_they_are_imported():
    script = """
import sys, charrnn
assert {"train", "load", "Model", "CharrnnError"} <= set(dir(charrnn)), dir(charrnn)
import rlcompleter
completer = rlcompleter.Completer({"charrnn": charrnn})  # the Tab key
names = {completer.complete("charrnn.", n).strip("()") for n in range(4)}
assert names == {"charrnn.train", "charrnn.load", "charrnn.Model", "charrnn.CharrnnError"}, names
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)


def test_a_text_in_memory_is_learned_as_a_file_is():
    known = train("rhymes.txt", steps=5, out="file", **SMALL)
    pieces = [RHYMES[n:m] for n, m in pairwise([0, 7, 300, len(RHYMES)])]
    lines = RHYMES.splitlines(keepends=True)
    for n, text in enumerate([RHYMES, lines, iter(lines), RHYMES.splitlines()]):
        model = train(text=text, steps=5, out=f"text-{n}", **SMALL)
        assert weights(model) == weights(known)
    assert weights(train(text="".join(pieces), steps=5, **SMALL)) == weights(known)
    assert load().path == Path("runs/text/model.safetensors")


def test_strings_are_records_where_records_are_asked_for():
    names = ["Anna", "Berta", "Clara", "Dora", "Emma", "Frida"] * 9
    Path("names.txt").write_text("\n".join(names) + "\n")
    known = train("names.txt", records="line", steps=3, out="file", **SMALL)
    assert weights(train(text=iter(names), records="line", steps=3, **SMALL)) == weights(known)
    assert train(text=["one\ntwo", "three"] * 20, records="paragraph", steps=2, **SMALL).records == "paragraph"


def test_values_of_like_types_are_taken():
    model = train(
        Path("rhymes.txt"), steps=3.0, seed=np.int64(2), learning_rate=np.float32(0.01), validation=Path("rhymes.txt"), **SMALL
    )
    again = train(["rhymes.txt"], steps=3, seed=2, learning_rate=float(np.float32(0.01)), validation="rhymes.txt", **SMALL)
    assert weights(again) == weights(model)
    assert train("rhymes.txt", seconds="1 second", **SMALL).header.training.origin.options.seconds == 1


def test_a_model_is_fine_tuned_by_its_path_its_name_and_itself():
    model = train("rhymes.txt", steps=3, **SMALL)
    more = dict(steps=3, progress=False)
    found = [train("rhymes.txt", init_from=base, **more) for base in (model, "rhymes", Path("runs/rhymes"))]
    assert len({tuple(weights(one).items()) for one in found}) == 1


def test_a_home_folder_is_found(monkeypatch, folder):
    monkeypatch.setenv("HOME", str(folder))
    train("~/rhymes.txt", steps=2, out="~/run", **SMALL)
    assert load("~/run").path == folder / "run/model.safetensors"


# errors

BAD = [
    (dict(), "no text: .*text=TEXT"),
    (dict(corpus=[]), "no text"),
    (dict(corpus="missing.txt"), "missing.txt does not exist"),
    (dict(corpus="If you can keep your head"), "no such file: 'If you can .*text=TEXT"),
    (dict(corpus=RHYMES), "no such file: .*text=TEXT"),
    (dict(corpus=["a" * 5000, "b" * 5000]), "no such file: .*text=TEXT"),
    (dict(corpus="a\0b"), "no such file: .*text=TEXT"),
    (dict(corpus=5), "corpus must be a path, or several, not 5"),
    (dict(corpus=b"bytes"), "corpus must be a path, or several, not b'bytes'"),
    (dict(corpus=["rhymes.txt", None]), "corpus must be a path, or several, not None"),
    (dict(corpus="rhymes.txt", text="both"), "can't be combined"),
    (dict(text=""), "no text: it is empty"),
    (dict(text=[]), "no text: it is empty"),
    (dict(text=b"bytes"), "text must be a string, or several, not b'bytes'"),
    (dict(text=5), "text must be a string, or several, not 5"),
    (dict(text=["ab", float("nan")]), "text must be a string, or several, not nan"),
    (dict(text="a\ud800b" * 50), "surrogates"),
    (dict(corpus="rhymes.txt", seconds="5x"), "seconds must be a time such as 30s, 5m or 1h30m, not '5x'"),
    (dict(corpus="rhymes.txt", seconds=-1), "seconds must be above 0 and at most 1,000,000,000,000, not -1.0"),
    (dict(corpus="rhymes.txt", seconds=5, epochs=1), "seconds, epochs and steps can't be combined"),
    (dict(corpus="rhymes.txt", steps=0.5), "steps must be a whole number or None, not 0.5"),
    (dict(corpus="rhymes.txt", steps=float("inf")), "steps must be a whole number or None, not inf"),
    (dict(corpus="rhymes.txt", epochs="3"), "epochs must be a number or None, not '3'"),
    (dict(corpus="rhymes.txt", hidden_size="64"), "hidden_size must be a whole number or None, not '64'"),
    (dict(corpus="rhymes.txt", hidden_size=0), "hidden_size must be between 1 and 65536, not 0"),
    (dict(corpus="rhymes.txt", layers=True), "layers must be a whole number or None, not True"),
    (dict(corpus="rhymes.txt", embedding=-1), "embedding must be between 0 and 65536, not -1"),
    (dict(corpus="rhymes.txt", seed=None), "seed must be a whole number, not None"),
    (dict(corpus="rhymes.txt", cell="LSTM"), "cell must be lstm, gru or rnn, not 'LSTM'"),
    (dict(corpus="rhymes.txt", records="lines"), "records must be line or paragraph, not 'lines'"),
    (dict(corpus="rhymes.txt", learning_rate=0), "learning_rate must be above 0 and at most 10, not 0.0"),
    (dict(corpus="rhymes.txt", validation=1), "validation must be at least 0 and below 1, or a file, not 1"),
    (dict(corpus="rhymes.txt", validation=[0.1]), r"validation must be a string or a number or None, not \[0.1\]"),
    (dict(corpus="rhymes.txt", device="tpu"), "device must be auto, cpu, cuda or mps, not 'tpu'"),
    (dict(corpus="rhymes.txt", encoding="nonsense"), "nonsense"),
    (dict(corpus="rhymes.txt", encoding="ascii", validation="ü.txt"), "name its encoding|is not ascii"),
    (dict(text="one line only", records="line"), "records='line' needs at least 2"),
    (dict(corpus="rhymes.txt", out="used"), "continue it with resume=True, or replace it with force=True"),
    (dict(corpus="rhymes.txt", out="rhymes.txt"), "out rhymes.txt is a file; name a folder"),
    (dict(corpus="rhymes.txt", init_from="missing"), "missing"),
    (dict(corpus="other.txt", out="used", resume=True), "to fine-tune the model on this text: init_from='used'"),
    (dict(out="used", resume=True, hidden_size=9), "resume=True keeps .*; only seconds, epochs, steps, device and threads"),
    (dict(out="missing", resume=True), "no checkpoint to resume"),
    (dict(resume=True), "no run to resume"),
    (dict(out="memory", resume=True), r"charrnn\.train\(text=TEXT, out='memory', resume=True\)"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(arguments)[:60] for arguments, _ in BAD])
def test_errors_are_in_the_words_of_python(arguments, message):
    Path("other.txt").write_text("another text " * 200)
    Path("ü.txt").write_text("ü" * 100)
    if arguments.get("out") == "used":
        train("rhymes.txt", steps=2, out="used", **SMALL)
    if arguments.get("out") == "memory":
        train(text=RHYMES, steps=2, out="memory", **SMALL)
    with pytest.raises(CharrnnError, match=message) as error:
        train(**{"progress": False, **arguments})
    assert "--" not in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value).replace(f"{Path.cwd()}/", "")) < 250


def test_a_model_that_is_not_there_is_told_of_in_the_words_of_python():
    for path, message in ((None, "or choose one with its path"), ("rhymes.txt", r"charrnn.train\('rhymes.txt'\)"), ("x", "x")):
        with pytest.raises(CharrnnError, match=message) as error:
            load(path)
        assert "--" not in str(error.value)


@pytest.mark.parametrize(
    ("shell", "python"),
    [
        ("use --init-from runs/x", "use init_from='runs/x'"),
        ("a better model: --init-from english", "a better model: init_from='english'"),
        ("name it: charrnn train TEXT --resume -o 'my run'", "name it: charrnn.train(TEXT, out='my run', resume=True)"),
        ("train one first (charrnn train FILE)", "train one first (charrnn.train(FILE))"),
        ("--device cuda: this machine has none; use --device cpu", "device='cuda': this machine has none; use device='cpu'"),
        ("--precision must be auto, float32 or bfloat16", "precision must be auto, float32 or bfloat16"),
        ("use a smaller --hidden-size, --layers or --seq-length", "use a smaller hidden_size, layers or seq_length"),
        ("as torchrun --max-restarts does", "as torchrun --max-restarts does"),
    ],
)
def test_flags_become_arguments(shell, python):
    assert to_python(shell) == python


# resuming, replacing, interrupting


def test_a_run_is_resumed_and_replaced():
    whole = train("rhymes.txt", steps=20, out="whole", **SMALL)
    train("rhymes.txt", steps=20, out="part", watch=interrupt_at(7), **SMALL)
    steps = []
    more = train(out="part", resume=True, progress=False, watch=lambda event: steps.append(getattr(event, "step", 0)))
    assert min(filter(None, steps)) >= 7
    assert weights(more) == weights(whole)
    train("rhymes.txt", steps=2, **SMALL)
    assert train("rhymes.txt", steps=4, resume=True, progress=False).path.parent == Path("runs/rhymes")
    assert train("rhymes.txt", steps=3, out="part", force=True, **SMALL).header.training.metrics.step == 3


def interrupt_at(step):
    """A `watch` function that interrupts once, as Ctrl-C and notebooks do."""
    came = []

    def watch(event):
        if not came and getattr(event, "step", 0) >= step:
            came.append(event)
            signal.raise_signal(signal.SIGINT)

    return watch


def test_an_interrupt_saves_and_returns_the_best_model_so_far():
    before = signal.getsignal(signal.SIGINT)
    model = train("rhymes.txt", seconds=600, watch=interrupt_at(2), **SMALL)
    assert isinstance(model, Model)
    assert model.sample(length=5)
    assert signal.getsignal(signal.SIGINT) is before
    train("rhymes.txt", steps=3, out=model.path.parent, force=True, **SMALL)  # nobody holds its folder


def test_a_second_interrupt_ends_at_once():
    def watch(event):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train("rhymes.txt", seconds=600, watch=watch, **SMALL)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_before_the_first_step_is_one(monkeypatch):
    monkeypatch.setattr(RunFolder, "save_state", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train("rhymes.txt", steps=5, **SMALL)


def test_an_interrupt_while_torch_is_imported_comes_after_it():
    script = f"""
import signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
import charrnn
try:
    charrnn.train("rhymes.txt", steps=1, **{SMALL})
except KeyboardInterrupt:
    charrnn.train("rhymes.txt", steps=1, **{SMALL})
else:
    raise AssertionError("not interrupted")
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)


def test_a_watcher_that_fails_leaves_nothing_behind():
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    kept = []

    def watch(event):
        raise ZeroDivisionError

    try:
        train("rhymes.txt", steps=5, threads=2, out="run", watch=watch, **SMALL)
    except ZeroDivisionError as error:
        kept.append(error)  # as a notebook keeps the last one, with all that it refers to
    assert torch.get_num_threads() == threads
    assert signal.getsignal(signal.SIGINT) is handler
    assert train("rhymes.txt", steps=5, out="run", force=True, **SMALL)
    assert kept


def test_it_trains_in_any_thread():
    models = []
    thread = threading.Thread(target=lambda: models.append(train("rhymes.txt", steps=3, **SMALL)))
    thread.start()
    thread.join()
    assert isinstance(models[0], Model)


# what is shown


class Stream(io.StringIO):
    """A standard stream: a terminal, a file, or a notebook's."""

    encoding = "utf-8"

    def __init__(self, terminal=False):
        super().__init__()
        self.isatty = lambda: terminal


class NotebookStream(Stream):
    __module__ = "ipykernel.iostream"


@pytest.fixture
def streams(monkeypatch):
    """A function that replaces the standard streams. Returns: (stdout, stderr)."""

    def put(out, err):
        monkeypatch.setattr(line, "EVERY", 0.0)
        monkeypatch.setattr(schedule, "REDRAW", 0.0)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("JPY_PARENT_PID", raising=False)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return out, err

    return put


SHOWN = dict(SMALL, steps=30, progress=True)


def test_on_a_terminal_one_line_changes(streams):
    out, err = streams(Stream(terminal=True), Stream(terminal=True))
    train("rhymes.txt", **SHOWN)
    assert out.getvalue() == ""
    seen = err.getvalue().split("\n")
    assert re.fullmatch(r"done after [\d.]+ epochs? \(30 steps, \d+s\)", seen[-3])
    assert seen[-2:] == ["saved in runs/rhymes", ""]
    changes = seen[-4].split("\r")
    assert len(changes) > 3
    assert re.match(r"100%  0s left  train \d\.\d{3}  validation \d\.\d{3}  best \d\.\d{3} bits/character", changes[-1])
    assert "\x1b" not in err.getvalue()
    assert max(map(len, changes)) < 80
    assert all(len(after) >= len(before.rstrip()) for before, after in pairwise(changes)), "nothing is left of what was there"


def test_in_a_notebook_one_line_changes(streams):
    out, err = streams(NotebookStream(), NotebookStream())
    train("rhymes.txt", **SHOWN)
    assert err.getvalue() == "", "which is red there"
    assert out.getvalue().count("\r") > 3
    assert out.getvalue().endswith("\nsaved in runs/rhymes\n")


def test_elsewhere_lines_are_printed(streams):
    out, err = streams(Stream(), Stream())
    train("rhymes.txt", **SHOWN)
    assert out.getvalue() == ""
    assert "\r" not in err.getvalue()
    assert re.search(r"^100% .* step 30 .* bits per character", err.getvalue(), re.M)
    assert err.getvalue().endswith("\nsaved in runs/rhymes\n")


@pytest.mark.parametrize("stream", [NotebookStream(), Stream(terminal=True), Stream()])
def test_without_progress_nothing_is_shown(streams, stream):
    streams(stream, stream)
    train("rhymes.txt", **SHOWN | {"progress": False, "validation": 0.0})
    assert stream.getvalue() == ""


def test_notes_are_in_the_words_of_python_and_an_interrupt_says_where_it_stopped(streams):
    out, _ = streams(NotebookStream(), NotebookStream())
    train(text=RHYMES[:5000], seconds=600, watch=interrupt_at(9), out="run")
    said = out.getvalue().split("\n")
    assert said[-2] == "saved in run; to continue: charrnn.train(out='run', resume=True)"
    assert any(line.startswith("note: ") and "epochs" in line for line in said), said
    assert "--" not in out.getvalue()


def test_each_event_is_given_to_the_watcher():
    events = []
    train("rhymes.txt", steps=5, watch=events.append, **SMALL)
    assert {type(event) for event in events} - {Progress, Sample} == {Validation, End}
    assert isinstance(events[-1], End)


@pytest.mark.parametrize(
    ("terminal", "environment", "redrawn"),
    [
        (True, {"TERM": "xterm-256color"}, True),
        (False, {"TERM": "xterm-256color"}, False),
        (True, {"TERM": "dumb"}, False),  # Emacs
        (True, {"TERM": "unknown"}, False),
        (True, {}, False),  # IDLE
        (True, {"TERM": "xterm-color", "JPY_PARENT_PID": "77"}, False),  # `!charrnn train` in a notebook
    ],
)
def test_lines_are_redrawn_where_a_cursor_moves(monkeypatch, terminal, environment, redrawn):
    for name in ("TERM", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Stream(terminal))
    assert output.on_terminal() is redrawn


def test_a_string_is_one_record_also_with_line_breaks_inside(tmp_path):
    lines = ["An\nna", "Berta\n", "Car\n\nla\n\n", "Dora"]
    notes = []
    model = train(text=lines, records="line", steps=1, validation=0.0, out=tmp_path / "line", progress=False)
    for record in ("An na", "Berta", "Car la", "Dora"):
        assert not model.is_novel(record)
    assert model.is_novel("An")
    run = Run.create(_find_sources(None, lines, "line", False), options_of(records="line", steps=1), tmp_path / "noted")
    notes = [note for note in run.notes if "spaces" in note]
    assert notes == ["line breaks became spaces in 2 of the texts, so that each is one record (first: row 0)"]
    model = train(text=["a\nb", "c\n\nd"], records="paragraph", steps=1, validation=0.0, out=tmp_path / "par", progress=False)
    assert not model.is_novel("a\nb")
    assert not model.is_novel("c\nd")


@pytest.mark.parametrize(
    ("records", "newlines", "strings", "expected", "rows"),
    [
        ("line", "universal", ["one\r\ntwo", "three\rfour", "five\r", "\nsix\n\n"], "one two\nthree four\nfive\nsix\n", 2),
        ("line", "keep", ["one\r\ntwo", "three\rfour", "five"], "one two\nthree\rfour\nfive\n", 1),
        ("paragraph", "universal", ["a\r\nb\r\n\r\nc", "d\r\rf", "g\n \n\t\nh\n"], "a\nb\nc\n\nd\nf\n\ng\nh\n\n", 3),
        ("paragraph", "universal", ["a\nb", "c\r\nd"], "a\nb\n\nc\nd\n\n", 0),
        (None, "universal", ["a\n\nb", "c\r\nd", ""], "a\n\nb\nc\nd\n\n", 0),
        (None, "keep", ["a\rb", "c\r\n"], "a\rb\nc\r\n", 0),
    ],
)
def test_a_string_is_one_record_whatever_its_line_ends(records, newlines, strings, expected, rows):
    corpus = _find_sources(None, strings, records, False, newlines)
    asked = options_of(records=records, newlines=newlines, validation=0.0)
    text = read_texts(corpus, asked)
    assert text.training.text() == expected
    notes = [note for note in text.notes if "became" in note]
    assert len(notes) == (rows > 0)
    assert not rows or f"in {rows} of the texts" in notes[0]


def test_tables_and_dicts_are_refused_with_the_right_call():
    table = pandas.DataFrame({"name": ["Anna", "Berta"], "year": [1, 2]})
    for wrong, words in (
        (table, r"charrnn\.train\(text=table\['name'\]\)"),
        (pandas.DataFrame([["Anna", 1]]), r"charrnn\.train\(text=table\[0\]\)"),
        (pandas.DataFrame(), r"charrnn\.train\(text=table\['NAME'\]\)"),
        ({"a": "text"}, r"charrnn\.train\(text=list\(d\.values\(\)\)\)"),
    ):
        with pytest.raises(TypeError, match=words):
            train(text=wrong)
        with pytest.raises(TypeError, match=r"charrnn\.train"):
            train(wrong)
    with pytest.raises(CharrnnError, match=r"not nan \(row 1\)"):
        train(text=pandas.Series(["Anna", math.nan]), records="line")


def test_writing_and_scoring_refuse_what_is_no_text(book_run):
    model = load(book_run / "runs" / "book")
    with pytest.raises(TypeError, match=r"model\.write\(\['ROMEO'\]\)"):
        model.write("ROMEO")
    with pytest.raises(TypeError, match="not list; join several"):
        model.score(["a"])
    with pytest.raises(TypeError, match="not list"):
        model.pieces(["a"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_in_watch_ends_the_run_as_ctrl_c_does(tmp_path, error, capsys):
    seen = []

    def watch(event):
        seen.append(event)
        if isinstance(event, Validation):
            raise error

    arguments = dict(text="to be or not to be, " * 200, steps=200, out=tmp_path / "run", watch=watch)
    if error is KeyboardInterrupt:
        assert train(**arguments).sample(length=5)
    else:
        with pytest.raises(error):
            train(**arguments)
    assert isinstance(seen[-1], Validation)
    steps = load(tmp_path / "run").header.training.metrics.step
    assert 0 < steps < 200
    assert "to continue: charrnn.train(out=" in capsys.readouterr().err
    again = dict(text=arguments["text"], out=tmp_path / "run", resume=True, progress=False)
    assert train(**again).header.training.metrics is not None


def test_an_exception_in_watch_after_ctrl_c_loses_nothing():
    def watch(event):
        if getattr(event, "step", 0) >= 2:
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train("rhymes.txt", seconds=600, watch=watch, out="run", **SMALL)
    assert load("run").header.training.metrics.step >= 2
