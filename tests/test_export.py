"""`charrnn export`: ONNX Runtime gives the engine's logits."""

import itertools
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import charrnn

from charrnn import load
from charrnn.export.onnx import to_onnx
from charrnn.headers import ModelHeader
from charrnn.network.cells import CELLS
from charrnn.network.config import Config
from charrnn.network.engine import Network

V, T, B = 11, 7, 3
EXPORTED = [name for name, cell in CELLS.items() if cell.onnx_gates]


def made_up(cell, layers, embedding, residual, seed=0, hidden=6):
    """The tensors and header of a model with random weights."""
    config = Config(V, cell, num_layers=layers, hidden_size=hidden, embedding_size=embedding, residual=residual)
    header = ModelHeader(config=config, vocabulary="".join(map(chr, range(97, 97 + V))), start="a")
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.7, shape).astype(np.float32) for name, shape in config.shapes().items()}, header


@pytest.mark.parametrize(
    ("cell", "layers", "embedding", "residual"),
    [*itertools.product(EXPORTED, (1, 3), (0, 4), (False, True)), ("lstm", 0, 0, True), ("lstm", 0, 4, True)],
)
def test_onnx_runtime_gives_the_same_logits_and_states(cell, layers, embedding, residual):
    tensors, header = made_up(cell, layers, embedding, residual)
    session = onnxruntime.InferenceSession(to_onnx(tensors, header), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(1).integers(0, V, (2 * T, B))
    network = Network(header.config, tensors)
    expected, end = network.forward(ids, network.initial_state(B))
    names = [value.name for value in session.get_inputs()][1:]
    assert names == (["h", "c"][: 2 if cell == "lstm" else 1] if layers else [])
    states = {name: np.zeros((layers, B, 6), np.float32) for name in names}
    logits = []
    for half in (ids[:T], ids[T:]):  # the state goes on from one call to the next
        part, *after = session.run(None, {"ids": half, **states})
        logits.append(part)
        states = dict(zip(names, after, strict=True))
    assert np.abs(np.concatenate(logits) - expected).max() <= 1e-5
    for k, name in enumerate(names):
        assert np.abs(states[name] - np.stack([layer[k] for layer in end])).max() <= 1e-5


def test_an_exported_model_carries_its_vocabulary_and_writes_the_same_text(book_run):
    out, errors = charrnn("export", "runs/book", "-o", "book.onnx", cwd=book_run)
    assert out == b""
    assert errors.startswith("wrote book.onnx, ")
    props = {p.key: json.loads(p.value) for p in onnx.load(book_run / "book.onnx").metadata_props}
    model = load(book_run / "runs" / "book")
    assert props["vocabulary"] == model.vocabulary.characters
    assert props["start"] == "\n"
    session = onnxruntime.InferenceSession(book_run / "book.onnx", providers=["CPUExecutionProvider"])
    text, states = "NELL:\n", {v.name: np.zeros((v.shape[0], 1, v.shape[2]), np.float32) for v in session.get_inputs()[1:]}
    read, written = text, ""
    for _ in range(40):
        ids = np.array([[props["vocabulary"].index(c)] for c in read])
        logits, *after = session.run(None, {"ids": ids, **states})
        states = dict(zip(states, after, strict=True))
        read = props["vocabulary"][int(logits[-1, 0].argmax())]
        written += read
    assert written == model.sample(text, 40, greedy=True)


def test_export_never_imports_torch_and_takes_its_own_ending(book_run):
    code = "import sys; sys.argv[1:] = ['export', 'runs/book', '-o', 'x.onnx']; import charrnn.cli as c\n"
    code += "try: c.main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=book_run, capture_output=True, timeout=60)
    assert done.stdout == b"False\n"
    _, errors = charrnn("export", "-o", "model.safetensors", cwd=book_run, status=2)
    assert errors == "error: --out model.safetensors: name a file that ends in .onnx or .html\n"
    _, errors = charrnn("export", "nowhere", cwd=book_run, status=2)
    assert errors.startswith("error: nowhere does not exist; the runs under runs/: ")
    _, errors = charrnn("export", "runs/book", "-o", "no/such.onnx", cwd=book_run, status=1)
    assert "no/such.onnx can't be written" in errors


def test_without_the_extra_export_says_what_to_install(book_run):
    code = "import sys; sys.modules['onnx'] = None; sys.argv[1:] = ['export']; from charrnn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=book_run, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == b"error: export needs onnx: pip install 'charrnn[onnx]'\n"
