"""The network in NumPy, for inference: the weights of `CharRNN`, run one character at a time.

Shapes: T time steps, B batch size, H hidden size, V vocabulary size, G rows of all blocks of a layer (see `cells.py`),
D input size of a layer, E embedding size.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np

from charrnn.network.cells import CELLS, WEIGHTS
from charrnn.network.config import Config

Array = np.ndarray
Call = Callable[..., None]  # appends a function and its arguments to the calls of a step
HALF = np.array(0.5, np.float32)  # faster in NumPy than a Python number


class Network:
    """The weights of `CharRNN` in float32, arranged so that a step takes few NumPy calls.

    W_ih and W_hh of a layer form one matrix (G, D + H), multiplied by [x; h]. For the first layer, W_ih x + b is a table
    (V, G). Since sigmoid(x) = tanh(x / 2) / 2 + 1 / 2, the rows of sigmoid gates are halved and one tanh serves all gates.
    """

    def __init__(self, config: Config, tensors: dict[str, Array]):
        self.config = config
        self.cell = CELLS[config.cell]
        H = config.hidden_size
        embedding = tensors.get("embedding.weight")  # (V, E); None means one-hot
        self.layers = []  # per layer: products, bias (G, 1), and the recurrent weights (H, H) of late gates
        for i in range(config.num_layers):
            w_ih, w_hh, b_ih, b_hh = (tensors[f"layers.{i}.{name}"] for name in WEIGHTS)
            weight, bias = self._fuse(w_ih, w_hh, b_ih=b_ih, b_hh=b_hh)
            if i == 0:
                self.table = _table(embedding, weight[:, :-H], bias)
                weight = weight[:, -H:]
            late = [np.split(w_hh, len(self.cell.gates))[self.cell.gates.index(gate)].copy() for gate in self.cell.late_gates]
            self.layers.append((self._products(weight), bias[:, None], late))
        weight, bias = tensors["softmax.weight"], tensors["softmax.bias"]
        if not self.layers:  # no table (V, V) with an embedding: it could be a thousand times the model
            self.table = _table(None, weight, bias) if embedding is None else embedding
        self.softmax = np.column_stack([weight, bias])  # (V, H + 1), for [h; 1]

    def initial_state(self, batch_size: int) -> "Stepper":
        """The zero state of B sequences, before the first character."""
        return Stepper(self, batch_size)

    def forward(self, ids: Array, state: "Stepper") -> tuple[Array, "Stepper"]:
        """Run the network over `ids` (T, B). Returns: logits (T, B, V), and `state`, which is updated in place."""
        logits = np.empty((*ids.shape, len(self.softmax)), np.float32)
        for t, row in enumerate(ids):
            logits[t] = state.step(row)
        return logits, state

    def _fuse(self, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> tuple[Array, Array]:
        """Make the matrix (G, D + H) and bias (G,) of a layer. Blocks with only x or only h have zeros for the other."""
        H = self.config.hidden_size
        weights, biases = [], []
        for gate, reads in self.cell.blocks:
            first = self.cell.gates.index(gate) * H
            w_x, w_h, b_x, b_h = (tensor[first : first + H] for tensor in (w_ih, w_hh, b_ih, b_hh))
            weights.append(np.hstack([w if name in reads else np.zeros_like(w) for name, w in (("x", w_x), ("h", w_h))]))
            split = gate in self.cell.split_gates
            biases.append(b_x + b_h if not split else b_x if reads == "x" else b_h)
        weight, bias = np.concatenate(weights), np.concatenate(biases)
        weight[: self.cell.sigmoids * H] *= HALF
        bias[: self.cell.sigmoids * H] *= HALF
        return weight, bias

    def _products(self, weight: Array) -> list[tuple[slice, slice, Array]]:
        """Split `weight` (G, D + H) into products that skip the zeros: (rows, columns, weights) of each."""
        D = weight.shape[1] - self.config.hidden_size  # 0 in the first layer, which uses the table
        columns = {"xh": slice(None), "x": slice(D), "h": slice(D, None)}
        products, rows = [], slice(0, 0)
        for reads, blocks in groupby(reads for _, reads in self.cell.blocks):
            rows = slice(rows.stop, rows.stop + len(list(blocks)) * self.config.hidden_size)
            if D or reads != "x":
                products.append((rows, columns[reads], np.ascontiguousarray(weight[rows, columns[reads]])))
        return products


def _table(embedding: Array | None, weight: Array, bias: Array) -> Array:
    """The product of `weight` (G, E or V) with each character's input, plus bias: (V, G)."""
    return np.ascontiguousarray((weight.T if embedding is None else embedding @ weight.T) + bias)


