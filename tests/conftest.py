"""Shared fixtures and helpers: run the real program, the project's corpora, and data beside the checkout."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small are quickest on one thread
# charrnn is on the PATH, as in an activated environment.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

ROOT = Path(__file__).parent.parent
CORPORA = ROOT / "corpora"
DATA = ROOT.parent / "shared" / "data"


def charrnn(*arguments, cwd, text=None, env=None, status=0):
    """Run the real program, with `text` as standard input. Returns: (stdout bytes, stderr text)."""
    done = subprocess.run(
        [sys.executable, "-m", "charrnn", *map(str, arguments)],
        cwd=cwd,
        input=b"" if text is None else text if isinstance(text, bytes) else text.encode(),
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=120,
    )
    errors = done.stderr.decode("utf-8", "replace")
    assert "Traceback" not in errors, errors
    assert done.returncode == status, f"exit status {done.returncode}\n{errors}"
    return done.stdout, errors


def options_of(**asked):
    """Make `Options` from keywords of `train`, two of which have another name there."""
    from charrnn.options import KEYS, Options

    names = {key: name for name, key in KEYS.items()}
    return Options(**{names.get(key, key): value for key, value in asked.items()})


@pytest.fixture
def inside(monkeypatch, capsys):
    """Run the program in the tests' process, which is faster, with `text` as standard input. Returns: (stdout, stderr)."""

    def run(folder, arguments, status=0, text=""):
        from charrnn.cli import main

        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["charrnn", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        with pytest.raises(SystemExit) as left:
            main()
        out, errors = capsys.readouterr()
        assert left.value.code == status, errors
        return out, errors

    return run


@pytest.fixture(scope="session")
def book_run(tmp_path_factory):
    """A folder with `runs/book`: a small model trained by the real program on a part of the project's book."""
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
