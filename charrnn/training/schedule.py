"""The schedule of a run: learning rate, when to validate, when to save, when to end.

Plain numbers: this module uses no torch, no files and no clock. A run that is resumed has several sessions. Times are in
seconds since the session began.
"""

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Self

from charrnn.headers import Counters, Metrics
from charrnn.options import Options, Recipe
from charrnn.training.data import Dataset
from charrnn.training.recipe import SPEED, relative_work

WARM_UP = 0.02  # fraction of the run in which the learning rate rises
VALIDATIONS = 20  # most validations of a run
VALIDATION_SHARE = 0.04  # fraction of a run planned for validations, which keeps them below 5 %
MIN_VALIDATION_SECONDS = 1.0  # that validations may always take in a run of steps, however short
SAVING_SHARE = 0.02  # fraction of a run planned for saves
SAVE_EVERY = 30.0  # seconds between two saves, at least
REPLAN_AFTER = 0.02, 1.0  # fraction of a run and seconds after which its speed is compared with the speed test
REDRAW = 0.2  # seconds between two progress reports, at least
SAMPLE = 1.0  # seconds until the first sample of a session; the time triples with each further one
LOGITS_PER_SECOND = 1.5e8  # of a validation's softmax layer, until a validation has been timed
MIN_RELATIVE_WORK = 0.2  # per character: smaller networks are hardly faster
MEMORIZED = 0.02  # bits per character at which a text trained on without validation counts as memorized


def anneal(highest: float, fraction: float, step: int, began_at: float = 0.0) -> float:
    """The learning rate after `fraction` of the run: a linear warm-up that starts at `began_at`, then linear decay to zero.

    >>> [round(anneal(0.01, fraction, 1), 4) for fraction in (0.01, 0.02, 0.51, 1.0)]
    [0.005, 0.0098, 0.0049, 0.0]
    """
    rise = min(1.0, (fraction - began_at) / WARM_UP) if step else WARM_UP
    return highest * max(rise, 0.1) * (1 - min(fraction, 1.0))


