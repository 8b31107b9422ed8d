"""A training run: reads text, writes a model file. It yields events (`events.py`) and prints nothing.

A `Run` holds a dataset, a learner and a folder, and follows a schedule. `charrnn.train` wraps it in one Python call.
torch is imported after the text is read, so that unusable input is reported at once.
"""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from charrnn.checkpoint import RECORD_HASHES, Tensors, damaged, is_sound, read_model, read_state
from charrnn.headers import Counters, Json, Metrics, ModelHeader, Origin, StateHeader, Training
from charrnn.inference.model import Model, load, preview
from charrnn.options import Options, Recipe
from charrnn.run_folder import STATE, RunFolder, require_unused
from charrnn.text.reading import Watch
from charrnn.training.batches import make_batches
from charrnn.training.data import Dataset, load_dataset, rebuild_dataset
from charrnn.training.distributed import ALONE, Group, find_job
from charrnn.training.events import DivergedError, End, Event, Progress, Replan, Sample, Setback, StopError, Validation
from charrnn.training.schedule import Schedule
from charrnn.training.sources import Sources, move, name_run, name_sources, reload_text

if TYPE_CHECKING:
    from charrnn.training.device import Machine, Plan

SETBACKS = 3  # most times that a run returns to its saved state after the loss diverged
SETBACK_FACTOR = 0.25  # of the learning rate, at each setback

Stop = Callable[[], bool]  # returns whether the run should stop
Events = Generator[Event, None, None]


