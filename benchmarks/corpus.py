"""Measure reading of and training on texts larger than memory: `python benchmarks/corpus.py [--size MB]`.

Prints Markdown. Its texts are in a temporary folder (`--folder`), which needs about three times `--size`, and are deleted at
the end. Everything but the cost of the softmax layer runs on one core.
"""

import argparse
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ASCII = "It was the best of times, it was the worst of times; in 1775 there were a king with a large jaw and a queen.\n"
MIXED = "Zażółć gęślą jaźń. Съешь же ещё этих мягких булок. 我能吞下玻璃而不伤身体。いろはにほへと A plain line, too. 🦉🎉\n"
READ = """
import sys, time
from charrnn.text.reading import read_corpus
begun = time.perf_counter()
corpus = read_corpus([sys.argv[1]])
print(time.perf_counter() - begun, len(corpus), corpus[0:1].itemsize)
"""
WINDOWS = """
import sys, time
from charrnn.text.reading import read_corpus
from charrnn.training.batches import Windows
corpus = read_corpus([sys.argv[1]])
windows = Windows(corpus.encoded(corpus.vocabulary()), 32, 48, 0)
begun = time.perf_counter()
for step in range(1000):
    windows[step * 7 % windows.per_epoch]
print((time.perf_counter() - begun) * 1e3)
"""


def make(path: Path, line: str, size: int) -> None:
    """Make a text of `size` bytes: a block of some megabytes of shuffled words of `line`, repeated."""
    words, draw = re.findall(r"\S+\s", line), random.Random(0)
    block = "".join(draw.choice(words) for _ in range(500_000)).encode()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        rest = size - file.tell()
        file.write(block[:rest].decode(errors="ignore").encode().ljust(rest, b"."))  # ends with a whole character
        file.flush()
        os.fsync(file.fileno())  # its own way to the disk is not what is measured


def run(*command: object, env: dict[str, str], one_core: bool = True) -> tuple[str, float, int]:
    """Run a command. Returns: standard output, seconds, peak memory in bytes."""
    pin = ["taskset", "-c", "0"] if one_core and shutil.which("taskset") else []
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([*pin, *map(str, command)], env=env, stdin=subprocess.DEVNULL, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{command} ended with status {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        return out.read().decode(), time.perf_counter() - begun, usage.ru_maxrss * 1024


def processor() -> str:
    """As in engine.py, whose import of torch would count as memory of every process that is started here."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    return found[1] if found else platform.processor() or platform.machine()


def main() -> None:
    """Make the texts, measure, print, delete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2000, help="megabytes of the large text")
    parser.add_argument("--folder", help="where the texts are made")
    parser.add_argument("--only", choices=("reading", "memory", "softmax"), help="measure this alone")
    asked = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {date.today()}\n")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        if shutil.disk_usage(folder).free < 3.5e6 * asked.size:
            raise SystemExit(f"{folder} has no room for {3.5 * asked.size / 1000:.0f} GB; take less --size or another --folder")
        env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        for part in (reading, memory, softmax):
            if asked.only in (None, part.__name__):
                part(folder, asked.size, env)


def reading(folder: Path, size: int, env: dict[str, str]) -> None:
    """Print the speed of reading a text for the first time, the time of the second time, and the time of a window."""
    print("| text | MB | first reading, s | MB/s | bytes per id | second run, s | window of 48 x 32, ms | peak, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind, line in (("ASCII", ASCII), ("mixed UTF-8", MIXED)):
        path = folder / "text.txt"
        make(path, line, size * 10**6)
        first, _, peak = run(sys.executable, "-c", READ, path, env=env)
        seconds, _, width = first.split()
        again = run(sys.executable, "-c", READ, path, env=env)[0].split()[0]
        window = run(sys.executable, "-c", WINDOWS, path, env=env)[0]
        print(
            f"| {kind} | {size} | {float(seconds):.2f} | {size / float(seconds):.0f} | {width} | {float(again):.2f} "
            f"| {float(window) / 1000:.3f} | {peak / 1e6:.0f} |",
            flush=True,
        )
        path.unlink()
        shutil.rmtree(folder / "cache", ignore_errors=True)  # a short text has none
    print()


def memory(folder: Path, size: int, env: dict[str, str]) -> None:
    """Print the peak memory of `charrnn train` by size of the text."""
    print("| text, MB | `charrnn train --steps 200`, s | peak memory, MB |\n| --- | --- | --- |")
    for megabytes in sorted({2, size}):
        path = folder / "text.txt"
        make(path, ASCII, megabytes * 10**6)
        command = [sys.executable, "-m", "charrnn", "train", path, "--steps", 200, "-q", "-o", folder / f"run-{megabytes}"]
        command += ["--hidden-size", 64, "--layers", 1]
        _, seconds, peak = run(*command, env=env)
        print(f"| {megabytes} | {seconds:.1f} | {peak / 1e6:.0f} |", flush=True)
        path.unlink()
    shutil.rmtree(folder / "cache", ignore_errors=True)
    print()


def softmax(folder: Path, size: int, env: dict[str, str]) -> None:
    """Print characters per second in training, by vocabulary size."""
    from charrnn import train
    from charrnn.training.events import Event, Progress

    speeds: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, Progress):
            speeds.append(event.characters_per_second)

    print("| vocabulary | characters/s, 1 x 256 LSTM, all cores |\n| --- | --- |")
    for vocabulary in (65, 1_000, 5_000, 20_000):
        path, draw = folder / "text.txt", random.Random(0)
        letters = [chr(0x4E00 + k) for k in range(vocabulary)]
        path.write_text("".join(letters) * 5 + "".join(draw.choices(letters, k=100_000)), encoding="utf-8")
        out = folder / f"run-{vocabulary}"
        train(path, out=out, seconds=8.0, validation=0.0, layers=1, hidden_size=256, watch=watch, progress=False)
        print(f"| {vocabulary:,} | {speeds[-1]:,.0f} |", flush=True)
    print()


if __name__ == "__main__":
    main()
