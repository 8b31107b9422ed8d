"""When a run validates, saves and ends, and how fast it learns at each step: plain numbers, without torch, files or clock.

Times are in seconds since the sitting began (a resumed run has several).
"""

import math
from dataclasses import dataclass, field

WARM_UP = 0.02  # the fraction of the run in which the learning rate rises
VALIDATIONS = 20  # at most, in a run
VALIDATING = 0.04  # the fraction of a run for a time that validations are planned to take; they stay below a twentieth
SAVING = 0.02  # the fraction of a run that saves are planned to take
SAVE_EVERY = 30.0  # seconds between two saves of the state, at least
PLANNED = 0.02, 1.0  # the fraction of a run for a time, and the seconds, after which its speed is compared with the expected
REDRAW = 0.2  # seconds between two reports of progress, at least
LOGITS_PER_SECOND = 1.5e8  # of the softmax layer in a validation, where none has been measured yet


def anneal(highest: float, fraction: float, step: int, begun: float = 0.0) -> float:
    """The learning rate after `fraction` of the run: a linear warm-up from the fraction `begun` on, then linearly to zero.

    >>> [round(anneal(0.01, fraction, 1), 4) for fraction in (0.01, 0.02, 0.51, 1.0)]
    [0.0049, 0.0098, 0.0049, 0.0]
    """
    rise = min(1.0, (fraction - begun) / WARM_UP) if step else WARM_UP
    return highest * max(rise, 0.1) * (1 - min(fraction, 1.0))


@dataclass(kw_only=True)
class Schedule:
    """The length of a run is `seconds` or `steps`. Where it is a time, validations and saves are planned by what they cost."""

    seconds: float | None = None
    steps: float | None = None
    max_steps: float = math.inf  # at which a run for a time ends before its time
    validation_size: int = 0  # characters that a validation scores; 0: there is no validation text
    vocabulary_size: int = 1
    earlier: float = 0.0  # seconds spent in earlier sittings
    clock: float = field(default=0.0, init=False)
    step: int = field(default=0, init=False)
    learned: int = field(default=0, init=False)  # characters of this sitting
    fraction: float = field(default=0.0, init=False)  # how much of the run is done: 0 to 1, or more where its time is over
    begun: float = field(default=0.0, init=False)  # the fraction at which the network that learns now began
    memorized: bool = field(default=False, init=False)  # a text without validation is known by heart: the run may end
    validated_at: int = field(default=-1, init=False)  # the step of the last validation
    validation_seconds: float = field(default=0.0, init=False)  # that it took; 0: not measured yet
    save_seconds: float = field(default=0.0, init=False)  # that the last save took
    _mark: int = field(default=0, init=False)  # of VALIDATIONS in the run, the one at which the last validation was due
    _begun: float = field(default=0.0, init=False)
    _saved: float = field(default=0.0, init=False)  # when the last save was
    _shown: float = field(default=0.0, init=False)  # when progress was last reported
    _planned: bool = field(default=False, init=False)  # the speed has been compared with the expected

    def begin(self, *, clock: float, step: int, save_seconds: float, last: tuple[int, float] | None = None) -> None:
        """Begin a sitting. `last` is the step of the run's last validation and the seconds that were spent then."""
        self._begun = self._saved = self._shown = clock
        self.save_seconds = save_seconds
        self.advance(clock=clock, step=step, learned=0)
        if last is not None:
            self.validated_at, spent = last
            self._mark = int(self._fraction_at(self.validated_at, spent) * VALIDATIONS)

    def advance(self, *, clock: float, step: int, learned: int, memorized: bool = False) -> None:
        """Say where the run is: its clock, its step, the characters learned in this sitting."""
        self.clock = clock
        self.step = step
        self.learned = learned
        self.memorized = memorized
        self.fraction = self._fraction_at(step, self.seconds_spent)

    def note_validation(self, clock: float, save_seconds: float) -> None:
        """Say that a validation, with its save, has just been made at this step, and what its save took."""
        self.validation_seconds = clock - self.clock
        self.validated_at = self.step
        self._mark = int(self.fraction * VALIDATIONS)
        self.save_seconds = save_seconds
        self._saved = clock

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

    @property
    def characters_per_second(self) -> float:
        """The mean of this sitting; 0 at its beginning."""
        return self.learned / (self.clock - self._begun) if self.clock > self._begun else 0.0

    @property
    def is_over(self) -> bool:
        """Whether the run has its length. However short its time, it makes one step."""
        return self.fraction >= 1 and self.step > 0

    @property
    def is_progress_due(self) -> bool:
        return self.clock - self._shown > REDRAW

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
        if self.memorized:
            return 1.0
        reserve = min(1.1 * self._seconds_per_validation(), 0.2 * self.seconds)  # for the last validation
        return max(seconds / max(self.seconds - reserve, 1e-9), step / self.max_steps)

    def _seconds_per_validation(self) -> float:
        """What the last one took. Until one has been measured: a third of what learning takes, and the softmax layer."""
        if self.validation_seconds:
            return self.validation_seconds
        learning = (self.clock - self._begun) / max(3 * self.learned, 1)  # seconds per character
        return 0.1 + self.validation_size * (self.vocabulary_size / LOGITS_PER_SECOND + learning)

    def _marks_apart(self) -> float:
        """How many of the VALIDATIONS marks of a run lie between two validations."""
        if self.seconds is None:
            return 1.0
        saving = 4 * self.save_seconds  # the first save, without the optimizer's moments and a model, is that much quicker
        return max(1.0, VALIDATIONS / self.seconds * max(self._seconds_per_validation() / VALIDATING, saving / SAVING))
