"""The network that learns: characters as one-hot vectors or embeddings, stacked recurrent cells, a softmax layer.

Given character ids it gives back, for each of them, the logits of the character that follows. It knows nothing of text,
files or training. Letters: T time steps, B batch, D input size of a layer, H hidden size, V vocabulary, E embedding size.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.cells import GRUCell, LSTMCell, TanhCell

State = list[tuple[Tensor, ...]]  # for each layer (h,) or, with lstm, (h, c); each (B, H)
MODULES: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@dataclass(frozen=True)
class Config:
    """The shape of a network: all that is needed to rebuild it around its weights."""

    vocabulary_size: int  # V, the number of distinct characters
    cell: str = "lstm"  # "lstm", "gru" or "rnn" (tanh)
    num_layers: int = 2  # stacked recurrent layers; 0 leaves the softmax layer alone
    hidden_size: int = 128  # H, units of each layer
    embedding_size: int = 32  # E, learned numbers per character; 0 feeds one-hot vectors

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class CharRNN(nn.Module):
    """A character-level language model: p(next character | the characters so far)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        V, H, width = config.vocabulary_size, config.hidden_size, config.embedding_size or config.vocabulary_size
        self.embedding = nn.Embedding(V, width) if config.embedding_size else None
        module = MODULES[config.cell]
        self.layers = nn.ModuleList(module(width if i == 0 else H, H) for i in range(config.num_layers))
        self.softmax = nn.Linear(H if config.num_layers else width, V)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Orthogonal recurrent matrices gate by gate (Saxe et al. 2014), forget bias 1 (Jozefowicz et al. 2015), zero softmax."""
        H = self.config.hidden_size
        for layer in self.layers:
            for gate in layer.weight_hh_l0.data.split(H):
                nn.init.orthogonal_(gate)
            for gate in layer.weight_ih_l0.data.split(H):
                nn.init.xavier_uniform_(gate)
            nn.init.zeros_(layer.bias_ih_l0)
            nn.init.zeros_(layer.bias_hh_l0)
            if self.config.cell == "lstm":
                nn.init.ones_(layer.bias_ih_l0.data[H : 2 * H])
        nn.init.zeros_(self.softmax.weight)
        nn.init.zeros_(self.softmax.bias)

    def initial_state(self, batch_size: int) -> State:
        """The state before the first character: zeros."""
        zeros = self.softmax.weight.new_zeros(batch_size, self.config.hidden_size)
        return [(zeros, zeros) if self.config.cell == "lstm" else (zeros,) for _ in self.layers]

    def forward(self, ids: Tensor, state: State, dropout: float = 0.0, dtype: torch.dtype | None = None) -> tuple[Tensor, State]:
        """Read `ids` (T, B) on from `state`; return logits (T, B, V) and the state after the last of them, detached.

        `dropout` is the chance that a unit between layers is silenced, the same units throughout the window (Gal &
        Ghahramani 2016). `dtype` is the precision of the products in the cells (bfloat16 on a processor that has it).
        """
        x = self._input(ids)  # (D, T, B), or None where the first layer looks its one-hot input up
        new_state: State = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            x = _dropout(x, dropout) if new_state else x
            run = _run_fused if ids.device.type == "cpu" else _run_module
            x, after = run(layer, x, ids, layer_state, dtype or self.softmax.weight.dtype)
            new_state.append(tuple(part.detach() for part in after))
        if x is None:  # softmax alone on one-hot vectors
            return functional.embedding(ids, self.softmax.weight.t()) + self.softmax.bias, new_state
        x = _dropout(x, dropout if self.layers else 0.0)
        logits = torch.addmm(self.softmax.bias, x.flatten(1).t().to(self.softmax.weight.dtype), self.softmax.weight.t())
        return logits.view(*ids.shape, -1), new_state

    def _input(self, ids: Tensor) -> Tensor | None:
        return None if self.embedding is None else self.embedding(ids).permute(2, 0, 1)


def _dropout(x: Tensor | None, p: float) -> Tensor | None:
    if x is None or not p:
        return x
    keep = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= p
    return x * (keep.to(x.dtype) / (1 - p))


def _run_fused(layer: nn.RNNBase, x: Tensor | None, ids: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer on a processor: the input's product for all T steps at once, then the recurrence of `cells`."""
    w_ih, w_hh = layer.weight_ih_l0.to(dtype), layer.weight_hh_l0.to(dtype)
    H = w_hh.shape[1]
    bias = layer.bias_ih_l0 + layer.bias_hh_l0
    if isinstance(layer, nn.GRU):  # the new gate's recurrent bias stands inside the reset gate's reach
        bias = torch.cat([bias[: 2 * H], layer.bias_ih_l0[2 * H :]])
    if x is None:
        gates = functional.embedding(ids, w_ih.t()).permute(2, 0, 1) + bias.to(dtype)[:, None, None]
    else:
        gates = torch.addmm(bias.to(dtype)[:, None], w_ih, x.to(dtype).flatten(1)).view(-1, *ids.shape)
    h = state[0].t()
    if isinstance(layer, nn.LSTM):
        hidden, c = LSTMCell.apply(gates, w_hh, h, state[1].t())
        return hidden, (hidden[:, -1].t().to(layer.weight_hh_l0.dtype), c.t())
    if isinstance(layer, nn.GRU):
        hidden = GRUCell.apply(gates, w_hh, layer.bias_hh_l0[2 * H :].to(dtype), h)
    else:
        hidden = TanhCell.apply(gates, w_hh, h)
    return hidden, (hidden[:, -1].t().to(layer.weight_hh_l0.dtype),)


def _run_module(layer: nn.RNNBase, x: Tensor | None, ids: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer on a GPU: torch's own module, which is cuDNN's."""
    inputs = functional.one_hot(ids, layer.input_size).to(layer.weight_ih_l0.dtype) if x is None else x.permute(1, 2, 0)
    packed = tuple(part[None].contiguous() for part in state)
    with torch.autocast(ids.device.type, dtype, enabled=dtype != torch.float32):
        out, after = layer(inputs.contiguous(), packed if len(packed) > 1 else packed[0])
    after = after if isinstance(after, tuple) else (after,)
    return out.permute(2, 0, 1), tuple(part[0].to(layer.weight_hh_l0.dtype) for part in after)
