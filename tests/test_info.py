"""`charrnn info`, and output for other programs: tables, event files, shell completion, exit statuses."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pandas
import pytest
from conftest import ROOT, charrnn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from charrnn import load

KEYS = {
    "model": str,
    "bytes": int,
    "format": int,
    "version": str,
    "config": dict,
    "parameters": int,
    "vocabulary": str,
    "unknown": bool,
    "start": str,
    "records": str | None,
    "training": dict,
    "command": str | None,
    "resumable": bool,
    "resume_command": str | None,
    "resume_obstacle": str | None,
}


def test_info_says_all_that_is_in_the_file(book_run):
    out = charrnn("info", cwd=book_run)[0].decode()
    facts = json.loads(charrnn("info", "runs/book", "--json", cwd=book_run)[0])
    assert {name: isinstance(facts[name], kind) for name, kind in KEYS.items()} == dict.fromkeys(facts, True)
    model = load(book_run / "runs" / "book")
    assert facts["bytes"] == (book_run / "runs/book/model.safetensors").stat().st_size
    assert facts["vocabulary"] == model.vocabulary.characters
    best = min(
        map(json.loads, (book_run / "runs/book/history.jsonl").read_text().splitlines()),
        key=lambda line: line["validation_bits_per_character"],
    )
    best.pop("sample")  # it stays in the history
    assert {name: facts["training"][name] for name in best} == best
    assert f"{facts['parameters']:,}" in out
    assert f"{best['validation_bits_per_character']:.4f} bits per character" in out
    assert "book.txt" in out
    assert facts["command"] in out
    assert facts["resume_command"] in out
    assert charrnn("info", "runs/book/model.safetensors", "--json", cwd=book_run)[0].decode() == json.dumps(facts) + "\n"


def test_a_validation_text_that_is_gone_is_in_the_way_of_resuming(tmp_path):
    for name in ("learned.txt", "held_out.txt"):
        (tmp_path / name).write_text("MARGERY:\nThe lamp is lit.\n" * 60)
    charrnn("train", "learned.txt", "--validation", "held_out.txt", "--steps", 2, "-q", "-o", "one", cwd=tmp_path)
    (tmp_path / "held_out.txt").unlink()
    facts = json.loads(charrnn("info", "one", "--json", cwd=tmp_path)[0])
    assert not facts["resumable"]
    assert "held_out.txt no longer exists" in facts["resume_obstacle"]


def test_the_folder_of_a_run_is_quoted_in_what_to_type(tmp_path):
    (tmp_path / "t.txt").write_text("MARGERY:\nThe lamp is lit.\n" * 60)
    charrnn("train", "t.txt", "--steps", 2, "-q", "-o", "my run", cwd=tmp_path)
    (tmp_path / "t.txt").rename(tmp_path / "u.txt")
    obstacle = json.loads(charrnn("info", "my run", "--json", cwd=tmp_path)[0])["resume_obstacle"]
    command = obstacle.split("name it: charrnn ")[1].replace("TEXT", "u.txt")
    charrnn(*shlex.split(command), "--steps", 3, "-q", cwd=tmp_path)
    facts = json.loads(charrnn("info", "my run", "--json", cwd=tmp_path)[0])
    assert facts["resume_obstacle"] is None
    assert facts["training"]["sources"] == [str(tmp_path / "u.txt")]


def test_its_commands_begin_the_same_run_anew_and_continue_it(book_run, tmp_path):
    (tmp_path / "a text.txt").write_text("MARGERY:\nThe lamp is lit.\n" * 60)
    asked = ["a text.txt", "--steps", 12, "--seed", 5, "--validation", 0.2, "--init-from", book_run / "runs" / "book"]
    charrnn("train", *asked, "-q", "-o", "one", cwd=tmp_path)
    facts = json.loads(charrnn("info", "one", "--json", cwd=tmp_path)[0])
    weights = load(tmp_path / "one").network.softmax
    charrnn(*shlex.split(facts["command"])[1:], "-q", "--force", cwd=tmp_path)
    assert (load(tmp_path / "one").network.softmax == weights).all()
    assert facts["resume_command"] == "charrnn train --resume -o one --steps=24"  # it has come to its end
    charrnn(*shlex.split(facts["resume_command"])[1:], "-q", cwd=tmp_path)
    assert json.loads((tmp_path / "one/history.jsonl").read_text().splitlines()[-1])["step"] == 24
    (tmp_path / "a text.txt").unlink()
    facts = json.loads(charrnn("info", "one", "--json", cwd=tmp_path)[0])
    assert facts["resume_command"] is None
    assert "no longer exists" in facts["resume_obstacle"]
    (tmp_path / "one/state.safetensors").write_text("broken")
    facts = json.loads(charrnn("info", "one", "--json", cwd=tmp_path)[0])
    assert not facts["resumable"]
    assert "one/state.safetensors is not a charrnn file" in facts["resume_obstacle"]
    (tmp_path / "one/state.safetensors").unlink()
    shutil.copy(tmp_path / "one/model.safetensors", tmp_path / "alone.safetensors")
    for name in ("one", "alone.safetensors"):
        assert json.loads(charrnn("info", name, "--json", cwd=tmp_path)[0])["resume_command"] is None


def test_info_of_a_pipes_run_asks_for_the_text_again(tmp_path):
    charrnn("train", "-", "--steps", 3, "-q", cwd=tmp_path, text="to be or not to be, " * 100)
    facts = json.loads(charrnn("info", "--json", cwd=tmp_path)[0])
    assert facts["resume_command"] == "charrnn train --resume -o runs/stdin --steps=6 - < THE_SAME_TEXT"


def test_the_oldest_format_and_bad_files_have_their_say(tmp_path):
    out = charrnn("info", ROOT / "tests/formats/format-1.safetensors", cwd=tmp_path)[0].decode()
    assert "ehilo" in out
    (tmp_path / "t.txt").write_text("no model")
    for arguments, words in (
        (["t.txt"], "t.txt is a text, not a model"),
        (["-m", "t.txt"], "t.txt is a text, not a model"),
        (["gone"], "gone does not exist"),
        ([], "no model under runs/"),
    ):
        assert words in charrnn("info", *arguments, cwd=tmp_path, status=2)[1]


def test_pandas_reads_a_history_in_one_line(book_run):
    history = pandas.read_json(book_run / "runs/book/history.jsonl", lines=True)
    lines = [json.loads(line) for line in (book_run / "runs/book/history.jsonl").read_text().splitlines()]
    assert list(history.columns) == list(lines[0])
    assert history["step"].tolist() == [line["step"] for line in lines]
    assert all(kind.kind in "if" for kind in history.drop(columns="sample").dtypes)
    bits = [line["validation_bits_per_character"] for line in lines]
    assert history["validation_bits_per_character"].tolist() == pytest.approx(bits)


def test_tensorboard_reads_figures_and_samples_and_resuming_adds_to_them(book_run, tmp_path, monkeypatch):
    monkeypatch.setattr("charrnn.terminal.tensorboard.time.time", lambda: 1.8e9)  # both sessions begin in one second
    assert not list((book_run / "runs/book").glob("events*"))  # nobody asked for them there
    (tmp_path / "t.txt").write_text("<b>to be</b> or not to be, " * 200)
    charrnn("train", "t.txt", "--steps", 20, "--hidden-size", 8, "--tensorboard", "-q", "-o", "run", cwd=tmp_path)
    charrnn("train", "--resume", "--steps", 30, "--tensorboard", "-q", "-o", "run", cwd=tmp_path)
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    board = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0, "tensors": 0})
    board.Reload()
    for tag, name in (
        ("bits_per_character/validation", "validation_bits_per_character"),
        ("learning_rate", "learning_rate"),
    ):
        read = {event.step: event.value for event in board.Scalars(tag)}
        for line in history:
            assert read[line["step"]] == pytest.approx(line[name], rel=1e-5, abs=1e-9)
    assert history[-1]["step"] in {event.step for event in board.Scalars("bits_per_character/train")}
    samples = {event.step: event.tensor_proto.string_val[0].decode() for event in board.Tensors("sample")}
    assert samples.keys() == {line["step"] for line in history}
    assert all(line.startswith("    ") for sample in samples.values() for line in sample.split("\n"))  # code, not markup


def test_without_the_extra_tensorboard_says_so_before_anything_is_trained(tmp_path, monkeypatch):
    (tmp_path / "t.txt").write_text("to be or not to be, " * 20)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    _, errors = charrnn("train", "t.txt", "--steps", 1, "--tensorboard", cwd=tmp_path, status=2)
    assert errors == "error: --tensorboard needs tensorboard: pip install 'charrnn[tensorboard]'\n"
    assert not (tmp_path / "runs").exists()


def complete(shell, words, cwd):
    """Shell completion of `words`. Returns: the answer, and the seconds it took."""
    split = words.split(" ")
    env = {"_CHARRNN_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    began = time.monotonic()
    out, errors = charrnn(cwd=cwd, env=env | {"COMP_WORDS": words, "COMP_CWORD": str(len(split) - 1)}, real=True)
    assert errors == ""
    return out.decode().strip(), time.monotonic() - began


@pytest.mark.alone
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options_quickly(tmp_path, shell):
    times = []
    for words, answer in (("charrnn sa", "sample"), ("charrnn sample --inter", "--interactive"), ("charrnn in", "info")):
        out, seconds = complete(shell, words, tmp_path)
        assert answer in out
        times.append(seconds)
    assert min(times) < 1.0  # a tenth of a second where nothing else is at work


@pytest.mark.parametrize("command", ["sample", "info", "export", "eval", "report"])
def test_models_are_completed_after_m_in_every_command(command, tmp_path):
    assert complete("bash", f"charrnn {command} -m eng", tmp_path)[0] == "english"


def test_bash_completes_a_model_as_a_path(book_run, tmp_path):
    home = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "SHELL": "/bin/bash"}
    (tmp_path / "charrnn").write_text(f'#!/bin/sh\nexec {sys.executable} -m charrnn "$@"\n')
    (tmp_path / "charrnn").chmod(0o755)
    script = (
        "charrnn --install-completion >&2; . ~/.bashrc; complete -p charrnn; charrnn --show-completion | head -n 1;"
        'COMP_WORDS=(charrnn sample -m ru); COMP_CWORD=3; _charrnn_completion charrnn; echo "<${COMPREPLY[*]}>"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=book_run, env={**os.environ, **home}, capture_output=True, timeout=60
    )
    *shown, answer = done.stdout.decode().split("\n")[:-1]
    assert shown[0] == "complete -o default -F _charrnn_completion charrnn", done.stderr  # no answer: bash offers paths
    assert answer == "<>"


def test_exit_statuses_say_what_became_of_a_command(book_run, tmp_path):
    charrnn("info", cwd=book_run, status=0)
    charrnn("sample", "-m", "nowhere", cwd=tmp_path, status=2)  # unusable input
    charrnn("dance", cwd=tmp_path, status=2)
    charrnn("export", "runs/book", "-o", "/proc/x.onnx", cwd=book_run, status=1)  # failed while running
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        writing = subprocess.Popen(
            [sys.executable, "-m", "charrnn", "sample", "-n", "100000000"],
            cwd=book_run,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's '&' has it ignored
        )
        writing.stdout.read(1)
        writing.send_signal(number)
        writing.stdout.close()
        assert writing.wait(timeout=20) == 128 + number
