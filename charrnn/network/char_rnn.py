"""The network in torch, for training: embedding (or one-hot vectors), stacked recurrent layers, softmax layer.

It maps character ids to the logits of the next character. `engine.py` is the same network in NumPy.
Shapes: T time steps, B batch size, D input size of a layer, H hidden size, V vocabulary size, G gates times H.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.network.cells import CELLS
from charrnn.network.config import Config
from charrnn.network.kernels import KERNELS

State = list[tuple[Tensor, ...]]  # per layer the cell's states, (h,) or (h, c), each (B, H)
Masks = list[tuple[Tensor | None, Tensor | None]]  # per layer the dropout masks of W_hh (G, H) and of the outputs (B, H)


class Layer(Protocol):
    """A recurrent layer, with the interface of torch's own modules."""

    @property
    def all_weights(self) -> Sequence[Sequence[Tensor]]: ...  # [[weight_ih, weight_hh, bias_ih, bias_hh]]
    def __call__(self, x: Tensor) -> tuple[Tensor, Any]: ...  # (T, B, D) -> (T, B, H) and the last state


# Per cell kind: the module, which holds the weights, and the operator, which runs a layer with any weights and initial state.
# Operators take inputs (T, B, D), state (1, B, H), weights and options, and return outputs (T, B, H) and the last state.
MODULES: dict[str, Callable[[int, int], Layer]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
OPERATORS: dict[str, Callable[..., tuple[Tensor, ...]]] = {"lstm": torch.lstm, "gru": torch.gru, "rnn": torch.rnn_tanh}


class CharRNN(nn.Module):
    """A character-level language model, p(next character | previous characters)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.cell = CELLS[config.cell]
        V, H = config.vocabulary_size, config.hidden_size
        width = config.embedding_size or V
        self.embedding = nn.Embedding(V, width) if config.embedding_size else None
        layers = [MODULES[config.cell](H if i else width, H) for i in range(config.num_layers)]
        self.layers: list[Layer] = nn.ModuleList(layers)  # type: ignore  # mypy sees a list
        self.softmax = nn.Linear(H if config.num_layers else width, V)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the weights.

        W_hh is orthogonal for each gate (Saxe et al. 2014), W_ih is Xavier uniform (Glorot & Bengio 2010), the LSTM's forget
        bias is 1 (Jozefowicz et al. 2015), the softmax layer is zero.
        """
        H = self.config.hidden_size
        for layer in self.layers:
            w_ih, w_hh, b_ih, b_hh = layer.all_weights[0]
            for gate in w_hh.data.split(H):
                nn.init.orthogonal_(gate)
            for gate in w_ih.data.split(H):
                nn.init.xavier_uniform_(gate)
            nn.init.zeros_(b_ih)
            nn.init.zeros_(b_hh)
            if self.cell.forget_gate is not None:
                nn.init.ones_(b_ih.data.split(H)[self.cell.gates.index(self.cell.forget_gate)])
        nn.init.zeros_(self.softmax.weight)
        nn.init.zeros_(self.softmax.bias)

    def init_output_bias(self, counts: Tensor) -> None:
        """Set the softmax bias to the log frequencies of characters that occur `counts` (V,) times (Karpathy 2019).

        If Adam has to learn this bias, its first steps can saturate the cells of deeper layers for good.
        """
        self.softmax.bias.data.copy_(((counts + 1) / (counts + 1).sum()).log())

    def initial_state(self, batch_size: int) -> State:
        """The zero state, before the first character."""
        zeros = self.softmax.weight.new_zeros(batch_size, self.config.hidden_size)
        return [(zeros,) * len(self.cell.states) for _ in self.layers]

    def draw_masks(self, batch_size: int, dropout: float, recurrent_dropout: float) -> Masks:
        """Draw dropout masks for a batch; all its time steps use the same masks.

        `dropout` is the probability of dropping a unit of a layer's output (variational dropout, Gal & Ghahramani 2016),
        `recurrent_dropout` that of dropping a weight of W_hh (DropConnect, Merity et al. 2018).
        """
        recurrent = [layer.all_weights[0][1] for layer in self.layers]
        outputs = self.softmax.weight.new_empty(batch_size, self.config.hidden_size)
        return [(_weight_mask(w_hh, recurrent_dropout), _unit_mask(outputs, dropout)) for w_hh in recurrent]

    def forward(
        self,
        ids: Tensor,
        state: State,
        masks: Masks | None = None,
        dtype: torch.dtype | None = None,
        candidates: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Run the network over `ids` (T, B), starting from `state`.

        `masks` come from `draw_masks`. `dtype` is the precision of matrix products; the logits have the weights' precision.

        Returns: logits (T, B, V), or (T, B, K) of only the `candidates`, ids (K,); and the last state, detached.
        """
        dtype = dtype or self.softmax.weight.dtype
        x = None if self.embedding is None else self.embedding(ids)  # (T, B, D); None: one-hot vectors
        run = self._run_kernel if ids.device.type == "cpu" and self.config.cell in KERNELS else self._run_operator
        new_state: State = []
        for i, (layer, layer_state) in enumerate(zip(self.layers, state, strict=True)):
            of_weights, of_units = masks[i] if masks is not None else (None, None)
            w_ih, w_hh, *biases = layer.all_weights[0]
            weights = [w_ih, w_hh if of_weights is None else w_hh * of_weights, *biases]
            out, after = run(weights, x=x, ids=ids, state=layer_state, dtype=dtype)  # (T, B, H)
            x = x + out if i and x is not None and self.config.residual else out
            x = x if of_units is None else x * of_units.to(x.dtype)
            new_state.append(tuple(part.detach() for part in after))
        rows = (self.softmax.weight, self.softmax.bias)  # (V, ...), or (K, ...)
        weight, bias = (part if candidates is None else part.index_select(0, candidates) for part in rows)
        if x is None:  # softmax alone on one-hot vectors
            return functional.embedding(ids, weight.t()) + bias, new_state
        logits = functional.linear(x.to(dtype), weight.to(dtype)).to(weight.dtype)
        return logits.add_(bias), new_state  # added in full precision: rounding a bias to bfloat16 would be a systematic error

    def _run_kernel(
        self, weights: list[Tensor], x: Tensor | None, ids: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run a layer by our own kernel: W_ih x for all T steps at once, then the recurrence."""
        w_ih, w_hh, b_ih, b_hh = (weight.to(dtype) for weight in weights)
        H = self.config.hidden_size
        parts = zip(self.cell.gates, b_ih.split(H), b_hh.split(H), strict=True)
        bias = torch.cat([b_x if gate in self.cell.split_gates else b_x + b_h for gate, b_x, b_h in parts])
        if x is None:  # the product with a one-hot vector is a column
            gates = functional.embedding(ids, w_ih.t()).permute(2, 0, 1) + bias[:, None, None]
        else:
            gates = torch.addmm(bias[:, None], w_ih, x.to(dtype).flatten(0, 1).t()).view(-1, *ids.shape)
        hidden = KERNELS[self.config.cell](gates, w_hh, b_hh, state[0].t())  # (H, T, B)
        return hidden.permute(1, 2, 0), (hidden[:, -1].t().to(state[0].dtype),)

    def _run_operator(
        self, weights: list[Tensor], x: Tensor | None, ids: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run a layer by torch's operator: cuDNN on GPUs, oneDNN for the LSTM on CPUs."""
        inputs = functional.one_hot(ids, weights[0].shape[1]).to(state[0].dtype) if x is None else x
        packed = tuple(part[None].contiguous() for part in state)
        hx = packed if len(packed) > 1 else packed[0]
        with torch.autocast(ids.device.type, dtype, enabled=dtype == torch.bfloat16):
            run = OPERATORS[self.config.cell]
            out, *after = run(inputs.contiguous(), hx, weights, True, 1, 0.0, self.training, False, False)
        return out, tuple(part[0].to(state[0].dtype) for part in after)


def _unit_mask(outputs: Tensor, p: float) -> Tensor | None:
    """A mask that drops units of `outputs` (B, H) with probability `p` and scales the rest by 1 / (1 - p)."""
    return (torch.rand_like(outputs) >= p).to(outputs.dtype) / (1 - p) if p else None


def _weight_mask(weights: Tensor, p: float) -> Tensor | None:
    """The same for `weights`, with `p` rounded to 1/256: one random byte per weight is ten times as fast as a float."""
    if not p:
        return None
    few = round(256 * p)
    words = torch.randint(-(2**63), 2**63 - 1, (-(-weights.numel() // 8),), device=weights.device)
    keep = words.view(torch.uint8)[: weights.numel()].view_as(weights) >= few
    return keep * (256 / (256 - few))
