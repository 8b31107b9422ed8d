"""Installation: which torch `make` chooses, the oldest versions that work, and the commands that are printed to type next."""

import functools
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from conftest import ROOT

PROGRAM = Path(sys.executable).parent / "charrnn"


@pytest.fixture
def find_torch(tmp_path):
    """Run scripts/torch_index.py with this shell script as `nvidia-smi` (None: no such command). Returns: (stdout, stderr)."""

    def run(index, nvidia_smi=None):
        if nvidia_smi:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
        script = [sys.executable, ROOT / "scripts/torch_index.py", index]
        done = subprocess.run(script, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout, done.stderr

    return run


@pytest.fixture
def index(tmp_path):
    """The URL of a package index that has torch."""
    (tmp_path / "torch").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI has the CPU build")
def test_make_takes_the_cpu_build_where_there_is_no_gpu(find_torch, index):
    option = f"--extra-index-url {index}\n"
    assert find_torch(index) == (option, "")
    assert find_torch(index, nvidia_smi="echo No devices were found; exit 6") == (option, "")
    assert find_torch(index, nvidia_smi="echo GPU 0: NVIDIA H100") == ("", "")


def test_an_index_that_cannot_be_reached_is_said_and_is_no_obstacle(find_torch):
    out, errors = find_torch("http://127.0.0.1:9/whl/cpu")
    assert out == ""
    assert errors.startswith("note: http://127.0.0.1:9/whl/cpu can't be reached (")
    assert errors.count("\n") == 1


def test_the_lowest_versions_are_those_that_are_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {tuple(bound.split(">=")) for bound in project["dependencies"]}
    tested = re.findall(r"^([a-z]+)==(.*)$", (ROOT / "constraints-lowest.txt").read_text(), re.M)
    assert {*tested} == {(name, version) for name, version in bounds if name != "torch"}


@pytest.mark.parametrize("called", [[str(PROGRAM)], [sys.executable, "-m", "charrnn"]], ids=["script", "module"])
def test_the_next_command_works_as_it_is_printed(tmp_path, called):
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}  # as after `make train`: charrnn is not on the PATH
    folder = tmp_path / "my text's folder"
    folder.mkdir()
    (folder / "t.txt").write_text("to be or not to be, " * 50)
    train = [*called, "train", folder / "t.txt", "--steps", "3", "--hidden-size", "8", "-o", folder / "run"]
    done = subprocess.run(train, cwd=tmp_path, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    command = done.stderr.splitlines()[-1].partition("; generate text with: ")[2]
    assert shlex.split(command)[: len(called)] == called
    run = subprocess.run(
        ["bash", "-c", command + " -n 9"], cwd=tmp_path, env=env, capture_output=True, stdin=subprocess.DEVNULL
    )
    assert (run.returncode, len(run.stdout)) == (0, 9), run.stderr
    wrong = subprocess.run([*called, folder / "t.txt"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert wrong.stderr.partition("train a model on it: ")[2].startswith(shlex.join(called) + " train ")
