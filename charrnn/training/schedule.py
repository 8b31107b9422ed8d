"""When a run validates, saves and ends, and how fast it learns at each step: plain numbers, without torch, files or clock.

Times are in seconds since the sitting began (a resumed run has several).
"""

import math
from dataclasses import dataclass, field
from typing import Self

from charrnn.headers import Counters, Metrics
from charrnn.options import Options, Recipe
from charrnn.training.data import Dataset
from charrnn.training.recipe import SPEED, relative_work

WARM_UP = 0.02  # the fraction of the run in which the learning rate rises
VALIDATIONS = 20  # at most, in a run
VALIDATING = 0.04  # the fraction of a run that validations are planned to take; they stay below a twentieth
UNNOTICED = 1.0  # seconds that they may take in any run of steps, however short it is
SAVING = 0.02  # the fraction of a run that saves are planned to take
SAVE_EVERY = 30.0  # seconds between two saves of the state, at least
PLANNED = 0.02, 1.0  # the fraction of a run for a time, and the seconds, after which its speed is compared with the expected
REDRAW = 0.2  # seconds between two reports of progress, at least
SAMPLE = 1.0  # seconds until the first sample of a sitting; each further one comes three times as late as the one before
LOGITS_PER_SECOND = 1.5e8  # of the softmax layer in a validation, where none has been measured yet
LEAST_WORK = 0.2  # of a character, as a multiple of the reference network's: smaller networks are hardly quicker
MEMORIZED = 0.02  # bits per character; a text that is learned whole is memorized then, and a run for a time ends


def anneal(highest: float, fraction: float, step: int, begun: float = 0.0) -> float:
    """The learning rate after `fraction` of the run: a linear warm-up from the fraction `begun` on, then linearly to zero.

    >>> [round(anneal(0.01, fraction, 1), 4) for fraction in (0.01, 0.02, 0.51, 1.0)]
    [0.0049, 0.0098, 0.0049, 0.0]
    """
    rise = min(1.0, (fraction - begun) / WARM_UP) if step else WARM_UP
    return highest * max(rise, 0.1) * (1 - min(fraction, 1.0))


