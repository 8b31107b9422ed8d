"""Shards: parts of a batch for data parallelism on threads, each with its own forward and backward pass.

The number of shards is part of the recipe, so that results don't depend on the number of threads.
Shapes: T time steps, B sequences of a batch, b of a shard.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from charrnn.network.char_rnn import CharRNN, Masks, State
from charrnn.training.batches import PAD
from charrnn.training.threads import Threads


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Sequences that one thread trains on."""

    inputs: Tensor  # (T, b) ids
    targets: Tensor  # (T, b) ids, or indices of candidates; PAD is ignored
    state: State  # before the first step
    masks: Masks
    candidates: Tensor | None = None  # (K,) ids, the same for all shards
    correction: Tensor | None = None  # (K,) added to their logits

    def cut(self, count: int) -> list["Shard"]:
        """Cut into `count` shards, or fewer if there are fewer sequences. Their sizes differ by at most one."""
        parts = cut_batch(self.inputs.shape[1], count)
        return [self._part(part) for part in parts] if len(parts) > 1 else [self]

    def _part(self, part: slice) -> "Shard":
        return Shard(
            inputs=self.inputs[:, part].contiguous(),
            targets=self.targets[:, part].contiguous(),
            state=cut_state(self.state, part),
            masks=[(of_weights, None if of_units is None else of_units[part]) for of_weights, of_units in self.masks],
            candidates=self.candidates,
            correction=self.correction,
        )


@dataclass(frozen=True)
class ShardGradients:
    """Results of a shard."""

    loss: Tensor  # summed cross-entropy in nats, times `scale`
    gradients: tuple[Tensor, ...]  # of the loss, for each parameter
    state: State  # after the last time step


def backpropagate(
    model: CharRNN, parameters: Sequence[Tensor], scale: float, dtype: torch.dtype, shard: Shard
) -> ShardGradients:
    """Run `model` over a shard, forward and backward, without changing it. `dtype` is the precision of matrix products."""
    logits, state = model(shard.inputs, shard.state, shard.masks, dtype, shard.candidates)
    if shard.correction is not None:
        logits = logits + shard.correction
    flat = logits.flatten(0, 1), shard.targets.flatten()
    loss = functional.cross_entropy(*flat, ignore_index=PAD, reduction="sum") * scale
    return ShardGradients(loss.detach(), torch.autograd.grad(loss, parameters), state)


def cut_batch(batch_size: int, count: int) -> list[slice]:
    """Cut a batch into `count` parts, or fewer if it has fewer sequences. Their sizes differ by at most one."""
    count = min(count, batch_size)
    bounds = [k * batch_size // count for k in range(count + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]


def cut_state(state: State, part: slice) -> State:
    """The state of some sequences."""
    return [tuple(tensor[part] for tensor in layer) for layer in state]


def join_states(states: Sequence[State]) -> State:
    """Join the states of all shards into that of the whole batch."""
    if len(states) == 1:
        return states[0]
    return [tuple(torch.cat(parts) for parts in zip(*layer, strict=True)) for layer in zip(*states, strict=True)]


def measure_window(model: CharRNN, shape: tuple[int, int], threads: Threads, shards: int, dtype: torch.dtype) -> list[float]:
    """Time five forward and backward passes over a batch of `shape` (T, B), in seconds. Call it inside `with threads`."""
    ids = torch.zeros(shape, dtype=torch.int64, device=model.softmax.weight.device)
    state = model.initial_state(shape[1])
    cut = Shard(inputs=ids, targets=ids, state=state, masks=model.draw_masks(shape[1], 0.0, 0.0)).cut(shards)
    learn = partial(backpropagate, model, list(model.parameters()), 1.0, dtype)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        results = threads.map(learn, cut)
        results[0].loss.item()  # waits for a GPU
        took.append(time.perf_counter() - began)
    return took
