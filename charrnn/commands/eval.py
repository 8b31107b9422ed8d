"""`charrnn eval`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from charrnn.commands import common
from charrnn.terminal import frame, output

if TYPE_CHECKING:
    from charrnn.inference.model import Model
    from charrnn.terminal.scores import View
    from charrnn.text.corpus import Corpus

COPIED = "Find passages that TEXT copies from TRAINING_TEXT: the training file, or a run that was trained on it. "
COPIED += "Nothing is scored."
HEATMAP = "Also print the text, each character coloured by its surprisal: -log2 of its probability."
PER_LINE = "Also print the bits per character of each line."
TOP = "Also print the N characters with the highest surprisal, and what the model expected. [default: 0]"
WORST = "With a model trained by line or paragraph: also print the N worst of them. [default: 0]"


def eval(
    text: Annotated[list[str] | None, common.argument("[TEXT]...", help=common.TEXTS)] = None,
    model: common.ModelOption = None,
    encoding: common.EncodingOption = None,
    copied: Annotated[Path | None, common.option(COPIED, "TRAINING_TEXT", complete=common.complete_model)] = None,
    as_json: common.JsonFlag = False,
    heatmap: Annotated[bool, common.option(HEATMAP, names="--heatmap")] = False,
    per_line: Annotated[bool, common.option(PER_LINE, names="--per-line")] = False,
    top: Annotated[int, common.option(TOP, "N")] = 0,
    worst: Annotated[int, common.option(WORST, "N")] = 0,
) -> None:
    """Measure how well a model predicts a text, in bits per character. Lower is better.

    Examples:
    charrnn eval held-out.txt
    charrnn eval held-out.txt -m runs/large --heatmap --top 10
    charrnn sample | charrnn eval --copied corpus.txt
    """
    from charrnn.inference.score import Totals
    from charrnn.inference.surprisal import Top
    from charrnn.options import require
    from charrnn.terminal.heatmap import Heatmap, JsonHeatmap, terminal_palette
    from charrnn.terminal.scores import MostSurprising, PerLine, Summary, print_score

    sources = common.require_sources(text)
    common.require_texts(sources, model, "eval")
    require(worst >= 0, f"--worst must be 0 or more, not {worst}")
    require(0 <= top <= 10_000, f"--top must be between 0 and 10000, not {top}")
    require(not (per_line and heatmap), "--per-line and --heatmap can't be combined")
    if copied is not None:
        from charrnn.commands.copied import print_copied

        others = {"--model": model, "--worst": worst, "--per-line": per_line, "--heatmap": heatmap, "--top": top}
        for name, given in others.items():
            require(not given, f"{name} and --copied can't be combined: with --copied nothing is scored")
        print_copied(sources, copied, encoding=encoding, as_json=as_json)
        return
    loaded = common.load_model(model)
    kind = loaded.records
    require(kind is not None or not worst, f"--worst needs a model of lines or paragraphs; {loaded.path} is not one")
    corpus, records = _read(loaded, sources, encoding)
    json_object = output.JsonObject() if as_json else None
    palette = None if as_json else terminal_palette()
    views: list[View] = []
    if heatmap:
        views.append(JsonHeatmap(json_object) if json_object is not None else Heatmap(sys.stdout.write, palette))
    if per_line:
        views.append(PerLine(json_object))
    quiet = bool(views) and sys.stdout.isatty()  # the text itself shows the progress
    if views or top:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        views.append(Summary(Totals(loaded.vocabulary, kind), worst, records=records, json_object=json_object))
    if top:
        views.append(MostSurprising(Top(loaded.vocabulary, corpus, top), palette is not None, json_object))
    with frame.WorkDisplay("scoring", "characters", quiet, scale=1) as scoring:
        if views:
            for piece in loaded.pieces(corpus, scoring.progress):
                for view in views:
                    view.add(piece)
        else:
            score = loaded.score(corpus, scoring.progress)
    for view in views:
        view.finish()
    if not views:
        print_score(score, worst, records=records, json_object=json_object)
    if json_object is not None:
        json_object.close()


def _read(model: "Model", sources: list[str], encoding: str | None) -> tuple["Corpus", list[str]]:
    """Read the text to score, and print notes on it. Returns: the text; of a line-by-line model also its lines."""
    from charrnn.text.corpus import PIECE
    from charrnn.text.reading import likely_encodings, read_any
    from charrnn.text.records import SEPARATORS, split, unify_breaks
    from charrnn.text.vocabulary import hint_at_form

    kind = model.records
    encodings = likely_encodings(model.encoding) if encoding is None else [encoding]
    with frame.WorkDisplay() as reading, common.say_waiting(sources):
        corpus = read_any(sources, encodings, model.newlines, reading.progress, SEPARATORS[kind or "line"])
    records, notes = split(corpus.text(), kind) if kind else ([], [])
    common.print_notes([*corpus.notes, *notes, *hint_at_form(model.vocabulary, corpus.text(0, PIECE))])
    return unify_breaks(corpus) if kind else corpus, records
