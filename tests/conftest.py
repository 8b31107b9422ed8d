"""Shared fixtures and helpers: run the real program, the project's corpora, and data beside the checkout."""

import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small are quickest on one thread
os.fsync = lambda descriptor: None  # no test turns the power off, and each training would wait a second for the disk
# charrnn is on the PATH, as in an activated environment.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

ROOT = Path(__file__).parent.parent
CORPORA = ROOT / "corpora"
DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items):
    """Long tests come first in the share of each worker (pytest -n), those that measure time come last of all."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if item not in long]
    shares = [((len(long) + k) // workers, (len(items) + k) // workers) for k in range(workers)]  # as pytest-xdist splits them
    firsts, others = iter(long), iter(rest)
    items[:] = [item for n, size in shares for item in (*islice(firsts, n), *islice(others, size - n))]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Several workers (pytest -n) share this machine; a test marked `alone`, which measures time, has it to itself."""
    alone = item.get_closest_marker("alone") is not None
    with open(ROOT / "pyproject.toml") as machine, open(ROOT / "Makefile") as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)  # nobody overtakes whoever waits for the machine
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        return (yield)


def charrnn(*arguments, cwd, text=None, env=None, status=0, real=False):
    """Run the program, with `text` as standard input. Returns: (stdout bytes, stderr text).

    It runs in the tests' process, which saves the import of torch, or with `real` in a process of its own.
    """
    piped = b"" if text is None else text if isinstance(text, bytes) else text.encode()
    words = [word if isinstance(word, bytes) else str(word) for word in arguments]
    ended, out, errors = (run_process if real else run_within)(words, cwd, piped, env or {})
    errors = errors.decode("utf-8", "replace")
    assert "Traceback" not in errors, errors
    assert ended == status, f"exit status {ended}\n{errors}"
    return out, errors


def run_process(words, cwd, piped, env):
    """(exit status, stdout, stderr) of the program as a process."""
    command = [sys.executable, "-m", "charrnn", *words]
    done = subprocess.run(command, cwd=cwd, input=piped, capture_output=True, env={**os.environ, **env}, timeout=120)
    return done.returncode, done.stdout, done.stderr


def start(command, cwd):
    """Start a process that Ctrl-C reaches, as on a terminal: a shell's '&' has it ignored. Its stderr is a pipe of text."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run_within(words, cwd, piped, env):
    """(exit status, stdout, stderr) of the program within this process, which is left as it was."""
    from charrnn.cli import main

    streams = {name: io.TextIOWrapper(io.BytesIO(piped * (name == "stdin")), "utf-8") for name in ("stdin", "stdout", "stderr")}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["charrnn", *map(os.fsdecode, words)])
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setattr("charrnn.commands.train.STARTED", time.monotonic())
        patch.setattr("charrnn.commands.train.keep_memory", lambda: None)  # the tests give theirs back
        with pytest.raises(SystemExit) as ended:
            main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return ended.value.code, streams["stdout"].buffer.getvalue(), streams["stderr"].buffer.getvalue()


def options_of(**asked):
    """Make `Options` from keywords of `train`, two of which have another name there."""
    from charrnn.options import KEYS, Options

    names = {key: name for name, key in KEYS.items()}
    return Options(**{names.get(key, key): value for key, value in asked.items()})


@pytest.fixture
def inside():
    """`charrnn` for a folder and a list of arguments. Returns: (stdout, stderr)."""

    def run(folder, arguments, status=0, text=""):
        out, errors = charrnn(*arguments, cwd=folder, status=status, text=text)
        return out.decode(), errors

    return run


@pytest.fixture(scope="session")
def book_run(tmp_path_factory):
    """A folder with `runs/book`: a small model trained by the program on a part of the project's book."""
    folder = tmp_path_factory.mktemp("book")
    text = (CORPORA / "the-lamp.txt").read_text()[:30_000]
    (folder / "book.txt").write_text(text)
    charrnn("train", "book.txt", "--steps", 120, "--hidden-size", 48, "-q", cwd=folder)
    return folder


@pytest.fixture
def shakespeare():
    path = DATA / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


@pytest.fixture(scope="module")
def browser():
    """A Chromium browser; if there is none, the test is skipped."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium here to open a page with")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no page is opened")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=120_000)
        yield chromium
        chromium.close()
