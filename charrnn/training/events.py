"""What a run tells whoever watches it, from `Progress` to `End`. Plain values; it imports no torch."""

from dataclasses import dataclass

from charrnn.headers import Metrics
from charrnn.options import Recipe


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the run stands, several times a second."""

    fraction: float  # of the run, 0 to 1
    step: int
    characters: int  # learned from so far
    seconds: float  # spent so far
    seconds_left: float
    characters_per_second: float
    train_bits: float  # bits per character, a running mean
    learning_rate: float  # of the next step


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A validation: what it found, with what the model writes now, and whether it is the best so far."""

    metrics: Metrics
    best: bool
    fraction: float  # of the run, 0 to 1


@dataclass(frozen=True, kw_only=True)
class Setback:
    """The loss diverged: the run goes on from where its state was last saved, with a smaller learning rate."""

    reached: int  # the step at which it happened
    step: int  # the step that it went back to
    learning_rate: float  # the highest from now on


@dataclass(frozen=True, kw_only=True)
class Replan:
    """The speed that sizes were chosen by was far off: the run begins again, in what is left of its time, with other sizes."""

    ratio: float  # of the speed that is measured now to that
    recipe: Recipe
    step: int = 0  # that it goes back to


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the model writes between two validations."""

    step: int
    text: str


@dataclass(frozen=True, kw_only=True)
class End:
    """The last event of a sitting: what was done, and why it ended."""

    why: str  # "steps", "time", "max epochs", "memorized" or "interrupted"
    step: int
    epochs: float  # over the training text, so far
    seconds: float  # spent so far


Event = Progress | Sample | Validation | Setback | Replan | End
