"""Compare the NumPy engine with others on this machine; prints Markdown tables.

    python benchmarks/engine.py [TEXT]

Models have random weights. Scoring is timed on TEXT (1.1 million characters, such as tiny Shakespeare); without TEXT, its
table is left out. Without onnx and onnxruntime, the row of ONNX Runtime is left out.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch

from charrnn import checkpoint, load
from charrnn.headers import ModelHeader, model_to_json
from charrnn.inference.model import Model
from charrnn.inference.score import ESCAPE
from charrnn.network.char_rnn import CharRNN
from charrnn.network.config import Config

CHARACTERS = "".join(sorted("\n !$&',-.3:;?" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"))
ROUNDS = 5  # each contestant is timed in each round; the median counts


def write_model(folder: Path, layers: int, hidden_size: int, cell: str = "lstm", characters: str = CHARACTERS) -> Path:
    """Write a model with random weights of realistic size."""
    torch.manual_seed(0)
    network = CharRNN(Config(len(characters), cell, layers, hidden_size, 32, residual=False))  # as torch stacks layers
    torch.nn.init.normal_(network.softmax.weight, std=0.1)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    path = folder / f"{cell}-{layers}x{hidden_size}.safetensors"
    header = ModelHeader(config=network.config, vocabulary=characters, start="\n")
    checkpoint.write(path, tensors, model_to_json(header))
    return path


def rates(contestants: dict[str, Callable[[int], None]], seconds: float = 0.2) -> dict[str, float]:
    """Characters per second of each contestant (a function that writes `n` characters): the median of interleaved rounds."""
    lengths: dict[str, int] = {}
    seen: dict[str, list[float]] = {name: [] for name in contestants}
    for name, write in contestants.items():
        n, spent = 50, 0.0
        while spent < seconds / 4:
            n *= 2
            began = time.perf_counter()
            write(n)
            spent = time.perf_counter() - began
        lengths[name] = max(1, int(n * seconds / spent))
    for _ in range(ROUNDS):
        for name, write in contestants.items():
            time.sleep(0.2)  # until the threads of the one before no longer spin
            write(lengths[name] // 10)
            began = time.perf_counter()
            write(lengths[name])
            seen[name].append(lengths[name] / (time.perf_counter() - began))
    return {name: statistics.median(figures) for name, figures in seen.items()}


def bare_products(model: Model) -> Callable[[int], None]:
    """Only the matrix products of the engine, on its own buffers."""
    products = [call for call in model.network.initial_state(1)._calls if call[0].__name__ == "dot"]

    def run(n: int) -> None:
        for _ in range(n):
            for function, arguments in products:
                function(*arguments)

    return run


def generation(model: Model, count: int = 1) -> Callable[[int], None]:
    def run(n: int) -> None:
        for _ in model.generate(length=n, count=count, seed=1):
            pass

    return run


def torch_loop(model: Model, path: Path, one_dnn: bool) -> Callable[[int], None]:
    """torch's own modules, one character at a time, sampled with torch.multinomial."""
    tensors, header = checkpoint.read_model(path)
    c = header.config
    V, H, layers = c.vocabulary_size, c.hidden_size, c.num_layers
    embedding, softmax = torch.nn.Embedding(V, c.embedding_size), torch.nn.Linear(H, V)
    lstm = torch.nn.LSTM(c.embedding_size, H, layers)
    weights = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    embedding.load_state_dict({"weight": weights["embedding.weight"]})
    softmax.load_state_dict({"weight": weights["softmax.weight"], "bias": weights["softmax.bias"]})
    rename = {f"layers.{i}.{name}0": f"{name}{i}" for i in range(layers) for name in NAMES}
    lstm.load_state_dict({rename[name]: tensor for name, tensor in weights.items() if name in rename})

    @torch.inference_mode()
    def run(n: int) -> None:
        with torch.backends.mkldnn.flags(enabled=one_dnn):
            at, state = torch.tensor([model.start]), None
            for _ in range(n):
                out, state = lstm(embedding(at)[None], state)
                at = torch.multinomial(softmax(out[0]).softmax(1), 1)[0]

    return run


