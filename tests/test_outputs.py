"""Output files named by the user: nothing important is overwritten, and no unfinished file is left."""

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from charrnn import checkpoint
from charrnn.checkpoint import TEMPORARY, write_atomically
from charrnn.errors import CharrnnError

TABLE = "row,value\n" + "".join(f"{i},{i * i % 7}\n" for i in range(30))
OUTPUTS = {  # a command, what its output's name ends in, and what the output holds
    "table": (["forecast", "t.csv", "--steps", "1", "-q", "--save"], ".csv", b",value,forecast,naive\n"),
    "plot": (["forecast", "t.csv", "--steps", "1", "-q", "--plot"], ".svg", b"<svg"),
    "export": (["export", "run", "-o"], ".onnx", b"charrnn"),
    "report": (["report", "run", "t.txt", "-o"], ".html", b"<html"),
}
PRECIOUS = b"what must not be lost"


def make_files(folder):
    """Make a table, texts and a run, and the table's links: their folder."""
    (folder / "t.csv").write_text(TABLE)
    (folder / "t.txt").write_text("some good text, " * 40)
    (folder / "texts").mkdir()
    (folder / "texts" / "a.html").write_text("some good text, " * 40)
    (folder / "run").mkdir()
    model = (ROOT / "tests" / "formats" / "format-1.safetensors").read_bytes()
    for name in ("run/model.safetensors", "m.onnx", "m.svg", "m.csv"):
        (folder / name).write_bytes(model)
    for name in ("state.safetensors", "history.jsonl", "corpus.json"):
        (folder / "run" / name).write_bytes(PRECIOUS)
    os.link(folder / "t.csv", folder / "hard.csv")
    os.symlink("t.csv", folder / "soft.csv")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("outputs"))


def snapshot(folder):
    """The kind and content of each path in a folder."""
    paths = {path: path.lstat().st_mode for path in folder.rglob("*")}
    return {path: (mode, path.read_bytes() if stat.S_ISREG(mode) else b"") for path, mode in paths.items()}


@pytest.mark.parametrize("output", OUTPUTS)
def test_symlinks_are_followed(folder, tmp_path, output, inside):
    command, ending, product = OUTPUTS[output]
    (tmp_path / "old").write_bytes(b"old")
    for target in ("old", "new"):
        link = tmp_path / f"{target}-link{ending}"
        link.symlink_to(target)
        inside(folder, [*command, link], 0)
        assert link.is_symlink()
        assert product in (tmp_path / target).read_bytes()
    assert len(os.listdir(tmp_path)) == 4


def make_device(path, kind, minor):
    """Make a device, so that a mistake harms none of the system's. Returns: False if only root may."""
    try:
        os.mknod(path, kind | 0o600, os.makedev(1, minor))
        return os.access(path, os.W_OK)
    except OSError:
        return False


@pytest.mark.parametrize("output", OUTPUTS)
def test_devices_and_pipes_are_written_through(folder, tmp_path, output, inside):
    command, ending, product = OUTPUTS[output]
    pipe = tmp_path / f"pipe{ending}"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    inside(folder, [*command, pipe], 0)
    reader.join()
    assert product in found[0]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    for minor, status in ((3, 0), (7, 1)):  # null and full
        device = tmp_path / f"device{minor}{ending}"
        if make_device(device, stat.S_IFCHR, minor):
            errors = inside(folder, [*command, device], status)[1]
            assert not status or errors.endswith(f"error: {device} can't be written: No space left on device\n")
            assert stat.S_ISCHR(device.lstat().st_mode)


@pytest.mark.parametrize("stdout", ["pipe", "file"])
def test_standard_output_can_be_named_as_an_output(folder, tmp_path, stdout):
    command = [sys.executable, "-m", "charrnn", *OUTPUTS["table"][0], "/proc/self/fd/1"]
    if not os.path.exists(command[-1]):
        pytest.skip("the system has no such name for it")
    with open(tmp_path / "out", "wb") as file:
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE if stdout == "pipe" else file, timeout=60)
    shown = (done.stdout or (tmp_path / "out").read_bytes()).decode()
    assert shown.startswith("line,value,forecast,naive\n")
    assert "RMSE" in shown


def test_a_reader_that_leaves_a_pipe_is_no_error(folder):
    command = f"{sys.executable} -m charrnn {' '.join(OUTPUTS['table'][0])} >(true)"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"RMSE" in done.stdout