class Stepper:
    """The state of B sequences, which `step` advances. Iterate for each layer's states: (h,) or (h, c), each (B, H).

    All buffers are allocated once, and a step is a fixed list of calls on them. Buffers are (features, B), so that their
    parts are contiguous.
    """

    def __init__(self, network: Network, batch_size: int):
        B, V, H = batch_size, len(network.softmax), network.softmax.shape[1] - 1
        layers = len(network.layers)
        self.ids = np.zeros(B, np.intp)  # (B,) the next inputs
        logits = np.zeros((V, B), np.float32)
        self.logits = logits.T  # (B, V) of the last step
        self._states: list[tuple[Array, ...]] = []
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        if not layers and not network.config.embedding_size:
            self._look_up(network.table, logits)
            return
        # The h of all layers, one after another. What layer i reads comes right before its h, so that both are its [x; h]:
        # the h of layer i - 1 or, in a residual network, the sum of that and of what layer i - 1 has read.
        stride = (2 if network.config.residual else 1) * H
        hidden = np.zeros((stride * max(layers - 1, 0) + H + 1, B), np.float32)
        hidden[-1] = 1  # for the softmax's bias
        if not layers:
            self._look_up(network.table, hidden[:H])
        for i in range(layers):
            at = max(0, stride * (i - 1))  # start of what the layer reads
            xh = hidden[at : at + 2 * H] if i else hidden[:H]
            self._add_layer(network, i, xh)
            if network.config.residual and i:
                self._call(np.add, xh[:H], xh[H:], hidden[at + 2 * H : at + 3 * H])
        self._call(network.softmax.dot, hidden[-H - 1 :], logits)

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        return iter(self._states)

    def _add_layer(self, network: Network, i: int, xh: Array) -> None:
        """Add the calls of layer `i`, which reads and writes `xh`: [x; h] (2H, B); in the first layer h (H, B)."""
        products, bias, late = network.layers[i]
        H, B = network.config.hidden_size, xh.shape[1]
        inputs = np.zeros((len(bias), B), np.float32)  # added to the products
        if i:
            inputs += bias
        else:
            self._look_up(network.table, inputs)
        gates = np.zeros((len(bias) + H, B), np.float32)  # with room for the LSTM's c at the end
        product = np.zeros_like(inputs)
        for rows, columns, weight in products:
            self._call(weight.dot, xh[columns], product[rows])
        self._call(np.add, product, inputs, gates[:-H])
        self._states.append(STEPS[network.config.cell](self._call, gates, xh[-H:], late))

    def step(self, ids: Array | list[int]) -> Array:
        """Run one time step with the characters `ids` (B,). Returns: logits (B, V), overwritten by the next step."""
        self.ids[:] = ids
        return self.advance()

    def advance(self) -> Array:
        """Run one time step with the characters in `self.ids`. Returns: as `step`."""
        for function, arguments in self._calls:
            function(*arguments)
        return self.logits

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._calls.append((function, arguments))

    def _look_up(self, table: Array, out: Array) -> None:
        """Copy the rows of `table` (V, G) at `self.ids` into `out` (G, B)."""
        if len(self.ids) == 1:
            self._call(table.take, self.ids, 0, out.T, "clip")
        else:
            self._call(table.T.copy().take, self.ids, 1, out, "clip")


def step_lstm(call: Call, gates: Array, h: Array, _: list[Array]) -> tuple[Array, ...]:
    """LSTM (Hochreiter & Schmidhuber 1997), with the forget gate of Gers et al. (2000)."""
    H = len(h)
    o, c = gates[2 * H : 3 * H], gates[4 * H :]
    shares = np.empty_like(gates[: 2 * H])
    squash(call, gates[: 4 * H], gates[: 3 * H])
    call(np.multiply, gates[: 2 * H], gates[3 * H :], shares)  # i g and f c
    call(np.add, shares[:H], shares[H:], c)
    call(np.tanh, c, shares[:H])
    call(np.multiply, o, shares[:H], h)
    return h.T, c.T


def step_gru(call: Call, gates: Array, h: Array, _: list[Array]) -> tuple[Array, ...]:
    """GRU (Cho et al. 2014), with the reset gate after the matrix product, as in cuDNN and torch."""
    H = len(h)
    r, z, recurrent, n = (gates[k * H : (k + 1) * H] for k in range(4))
    squash(call, gates[: 2 * H], gates[: 2 * H])
    call(np.multiply, r, recurrent, recurrent)
    call(np.add, n, recurrent, n)
    call(np.tanh, n, n)
    call(np.subtract, h, n, h)
    call(np.multiply, z, h, h)
    call(np.add, n, h, h)
    return (h.T,)


def step_rnn(call: Call, gates: Array, h: Array, _: list[Array]) -> tuple[Array, ...]:
    """Simple recurrent network (Elman 1990)."""
    call(np.tanh, gates[: len(h)], h)
    return (h.T,)


def squash(call: Call, gates: Array, sigmoids: Array) -> None:
    """Apply tanh to `gates` in place, and turn it into a sigmoid in `sigmoids`, a view of some of them."""
    call(np.tanh, gates, gates)
    call(np.multiply, sigmoids, HALF, sigmoids)
    call(np.add, sigmoids, HALF, sigmoids)


# Per cell kind, the part of a step after the products with [x; h]. Arguments: `call`, `gates` (G + H, B) with the products,
# h (H, B), which is updated in place, and the recurrent weights (H, H) of late gates. Returns the states.
STEPS: dict[str, Callable[[Call, Array, Array, list[Array]], tuple[Array, ...]]]
STEPS = {"lstm": step_lstm, "gru": step_gru, "rnn": step_rnn}
