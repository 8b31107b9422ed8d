"""Headers of model and state files, and lines of a run's history, as dataclasses.

JSON is parsed and checked only here. KEYS of a class lists the fields that have another name in files.
"""

import contextlib
import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from charrnn.errors import CharrnnError
from charrnn.network.cells import CELLS
from charrnn.network.config import Config
from charrnn.options import Options, Recipe
from charrnn.text.records import SEPARATORS
from charrnn.version import __version__

FORMAT = 2  # the newest format that this version reads; a file names the oldest format that has all its fields
LARGEST_SIZE = 1 << 24  # largest size in a configuration
LEFT_OUT = {"epochs", "init_from", "sample", "records"}  # not written to JSON when they are None

Json = dict[str, Any]  # a JSON object
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The result of a validation: a line of history.jsonl."""

    step: int
    characters: int  # trained on so far
    seconds: float  # spent so far
    epochs: float | None = None  # trained so far; None in files of earlier versions
    train_bits_per_character: float  # a running mean
    validation_bits_per_character: float | None  # None without validation text
    learning_rate: float
    sample: str | None = None  # a sample of the model at this step

    @property
    def bits(self) -> float:
        """The loss to compare models by: validation loss or, without validation text, training loss."""
        held_out = self.validation_bits_per_character
        return self.train_bits_per_character if held_out is None else held_out


@dataclass(kw_only=True)
class Counters:
    """The progress of a run."""

    step: int = 0
    characters: int = 0  # trained on
    setbacks: int = 0  # times that the loss diverged
    seconds: float = 0.0  # spent in all sessions
    train_bits: float = 0.0  # bits per character, a running mean


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a run was started."""

    KEYS: ClassVar = {"corpus_hash": "fingerprint"}

    sources: list[str]  # files and folders as absolute paths, "-" for standard input
    corpus_hash: str
    options: Options  # with the length of the last session
    init_from: str | None = None  # the model that is fine-tuned

    @property
    def texts(self) -> list[str]:
        """The sources, and the validation file if there is one."""
        validation = self.options.validation
        return [*self.sources, validation] if isinstance(validation, str) else self.sources


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model was trained. Fields are None if the file does not have them, or not in usable form."""

    origin: Origin | None = None
    recipe: Recipe | None = None
    metrics: Metrics | None = None


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """The header of a model file."""

    config: Config
    vocabulary: str  # distinct characters in code-point order
    start: str  # the start character: the input before the first character
    unknown: bool = False  # whether U+FFFD represents all characters outside the vocabulary
    records: str | None = None  # "line" or "paragraph" for a line-by-line model
    training: Training = field(default_factory=Training)
    format: int = 1
    version: str = __version__  # of charrnn, when the file was written


@dataclass(frozen=True, kw_only=True)
class StateHeader:
    """The header of a state file."""

    KEYS: ClassVar = {"counters": "place"}

    model: ModelHeader
    origin: Origin
    recipe: Recipe
    counters: Counters
    history: list[Metrics]
    job: str | None = None  # identifies the start of torchrun, see training.distributed.find_job


def to_json(values: Any) -> Json:
    """Convert a dataclass to a JSON object."""
    keys = getattr(values, "KEYS", {})
    return {
        keys.get(name, name): to_json(value) if dataclasses.is_dataclass(value) else value
        for name, value in vars(values).items()
        if value is not None or name not in LEFT_OUT or isinstance(values, (Options, Recipe))
    }


def model_to_json(header: ModelHeader) -> Json:
    """Convert the header of a model file to JSON."""
    origin, recipe, metrics = to_json(header.training).values()
    training = (origin or {}) | ({"recipe": recipe} if recipe else {}) | (metrics or {})
    training.pop("sample", None)  # the history has it
    left_out = ("format", "version", "" if header.unknown else "unknown")
    values = to_json(header) | {"training": training}
    return {name: value for name, value in values.items() if name not in left_out}


def state_to_json(header: StateHeader) -> Json:
    """Convert the header of a state file to JSON."""
    history = [to_json(metrics) for metrics in header.history]
    values = model_to_json(header.model) | to_json(header) | {"history": history}
    return {name: value for name, value in values.items() if name not in ("model", "training")}


def parse_model(header: Json) -> ModelHeader:
    """Parse the header of a model file. Raises: KeyError, TypeError or ValueError if it is unusable."""
    values = _object(header.get("training"))
    usable: Json = {}
    for name, kind in (("origin", Origin), ("recipe", Recipe), ("metrics", Metrics)):
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError, CharrnnError):
            usable[name] = parse(Recipe, values.get(name)) if kind is Recipe else parse(kind, values, exact=False)
    return dataclasses.replace(parse_network(header), training=Training(**usable))


def parse_network(header: Json) -> ModelHeader:
    """Parse the part of a header that describes the network. Raises: KeyError, TypeError or ValueError if it is unusable."""
    vocabulary, start, records = header["vocabulary"], header["start"], header.get("records")
    config = parse(Config, {"residual": False, **_object(header["config"])}, complete=True)
    if not isinstance(vocabulary, str) or list(vocabulary) != sorted(set(vocabulary)) or not vocabulary:
        raise ValueError("the vocabulary is not a text of distinct characters in code-point order")
    if not isinstance(start, str) or len(start) != 1 or start not in vocabulary:
        raise ValueError("its start is not a character of the vocabulary")
    if records not in (None, *SEPARATORS) or (records and start != "\n"):
        raise ValueError(f"its records are not one of {', '.join(SEPARATORS)}, or don't begin after a line break")
    vocabulary.encode("utf-8")  # raises ValueError for lone surrogates
    V, H, layers = config.vocabulary_size, config.hidden_size, config.num_layers
    if max(V, H, layers, config.embedding_size) > LARGEST_SIZE:
        raise ValueError("a size is not a whole number in range")
    unknown = header.get("unknown", False)
    if unknown not in (False, True) or (unknown and "\ufffd" not in vocabulary):
        raise ValueError("its symbol for unknown characters is not in the vocabulary")
    if len(vocabulary) != V or layers > 1000 or H > 65536 or (layers and not H):
        raise ValueError("its sizes don't fit together")
    if config.cell not in CELLS:
        raise ValueError(f"its cell is not one of {', '.join(CELLS)}")
    facts: Json = {"format": header["format"], "version": str(header.get("version", "unknown"))}
    return ModelHeader(config=config, vocabulary=vocabulary, start=start, unknown=bool(unknown), records=records, **facts)


def parse_state(header: Json) -> StateHeader:
    """Parse the header of a state file. Raises: KeyError, TypeError, ValueError or CharrnnError if it is unusable."""
    model = parse_network(header)
    origin = parse(Origin, header["origin"], exact=False)
    recipe = parse(Recipe, header["recipe"])
    Options(dropout=recipe.dropout, learning_rate=recipe.learning_rate, seed=recipe.seed, precision=recipe.precision)
    if recipe.records != origin.options.records or model.records != origin.options.records:
        raise ValueError("its records are of two kinds")
    if any(getattr(recipe, name) != value for name, value in vars(model.config).items() if name != "vocabulary_size"):
        raise ValueError("its recipe is not that of its network")
    counters = parse(Counters, header["place"], complete=True)
    history = [parse(Metrics, line, exact=False) for line in header["history"]]
    job = header["job"] if isinstance(header.get("job"), str) else None
    return StateHeader(model=model, origin=origin, recipe=recipe, counters=counters, history=history, job=job)


def parse(kind: type[T], values: Any, complete: bool = False, exact: bool = True) -> T:
    """Convert JSON to the dataclass `kind`. Raises: TypeError; KeyError for missing (`complete`) or unknown keys (`exact`)."""
    hints, keys = typing.get_type_hints(kind), getattr(kind, "KEYS", {})
    names = {keys.get(name, name): name for name in hints if name not in ("KEYS", "EARLIER")}  # key -> field
    values = getattr(kind, "EARLIER", {}) | _object(values)
    missing, unknown = names.keys() - values.keys(), values.keys() - names.keys()
    if odd := (missing if complete else set()) | (unknown if exact else set()):
        raise KeyError(min(odd))
    return kind(**{names[key]: _convert(hints[names[key]], value, names[key]) for key, value in values.items() if key in names})


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Check that `value` has the type `hint`; integers must be in [0, 2^63), other numbers finite. Raises: TypeError."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse(hint, value)
    if typing.get_origin(hint) is list:
        return [_convert(typing.get_args(hint)[0], item, name) for item in value]
    if type(value) is int and int in allowed and 0 <= value < 1 << 63:
        return value
    if type(value) in (int, float) and float in allowed and abs(value) <= 1e300:
        return float(value) if type(value) is float or int not in allowed else value
    if type(value) not in (int, float) and type(value) in allowed:
        return value
    raise TypeError(f"{name} is {value!r}"[:100])


def _object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise TypeError("it is no object")
    return value
