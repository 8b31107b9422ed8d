"""Compare two ranks with one process, and estimate more ranks: `python benchmarks/distributed.py TEXT [--seconds S]`.

Prints Markdown tables: the loss of both after equal time, the parts of a step of two ranks and, calculated from these, the
efficiency of 8, 64 and 512 ranks. Takes about two minutes. `--step` and `--learn` are used when it calls itself.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from engine import processor, table

HIDDEN_SIZE, BATCH_SIZE, SEQ_LENGTH = 256, 32, 48  # what charrnn takes for half a minute
STREAMS, WINDOW = 32, 64  # of each rank, on paper
MICROSECONDS = 30  # that a message takes between machines, on paper
SPEEDS = {"one core as here": None, "a rank of 2 TFLOP/s": 2e12, "a rank of 200 TFLOP/s": 2e14}  # FLOP/s


def torchrun(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *arguments]


def measured(command: list[str], threads: int, *arguments: str) -> dict[str, float]:
    """The JSON that this script prints when it is run with these arguments."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, __file__, *arguments], check=True, env=environment, capture_output=True, text=True)
    return {name: float(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def learn(text: str, seconds: float, folder: str, streams: int) -> None:
    """Train as one process or one of two ranks, and print the result as JSON."""
    from charrnn import train
    from charrnn.training.events import Progress

    seen: list[Progress] = []

    def watch(event: Any) -> None:
        if isinstance(event, Progress):
            seen.append(event)

    model = train(
        text,
        out=folder,
        seconds=seconds,
        layers=1,
        hidden_size=HIDDEN_SIZE,
        batch_size=streams,
        seq_length=SEQ_LENGTH,
        dropout=0.0,
        watch=watch,
    )
    if os.environ.get("RANK", "0") == "0":
        last, metrics = seen[-1], model.header.training.metrics
        bits = None if metrics is None else metrics.validation_bits_per_character
        print(json.dumps({"characters": last.characters, "speed": last.characters_per_second, "bits": bits}))


def step(text: str, streams: int) -> None:
    """As one of two ranks, print the seconds of a step and of its parts as JSON."""
    import torch

    from charrnn.commands.train import keep_memory
    from charrnn.options import Options
    from charrnn.training.distributed import join
    from charrnn.training.learner import MUON_RATE
    from charrnn.training.run import Run

    def seconds(call: Callable[[], Any], times: int) -> float:
        took = []
        for _ in range(times):
            began = time.perf_counter()
            call()
            took.append(time.perf_counter() - began)
        return statistics.median(took)

    with join() as group, tempfile.TemporaryDirectory() as temporary:
        folder = group.broadcast(lambda: temporary)
        options = Options(
            steps=10**6,
            num_layers=1,
            hidden_size=HIDDEN_SIZE,
            batch_size=streams,
            seq_length=SEQ_LENGTH,
            dropout=0.0,
            device="cpu",
        )
        run = Run.create([text], options=options, out=Path(folder, "run"), group=group)
        schedule = run._schedule(options)
        learner = run.learner
        keep_memory()
        with run.machine.threads:
            for _ in range(5):
                run._learn(schedule)
            whole = seconds(lambda: run._learn(schedule), 60)
            with mock.patch.object(group, "average"):
                alone = seconds(lambda: run._learn(schedule), 60)
            numbers = itertools.count(run.step)  # Muon finds a direction at every fourth of them
            rates = {"rate": 1e-5, "muon_rate": MUON_RATE * 1e-5}
            update = seconds(lambda: [learner.optimizer.step(next(numbers), **rates) for _ in range(4)], 15) / 4
        count = sum(parameter.numel() for parameter in learner.parameters)
        large = group.averaging_seconds(torch.zeros(count))
        agree = seconds(lambda: run._synchronize(time.monotonic(), lambda: False), 60)
        figures = dict(whole=whole, alone=alone, update=update, count=count, large=large, agree=agree)
        if group.rank == 0:
            print(json.dumps(figures))


def parameters(hidden: int, layers: int = 2, vocabulary: int = 65, embedding: int = 64) -> int:
    """The number of parameters of an LSTM (4 gates, two biases each) with embedding and softmax layer."""
    width, total = embedding, vocabulary * embedding + (hidden + 1) * vocabulary
    for _ in range(layers):
        total += 4 * hidden * (width + hidden + 2)
        width = hidden
    return total


def ring(size: int, count: int, bits_per_second: float) -> float:
    """Seconds of a ring all-reduce: each rank sends 2 (p - 1) / p of its 4-byte gradients, in 2 (p - 1) messages."""
    return 2 * (size - 1) * (4 * count / size * 8 / bits_per_second + MICROSECONDS * 1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--only", choices=["time", "step"])
    parser.add_argument("--step", type=int)
    parser.add_argument("--learn")
    parser.add_argument("--streams", type=int, default=BATCH_SIZE, help="in all")
    asked = parser.parse_args()
    if asked.step:
        step(asked.text, asked.step)
        return
    if asked.learn:
        learn(asked.text, asked.seconds, asked.learn, asked.streams)
        return
    print(f"{processor()}, {os.cpu_count()} cores; 1 x 256 LSTM, windows of 48")
    if asked.only != "step":
        compare(asked.text, asked.seconds, asked.streams)
    if asked.only != "time":
        reckon(asked.text)


def compare(text: str, seconds: float, streams: int) -> None:
    """Print the loss of two ranks and of one process after equal time."""
    rows = []
    for name, command, threads in (
        ("one process, 2 threads", [sys.executable], 2),
        ("two ranks, 1 thread each", torchrun(), 1),
    ):
        with tempfile.TemporaryDirectory() as folder:
            more = ("--seconds", str(seconds), "--streams", str(streams), "--learn", folder)
            found = measured(command, threads, text, *more)
        rows.append([name, f"{found['speed']:,.0f}", f"{found['characters']:,.0f}", f"{found['bits']:.4f}"])
    heads = ["", "characters/s while learning", "characters learned in all", "validation, bits per character"]
    table(f"{seconds:g} seconds each, {streams} streams in all", heads, rows)


def reckon(text: str) -> None:
    """Print the parts of a step, and the calculated efficiency of more ranks."""
    one, half = (measured([sys.executable], 1, text, "--step", str(streams)) for streams in (BATCH_SIZE, BATCH_SIZE // 2))
    two = measured(torchrun(), 1, text, "--step", str(BATCH_SIZE))
    count, learning = int(one["count"]), one["whole"] - one["update"]
    way, predicted = two["large"], half["whole"] + two["large"] + two["agree"]
    table(
        f"A step: {count:,} parameters, {4 * count / 1e6:.2f} MB of gradients a step and rank",
        ["", "ms"],
        [
            ["one process, 1 thread: forward and backward of 32 streams", f"{1e3 * learning:.2f}"],
            ["its optimizer, which every rank repeats", f"{1e3 * one['update']:.2f}"],
            ["one process, 1 thread: the whole step of 16 streams", f"{1e3 * half['whole']:.2f}"],
            ["two ranks, 16 streams each, without averaging", f"{1e3 * two['alone']:.2f}"],
            ["two ranks, the whole step", f"{1e3 * two['whole']:.2f}"],
            ["averaging such gradients, by itself", f"{1e3 * way:.2f} ({way / two['whole']:.0%} of the step)"],
            ["agreeing on time, stop and loss", f"{1e3 * two['agree']:.2f}"],
            ["the step by the formula: one of 16 streams, averaging and agreeing", f"{1e3 * predicted:.2f}"],
        ],
    )
    works = 6 * (count - 65 * HIDDEN_SIZE) * BATCH_SIZE * SEQ_LENGTH / learning
    rows = []
    for name, speed in SPEEDS.items():
        for hidden in (512, 1024, 2048):
            count = parameters(hidden)
            work = 6 * count * STREAMS * WINDOW / (speed or works)
            for gigabits in (10, 100):
                shares = [work / (work + ring(size, count, gigabits * 1e9)) for size in (8, 64, 512)]
                most = work * 512 / STREAMS / (2 * 4 * count * 8 / (gigabits * 1e9))
                rows.append([name, str(hidden), str(gigabits), f"{4 * count / 1e6:,.0f}", f"{1e3 * work:,.1f}"])
                rows[-1] += [f"{share:.0%}" for share in shares] + [f"{most:,.0f}" if most >= 1 else "none"]
    head = ["a rank", "hidden", "Gbit/s", "MB of gradients", "ms of work", "8 ranks", "64 ranks", "512 ranks"]
    title = f"On paper: {STREAMS} streams, windows of {WINDOW}, 2 layers; a core does {works / 1e9:,.0f} GFLOP/s here"
    table(title, [*head, "ranks that 512 streams in all keep half busy"], rows)


if __name__ == "__main__":
    main()
