"""Train the same short runs with two checkouts, and compare the saved tensors bit by bit.

    python benchmarks/weights.py OLD NEW

OLD and NEW are folders that hold a checkout each; both run with the Python that runs this script. Each run has a seed and
`--steps`, so nothing in it depends on time. The last row of each kind resumes with NEW what OLD has begun.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

STEPS = 200
KINDS = {
    "lstm": ["the-lamp.txt"],
    "gru": ["the-lamp.txt", "--cell", "gru"],
    "rnn": ["the-lamp.txt", "--cell", "rnn"],
    "one-hot, 3 layers": ["the-lamp.txt", "--embedding", "0", "--layers", "3", "--hidden-size", "96"],
    "--by-line": ["birds.txt", "--by-line"],
    "2 ranks": ["the-lamp.txt", "--hidden-size", "64"],
}


def train(checkout: Path, kind: str, out: Path, steps: int, resume: bool = False) -> None:
    """Train a run of `kind` with a checkout, up to this many steps."""
    text, *options = KINDS[kind]
    words = ["-m", "charrnn", "train"]
    if kind == "2 ranks":
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    words += ["--resume"] if resume else [str(checkout / "corpora" / text), *options, "--seed", "0"]
    words += ["--steps", str(steps), "-o", str(out), "-q"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], check=True, cwd=out.parent, env=environment, stdin=subprocess.DEVNULL)


def differing(old: Path, new: Path) -> list[str]:
    """The tensors of the model or state files of two runs that differ."""
    found = []
    for name in ("model.safetensors", "state.safetensors"):
        before = load_file(old / name)
        after = load_file(new / name)
        found += [f"{name}: {key}" for key in before.keys() ^ after.keys()]
        found += [f"{name}: {key}" for key in before.keys() & after.keys() if not same(before[key], after[key])]
    return found


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def main() -> int:
    old, new = (Path(name).resolve() for name in sys.argv[1:3])
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for k, kind in enumerate(KINDS):
            runs = {name: Path(folder) / f"{k}-{name}" for name in ("old", "new", "begun")}
            train(old, kind, runs["old"], STEPS)
            train(new, kind, runs["new"], STEPS)
            train(old, kind, runs["begun"], STEPS // 2)
            resumed = Path(folder) / f"{k}-resumed"
            subprocess.run(["cp", "-r", str(runs["begun"]), str(resumed)], check=True)
            train(old, kind, runs["begun"], STEPS, resume=True)
            train(new, kind, resumed, STEPS, resume=True)
            for what, before, after in (("trained", runs["old"], runs["new"]), ("resumed", runs["begun"], resumed)):
                odd = differing(before, after)
                failed = failed or bool(odd)
                print(
                    f"{kind:18} {what}: {'the same bytes' if not odd else f'{len(odd)} tensors differ: {odd[:3]}'}", flush=True
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
