"""Measure how much slower a training gets beside other programs on the same cores.

    python benchmarks/neighbours.py [--against OLD] [--rounds 5] [--only "2 x 128"] [--commands]

Each round starts the whole program once in every company, one after the other, and the table has the medians of the rounds: a
slow minute of the machine slows all. OLD is the folder of another checkout, whose columns stand beside ours.
`--commands` measures `eval` and `sample` instead of trainings. Both checkouts run with the Python that runs this script.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TEXT = ROOT / "corpora" / "the-lamp.txt"
BUSY = [sys.executable, "-c", "while True: pass"]
SIZES = "--layers {} --hidden-size {} --batch-size 32 --seq-length {}"
TRAININGS = {  # words of `charrnn train`; enough steps that the start of the program hardly counts
    "2 x 128": f"--steps 60 {SIZES.format(2, 128, 64)}",
    "1 x 192, ten seconds": f"--steps 150 {SIZES.format(1, 192, 32)}",
    "2 x 256, a minute": f"--steps 60 {SIZES.format(2, 256, 64)}",
}
COMMANDS = {"eval": "eval text.txt", "sample": "sample -n 5000"}
SILENT: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
COMPANIES: dict[str, tuple[int, int, list[str]]] = {  # busy loops beside it, how many of it run at once, the words before it
    "alone": (0, 1, []),
    "1 busy loop": (1, 1, []),
    "2 busy loops": (2, 1, []),
    "2 at once": (0, 2, []),
    "3 at once": (0, 3, []),
    "on one core": (0, 1, ["taskset", "-c", "0"]),
}


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that only keep cores busy."""
    loops = [subprocess.Popen(BUSY) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(checkout: Path, words: list[str], company: str, folder: Path) -> float:
    """The seconds that the program takes with these arguments beside this load; the mean if several run at once."""
    loops, count, before = COMPANIES[company]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(checkout)
    command = [*before, sys.executable, "-m", "charrnn", *words]
    with busy(loops):
        began = time.perf_counter()
        running = []
        for k in range(count):
            out = ["--force", "-o", f"run{k}"] if words[0] == "train" else ["-m", "model"]
            running.append(subprocess.Popen([*command, *out], cwd=folder, env=environment, **SILENT))
        took = []
        while running:
            for process in list(running):
                if process.poll() is not None:
                    if process.returncode:
                        raise SystemExit(f"{' '.join(command)} failed with status {process.returncode}")
                    took.append(time.perf_counter() - began)
                    running.remove(process)
            time.sleep(0.005)
    return statistics.mean(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="the folder of another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="of the table's rows those that begin so")
    parser.add_argument("--commands", action="store_true", help="eval and sample instead of trainings")
    asked = parser.parse_args()
    checkouts = {"now": ROOT} | ({"before": asked.against.resolve()} if asked.against else {})
    rows = COMMANDS if asked.commands else {name: f"train {TEXT} {words}" for name, words in TRAININGS.items()}
    if asked.only:
        rows = {name: words for name, words in rows.items() if name.startswith(asked.only)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.commands:
            (folder / "text.txt").write_text(TEXT.read_text(encoding="utf-8") * 4, encoding="utf-8")
            made = f"train {TEXT} -o model --steps 20 {SIZES.format(2, 256, 64)}".split()
            subprocess.run(
                [sys.executable, "-m", "charrnn", *made],
                check=True,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                **SILENT,
            )
        for row, words in rows.items():
            compare(row, words.split(), checkouts, asked.rounds, folder)


def compare(row: str, words: list[str], checkouts: dict[str, Path], rounds: int, folder: Path) -> None:
    """Measure one row, and print it for each checkout."""
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for company in COMPANIES:
            for name, checkout in checkouts.items():
                took.setdefault((name, company), []).append(measure(checkout, words, company, folder))
    for name in checkouts:
        medians = {company: statistics.median(took[name, company]) for company in COMPANIES}
        alone = medians["alone"]
        ratios = " | ".join(f"{medians[company] / alone:.2f}" for company in COMPANIES if company != "alone")
        first = statistics.median(took["before", "alone"]) if "before" in checkouts else alone
        print(f"| {row} | {name} | {alone:.2f} s | {alone / first:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    print("| network | checkout | alone | to before | " + " | ".join(list(COMPANIES)[1:]) + " |")
    print("| --- " * (len(COMPANIES) + 3) + "|")
    main()
