"""Choose the training recipe: `choose` fills in every option that the user left out. This module does not import torch."""

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

MUON_FROM = 64  # hidden size from which Muon trains the matrices between hidden units; Adam trains everything else
REFERENCE = ("lstm", 1, 256, 32)  # cell, layers, hidden size, embedding size: the network that measures training work
MAX_HIDDEN_SIZE = ((4e3, 64), (2e4, 128), (3e5, 256), (math.inf, 512))  # (text length, largest hidden size for shorter texts)
MIN_STEPS_PER_EPOCH = 50  # the batch size is reduced for short texts so that an epoch has at least this many steps
MIN_EPOCHS_FOR_TWO_LAYERS = 30
SPEED = 110_000  # characters per second of REFERENCE on two cores; measured when the length of the run is a time
# The best sizes by length of training, as measured. A row holds for runs of fewer characters (of REFERENCE) than its first
# number, then come layers, hidden size, batch size, sequence length and learning rate. Short runs need many quick steps of
# one layer; a second layer pays off after half a minute of training, a larger hidden size after a minute and a half.
SIZES = (
    (2.2e6, 1, 192, 32, 32, 0.015),
    (4e6, 1, 256, 32, 48, 0.0125),
    (9e6, 2, 256, 32, 64, 0.01),
    (17e6, 2, 384, 32, 64, 0.01),
    (100e6, 2, 384, 64, 64, 0.0125),
    (math.inf, 2, 512, 64, 64, 0.0125),
)