@dataclass(kw_only=True)
class Schedule:
    """The length of a run is `seconds` or `steps`. Where it is a time, validations and saves are planned by what they cost.

    Validations of a run of steps are planned by what they should cost at `speed`: no clock decides which models are compared.
    """

    seconds: float | None = None
    steps: float | None = None
    max_steps: float = math.inf  # at which a run for a time ends before its time
    validation_size: int = 0  # characters that a validation scores; 0: there is no validation text
    vocabulary_size: int = 1
    characters: float = 1.0  # that a step learns, and
    speed: float = math.inf  # how many of them in a second, as far as sizes alone tell
    last: Metrics | None = None  # the validation before this sitting
    same: bool = False  # the run had this very length then
    earlier: float = 0.0  # seconds spent in earlier sittings
    clock: float = field(default=0.0, init=False)
    step: int = field(default=0, init=False)
    learned: int = field(default=0, init=False)  # characters of this sitting
    fraction: float = field(default=0.0, init=False)  # how much of the run is done: 0 to 1, or more where its time is over
    begun: float = field(default=0.0, init=False)  # the fraction at which the network that learns now began
    memorized: bool = field(default=False, init=False)  # a text without validation is memorized: the run may end
    validated_at: int = field(default=-1, init=False)  # the step of the last validation
    validation_seconds: float = field(default=0.0, init=False)  # that it took; 0: not measured yet
    save_seconds: float = field(default=0.0, init=False)  # that the last save took
    _seen: int = field(default=0, init=False)  # characters learned before this sitting
    _mark: int = field(default=0, init=False)  # of VALIDATIONS in the run, the one at which the last validation was due
    _begun: float = field(default=0.0, init=False)
    _saved: float = field(default=0.0, init=False)  # when the last save was
    _shown: float = field(default=0.0, init=False)  # when progress was last reported
    _sample: float = field(default=SAMPLE, init=False)  # when the next sample is due
    _planned: bool = field(default=False, init=False)  # the speed has been compared with the expected
    _ended: bool = field(default=False, init=False)  # it has come to its end in an earlier sitting

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
        """The schedule of a run of the length that `options` ask for, with so many batches `per_epoch`.

        `earlier` are the seconds of earlier sittings, `last` is their last validation; `same` says that their length was this.
        """
        work = max(relative_work(recipe.num_layers, recipe.hidden_size), LEAST_WORK)
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
        """Begin a sitting."""
        self._begun = self._saved = self._shown = clock
        self._sample = clock + SAMPLE
        self._seen = counters.characters
        self.save_seconds = save_seconds
        self._ended = self.same and self.last is not None and self.last.step == counters.step and not self.last.learning_rate
        self.advance(clock, counters)
        if self.last is not None:
            self.validated_at = self.last.step
            self._mark = int(self._fraction_at(self.last.step, self.last.seconds) * VALIDATIONS)

    def advance(self, clock: float, counters: Counters) -> None:
        """Say where the run is."""
        self.clock = clock
        self.step = counters.step
        self.learned = counters.characters - self._seen
        self.memorized = counters.train_bits < MEMORIZED and not self.validation_size
        self.fraction = self._fraction_at(self.step, self.seconds_spent)

    def note_validation(self, clock: float, save_seconds: float) -> None:
        """Say that a validation, with its sample and its save, has just been made at this step, and what its save took."""
        self.validation_seconds = clock - self.clock
        self.validated_at = self.step
        self._mark = int(self.fraction * VALIDATIONS)
        self.save_seconds = save_seconds
        self._saved = clock
        self.note_sample(clock)

    def note_sample(self, clock: float) -> None:
        """Say that a sample has just been written."""
        self._sample = self._begun + 3 * (clock - self._begun)

    def note_save(self, save_seconds: float) -> None:
        """Say that the state has been saved, and how long it took."""
        self.save_seconds = save_seconds
        self._saved = self.clock

    def note_plan(self) -> None:
        """Say that the speed has been compared with the expected."""
        self._planned = True

    def begin_again(self, max_steps: float) -> None:
        """Say that the run begins again with another network, in what is left of its time."""
        self.begun = self.fraction
        self.max_steps = max_steps
        self._begun = self.clock
        self._sample = self.clock + SAMPLE
        self.step = self.learned = 0

    def note_progress(self) -> None:
        """Say that progress has been reported."""
        self._shown = self.clock

    @property
    def seconds_spent(self) -> float:
        """In this sitting and the earlier ones."""
        return self.earlier + self.clock

    @property
    def seconds_left(self) -> float:
        return (1 - self.fraction) * (self.seconds_spent / self.fraction if self.fraction else 0.0)

    def learning_rate(self, highest: float) -> float:
        """Of the next step."""
        return anneal(highest, fraction=self.fraction, step=self.step, begun=self.begun)

    @property
    def characters_per_second(self) -> float:
        """The mean of this sitting; 0 at its beginning."""
        return self.learned / (self.clock - self._begun) if self.clock > self._begun else 0.0

    @property
    def is_over(self) -> bool:
        """Whether the run has its length. However short its time, it makes one step."""
        return self.fraction >= 1 and self.step > 0

    @property
    def why(self) -> str:
        """Why the run has ended: "steps", "memorized", "max epochs", "time" or, before its end, "interrupted"."""
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
        """Whether to write a sample, beside those of validations, for whoever watches."""
        return self.step > 0 and self.clock > self._sample

    @property
    def is_plan_due(self) -> bool:
        """Whether to compare the speed with the expected, once in a run for a time, in the first seconds that it learns."""
        if self.seconds is None or self.earlier or self._planned or not self.step:
            return False
        return self.fraction > PLANNED[0] and self.clock - self._begun > PLANNED[1]

    @property
    def is_validation_due(self) -> bool:
        """Whether to validate now; the last validation of a run, at its end, is due beside these."""
        marks = int(self.fraction * VALIDATIONS) - self._mark
        return self.step > 0 and self.fraction < 1 and marks >= self._marks_apart() and self.validated_at != self.step

    @property
    def is_save_due(self) -> bool:
        return self.clock - self._saved > max(SAVE_EVERY, self.save_seconds / SAVING)

    def _fraction_at(self, step: int, seconds: float) -> float:
        if self.steps is not None:
            return step / self.steps
        assert self.seconds is not None
        if self.memorized or self._ended:
            return 1.0
        reserve = min(1.1 * self._seconds_per_validation(), 0.2 * self.seconds)  # for the last validation
        return max(seconds / max(self.seconds - reserve, 1e-9), step / self.max_steps)

    def _seconds_per_validation(self) -> float:
        """What the last one took. Unmeasured, or where no clock may decide: a third of learning, and the softmax layer."""
        if self.seconds is None:
            learning, besides = 1 / self.speed, 0.02  # seconds per character, and of its sample and save
        elif self.validation_seconds:
            return self.validation_seconds
        else:
            learning, besides = (self.clock - self._begun) / max(self.learned, 1), 0.1
        return besides + self.validation_size * (self.vocabulary_size / LOGITS_PER_SECOND + learning / 3)

    def _marks_apart(self) -> float:
        """How many of the VALIDATIONS marks of a run lie between two validations, the last of which is at its end."""
        if self.seconds is None:
            assert self.steps is not None
            validating = max(VALIDATING * self.steps * self.characters / self.speed, UNNOTICED)
            affordable = validating / self._seconds_per_validation()
        else:
            saving = 4 * self.save_seconds  # the first save, without the optimizer's moments and a model, is that much quicker
            affordable = self.seconds / max(self._seconds_per_validation() / VALIDATING, saving / SAVING)
        return VALIDATIONS / min(max(int(affordable), 1), VALIDATIONS)
