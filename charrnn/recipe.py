"""How to train: what the user asked for, and a choice for all that was left open.

`choose` is given the options, the size of the corpus and the length of the training; it gives back a complete `Recipe`.
It knows no torch.
"""

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from typing import Any

from charrnn.corpus import fit_windows
from charrnn.errors import CharrnnError
from charrnn.records import LONGEST, SEPARATORS

CELLS = ("lstm", "gru", "rnn")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
MUON_FROM = 64  # hidden units from which on Muon trains the recurrent matrices; below, and for the rest, it is Adam
REFERENCE = ("lstm", 1, 256, 32)  # the network in whose characters a length of training is reckoned
WIDEST = ((4e3, 64), (2e4, 128), (3e5, 256), (math.inf, 512))  # units for a text of less than so many characters
WINDOWS = 50  # at least, one after the other, in a reading of a text
OFTEN = 30  # readings of a text from which on one layer is not enough
SPEED = 110_000  # its characters per second on two cores; where a length in time is asked for, this is measured
# The best sizes for what a training affords, up to so many of the reference's characters: layers, units, batch, window and
# learning rate. Short runs want many steps of one layer; depth pays from half a minute on, width from a minute and a half.
SIZES = (
    (2.2e6, 1, 192, 32, 32, 0.015),
    (4e6, 1, 256, 32, 48, 0.0125),
    (9e6, 2, 256, 32, 64, 0.01),
    (17e6, 2, 384, 32, 64, 0.01),
    (100e6, 2, 384, 64, 64, 0.0125),
    (math.inf, 2, 512, 64, 64, 0.0125),
)

# Against learning by heart, for what is read less often than so many times: dropout between layers, dropout of recurrent
# weights, and weight decay. A text that is read but once or twice needs none, one of many readings all that helps.
REGULARIZATION = (
    (1.5, 0.0, 0.0, 0.0),
    (4, 0.0, 0.0, 0.03),
    (8, 0.2, 0.05, 0.1),
    (16, 0.3, 0.1, 0.1),
    (math.inf, 0.5, 0.15, 0.1),
)
MOST_PASSES = 25  # over the training text in a length of time; more learns it by heart, whatever is done against that
BATCH = 2_000  # characters in a batch of records


@dataclass(frozen=True)
class Options:
    """What the user says; None leaves the choice to `choose`. Exactly one of the three lengths is set."""

    seconds: float | None = None  # --for
    epochs: float | None = None
    steps: int | None = None
    cell: str = "lstm"
    layers: int | None = None
    hidden_size: int | None = None
    embedding: int | None = None  # 0: one-hot
    seq_length: int | None = None
    batch_size: int | None = None
    dropout: float | None = None
    learning_rate: float | None = None
    validation: str | float | None = None  # a fraction of the text, or the path of a file; None: see `texts`
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    encoding: str = "utf-8"
    max_vocabulary: int | None = None  # the most frequent characters that are learned; None: all
    records: str | None = None  # "line" or "paragraph": each of them a sequence of its own; None: the text is one

    def __post_init__(self) -> None:
        lengths = [self.seconds, self.epochs, self.steps]
        _require(sum(length is not None for length in lengths) <= 1, "--for, --epochs and --steps exclude each other")
        for name, length in zip(("--for", "--epochs", "--steps"), lengths, strict=True):
            _require(length is None or (math.isfinite(length) and length > 0), f"{name} {length} is not above 0")
        _require(self.cell in CELLS, f"--cell {self.cell} is none of {', '.join(CELLS)}")
        _require(self.device in DEVICES, f"--device {self.device} is none of {', '.join(DEVICES)}")
        _require(self.precision in PRECISIONS, f"--precision {self.precision} is none of {', '.join(PRECISIONS)}")
        _require(self.records in (None, *SEPARATORS), f"records {self.records!r} are none of {', '.join(SEPARATORS)}")
        for name, least, most in (
            ("layers", 0, 64),
            ("hidden_size", 1, 65536),
            ("embedding", 0, 65536),
            ("seq_length", 1, 65536),
            ("batch_size", 1, 65536),
            ("seed", 0, 2**63 - 1),
            ("max_vocabulary", 1, 0x110000),
        ):
            value = getattr(self, name)
            flag = "--" + name.replace("_", "-")
            _require(value is None or least <= value <= most, f"{flag} {value} is not between {least} and {most}")
        _require(self.dropout is None or 0 <= self.dropout < 1, f"--dropout {self.dropout} is not at least 0 and below 1")
        rate = self.learning_rate
        _require(rate is None or (math.isfinite(rate) and 0 < rate <= 10), f"--learning-rate {rate} is not in (0, 10]")
        if isinstance(self.validation, float):
            _require(0 <= self.validation < 1, f"--validation {self.validation:g} is not at least 0 and below 1")