# Regularization by number of epochs. A row holds for fewer epochs than its first number, then come dropout between layers,
# dropout of recurrent weights (DropConnect, Merity et al. 2018) and weight decay.
REGULARIZATION = (
    (1.5, 0.0, 0.0, 0.0),
    (4, 0.0, 0.0, 0.03),
    (8, 0.2, 0.05, 0.1),
    (16, 0.3, 0.1, 0.1),
    (math.inf, 0.5, 0.15, 0.1),
)
FINE_TUNING = (0.1, 0.1, 0.1)  # the same three when fine-tuning for at least FEW_EPOCHS
FEW_EPOCHS = 4  # fewer are regularized as from scratch
# A base model's first layer alone learns more than the whole model, since it is faster, if a text costs the base model at least
# STRANGE bits per character and the whole model would train on fewer than FEW_EPOCHS and on fewer characters than this.
STRANGE = 4.0
FEW_CHARACTERS = 250_000
FEW_IN_SHORT_RECORDS = 1_700_000  # of fewer than SHORT_RECORD characters on average
SHORT_RECORD = 20
MIN_FINE_TUNING_RATE = 0.02  # smallest learning rate of fine-tuning, as a fraction of that from scratch; the largest is 1
MAX_EPOCHS = 25  # most epochs of a run for a time: more would overfit in spite of the regularization
BATCH_CHARACTERS = 2_000  # in a batch of records
BATCH_LOGITS = 100_000_000  # most logits per step: with more than 20,000 characters in the vocabulary, batches are smaller
LOGIT_BYTES = 32  # of memory per logit, forward and backward, as measured
WEIGHT_BYTES = 40  # of memory per weight: itself, gradient, optimizer, and copies of all of them when the state is saved
COLUMNS = 16  # fewest sequences per shard if there are more than two: fewer take nearly as long
MIN_SHARD_WORK = 3e7, 1e8  # multiplications: per step, for two shards to be faster than one; per shard, for more


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts about text, machine and base model that the recipe depends on."""

    characters: int  # in the training text
    vocabulary_size: int
    precision: str = "float32"  # the fastest on this device
    speed: float = SPEED  # characters per second of the REFERENCE network
    base: Config | None = None  # the base model to fine-tune, whose sizes are kept
    base_bits: float = math.inf  # bits per character of the base on the text; infinite if it has too few of its characters
    records: int = 0  # number of records; 0 for continuous text
    logits: int | None = None  # logits computed per character; None: the whole vocabulary
    columns: int = COLUMNS  # fewest sequences per shard; measured when the length of the run is a time

    @property
    def rate(self) -> float:
        """The learning rate of fine-tuning, as a fraction of the learning rate from scratch.

        A large rate makes the base model forget what it has learned, a small rate learns little of the new text. So the rate
        grows with the length of the text and with its bits per character under the base model. Records take a larger rate,
        since a base model of continuous text has not learned where they start and end. A base model that has few of the text's
        characters has nothing to forget.

        >>> sizes = Config(89, num_layers=2, hidden_size=256, embedding_size=32)
        >>> facts = Facts(characters=100_000, vocabulary_size=89, base=sizes, base_bits=3)
        >>> facts.rate, round(replace(facts, characters=25_000).rate, 3), replace(facts, records=1_000).rate
        (0.14, 0.07, 0.56)
        """
        if self.base is None or math.isinf(self.base_bits):
            return 1.0
        taught: float = 0.14 * math.sqrt(self.characters / 1e5) * 2 ** (min(self.base_bits, 6.0) - 3)
        return max(MIN_FINE_TUNING_RATE, min(1.0, taught * (4 if self.records else 1)))

    @property
    def mean_length(self) -> float:
        """Mean number of characters per record."""
        return self.characters / max(self.records, 1)


def choose(options: Options, facts: Facts) -> tuple[Recipe, list[str]]:
    """Choose every setting that `options` leave open. `benchmarks/TRIALS.md` has the experiments behind the choices.

    Returns: the recipe, and notes for the user.
    Raises: CharrnnError if a size differs from the base model's or the network exceeds the memory.
    """
    affordable = _affordable_characters(options, facts)
    if facts.base is None:
        recipe, notes = _choose_sizes(options, facts, affordable)
    else:
        fitted, base_notes = _fit_base(facts.base, options, facts, affordable)
        recipe, notes = _choose_sizes(fitted, facts, affordable)
        notes += base_notes
    length = facts.mean_length if facts.records else recipe.seq_length
    recipe = replace(recipe, shards=count_shards(recipe, length, facts.columns))
    _require_memory(recipe, facts)
    return recipe, notes


def _choose_sizes(options: Options, facts: Facts, affordable: float) -> tuple[Recipe, list[str]]:
    """Choose the sizes of network and batches that `affordable` characters allow. Returns: the recipe, and notes."""
    many_epochs = affordable >= MIN_EPOCHS_FOR_TWO_LAYERS * facts.characters  # one layer would overfit
    _, layers, units, batch_size, seq_length, rate = next(
        sizes for sizes in SIZES if affordable < sizes[0] and (sizes[1] > 1 or not many_epochs)
    )
    num_layers = _default(options.num_layers, layers)
    widest = next(most for characters, most in MAX_HIDDEN_SIZE if facts.characters < characters)
    hidden_size = _default(options.hidden_size, min(widest, units))
    fitting_batch, fitting_length, refused = _fit_batches(options, facts, batch_size, seq_length)
    work = relative_work(num_layers, hidden_size)
    epochs, max_epochs, stop = _plan_epochs(options, facts, affordable if options.seconds is None else affordable / work)
    dropout, recurrent_dropout, weight_decay = _choose_regularization(options, facts, epochs)
    chosen_rate = _choose_learning_rate(facts, num_layers, hidden_size=hidden_size, large_network_rate=rate)
    large = num_layers > 0 and hidden_size >= 128
    recipe = Recipe(
        cell=options.cell,
        num_layers=num_layers,
        hidden_size=hidden_size,
        embedding_size=_default(options.embedding_size, min(32, facts.vocabulary_size)),
        seq_length=fitting_length,
        batch_size=fitting_batch,
        dropout=_default(options.dropout, dropout),
        learning_rate=_default(options.learning_rate, float(f"{chosen_rate:.2g}")),
        seed=options.seed,
        precision=facts.precision if large or options.precision != "auto" else "float32",
        residual=facts.base.residual if facts.base is not None else True,
        epochs=float(f"{epochs:.2g}"),
        weight_decay=weight_decay,
        recurrent_dropout=recurrent_dropout if num_layers and options.dropout != 0 else 0.0,
        max_epochs=max_epochs,
        records=options.records,
    )
    return recipe, stop + refused


def _choose_regularization(options: Options, facts: Facts, epochs: float) -> tuple[float, float, float]:
    """Returns: dropout between layers, dropout of recurrent weights, weight decay."""
    memorize = options.validation == 0.0
    if facts.base_bits < math.inf and epochs >= FEW_EPOCHS and not memorize:
        return FINE_TUNING
    return next(row[1:] for row in REGULARIZATION if epochs < row[0] or memorize)


def _choose_learning_rate(facts: Facts, num_layers: int, hidden_size: int, large_network_rate: float) -> float:
    """The peak learning rate of Adam."""
    from_scratch = large_network_rate
    if not num_layers:
        from_scratch = 0.05  # without hidden layers the loss is convex
    elif hidden_size < MUON_FROM:
        from_scratch = 0.02 / math.sqrt(num_layers)
    cut = facts.base is not None and num_layers < facts.base.num_layers  # of a strange text it then has nothing to forget
    return from_scratch * (1.0 if cut and facts.base_bits >= STRANGE else facts.rate)


def with_sizes_of(base: Config, options: Options) -> Options:
    """The options with the sizes of the base model, of which they may ask for the first layers only.

    Raises: CharrnnError if they ask for other sizes.
    """
    if options.num_layers is not None and 0 < options.num_layers < base.num_layers:
        base = replace(base, num_layers=options.num_layers)
    sizes: Json = {name: getattr(base, name) for name in ("cell", "num_layers", "hidden_size", "embedding_size")}
    for name, has in sizes.items():
        asked = getattr(options, name)
        if asked not in (None, has) and (name != "cell" or asked != "lstm"):
            raise CharrnnError(f"{flag_of(name)} {asked}: the model to fine-tune has {has}; leave {flag_of(name)} out")
    return replace(options, **sizes | {"hidden_size": max(base.hidden_size, 1)})


def _fit_base(base: Config, options: Options, facts: Facts, affordable: float) -> tuple[Options, list[str]]:
    """Take over the sizes of the base model, or of its first layer if the time is short for this text.

    Returns: the options, and notes for the user.
    """
    few = FEW_IN_SHORT_RECORDS if facts.records and facts.mean_length < SHORT_RECORD else FEW_CHARACTERS
    characters = affordable / relative_work(base.num_layers, base.hidden_size)
    hurried = options.seconds is not None and characters < min(few, FEW_EPOCHS * facts.characters)
    notes = []
    if math.isinf(facts.base_bits):
        notes.append("the model to fine-tune has few of this text's characters; only its recurrent layers are used")
        if hurried:
            notes.append("in so short a time, training without --init-from may give a better model")
    if hurried and facts.base_bits >= STRANGE and options.num_layers is None and base.num_layers > 1:
        base = replace(base, num_layers=1)
        unlike = "this text is unlike the model's and the time is short"
        notes.append(f"{unlike}: only the model's first layer is used (change with --layers)")
    return with_sizes_of(base, options), notes


def relative_work(num_layers: int, hidden_size: int) -> float:
    """Work per character, as a multiple of the REFERENCE network's."""
    return max(num_layers - 0.5, 0.5) / 0.5 * (hidden_size / 256) ** 2 if num_layers else 0.1


