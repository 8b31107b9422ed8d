"""Learn names as lines: `python benchmarks/names.py [--for 60s] NAMES`. Prints the validation loss in nats per character.

The split is makemore's in kind: duplicates removed, 1,000 names held out at random (by `--seed`, of NumPy's PCG64), the rest to
train on; the loss is a mean over 26 letters and the end of each name. The real program learns with its defaults.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Make the split, train, score the held-out names and count what is novel in a sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", type=Path, help="a file with a name on each line")
    parser.add_argument("--for", dest="time", default="60s", help="how long to train")
    parser.add_argument("--held-out", type=int, default=1000, help="how many names are held out")
    parser.add_argument("--seed", type=int, default=0, help="which names are held out")
    parser.add_argument("--folder", type=Path, help="where the split and the run are kept; else they are deleted")
    parser.add_argument("train", nargs="*", help="more options of charrnn train, after --")
    asked = parser.parse_args()
    names = sorted(set(asked.names.read_text().split()))
    order = np.random.default_rng(asked.seed).permutation(len(names))
    held_out, training = order[: asked.held_out], order[asked.held_out :]
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.txt").write_text("".join(names[i] + "\n" for i in sorted(training)))
        (folder / "validation.txt").write_text("".join(names[i] + "\n" for i in sorted(held_out)))
        options = ["--validation", "validation.txt", "--for", asked.time, "--out", "run", "--force", *asked.train]
        began = time.perf_counter()
        run(folder, "train", "train.txt", "--by-line", *options)
        seconds = time.perf_counter() - began
        score = json.loads(run(folder, "eval", "-m", "run", "validation.txt", "--json"))
        sample = run(folder, "sample", "-m", "run", "--count", "1000", "--seed", "1").split()
        history = [json.loads(line) for line in (folder / "run" / "history.jsonl").read_text().splitlines()]
    best = min(history, key=lambda line: line["validation_bits_per_character"])
    known, characters = set(names), sum(len(names[i]) + 1 for i in training)
    print(f"{len(names):,} different names, {len(held_out):,} held out by seed {asked.seed}; {os.cpu_count()} cores")
    print(f"{seconds:.0f} s in all, {history[-1]['characters'] / characters:.0f} passes over {len(training):,} names")
    print(f"validation: {score['nats_per_character']:.4f} nats per character, {score['bits_per_line']:.3f} bits per name")
    print(f"training: {best['train_bits_per_character'] * math.log(2):.4f} nats at that point, {best['seconds']:.0f} s")
    print(f"of 1,000 names written {sum(name not in known for name in sample):,} are new")


def run(folder: Path, *arguments: str) -> str:
    """Run the program. Returns: its standard output."""
    command = [sys.executable, "-m", "charrnn", *arguments]
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
