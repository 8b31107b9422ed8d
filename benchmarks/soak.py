"""Stress tests: kills, signals, outputs, archives that expand, broken files. `make soak` runs them and prints their counts.

Runs are forked from one process that has torch imported already, so that nearly every kill falls into training or saving.
"""

import argparse
import contextlib
import json
import os
import pty
import random
import re
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from charrnn import run_folder

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: these networks are tiny, and a process with threads can't fork
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import test_fuzz
import test_limits
import test_outputs

import charrnn.__main__
import charrnn.export.onnx
from charrnn import checkpoint
from charrnn.training import schedule

KINDS = (
    "--cell lstm --hidden-size 64 --layers 2 --dropout 0.2",
    "--cell gru --hidden-size 8 --embedding 0",
    "--cell rnn --hidden-size 12 --validation 0",
    "--layers 0 --embedding 6",
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BOOK = (Path(__file__).parent.parent / "corpora" / "the-lamp.txt").read_text()
Moment = Callable[[random.Random, int, float, Path], None]  # waits for it: chance, process, a run's seconds, its folder


def start(arguments: Sequence[str]) -> int:
    """Run the program in a child process. Returns: its process id."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child can take them
    pid = os.fork()
    if not pid:
        try:
            for number in SIGNALS:
                signal.signal(number, lambda number, _: os._exit(128 + number))
            schedule.SAVE_EVERY = schedule.SAVING_SHARE = 0.1
            sys.argv = ["charrnn", *map(str, arguments)]
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            charrnn.__main__.main()
        finally:
            os._exit(99)  # it never continues as its parent would
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return pid


def end(pid: int) -> int:
    """Wait until a process has ended. Returns: its exit status, or the number of the signal that killed it, below 0."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(arguments: str) -> None:
    """Run the program, which must do what it is asked to."""
    assert end(start(arguments.split())) == 0, arguments


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait(pid: int, seconds: float, condition: Callable[[], bool] = lambda: False) -> None:
    """Wait for some seconds, or until the condition is true or the process has ended."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not has_ended(pid) and not condition():
        time.sleep(0.001)


def at_random(chance: random.Random, pid: int, length: float, _: Path) -> None:
    wait(pid, chance.random() * length * 0.6)


def after_a_save(chance: random.Random, pid: int, length: float, folder: Path) -> None:
    """Wait until 0 to 100 ms after a state file has replaced another."""

    def last_save() -> int:
        path = folder / run_folder.STATE
        return path.stat().st_mtime_ns if path.exists() else 0

    def has_saved(since: int) -> bool:
        return last_save() != since

    for _ in range(chance.randint(1, 3)):
        wait(pid, length, partial(has_saved, last_save()))
    wait(pid, chance.random() * 0.1)


def outcome(folder: Path) -> Any:
    """The model, state and history of a run, without times."""
    files = [checkpoint.read(folder / name) for name in (run_folder.MODEL, run_folder.STATE)]
    history = [json.loads(line) for line in (folder / run_folder.HISTORY).read_text().splitlines()]
    for record in [files[0][1]["training"], files[1][1]["place"], *files[1][1]["history"], *history]:
        del record["seconds"]
    return [{name: t.tobytes() for name, t in tensors.items()} for tensors, _ in files], [h for _, h in files], history


def interrupt(wanted: int, seed: int, numbers: Sequence[int], moment: Moment) -> str:
    """Send runs one of these signals until `wanted` have ended by it, each resumed to its end and compared with a whole one."""
    chance = random.Random(seed)
    ended = resumed = runs = identical = 0
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place) / "t.txt"
        corpus.write_text(BOOK[:5000])
        while ended < wanted:
            flags = f"--steps 60 --batch-size 4 --seq-length 8 --seed {runs} -q {KINDS[runs % len(KINDS)]}".split()
            command = ["train", str(corpus), *flags, "-o"]
            whole, parts = Path(place) / f"{runs}-whole", Path(place) / f"{runs}-parts"
            began = time.monotonic()
            assert end(start([*command, str(whole)])) == 0
            length = time.monotonic() - began
            while True:
                again = (parts / run_folder.STATE).exists()
                pid = start(["train", "--resume", "-q", "-o", str(parts)] if again else [*command, str(parts)])
                resumed += again
                moment(chance, pid, length, parts)
                number = chance.choice(numbers)
                os.kill(pid, number)
                status = end(pid)
                own = -number if number == signal.SIGKILL else 128 + number
                assert status in (0, own), f"{number} ended a run with {status}"
                if status == 0:
                    break
                ended += 1
            more = set(os.listdir(parts)) ^ set(os.listdir(whole))
            same = outcome(parts) == outcome(whole)
            identical += same and not more
            if more or not same:
                print(f"run {runs}: same tensors, headers and history: {same}; other files: {more}", file=sys.stderr)
            runs += 1
            print(f"\r{ended}", end="", file=sys.stderr)
    assert identical == runs, f"{runs - identical} runs are not what they would have been"
    return f"{ended}, resumed {resumed}, identical {identical} of {runs} runs"


def catches_signals(pid: int) -> bool:
    """Whether the program has begun: until then a signal ends Python, which has nothing to give back."""
    caught = int(Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0], 16)
    return all(caught >> number - 1 & 1 for number in SIGNALS)


def interrupt_on_terminals(wanted: int, seed: int) -> str:
    """Send a signal to commands on terminals: each has its cursor at the end, and the cache holds no unfinished file."""
    chance = random.Random(seed)
    ended = hidden = 0
    with tempfile.TemporaryDirectory() as place:
        env = os.environ | {"XDG_CACHE_HOME": place, "TERM": "xterm"}
        text, table, long = (Path(place) / name for name in ("t.txt", "t.csv", "long.txt"))
        text.write_text(BOOK * 20)
        table.write_text("x\n" + "".join(f"{k % 7}\n" for k in range(3000)))
        long.write_text("a long text\n" * 5_000_000)
        run(f"train {text} --steps 9 --hidden-size 64 -q -o {place}/model")
        commands = [
            f"train {text} --for 20s --hidden-size 8 -o {place}/run --force",
            f"train {long} --for 20s --hidden-size 8 -o {place}/run --force",
            f"eval {text} -m {place}/model",
            f"eval {long} -m {place}/model",
            f"sample -m {place}/model -n 1000000",
            f"forecast {table} --steps 100000",
        ]
        for k in range(wanted):
            command = commands[k % len(commands)]
            terminal, theirs = pty.openpty()
            program = [sys.executable, "-m", "charrnn", *command.split()]
            process = subprocess.Popen(program, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=env)
            pid = process.pid
            os.close(theirs)
            screen = b""
            wait(pid, 60, partial(catches_signals, pid))
            awaited = k // len(commands) % 2 == 1  # that a bar is drawn; then the signal comes after that
            ends = time.monotonic() + (15 if awaited else chance.random() * 5)
            while time.monotonic() < ends and not has_ended(pid):
                if select.select([terminal], [], [], 0.001)[0]:
                    screen += os.read(terminal, 1 << 16)
                if awaited and b"\x1b[?25l" in screen:
                    awaited = False
                    ends = time.monotonic() + chance.random() * 2
            number = chance.choice(SIGNALS)
            os.kill(pid, number)
            try:
                while more := os.read(terminal, 1 << 16):
                    screen += more
            except OSError:  # the program has ended
                pass
            os.close(terminal)
            status = end(pid)
            assert status in (0, 128 + number), f"{number} ended {command} with {status}"
            assert b"Traceback" not in screen, f"{command} printed a traceback"
            cursor = re.findall(rb"\x1b\[\?25[hl]", screen)
            assert not cursor or cursor[-1].endswith(b"h"), f"{command} left no cursor"
            assert not list(Path(place).glob("charrnn/*.tmp")), f"{command} left a file in the cache"
            ended += status != 0
            hidden += b"\x1b[?25l" in screen
            print(f"\r{k + 1}", end="", file=sys.stderr)
    return f"{wanted}, {ended} of them before the command's end; cursor hidden and given back {hidden} times"


def write_one_output(wanted: int, seed: int) -> str:
    """Let three processes write one file and kill or interrupt one of them: the file is whole, and nothing lies beside it."""
    chance = random.Random(seed)
    ended = 0
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        Path("t.txt").write_text(BOOK[:5000])
        Path("t.csv").write_text("x\n" + "".join(f"{k % 7}\n" for k in range(300)))
        for name, units in (("a", 40), ("b", 80)):
            run(f"train t.txt --steps 20 --hidden-size {units} -q -o {name}")
        kinds = {
            "html": [f"report {name} t.txt -o out.html" for name in "ab"],
            "onnx": [f"export {name} -o out.onnx" for name in "ab"],
            "csv": [f"forecast t.csv --steps 3 --window {window} --save out.csv" for window in (3, 4)],
        }
        written: dict[str, set[bytes]] = {kind: set() for kind in kinds}
        for kind, commands in kinds.items():
            for command in commands:
                run(command)
                written[kind].add(Path(f"out.{kind}").read_bytes())
        expected = sorted(os.listdir())
        for k in range(wanted):
            kind = list(kinds)[k % len(kinds)]
            path = Path(f"out.{kind}")
            began = time.monotonic()
            pids = [start(chance.choice(kinds[kind]).split()) for _ in range(3)]
            wait(pids[0], chance.random() * 0.5)
            number = chance.choice((*SIGNALS, signal.SIGKILL))
            os.kill(pids[0], number)
            first, *others = map(end, pids)
            assert first in (0, 128 + number, -signal.SIGKILL), f"{number} ended a writer of {path} with {first}"
            assert others == [0, 0], f"writers of {path} ended with {others}"
            assert path.read_bytes() in written[kind], f"{path} is not whole"
            ended += first != 0
            if first == -signal.SIGKILL:  # what it has left goes with the next one
                run(kinds[kind][0])
            assert sorted(os.listdir()) == expected, f"{set(os.listdir()) ^ set(expected)} lies beside {path}"
            print(f"\r{k + 1} in {time.monotonic() - began:.1f} s", end="", file=sys.stderr)
    return f"{wanted} rounds of three, {ended} ended by a signal; each file whole, nothing left beside it"


def misname_outputs(wanted: int, seed: int) -> str:
    """Name as outputs what no output may replace, and what it is written through: all is as it was."""
    refused = through = 0
    for _ in range(wanted):
        with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
            folder = test_outputs.make_files(Path(temporary))
            cases = [(words, 2) for words in test_outputs.READ.values()]
            for name, (command, ending, *_) in test_outputs.OUTPUTS.items():
                place = folder / f"targets of {name}"
                place.mkdir()
                targets = test_outputs.make_targets(folder, place, ending)
                for minor, status in ((3, 0), (7, 1)):  # null and full
                    device = place / f"device{minor}{ending}"
                    if test_outputs.make_device(device, stat.S_IFCHR, minor):
                        targets[device] = status
                cases += [([*command, path], status) for path, status in targets.items()]
            before = test_outputs.snapshot(folder)
            for words, status in cases:
                assert (came := end(start(words))) == status, f"{words} ended with {came}"
                refused += status != 0
                through += status == 0
            assert test_outputs.snapshot(folder) == before
    return f"{refused + through} tried, {refused} refused, {through} written through a device; nothing replaced"


def explode() -> str:
    """Read archives that take far more room than their size: the memory that each takes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "small.txt").write_text("small")
        usual, _ = test_limits.peak(test_limits.READ, folder / "small.txt", cwd=folder)
        took = {}
        for path in test_limits.bombs(folder):
            most, characters = test_limits.peak(test_limits.READ, path, cwd=folder)
            took[f"{path.name} ({path.stat().st_size:,} bytes, {int(characters):,} characters)"] = most - usual
    assert max(took.values()) < test_limits.UNPACKING, took
    return f"{len(took)}; " + ", ".join(f"{name} {kilobytes / 1000:.0f} MB" for name, kilobytes in took.items())


