"""The loop: windows of text in, a model file out. It yields events to whoever watches and prints nothing.

`Run.events` advances a run; what it holds is in `run`. `train` is the whole of it as one call for Python.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from charrnn import checkpoint, run_folder
from charrnn.errors import CharrnnError
from charrnn.inference import model
from charrnn.inference.score import score, score_records
from charrnn.options import Options
from charrnn.run_folder import STATE
from charrnn.text import records
from charrnn.training import batches
from charrnn.training.device import keep_memory
from charrnn.training.distributed import join
from charrnn.training.events import Event, Progress, Setback, Validation
from charrnn.training.kept import DivergedError
from charrnn.training.run_state import RunState

WARM_UP = 0.02  # the share of the run in which the learning rate rises
MUON_RATE = 4.0  # Muon's learning rate for each one of Adam's
CLIP = 1.0  # the largest norm of the gradient (Pascanu et al. 2013)
VALIDATIONS = 20  # at most, in a run
SAVE_EVERY = 30.0  # seconds between two saves of the state
SAVING = 50.0  # at least so many times as long between two saves as one takes
KNOWN = 0.02  # bits per character; a text that is learned whole is known by heart then, and a run for a time ends
DIVERGED = 8.0  # uniform guesses' worth: a window with a larger loss, or none that is a number, sets the run back
SETBACKS = 3  # times that a diverged run goes back to its saved state
SMALLER = 0.25  # the learning rate after a setback, as a share of that before
LN2 = math.log(2)


class _StopError(Exception):
    """A validation was asked to end."""


class Run(RunState):
    """A training run at work: `events` advances it."""

    _stop: Callable[[], bool] = staticmethod(lambda: False)  # whether this rank is asked to stop

    def events(
        self, options: Options, started: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Train to the length that `options` ask for, saving as it goes; `stop` is asked at each step.

        `started` is when the clock of `--for` began (`time.monotonic`). A loss that diverges sets the run back to its saved
        state with a smaller learning rate, SETBACKS times at most. Raises: CharrnnError (status 1) when it diverges after
        that, or a file can't be written.
        """
        keep_memory()
        if self.group.rank == 0:
            self.lock = self.lock or run_folder.Lock(self.out)
        try:
            yield from self._events(options, time.monotonic() if started is None else started, stop)
        finally:
            if self.lock is not None:
                self.lock.close()
            self.lock = None

    def _events(self, options: Options, started: float, stop: Callable[[], bool]) -> Iterator[Event]:
        length = {"seconds": options.seconds, "epochs": options.epochs, "steps": options.steps}
        if not length.items() <= self.origin["options"].items():  # another length was asked for: that is how long it goes on
            self.recipe = dataclasses.replace(self.recipe, most_passes=0.0)
        self.origin["options"] |= length
        earlier, budget = self.seconds, options.seconds
        most_steps = self.recipe.most_passes * self.windows.per_epoch or math.inf
        self._started, self._stop = started, stop
        steps = options.steps or (math.ceil(options.epochs * self.windows.per_epoch) if options.epochs else None)
        self.save()  # says at once where nothing can be saved, and completes what a killed run had begun to write
        begun, seen = self._agree(), self.characters
        shown = saved = moment = begun
        taken = 0.0  # seconds that the last validation took

        def per_validation() -> float:
            """Seconds: until one has been measured, a third of what learning so many characters takes, and the softmax's."""
            known, learned = len(self.validation_ids), self.characters - seen
            return taken or 0.1 + known * (len(self.vocabulary) / 1.5e8 + (moment - begun) / max(3 * learned, 1))

        def marks_apart() -> float:
            """Of the VALIDATIONS marks of a run, how many lie between two validations, which take at most a twentieth of the
            time; their saves a fiftieth, at four times what the first one takes, since it has no moments and no model."""
            if budget is None:
                return 1.0
            return max(1.0, VALIDATIONS / budget * max(per_validation() / 0.04, 4 * self.saving / 0.02))

        def fraction(step: int, seconds: float) -> float:
            if steps is not None:
                return step / steps
            assert budget is not None
            if self.train_bits < KNOWN and not len(self.validation_ids):
                return 1.0
            reserve = min(1.1 * per_validation(), 0.2 * budget)
            return max(seconds / max(budget - reserve, 1e-9), step / most_steps)

        last, passed = -1, 0  # step and mark of the last validation
        if self.history:
            last = self.history[-1]["step"]
            passed = int(fraction(last, self.history[-1]["seconds"]) * VALIDATIONS)
        while True:
            self.seconds = earlier + moment
            now = fraction(self.step, self.seconds)
            if moment - shown > 0.2:
                shown = moment
                speed = (self.characters - seen) / (moment - begun)
                left = (1 - now) * (self.seconds / now if now else 0.0)
                yield Progress(min(now, 1.0), self.step, self.characters, self.seconds, left, speed, self.train_bits)
            try:
                if self.step and now < 1 and int(now * VALIDATIONS) - passed >= marks_apart() and last != self.step:
                    passed = int(now * VALIDATIONS)
                    yield self._validate(now)
                    last = self.step
                    saved = self._agree()
                    taken = saved - moment
                elif moment - saved > max(SAVE_EVERY, SAVING * self.saving):
                    self.save()
                    saved = moment
                if (now >= 1 and self.step) or self.stopping:  # one step at least, however short the time
                    break
                self._learn(now)
            except _StopError:
                break
            except DivergedError:
                yield self._set_back()
            moment = self._agree()
        with contextlib.suppress(_StopError):
            if now >= 1 and last != self.step:
                yield self._validate(1.0)
        self.seconds = earlier + self._agree()
        self.save()
        if self.step and not self.history:  # stopped before its first validation, whose model will replace this one
            self.group.share(lambda: self._write_model(self._record(self.learning_rate(now), None)))

    def _agree(self) -> float:
        """What all ranks go by: whether one was asked to stop, the mean of their training bits, and rank 0's clock.

        Returns: the seconds since the run began, in this sitting.
        """
        group, clock = self.group, time.monotonic() - self._started
        ours = group.sum(np.array([self._stop(), self.train_bits / group.size, clock if group.rank == 0 else 0.0]))
        self.stopping, self.train_bits = bool(ours[0]), float(ours[1])
        return float(ours[2])

    def learning_rate(self, fraction: float) -> float:
        """Linear warm-up, then linearly to zero, fitted to the length of the run."""
        rise = min(1.0, fraction / WARM_UP) if self.step else WARM_UP
        return self._highest_rate() * max(rise, 0.1) * (1 - min(fraction, 1.0))

    def _highest_rate(self) -> float:
        return self.recipe.learning_rate * SMALLER**self.setbacks

    def _learn(self, fraction: float) -> None:
        """One window, one step of the optimizer."""
        inputs, targets, begins, moves_on, characters = self.windows[self.step]
        if moves_on:
            self._move_on()
        if self.recipe.records is not None:  # nothing goes from one batch to the next
            state = self.model.initial_state(len(begins))
        elif begins.any():
            fresh = torch.from_numpy(begins)[:, None].to(self.device)
            state = [tuple(part.masked_fill(fresh, 0.0) for part in layer) for layer in self.state]
        else:
            state = self.state
        x = torch.from_numpy(inputs.astype(np.int64)).to(self.device)  # (T, B)
        y = torch.from_numpy(targets.astype(np.int64)).to(self.device)
        noise = self.recipe.dropout, self.recipe.recurrent_dropout
        if self.shortlist is None:
            logits, state = self.network(x, state, *noise, self.dtype)
        else:
            candidates, correction, y = self.shortlist.draw(y)
            logits, state = self.network(x, state, *noise, self.dtype, candidates)
            logits = logits + correction
        if self.recipe.records is None:
            self.state = state
        lost = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=batches.PAD, reduction="sum")
        loss = lost * (self.group.size / characters)  # the mean over ranks is that over all characters
        beyond = loss.detach() >= DIVERGED * math.log(len(self.vocabulary) + 1)
        parameters = [*self.optimizer.matrices, *self.optimizer.others]
        for p in parameters:
            p.grad = None
        loss = loss * torch.where(beyond, torch.nan, 1.0)  # no number on one rank, and so the mean gradient on all
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        if not math.isfinite(norm):
            raise self._diverged()
        if norm > CLIP:
            for gradient in gradients:
                gradient.mul_(CLIP / norm)
        bits = loss.item() / LN2
        rate = self.learning_rate(fraction)
        self.optimizer.step(self.step + 1, rate, MUON_RATE * rate, self.recipe.weight_decay)
        self.step += 1
        self.characters += characters
        self.train_bits += (bits - self.train_bits) * max(0.02, 1 / self.step)

    def _move_on(self) -> None:
        """Each stream goes on from where the one before it has ended, the first one of a rank from the last of another."""
        last = self.group.meet([[part[-1:].cpu() for part in layer] for layer in self.state])[self.group.rank - 1]
        self.state = [
            tuple(torch.cat([end.to(part), part[:-1]]) for end, part in zip(ends, layer, strict=True))
            for ends, layer in zip(last, self.state, strict=True)
        ]

    def _validate(self, fraction: float) -> Validation:
        """Score the validation text, save, with the model if it is the best so far, and let it write a line.

        Raises: _StopError where a rank is asked to stop; nothing has changed then.
        """
        bits = self._validation_bits() if len(self.validation_ids) else None
        record = self._record(self.learning_rate(fraction), bits)
        if not math.isfinite(self.train_bits if bits is None else bits):
            raise self._diverged()
        weights = self._weights()
        record["sample"] = self.group.share(lambda: model.Model(weights, self._header()).preview(self.step))
        self.history.append(record)
        self.save()
        return Validation(record, self._best(), fraction, record["sample"])

    def _validation_bits(self) -> float:
        """Bits per character of the validation text, of which each rank scores its part. Raises: as `_validate`."""

        def forward(ids: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
            if self._stop():
                raise _StopError
            return self._forward(ids, state)

        start = int(self.vocabulary.encode(self.start_character)[0])
        network, known = (forward, self.model.initial_state), (len(self.vocabulary), self.vocabulary.unknown)
        figures = np.zeros(3)
        try:
            if self.recipe.records is None:
                mine = score(*network, self.validation_ids, start, *known, group=self.group)
            else:
                begins, ends = records.bounds(self.validation_ids, start, self.recipe.records)
                bounds = begins[self.group.rank :: self.group.size], ends[self.group.rank :: self.group.size]
                mine = score_records(*network, self.validation_ids, bounds, start, *known)
            figures[:2] = mine.nats, mine.characters
        except _StopError:
            figures[2] = 1
        nats, characters, stopped = self.group.sum(figures)
        if stopped:
            raise _StopError
        return float(nats / characters) / LN2

    def _record(self, rate: float, bits: float | None) -> dict[str, Any]:
        """The line that says where the run stands, with `bits` per character of the validation text."""
        return {
            "step": self.step,
            "characters": self.characters,
            "seconds": round(self.seconds, 3),
            "train_bits_per_character": self.train_bits,
            "validation_bits_per_character": bits,
            "learning_rate": rate,
        }

    @torch.no_grad()
    def _forward(self, ids: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        logits, state = self.model(torch.from_numpy(ids.astype(np.int64)).to(self.device), state, dtype=self.dtype)
        return logits.float().cpu().numpy(), state

    def _set_back(self) -> Setback:
        """Take up the saved state again, with a smaller learning rate. Raises: CharrnnError after SETBACKS times."""
        if self.setbacks == SETBACKS:
            raise self._diverged()
        reached, setbacks = self.step, self.setbacks + 1
        self._restore(*self.group.share(lambda: checkpoint.read_state(self.out / STATE)))
        self.setbacks = setbacks
        self.save()
        return Setback(reached, self.step, self._highest_rate())


def train(
    corpus: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    watch: Callable[[Event], None] = lambda event: None,
    **options: Any,
) -> model.Model:
    """Train a model on files or folders and return the best one, which is also saved in the folder `out`.

    `options` are those of `Options`: `seconds`, `epochs` or `steps` (default: five minutes), `cell`, `layers`,
    `hidden_size`, `embedding`, `seq_length`, `batch_size`, `dropout`, `learning_rate`, `validation`, `seed`, `device`,
    `precision`, `encoding`, `max_vocabulary`, `records` ("line" or "paragraph"). `watch` is given each event.
    Raises: CharrnnError for unusable input.

    >>> train("corpora/hihello.txt", steps=50, hidden_size=5, validation=0.0)  # doctest: +SKIP
    <Model runs/hihello/model.safetensors: 1 x 5 lstm, 5 characters>
    """
    sources = [corpus] if isinstance(corpus, (str, Path)) else list(corpus)
    try:
        asked = Options(**{"seconds": None if {"epochs", "steps"} & options.keys() else 300.0, **options})
    except TypeError as error:
        raise CharrnnError(str(error).replace("Options.__init__()", "train()")) from None
    with join() as group:
        with group.together():
            group.require_same(dataclasses.asdict(asked))
            run, _ = Run.create(sources, asked, out, init_from, group=group)
        for event in run.events(asked):
            watch(event)
    return model.load(run.out)
