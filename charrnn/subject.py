"""What a report is about: the text that a run was validated on, found again, and the history that it keeps."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charrnn import checkpoint
from charrnn.checkpoint import HISTORY
from charrnn.corpus import Corpus
from charrnn.errors import CharrnnError
from charrnn.inference import Model
from charrnn.reading import STDIN, Watch
from charrnn.recipe import Options
from charrnn.texts import read_texts, require_there

FIGURES = "step", "characters", "seconds", "train_bits_per_character", "learning_rate"  # that each validation has


@dataclass(frozen=True)
class Subject:
    """The text that a report colours."""

    text: Corpus
    what: str  # which one it is, for a heading


def validation_text(model: Model, watch: Watch | None = None) -> Subject:
    """The text that the run was validated on, read anew from where its model says that it came from.

    Raises: CharrnnError that says what to name, where it can't be found again or there was none.
    """
    folder = model.path.parent if model.path is not None else Path()
    name = f"name the text to colour: charrnn report {folder} TEXT"
    origin = model.header["training"]
    try:
        options = checkpoint.typed(Options, origin["options"])
        sources, fingerprint = [str(source) for source in origin["sources"]], str(origin["fingerprint"])
    except (KeyError, TypeError, ValueError, CharrnnError):
        raise CharrnnError(f"{model.path} does not say which text it was validated on; {name}") from None
    if not options.validation:
        raise CharrnnError(f"{folder} was not validated on any text; {name}")
    if STDIN in sources:
        raise CharrnnError(f"{folder} was trained on a pipe; {name}")
    require_there(sources, options.validation, name)
    texts = read_texts(sources, options, watch)
    held_out, found = texts.held_out, texts.fingerprint
    if found != fingerprint:
        raise CharrnnError(f"the text {sources[0]} is not the one that {folder} was trained on; {name}")
    if not len(held_out):
        raise CharrnnError(f"{folder} held no text out; {name}")
    return Subject(held_out, "the text that it was validated on")


def history(folder: Path) -> list[dict[str, Any]]:
    """The validations of the run in `folder`, in order; none where it keeps no history.

    Raises: CharrnnError where the file is damaged.
    """
    try:
        lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise CharrnnError(f"{folder / HISTORY} can't be read: {getattr(error, 'strerror', None) or error}") from None
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            figures = [record[key] for key in FIGURES]
            if record["validation_bits_per_character"] is not None:
                figures.append(record["validation_bits_per_character"])
            if not all(math.isfinite(checkpoint.number(figure)) for figure in figures):
                raise ValueError("a figure is none")
            if not isinstance(record.get("sample", ""), str):
                raise TypeError("its sample is no text")
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CharrnnError(
                f"{folder / HISTORY} is damaged in line {number}; without it the report leaves the curves out"
            ) from None
        records.append(record)
    return records
