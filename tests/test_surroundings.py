"""Unusual surroundings: closed streams, little memory, wide terminals, deep folders, pipes instead of files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, options_of

from charrnn.errors import CharrnnError
from charrnn.run_folder import read_history, read_manifest
from charrnn.terminal.output import terminal_size
from charrnn.text.reading import read_corpus, read_text
from charrnn.training.run import Run
from charrnn.training.sources import name_run

SMALL = dict(layers=1, hidden_size=8, embedding=4, batch_size=4, seq_length=10, validation=0.0)
TEXT = "the quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder; texts of 50 characters count as long."""
    monkeypatch.setattr("charrnn.text.id_cache.IN_MEMORY", 50)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "charrnn"


def run_in_shell(folder, arguments, before="", after=""):
    """Run the real program in a shell. Returns: (status, stdout, stderr)."""
    command = f"{before} {sys.executable} -m charrnn {arguments} {after}"
    done = subprocess.run(["sh", "-c", command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        "sample -m run -n 5",
        "eval t.txt -m run",
        "eval t.txt -m run --heatmap",
        "info run",
        "forecast t.csv --steps 1",
        "--help",
    ],
)
def test_a_closed_standard_output_is_an_error_of_what_prints_there(tmp_path, arguments):
    (tmp_path / "t.txt").write_text("hihello" * 9)
    (tmp_path / "t.csv").write_text("a\n" + "".join(f"{i * i % 7}\n" for i in range(30)))
    (tmp_path / "run").mkdir()
    shutil.copy(ROOT / "tests" / "formats" / "format-1.safetensors", tmp_path / "run" / "model.safetensors")
    assert run_in_shell(tmp_path, arguments, after=">&-") == (1, "", "error: standard output is closed\n")


def test_too_little_memory_for_torch_is_said_in_one_line(tmp_path):
    (tmp_path / "t.txt").write_text(TEXT)
    status, _, errors = run_in_shell(tmp_path, "train t.txt --steps 1 -q", before="ulimit -v 300000;")
    assert status == 1
    assert errors == "error: out of memory; try a smaller text, network or batch\n"
    assert os.listdir(tmp_path) == ["t.txt"]


def test_folders_of_any_depth_are_read(tmp_path):
    deepest = tmp_path
    for _ in range(1500):
        deepest = deepest / "d"
        os.mkdir(deepest)
    (deepest / "t.txt").write_text(TEXT)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "t.txt").write_text("hidden")
    (tmp_path / "d" / "loop").symlink_to(tmp_path)
    text = read_text(tmp_path)
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # too deep for pytest, which would end with a RecursionError
    assert text == TEXT


def test_a_terminal_of_any_width_is_drawn_in_no_time(monkeypatch):
    for columns, used in (("60000", 1000), ("65535", 1000), ("120", 120), ("0", 80)):
        monkeypatch.setenv("COLUMNS", columns)
        assert terminal_size()[0] == used


def test_pipes_in_the_place_of_files_are_not_waited_for(tmp_path, cache):
    for name in ("history.jsonl", "corpus.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(CharrnnError, match=r"history\.jsonl can't be read: it is not a regular file"):
        read_history(tmp_path)
    assert read_manifest(tmp_path) == []
    (tmp_path / "t.txt").write_text(TEXT)
    read_corpus([tmp_path / "t.txt"])
    (kept,) = cache.iterdir()
    kept.unlink()
    os.mkfifo(kept)
    corpus = read_corpus([tmp_path / "t.txt"])
    assert corpus.text() == TEXT
    assert corpus.notes[0] == f"{kept} was damaged and is rebuilt"
    assert kept.is_file()


def test_ids_cut_short_under_a_training_end_it_with_what_was_saved(tmp_path, cache):
    (tmp_path / "t.txt").write_text(TEXT)
    options = options_of(steps=200, **SMALL)
    run = Run.create([tmp_path / "t.txt"], options, tmp_path / "run")
    events = run.events(options)
    next(events)
    (kept,) = cache.iterdir()
    os.truncate(kept, 100)
    with pytest.raises(CharrnnError, match=r"charrnn were truncated while they were read; run the command again"):
        list(events)
    resumed = Run.resume(tmp_path / "run")
    assert any("was damaged and is rebuilt" in note for note in resumed.notes + resumed.dataset.text.notes)
    list(resumed.events(options))
    assert resumed.step == 200


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("./...txt", "corpus"),
        ("..txt", "corpus"),
        (".txt", "txt"),
        ("...gz", "corpus"),
        ("..a.txt.gz", "a"),
        ("a.b.txt", "a.b"),
        ("/", "corpus"),
        ("...", "corpus"),
        ("book.txt.zst", "book"),
    ],
)
def test_a_run_has_a_folder_of_its_own_under_runs(source, name):
    assert name_run([source]) == name
    assert len(Path("runs", name).parts) == 2


@pytest.mark.parametrize("name", ["...txt", "..txt"])
def test_a_run_on_a_file_of_dots_stays_under_runs(tmp_path, name, inside):
    (tmp_path / name).write_text(TEXT)
    inside(tmp_path, ["train", f"./{name}", "--steps", 1, "--hidden-size", 4, "-q"], 0)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "runs"])
    assert os.listdir(tmp_path / "runs") == ["corpus"]
