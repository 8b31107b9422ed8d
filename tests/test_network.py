"""The forward pass compared with a naive one, gradients with finite differences, and both engines with each other."""

import numpy as np
import pytest
import torch

from charrnn.network.cells import CELLS
from charrnn.network.char_rnn import CharRNN
from charrnn.network.config import Config
from charrnn.network.engine import Network
from charrnn.network.kernels import GRUFunction, TanhFunction
from charrnn.training.device import can_run_bfloat16


def weights_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def random_model(config, std=0.3):
    torch.manual_seed(0)
    model = CharRNN(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def naive_forward(config, weights, ids):
    """Logits (N, V) of one sequence in float64, written as in the papers."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    H = config.hidden_size
    h = [np.zeros(H) for _ in range(config.num_layers)]
    c = [np.zeros(H) for _ in range(config.num_layers)]
    logits = []
    for i in ids:
        x = w["embedding.weight"][i] if config.embedding_size else np.eye(config.vocabulary_size)[i]
        for k in range(config.num_layers):
            w_ih, w_hh, b_ih, b_hh = (w[f"layers.{k}.{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            rows = [slice(g * H, (g + 1) * H) for g in range(4)]

            def inputs(g, w_ih=w_ih, x=x, b_ih=b_ih, rows=rows):
                return w_ih[rows[g]] @ x + b_ih[rows[g]]

            def recurrent(g, w_hh=w_hh, previous=h[k], b_hh=b_hh, rows=rows):
                return w_hh[rows[g]] @ previous + b_hh[rows[g]]

            if config.cell == "lstm":
                input_gate = sigmoid(inputs(0) + recurrent(0))
                forget_gate = sigmoid(inputs(1) + recurrent(1))
                candidate = np.tanh(inputs(2) + recurrent(2))
                output_gate = sigmoid(inputs(3) + recurrent(3))
                c[k] = forget_gate * c[k] + input_gate * candidate
                h[k] = output_gate * np.tanh(c[k])
            elif config.cell == "gru":
                reset_gate = sigmoid(inputs(0) + recurrent(0))
                update_gate = sigmoid(inputs(1) + recurrent(1))
                new = np.tanh(inputs(2) + reset_gate * recurrent(2))
                h[k] = (1 - update_gate) * new + update_gate * h[k]
            else:
                h[k] = np.tanh(inputs(0) + recurrent(0))
            x = x + h[k] if config.residual and k else h[k]
        logits.append(w["softmax.weight"] @ x + w["softmax.bias"])
    return np.array(logits)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("embedding", [0, 5])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_forward_is_the_naive_one(cell, layers, embedding, residual):
    config = Config(7, cell, layers, 16, embedding, residual)
    model = random_model(config)
    ids = np.random.default_rng(1).integers(0, 7, 30)
    with torch.no_grad():
        state = model.initial_state(1)
        first, state = model(torch.from_numpy(ids[:13, None]), state)
        rest, _ = model(torch.from_numpy(ids[13:, None]), state)
    got = np.concatenate([first[:, 0].numpy(), rest[:, 0].numpy()])
    np.testing.assert_allclose(got, naive_forward(config, weights_of(model), ids), atol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("embedding", [0, 5])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_numpy_engine_is_the_torch_one_over_200_characters_with_the_state_carried(cell, layers, embedding, residual):
    config = Config(11, cell, layers, 32, embedding, residual)
    model = random_model(config, std=0.15)  # larger recurrent weights make a chaotic network, which amplifies rounding
    network = Network(config, weights_of(model))
    ids = np.random.default_rng(2).integers(0, 11, (200, 3))
    state, numpy_state = model.initial_state(3), network.initial_state(3)
    for window in np.split(ids, 8):
        with torch.no_grad():
            logits, state = model(torch.from_numpy(window), state)
        numpy_logits, numpy_state = network.forward(window, numpy_state)
        np.testing.assert_allclose(numpy_logits, logits.numpy(), atol=1e-5)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("cell", CELLS)
def test_numpy_engine_is_the_naive_one_for_one_stream_and_for_more(cell, layers, streams):
    config = Config(7, cell, layers, 16, 5)
    weights = weights_of(random_model(config))
    network = Network(config, weights)
    ids = np.random.default_rng(3).integers(0, 7, (30, streams))
    first, state = network.forward(ids[:13], network.initial_state(streams))
    logits = np.concatenate([first, network.forward(ids[13:], state)[0]])
    for k in range(streams):
        np.testing.assert_allclose(logits[:, k], naive_forward(config, weights, ids[:, k]), atol=1e-5)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_fused_layers_give_the_output_and_gradients_of_torch_modules(cell):
    model = random_model(Config(7, cell, 1, 16, 5)).double()
    layer = model.layers[0]
    ids = torch.randint(7, (9, 4))
    model(ids, model.initial_state(4))[0].square().sum().backward()
    fused = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    out, _ = layer(model.embedding(ids))
    model.softmax(out).square().sum().backward()
    for got, expected in zip(fused, [p.grad for p in model.parameters()], strict=True):
        torch.testing.assert_close(got, expected)


def test_gradients_of_each_cell_are_those_of_finite_differences():
    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    torch.manual_seed(0)
    H, T, B = 3, 4, 2
    h = torch.randn(H, B, dtype=torch.float64)
    inputs = leaf(3 * H, T, B), leaf(3 * H, H), leaf(3 * H)
    assert torch.autograd.gradcheck(lambda g, w, b: GRUFunction.apply(g, w, b, h), inputs)
    assert torch.autograd.gradcheck(lambda g, w: TanhFunction.apply(g, w, None, h), (leaf(H, T, B), leaf(H, H)))


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_stays_near_float32(cell):
    if not can_run_bfloat16(cell, "cpu"):
        pytest.skip("this processor can't run this cell in bfloat16")
    model = random_model(Config(7, cell, 2, 16, 5))
    ids = torch.randint(7, (20, 4))
    with torch.no_grad():
        exact, _ = model(ids, model.initial_state(4))
        rough, _ = model(ids, model.initial_state(4), dtype=torch.bfloat16)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_one_hot_input_is_an_embedding_whose_table_is_the_identity(layers):
    one_hot = random_model(Config(7, "lstm", layers, 16, 0))
    embedded = CharRNN(Config(7, "lstm", layers, 16, 7))
    embedded.load_state_dict({**one_hot.state_dict(), "embedding.weight": torch.eye(7)})
    ids = torch.randint(7, (15, 2))
    torch.testing.assert_close(one_hot(ids, one_hot.initial_state(2))[0], embedded(ids, embedded.initial_state(2))[0])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_dropout_of_recurrent_weights_silences_its_share_of_them_and_keeps_their_mean(cell):
    torch.manual_seed(4)
    ((mask, of_units),) = CharRNN(Config(5, cell, 1, 128, 3)).draw_masks(2, 0.0, 0.25)
    assert of_units is None
    assert (mask == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert mask.mean() == pytest.approx(1, abs=0.02)
    model = CharRNN(Config(5, cell, 2, 8, 3))
    torch.nn.init.normal_(model.softmax.weight)
    ids, state = torch.randint(0, 5, (6, 2)), model.initial_state(2)
    plain, _ = model(ids, state)
    noisy, _ = model(ids, state, model.draw_masks(2, 0.0, 0.5))
    assert torch.allclose(noisy[0], plain[0], atol=1e-6)  # from the zero state nothing recurs yet
    assert not torch.allclose(noisy[1:], plain[1:], atol=1e-3)


def test_the_first_guess_is_how_often_each_character_comes():
    model = CharRNN(Config(3, "lstm", 2, 5, 4))
    model.init_output_bias(torch.tensor([5, 0, 92]))
    logits, _ = model(torch.tensor([[0, 2]]), model.initial_state(2))
    torch.testing.assert_close(logits.softmax(-1), torch.tensor([[[0.06, 0.01, 0.93]] * 2]))