@dataclass(kw_only=True)
class Schedule:
    """The schedule of a run of `seconds` or of `steps`.

    A run for a time plans its validations and saves by how long they take. A run of steps plans its validations by how long
    they should take at `speed`, without a clock: the same seed then always gives the same best model.
    """

    seconds: float | None = None
    steps: float | None = None
    max_steps: float = math.inf  # a run for a time ends here at the latest
    validation_size: int = 0  # characters scored per validation; 0: no validation text
    vocabulary_size: int = 1
    characters: float = 1.0  # per step
    speed: float = math.inf  # characters per second, estimated from the sizes alone
    last: Metrics | None = None  # the last validation of earlier sessions
    same: bool = False  # earlier sessions had the same length
    earlier: float = 0.0  # seconds spent in earlier sessions
    clock: float = field(default=0.0, init=False)
    step: int = field(default=0, init=False)
    learned: int = field(default=0, init=False)  # characters trained on in this session
    fraction: float = field(default=0.0, init=False)  # of the run that is done; above 1 if its time is over
    began_at: float = field(default=0.0, init=False)  # fraction at which the present network was started
    memorized: bool = field(default=False, init=False)  # a text without validation is memorized, so the run may end
    validated_at: int = field(default=-1, init=False)  # step of the last validation
    validation_seconds: float = field(default=0.0, init=False)  # how long one takes; 0: not measured yet
    save_seconds: float = field(default=0.0, init=False)  # how long the last save took
    _validations: list[float] = field(default_factory=list, init=False)  # seconds of each one
    _seen: int = field(default=0, init=False)  # characters trained on in earlier sessions
    _mark: int = field(default=0, init=False)  # VALIDATIONS marks divide the run: the mark of the last validation
    _began: float = field(default=0.0, init=False)
    _saved: float = field(default=0.0, init=False)  # when the last save was
    _shown: float = field(default=0.0, init=False)  # when progress was last reported
    _sample: float = field(default=SAMPLE, init=False)  # when the next sample is due
    _planned: bool = field(default=False, init=False)  # the speed has been compared with the speed test
    _ended: bool = field(default=False, init=False)  # the run was complete before this session

    @classmethod
    def of(
        cls,
        options: Options,
        recipe: Recipe,
        dataset: Dataset,
        per_epoch: int,
        earlier: float,
        last: Metrics | None,
        same: bool,
    ) -> Self:
        """Make the schedule for the length in `options`; an epoch has `per_epoch` batches.

        `earlier` is the seconds spent in earlier sessions, `last` their last validation, `same` whether they had this length.
        """
        work = max(relative_work(recipe.num_layers, recipe.hidden_size), MIN_RELATIVE_WORK)
        return cls(
            seconds=options.seconds,
            steps=math.ceil(options.epochs * per_epoch) if options.epochs else options.steps,
            max_steps=recipe.max_epochs * per_epoch or math.inf,
            validation_size=len(dataset.validation_ids),
            vocabulary_size=len(dataset.vocabulary),
            characters=len(dataset.ids) / per_epoch,
            speed=SPEED / work,
            earlier=earlier,
            last=last,
            same=same,
        )

    def begin(self, clock: float, counters: Counters, save_seconds: float) -> None:
        """Begin a session."""
        self._began = self._saved = self._shown = clock
        self._sample = clock + SAMPLE
        self._seen = counters.characters
        self.save_seconds = save_seconds
        self._ended = self.same and self.last is not None and self.last.step == counters.step and not self.last.learning_rate
        self.advance(clock, counters)
        if self.last is not None:
            self.validated_at = self.last.step
            self._mark = int(self._fraction_at(self.last.step, self.last.seconds) * VALIDATIONS)

    def advance(self, clock: float, counters: Counters) -> None:
        """Update the time, step and fraction done."""
        self.clock = clock
        self.step = counters.step
        self.learned = counters.characters - self._seen
        self.memorized = counters.train_bits < MEMORIZED and not self.validation_size
        self.fraction = self._fraction_at(self.step, self.seconds_spent)

    def note_validation(self, clock: float, save_seconds: float) -> None:
        """Record a validation at this step, which ended at `clock` with a sample and a save."""
        self._validations.append(clock - self.clock)
        self.validation_seconds = median(self._validations[-5:])  # of a busy machine, single ones may be far off
        self.validated_at = self.step
        self._mark = int(self.fraction * VALIDATIONS)
        self.save_seconds = save_seconds
        self._saved = clock
        self.note_sample(clock)

    def note_sample(self, clock: float) -> None:
        """Record a sample, and set when the next one is due."""
        self._sample = self._began + 3 * (clock - self._began)

    def note_save(self, save_seconds: float) -> None:
        """Record a save and how long it took."""
        self.save_seconds = save_seconds
        self._saved = self.clock

    def note_plan(self) -> None:
        """Record that the speed has been compared with the speed test."""
        self._planned = True

    def begin_again(self, max_steps: float) -> None:
        """Restart the run with another network in the time that is left."""
        self.began_at = self.fraction
        self.max_steps = max_steps
        self._began = self.clock
        self._sample = self.clock + SAMPLE
        self.step = self.learned = 0

    def note_progress(self) -> None:
        """Record a progress report."""
        self._shown = self.clock

    @property
    def seconds_spent(self) -> float:
        """Seconds spent in all sessions."""
        return self.earlier + self.clock

    @property
    def seconds_left(self) -> float:
        return (1 - self.fraction) * (self.seconds_spent / self.fraction if self.fraction else 0.0)

    def learning_rate(self, highest: float) -> float:
        """The learning rate of the next step."""
        return anneal(highest, fraction=self.fraction, step=self.step, began_at=self.began_at)

    @property
    def characters_per_second(self) -> float:
        """Mean speed of this session; 0 at its beginning."""
        return self.learned / (self.clock - self._began) if self.clock > self._began else 0.0

    @property
    def is_over(self) -> bool:
        """Whether the run is complete. It makes at least one step, however short its time."""
        return self.fraction >= 1 and self.step > 0

    @property
    def why(self) -> str:
        """Why the run ended: "steps", "memorized", "max epochs" or "time"; "interrupted" if it is not complete."""
        if not self.is_over:
            return "interrupted"
        if self.steps is not None:
            return "steps"
        return "memorized" if self.memorized else "max epochs" if self.step >= self.max_steps else "time"

    @property
    def is_progress_due(self) -> bool:
        return self.clock - self._shown > REDRAW

    @property
    def is_sample_due(self) -> bool:
        """Whether to write a sample between validations, for the user to see."""
        return self.step > 0 and self.clock > self._sample

    @property
    def is_plan_due(self) -> bool:
        """Whether to compare the speed with the speed test: once, in the first seconds of a run for a time."""
        if self.seconds is None or self.earlier or self._planned or not self.step:
            return False
        return self.fraction > REPLAN_AFTER[0] and self.clock - self._began > REPLAN_AFTER[1]

    @property
    def is_validation_due(self) -> bool:
        """Whether to validate now. The validation at the end of the run is not counted here."""
        marks = int(self.fraction * VALIDATIONS) - self._mark
        return self.step > 0 and self.fraction < 1 and marks >= self._marks_apart() and self.validated_at != self.step

    @property
    def is_save_due(self) -> bool:
        return self.clock - self._saved > max(SAVE_EVERY, self.save_seconds / SAVING_SHARE)

    def _fraction_at(self, step: int, seconds: float) -> float:
        if self.steps is not None:
            return step / self.steps
        assert self.seconds is not None
        if self.memorized or self._ended:
            return 1.0
        reserve = min(1.1 * self._seconds_per_validation(), 0.2 * self.seconds)  # time for the last validation
        return max(seconds / max(self.seconds - reserve, 1e-9), step / self.max_steps)

    def _seconds_per_validation(self) -> float:
        """Seconds of the last validation; estimated before the first one, and in runs of steps from the sizes alone."""
        if self.seconds is None:
            learning, besides = 1 / self.speed, 0.02  # seconds per character, and seconds of a sample and a save
        elif self.validation_seconds:
            return self.validation_seconds
        else:
            learning, besides = (self.clock - self._began) / max(self.learned, 1), 0.1
        return besides + self.validation_size * (self.vocabulary_size / LOGITS_PER_SECOND + learning / 3)

    def _marks_apart(self) -> float:
        """How many of the VALIDATIONS marks lie between two validations. The last validation is at the last mark."""
        if self.seconds is None:
            assert self.steps is not None
            validating = max(VALIDATION_SHARE * self.steps * self.characters / self.speed, MIN_VALIDATION_SECONDS)
            affordable = validating / self._seconds_per_validation()
        else:
            saving = 4 * self.save_seconds  # the first save has no optimizer moments and no model, so it is faster
            affordable = self.seconds / max(self._seconds_per_validation() / VALIDATION_SHARE, saving / SAVING_SHARE)
        return VALIDATIONS / min(max(int(affordable), 1), VALIDATIONS)
