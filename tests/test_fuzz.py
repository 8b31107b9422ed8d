"""Broken files: each is either a valid model or refused with one error line; none runs code, hangs or takes much memory."""

import contextlib
import resource
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from conftest import CORPORA, ROOT, charrnn
from mutants import mutants, pack, unpack

from charrnn import checkpoint, load, train
from charrnn.errors import CharrnnError
from charrnn.inference.model import Model
from charrnn.options import Options
from charrnn.run_folder import MODEL, STATE
from charrnn.training.run import Run

TEXT = "hihello\n" * 20


def train_tiny(folder):
    """Make `run` in a folder: a tiny run with valid model and state files."""
    (folder / "t.txt").write_text(TEXT)
    train(folder / "t.txt", out=folder / "run", steps=6, layers=1, hidden_size=4, embedding=0, batch_size=2, seq_length=8)


@contextlib.contextmanager
def gigabyte():
    """Limit memory to a gigabyte more than the process uses now, if the system can tell how much that is."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, threads = resource.getrlimit(resource.RLIMIT_AS), torch.get_num_threads()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    train_tiny(folder)
    return folder


def try_model(path):
    """Whether the file is a model. If so, check that it writes text without NumPy warnings."""
    try:
        model = load(path)
    except CharrnnError:
        return False
    assert len(model.sample(length=5, seed=1)) == 5
    assert "4 lstm" in repr(model)
    return True


def try_state(folder):
    """Whether the folder's state can be resumed. If so, its model writes text, and it trains or raises CharrnnError."""
    try:
        run = Run.resume(folder, [])
        assert len(Model(run._weights(), run.header).sample(length=5, seed=1)) == 5
        list(run.events(Options(steps=run.step + 1)))
    except CharrnnError:
        return False
    return True


def attempt(trial, *arguments):
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = trial(*arguments)
    assert time.monotonic() - started < 5
    return result


def count_models(run, count, seed):
    """(loaded, refused) of `count` mutants of the model file."""
    path = run / "mutant.safetensors"
    loaded = 0
    for data in mutants((run / "run" / MODEL).read_bytes(), count, seed):
        path.write_bytes(data)
        loaded += attempt(try_model, path)
    return loaded, count - loaded


def count_states(run, count, seed):
    """(resumed, refused) of `count` mutants of the state file."""
    resumed = 0
    good = (run / "run" / STATE).read_bytes()
    folder = run / "mutant"
    for data in mutants(good, count, seed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / STATE).write_bytes(data)
        resumed += attempt(try_state, folder)
    return resumed, count - resumed


def test_every_mutant_of_a_model_loads_or_is_refused(run):
    with gigabyte():
        loaded, refused = count_models(run, 500, seed=1)
    assert loaded > 10
    assert refused > 300


def test_every_mutant_of_a_state_resumes_or_is_refused(run):
    with gigabyte():
        resumed, refused = count_states(run, 500, seed=2)
    assert resumed > 10
    assert refused > 300


def test_mutants_end_the_real_program_with_one_line(run):
    path = run / "mutant.safetensors"
    for data in mutants((run / "run" / MODEL).read_bytes(), 6, seed=3):
        path.write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-m", "charrnn", "sample", "-m", path, "-n", "5", "--seed", "1"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode in (0, 2)
        assert len(done.stderr.splitlines()) == (done.returncode == 2)


LIES = {
    "a tensor of 2^80 numbers": lambda h, o: h["softmax.weight"].update(shape=[2**40, 2**40]),
    "a tensor beyond the file": lambda h, o: h["softmax.weight"].update(data_offsets=[0, 2**40]),
    "a vocabulary of 2^30": lambda h, o: o["config"].update(vocabulary_size=2**30),
    "a billion layers": lambda h, o: o["config"].update(num_layers=10**9),
    "half a layer": lambda h, o: o["config"].update(num_layers=0.5),
    "a layer that is true": lambda h, o: o["config"].update(num_layers=True),
    "residual that is a number": lambda h, o: o["config"].update(residual=1),
    "an option that nobody knows": lambda h, o: o["config"].update(attention=8),
    "another cell": lambda h, o: o["config"].update(cell="brain"),
    "a cell that is a list": lambda h, o: o["config"].update(cell=["lstm"]),
    "a configuration that is text": lambda h, o: o.update(config="lstm"),
    "a character twice": lambda h, o: o.update(vocabulary=o["vocabulary"][:-1] + o["vocabulary"][-2]),
    "a character that is none": lambda h, o: o.update(vocabulary=o["vocabulary"][:-1] + "\ud800"),
    "a start outside": lambda h, o: o.update(start="Z"),
    "a number that is none": lambda h, o: o["training"].update(seconds=float("nan")),
    "infinity": lambda h, o: o.update(more=float("inf")),
    "training that is a list": lambda h, o: o.update(training=[]),
    "no format": lambda h, o: o.pop("format"),
    "a format that is true": lambda h, o: o.update(format=True),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(run, lie):
    header, ours, body = unpack((run / "run" / MODEL).read_bytes())
    LIES[lie](header, ours)
    path = run / "lie.safetensors"
    path.write_bytes(pack(header, ours, body))
    with pytest.raises(CharrnnError, match=r"lie\.safetensors"):
        load(path)


def test_a_newer_format_says_which_version_reads_it(run):
    header, ours, body = unpack((run / "run" / MODEL).read_bytes())
    ours |= {"format": checkpoint.FORMAT + 1, "version": "9.8.7"}
    path = run / "newer.safetensors"
    path.write_bytes(pack(header, ours, body))
    newer = r"has format 3, written by charrnn 9\.8\.7; .* reads formats up to 2; use charrnn 9\.8\.7"
    with pytest.raises(CharrnnError, match=newer):
        load(path)


def test_a_pipe_or_a_device_is_no_model(run):
    with pytest.raises(CharrnnError, match="not a regular file"):
        load("/dev/zero")


def test_a_text_that_a_state_names_must_be_a_file_or_a_folder(run):
    header, ours, body = unpack((run / "run" / STATE).read_bytes())
    ours["origin"]["sources"] = ["/dev/zero"]
    folder = run / "zero"
    folder.mkdir()
    (folder / STATE).write_bytes(pack(header, ours, body))
    with pytest.raises(CharrnnError, match="no longer exists"):
        Run.resume(folder, [])


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "formats").glob("*.safetensors")), ids=lambda path: path.stem)
def test_every_format_that_was_ever_written_is_read(path, tmp_path):
    assert path.stat().st_size < 10_000
    assert charrnn("sample", "-m", path, "-p", "h", "-n", 6, "--greedy", cwd=tmp_path)[0] == b"hihello"


def test_the_newest_format_has_its_model_among_them():
    newest = ROOT / "tests" / "formats" / f"format-{checkpoint.FORMAT}.safetensors"
    assert checkpoint.read_model(newest)[1].format == checkpoint.FORMAT
    assert (CORPORA / "hihello.txt").exists()