@dataclass(frozen=True)
class Recipe:
    """Everything that training needs to know besides the text; kept with the model."""

    cell: str
    layers: int
    hidden_size: int
    embedding: int
    seq_length: int
    batch_size: int
    dropout: float
    learning_rate: float
    seed: int
    precision: str
    residual: bool  # see model.Config
    passes: float  # over the text, as far as could be told beforehand
    weight_decay: float = 0.0  # of the matrices between hidden units
    recurrent_dropout: float = 0.0  # the chance that one of their weights is silenced
    most_passes: float = 0.0  # after which the run ends before its time; 0: at none
    records: str | None = None  # then `batch_size` is in records of mean length, and no more than `seq_length` of one is read

    def __post_init__(self) -> None:
        _require(0 <= self.weight_decay <= 10, f"weight decay {self.weight_decay} is not between 0 and 10")
        _require(0 <= self.recurrent_dropout < 0.99, f"recurrent dropout {self.recurrent_dropout} is not below 0.99")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def choose(
    options: Options,
    characters: int,
    vocabulary: int,
    precision: str = "float32",
    speed: float = SPEED,
    network: dict[str, Any] | None = None,
    records: int = 0,
    logits: int | None = None,
) -> tuple[Recipe, list[str]]:
    """Fill in what `options` leave open for a training text of so many characters.

    `speed` is the characters per second of the REFERENCE network: what the time affords follows from it. `precision` is
    what the device multiplies fastest. `network` is the configuration of a model to begin with: its sizes are kept.
    `records` is how many the text has, where `options` take it for records, `logits` how many a step computes for each
    character, where not for the whole vocabulary.
    The figures behind each choice are in `benchmarks/RESULTS.md`.
    Returns: the recipe, and notes for the user on what did not fit.
    Raises: CharrnnError where the text is too short to learn from, or a size contradicts `network`.
    """
    if characters < 2:
        raise CharrnnError(f"the training text has {characters} character; at least 2 are needed")
    fixed = (
        {}
        if network is None
        else {
            "cell": network["cell"],
            "layers": network["num_layers"],
            "hidden_size": network["hidden_size"],
            "embedding": network["embedding_size"],
        }
    )
    for name, value in fixed.items():
        asked = getattr(options, name)
        if asked not in (None, value) and (name != "cell" or asked != "lstm"):
            raise CharrnnError(f"--{name.replace('_', '-')} {asked}: the model to begin with has {value}")
    notes = []

    def pick(name: str, default: Any) -> Any:
        asked = getattr(options, name)
        return fixed.get(name, default if asked is None else asked)

    mean = characters / max(records, 1)
    if options.seconds is not None:
        affords = options.seconds * speed
    elif options.steps is not None:
        window = (options.batch_size or 32) * (options.seq_length or 64)
        affords = options.steps * (window if not records else (options.batch_size or BATCH / mean) * mean)
    else:
        affords = (options.epochs or 1) * characters
    # One layer is quick, and soon knows a small text by heart: what it would read often is given two.
    best = next(sizes for sizes in SIZES if affords < sizes[0] and (sizes[1] > 1 or affords < OFTEN * characters))
    _, layers, hidden_size, batch_size, seq_length, learning_rate = best
    layers = pick("layers", layers)
    hidden_size = pick("hidden_size", next(min(units, hidden_size) for most, units in WIDEST if characters < most))
    if records:
        seq_length = options.seq_length or LONGEST
        batch_size = min(records, options.batch_size or max(1, min(round(BATCH / mean), records // 4)))
    else:
        seq_length = options.seq_length or seq_length
        batch_size = options.batch_size or max(1, min(batch_size, characters // (WINDOWS * seq_length)))
    work = max(layers - 0.5, 0.5) / 0.5 * (hidden_size / 256) ** 2 if layers else 0.1  # for a character, in the reference's
    passes = affords / work / characters if options.seconds is not None else affords / characters
    by_heart = options.validation == 0.0
    most_passes = 0.0 if by_heart or options.seconds is None else MOST_PASSES
    if 0 < most_passes < passes:
        passes = most_passes
        notes.append(
            f"the text is read {MOST_PASSES} times at most, since more would only learn it by heart; "
            "the run ends when that is done (--epochs reads it as often as you like)"
        )
    _, dropout, recurrent_dropout, weight_decay = next(row for row in REGULARIZATION if passes < row[0] or by_heart)
    if options.dropout == 0:
        recurrent_dropout = 0.0
    if not layers:
        learning_rate = 0.05  # it is convex
    elif hidden_size < MUON_FROM:
        learning_rate = 0.02 / math.sqrt(layers)
    fitted = (batch_size, seq_length) if records else fit_windows(characters, batch_size, seq_length)
    if fitted != (batch_size, seq_length) and (options.batch_size or options.seq_length):
        notes.append(f"the text is short: cut into {fitted[0]} streams and windows of {fitted[1]} characters")
    recipe = Recipe(
        cell=pick("cell", "lstm"),
        layers=layers,
        hidden_size=hidden_size,
        embedding=pick("embedding", min(32, vocabulary)),
        seq_length=fitted[1],
        batch_size=fitted[0],
        dropout=pick("dropout", dropout),
        learning_rate=pick("learning_rate", float(f"{learning_rate:.2g}")),
        seed=options.seed,
        precision=precision if (layers and hidden_size >= 128) or options.precision != "auto" else "float32",
        residual=network.get("residual", False) if network else True,
        passes=float(f"{passes:.2g}"),
        weight_decay=weight_decay,
        recurrent_dropout=recurrent_dropout if layers else 0.0,
        most_passes=most_passes,
        records=options.records,
    )
    at_once = max(batch_size * mean, seq_length) if records else fitted[0] * fitted[1]
    _require_memory(recipe, vocabulary, logits or vocabulary, at_once)
    return recipe, notes


def _require_memory(recipe: Recipe, vocabulary: int, logits: int, window: float) -> None:
    """Refuse a network that the machine's memory could not hold, before any of it is allocated; `window` is in characters."""
    H = recipe.hidden_size
    weights = 16 * (recipe.layers * 8 * H**2 + vocabulary * (H + recipe.embedding))  # with the optimizer's
    activations = window * (60 * recipe.layers * H + 12 * logits)
    need, have = (weights + activations) / 2**30, _memory() / 2**30
    if need > have:
        cure = "take less --hidden-size, --layers, --batch-size or --seq-length"
        raise CharrnnError(f"this network would take about {need:,.0f} GiB of memory, and {have:.0f} are here; {cure}")


def parse_duration(text: str) -> float:
    """Seconds in `text`: "90", "90s", "5m", "1h30m", "0.5h". Raises: CharrnnError where it is none, or not above 0."""
    match = re.fullmatch(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text.strip())
    try:
        parts = [float(part or 0) for part in match.groups()] if match and text.strip() else []
    except ValueError:
        parts = []
    if not parts:
        raise CharrnnError(f"--for {text!r} is no length of time; write 30s, 5m or 1h30m")
    seconds = sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=True))
    if not 0 < seconds <= 3650 * 86400:
        raise CharrnnError(f"--for {text!r} is not above 0 and at most ten years")
    return seconds


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 40


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CharrnnError(message)
