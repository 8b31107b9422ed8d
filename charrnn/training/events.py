"""What a run tells whoever watches: `Progress`, `Validation`, `Setback`. Plain values, no torch."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Where the run stands, several times a second."""

    fraction: float  # of the run, 0 to 1
    step: int
    characters: int  # seen so far
    seconds: float  # spent so far
    seconds_left: float
    characters_per_second: float
    train_bits: float  # bits per character, a running mean


@dataclass(frozen=True)
class Validation:
    """A validation: the line of `history.jsonl`, whether it is the best so far, and what the model writes now."""

    record: dict[str, Any]
    best: bool
    fraction: float
    sample: str


@dataclass(frozen=True)
class Setback:
    """The loss diverged: the run goes on from where its state was last saved, with a smaller learning rate."""

    reached: int  # the step at which it happened
    step: int  # the step that it went back to
    learning_rate: float  # the highest from now on


Event = Progress | Validation | Setback