def count_shards(recipe: Recipe, length: float, columns: int = COLUMNS) -> int:
    """The number of shards of a batch, 1 to 16, for sequences of mean `length`; see COLUMNS for `columns`."""
    H = recipe.hidden_size
    inputs = [recipe.embedding_size, *[H] * recipe.num_layers][: recipe.num_layers]
    work = recipe.batch_size * length * sum(len(CELLS[recipe.cell].gates) * H * (H + D) for D in inputs)
    if work < MIN_SHARD_WORK[0] or recipe.batch_size < 4:
        return 1
    shards = 2
    while shards < 16 and recipe.batch_size >= 2 * shards * columns and work >= 2 * shards * MIN_SHARD_WORK[1]:
        shards *= 2
    return shards


def _default(asked: T | None, default: T) -> T:
    return default if asked is None else asked


def _affordable_characters(options: Options, facts: Facts) -> float:
    """How many characters the run trains on; for a time, how many the REFERENCE network would train on."""
    if options.seconds is not None:
        return options.seconds * facts.speed
    if options.steps is None:
        return (options.epochs or 1) * facts.characters
    if facts.records:
        return options.steps * ((options.batch_size or BATCH_CHARACTERS / facts.mean_length) * facts.mean_length)
    return options.steps * ((options.batch_size or 32) * (options.seq_length or 64))