def make_targets(folder, place, ending):
    """Make in `place` what no output may replace, `folder` being one of `make_files`: paths, and the exit status of each."""
    links = {"folder": "folder", "loop": f"loop{ending}", "socket": "socket", "block": "block", "none": "none/x"}
    (place / "folder").mkdir()
    for name in ("model.safetensors", "state.safetensors", "history.jsonl", "corpus.json", "kept.safetensors"):
        links[name] = folder / "run" / name
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "socket"))
    if not make_device(place / "block", stat.S_IFBLK, 99):
        del links["block"]
    for name, target in links.items():
        (place / f"{name}{ending}").symlink_to(target)
    return {place / f"{name}{ending}": 1 if name in ("loop", "none") else 2 for name in links}


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_is_no_ordinary_file_of_the_users_is_refused(folder, tmp_path, output, inside):
    command, ending, _ = OUTPUTS[output]
    targets = make_targets(folder, tmp_path, ending)
    before = snapshot(folder), snapshot(tmp_path)
    for path, status in targets.items():
        out, errors = inside(folder, [*command, path], status)
        assert out == ""
        assert errors.startswith("error: ")
        assert path.name in errors
        assert len(errors.splitlines()) == 1
    assert (snapshot(folder), snapshot(tmp_path)) == before


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_folder_that_is_read_only_is_told_before_the_work(folder, tmp_path, output, inside):
    command, ending, _ = OUTPUTS[output]
    if os.geteuid():
        tmp_path.chmod(0o500)
    elif subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=400k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("no read-only disk can be mounted here")
    try:
        _, errors = inside(folder, [*command, tmp_path / f"out{ending}"], 1)
        _, kept = inside(folder, ["forecast", "t.csv", "-q", "-o", tmp_path], 1)
    finally:
        subprocess.run(["umount", tmp_path], capture_output=True)
    said = "can't be written: the folder {0} is read-only\n"
    assert errors == f"error: {tmp_path}/out{ending} {said.format(tmp_path)}"
    assert kept == f"error: {tmp_path}/forecast.safetensors {said.format(tmp_path)}"


READ = {
    "its table": ["forecast", "t.csv", "--save", "t.csv"],
    "its table by another path": ["forecast", "t.csv", "--save", "run/../t.csv"],
    "its table by a hard link": ["forecast", "t.csv", "--save", "hard.csv"],
    "its table by a symlink": ["forecast", "soft.csv", "--save", "t.csv"],
    "its table as a plot": ["forecast", "m.svg", "--plot", "m.svg"],
    "its kept model": ["forecast", "t.csv", "-m", "m.csv", "--save", "m.csv"],
    "the model": ["export", "m.onnx", "-o", "m.onnx"],
    "the model of a report": ["report", "m.csv", "t.txt", "-o", "m.csv"],
    "the text": ["report", "run", "t.txt", "-o", "t.txt"],
    "one of the texts": ["report", "run", "t.csv", "t.txt", "-o", "t.txt"],
    "a text of a folder": ["report", "run", "texts", "-o", "texts/a.html"],
}


@pytest.mark.parametrize("case", READ)
def test_an_output_that_is_an_input_is_refused(folder, case, inside):
    before = snapshot(folder)
    out, errors = inside(folder, READ[case], 2)
    assert out == ""
    assert errors.startswith("error: --")
    assert errors.endswith(f" {READ[case][-1]} is an input of this command; choose another file\n")
    assert snapshot(folder) == before


def test_an_output_that_is_piped_in_is_refused(folder):
    before = snapshot(folder)
    command = f"{sys.executable} -m charrnn forecast --save t.csv < t.csv"
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: --save t.csv is an input of this command; choose another file\n")
    assert snapshot(folder) == before


def test_a_report_never_replaces_the_text_that_its_run_learned(tmp_path, inside):
    for name in ("t.txt", "held.txt"):
        (tmp_path / name).write_text("some good text, " * 40)
    inside(tmp_path, ["train", "t.txt", "--validation", "held.txt", "--steps", 1, "-q", "-o", "run"], 0)
    before = snapshot(tmp_path)
    for name in ("t.txt", "held.txt"):
        assert "is an input of this command" in inside(tmp_path, ["report", "run", "-o", name], 2)[1]
    assert snapshot(tmp_path) == before


