"""The network that learns: characters as one-hot vectors or embeddings, stacked recurrent cells, a softmax layer.

For each character id it gives the logits of the next character. It knows nothing of text, files or training.
Letters: T time steps, B batch, D input size of a layer, H hidden size, V vocabulary, E embedding size.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.network.cells import CELLS
from charrnn.network.config import Config
from charrnn.network.kernels import KERNELS

State = list[tuple[Tensor, ...]]  # for each layer its cell's states, (h,) or (h, c); each (B, H)
Masks = list[
    tuple[Tensor | None, Tensor | None]
]  # for each layer what dropout multiplies its W_hh (G, H) and outputs (B, H) by


class Layer(Protocol):
    """A layer's module: it has its weights where torch's own modules have them, and runs them from the zero state."""

    @property
    def all_weights(self) -> Sequence[Sequence[Tensor]]: ...  # [[weight_ih, weight_hh, bias_ih, bias_hh]]
    def __call__(self, x: Tensor) -> tuple[Tensor, Any]: ...  # (T, B, D) -> (T, B, H) and the last state


# For each kind of cell: the module, and the operator that runs a layer from any state with any weights, with the arguments
# of torch.gru: inputs (T, B, D), state (1, B, H), weights, options. It returns hidden states (T, B, H) and the last state.
MODULES: dict[str, Callable[[int, int], Layer]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
OPERATORS: dict[str, Callable[..., tuple[Tensor, ...]]] = {"lstm": torch.lstm, "gru": torch.gru, "rnn": torch.rnn_tanh}


class CharRNN(nn.Module):
    """A character-level language model: p(next character | the characters so far)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.cell = CELLS[config.cell]
        V, H = config.vocabulary_size, config.hidden_size
        width = config.embedding_size or V
        self.embedding = nn.Embedding(V, width) if config.embedding_size else None
        layers = [MODULES[config.cell](H if i else width, H) for i in range(config.num_layers)]
        self.layers: list[Layer] = nn.ModuleList(layers)  # type: ignore  # a list to whoever reads it
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
            if self.cell.forget_gate is not None:
                nn.init.ones_(b_ih.data.split(H)[self.cell.gates.index(self.cell.forget_gate)])
        nn.init.zeros_(self.softmax.weight)
        nn.init.zeros_(self.softmax.bias)

    def init_output_bias(self, counts: Tensor) -> None:
        """Set the softmax layer's bias to the log of each character's frequency, its `counts` (V,) plus one (Karpathy 2019).

        A bias that has to be learned makes Adam's first steps saturate the cells of deeper layers for good.
        """
        self.softmax.bias.data.copy_(((counts + 1) / (counts + 1).sum()).log())

    def initial_state(self, batch_size: int) -> State:
        """The state before the first character: zeros."""
        zeros = self.softmax.weight.new_zeros(batch_size, self.config.hidden_size)
        return [(zeros,) * len(self.cell.states) for _ in self.layers]

    def draw_masks(self, batch_size: int, dropout: float, recurrent_dropout: float) -> Masks:
        """Draw what a window drops, for all its steps, of B sequences.

        `dropout` is the probability that a unit between layers is dropped (Gal & Ghahramani 2016), `recurrent_dropout` that a
        weight between a layer's hidden states is (Merity et al. 2018).
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
        """Read `ids` (T, B) from `state` on; return logits (T, B, V) and the state after the last id, detached.

        `masks` are those of dropout, see `draw_masks`. `dtype` is the precision of the products (bfloat16 on a processor that
        has it); the logits have the weights' precision. With `candidates`, ids (K,), they are only theirs, (T, B, K).
        """
        dtype = dtype or self.softmax.weight.dtype
        x = None if self.embedding is None else self.embedding(ids)  # (T, B, D); None: the first layer reads one-hot vectors
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
        return logits.add_(bias), new_state  # a bias rounded to bfloat16 errs the same way at every step

    def _run_kernel(
        self, weights: list[Tensor], x: Tensor | None, ids: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A layer by our own kernel: the product with the inputs of all T steps at once, then the recurrence."""
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
        """A layer by torch's own operator: cuDNN's on a GPU and, for the LSTM, oneDNN's on a processor."""
        inputs = functional.one_hot(ids, weights[0].shape[1]).to(state[0].dtype) if x is None else x
        packed = tuple(part[None].contiguous() for part in state)
        hx = packed if len(packed) > 1 else packed[0]
        with torch.autocast(ids.device.type, dtype, enabled=dtype == torch.bfloat16):
            run = OPERATORS[self.config.cell]
            out, *after = run(inputs.contiguous(), hx, weights, True, 1, 0.0, self.training, False, False)
        return out, tuple(part[0].to(state[0].dtype) for part in after)


def _unit_mask(outputs: Tensor, p: float) -> Tensor | None:
    """What drops units of `outputs` (B, H)."""
    return (torch.rand_like(outputs) >= p).to(outputs.dtype) / (1 - p) if p else None


def _weight_mask(weights: Tensor, p: float) -> Tensor | None:
    """What drops a share `p` of `weights`, in whole 256ths: a random byte for each, since floats take ten times as long."""
    if not p:
        return None
    few = round(256 * p)
    words = torch.randint(-(2**63), 2**63 - 1, (-(-weights.numel() // 8),), device=weights.device)
    keep = words.view(torch.uint8)[: weights.numel()].view_as(weights) >= few
    return keep * (256 / (256 - few))
