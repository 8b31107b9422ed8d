"""Kills many runs and breaks many files: `make soak` prints how many runs came out identical and how many mutants were refused.

Runs are forked from one process that has torch imported already, so that nearly every kill falls into training or saving.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from charrnn import run_folder

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: these networks are tiny, and a process with threads can't fork
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import test_fuzz

from charrnn import checkpoint, cli
from charrnn.training import schedule

KINDS = (
    "--cell lstm --hidden-size 64 --layers 2 --dropout 0.2",
    "--cell gru --hidden-size 8 --embedding 0",
    "--cell rnn --hidden-size 12 --validation 0",
    "--layers 0 --embedding 6",
)


def start(arguments: list[str]) -> int:
    """Run the program in a child; returns its process id."""
    pid = os.fork()
    if not pid:
        schedule.SAVE_EVERY = schedule.SAVING = 0.1
        sys.argv = ["charrnn", *arguments]
        try:
            cli.main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        finally:
            os._exit(1)
    return pid


def outcome(folder: Path) -> Any:
    """The model, the state and the history of a run, less the seconds that it took."""
    files = [checkpoint.read(folder / name) for name in (run_folder.MODEL, run_folder.STATE)]
    history = [json.loads(line) for line in (folder / run_folder.HISTORY).read_text().splitlines()]
    for record in [files[0][1]["training"], files[1][1]["place"], *files[1][1]["history"], *history]:
        del record["seconds"]
    return [{name: t.tobytes() for name, t in tensors.items()} for tensors, _ in files], [h for _, h in files], history


def kills(wanted: int, seed: int) -> tuple[int, int, int, int]:
    """Kill runs at random moments until `wanted` have died; returns (kills, runs resumed, runs, runs that are identical)."""
    chance = random.Random(seed)
    killed = resumed = runs = identical = 0
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place) / "t.txt"
        corpus.write_text((Path(__file__).parent.parent / "corpora" / "the-lamp.txt").read_text()[:5000])
        while killed < wanted:
            flags = f"--steps 60 --batch-size 4 --seq-length 8 --seed {runs} -q {KINDS[runs % len(KINDS)]}".split()
            command = ["train", str(corpus), *flags, "-o"]
            whole, parts = Path(place) / f"{runs}-whole", Path(place) / f"{runs}-parts"
            began = time.monotonic()
            assert os.waitpid(start([*command, str(whole)]), 0)[1] == 0
            length = time.monotonic() - began
            while True:
                again = (parts / run_folder.STATE).exists()
                pid = start(["train", "--resume", "-q", "-o", str(parts)] if again else [*command, str(parts)])
                resumed += again
                ends = time.monotonic() + chance.random() * length * 0.6
                while time.monotonic() < ends and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    time.sleep(0.001)
                os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
                assert status in (0, signal.SIGKILL), f"a run ended with {status}"
                if status == 0:
                    break
                killed += 1
            runs += 1
            identical += outcome(parts) == outcome(whole) and sorted(os.listdir(parts)) == sorted(os.listdir(whole))
            print(f"\r{killed} kills", end="", file=sys.stderr)
    print(file=sys.stderr)
    return killed, resumed, runs, identical


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    killed, resumed, runs, identical = kills(asked.kills, asked.seed)
    print(f"kills {killed}, resumed {resumed}, identical {identical} of {runs} runs", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "t.txt").write_text(test_fuzz.TEXT)
        test_fuzz.train_tiny(folder)
        os.fsync = lambda descriptor: None  # type: ignore[assignment]  # half the time would go there
        for name, count, share in (("model", test_fuzz.count_models, 3), ("state", test_fuzz.count_states, 1)):
            with test_fuzz.gigabyte():
                loaded, refused = count(folder, asked.mutants * share // 4, asked.seed)
            print(f"{name} mutants {loaded + refused}, loaded {loaded}, refused {refused}", flush=True)
    sys.exit(identical != runs)


if __name__ == "__main__":
    main()
