"""Safety: kills, full disks, two runs in one folder, signals, hostile text."""

import array
import contextlib
import fcntl
import json
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import charrnn, options_of

from charrnn import checkpoint, load, run_folder, train
from charrnn.checkpoint import TEMPORARY, read, read_state
from charrnn.errors import CharrnnError
from charrnn.options import Options
from charrnn.run_folder import CORPUS, HISTORY, MODEL, STATE
from charrnn.training.run import Run

PROGRAM = [sys.executable, "-m", "charrnn"]
FILES = {MODEL, STATE, HISTORY, CORPUS}
SMALL = dict(layers=1, hidden_size=8, embedding=4, batch_size=4, seq_length=10, dropout=0.3)
FLAGS = [word for name, value in SMALL.items() for word in ("--" + name.replace("_", "-"), str(value))]
TEXT = "the quick brown fox jumps over the lazy dog. " * 40
HOSTILE = "\x1b[2J\x1b]8;;http://x\x07\u202e\x9b31m[red]\r\x00\x1b]0;title\x1b\\\x08\u2066"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Train on one thread, which is fastest for networks this small, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text(TEXT)
    return path


def start(*arguments, cwd, **more):
    """The real program, started with signals handled as a shell does."""

    def signals():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    more = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=signals) | more
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], cwd=cwd, **more)


