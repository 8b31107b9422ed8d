"""How to train: `choose` fills in what the user left open, from the sizes of text and training. It knows no torch."""

import math
import os
from dataclasses import dataclass, replace
from typing import TypeVar

from charrnn.errors import CharrnnError
from charrnn.headers import Json
from charrnn.network.cells import CELLS
from charrnn.network.config import Config
from charrnn.options import Options, Recipe, flag_of
from charrnn.text.records import LONGEST
from charrnn.training.batches import fit_windows

T = TypeVar("T")

MUON_FROM = 64  # hidden units from which on Muon trains the recurrent matrices; below, and for the rest, it is Adam
REFERENCE = ("lstm", 1, 256, 32)  # the network in whose characters a length of training is reckoned
WIDEST = ((4e3, 64), (2e4, 128), (3e5, 256), (math.inf, 512))  # units for a text of less than so many characters
WINDOWS = 50  # at least, one after the other, in a reading of a text
OFTEN = 30  # epochs from which on one layer is not enough
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
FINE_TUNING = (0.1, 0.1, 0.1)  # the same for fine-tuning, where the text is read at least REREAD times
REREAD = 1.5
RATES = (0.05, 0.7)  # the least and the largest learning rate of fine-tuning, as fractions of that from scratch
MAX_EPOCHS = 25  # over the training text in a length of time; more learns it by heart, whatever is done against that
BATCH = 2_000  # characters in a batch of records
COLUMNS = 16  # sequences of a shard, at least, where there are more than two: cells multiply few hardly faster than many
WORTH = 3e7, 1e8  # multiplications of a step from which on it is quicker in two shards, and of a shard, where there are more


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the text and the machine when a recipe is chosen."""

    characters: int  # of the training text
    vocabulary_size: int
    precision: str = "float32"  # that the device multiplies fastest
    speed: float = SPEED  # characters per second of the REFERENCE network
    base: Config | None = None  # of the model to begin with, whose sizes are kept
    base_bits: float = math.inf  # per character, that the text costs the base; infinite: it lacks the text's characters
    records: int = 0  # how many the text has, where the options take it for records
    logits: int | None = None  # that a step computes for each character; None: one for each of the vocabulary
    columns: int = COLUMNS  # sequences of a shard, as measured where a length in time is asked for

    @property
    def rate(self) -> float:
        """The learning rate as a fraction of that from scratch, which unlearns what a base knows.

        The more a text has to teach, the larger it may be: the longer the text, and the less the base expects it.

        >>> sizes = Config(89, num_layers=2, hidden_size=384, embedding_size=32)
        >>> facts = Facts(characters=100_000, vocabulary_size=89, base=sizes, base_bits=2.5)
        >>> facts.rate, round(replace(facts, characters=20_000).rate, 2), replace(facts, base_bits=5).rate
        (0.3, 0.1, 0.7)
        """
        if math.isinf(self.base_bits):
            return 1.0
        taught: float = 0.3 * (self.characters / 1e5) ** (2 / 3) * 3 ** (self.base_bits - 2.5)
        least, largest = RATES
        return max(least, min(largest, taught))

    @property
    def mean_length(self) -> float:
        """Characters of a record on average."""
        return self.characters / max(self.records, 1)


def choose(options: Options, facts: Facts) -> tuple[Recipe, list[str]]:
    """Fill in what `options` leave open. Returns: the recipe, and notes for the user. Reasons are in `benchmarks/TRIALS.md`.

    Raises: CharrnnError where the text is too short to learn from, or a size contradicts the base model.
    """
    if facts.characters < 2:
        raise CharrnnError(f"the training text has {facts.characters} character; at least 2 are needed")
    if facts.base is not None:
        options = _with_sizes_of(facts.base, options)
    affordable = _affordable_characters(options, facts)
    # One layer is quick, and soon overfits a small text: what would be read for many epochs is given two.
    often = affordable >= OFTEN * facts.characters
    _, layers, units, batch_size, seq_length, learning_rate = next(
        sizes for sizes in SIZES if affordable < sizes[0] and (sizes[1] > 1 or not often)
    )
    num_layers = _first(options.num_layers, layers)
    widest = next(most for characters, most in WIDEST if facts.characters < characters)
    hidden_size = _first(options.hidden_size, min(widest, units))
    batch_size, seq_length, notes = _fit_batches(options, facts, batch_size, seq_length)
    work = relative_work(num_layers, hidden_size)
    epochs, max_epochs, more = _plan_epochs(options, facts, affordable if options.seconds is None else affordable / work)
    by_heart = options.validation == 0.0
    _, dropout, recurrent_dropout, weight_decay = next(row for row in REGULARIZATION if epochs < row[0] or by_heart)
    if not num_layers:
        learning_rate = 0.05  # it is convex
    elif hidden_size < MUON_FROM:
        learning_rate = 0.02 / math.sqrt(num_layers)
    learning_rate *= facts.rate
    if facts.rate < 1:
        dropout, recurrent_dropout, weight_decay = FINE_TUNING if epochs >= REREAD and not by_heart else (0.0, 0.0, 0.0)
    large = num_layers > 0 and hidden_size >= 128
    recipe = Recipe(
        cell=options.cell,
        num_layers=num_layers,
        hidden_size=hidden_size,
        embedding_size=_first(options.embedding_size, min(32, facts.vocabulary_size)),
        seq_length=seq_length,
        batch_size=batch_size,
        dropout=_first(options.dropout, dropout),
        learning_rate=_first(options.learning_rate, float(f"{learning_rate:.2g}")),
        seed=options.seed,
        precision=facts.precision if large or options.precision != "auto" else "float32",
        residual=facts.base.residual if facts.base is not None else True,
        epochs=float(f"{epochs:.2g}"),
        weight_decay=weight_decay,
        recurrent_dropout=recurrent_dropout if num_layers and options.dropout != 0 else 0.0,
        max_epochs=max_epochs,
        records=options.records,
    )
    length = facts.mean_length if facts.records else recipe.seq_length
    recipe = replace(recipe, shards=count_shards(recipe, length, facts.columns))
    _require_memory(recipe, facts)
    return recipe, more + notes + _doubt_base(options, facts, epochs)


def relative_work(num_layers: int, hidden_size: int) -> float:
    """The work of a character as a multiple of that of the REFERENCE network."""
    return max(num_layers - 0.5, 0.5) / 0.5 * (hidden_size / 256) ** 2 if num_layers else 0.1


def count_shards(recipe: Recipe, length: float, columns: int = COLUMNS) -> int:
    """Into how many shards to cut a batch of sequences of so many characters, each of at least so many `columns`: 1 to 16."""
    H = recipe.hidden_size
    inputs = [recipe.embedding_size, *[H] * recipe.num_layers][: recipe.num_layers]
    work = recipe.batch_size * length * sum(len(CELLS[recipe.cell].gates) * H * (H + D) for D in inputs)
    if work < WORTH[0] or recipe.batch_size < 4:
        return 1
    shards = 2
    while shards < 16 and recipe.batch_size >= 2 * shards * columns and work >= 2 * shards * WORTH[1]:
        shards *= 2
    return shards


def _first(asked: T | None, default: T) -> T:
    return default if asked is None else asked


def _with_sizes_of(base: Config, options: Options) -> Options:
    """The options with the sizes of the model to begin with. Raises: CharrnnError where they ask for others."""
    sizes: Json = {name: getattr(base, name) for name in ("cell", "num_layers", "hidden_size", "embedding_size")}
    for name, has in sizes.items():
        asked = getattr(options, name)
        if asked not in (None, has) and (name != "cell" or asked != "lstm"):
            raise CharrnnError(f"{flag_of(name)} {asked}: the model to begin with has {has}")
    return replace(options, **sizes | {"hidden_size": max(base.hidden_size, 1)})


def _affordable_characters(options: Options, facts: Facts) -> float:
    """How many characters the training affords: for a time, those that the reference network would learn in it."""
    if options.seconds is not None:
        return options.seconds * facts.speed
    if options.steps is None:
        return (options.epochs or 1) * facts.characters
    if facts.records:
        return options.steps * ((options.batch_size or BATCH / facts.mean_length) * facts.mean_length)
    return options.steps * ((options.batch_size or 32) * (options.seq_length or 64))


def _fit_batches(options: Options, facts: Facts, batch_size: int, seq_length: int) -> tuple[int, int, list[str]]:
    """The batch size and sequence length that are asked for or, from those suggested, that the text fills; and notes."""
    if facts.records:
        suggested = max(1, min(round(BATCH / facts.mean_length), facts.records // 4))
        return min(facts.records, options.batch_size or suggested), options.seq_length or LONGEST, []
    seq_length = options.seq_length or seq_length
    batch_size = options.batch_size or max(1, min(batch_size, facts.characters // (WINDOWS * seq_length)))
    fitting = fit_windows(facts.characters, batch_size, seq_length)
    note = f"the text is short: batch size {fitting[0]}, sequence length {fitting[1]}"
    refused = fitting != (batch_size, seq_length) and (options.batch_size or options.seq_length)
    return *fitting, [note] if refused else []


def _plan_epochs(options: Options, facts: Facts, characters: float) -> tuple[float, float, list[str]]:
    """How many epochs so many characters are, the most that are trained (0: no limit), and notes."""
    epochs = characters / facts.characters
    if options.validation == 0.0 or options.seconds is None:
        return epochs, 0.0, []
    most = round(MAX_EPOCHS * max(facts.rate, 1 / 3))
    note = f"stops after {most} epochs to avoid overfitting (change with --epochs)"
    return min(epochs, most), most, [note] if epochs > most else []


def _doubt_base(options: Options, facts: Facts, epochs: float) -> list[str]:
    """A note where training from scratch may well give a better model than the base does."""
    if facts.base is None:
        return []
    if math.isinf(facts.base_bits):
        return ["the model to fine-tune has few of this text's characters; try without --init-from as well"]
    if options.seconds is None or epochs >= REREAD:
        return []
    sizes = f"{facts.base.num_layers} x {facts.base.hidden_size}"
    return [f"only about {epochs:.1g} epochs of a {sizes} model fit in this time; allow more, or try without --init-from"]


def _require_memory(recipe: Recipe, facts: Facts) -> None:
    """Refuse a network that the machine's memory could not hold, before any of it is allocated."""
    H = recipe.hidden_size
    weights = 16 * (recipe.num_layers * 8 * H**2 + facts.vocabulary_size * (H + recipe.embedding_size))  # and the optimizer's
    per_character = 60 * recipe.num_layers * H + 12 * (facts.logits or facts.vocabulary_size)
    characters = recipe.batch_size * (facts.mean_length if facts.records else recipe.seq_length)
    activations = max(characters, recipe.seq_length) * per_character
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, OSError, ValueError):  # not every system says
        have = 1024.0
    need = (weights + activations) / 2**30
    if need > have:
        cure = "take less --hidden-size, --layers, --batch-size or --seq-length"
        raise CharrnnError(f"this network would take about {need:,.0f} GiB of memory, and {have:.0f} are here; {cure}")
