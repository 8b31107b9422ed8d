"""Try training recipes: a trial is a few settings `name=value` and trains for a fixed number of steps.

    python benchmarks/recipe.py TEXT [NAME=VALUE]... [--trials FILE] [--validation FILE]

Prints a row of a Markdown table for each trial: its settings, the loss on the validation text and the training loss (nats per
character), steps, seconds, characters per second. FILE holds a trial per line; what follows a "|" or a "#" is ignored.
Settings not named are as below. Trials to be compared at equal time need steps fitted to the speed of each.
"""

import argparse
import contextlib
import dataclasses
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from charrnn.commands.train import keep_memory
from charrnn.errors import CharrnnError
from charrnn.network import optimizer
from charrnn.options import Options, Recipe
from charrnn.training import batches, learner, schedule
from charrnn.training.data import Dataset, load_dataset
from charrnn.training.device import Machine, pick_precision
from charrnn.training.distributed import ALONE
from charrnn.training.events import DivergedError
from charrnn.training.threads import Threads


def setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Trial:
    """All settings of a trial."""

    steps: int = setting(2000, "number of steps")
    seed: int = setting(0, "random seed")
    threads: int = setting(1, "number of threads")
    precision: str = setting("auto", "of matrix products: auto, bfloat16 or float32")
    # the network
    cell: str = setting("lstm", "lstm, gru or rnn")
    L: int = setting(1, "layers")
    H: int = setting(256, "units in each layer")
    E: int = setting(32, "size of the embedding; 0: one-hot")
    res: int = setting(1, "1: each layer but the first adds its input to its output; 0: plain layers")
    # batches
    B: int = setting(32, "batch size")
    T: int = setting(48, "sequence length")
    fresh: float = setting(50.0, "steps between two resets of a sequence's state, on average; 0: none")
    # the optimizer
    muon: float = setting(0.04, "Muon's highest learning rate; 0: Adam trains all matrices")
    adam: float = setting(0.01, "Adam's highest learning rate")
    b1: float = setting(0.9, "Adam's decay of the mean gradient")
    b2: float = setting(0.99, "Adam's decay of the mean square")
    mom: float = setting(0.95, "Muon's momentum")
    its: int = setting(3, "iterations of Newton-Schulz")
    lazy: int = setting(4, "steps between two updates of Muon's direction")
    mwd: float = setting(0.0, "weight decay of Muon's matrices")
    clip: float = setting(1.0, "largest norm of the gradient")
    warm: float = setting(0.02, "fraction of the steps in which the learning rate rises")
    # dropout
    drop: float = setting(0.0, "dropout of units between layers and before the softmax")
    wdrop: float = setting(0.0, "dropout of recurrent weights")

    @classmethod
    def parse(cls, words: list[str]) -> "Trial":
        """Raises: ValueError for a word that is no setting, or a bad value."""
        kinds: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for word in words:
            name, _, value = word.partition("=")
            if name not in kinds:
                raise ValueError(f"{word}: there is no setting {name}")
            values[name] = kinds[name](value)
        return cls(**values)

    def recipe(self) -> Recipe:
        """The trial as a recipe. Raises: CharrnnError if the processor lacks the precision."""
        return Recipe(
            cell=self.cell,
            num_layers=self.L,
            hidden_size=self.H,
            embedding_size=self.E,
            residual=bool(self.res),
            batch_size=self.B,
            seq_length=self.T,
            dropout=self.drop,
            recurrent_dropout=self.wdrop,
            weight_decay=self.mwd,
            learning_rate=self.adam,
            precision=pick_precision(self.precision, cell=self.cell, device="cpu"),
            seed=self.seed,
        )

    def constants(self) -> list[tuple[ModuleType, str, Any]]:
        """The settings that are constants of the program: module, name and value."""
        return [
            (learner, "MUON_RATE", self.muon / self.adam),
            (learner, "MUON_FROM", learner.__dict__["MUON_FROM"] if self.muon else math.inf),
            (learner, "CLIP", self.clip),
            (optimizer, "BETAS", (self.b1, self.b2)),
            (optimizer, "MOMENTUM", self.mom),
            (optimizer, "EVERY", self.lazy),
            (optimizer, "orthogonalize", partial(optimizer.orthogonalize, iterations=self.its)),
            (batches, "RESET_EVERY", self.fresh or math.inf),
            (schedule, "WARM_UP", self.warm or 1e-9),
        ]


def run(trial: Trial, dataset: Dataset) -> list[str]:
    """Run a trial. Returns: the numbers of its row."""
    with contextlib.ExitStack() as stack:
        for module, name, value in trial.constants():
            stack.enter_context(mock.patch.object(module, name, value))
        recipe, machine = trial.recipe(), Machine(threads=Threads(trial.threads))
        model = learner.Learner(dataset, recipe, machine)
        windows = batches.make_batches(dataset.ids, recipe)
        stack.enter_context(machine.threads)
        loss, characters, began = 0.0, 0, time.perf_counter()
        for step in range(trial.steps):
            batch = windows[step]
            rate = schedule.anneal(trial.adam, fraction=step / trial.steps, step=step)
            try:
                bits = model.step(batch, number=step + 1, learning_rate=rate)
            except DivergedError:
                return ["diverged", "", f"{step:,}", "", ""]
            loss += (bits - loss) * max(0.02, 1 / (step + 1))
            characters += batch.characters
        seconds = time.perf_counter() - began
        losses = [f"{bits * math.log(2):.4f}" for bits in (model.validate(), loss)]
    return [*losses, f"{trial.steps:,}", f"{seconds:.1f}", f"{characters / seconds:,.0f}"]


def trials(path: Path) -> list[list[str]]:
    """The settings on each line that is not empty."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [words for line in lines if (words := line.split("#")[0].split("|")[0].split())]


def main() -> None:
    settings = [f"  {f'{field.name}={field.default}':16} {field.metadata['help']}" for field in dataclasses.fields(Trial)]
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="\n".join(["settings:", *settings]), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("words", nargs="*", metavar="NAME=VALUE", help="a trial")
    parser.add_argument("--trials", type=Path, metavar="FILE", help="more trials, one per line")
    parser.add_argument("--validation", metavar="FILE", help="the validation text [the last tenth of TEXT]")
    asked = parser.parse_intermixed_args()
    wanted = [*([asked.words] if asked.words or not asked.trials else []), *(trials(asked.trials) if asked.trials else [])]
    try:
        rows = [(" ".join(words), Trial.parse(words)) for words in wanted]
    except ValueError as error:
        parser.error(str(error))
    keep_memory()
    try:
        options = Options(validation=asked.validation)
        dataset = load_dataset([asked.text], options=options, base=None, watch=None, group=ALONE)
        print("| trial | val | train | steps | seconds | characters/s |\n| --- | --- | --- | --- | --- | --- |")
        for name, trial in rows:
            print(f"| {name} | {' | '.join(run(trial, dataset))} |", flush=True)
    except CharrnnError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
