"""What a user asks of a training (`Options`), and all that was decided for it (`Recipe`): plain values, kept in headers."""

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
KEYS = {"num_layers": "layers", "embedding_size": "embedding"}  # names in files and flags that are not the field's
LONGEST = 10**12  # of a run, in seconds, epochs or steps
LIMITS = {  # the least and the largest value of each whole number
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
    """What the user asks for; None leaves the choice to `training.recipe.choose`. Raises: CharrnnError for unusable values."""

    KEYS: ClassVar = KEYS
    EARLIER: ClassVar = {"newlines": "keep"}  # in files of earlier versions, which lack it

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
    validation: str | float | None = None  # a fraction of the text, or the path of a file; None: see `training.data`
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    encoding: str = "utf-8"
    newlines: str = "universal"  # or "keep", see text.decoding
    max_vocabulary: int | None = None  # the most frequent characters that are learned; None: all
    records: str | None = None  # "line" or "paragraph": each of them a sequence of its own; None: the text is one
    threads: int | None = None  # to train on; they change no weight; None: the cores that the process may use

    def __post_init__(self) -> None:
        lengths = {"--for": self.seconds, "--epochs": self.epochs, "--steps": self.steps}
        require(list(lengths.values()).count(None) >= 2, "--for, --epochs and --steps exclude each other")
        for flag, length in lengths.items():
            require(length is None or 0 < length <= LONGEST, f"{flag} {length} is not above 0 and at most {LONGEST:,}")
        words = {"cell": tuple(CELLS), "device": DEVICES, "precision": PRECISIONS, "newlines": NEWLINES}
        for name, allowed in words.items():
            value = getattr(self, name)
            require(value in allowed, f"--{name} must be {one_of(allowed)}, not {value!r}")
        require(self.records in (None, *SEPARATORS), f"records must be {one_of(tuple(SEPARATORS))}, not {self.records!r}")
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            require(value is None or least <= value <= most, f"{flag_of(name)} {value} is not between {least} and {most}")
        require(self.dropout is None or 0 <= self.dropout < 1, f"--dropout {self.dropout} is not at least 0 and below 1")
        rate = self.learning_rate
        require(rate is None or (math.isfinite(rate) and 0 < rate <= 10), f"--learning-rate {rate} is not in (0, 10]")
        if isinstance(self.validation, float):
            require(0 <= self.validation < 1, f"--validation {self.validation:g} is not at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that training needs to know besides the text; kept with the model."""

    KEYS: ClassVar = KEYS | {"epochs": "passes", "max_epochs": "most_passes"}

    cell: str
    num_layers: int
    hidden_size: int
    embedding_size: int
    seq_length: int
    batch_size: int
    dropout: float
    learning_rate: float  # Adam's highest
    seed: int
    precision: str
    residual: bool = False  # see network.config.Config
    epochs: float = 0.0  # over the training text, as far as could be told beforehand
    weight_decay: float = 0.0  # of the matrices between hidden units
    recurrent_dropout: float = 0.0  # the probability that one of their weights is silenced
    max_epochs: float = 0.0  # after which the run ends before its time; 0: never
    shards: int = 0  # into which a batch is cut, see training.shards; 0: not decided, in files of earlier versions
    records: str | None = None  # then `batch_size` is in records of mean length, and no more than `seq_length` of one is read

    def __post_init__(self) -> None:
        require(0 <= self.weight_decay <= 10, f"weight decay {self.weight_decay} is not between 0 and 10")
        require(0 <= self.recurrent_dropout < 0.99, f"recurrent dropout {self.recurrent_dropout} is not below 0.99")

    def describe(self) -> str:
        """For people: "2-layer LSTM, 256 units; batch 28 x 64 characters; dropout 0.5"."""
        layers = describe_layers(self.cell, num_layers=self.num_layers, hidden_size=self.hidden_size)
        each = f"{self.records}s" if self.records else f"x {self.seq_length} characters"
        parts = [layers, f"batch {self.batch_size} {each}", f"dropout {self.dropout:g}"]
        return "; ".join(parts + [self.precision] * (self.precision != "float32"))


def one_of(allowed: Sequence[str]) -> str:
    """ "lstm, gru or rnn"."""
    return " or ".join([", ".join(allowed[:-1]), allowed[-1]])


def flag_of(name: str) -> str:
    """The command line's flag for an option: "--layers" for num_layers, "--hidden-size" for hidden_size."""
    return "--" + KEYS.get(name, name).replace("_", "-")


def parse_duration(text: str) -> float:
    """Seconds in `text`: "90", "90s", "5m", "1h30m", "0.5h". Raises: CharrnnError where it is none, or not above 0."""
    match = re.fullmatch(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text.strip())
    try:
        parts = [float(part or 0) for part in match.groups()] if match and text.strip() else []  # none: too few to zip
        seconds = sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=True))
    except ValueError:
        raise CharrnnError(f"--for {text!r} is no length of time; write 30s, 5m or 1h30m") from None
    if not 0 < seconds <= 3650 * 86400:
        raise CharrnnError(f"--for {text!r} is not above 0 and at most ten years")
    return seconds


def require(condition: bool, message: str) -> None:
    """Raise CharrnnError with `message` where `condition` does not hold."""
    if not condition:
        raise CharrnnError(message)