def _fit_batches(options: Options, facts: Facts, batch_size: int, seq_length: int) -> tuple[int, int, list[str]]:
    """Reduce batch size and sequence length to what the text fills. Returns: both, and notes for the user."""
    most = BATCH_LOGITS // (facts.logits or facts.vocabulary_size)  # characters
    if facts.records:
        suggested = max(1, min(round(min(BATCH_CHARACTERS, most) / facts.mean_length), facts.records // 4))
        return min(facts.records, options.batch_size or suggested), options.seq_length or LONGEST, []
    seq_length = options.seq_length or seq_length
    most = min(most, facts.characters // MIN_STEPS_PER_EPOCH)
    batch_size = options.batch_size or max(1, min(batch_size, most // seq_length))
    fitting = fit_windows(facts.characters, batch_size, seq_length)
    note = f"the text is short: batch size {fitting[0]}, sequence length {fitting[1]}"
    refused = fitting != (batch_size, seq_length) and (options.batch_size or options.seq_length)
    return *fitting, [note] if refused else []


def _plan_epochs(options: Options, facts: Facts, characters: float) -> tuple[float, float, list[str]]:
    """Returns: the epochs that training on `characters` takes, the most epochs allowed (0: no limit), and notes."""
    epochs = characters / facts.characters
    if options.validation == 0.0 or options.seconds is None:
        return epochs, 0.0, []
    most = round(MAX_EPOCHS * max(facts.rate, 1 / 3))
    note = f"stops after {most} epochs to avoid overfitting (change with --epochs)"
    return min(epochs, most), most, [note] if epochs > most else []


def _require_memory(recipe: Recipe, facts: Facts) -> None:
    """Raise CharrnnError, before anything is allocated, if training the network needs more memory than the machine has."""
    sizes = (recipe.num_layers, recipe.hidden_size, recipe.embedding_size)
    shapes = Config(facts.vocabulary_size, recipe.cell, *sizes).shapes()
    weights = WEIGHT_BYTES * sum(map(math.prod, shapes.values()))
    per_character = 60 * recipe.num_layers * recipe.hidden_size + LOGIT_BYTES * (facts.logits or facts.vocabulary_size)
    if recipe.num_layers and not recipe.embedding_size:  # one-hot vectors
        per_character += 12 * facts.vocabulary_size
    characters = recipe.batch_size * (facts.mean_length if facts.records else recipe.seq_length)
    activations = max(characters, recipe.seq_length) * per_character
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, OSError, ValueError):  # not every system has these names
        have = 1024.0
    need = (weights + activations) / 2**30
    if need > have:
        cure = "use a smaller --hidden-size, --layers, --batch-size, --seq-length or --max-vocabulary"
        raise CharrnnError(f"this network needs about {need:,.0f} GiB of memory, and this machine has {have:.0f}; {cure}")
