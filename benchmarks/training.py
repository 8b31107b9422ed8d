"""Measures training on this machine and prints tables in Markdown.

    python benchmarks/training.py TEXT [--precision P] [--device cpu|cuda] [--batch-size N]

How fast a whole step is beside the loop that most people write, how far that is from the device's peak, where the rest
goes (on a CPU), and what comes before the first step and after the last. It takes two minutes. Each contestant is a process
of its own, since what charrnn asks of the C library's memory would speed up all that share its process.
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
from unittest import mock

import torch
from engine import processor, table
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function

from charrnn.commands.train import keep_memory
from charrnn.errors import CharrnnError
from charrnn.network.optimizer import EVERY, ITERATIONS
from charrnn.options import Options, Recipe, require
from charrnn.text.reading import read_corpus
from charrnn.training import device
from charrnn.training.learner import CLIP
from charrnn.training.recipe import Facts, choose
from charrnn.training.run import Run
from charrnn.training.sources import HELD_OUT

ROUNDS = 24  # in each of them each contestant is timed, in turn; what counts is the ratio within a round, and of those the
# median: the speed of two threads that wait for each other drifts by a quarter in seconds, on a machine that is shared
SECONDS = 0.6  # of each contestant in each round
SIZE = 2048  # of the matrices whose product shows the peak
KINDS = (  # of the profiler's events, told by their names or by those that they are part of; the first that fits
    ("Muon and Adam", "optimizer"),
    ("LSTM, backward", "mkldnn_rnn_layer_backward|RnnLayerBackward|lstm.*[Bb]ackward"),
    ("LSTM, forward", "mkldnn_rnn_layer|lstm"),
    ("softmax layer and cross-entropy", "softmax|nll_loss|cross_entropy|linear|MmBackward"),
    ("clipping", "linalg_vector_norm"),
    ("rest: embedding, residual, casts, targets", ""),
)


def sizes(text: str, precision: str, batch_size: int | None) -> Recipe:
    """The sizes that charrnn chooses for a minute on a million characters. Raises: CharrnnError if `text` is too short."""
    options = Options(seconds=60.0, precision=precision, batch_size=batch_size)
    corpus = read_corpus([text])
    facts = Facts(characters=1_000_000, vocabulary_size=len(corpus.vocabulary()), precision=precision)
    recipe = choose(options, facts)[0]
    window = f"{recipe.batch_size} x {recipe.seq_length} characters"
    fits = recipe.batch_size * (recipe.seq_length + 1) <= (1 - HELD_OUT) * len(corpus)
    require(fits, f"{text} has {len(corpus):,} characters, too few for a batch of {window}; use a longer text")
    return recipe


@contextmanager
def opened(text: str, recipe: Recipe, on: str, threads: int | None = None) -> Iterator[tuple[Run, Callable[[], None]]]:
    """A run of these sizes in a new folder on the device `on`, and a function that trains it for a step."""
    names = ("num_layers", "hidden_size", "embedding_size", "seq_length", "batch_size", "dropout", "learning_rate", "precision")
    with tempfile.TemporaryDirectory() as folder:
        options = Options(steps=1_000_000, device=on, threads=threads, **{name: getattr(recipe, name) for name in names})
        run = Run.create([text], options=options, out=Path(folder) / "run")
        keep_memory()
        schedule = run._schedule(options)
        with run.machine.threads:
            yield run, lambda: run._learn(schedule)
        run.folder.unlock()


def plain_step(text: str, recipe: Recipe, on: str) -> Callable[[], None]:
    """A step of the loop that most people write, in float32, at the same sizes."""
    corpus = read_corpus([text])
    vocabulary = corpus.vocabulary()
    V, H, B, T = len(vocabulary), recipe.hidden_size, recipe.batch_size, recipe.seq_length
    data = torch.from_numpy(corpus.ids(vocabulary)).long().to(on)
    streams = data[: len(data) // B * B].view(B, -1).t().contiguous()  # (steps, B)
    embedding, lstm, softmax = nn.Embedding(V, H), nn.LSTM(H, H, recipe.num_layers), nn.Linear(H, V)
    model = nn.ModuleList([embedding, lstm, softmax]).to(on)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    h = c = torch.zeros(recipe.num_layers, B, H, device=on)
    at = 0

    def step() -> None:
        nonlocal at, h, c
        if at + T >= len(streams):
            at = 0
        x, y = streams[at : at + T], streams[at + 1 : at + T + 1]
        out, (h, c) = lstm(embedding(x), (h.detach(), c.detach()))
        loss = functional.cross_entropy(softmax(out).view(-1, V), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        loss.item()  # waits for a GPU
        at += T

    return step


def compete(name: str, text: str, recipe: Recipe, on: str) -> None:
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
        answer(plain_step(text, recipe, on))
    else:
        with opened(text, recipe, on) as (_, step):
            answer(step)


def race(text: str, recipes: dict[str, Recipe], on: str) -> dict[str, list[float]]:
    """Measure the steps per second of each contestant in each round."""
    running = {}
    for name, recipe in recipes.items():
        command = [sys.executable, __file__, text, "--device", on, "--contestant", name, "--recipe", json.dumps(vars(recipe))]
        running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def hear(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    for process in running.values():
        hear(process)
    seen: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(ROUNDS):
        for name, process in running.items():
            time.sleep(0.3)  # until the threads of the one before no longer spin
            print(SECONDS, file=process.stdin)
            seen[name].append(float(hear(process)))
    for process in running.values():
        process.communicate()
    return seen


def peak(dtype: torch.dtype, on: str) -> float:
    """GFLOP/s of the product of two large square matrices: the best within 1.5 seconds."""
    a, b = (torch.randn(SIZE, SIZE, dtype=dtype, device=on) for _ in range(2))
    best, out, end = math.inf, torch.empty_like(a), time.perf_counter() + 1.5
    while (began := time.perf_counter()) < end:
        torch.mm(a, b, out=out)
        out[0, 0].item()  # waits for a GPU
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


def profiled(run: Run, step: Callable[[], None], steps: int = 20) -> list[list[str]]:
    """Where the time of a step goes, by kind of operation: rows of kind, milliseconds and share."""
    optimize, spent = run.learner.optimizer.step, dict.fromkeys([kind for kind, _ in KINDS], 0.0)

    def named(*arguments: Any, **more: Any) -> None:
        with record_function("optimizer"):
            optimize(*arguments, **more)

    with mock.patch.object(run.learner.optimizer, "step", named):
        for _ in range(3):
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            began = time.perf_counter()
            for _ in range(steps):
                step()
            whole = (time.perf_counter() - began) * 1e6
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


def launch(text: str, precision: str, on: str) -> list[list[str]]:
    """From launch to the first step: by the real program, whose clock begins when Python has started."""
    clock = []

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "charrnn", "train", text, "--steps", "1", "-q", "--device", on]
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="charrnn's [auto]")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of all loops [cpu]")
    parser.add_argument("--batch-size", type=int, help="of all loops [as charrnn chooses it]")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    try:
        if asked.contestant:
            compete(asked.contestant, asked.text, Recipe(**json.loads(asked.recipe)), asked.device)
        else:
            measure(asked.text, asked.precision, asked.device, asked.batch_size)
    except CharrnnError as error:
        raise SystemExit(f"error: {error}") from None


def measure(text: str, asked_precision: str, on: str, batch_size: int | None) -> None:
    """Measure and print all tables. Raises: CharrnnError if the device or precision is not available, or for a bad text."""
    precision = device.pick_precision(asked_precision, cell="lstm", device=device.pick_device(on))
    names = dict.fromkeys(("float32", precision))
    recipes = {name: sizes(text, name, batch_size) for name in names}
    recipe = recipes[precision]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    gpu = [torch.cuda.get_device_name()] if on == "cuda" else []
    print(", ".join([f"{date.today()}", *gpu, processor(), f"{os.cpu_count()} cores", platform.system(), versions]))
    peaks = {name: peak(getattr(torch, name), on) for name in names}
    seen = race(text, {"plain": recipes["float32"], **recipes}, on)
    shape = f"{recipe.num_layers} x {recipe.hidden_size}, batch {recipe.batch_size} x {recipe.seq_length}"
    compare(shape, seen, characters=recipe.batch_size * recipe.seq_length)
    if on == "cpu":
        with opened(text, recipe, on, threads=1) as (run, step):
            table(f"Where a step's time goes on one thread, {precision}", ["kind", "ms", "share"], profiled(run, step))
    with opened(text, recipe, on) as (run, step):
        step()
        network, muon = operations(run)
        rows = []
        for name, most in peaks.items():
            reached = (network + muon) * max(seen[name])
            rows.append([name, f"{most:,.0f}", f"{network:.1f} + {muon:.1f}", f"{reached:,.0f}", f"{reached / most:.0%}"])
        heads = ["precision", f"peak, product of {SIZE}, GFLOP/s", "a step, network + Muon, GFLOP", "reached, GFLOP/s", "share"]
        table("Of the peak", heads, rows)
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
    table("Before, between and after the steps", ["what", "s, median of three"], launch(text, asked_precision, on) + rows)


def compare(shape: str, seen: dict[str, list[float]], characters: int) -> None:
    """Print the speeds of all contestants, whose steps have so many `characters`."""
    names = {"plain": "torch.nn.LSTM and Adam, float32"}
    rows = []
    for name, speeds in seen.items():
        ratios = statistics.quantiles([speed / plain for speed, plain in zip(speeds, seen["plain"], strict=True)], n=4)
        low, middle, high = (f"{ratio:.2f}" for ratio in ratios)
        rates = [f"{rate * characters:,.0f}" for rate in (statistics.median(speeds), max(speeds))]
        rows.append([names.get(name, f"charrnn, {name}"), *rates, middle, f"{low} to {high}"])
    heads = ["loop", f"characters per second, median of {ROUNDS} rounds", "best", "times the first, median", "quartiles"]
    table(f"A whole step, {shape}", heads, rows)


if __name__ == "__main__":
    main()
