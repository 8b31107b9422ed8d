"""What a report is about: the text that a run was validated on, which is read again."""

from pathlib import Path

from charrnn.errors import CharrnnError
from charrnn.inference.model import Model
from charrnn.text.corpus import Corpus
from charrnn.text.reading import STDIN, Watch
from charrnn.training.data import read_texts, require_there


def find_validation_text(model: Model, watch: Watch | None = None) -> Corpus:
    """Read the text that the run was validated on, from the files that its model names.

    Raises: CharrnnError that says what to name, where it can't be found again or there was none.
    """
    folder = model.path.parent if model.path is not None else Path()
    name = f"name the text to colour: charrnn report {folder} TEXT"
    origin = model.header.training.origin
    if origin is None:
        raise CharrnnError(f"{model.path} does not say which text it was validated on; {name}")
    if not origin.options.validation:
        raise CharrnnError(f"{folder} was not validated on any text; {name}")
    if STDIN in origin.sources:
        raise CharrnnError(f"{folder} was trained on a pipe; {name}")
    require_there(origin.sources, validation=origin.options.validation, cure=name)
    texts = read_texts(origin.sources, origin.options, watch=watch)
    if texts.corpus_hash != origin.corpus_hash:
        raise CharrnnError(f"the text {origin.sources[0]} is not the one that {folder} was trained on; {name}")
    if not len(texts.held_out):
        raise CharrnnError(f"{folder} held no text out; {name}")
    return texts.held_out