NAMES = ("weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l")


def onnx_loop(path: Path, threads: int) -> Callable[[int], None] | None:
    """ONNX Runtime with the same network, one character at a time, and our sampler; None if it is not installed."""
    try:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    tensors, header = checkpoint.read_model(path)
    V, H, layers = header.config.vocabulary_size, header.config.hidden_size, header.config.num_layers

    def ordered(tensor: np.ndarray) -> np.ndarray:  # onnx has i, o, f, c
        i, f, g, o = np.split(tensor, 4)
        return np.concatenate([i, o, f, g])

    constants = {
        "embedding": tensors["embedding.weight"],
        "softmax.w": tensors["softmax.weight"].T.copy(),
        "softmax.b": tensors["softmax.bias"],
        "one": np.array([1]),
    }
    nodes = [helper.make_node("Gather", ["embedding", "ids"], ["x0"])]
    states = []
    for k in range(layers):
        w_ih, w_hh, b_ih, b_hh = (ordered(tensors[f"layers.{k}.{name}0"]) for name in NAMES)
        constants |= {f"w{k}": w_ih[None], f"r{k}": w_hh[None], f"b{k}": np.concatenate([b_ih, b_hh])[None]}
        inputs = [f"x{k}", f"w{k}", f"r{k}", f"b{k}", "", f"h{k}", f"c{k}"]
        nodes.append(helper.make_node("LSTM", inputs, [f"y{k}", f"h{k}'", f"c{k}'"], hidden_size=H))
        nodes.append(helper.make_node("Squeeze", [f"y{k}", "one"], [f"x{k + 1}"]))
        states += [f"h{k}", f"c{k}"]
    nodes.append(helper.make_node("MatMul", [f"x{layers}", "softmax.w"], ["product"]))
    nodes.append(helper.make_node("Add", ["product", "softmax.b"], ["logits"]))

    def value(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "step",
        [value("ids", [1, 1], TensorProto.INT64), *(value(name, [1, 1, H]) for name in states)],
        [value("logits", [1, 1, V]), *(value(f"{name}'", [1, 1, H]) for name in states)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    model = load(path)

    def run(n: int) -> None:
        rng = np.random.default_rng(1)
        feed = {name: np.zeros((1, 1, H), np.float32) for name in states} | {"ids": np.array([[model.start]])}
        for k in range(n):
            logits, *after = session.run(None, feed)
            feed |= dict(zip(states, after, strict=True))
            if k % 64 == 0:
                noise = rng.gumbel(size=(64, V)).astype(np.float32)
            feed["ids"][0, 0] = (logits[0, 0] + noise[k % 64]).argmax()

    logits = session.run(None, {name: np.zeros((1, 1, H), np.float32) for name in states} | {"ids": np.array([[3]])})[0]
    np.testing.assert_allclose(logits[0], model.network.initial_state(1).step([3]), atol=1e-5)
    return run


def table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def one_stream(folder: Path) -> None:
    rows = []
    for layers, H, cell in ((2, 128, "lstm"), (1, 256, "lstm"), (2, 512, "lstm"), (2, 128, "gru"), (2, 512, "gru")):
        path = write_model(folder, layers, H, cell)
        model = load(path)
        contestants = {"bare": bare_products(model), "charrnn": generation(model)}
        if cell == "lstm":
            contestants |= {f"torch {flag}": torch_loop(model, path, flag) for flag in (True, False)}
            contestants |= {f"onnx {n}": loop for n in (1, 2) if (loop := onnx_loop(path, n))}
        got = rates(contestants)
        others = {kind: max((r for name, r in got.items() if kind in name), default=None) for kind in ("torch", "onnx")}
        row = [f"{layers} x {H} {cell}", f"{got['bare']:,.0f}", f"{got['charrnn']:,.0f}", f"{got['charrnn'] / got['bare']:.0%}"]
        for rate in others.values():
            row.append(f"{rate:,.0f} (charrnn: {got['charrnn'] / rate:.1f} times)" if rate else "not measured")
        rows.append(row)
    heads = ["network", "its bare products", "charrnn", "share", "torch.nn.LSTM (better of oneDNN on, off)"]
    table("One text, characters per second", [*heads, "ONNX Runtime (better of 1, 2 threads)"], rows)


def many_streams(folder: Path) -> None:
    model = load(write_model(folder, 2, 128))
    counts = (1, 4, 16, 64, 256)
    got = rates({str(count): generation(model, count) for count in counts})
    speeds = {count: count * got[str(count)] for count in counts}
    rows = [[str(count), f"{speed:,.0f}", f"{speed / speeds[1]:.1f}"] for count, speed in speeds.items()]
    table("Several texts at once, 2 x 128 lstm", ["--count", "characters per second", "times one"], rows)


def start(folder: Path) -> None:
    path = write_model(folder, 2, 128)
    program = [sys.executable, "-m", "charrnn"]
    commands = {
        "--help": ([*program, "--help"], None),
        "first character of sample": ([*program, "sample", "-m", str(path), "-n", "1000000"], b""),
        "eval of a piped text": ([*program, "eval", "-m", str(path)], b"text\n"),
        "python -c 'import numpy'": ([sys.executable, "-c", "import numpy"], b""),
    }
    rows = []
    for name, (command, text) in commands.items():
        spent = []
        for _ in range(11):
            began = time.perf_counter()
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert process.stdin is not None
            assert process.stdout is not None
            if text is not None:
                process.stdin.write(text)
            process.stdin.close()
            if "first" in name:
                process.stdout.read(1)
                spent.append(time.perf_counter() - began)
                process.kill()
            else:
                process.stdout.read()
                spent.append(time.perf_counter() - began)
            process.stdout.close()
            process.wait()
        rows.append([name, f"{statistics.median(spent[1:]):.3f} s", f"{max(spent[1:]):.3f} s"])
    table("From launch, median of ten", ["command", "median", "slowest"], rows)


def scoring(folder: Path, text: Path) -> None:
    content = text.read_text(encoding="utf-8")
    path = write_model(folder, 1, 256, characters="".join(sorted(set(content))))
    command = [sys.executable, "-m", "charrnn", "eval", str(text), "-m", str(path), "--json"]
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, check=True)
        spent.append(time.perf_counter() - began)
    bits = json.loads(done.stdout)["bits_per_character"]
    exact = one_pass(load(path), content)
    row = [
        f"{len(content):,}",
        f"{statistics.median(spent):.2f} s",
        f"{len(content) / statistics.median(spent):,.0f}",
        f"{bits:.5f}",
        f"{exact:.5f}",
    ]
    heads = ["characters", "median of three", "characters per second", "bits per character", "in one exact pass"]
    table("charrnn eval, 1 x 256 lstm", heads, [row])


def one_pass(model: Model, text: str) -> float:
    """Bits per character of `text`, read as one sequence and summed in float64."""
    ids = model.vocabulary.encode(text).tolist()
    state, nats = model.network.initial_state(1), 0.0
    for before, now in zip([model.start, *ids], ids, strict=False):
        logits = state.step([before])[0].astype(np.float64)
        nats += float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[now])
    return nats / len(ids) / math.log(2) - math.log2(1 - ESCAPE)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, torch {torch.__version__}"
    print(f"{date.today()}, {processor()}, {os.cpu_count()} cores, {platform.system()}, {versions}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one_stream(folder)
        many_streams(folder)
        start(folder)
        if sys.argv[1:]:
            scoring(folder, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
