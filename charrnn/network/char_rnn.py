"""The network that learns: characters as one-hot vectors or embeddings, stacked recurrent cells, a softmax layer.

Given character ids it gives back, for each of them, the logits of the character that follows. It knows nothing of text,
files or training. Letters: T time steps, B batch, D input size of a layer, H hidden size, V vocabulary, E embedding size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.network.config import Config
from charrnn.network.kernels import GRUFunction, TanhFunction

State = list[tuple[Tensor, ...]]  # for each layer (h,) or, with lstm, (h, c); each (B, H)
MODULES: dict[str, Callable[[int, int], nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
OPERATORS: dict[type[nn.RNNBase], Callable[..., Any]] = {nn.LSTM: torch.lstm, nn.GRU: torch.gru, nn.RNN: torch.rnn_tanh}


class CharRNN(nn.Module):
    """A character-level language model: p(next character | the characters so far)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        V, H, width = config.vocabulary_size, config.hidden_size, config.embedding_size or config.vocabulary_size
        self.embedding = nn.Embedding(V, width) if config.embedding_size else None
        module = MODULES[config.cell]
        layers = [module(width if i == 0 else H, H) for i in range(config.num_layers)]
        self.layers: list[nn.RNNBase] = nn.ModuleList(layers)  # type: ignore[assignment]  # it is iterated over as a list
        self.softmax = nn.Linear(H if config.num_layers else width, V)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Recurrent matrices orthogonal by gate (Saxe et al. 2014), forget bias 1 (Jozefowicz et al. 2015), softmax zero."""
        H = self.config.hidden_size
        for layer in self.layers:
            w_ih, w_hh, b_ih, b_hh = layer.all_weights[0]
            for gate in w_hh.data.split(H):
                nn.init.orthogonal_(gate)
            for gate in w_ih.data.split(H):
                nn.init.xavier_uniform_(gate)
            nn.init.zeros_(b_ih)
            nn.init.zeros_(b_hh)
            if self.config.cell == "lstm":
                nn.init.ones_(b_ih.data[H : 2 * H])
        nn.init.zeros_(self.softmax.weight)
        nn.init.zeros_(self.softmax.bias)

    def init_output_bias(self, counts: Tensor) -> None:
        """Begin with a guess at how often each character comes, one more than its `counts` (V,): the softmax layer's bias is
        the logarithm of its share (Karpathy 2019, "A recipe for training"). Where it must be learned, Adam's first steps drive
        the cells of deeper layers out to where tanh is flat, and they never come back."""
        self.softmax.bias.data.copy_(((counts + 1) / (counts + 1).sum()).log())

    def initial_state(self, batch_size: int) -> State:
        """The state before the first character: zeros."""
        zeros = self.softmax.weight.new_zeros(batch_size, self.config.hidden_size)
        return [(zeros, zeros) if self.config.cell == "lstm" else (zeros,) for _ in self.layers]

    def forward(
        self,
        ids: Tensor,
        state: State,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        dtype: torch.dtype | None = None,
        candidates: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Read `ids` (T, B) on from `state`; return logits (T, B, V) and the state after the last of them, detached.

        With `candidates`, ids (K,), the logits are theirs alone, (T, B, K).

        `dropout` is the chance that a unit between layers is silenced, the same units throughout the window (Gal &
        Ghahramani 2016), `recurrent_dropout` that a weight between a layer's hidden states is (Merity et al. 2018). `dtype`
        is the precision of the products (bfloat16 on a processor that has it); the logits are of the weights' own.
        """
        dtype = dtype or self.softmax.weight.dtype
        x = None if self.embedding is None else self.embedding(ids)  # (T, B, D); None: the first layer reads one-hot vectors
        new_state: State = []
        for i, (layer, layer_state) in enumerate(zip(self.layers, state, strict=True)):
            run = _run_fused if ids.device.type == "cpu" and not isinstance(layer, nn.LSTM) else _run_module
            if x is not None and i:
                x = _dropout(x, dropout)
            w_ih, w_hh, *biases = layer.all_weights[0]
            weights = [w_ih, _dropout_weights(w_hh, recurrent_dropout), *biases]
            out, after = run(layer, weights, x, ids, layer_state, dtype)  # (T, B, H)
            x = x + out if self.config.residual and x is not None and i else out
            new_state.append(tuple(part.detach() for part in after))
        weight: Tensor = self.softmax.weight
        bias: Tensor = self.softmax.bias
        if candidates is not None:
            weight, bias = weight.index_select(0, candidates), bias.index_select(0, candidates)
        if x is None:  # softmax alone on one-hot vectors
            return functional.embedding(ids, weight.t()) + bias, new_state
        if self.layers:
            x = _dropout(x, dropout)
        logits = functional.linear(x.to(dtype), weight.to(dtype)).to(weight.dtype)
        return logits.add_(bias), new_state  # a bias in bfloat16 would be off for good, where a product is now so, now so


def _dropout(x: Tensor, p: float) -> Tensor:
    """Silence units of `x` (T, B, D) for the whole window."""
    if not p:
        return x
    keep = torch.rand(x.shape[1:], device=x.device) >= p
    return x * (keep.to(x.dtype) / (1 - p))


def _dropout_weights(weights: Tensor, p: float) -> Tensor:
    """Silence a share `p` of `weights`, in whole 256ths: a random byte for each, since floats take ten times as long."""
    if not p:
        return weights
    few = round(256 * p)
    words = torch.randint(-(2**63), 2**63 - 1, (-(-weights.numel() // 8),), device=weights.device)
    keep = words.view(torch.uint8)[: weights.numel()].view_as(weights) >= few
    return weights * (keep * (256 / (256 - few)))


def _run_fused(
    layer: nn.RNNBase, weights: list[Tensor], x: Tensor | None, ids: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer of GRU or RNN on a processor: the input's product for all T steps at once, then the recurrence of `cells`."""
    w_ih, w_hh, b_ih, b_hh = (weight.to(dtype) for weight in weights)
    H = layer.hidden_size
    gru = isinstance(layer, nn.GRU)  # its new gate's recurrent bias stands inside the reset gate's reach
    bias = torch.cat([b_ih[: 2 * H] + b_hh[: 2 * H], b_ih[2 * H :]]) if gru else b_ih + b_hh
    if x is None:  # the product with a one-hot vector is a column
        gates = functional.embedding(ids, w_ih.t()).permute(2, 0, 1) + bias[:, None, None]
    else:
        gates = torch.addmm(bias[:, None], w_ih, x.to(dtype).flatten(0, 1).t()).view(-1, *ids.shape)
    h = state[0].t()
    hidden = GRUFunction.apply(gates, w_hh, b_hh[2 * H :], h) if gru else TanhFunction.apply(gates, w_hh, h)  # (H, T, B)
    return hidden.permute(1, 2, 0), (hidden[:, -1].t().to(state[0].dtype),)


def _run_module(
    layer: nn.RNNBase, weights: list[Tensor], x: Tensor | None, ids: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer by torch's own operator, which is cuDNN's on a GPU and, for the LSTM, oneDNN's on a processor."""
    inputs = functional.one_hot(ids, layer.input_size).to(state[0].dtype) if x is None else x
    packed = tuple(part[None].contiguous() for part in state)
    with torch.autocast(ids.device.type, dtype, enabled=dtype == torch.bfloat16):
        hx = packed if len(packed) > 1 else packed[0]
        out, *after = OPERATORS[type(layer)](inputs.contiguous(), hx, weights, True, 1, 0.0, layer.training, False, False)
    return out, tuple(part[0].to(state[0].dtype) for part in after)
