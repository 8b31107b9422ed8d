"""Training settings: what the user asks for (`Options`), and what was chosen (`Recipe`). Both are stored in headers."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from charrnn.errors import CharrnnError
from charrnn.network.cells import CELLS, describe_layers
from charrnn.text.decoding import NEWLINES
from charrnn.text.records import SEPARATORS

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
KEYS = {"num_layers": "layers", "embedding_size": "embedding"}  # fields that have another name in files and flags
UNITS = {"d|days?": 86400, "h|hrs?|hours?": 3600, "m|mins?|minutes?": 60, "s|secs?|seconds?": 1}  # in seconds
NUMBER = r"(\d+\.?\d*|\.\d+)"
LONGEST = 10**12  # longest run, in seconds, epochs or steps
LIMITS = {  # smallest and largest value of each integer option
    "num_layers": (0, 64),
    "hidden_size": (1, 65536),
    "embedding_size": (0, 65536),
    "seq_length": (1, 65536),
    "batch_size": (1, 65536),
    "seed": (0, 2**63 - 1),
    "max_vocabulary": (1, 0x110000),
    "threads": (1, 1024),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asks for. None: `training.recipe.choose` decides. Raises: CharrnnError for bad values."""

    KEYS: ClassVar = KEYS
    EARLIER: ClassVar = {"newlines": "keep"}  # defaults for files of earlier versions, which lack the field

    seconds: float | None = None  # --for
    epochs: float | None = None
    steps: int | None = None
    cell: str = "lstm"
    num_layers: int | None = None
    hidden_size: int | None = None
    embedding_size: int | None = None  # 0: one-hot
    seq_length: int | None = None
    batch_size: int | None = None
    dropout: float | None = None
    learning_rate: float | None = None
    validation: str | float | None = None  # a fraction of the text, or a file's path; None: see `training.data`
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    encoding: str = "utf-8"
    newlines: str = "universal"  # or "keep", see text.decoding
    max_vocabulary: int | None = None  # keep only the most frequent characters; None: all
    records: str | None = None  # "line" or "paragraph" for records; None for continuous text
    threads: int | None = None  # don't change the weights; None: the cores of this process

    def __post_init__(self) -> None:
        lengths = {"--for": self.seconds, "--epochs": self.epochs, "--steps": self.steps}
        require(list(lengths.values()).count(None) >= 2, "--for, --epochs and --steps can't be combined")
        for flag, length in lengths.items():
            require(length is None or 0 < length <= LONGEST, f"{flag} must be above 0 and at most {LONGEST:,}, not {length}")
        words = {"cell": tuple(CELLS), "device": DEVICES, "precision": PRECISIONS, "newlines": NEWLINES}
        for name, allowed in words.items():
            value = getattr(self, name)
            require(value in allowed, f"--{name} must be {one_of(allowed)}, not {value!r}")
        require(self.records in (None, *SEPARATORS), f"records must be {one_of(tuple(SEPARATORS))}, not {self.records!r}")
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            require(value is None or least <= value <= most, f"{flag_of(name)} must be between {least} and {most}, not {value}")
        require(self.dropout is None or 0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, not {self.dropout}")
        rate = self.learning_rate
        require(
            rate is None or (math.isfinite(rate) and 0 < rate <= 10),
            f"--learning-rate must be above 0 and at most 10, not {rate}",
        )
        if isinstance(self.validation, float):
            require(
                0 <= self.validation < 1, f"--validation must be at least 0 and below 1, or a file, not {self.validation:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All training settings, stored with the model."""

    KEYS: ClassVar = KEYS | {"epochs": "passes", "max_epochs": "most_passes"}

    cell: str
    num_layers: int
    hidden_size: int
    embedding_size: int
    seq_length: int
    batch_size: int
    dropout: float
    learning_rate: float  # the peak of Adam's schedule
    seed: int
    precision: str
    residual: bool = False  # see network.config.Config
    epochs: float = 0.0  # as estimated before training
    weight_decay: float = 0.0  # of the matrices between hidden units
    recurrent_dropout: float = 0.0  # the probability of dropping one of their weights
    max_epochs: float = 0.0  # a run for a time ends after this many; 0: no limit
    shards: int = 0  # see training.shards; 0 in files of earlier versions
    records: str | None = None  # "line" or "paragraph": `batch_size` counts records, `seq_length` is their maximum length

    def __post_init__(self) -> None:
        require(0 <= self.weight_decay <= 10, f"weight decay {self.weight_decay} is not between 0 and 10")
        require(0 <= self.recurrent_dropout < 0.99, f"recurrent dropout {self.recurrent_dropout} is not below 0.99")

    def describe(self) -> str:
        """Describe in words: "2-layer LSTM, 256 units; batch 28 x 64 characters; dropout 0.5"."""
        layers = describe_layers(self.cell, num_layers=self.num_layers, hidden_size=self.hidden_size)
        each = f"{self.records}s" if self.records else f"x {self.seq_length} characters"
        parts = [layers, f"batch {self.batch_size} {each}", f"dropout {self.dropout:g}"]
        return "; ".join(parts + [self.precision] * (self.precision != "float32"))


def one_of(allowed: Sequence[str]) -> str:
    """ "lstm, gru or rnn"."""
    return " or ".join([", ".join(allowed[:-1]), allowed[-1]])


def flag_of(name: str) -> str:
    """The command-line flag of an option: "--layers" for num_layers, "--hidden-size" for hidden_size."""
    return "--" + KEYS.get(name, name).replace("_", "-")


def parse_duration(text: str) -> float:
    """Convert a duration such as "90", "90s", "1h30m" or "0.5 hours" to seconds. Raises: CharrnnError."""
    parts = "".join(rf"(?:{NUMBER}\s*(?:{unit})[\s,]*)?" for unit in UNITS)
    match = re.fullmatch(rf"{NUMBER}|{parts}", text.strip().lower())
    if match is None or not text.strip():
        raise CharrnnError(f"--for must be a time such as 30s, 5m or 1h30m, not {text!r}")
    seconds = sum(float(number or 0) * unit for number, unit in zip(match.groups(), (1, *UNITS.values()), strict=True))
    if not 0 < seconds <= 3650 * 86400:
        raise CharrnnError(f"--for must be above 0 and at most ten years, not {text!r}")
    return seconds


def require(condition: bool, message: str) -> None:
    """Raise CharrnnError with `message` unless `condition` is true."""
    if not condition:
        raise CharrnnError(message)
