"""Measures training on this machine and prints tables in Markdown: `python benchmarks/training.py TEXT [--precision P]`.

How fast a whole step is beside the loop that most people write, how far that is from the processor's peak, where the rest
goes, and what comes before the first step and after the last. It takes two minutes. Each contestant is a process of its
own, since what charrnn asks of the C library's memory would speed up all that share its process.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch
from engine import processor, table
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function

from charrnn.commands.train import keep_memory
from charrnn.network.optimizer import EVERY, ITERATIONS
from charrnn.options import Options, Recipe
from charrnn.text.reading import read_corpus
from charrnn.training import device
from charrnn.training.learner import CLIP
from charrnn.training.recipe import Facts, choose
from charrnn.training.run import Run

ROUNDS = 24  # in each of them each contestant is timed, in turn; what counts is the ratio within a round, and of those the
# median: the speed of two threads that wait for each other drifts by a quarter in seconds, on a machine that is shared
SIZE = 2048  # of the matrices whose product shows the peak
KINDS = (  # of the profiler's events, told by their names or by those that they are part of; the first that fits
    ("Muon and Adam", "optimizer"),
    ("LSTM, backward", "mkldnn_rnn_layer_backward|RnnLayerBackward|lstm.*[Bb]ackward"),
    ("LSTM, forward", "mkldnn_rnn_layer|lstm"),
    ("softmax layer and cross-entropy", "softmax|nll_loss|cross_entropy|linear|MmBackward"),
    ("clipping", "linalg_vector_norm"),
    ("rest: embedding, residual, casts, targets", ""),
)


def sizes(text: str, precision: str) -> Recipe:
    """The sizes that charrnn chooses for a minute on a million characters."""
    options = Options(seconds=60.0, precision=precision)
    vocabulary_size = len(read_corpus([text]).vocabulary())
    return choose(options, Facts(characters=1_000_000, vocabulary_size=vocabulary_size, precision=precision))[0]


@contextmanager
def opened(text: str, recipe: Recipe) -> Iterator[Run]:
    """A run of these sizes in a new folder, ready to train."""
    names = ("num_layers", "hidden_size", "embedding_size", "seq_length", "batch_size", "dropout", "learning_rate", "precision")
    with tempfile.TemporaryDirectory() as folder:
        options = Options(steps=1_000_000, device="cpu", **{name: getattr(recipe, name) for name in names})
        run = Run.create([text], options=options, out=Path(folder) / "run")
        keep_memory()
        yield run
        run.folder.unlock()


def plain_step(text: str, recipe: Recipe) -> Callable[[], None]:
    """A step of the loop that most people write, in float32, at the same sizes."""
    corpus = read_corpus([text])
    vocabulary = corpus.vocabulary()
    V, H, B, T = len(vocabulary), recipe.hidden_size, recipe.batch_size, recipe.seq_length
    data = torch.from_numpy(corpus.ids(vocabulary)).long()
    streams = data[: len(data) // B * B].view(B, -1).t().contiguous()  # (steps, B)
    embedding, lstm, softmax = nn.Embedding(V, H), nn.LSTM(H, H, recipe.num_layers), nn.Linear(H, V)
    model = nn.ModuleList([embedding, lstm, softmax])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    zeros = torch.zeros(recipe.num_layers, B, H)
    at, state = 0, (zeros, zeros)

    def step() -> None:
        nonlocal at, state
        if at + T >= len(streams):
            at = 0
        x, y = streams[at : at + T], streams[at + 1 : at + T + 1]
        out, state = lstm(embedding(x), state)
        loss = functional.cross_entropy(softmax(out).view(-1, V), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        loss.item()
        state = tuple(part.detach() for part in state)
        at += T

    return step


def compete(name: str, text: str, recipe: Recipe) -> None:
    """A contestant's process: for each line of standard input, a number of seconds, print the steps per second."""

    def answer(step: Callable[[], object]) -> None:
        for _ in range(3):
            step()
        print("ready", flush=True)
        for line in sys.stdin:
            steps, began, spent = 0, time.perf_counter(), 0.0
            while spent < float(line):
                step()
                steps, spent = steps + 1, time.perf_counter() - began
            print(steps / spent, flush=True)

    if name == "plain":
        answer(plain_step(text, recipe))
    else:
        with opened(text, recipe) as run:
            answer(lambda: run._learn(0.5))


def race(text: str, recipes: dict[str, Recipe]) -> dict[str, list[float]]:
    """Measure the steps per second of each contestant in each round."""
    running = {}
    for name, recipe in recipes.items():
        command = [sys.executable, __file__, text, "--contestant", name, "--recipe", json.dumps(vars(recipe))]
        running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    for process in running.values():
        process.stdout.readline()
    seen = {name: [] for name in recipes}
    for _ in range(ROUNDS):
        for name, process in running.items():
            time.sleep(0.3)  # until the threads of the one before no longer spin
            process.stdin.write("0.6\n")
            seen[name].append(float(process.stdout.readline()))
    for process in running.values():
        process.communicate()
    return seen


def peak(dtype: torch.dtype) -> float:
    """GFLOP/s of the product of two large square matrices: the best within 1.5 seconds."""
    a, b = (torch.randn(SIZE, SIZE, dtype=dtype) for _ in range(2))
    best, out, end = math.inf, torch.empty_like(a), time.perf_counter() + 1.5
    while (began := time.perf_counter()) < end:
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - began)
    return 2e-9 * SIZE**3 / best