def mutants(wanted: int, seed: int) -> str:
    """Break the bytes of models and states: each is read or refused."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "t.txt").write_text(test_fuzz.TEXT)
        test_fuzz.train_tiny(folder)
        os.fsync = lambda descriptor: None  # type: ignore[assignment]  # half the time would go there
        for name, count, share in (("model", test_fuzz.count_models, 3), ("state", test_fuzz.count_states, 1)):
            with test_fuzz.gigabyte():
                loaded, refused = count(folder, wanted * share // 4, seed)
            found.append(f"{loaded + refused} of a {name}: loaded {loaded}, refused {refused}")
    return "; ".join(found)


def main() -> None:
    """Run all storms, each with its count; 0 leaves one out. The exit status is 1 where one has failed."""
    storms: dict[str, tuple[int, Callable[[int, int], str]]] = {
        "outputs": (1, misname_outputs),
        "writers": (45, write_one_output),
        "bombs": (1, lambda *_: explode()),
        "signals-on-terminals": (30, interrupt_on_terminals),
        "signals": (100, lambda n, seed: interrupt(n, seed, SIGNALS, at_random)),
        "kills-after-a-save": (100, lambda n, seed: interrupt(n, seed, [signal.SIGKILL], after_a_save)),
        "kills": (100, lambda n, seed: interrupt(n, seed, [signal.SIGKILL], at_random)),
        "mutants": (20_000, mutants),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    for name, (count, _) in storms.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    asked = vars(parser.parse_args())
    failed = False
    for name, (_, storm) in storms.items():
        if count := asked[name.replace("-", "_")]:
            began = time.monotonic()
            try:
                came = storm(count, asked["seed"])
            except AssertionError as error:
                failed = True
                came = f"FAILED: {error}"
            print(f"\r{name}: {came}; {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
