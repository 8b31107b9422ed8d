"""How to train: what the user asked for, and a choice for all that was left open.

`choose` is given the options, the size of the corpus and the length of the training; it gives back a complete `Recipe`.
It knows no torch.
"""

import math
import os
from typing import Any

from charrnn.errors import CharrnnError
from charrnn.options import Options, Recipe
from charrnn.text.records import LONGEST
from charrnn.training.batches import fit_windows

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


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 40
