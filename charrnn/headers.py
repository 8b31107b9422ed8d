"""What the files of a run say besides tensors, as dataclasses: headers of models and states, and the lines of a history.

Made of JSON objects, each is checked once, here. Nobody else indexes a header by a string.
"""

import dataclasses
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from charrnn.errors import CharrnnError
from charrnn.network.cells import CELLS
from charrnn.network.config import Config
from charrnn.options import Options, Recipe, to_json
from charrnn.text.records import SEPARATORS
from charrnn.version import __version__

FORMAT = 1
LIMIT = 1 << 24  # no size in a configuration is larger: all of Unicode has 1.1 million characters

Json = dict[str, Any]  # a JSON object
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a validation found: a line of history.jsonl."""

    step: int
    characters: int  # learned from so far
    seconds: float  # spent so far
    train_bits_per_character: float  # a running mean
    validation_bits_per_character: float | None  # None without a validation text
    learning_rate: float
    sample: str | None = None  # what the model wrote then

    @property
    def bits(self) -> float:
        """What the validation is judged by: the validation text's bits per character, or without one the training text's."""
        held_out = self.validation_bits_per_character
        return self.train_bits_per_character if held_out is None else held_out

    def to_dict(self) -> Json:
        """The line as a JSON object."""
        return {name: value for name, value in vars(self).items() if name != "sample" or value is not None}


@dataclass(kw_only=True)
class Counters:
    """How far a run has come."""

    step: int = 0
    characters: int = 0  # learned from
    setbacks: int = 0  # times that the loss diverged and the run went back
    seconds: float = 0.0  # spent, in earlier sittings too
    train_bits: float = 0.0  # bits per character, a running mean


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a run began."""

    sources: list[str]  # files and folders as absolute paths, "-" for standard input
    corpus_hash: str
    options: Options  # with the length that was asked for last
    init_from: str | None = None  # the model whose weights it began with


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model came to be; None for what its file does not say in a usable way."""

    origin: Origin | None = None
    recipe: Recipe | None = None
    metrics: Metrics | None = None


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """What a model's file says besides its tensors."""

    config: Config
    vocabulary: str  # distinct characters in code-point order
    start: str  # the character after which a text begins
    unknown: bool = False  # whether U+FFFD stands for all characters outside the vocabulary
    records: str | None = None  # "line" or "paragraph", where each is a sequence of its own
    training: Training = field(default_factory=Training)
    format: int = FORMAT
    version: str = __version__  # of the charrnn that wrote it


@dataclass(frozen=True, kw_only=True)
class StateHeader:
    """What a state's file says besides its tensors."""

    model: ModelHeader
    origin: Origin
    recipe: Recipe
    counters: Counters
    history: list[Metrics]
    job: str | None = None  # the start of torchrun that wrote it


def model_to_json(header: ModelHeader) -> Json:
    """The header of a model's file."""
    training: Json = {} if header.training.origin is None else _origin_to_json(header.training.origin)
    if header.training.recipe is not None:
        training["recipe"] = to_json(header.training.recipe)
    if header.training.metrics is not None:
        training |= dataclasses.replace(header.training.metrics, sample=None).to_dict()  # the history has the sample
    return _network_to_json(header) | {"training": training}


def state_to_json(header: StateHeader) -> Json:
    """The header of a state's file."""
    return _network_to_json(header.model) | {
        "origin": _origin_to_json(header.origin),
        "recipe": to_json(header.recipe),
        "place": vars(header.counters),
        "history": [metrics.to_dict() for metrics in header.history],
        "job": header.job,
    }


def _network_to_json(header: ModelHeader) -> Json:
    found: Json = {"config": dataclasses.asdict(header.config), "vocabulary": header.vocabulary, "start": header.start}
    if header.records is not None:
        found["records"] = header.records
    return found | {"unknown": True} if header.unknown else found


def _origin_to_json(origin: Origin) -> Json:
    found = {"sources": origin.sources, "fingerprint": origin.corpus_hash, "options": to_json(origin.options)}
    return found if origin.init_from is None else found | {"init_from": origin.init_from}


def parse_model(header: Json) -> ModelHeader:
    """The header of a model's file. Raises: KeyError, TypeError or ValueError where it is unusable."""
    training = _object(header.get("training"))
    return dataclasses.replace(parse_network(header), training=_parse_training(training))