class Run:
    """A training run in a folder. Make one with `create` or `resume`, then iterate over `events` to train."""

    def __init__(self, folder: RunFolder, dataset: Dataset, recipe: Recipe, origin: Origin, machine: "Machine"):
        self.folder = folder
        self.dataset = dataset
        self.origin = origin
        self.machine = machine
        self.group = machine.group
        self._begin(recipe)
        self.plan: Plan | None = None  # chose the recipe; None for a resumed run
        self.history: list[Metrics] = []
        self.notes = list(self.learner.notes)  # for the user
        self.save_seconds = 0.0  # how long the last save took

    def _begin(self, recipe: Recipe) -> None:
        """Make an untrained network and the batches to train it on."""
        from charrnn.training.learner import Learner

        text = self.dataset.ids if self.dataset.records is None else self.dataset.records
        self.recipe = recipe
        self.batches = make_batches(text, recipe=recipe, group=self.group)
        self.learner = Learner(self.dataset, recipe, self.machine)
        self.counters = Counters(train_bits=math.log2(len(self.dataset.vocabulary)))
        self.header = ModelHeader(
            config=self.learner.model.config,
            vocabulary=self.dataset.vocabulary.characters,
            start=self.dataset.start,
            unknown=self.dataset.vocabulary.unknown is not None,
            records=recipe.records,
        )

    @classmethod
    def create(
        cls,
        sources: Sources,
        options: Options,
        out: str | Path | None = None,
        init_from: str | Path | None = None,
        force: bool = False,
        watch: Watch | None = None,
        group: Group = ALONE,
    ) -> Self:
        """Read the text, choose the settings that `options` leave open, and make the run's folder (on rank 0).

        The folder is `out`, or `runs/NAME` after the first source, with a number added if that has a run; with `force` the
        old run is replaced. `watch` is called with the progress of reading. Raises: CharrnnError for unusable input.
        """
        if out is not None and not force and group.rank == 0:
            require_unused(Path(out))
        base = group.broadcast(lambda: load(init_from) if init_from is not None else None)
        dataset = load_dataset(sources, options=options, base=base, watch=watch, group=group)
        options = replace(options, validation=dataset.text.validation, records=dataset.kind)
        from charrnn.training.device import Machine, Plan

        machine = Machine.pick(options.device, group, options.threads)
        text_hash, files = dataset.text.corpus_hash, dataset.text.files
        with machine.threads, contextlib.ExitStack() as failing:
            plan = Plan(options, dataset, base=base, machine=machine)
            recipe, notes = plan.choose()
            init_from = None if base is None else base.reference
            origin = Origin(sources=name_sources(sources), corpus_hash=text_hash, options=options, init_from=init_from)
            folder = group.broadcast(lambda: RunFolder.claim(out, name=name_run(sources), force=force, texts=files))
            failing.callback(folder.discard)
            run = cls(folder, dataset, recipe=recipe, origin=origin, machine=machine)
            run.plan = plan
            if base is not None and base.path is not None:
                run.learner.begin_from(read_model(base.path)[0], base.vocabulary)
            run.notes = dataset.text.notes + notes + run.batches.notes
            run.notes += run.learner.averaging_notes(run.batches[0].inputs.shape)
            group.broadcast(lambda: folder.save_manifest(text_hash, files))
            failing.pop_all()
        return run

    @classmethod
    def resume(
        cls,
        out: Path,
        sources: Sources = (),
        device: str = "auto",
        threads: int | None = None,
        watch: Watch | None = None,
        group: Group = ALONE,
    ) -> Self:
        """Load the run in `out` from its last saved state. Without `sources` it reads the files that it was started with.

        The number of ranks may differ from before. Raises: CharrnnError if there is no saved state, or the text has changed.
        """
        folder = RunFolder(out)
        with contextlib.ExitStack() as failing:
            failing.callback(folder.unlock)
            tensors, header = group.broadcast(folder.open_state)
            text = reload_text(out, header.origin, sources=sources, watch=watch, group=group)
            from charrnn.training.device import Machine

            try:
                dataset = rebuild_dataset(text, header)
                machine = Machine.pick(device, group, threads)
                origin = move(header.origin, sources)
                with machine.threads:
                    run = cls(folder, dataset, recipe=header.recipe, origin=origin, machine=machine)
                    run._restore(tensors, header)
                if origin != header.origin:
                    group.broadcast(lambda: folder.save_move(origin, text.files))
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise damaged(out / STATE, error) from None
            failing.pop_all()
            return run

    @property
    def step(self) -> int:
        return self.counters.step

    @property
    def epochs(self) -> float:
        """Epochs trained so far."""
        return self.step / self.batches.per_epoch

    @property
    def highest_rate(self) -> float:
        """The peak of the learning-rate schedule, after any setbacks."""
        return self.recipe.learning_rate * SETBACK_FACTOR**self.counters.setbacks

    def events(self, options: Options, started: float | None = None, stop: Stop = lambda: False) -> Events:
        """Train for the length in `options` and yield events. The state is saved from time to time.

        `started` is the `time.monotonic()` at which the time of `--for` starts; `stop` is called at each step. If the loss
        diverges, the run returns to its saved state; after SETBACKS times, or if saving fails: CharrnnError (status 1).
        """
        if self.group.rank == 0:
            self.folder.lock()
        try:
            with self.machine.threads:
                yield from self._train(self._schedule(options), time.monotonic() if started is None else started, stop)
        finally:
            self.folder.unlock()

    def _train(self, schedule: Schedule, started: float, stop: Stop) -> Iterator[Event]:
        """The training loop."""
        self.save()  # fails at once if nothing can be saved, and completes the files of a run killed while it saved
        clock, stopping = self._synchronize(started, stop)
        schedule.begin(clock, self.counters, save_seconds=self.save_seconds)
        while True:
            self.counters.seconds = schedule.seconds_spent
            if schedule.is_progress_due:
                yield self._report(schedule)
            try:
                if schedule.is_validation_due:
                    yield self._validate(schedule, stop)
                    clock, stopping = self._synchronize(started, stop)
                    schedule.note_validation(clock, self.save_seconds)
                elif schedule.is_save_due:
                    self.save()
                    schedule.note_save(self.save_seconds)
                if schedule.is_over or stopping:
                    if schedule.is_over and schedule.validated_at != self.step:
                        yield self._validate(schedule, stop)
                    break
                if schedule.is_plan_due:
                    yield from self._replan(schedule)
                if schedule.is_sample_due:
                    yield Sample(step=self.step, text=self._write_sample())
                    clock, stopping = self._synchronize(started, stop)
                    schedule.note_sample(clock)
                self._learn(schedule)
            except StopError:
                break
            except DivergedError:
                yield self._set_back()
            clock, stopping = self._synchronize(started, stop)
            schedule.advance(clock, self.counters)
        clock, stopping = self._synchronize(started, stop)
        self.counters.seconds = schedule.earlier + (clock if schedule.learned else 0.0)  # a run already complete adds no time
        self.save()
        if self.step and not self.history:  # stopped before its first validation
            self.group.broadcast(lambda: self._save_model(self._metrics(schedule, None)))
        why = "interrupted" if stopping else schedule.why
        yield End(why=why, step=self.step, epochs=self.epochs, seconds=self.counters.seconds)

    def _schedule(self, options: Options) -> Schedule:
        """Make the schedule for the length in `options`, and record that length as the run's."""
        length: Json = {"seconds": options.seconds, "epochs": options.epochs, "steps": options.steps}
        same = length.items() <= vars(self.origin.options).items()
        if not same:  # the user asked for more: the limit on epochs no longer holds
            self.recipe = replace(self.recipe, max_epochs=0.0)
        self.origin = replace(self.origin, options=replace(self.origin.options, **length))
        last = self.history[-1] if self.history else None
        spent, per_epoch = self.counters.seconds, self.batches.per_epoch
        return Schedule.of(options, self.recipe, self.dataset, per_epoch=per_epoch, earlier=spent, last=last, same=same)

    def _replan(self, schedule: Schedule) -> Iterator[Event]:
        """Restart with other sizes if the first seconds show that the speed test was far off."""
        schedule.note_plan()
        if self.plan is None or (revised := self.plan.revise(self.recipe, schedule.characters_per_second)) is None:
            return
        self._begin(revised[0])
        schedule.begin_again(self.recipe.max_epochs * self.batches.per_epoch or math.inf)
        self.save()
        yield Replan(ratio=revised[1], recipe=self.recipe)

    def _synchronize(self, started: float, stop: Stop) -> tuple[float, bool]:
        """Average the training bits of all ranks. Returns: rank 0's seconds so far, and whether one rank should stop."""
        clock = time.monotonic() - started if self.group.rank == 0 else 0.0
        stopping, train_bits, seconds = self.group.sum(np.array([stop(), self.counters.train_bits / self.group.size, clock]))
        self.counters.train_bits = float(train_bits)
        return float(seconds), bool(stopping)

    def _learn(self, schedule: Schedule) -> None:
        """Train on one batch."""
        batch = self.batches[self.step]
        bits = self.learner.step(batch, number=self.step + 1, learning_rate=schedule.learning_rate(self.highest_rate))
        self.counters.step += 1
        self.counters.characters += batch.characters
        self.counters.train_bits += (bits - self.counters.train_bits) * max(0.02, 1 / self.step)

    def _report(self, schedule: Schedule) -> Progress:
        schedule.note_progress()
        return Progress(
            fraction=min(schedule.fraction, 1.0),
            step=self.step,
            characters=self.counters.characters,
            seconds=self.counters.seconds,
            seconds_left=schedule.seconds_left,
            characters_per_second=schedule.characters_per_second,
            train_bits=self.counters.train_bits,
            learning_rate=schedule.learning_rate(self.highest_rate),
        )

    def _validate(self, schedule: Schedule, stop: Stop) -> Validation:
        """Score the validation text, write a sample, and save. Raises: StopError if a rank is asked to stop."""
        bits = self.learner.validate(stop) if len(self.dataset.validation_ids) else None
        metrics = self._metrics(schedule, bits)
        if not math.isfinite(metrics.bits):
            raise DivergedError(self.step)
        self.history.append(replace(metrics, sample=self._write_sample()))
        self.save()
        return Validation(metrics=self.history[-1], best=self._is_best(), fraction=min(schedule.fraction, 1.0))

    def _write_sample(self) -> str:
        """Sample a line from the network. Raises: DivergedError."""
        weights = self._weights()
        return self.group.broadcast(lambda: preview(Model(weights, self.header), self.step))

    def _metrics(self, schedule: Schedule, bits: float | None) -> Metrics:
        """The metrics at this step; `bits` is the validation loss in bits per character."""
        return Metrics(
            step=self.step,
            characters=self.counters.characters,
            seconds=round(self.counters.seconds, 3),
            epochs=round(self.epochs, 3),
            train_bits_per_character=self.counters.train_bits,
            validation_bits_per_character=bits,
            learning_rate=schedule.learning_rate(self.highest_rate),
        )

    def _set_back(self) -> Setback:
        """Return to the saved state, with a smaller learning rate. Raises: DivergedError after SETBACKS times."""
        if self.counters.setbacks == SETBACKS:
            raise DivergedError(self.step)
        reached = self.counters
        self._restore(*self.group.broadcast(lambda: read_state(self.folder.path / STATE)))
        self.counters.setbacks = reached.setbacks + 1
        self.save()
        return Setback(reached=reached.step, step=self.step, learning_rate=self.highest_rate)

    def save(self) -> None:
        """Write the state, then the model if this step is the best so far, then the history.

        If the run is killed in between, the first `save` of the resumed run writes the rest from the state.
        Raises: CharrnnError (status 1) if a weight is not finite or a file can't be written.
        """
        began = time.monotonic()
        self._weights()  # raises before anything is written
        state = self.learner.state_dict()
        self.save_seconds = self.group.broadcast(lambda: self._write(state, began))

    def _write(self, state: Tensors, began: float) -> float:
        """Write all files. Returns: the seconds since `began`."""
        job = find_job()
        header = StateHeader(
            model=self.header, origin=self.origin, recipe=self.recipe, counters=self.counters, history=self.history, job=job
        )
        self.folder.save_state(state, header)
        if self._is_best():
            self._save_model(self.history[-1])
        self.folder.save_history(self.history)
        return time.monotonic() - began

    def _save_model(self, metrics: Metrics) -> None:
        training = Training(origin=self.origin, recipe=self.recipe, metrics=metrics)
        hashes = self.dataset.record_hashes
        tensors = self._weights() | ({} if hashes is None else {RECORD_HASHES: hashes})
        self.folder.save_model(tensors, replace(self.header, training=training))

    def _is_best(self) -> bool:
        """Whether this step was validated and has the lowest loss so far."""
        bits = [metrics.bits for metrics in self.history]
        return bool(bits) and self.history[-1].step == self.step and bits[-1] < min(bits[:-1], default=math.inf)

    def _weights(self) -> Tensors:
        """A copy of the weights. Raises: DivergedError if one is not finite or too large."""
        weights = self.learner.weights()
        if not all(is_sound(tensor) for tensor in weights.values()):
            raise DivergedError(self.step)
        return weights

    def _restore(self, tensors: Tensors, header: StateHeader) -> None:
        """Load a saved state. Raises: ValueError or RuntimeError if it does not belong to this run."""
        self.counters = replace(header.counters)
        self.history = list(header.history)
        self.notes += self.learner.load_state_dict(tensors, self.step)