def test_two_outputs_of_a_command_are_two_files(folder, inside):
    errors = inside(folder, ["forecast", "t.csv", "--save", "p.png", "--plot", "p.png"], 2)[1]
    assert errors == "error: --save and --plot p.png name one file\n"


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "history.jsonl", "corpus.json"])
def test_a_run_never_replaces_its_text(tmp_path, name, inside):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / name).write_text("some good text, " * 40)
    (tmp_path / "texts" / "more.txt").write_text("some good text, " * 40)
    before = snapshot(tmp_path)
    for source in ("texts", f"texts/{name}"):
        said = inside(tmp_path, ["train", source, "--steps", 1, "--force", "-o", "texts"], 2)[1].splitlines()[-1]
        expected = f"--out texts: the run would replace the text texts/{name}; name another folder"
        if source != "texts" and name.endswith(".safetensors"):
            expected = f"{source} is a model, not a text"
        assert said.startswith(f"error: {expected}")
    assert snapshot(tmp_path) == before


# Several writers, and killed ones

WRITE = "import os, signal, sys; from pathlib import Path; from charrnn import checkpoint, errors; "
WRITE += "real = os.fsync; os.fsync = lambda file: ({meanwhile}, real(file)); "
WRITE += "checkpoint.write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 9_999)"


def start_writer(path, word, meanwhile, cwd=None):
    """A program that writes a file, and runs other code before the file is renamed."""
    command = [sys.executable, "-c", WRITE.format(meanwhile=meanwhile), path, word]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd)


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path):
    (tmp_path / "out").write_bytes(PRECIOUS)
    start_writer(tmp_path / "out", "killed", "os.kill(os.getpid(), signal.SIGKILL)").communicate()
    left = set(os.listdir(tmp_path)) - {"out"}
    assert [name.startswith(".charrnn-") for name in left] == [True]
    assert (tmp_path / "out").read_bytes() == PRECIOUS
    (tmp_path / ".mine.tmp").write_bytes(PRECIOUS)
    write_atomically(tmp_path / "other", b"whole")
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", "other", "out"]


def test_a_file_that_a_kill_left_empty_is_removed_at_once(tmp_path):
    (tmp_path / TEMPORARY.format("0")).touch()
    write_atomically(tmp_path / "out", b"whole")
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_is_removed_before_it_is_locked_is_created_again(tmp_path, monkeypatch):
    lock, removed = checkpoint.lock, []

    def lock_late(descriptor):
        if len(removed) < 3:  # another program takes it for a leftover
            removed.extend(tmp_path.glob(TEMPORARY.format("*")))
            removed[-1].unlink()
            if len(removed) == 2:
                raise BlockingIOError
        lock(descriptor)

    monkeypatch.setattr(checkpoint, "lock", lock_late)
    write_atomically(tmp_path / "out", b"whole")
    assert len(removed) == 3
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"out": b"whole"}


def test_a_signal_in_the_midst_of_writing_leaves_nothing(tmp_path):
    (tmp_path / "out").write_bytes(PRECIOUS)
    taken = "signal.signal(signal.SIGTERM, lambda number, _: errors.leave(128 + number))"
    meanwhile = f"print(len(os.listdir())), sys.stdout.flush(), {taken}, os.kill(os.getpid(), signal.SIGTERM)"
    writer = start_writer("out", "half", meanwhile, cwd=tmp_path)
    assert writer.communicate()[0] == b"2\n"
    assert writer.returncode == 143
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == PRECIOUS


def test_two_writers_of_one_file_both_write_it_whole(tmp_path):
    slow = start_writer(tmp_path / "out", "slow", "os.write(1, b'.'), os.read(0, 1)")
    assert slow.stdout.read(1) == b"."  # its file is written, and has not taken its place yet
    start_writer(tmp_path / "out", "killed", "os.kill(os.getpid(), signal.SIGKILL)").communicate()
    assert len(os.listdir(tmp_path)) == 2
    write_atomically(tmp_path / "out", b"quick")
    assert (tmp_path / "out").read_bytes() == b"quick"
    assert len(os.listdir(tmp_path)) == 2  # what the killed one left is gone, what the slow one is writing is not
    slow.communicate(b".")
    assert slow.returncode == 0
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"slow" * 9_999


def test_a_file_of_a_run_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "history.jsonl")
    with pytest.raises(CharrnnError, match=r"history.jsonl can't be written: it is not a regular file"):
        write_atomically(tmp_path / "history.jsonl", b"{}")
    assert os.listdir(tmp_path) == ["history.jsonl"]
