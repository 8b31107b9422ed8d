"""The network that steps: the weights of `CharRNN` as NumPy arrays, and the calls that a character takes.

It knows only ids. Letters: T time steps, B streams, H hidden size, V vocabulary, G rows of all gates, E embedding size.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from charrnn.network.config import Config

Array = np.ndarray
WEIGHTS = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"  # of a layer, as torch names them
SIGMOIDS = {"lstm": 3, "gru": 2, "rnn": 0}  # how many of a cell's gates are sigmoids; they stand first
HALF = np.array(0.5, np.float32)  # an array, which NumPy takes faster than a number


class Network:
    """The weights of `CharRNN`, arranged so that a character takes few calls, in float32.

    The input's and the recurrent weights of a layer are one matrix (G, D + H), for [x; h]; what the first layer makes of
    its input is looked up in a table (V, G). Since sigmoid(x) = tanh(x / 2) / 2 + 1 / 2, the rows of sigmoids are halved,
    and one tanh does for all gates. Rows: i, f, o, g (lstm); r, z, h's share of n, x's share of n (gru); h (rnn).
    """

    def __init__(self, config: Config, tensors: dict[str, np.ndarray]):
        self.cell, self.hidden_size = config.cell, config.hidden_size
        self.residual = config.residual
        embedding = tensors.get("embedding.weight")  # (V, E); None means one-hot
        self.layers = []
        for i in range(config.num_layers):
            weight, bias = self._fuse(*(tensors[f"layers.{i}.{name}"] for name in WEIGHTS))
            if i == 0:
                self.table = _table(embedding, weight[:, : -self.hidden_size], bias)
                weight = weight[:, -self.hidden_size :]
            self.layers.append((self._products(weight), bias[:, None]))
        weight, bias = tensors["softmax.weight"], tensors["softmax.bias"]
        if not self.layers:
            self.table = _table(embedding, weight, bias)
        self.softmax = np.column_stack([weight, bias])  # (V, H + 1), for [h; 1]

    def initial_state(self, batch_size: int) -> "Stepper":
        """The state before the first character of B streams: zeros."""
        return Stepper(self, batch_size)

    def forward(self, ids: Array, state: "Stepper") -> tuple[Array, "Stepper"]:
        """Read `ids` (T, B) on from `state`: logits (T, B, V) and the state, which is now the one after the last of them."""
        logits = np.empty((*ids.shape, len(self.softmax)), np.float32)
        for t, row in enumerate(ids):
            logits[t] = state.step(row)
        return logits, state

    def _fuse(self, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> tuple[Array, Array]:
        H = self.hidden_size
        if self.cell == "gru":  # the reset gate comes between the two shares of n
            no_x, no_h = np.zeros((H, w_ih.shape[1]), np.float32), np.zeros((H, H), np.float32)
            w_ih = np.concatenate([w_ih[: 2 * H], no_x, w_ih[2 * H :]])
            w_hh = np.concatenate([w_hh, no_h])
            bias = np.concatenate([b_ih[: 2 * H] + b_hh[: 2 * H], b_hh[2 * H :], b_ih[2 * H :]])
        else:
            bias = b_ih + b_hh
        weight = np.concatenate([w_ih, w_hh], axis=1)
        if self.cell == "lstm":  # torch has i, f, g, o
            order = np.r_[: 2 * H, 3 * H : 4 * H, 2 * H : 3 * H]
            weight, bias = weight[order], bias[order]
        sigmoids = slice(SIGMOIDS[self.cell] * H)
        weight[sigmoids] *= HALF
        bias[sigmoids] *= HALF
        return weight, bias

    def _products(self, weight: Array) -> list[tuple[slice, slice, Array]]:
        """The products that a layer's step takes: (rows, columns, that part of `weight`), without the gru's zeros."""
        H, columns = self.hidden_size, weight.shape[1]
        parts = [(slice(None), slice(None))]
        if self.cell == "gru":
            parts = [(slice(2 * H), slice(None)), (slice(2 * H, 3 * H), slice(columns - H, None))]
            if columns > H:
                parts.append((slice(3 * H, 4 * H), slice(H)))
        return [(rows, columns, np.ascontiguousarray(weight[rows, columns])) for rows, columns in parts]


def _table(embedding: Array | None, weight: Array, bias: Array) -> Array:
    """W x + b for every character x: (V, G)."""
    return np.ascontiguousarray((weight.T if embedding is None else embedding @ weight.T) + bias)


class Stepper(list[tuple[Array, ...]]):
    """Where B streams stand, and the means to read on: for each layer (h,) or, with lstm, (h, c), each (B, H).

    All numbers lie in buffers that are made once, and a step is a fixed list of calls on them. Features come before
    streams, so that the buffers' parts are contiguous: `hidden` holds h of one layer after the other, so that two
    neighbours are the [x; h] of the upper one. In a residual network the sums x lie between them.
    """

    def __init__(self, network: Network, batch_size: int):
        super().__init__()
        H, B, V = network.hidden_size, batch_size, len(network.softmax)
        self.ids = np.zeros(B, np.intp)  # (B,), the characters to read
        logits = np.zeros((V, B), np.float32)
        self.logits = logits.T  # (B, V), after the characters that were read
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        if not network.layers:
            self._look_up(network.table, logits)
            return
        stride = (2 if network.residual else 1) * H
        hidden = np.zeros((stride * (len(network.layers) - 1) + H + 1, B), np.float32)
        hidden[-1] = 1  # for the softmax's bias
        for i, (products, bias) in enumerate(network.layers):
            at = stride * (i - 1)  # where the layer's input lies
            xh = hidden[max(0, at) : at + 2 * H] if i else hidden[:H]
            inputs = np.zeros((len(bias), B), np.float32)
            if i:
                inputs += bias
            else:
                self._look_up(network.table, inputs)
            gates = np.zeros((len(bias) + H, B), np.float32)  # with room for the lstm's c after them
            product = np.zeros_like(inputs)
            for rows, columns, weight in products:
                self._call(weight.dot, xh[columns], product[rows])
            self._call(np.add, product, inputs, gates[:-H])
            self.append(getattr(self, f"_{network.cell}")(gates, xh[-H:]))
            if network.residual and i:
                self._call(np.add, xh[:H], xh[H:], hidden[at + 2 * H : at + 3 * H])
        self._call(network.softmax.dot, hidden[-H - 1 :], logits)

    def step(self, ids: Array | list[int]) -> Array:
        """Read one character of each stream, `ids` (B,): the logits (B, V), which stand until the next step."""
        self.ids[:] = ids
        return self.advance()

    def advance(self) -> Array:
        """Read the characters that stand in `ids`."""
        for function, arguments in self._calls:
            function(*arguments)
        return self.logits

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._calls.append((function, arguments))

    def _look_up(self, table: Array, out: Array) -> None:
        """Take the rows of `table` (V, G) that `ids` name into `out` (G, B)."""
        if len(self.ids) == 1:
            self._call(table.take, self.ids, 0, out.T, "clip")
        else:
            self._call(table.T.copy().take, self.ids, 1, out, "clip")

    def _squash(self, gates: Array, sigmoids: Array) -> None:
        self._call(np.tanh, gates, gates)
        self._call(np.multiply, sigmoids, HALF, sigmoids)
        self._call(np.add, sigmoids, HALF, sigmoids)

    def _lstm(self, gates: Array, h: Array) -> tuple[Array, ...]:
        H = len(h)
        o, c = gates[2 * H : 3 * H], gates[4 * H :]
        shares = np.empty_like(gates[: 2 * H])
        self._squash(gates[: 4 * H], gates[: 3 * H])
        self._call(np.multiply, gates[: 2 * H], gates[3 * H :], shares)  # i g and f c
        self._call(np.add, shares[:H], shares[H:], c)
        self._call(np.tanh, c, shares[:H])
        self._call(np.multiply, o, shares[:H], h)
        return h.T, c.T

    def _gru(self, gates: Array, h: Array) -> tuple[Array, ...]:
        H = len(h)
        r, z, recurrent, n = (gates[k * H : (k + 1) * H] for k in range(4))
        self._squash(gates[: 2 * H], gates[: 2 * H])
        self._call(np.multiply, r, recurrent, recurrent)
        self._call(np.add, n, recurrent, n)
        self._call(np.tanh, n, n)
        self._call(np.subtract, h, n, h)
        self._call(np.multiply, z, h, h)
        self._call(np.add, n, h, h)
        return (h.T,)

    def _rnn(self, gates: Array, h: Array) -> tuple[Array, ...]:
        self._call(np.tanh, gates[: len(h)], h)
        return (h.T,)
