"""What a report is about: the text that a run was validated on, found again, and the history that it keeps."""

from dataclasses import dataclass
from pathlib import Path

from charrnn import checkpoint
from charrnn.errors import CharrnnError
from charrnn.inference.model import Model
from charrnn.options import Options
from charrnn.text.corpus import Corpus
from charrnn.text.reading import STDIN, Watch
from charrnn.training.data import read_texts, require_there


@dataclass(frozen=True)
class ReportText:
    """The text that a report colours."""

    text: Corpus
    what: str  # which one it is, for a heading


def validation_text(model: Model, watch: Watch | None = None) -> ReportText:
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
    return ReportText(held_out, "the text that it was validated on")
