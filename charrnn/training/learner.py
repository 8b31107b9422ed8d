"""The learner: network, optimizer and carried hidden state. A batch and a learning rate go in, the loss comes out.

This module knows nothing of files or the schedule. Shapes: T time steps, B sequences of this rank, V vocabulary size.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from charrnn.checkpoint import Tensors
from charrnn.errors import CharrnnError
from charrnn.inference.score import score
from charrnn.network.char_rnn import CharRNN, State
from charrnn.network.config import Config
from charrnn.network.optimizer import Optimizer
from charrnn.options import Recipe
from charrnn.text.vocabulary import Vocabulary
from charrnn.training.batches import Batch
from charrnn.training.data import Dataset
from charrnn.training.device import Machine, can_run_bfloat16, random_state, set_random_state
from charrnn.training.events import DivergedError, StopError
from charrnn.training.recipe import MUON_FROM, count_shards
from charrnn.training.sampled_softmax import SampledSoftmax
from charrnn.training.shards import Shard, backpropagate, cut_batch, cut_state, join_states, measure_window

MUON_RATE = 4.0  # Muon's learning rate, as a multiple of Adam's
CLIP = 1.0  # largest norm of the gradient (gradient clipping, Pascanu et al. 2013)
DIVERGED = 8.0  # a loss of this many times log V, or not a number, means that the run has diverged
LN2 = math.log(2)


class Learner:
    """Trains a network on one text. Raises: CharrnnError if a batch has fewer sequences than there are ranks."""

    def __init__(self, dataset: Dataset, recipe: Recipe, machine: Machine):
        group = machine.group
        if recipe.batch_size < group.size:
            cure = "use a larger --batch-size, a longer text or fewer ranks"
            raise CharrnnError(f"a batch of {recipe.batch_size} can't be shared by {group.size} ranks; {cure}")
        self.dataset = dataset
        self.recipe = recipe
        self.group = group
        self.threads = machine.threads
        self.device = torch.device(machine.device)
        length = recipe.seq_length if dataset.records is None else len(dataset.ids) / len(dataset.records)
        shards = recipe.shards or count_shards(recipe, length)  # 0: the run was started by an earlier version
        self.shards = max(1, shards // group.size) if self.device.type == "cpu" else 1  # of this rank
        self.dtype = torch.float32  # of matrix products
        self.notes: list[str] = []  # for the user
        if recipe.precision == "bfloat16" and can_run_bfloat16(recipe.cell, machine.device):
            self.dtype = torch.bfloat16
        elif recipe.precision == "bfloat16":  # the run was started on another machine
            self.notes.append("this processor can't run an LSTM in bfloat16, as the run did before; it continues in float32")
        torch.manual_seed(recipe.seed)
        sizes = (recipe.num_layers, recipe.hidden_size, recipe.embedding_size)
        self.model = CharRNN(Config(len(dataset.vocabulary), recipe.cell, *sizes, recipe.residual))
        self.model.init_output_bias(torch.from_numpy(dataset.counts))
        self.model.to(self.device)
        self.softmax = SampledSoftmax.of(dataset.counts)  # None: softmax over the whole vocabulary
        # Muon trains the matrices from hidden units to gates: all but the first layer's, whose input is the embedding.
        gates = [matrix for layer in self.model.layers for matrix in layer.all_weights[0][:2]]
        matrices = gates[1:] if recipe.hidden_size >= MUON_FROM else []
        others = [p for p in self.model.parameters() if not any(p is matrix for matrix in matrices)]
        self.optimizer = Optimizer(matrices, others, self.dtype, self.shards, self.threads.map)
        self.parameters = [*matrices, *others]
        mine = group.part(recipe.batch_size)
        sequences = mine.stop - mine.start
        self.carried: State = self.model.initial_state(sequences) if recipe.records is None else []  # from batch to batch
        self.validation_blocks = dataset.validation_blocks(group)
        self._stop: Callable[[], bool] = lambda: False  # returns whether to interrupt the validation
        if group.rank:  # all ranks have the same weights but draw different dropout masks
            self.seed(0)

    def seed(self, step: int) -> None:
        """Seed the random generator of dropout from the run's seed, this rank and the step."""
        seeds = np.random.SeedSequence([self.recipe.seed, self.group.rank, step])
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def step(self, batch: Batch, number: int, learning_rate: float) -> float:
        """Train on one batch, as step `number` (from 1). Returns: bits per character. Raises: DivergedError, with no change."""
        before = self.carried
        shard = self._prepare(batch)
        scale = self.group.size / batch.characters  # so that the mean over ranks is the mean over all characters
        learn = partial(backpropagate, self.model, self.parameters, scale, self.dtype)
        first, *others = self.threads.map(learn, shard.cut(self.shards))
        loss, gradients = first.loss, first.gradients
        for other in others:  # added in a fixed order, so that results are reproducible
            loss = loss + other.loss
            for gradient, part in zip(gradients, other.gradients, strict=True):
                gradient.add_(part)
        if self.recipe.records is None:
            self.carried = join_states([part.state for part in (first, *others)])
        if loss >= DIVERGED * math.log(len(self.dataset.vocabulary) + 1):
            gradients[0].fill_(math.nan)  # averaging spreads it to all ranks
        self.group.average(gradients)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        if not math.isfinite(norm):
            self.carried = before
            raise DivergedError(number - 1)
        if norm > CLIP:
            for gradient in gradients:
                gradient.mul_(CLIP / norm)
        for p, gradient in zip(self.parameters, gradients, strict=True):
            p.grad = gradient
        muon_rate = MUON_RATE * learning_rate
        self.optimizer.step(number, rate=learning_rate, muon_rate=muon_rate, decay=self.recipe.weight_decay)
        return loss.item() / LN2

    def averaging_notes(self, shape: tuple[int, int]) -> list[str]:
        """A note for the user if averaging the gradients over ranks takes longer than computing them. `shape` is (T, B)."""
        if self.group.size == 1:
            return []
        count = sum(p.numel() for p in self.parameters)
        with self.threads:
            took = min(measure_window(self.model, shape, threads=self.threads, shards=self.shards, dtype=self.dtype))
        work = max(self.group.all_gather(took))
        way = max(self.group.all_gather(self.group.averaging_seconds(torch.zeros(count, device=self.device))))
        if way < work:
            return []
        facts = f"{1000 * work:.3g} ms of work and {1000 * way:.3g} ms to average {count * 4e-6:.3g} MB of gradients"
        cure = "more ranks hardly help; a larger --batch-size, which costs no more averaging, does"
        return [f"a step takes each rank {facts}: {cure}"]

    def _prepare(self, batch: Batch) -> Shard:
        """The whole batch as one shard, with its dropout masks and softmax candidates drawn."""
        x = torch.from_numpy(batch.inputs.astype(np.int64)).to(self.device)  # (T, B)
        y = torch.from_numpy(batch.targets.astype(np.int64)).to(self.device)
        state = self._state_before(batch)
        candidates = correction = None
        if self.softmax is not None:
            candidates, correction, y = self.softmax.draw(y)
        masks = self.model.draw_masks(x.shape[1], self.recipe.dropout, self.recipe.recurrent_dropout)
        return Shard(inputs=x, targets=y, state=state, masks=masks, candidates=candidates, correction=correction)

    def _state_before(self, batch: Batch) -> State:
        """The initial hidden state of a batch: the carried state, or zeros for records and fresh sequences."""
        if batch.shifts:  # sequence k continues from the end of k - 1; a rank's first from the last of the rank before
            ends = self.group.all_gather([[part[-1:].cpu() for part in layer] for layer in self.carried])[self.group.rank - 1]
            self.carried = [
                tuple(torch.cat([end.to(part), part[:-1]]) for end, part in zip(mine, layer, strict=True))
                for mine, layer in zip(ends, self.carried, strict=True)
            ]
        if self.recipe.records is not None:
            return self.model.initial_state(len(batch.fresh))
        if not batch.fresh.any():
            return self.carried
        fresh = torch.from_numpy(batch.fresh)[:, None].to(self.device)
        return [tuple(part.masked_fill(fresh, 0.0) for part in layer) for layer in self.carried]

    def validate(self, stop: Callable[[], bool] = lambda: False) -> float:
        """Bits per character of the validation text, scored by all ranks together. Raises: StopError if one is to `stop`."""
        self._stop = stop
        figures = np.zeros(3)
        try:
            mine = score(self, self.validation_blocks, self.dataset.vocabulary)
            figures[:2] = mine.nats, mine.characters
        except StopError:
            figures[2] = 1
        nats, characters, stopped = self.group.sum(figures)
        if stopped:
            raise StopError
        return float(nats / characters) / LN2

    def initial_state(self, batch_size: int) -> State:
        """The zero state for `batch_size` sequences."""
        return self.model.initial_state(batch_size)

    def forward(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Run the network over `ids` (T, B). Returns: logits (T, B, V) and the state after them. Raises: StopError."""
        if self._stop():
            raise StopError
        x = torch.from_numpy(ids.astype(np.int64)).to(self.device)
        parts = [(x[:, part].contiguous(), cut_state(state, part)) for part in cut_batch(x.shape[1], self.shards)]
        read = self.threads.map(self._read, parts)
        return np.concatenate([logits for logits, _ in read], axis=1), join_states([after for _, after in read])

    @torch.no_grad()
    def _read(self, part: tuple[Tensor, State]) -> tuple[np.ndarray, State]:
        logits, state = self.model(*part, dtype=self.dtype)
        return logits.float().cpu().numpy(), state

    def weights(self) -> Tensors:
        """A copy of the network's weights."""
        return {name: tensor.float().cpu().numpy().copy() for name, tensor in self.model.state_dict().items()}

    def begin_from(self, tensors: Tensors, base: Vocabulary) -> None:
        """Start from the weights of a model with the vocabulary `base`. This text may have more characters.

        A new character's embedding is drawn from the distribution of the others, its output weights are their mean, its bias
        follows its frequency. If the model lacks most of the text's characters, only its recurrent layers are used.
        If it has more layers than this network, the first ones are used.
        """
        own = self.model.state_dict()
        tensors = {name: tensor for name, tensor in tensors.items() if name in own}
        places = self.dataset.vocabulary.encode(base.characters)  # new ids of the base model's characters
        share = self.dataset.counts / max(self.dataset.counts.sum(), 1)
        if not self.dataset.is_known(base):
            tensors = {name: tensor for name, tensor in tensors.items() if tensor.shape == tuple(own[name].shape)}
        for name, tensor in tensors.items():
            values = torch.from_numpy(np.array(tensor))
            for axis, size in enumerate(own[name].shape):
                if values.shape[axis] != size:  # an axis over the vocabulary
                    values = _spread(values, axis, size, torch.from_numpy(places).long(), noisy=name == "embedding.weight")
            own[name].copy_(values)
        new = np.setdiff1d(np.arange(len(share)), places)
        if len(new) and "softmax.bias" in tensors:
            frequency = np.maximum(share, 1 / max(self.dataset.counts.sum(), 1))
            level = np.average(tensors["softmax.bias"] - np.log(frequency[places]), weights=frequency[places])
            own["softmax.bias"][new] = torch.from_numpy(np.log(frequency[new]) + level).float().to(self.device)

    def state_dict(self) -> Tensors:
        """The tensors of the state file: weights, optimizer moments, carried states and random generators of all ranks."""
        mine = {name: (t.float() if t.is_floating_point() else t).cpu().numpy() for name, t in self._tensors().items()}
        carried = [name for name in mine if name.startswith("carried.")]
        generator = random_state(self.device).numpy()
        ranks = self.group.all_gather(({name: mine[name] for name in carried}, generator))
        joined = {name: np.concatenate([parts[name] for parts, _ in ranks]) for name in carried}
        return mine | joined | {_generator(rank): state for rank, (_, state) in enumerate(ranks)}

    def load_state_dict(self, tensors: Tensors, step: int) -> list[str]:
        """Load the `state_dict` of `step`. Returns: notes. Raises: ValueError or RuntimeError if it does not fit."""
        self.carried = [tuple(part.clone() for part in layer) for layer in self.carried]
        mine = self._tensors()
        size = sum(name.startswith("generator") for name in tensors)
        names = mine.keys() | {_generator(rank) for rank in range(max(1, size))}
        if names != tensors.keys():
            raise ValueError(f"tensor {min(names ^ tensors.keys())!r} is missing or unknown")
        for name, tensor in mine.items():
            saved = torch.from_numpy(np.array(tensors[name]))
            if name.startswith("carried.") and len(saved) == self.recipe.batch_size:
                saved = saved[self.group.part(len(saved))]
            if saved.shape != tensor.shape:
                raise ValueError(f"tensor {name!r} is {tuple(saved.shape)}, not {tuple(tensor.shape)}")
            tensor.data.copy_(saved)
        if size == self.group.size:
            set_random_state(torch.from_numpy(np.array(tensors[_generator(self.group.rank)])), self.device)
            return []
        self.seed(step)  # saved by another number of ranks: dropout masks can't be the same
        before, now = ("one process" if count == 1 else f"{count} ranks" for count in (size, self.group.size))
        dropped = bool(self.recipe.dropout or self.recipe.recurrent_dropout)
        differs = "rounding and dropout masks differ" if dropped else "rounding differs"
        return [f"the run was saved with {before} and continues with {now}: batches and states are unchanged; {differs}"]

    def _tensors(self) -> dict[str, torch.Tensor]:
        """This rank's tensors by their names in the state file."""
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.tensors()}
        tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        return tensors | {f"carried.{i}.{j}": part for i, layer in enumerate(self.carried) for j, part in enumerate(layer)}


def _spread(tensor: Tensor, axis: int, size: int, places: Tensor, noisy: bool) -> Tensor:
    """Enlarge `axis` of `tensor` to `size`: old slices go to `places`, new ones are their mean, plus noise if `noisy`."""
    mean = tensor.mean(axis, keepdim=True)
    shape = [*tensor.shape]
    shape[axis] = size
    filled = mean.expand(shape).clone()
    if noisy:
        filled += tensor.std(axis, keepdim=True) * torch.randn(shape)
    return filled.index_copy(axis, places, tensor)


def _generator(rank: int) -> str:
    """The name of a rank's random generator in the state file."""
    return f"generator.{rank}" if rank else "generator"