def outcome(folder):
    """Everything in a run's folder except the times."""
    model, state = read(folder / MODEL), read(folder / STATE)
    history = [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
    assert history == state[1]["history"]
    for record in [model[1]["training"], state[1]["place"], *history, *state[1]["history"]]:
        record.pop("seconds")
    return (
        [{n: (t.dtype, t.tobytes()) for n, t in tensors.items()} for tensors, _ in (model, state)],
        model[1],
        state[1],
        history,
    )


# Kills


class Kill(BaseException):
    """Ends a run at one place, like a kill: no handler of the program catches it."""


@pytest.mark.parametrize("validation", [0.1, 0.0])
@pytest.mark.parametrize("when", ["before a file takes its place", "after a file has taken its place"])
def test_a_kill_between_any_two_writes_changes_nothing(corpus, tmp_path, monkeypatch, when, validation):
    options = options_of(steps=5, validation=validation, learning_rate=0.2, **SMALL)
    folder, replace = tmp_path / "run", os.replace
    calls, fatal = 0, -1

    def deadly(source, target):
        nonlocal calls
        calls += 1
        if calls == fatal and when.startswith("before"):
            raise Kill
        replace(source, target)
        if calls == fatal:
            raise Kill

    monkeypatch.setattr(os, "replace", deadly)
    list(Run.create([corpus], options, folder).events(options))
    expected, writes = outcome(folder), calls
    assert writes >= 14
    for number in range(1, writes + 1):
        shutil.rmtree(folder)
        calls, fatal = 0, number
        with pytest.raises(Kill):
            list(Run.create([corpus], options, folder).events(options))
        run = Run.resume(folder, []) if (folder / STATE).exists() else Run.create([corpus], options, folder)
        list(run.events(options))
        assert outcome(folder) == expected, f"killed at write {number}"


def test_a_program_killed_at_random_moments_ends_as_one_that_never_was(corpus, tmp_path):
    chance, out, options = random.Random(5), tmp_path / "run", options_of(steps=600, **SMALL)
    train(corpus, out=out, steps=600, **SMALL)
    expected = outcome(out)
    shutil.rmtree(out)
    kills = 0
    for _ in range(2):
        again = ["--resume"] if (out / STATE).exists() else [corpus, "--steps", 600, *FLAGS]
        process = start("train", *again, "-o", out, "-q", cwd=tmp_path)
        wait_until((out / STATE).exists)
        time.sleep(0.5 * chance.random() + (2.0 if "--resume" in again else 0.0))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    list(Run.resume(out, []).events(options))
    assert kills
    assert outcome(out) == expected
    assert set(os.listdir(out)) == FILES


def test_a_validation_that_a_signal_ended_is_made_up_for(corpus, tmp_path):
    options = options_of(steps=10, **SMALL)
    list(Run.create([corpus], options, tmp_path / "whole").events(options))
    for number in range(1, 40, 6):
        run = Run.create([corpus], options, tmp_path / "parts", force=True)
        asked = 0

        def stop(number=number):
            nonlocal asked
            asked += 1
            return asked >= number  # at each step, and in each block of each validation

        list(run.events(options, stop=stop))
        if run.step:
            assert load(tmp_path / "parts").sample(length=5)
        list(Run.resume(tmp_path / "parts", []).events(options))
        assert outcome(tmp_path / "parts")[0] == outcome(tmp_path / "whole")[0]
        assert outcome(tmp_path / "parts")[3] == outcome(tmp_path / "whole")[3]


@pytest.mark.alone
def test_the_time_that_was_spent_before_a_stop_is_counted(corpus, tmp_path):
    options = options_of(seconds=3.0, **SMALL)
    run = Run.create([corpus], options, tmp_path / "run")
    list(run.events(options, stop=lambda: run.counters.seconds > 2))
    started = time.monotonic()
    list(Run.resume(tmp_path / "run", []).events(options))
    assert time.monotonic() - started < 2


def test_a_run_killed_before_its_first_save_is_begun_again_by_the_same_command(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/t")
    folder.mkdir(parents=True)
    (folder / TEMPORARY.format("0123")).write_bytes(b"half")
    with pytest.raises(CharrnnError, match="runs/t has no checkpoint to resume"):
        Run.resume(folder, [])
    train("t.txt", steps=2, **SMALL)
    assert set(os.listdir(folder)) == FILES


# Writes


def test_a_disk_that_is_full_leaves_what_was_saved(corpus, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    try:
        train(corpus, out=disk / "run", steps=5, **SMALL)
        before = {name: (disk / "run" / name).read_bytes() for name in FILES}
        with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(512))
        with pytest.raises(CharrnnError, match=f"{STATE} can't be written: No space left on device"):
            list(Run.resume(disk / "run", []).events(Options(steps=50)))
        assert {name: (disk / "run" / name).read_bytes() for name in os.listdir(disk / "run")} == before
        (disk / "ballast").unlink()
        list(Run.resume(disk / "run", []).events(Options(steps=50)))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_is_read_only_is_named(corpus, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid():
        disk.chmod(0o500)
    elif subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no read-only disk can be mounted here")
    try:
        with contextlib.chdir(disk), pytest.raises(CharrnnError, match="runs/t can't be made: "):
            train(corpus, steps=5, **SMALL)
    finally:
        subprocess.run(["umount", disk], capture_output=True)


def test_a_quota_ends_the_run_with_one_line_and_what_was_saved(corpus, tmp_path):
    train(corpus, out=tmp_path / "run", steps=5, **SMALL)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in FILES}
    process = start(
        *("train", "--resume", "--steps", 50, "-q", "-o", tmp_path / "run"),
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    errors = process.communicate()[1].decode()
    assert process.returncode == 1
    assert errors == f"error: {tmp_path}/run/{STATE} can't be written: File too large\n"
    assert {name: (tmp_path / "run" / name).read_bytes() for name in os.listdir(tmp_path / "run")} == before


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_deleted_under_the_run_is_an_error(corpus, tmp_path, again):
    options = options_of(steps=50, **SMALL)
    run = Run.create([corpus], options, tmp_path / "run")
    events = run.events(options)
    next(events)
    shutil.rmtree(tmp_path / "run")
    if again:
        train(corpus, out=tmp_path / "run", steps=3, **SMALL)  # another run's folder now
    with pytest.raises(CharrnnError, match="deleted or moved during the run"):
        list(events)
    if again:
        assert read_state(tmp_path / "run" / STATE)[1].counters.step == 3


def test_weights_that_are_no_numbers_never_reach_a_file(corpus, tmp_path):
    options = options_of(steps=30, validation=0.0, **SMALL)
    run = Run.create([corpus], options, tmp_path / "run")
    list(run.events(options, stop=lambda: run.step >= 10))
    before = {name: (tmp_path / "run" / name).read_bytes() for name in FILES}
    learn = run._learn

    def spoil(fraction):
        learn(fraction)
        run.learner.model.embedding.weight.data[0, 0] = np.nan  # the loss may stay finite: the character may not come up

    run._learn = spoil
    for bad in (np.nan, np.inf, 1e30):
        with pytest.raises(CharrnnError, match="diverged"):
            list(run.events(options))
        run.learner.model.embedding.weight.data[0, 0] = bad
    assert all((tmp_path / "run" / name).read_bytes() == before[name] for name in (MODEL, HISTORY))
    assert checkpoint.read_state(tmp_path / "run" / STATE)[1].counters.step == 10  # whole, but for the setbacks it counts


# Two runs


def test_a_second_run_in_a_folder_is_refused_and_the_lock_dies_with_its_process(corpus, tmp_path):
    out = tmp_path / "run"
    first = start("train", corpus, "--for", "60s", *FLAGS, "-o", out, cwd=tmp_path)
    wait_until((out / STATE).exists)
    with pytest.raises(CharrnnError, match="another run is using"):
        Run.resume(out, [])
    with pytest.raises(CharrnnError, match="another run is using"):
        Run.create([corpus], Options(steps=1), out, force=True)
    first.kill()
    first.communicate()
    list(Run.resume(out, []).events(Options(steps=1)))


def test_runs_that_start_at_one_moment_get_folders_of_their_own(corpus, tmp_path):
    processes = [start("train", "t.txt", "--steps", 3, "-q", *FLAGS, cwd=tmp_path) for _ in range(2)]
    assert [process.communicate()[1] for process in processes] == [b"", b""]
    assert sorted(os.listdir(tmp_path / "runs")) == ["t", "t-2"]
    assert all(set(os.listdir(folder)) == FILES for folder in (tmp_path / "runs").iterdir())


def test_force_starts_anew_and_never_resumes_what_stood_there(corpus, tmp_path):
    out = tmp_path / "run"
    train(corpus, out=out, steps=20, **SMALL)
    old = (out / MODEL).read_bytes()
    with pytest.raises(CharrnnError, match=r"resume=True.*force=True"):
        train(corpus, out=out, steps=20, **SMALL)
    other = tmp_path / "other.txt"
    other.write_text("another text entirely. " * 40)
    options = options_of(steps=40, **SMALL)
    run = Run.create([other], options, out, force=True)
    events = run.events(options, stop=lambda: True)
    list(events)
    assert read_state(out / STATE)[1].counters.step == 0
    assert (out / MODEL).read_bytes() == old  # until there is a better thing
    resumed = Run.resume(out, [])
    assert resumed.origin.sources == [str(other)]
    list(resumed.events(options))
    assert load(out).vocabulary.characters == resumed.dataset.vocabulary.characters


# Signals


def wait_until(condition, fail=True):
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            assert not fail, "it took too long"
            return
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "status", "moment"),
    [(signal.SIGINT, 130, "importing"), (signal.SIGTERM, 143, "first step"), (signal.SIGINT, 130, "training")],
)
def test_a_signal_at_any_moment_saves_what_there_is(corpus, tmp_path, number, status, moment):
    out = tmp_path / "run"
    process = start("train", corpus, "--for", "60s", *FLAGS, "-o", out, "-q", cwd=tmp_path)
    if moment == "importing":
        time.sleep(0.5)
    else:
        wait_until((out / STATE).exists)
        time.sleep(0.5 if moment == "training" else 0)
    sent = time.monotonic()
    process.send_signal(number)
    errors = process.communicate(timeout=20)[1].decode()
    assert time.monotonic() - sent < 10
    assert process.returncode == status
    assert len(errors.splitlines()) <= 1
    if moment != "importing":
        assert {STATE, HISTORY} <= set(os.listdir(out)) <= FILES
        assert f"saved in {out}; continue with: charrnn train --resume -o" in errors
        Run.resume(out, []).folder.unlock()


def test_a_second_signal_ends_at_once_without_harm(corpus, tmp_path):
    process = start("train", corpus, "--for", "60s", *FLAGS, "-o", tmp_path / "run", cwd=tmp_path)
    wait_until((tmp_path / "run" / STATE).exists)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=10)[1].decode()
    assert process.returncode in (130, 143)
    assert "Traceback" not in errors
    Run.resume(tmp_path / "run", []).folder.unlock()


