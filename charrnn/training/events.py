"""Events that a run yields, from `Progress` to `End`, and what interrupts a step. This module does not import torch."""

from dataclasses import dataclass

from charrnn.errors import CharrnnError
from charrnn.headers import Metrics
from charrnn.options import Recipe


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress, reported several times a second."""

    fraction: float  # of the run, 0 to 1
    step: int
    characters: int  # trained on so far
    seconds: float  # spent so far
    seconds_left: float
    characters_per_second: float
    train_bits: float  # bits per character, a running mean
    learning_rate: float  # of the next step


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A validation, with a sample of the model."""

    metrics: Metrics
    best: bool  # the lowest loss so far
    fraction: float  # of the run, 0 to 1


@dataclass(frozen=True, kw_only=True)
class Setback:
    """The loss diverged: the run continues from its last saved state, with a smaller learning rate."""

    reached: int  # the step at which the loss diverged
    step: int  # the step of the saved state
    learning_rate: float  # the new peak of the schedule


@dataclass(frozen=True, kw_only=True)
class Replan:
    """The speed test was far off: the run restarts with other sizes, in the time that is left."""

    ratio: float  # of the new measured speed to the old one
    recipe: Recipe
    step: int = 0  # restarts here


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample of the model between two validations."""

    step: int
    text: str


@dataclass(frozen=True, kw_only=True)
class End:
    """The last event: what was done, and why the run ended."""

    why: str  # "steps", "time", "max epochs", "memorized" or "interrupted"
    step: int
    epochs: float  # trained so far
    seconds: float  # spent so far


Event = Progress | Sample | Validation | Setback | Replan | End


class DivergedError(CharrnnError):
    """The loss is far above that of a uniform guess, or the loss or a weight is not finite."""

    def __init__(self, step: int):
        super().__init__(f"the loss diverged at step {step}; the last checkpoint is intact; use a smaller --learning-rate", 1)


class StopError(Exception):
    """A validation was interrupted."""
