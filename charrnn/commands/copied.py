"""`charrnn eval --copied`: how much of a sample is copied from a training text."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.commands import common
from charrnn.terminal import frame, output
from charrnn.text.visible import LINE_SIGNS, make_visible

if TYPE_CHECKING:
    from charrnn.text.corpus import Corpus
    from charrnn.text.reading import Watch

SHOWN = 200  # characters shown of a copied passage
LONGEST_SAMPLE = 10_000_000  # most characters to compare with a training text


def print_copied(sources: list[str], training: Path, encoding: str | None, as_json: bool) -> None:
    """Print how much of a sample is copied from a training text, whose `encoding` is given, and the longest copied passage."""
    from charrnn.options import require
    from charrnn.text.copying import CopyFinder
    from charrnn.text.reading import STDIN, likely_encodings, read_any

    require(str(training) != STDIN or STDIN not in sources, "TEXT and --copied can't both be standard input")
    with frame.WorkDisplay() as reading:
        text, encoding, newlines = _read_training_text(training, encoding, reading.progress)
        sample = read_any(sources, likely_encodings(encoding), newlines, watch=reading.progress)
    common.print_notes(text.notes + sample.notes)
    limit = f"{', '.join(sources)}: a sample of {len(sample):,} characters is longer than {LONGEST_SAMPLE:,}"
    order = "the training text comes first: charrnn eval --copied TRAINING_TEXT SAMPLE"
    require(len(sample) <= LONGEST_SAMPLE, f"{limit}; {order}")
    with frame.WorkDisplay("searching", "characters", scale=1) as searching:
        finder = CopyFinder([sample.text()], text, searching.progress)
        (copied,) = finder.copied()
        longest = finder.longest()
    figures = {"characters": len(sample), "copied_characters": int(copied.sum()), "copied_share": float(copied.mean())}
    line, column = sample.lines([longest.place])[longest.place]
    text_line, text_column = text.lines([longest.text_place])[longest.text_place]
    passage = sample.text(longest.place, longest.place + longest.length)
    if as_json:
        place = {"line": line, "column": column, "training_line": text_line, "training_column": text_column}
        found = {"characters": len(passage), "text": passage} | place if passage else None
        print(json.dumps(figures | {"longest_passage": found}))
        return
    output.print_figures(figures | {"longest_passage": len(passage)})
    if passage:
        print(f"\nlongest passage, at {line}:{column} of the sample and {text_line}:{text_column} of the training text:")
        shown = passage if len(passage) <= SHOWN else f"{passage[:SHOWN]}..."
        output.write_line(make_visible(shown, signs=LINE_SIGNS), sys.stdout)


def _read_training_text(name: Path, encoding: str | None, watch: "Watch") -> tuple["Corpus", str, str]:
    """Returns: the text, or the training text of the run, with this name; its encoding; how its line ends are read."""
    from charrnn.run_folder import is_model
    from charrnn.text.reading import read_corpus

    if not is_model(name):
        encoding = encoding or "utf-8"
        return read_corpus([name], encoding, watch=watch), encoding, "universal"
    from charrnn.training.sources import reread_texts

    model = common.load_model(name)
    texts = reread_texts(model, "name the text: charrnn eval --copied TRAINING_TEXT SAMPLE", watch=watch)
    return texts.training, model.encoding, model.newlines