def test_what_nohup_has_silenced_stays_silent(corpus, tmp_path):
    process = start(
        *("train", corpus, "--steps", 200, *FLAGS, "-o", tmp_path / "run", "-q"),
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    wait_until((tmp_path / "run" / STATE).exists)
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 0


# Streams


@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_harm_no_training(corpus, tmp_path, streams):
    command = f"{sys.executable} -m charrnn train t.txt --steps 20 {' '.join(FLAGS)} {streams}"
    env = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr
    assert load(tmp_path / "runs" / "t").sample(length=5)


def test_readers_that_leave_end_it_quietly(corpus, tmp_path):
    command = f"{sys.executable} -m charrnn train t.txt --steps 200 {' '.join(FLAGS)} 2>&1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""
    assert (tmp_path / "runs" / "t" / MODEL).exists()
    done = subprocess.run(
        [*PROGRAM, "eval", "t.txt", "-m", "runs/t"], cwd=tmp_path, stdout=open_full(), stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "error: input or output: No space left on device\n"
    done = subprocess.run(["sh", "-c", f"{' '.join(PROGRAM)} eval t.txt -m runs/t 2>&-"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    assert b"bits per character" in done.stdout


def test_a_sample_whose_reader_has_stopped_is_ended_by_a_second_ctrl_c(book_run):
    waiting = array.array("i", [0])
    with start("sample", "-n", -1, "-m", "runs/book", cwd=book_run) as process:
        wait_until(lambda: fcntl.ioctl(process.stdout, termios.FIONREAD, waiting) or waiting[0] >= 1 << 16)  # the pipe is full
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""


def open_full():
    """A device that is always full."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    return os.open("/dev/full", os.O_WRONLY)


def on_terminal(*arguments, cwd, columns=80, term="xterm"):
    """Run the real program on a terminal. Returns: its output and exit status."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.chdir(cwd)
            os.environ |= {"TERM": term, "COLUMNS": str(columns), "OMP_NUM_THREADS": "1"}
            os.execv(sys.executable, [*PROGRAM, *map(str, arguments)])
        finally:
            os._exit(99)
    data = b""
    with contextlib.suppress(OSError):  # how a terminal says that its last writer has gone
        while select.select([master], [], [], 60)[0]:
            chunk = os.read(master, 65536)
            if not chunk:
                break
            data += chunk
    os.close(master)
    return data.decode("utf-8"), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


OBEYED = re.compile("[\x00-\x06\x07\x08\x0b-\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
OURS = re.compile(r"\x1b\[(\?(25|7)[lh]|[0-9;]*[mAJK])")  # colours, lines up, line or rest cleared, cursor, wrapping


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    """A folder with a hostile text, and a model that has memorized it."""
    folder = tmp_path_factory.mktemp("hostile")
    text = HOSTILE.replace("\x00", "") * 30  # as UTF-8 a text may hold no NUL
    (folder / "h.txt").write_bytes(text.encode("utf-8"))
    train(folder / "h.txt", out=folder / "run", steps=300, hidden_size=24, validation=0.0)
    return folder, text


def test_a_terminal_obeys_nothing_that_a_model_writes(hostile_run):
    folder, text = hostile_run
    prime = text[: len(text) // 30]
    (folder / "prime").write_bytes(prime.encode())
    prime = prime.replace("\r\n", "\n").replace("\r", "\n")  # as it is read
    shown, status = on_terminal("sample", "--prime-file", "prime", "-n", 300, "--greedy", "-m", "run", cwd=folder)
    assert status == 0
    assert not OBEYED.search(shown)
    assert "\x1b" not in shown
    assert r"\x1b]8;;http://x\x07" in shown
    assert "[red]" in shown
    assert "\r" not in shown.replace("\r\n", "")
    out, _ = charrnn("sample", "--prime-file", "prime", "-n", 300, "--greedy", "-m", "run", cwd=folder)
    assert out.decode() == prime + load(folder / "run").sample(prime, length=300, greedy=True)
    assert "\x1b]8;;http://x\x07" in out.decode()


@pytest.mark.parametrize(("columns", "term"), [(20, "xterm"), (80, "dumb")])
def test_a_terminal_obeys_nothing_of_the_samples_of_a_training(hostile_run, tmp_path, columns, term):
    folder, _ = hostile_run
    shown, status = on_terminal(
        *("train", folder / "h.txt", "--steps", 30, "--init-from", folder / "run"),
        cwd=tmp_path,
        columns=columns,
        term=term,
    )
    assert status == 0, shown
    assert not OBEYED.search(shown)
    assert "\x1b" not in OURS.sub("", shown)
    if term == "xterm":
        assert r"\x1b" in shown


def test_names_and_messages_stay_one_line(tmp_path):
    name = "a\x1b[2J\nb\u202e.txt"
    (tmp_path / name).write_bytes(b"\xff\xff")
    for arguments in (["train", name], ["sample", "-m", name], ["train", "t", "--cell", name], [name]):
        errors = charrnn(*arguments, cwd=tmp_path, status=2)[1]
        *earlier, last = errors.splitlines()
        assert all(line.startswith("loading PyTorch, reading ") for line in earlier)
        assert r"\x1b[2J\nb\u202e" in last.replace("\\\\", "\\")


def test_a_terminal_that_goes_away_leaves_a_run_to_resume(corpus, tmp_path):
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.chdir(tmp_path)
            os.execv(sys.executable, [*PROGRAM, "train", "t.txt", "--for", "60s", *FLAGS])
        finally:
            os._exit(99)
    wait_until((tmp_path / "runs" / "t" / STATE).exists)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.05)[0]:
            os.read(master, 65536)
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    run = Run.resume(tmp_path / "runs" / "t", [])
    run.folder.unlock()
    assert run.step > 0


def test_a_lock_clears_what_a_killed_run_left_half_written(tmp_path):
    (tmp_path / TEMPORARY.format("0123")).write_bytes(b"half")
    (tmp_path / ".history.jsonl.swp").write_bytes(b"an editor's")
    folder = run_folder.RunFolder(tmp_path)
    folder.lock()
    folder.unlock()
    assert os.listdir(tmp_path) == [".history.jsonl.swp"]