def operations(run: Run) -> tuple[float, float]:
    """Floating-point operations of a step, in GFLOP: (the network's, Muon's).

    The network's products touch each weight of the layers' matrices and of the softmax's once for a character, forward; the
    gradients of the weights and of what they were multiplied with are as much again each: 3 x 2 = 6 for a weight and
    character. Muon works on blocks (H, H); each iteration is three products of 2 H^3, at
    every EVERY-th step.
    """
    matrices = [w for layer in run.learner.model.layers for w in layer.all_weights[0][:2]]
    matrices.append(run.learner.model.softmax.weight)
    characters = run.recipe.batch_size * run.recipe.seq_length
    network = 6 * sum(w.numel() for w in matrices) * characters
    muon = sum(w.shape[0] // w.shape[1] * ITERATIONS * 6 * w.shape[1] ** 3 for w in run.learner.optimizer.matrices)
    return network / 1e9, muon / EVERY / 1e9


def profiled(run: Run, steps: int = 20) -> list[list[str]]:
    """Where the time of a step goes, by kind of operation: rows of kind, milliseconds and share."""
    step, spent = run.learner.optimizer.step, dict.fromkeys([kind for kind, _ in KINDS], 0.0)

    def named(*arguments: Any, **more: Any) -> None:
        with record_function("optimizer"):
            step(*arguments, **more)

    run.learner.optimizer.step = named
    for _ in range(3):
        run._learn(0.5)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        for _ in range(steps):
            run._learn(0.5)
        whole = (time.perf_counter() - began) * 1e6
    run.learner.optimizer.step = step
    for event in profiler.events():
        lineage, parent = event.name, event.cpu_parent
        while parent is not None:
            lineage, parent = f"{lineage} {parent.name}", parent.cpu_parent
        spent[next(kind for kind, names in KINDS if re.search(names, lineage))] += event.self_cpu_time_total
    spent["Python between operations"] = whole - sum(spent.values())
    return [[kind, f"{time / steps / 1e3:.2f}", f"{time / whole:.0%}"] for kind, time in spent.items()]


def seconds(act: Callable[[], object], times: int = 3) -> str:
    """The median."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        spent.append(time.perf_counter() - began)
    return f"{statistics.median(spent):.2f}"


def launch(text: str, precision: str) -> list[list[str]]:
    """From launch to the first step: by the real program, whose clock begins when Python has started."""
    clock = []

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "charrnn", "train", text, "--steps", "1", "-q", "--device", "cpu"]
            subprocess.run([*command, "--precision", precision, "-o", f"{folder}/run"], check=True, stdin=subprocess.DEVNULL)
            clock.append(json.loads(Path(folder, "run", "history.jsonl").read_text())["seconds"])

    whole = seconds(train)
    python = seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True))
    imported = seconds(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True))
    return [
        ["python -c ''", python],
        ["python -c 'import torch'", imported],
        ["charrnn train --steps 1, to the end of the step", f"{statistics.median(clock):.2f}"],
        ["charrnn train --steps 1, all of it", whole],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="charrnn's [auto]")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contestant:
        return compete(asked.contestant, asked.text, Recipe(**json.loads(asked.recipe)))
    precision = device.pick_precision(asked.precision, cell="lstm", device="cpu")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(f"{date.today()}, {processor()}, {os.cpu_count()} cores, {platform.system()}, {versions}")
    peaks = {name: peak(getattr(torch, name)) for name in dict.fromkeys(("float32", precision))}
    recipes = {name: sizes(asked.text, name) for name in peaks}
    recipe = recipes[precision]
    shape = f"{recipe.num_layers} x {recipe.hidden_size}, {recipe.batch_size} streams, windows of {recipe.seq_length}"
    seen = race(asked.text, {"plain": recipes["float32"], **recipes})
    characters = recipe.batch_size * recipe.seq_length
    names = {"plain": "torch.nn.LSTM and Adam, float32"} | {name: f"charrnn, {name}" for name in recipes}
    rows = []
    for name, speeds in seen.items():
        ratios = statistics.quantiles([speed / plain for speed, plain in zip(speeds, seen["plain"], strict=True)], n=4)
        low, middle, high = (f"{ratio:.2f}" for ratio in ratios)
        rates = [f"{rate * characters:,.0f}" for rate in (statistics.median(speeds), max(speeds))]
        rows.append([names[name], *rates, middle, f"{low} to {high}"])
    heads = ["loop", f"characters per second, median of {ROUNDS} rounds", "best", "times the first, median", "quartiles"]
    table(f"A whole step, {shape}", heads, rows)
    with opened(asked.text, recipe) as run:
        network, muon = operations(run)
        rows = []
        for name, most in peaks.items():
            reached = (network + muon) * max(seen[name])
            rows.append([name, f"{most:,.0f}", f"{network:.1f} + {muon:.1f}", f"{reached:,.0f}", f"{reached / most:.0%}"])
        heads = ["precision", f"peak, product of {SIZE}, GFLOP/s", "a step, network + Muon, GFLOP", "reached, GFLOP/s", "share"]
        table("Of the peak", heads, rows)
        table(f"Where a step's time goes, {precision}", ["kind", "ms", "share"], profiled(run))
        schedule = run._schedule(run.origin.options)
        rows = [
            [
                "measuring the speed, where --for is given",
                seconds(lambda: device.measure_speed(run.machine, precision, len(run.dataset.vocabulary))),
            ],
            [
                f"validation on {len(run.dataset.validation_ids):,} characters, with its save and its sample",
                seconds(lambda: run._validate(schedule, lambda: False)),
            ],
            ["saving alone", seconds(run.save)],
        ]
    table("Before, between and after the steps", ["what", "s, median of three"], launch(asked.text, asked.precision) + rows)


if __name__ == "__main__":
    main()
