"""Add a cell kind as docs/contributing.md says, the minimal gated unit: it trains, runs, resumes and is saved."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CORPORA, ROOT, options_of
from torch import Tensor, nn
from torch.nn import functional

from charrnn import load, train
from charrnn.checkpoint import read, read_model
from charrnn.forecast.forecaster import Forecaster, Settings
from charrnn.forecast.table import read_series
from charrnn.network.cells import CELLS, Cell
from charrnn.network.char_rnn import MODULES, OPERATORS, CharRNN
from charrnn.network.engine import STEPS, Array, Call, squash
from charrnn.run_folder import MODEL
from charrnn.training.run import Run

ASKED = dict(cell="mgu", layers=2, hidden_size=64, embedding=8, batch_size=4, seq_length=20, steps=20, seed=1)
ROW = Cell(gates=("f", "n"), blocks=(("f", "xh"), ("n", "x")), sigmoids=1)


class MGU(nn.Module):
    """A layer of minimal gated units (Zhou et al. 2016)."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        for name, shape in CELLS["mgu"].shapes(input_size, hidden_size).items():
            values = torch.empty(shape).uniform_(-(hidden_size**-0.5), hidden_size**-0.5)
            self.register_parameter(name, nn.Parameter(values))

    @property
    def all_weights(self) -> list[list[Tensor]]:
        return [list(self.parameters())]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.all_weights[0]
        return run_mgu(x, x.new_zeros(1, x.shape[1], weights[1].shape[1]), weights)


def run_mgu(inputs: Tensor, state: Tensor, weights: list[Tensor], *_: object) -> tuple[Tensor, Tensor]:
    w_ih, w_hh, b_ih, b_hh = weights
    u_f, u_n = w_hh.chunk(2)  # (H, H) each
    b_f, b_n = b_hh.chunk(2)
    h = state[0]  # (B, H)
    hidden = []
    for x in functional.linear(inputs, w_ih, b_ih):  # (B, 2H)
        x_f, x_n = x.chunk(2, dim=1)
        f = torch.sigmoid(x_f + functional.linear(h, u_f, b_f))
        n = torch.tanh(x_n + functional.linear(f * h, u_n, b_n))
        h = (1 - f) * h + f * n
        hidden.append(h)
    return torch.stack(hidden), h[None]


def step_mgu(call: Call, gates: Array, h: Array, late: list[Array]) -> tuple[Array, ...]:
    """Minimal gated unit (Zhou et al. 2016)."""
    H = len(h)
    f = gates[:H]
    n = gates[H : 2 * H]
    forgotten = np.empty_like(h)
    recurrent = np.empty_like(h)
    squash(call, f, f)
    call(np.multiply, f, h, forgotten)
    call(late[0].dot, forgotten, recurrent)  # U_n (f * h)
    call(np.add, n, recurrent, n)
    call(np.tanh, n, n)
    call(np.subtract, n, h, n)
    call(np.multiply, f, n, n)
    call(np.add, h, n, h)
    return (h.T,)


@pytest.fixture(autouse=True)
def mgu(monkeypatch):
    """Add the cell kind to each table that the page names, and nowhere else."""
    monkeypatch.setitem(CELLS, "mgu", ROW)
    monkeypatch.setitem(MODULES, "mgu", MGU)
    monkeypatch.setitem(OPERATORS, "mgu", run_mgu)
    monkeypatch.setitem(STEPS, "mgu", step_mgu)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text((CORPORA / "the-lamp.txt").read_text()[:4000])
    return path


def test_the_page_shows_the_code_that_is_tested_here():
    page = (ROOT / "docs" / "contributing.md").read_text()
    page = page[: page.index("## Example: add a sampling rule")]
    here = Path(__file__).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    definitions = [block.strip() for block in blocks if block.startswith(("class ", "def "))]
    definitions += re.findall(r'"mgu": (Cell\(.*\)),', page)
    assert len(definitions) == 4
    assert all(definition in here for definition in definitions)
    for table in ("MODULES", "OPERATORS", "STEPS"):
        assert f"`{table}`" in page


@pytest.mark.parametrize("embedding", [0, 8])
def test_a_new_cell_learns_and_the_numpy_engine_agrees_with_torch(corpus, tmp_path, embedding):
    model = train(corpus, out=tmp_path / "run", **ASKED | {"embedding": embedding, "steps": 60})
    tensors, header = read_model(tmp_path / "run" / MODEL)
    network = CharRNN(header.config)
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    ids = np.random.default_rng(2).integers(0, len(model.vocabulary), (50, 3))
    with torch.no_grad():
        expected, _ = network(torch.from_numpy(ids), network.initial_state(3))
    for streams in (1, 3):
        got, _ = model.network.forward(ids[:, :streams], model.network.initial_state(streams))
        np.testing.assert_allclose(got, expected[:, :streams].numpy(), atol=1e-4)
    characters = corpus.read_text()
    counts = np.array([characters.count(c) for c in set(characters)])
    shares = counts / counts.sum()
    assert model.score(characters).bits_per_character < -(shares * np.log2(shares)).sum()  # more than frequencies
    assert len(load(tmp_path / "run").sample("The", length=30, seed=0)) == 30


def test_a_run_of_a_new_cell_resumes_to_the_same_bits(corpus, tmp_path):
    train(corpus, out=tmp_path / "whole", **ASKED)
    options = options_of(**ASKED)
    stopped = Run.create([corpus], options, out=tmp_path / "parts")
    list(stopped.events(options, stop=lambda: stopped.step >= 9))
    resumed = Run.resume(tmp_path / "parts")
    assert resumed.step == 9
    list(resumed.events(options))
    whole, parts = (read(tmp_path / name / MODEL)[0] for name in ("whole", "parts"))
    assert all(parts[name].tobytes() == tensor.tobytes() for name, tensor in whole.items())


def test_export_refuses_a_cell_that_onnx_lacks_with_one_line(corpus, tmp_path, inside):
    train(corpus, out=tmp_path / "run", **ASKED, progress=False)
    out, errors = inside(tmp_path, ["export", "run"], 1)
    assert (out, errors) == ("", "error: ONNX has no operator for the cell mgu\n")
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_the_forecaster_takes_a_new_cell(tmp_path):
    series = read_series(CORPORA / "tide.csv")
    network = Forecaster.create(series, Settings(cell="mgu", num_layers=2, steps=5))
    list(network.learn(series))
    network.save(tmp_path)
    assert Forecaster.load(tmp_path).forecast(series).tobytes() == network.forecast(series).tobytes()


def test_a_split_or_late_gate_is_what_its_blocks_say():
    assert [CELLS[name].split_gates for name in ("lstm", "gru", "rnn", "mgu")] == [(), ("n",), (), ()]
    assert [CELLS[name].late_gates for name in ("lstm", "gru", "rnn", "mgu")] == [(), (), (), ("n",)]
    for cell in CELLS.values():
        assert {gate for gate, _ in cell.blocks} == set(cell.gates)
        assert cell.onnx_gates is None or sorted(cell.onnx_gates) == sorted(cell.gates)


def test_an_unknown_cell_is_refused_with_the_names_of_the_known_ones(corpus, tmp_path, inside):
    _, errors = inside(tmp_path, ["train", str(corpus), "--cell", "brain", "--steps", "1"], 2)
    assert "lstm, gru, rnn or mgu" in errors
