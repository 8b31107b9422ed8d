"""What a training run keeps: its state, from which it is taken up again, and the model and history that follow from it.

It knows the run's tensors and figures, and not how they come about.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charrnn import checkpoint, run_folder
from charrnn.errors import CharrnnError
from charrnn.network.char_rnn import CharRNN, State
from charrnn.network.optimizer import Optimizer
from charrnn.options import Recipe
from charrnn.run_folder import HISTORY, MODEL, STATE
from charrnn.text.vocabulary import Ids, Vocabulary
from charrnn.training import distributed
from charrnn.training.device import random_state, set_random_state
from charrnn.training.distributed import Group

COUNTS, MEASURES = ("step", "characters", "setbacks"), ("seconds", "train_bits")  # of a run, kept in its state


class DivergedError(CharrnnError):
    """The loss is far beyond a uniform guess's, or it or a weight is no longer finite."""


class Kept:
    """A run's folder and all that goes into it."""

    out: Path
    lock: run_folder.Lock | None
    group: Group
    device: torch.device
    model: CharRNN
    optimizer: Optimizer
    state: State  # of this rank's streams
    recipe: Recipe
    origin: dict[str, Any]
    vocabulary: Vocabulary
    start_character: str
    fingerprint: dict[str, np.ndarray]
    validation_ids: Ids
    history: list[dict[str, Any]]
    notes: list[str]  # for the user, on how it is taken up again
    saving: float  # seconds that the last save took
    step: int
    characters: int
    setbacks: int
    seconds: float
    train_bits: float

    def save(self) -> None:
        """Write the state, then what follows from it: the model where this step is the best so far, and the history.

        A run killed in between has a state from which the next `save`, the first of a resumed run, writes the rest.
        Raises: CharrnnError (status 1) where the network has diverged or a file can't be written.
        """
        began = time.monotonic()
        self._weights()  # held to be sound before anything is written
        place = {name: getattr(self, name) for name in (*COUNTS, *MEASURES)}
        header = self._header() | {
            "origin": self.origin,
            "recipe": self.recipe.to_dict(),
            "place": place,
            "history": self.history,
            "job": distributed.job(),
        }
        tensors = self._saved()

        def write() -> float:
            if self.lock is not None:
                self.lock.check()
            checkpoint.write(self.out / STATE, tensors, header)
            if self._best():
                self._write_model(self.history[-1])
            lines = "".join(json.dumps(line) + "\n" for line in self.history)
            checkpoint.write_atomically(self.out / HISTORY, lines.encode())
            return time.monotonic() - began

        self.saving = self.group.share(write)

    def _best(self) -> bool:
        """Whether the run was validated at this very step, and better than ever before."""
        *earlier, last = self._figures() or [math.inf]
        return bool(self.history) and self.history[-1]["step"] == self.step and all(last < figure for figure in earlier)

    def _figures(self) -> list[float]:
        """What each validation is judged by: the validation text's bits, or without one the training text's."""
        key = "validation_bits_per_character" if len(self.validation_ids) else "train_bits_per_character"
        return [checkpoint.number(record[key]) for record in self.history]

    def _header(self) -> dict[str, Any]:
        header = {
            "config": self.model.config.to_dict(),
            "vocabulary": self.vocabulary.characters,
            "start": self.start_character,
        }
        if self.recipe.records is not None:
            header["records"] = self.recipe.records
        return header if self.vocabulary.unknown is None else header | {"unknown": True}

    def _weights(self) -> dict[str, np.ndarray]:
        """A copy of the weights. Raises: CharrnnError (status 1) where one is not finite or beyond all bounds."""
        weights = {name: tensor.float().cpu().numpy().copy() for name, tensor in self.model.state_dict().items()}
        if not all(checkpoint.sound(tensor) for tensor in weights.values()):
            raise self._diverged()
        return weights

    def _diverged(self) -> CharrnnError:
        return DivergedError(
            f"the loss diverged at step {self.step}; what was saved is whole; take a smaller --learning-rate", 1
        )

    def _seed(self) -> None:
        """Begin the generator that dropout draws from anew, by the seed, this rank and the step."""
        torch.manual_seed(int(np.random.SeedSequence([self.recipe.seed, self.group.rank, self.step]).generate_state(1)[0]))

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Everything of the run's state that is a tensor, under its name in the state file; of the streams, this rank's."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.tensors().items()}
        tensors |= {f"carried.{i}.{j}": part for i, layer in enumerate(self.state) for j, part in enumerate(layer)}
        return tensors

    def _saved(self) -> dict[str, np.ndarray]:
        """What the state file keeps: the tensors, those of the streams of all ranks, and each rank's generator."""
        mine = {name: (t.float() if t.is_floating_point() else t).cpu().numpy() for name, t in self._tensors().items()}
        streams = [name for name in mine if name.startswith("carried.")]
        generator = random_state(self.device).numpy()
        ranks = self.group.meet(({name: mine[name] for name in streams}, generator))
        whole = {name: np.concatenate([parts[name] for parts, _ in ranks]) for name in streams}
        return mine | whole | {_generator(rank): state for rank, (_, state) in enumerate(ranks)}

    def _write_model(self, record: dict[str, Any]) -> None:
        training = {**self.origin, "recipe": self.recipe.to_dict(), **record}
        training.pop("sample", None)  # the history has it
        checkpoint.write(self.out / MODEL, self._weights() | self.fingerprint, self._header() | {"training": training})

    def _restore(self, tensors: dict[str, np.ndarray], header: dict[str, Any]) -> None:
        """Take up a saved state. Raises: KeyError, TypeError, ValueError or RuntimeError where it is not one of this run."""
        place = header["place"]
        self.step, self.characters, self.setbacks = (checkpoint.whole(place[name]) for name in COUNTS)
        self.seconds, self.train_bits = (checkpoint.number(place[name]) for name in MEASURES)
        self.history = list(header["history"])
        for record in self.history:
            checkpoint.whole(record["step"]), checkpoint.number(record["seconds"])
        self._figures()
        self.state = [tuple(part.clone() for part in layer) for layer in self.state]
        mine, size = self._tensors(), sum(name.startswith("generator") for name in tensors)
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
            return
        self._seed()
        ranks = "one process" if self.group.size == 1 else f"{self.group.size} ranks"
        noisy = self.recipe.dropout or self.recipe.recurrent_dropout
        other = "how sums are rounded" + (", and what dropout silences" if noisy else "")
        self.notes.append(
            f"the run was saved by {size} and goes on with {ranks}: the text's streams, their order and their states are the "
            f"same as they would have been; {other}, is not"
        )


def _generator(rank: int) -> str:
    """The name of a rank's generator in the state file."""
    return f"generator.{rank}" if rank else "generator"