def parse_network(header: Json) -> ModelHeader:
    """The part of a header that describes a network. Raises: KeyError, TypeError or ValueError where it is unusable."""
    vocabulary, start, records = header["vocabulary"], header["start"], header.get("records")
    names = ("vocabulary_size", "cell", "num_layers", "hidden_size", "embedding_size")
    config = parse(Config, {"residual": False, **_object(header["config"])}, required=names)
    if not isinstance(vocabulary, str) or list(vocabulary) != sorted(set(vocabulary)) or not vocabulary:
        raise ValueError("the vocabulary is not a text of distinct characters in code-point order")
    if not isinstance(start, str) or len(start) != 1 or start not in vocabulary:
        raise ValueError("its start is not a character of the vocabulary")
    if records not in (None, *SEPARATORS) or (records and start != "\n"):
        raise ValueError(f"its records are none of {', '.join(SEPARATORS)}, or don't begin after a line break")
    vocabulary.encode("utf-8")  # raises ValueError where a character is none of Unicode's
    sizes = (config.vocabulary_size, config.num_layers, config.hidden_size, config.embedding_size)
    if not all(0 <= size <= LIMIT for size in sizes):
        raise ValueError("a size is not a whole number in range")
    unknown = header.get("unknown", False)
    if unknown not in (False, True) or (unknown and "\ufffd" not in vocabulary):
        raise ValueError("its symbol for unknown characters is not in the vocabulary")
    H, layers = config.hidden_size, config.num_layers
    if len(vocabulary) != config.vocabulary_size or layers > 1000 or H > 65536 or (layers and not H):
        raise ValueError("its sizes don't fit together")
    if config.cell not in CELLS:
        raise ValueError(f"its cell is none of {', '.join(CELLS)}")
    return ModelHeader(
        config=config,
        vocabulary=vocabulary,
        start=start,
        unknown=bool(unknown),
        records=records,
        format=header["format"],
        version=str(header.get("version", "unknown")),
    )


def _parse_training(values: Json) -> Training:
    return Training(
        origin=_parse_or_none(_parse_origin, values),
        recipe=_parse_or_none(lambda found: parse(Recipe, found["recipe"]), values),
        metrics=_parse_or_none(parse_metrics, values),
    )


def _parse_or_none(parser: Callable[[Json], T], values: Json) -> T | None:
    try:
        return parser(values)
    except (KeyError, TypeError, ValueError, OverflowError, CharrnnError):
        return None


def _parse_origin(values: Json) -> Origin:
    init_from = values.get("init_from")
    return Origin(
        sources=[str(source) for source in values["sources"]],
        corpus_hash=str(values["fingerprint"]),
        options=parse(Options, values["options"]),
        init_from=None if init_from is None else str(init_from),
    )


def parse_state(header: Json) -> StateHeader:
    """The header of a state's file. Raises: KeyError, TypeError, ValueError or CharrnnError where it is unusable."""
    model = parse_network(header)
    origin = _parse_origin(header["origin"])
    recipe = parse(Recipe, header["recipe"])
    Options(dropout=recipe.dropout, learning_rate=recipe.learning_rate, seed=recipe.seed, precision=recipe.precision)
    if recipe.records != origin.options.records or model.records != origin.options.records:
        raise ValueError("its records are of two kinds")
    config = Config(
        vocabulary_size=model.config.vocabulary_size,
        cell=recipe.cell,
        num_layers=recipe.num_layers,
        hidden_size=recipe.hidden_size,
        embedding_size=recipe.embedding_size,
        residual=recipe.residual,
    )
    if config != model.config:
        raise ValueError("its recipe is not that of its network")
    place, job = _object(header["place"]), header.get("job")
    counters = Counters(
        step=parse_whole(place["step"]),
        characters=parse_whole(place["characters"]),
        setbacks=parse_whole(place["setbacks"]),
        seconds=parse_number(place["seconds"]),
        train_bits=parse_number(place["train_bits"]),
    )
    history = [parse_metrics(line) for line in header["history"]]
    job = job if isinstance(job, str) else None
    return StateHeader(model=model, origin=origin, recipe=recipe, counters=counters, history=history, job=job)


def parse_metrics(line: Any) -> Metrics:
    """A line of a history; what it holds besides is left out. Raises: KeyError, TypeError or ValueError."""
    found = _object(line)
    held_out, sample = found["validation_bits_per_character"], found.get("sample")
    if not (sample is None or isinstance(sample, str)):
        raise TypeError("its sample is no text")
    return Metrics(
        step=parse_whole(found["step"]),
        characters=parse_whole(found["characters"]),
        seconds=parse_number(found["seconds"]),
        train_bits_per_character=parse_number(found["train_bits_per_character"]),
        validation_bits_per_character=None if held_out is None else parse_number(held_out),
        learning_rate=parse_number(found["learning_rate"]),
        sample=sample,
    )


def parse(kind: type[T], values: Any, required: Sequence[str] = ()) -> T:
    """Make the dataclass `kind` of a JSON object, each field held to its declared type.

    Raises: KeyError where a `required` field is missing or one is unknown, TypeError.
    """
    names = {key: name for name, key in getattr(kind, "KEYS", {}).items()}
    hints = typing.get_type_hints(kind)
    found = {names.get(key, key): value for key, value in _object(values).items()}
    missing = set(required) - set(found)
    if missing:
        raise KeyError(min(missing))
    for name, value in found.items():
        allowed = typing.get_args(hints[name]) or (hints[name],)
        if type(value) not in allowed and not (type(value) is int and float in allowed):
            raise TypeError(f"{name} is {value!r}"[:100])
    return kind(**found)


def parse_whole(value: Any) -> int:
    """`value`, held to be a whole number from 0 to 2^53. Raises: TypeError."""
    if type(value) is not int or not 0 <= value <= 1 << 53:
        raise TypeError(f"{value!r} is no whole number"[:100])
    return value


def parse_number(value: Any) -> float:
    """`value`, held to be a finite number. Raises: TypeError."""
    if type(value) not in (int, float) or not abs(value) <= 1e300:
        raise TypeError(f"{value!r} is no number"[:100])
    return float(value)


def _object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise TypeError("it is no object")
    return value
