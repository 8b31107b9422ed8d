"""`charrnn eval`."""

import json
import sys
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated

from charrnn.commands import common
from charrnn.terminal import frame, output

if TYPE_CHECKING:
    import numpy as np

    from charrnn.inference.model import Model
    from charrnn.inference.surprisal import InOrder, Surprise, Top

BEFORE, AFTER = 14, 6  # columns of context around a surprising character
WORST = "Print the N lines or paragraphs that surprise a model of such most. [default: 0]"
HEATMAP = "Print the text too, each character coloured by its surprisal in bits."
TOP = "Print the N most surprising characters and what was expected instead. [default: 0]"


def eval(
    text: Annotated[list[str] | None, common.argument("[TEXT]...", help=common.TEXTS)] = None,
    model: common.ModelOption = None,
    encoding: common.EncodingOption = "utf-8",
    as_json: common.JsonFlag = False,
    worst: Annotated[int, common.option(WORST, metavar="N")] = 0,
    heatmap: Annotated[bool, common.option(HEATMAP, names="--heatmap")] = False,
    top: Annotated[int, common.option(TOP, metavar="N")] = 0,
) -> None:
    """Say how well a model knows a text, in bits per character."""
    from charrnn.inference.score import STRETCH
    from charrnn.inference.surprisal import InOrder, Top, select_scored_text
    from charrnn.options import require
    from charrnn.terminal.heatmap import Heatmap, JsonHeatmap, terminal_palette
    from charrnn.text.corpus import PIECE
    from charrnn.text.reading import read_corpus
    from charrnn.text.records import split

    sources = common.require_sources(text)
    common.require_texts(sources, model, "eval")
    require(worst >= 0, f"--worst {worst} is below 0")
    require(0 <= top <= 10_000, f"--top {top} is not between 0 and 10000")
    loaded = common.load_model(model)
    kind = loaded.records
    require(kind is not None or not worst, f"--worst: {loaded.path} is not a model of lines or paragraphs")
    with frame.WorkDisplay() as reading, common.say_waiting(sources):
        corpus = read_corpus(sources, encoding, newlines=loaded.newlines, watch=reading.progress)
    records, notes = split(corpus.text(), kind) if kind else ([], [])
    common.print_notes(corpus.notes + notes + loaded.hint_at_form(corpus.text(0, PIECE)))
    quiet = heatmap and len(corpus) > STRETCH  # then the text comes as it is scored
    in_order = highest = palette = None
    if heatmap or top:
        write = sys.stdout.write
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        palette = None if as_json else terminal_palette()
        drawing = JsonHeatmap(write) if as_json else Heatmap(write, palette)
        corpus = select_scored_text(loaded, corpus)
        in_order = InOrder(loaded, corpus, drawing.draw) if heatmap else None
        highest = Top(loaded, corpus, top) if top else None
    with frame.WorkDisplay("scoring", "million characters", quiet) as scoring:
        scored = loaded.score(corpus, scoring.progress, partial(_tell, (in_order, highest)) if heatmap or top else None)
    if in_order is not None:
        in_order.finish()
        drawing.finish()
    found = [] if highest is None else highest.found()
    figures = scored.to_dict()
    surprising = [(bits, records[k]) for k, bits in scored.worst(worst)] if worst else []
    if as_json:
        more: dict[str, object] = {"worst": [{"bits": bits, kind: record} for bits, record in surprising]} if worst else {}
        more |= {"top": [surprise.to_dict() for surprise in found]} if top else {}
        print(("" if heatmap else "{") + json.dumps(figures | more)[1:])
        return
    numbers = {name: f"{value:,}" if isinstance(value, int) else f"{value:,.4f}" for name, value in figures.items()}
    output.print_table([(name.replace("_", " "), number) for name, number in numbers.items()])
    if surprising:
        print(f"\n   bits {kind}")
    for bits, record in surprising:
        output.write_line(f"{bits:7.2f} {record}", sys.stdout)
    if found:
        _print_top(found, loaded, emphasis=palette is not None)


def _tell(observers: Iterable["InOrder | Top | None"], *block: "np.ndarray") -> None:
    for observer in observers:
        if observer is not None:
            observer.observe(*block)


def _print_top(found: "list[Surprise]", model: "Model", emphasis: bool) -> None:
    symbol = None if model.vocabulary.unknown is None else model.vocabulary.characters[model.vocabulary.unknown]
    width = max(len(f"{surprise.line}:{surprise.column}") for surprise in found)
    print(f"\n   bits {'at':>{width}}  {'':13}character        what was expected instead")
    for surprise in found:
        print(format_surprise(surprise, symbol=symbol, width=width, emphasis=emphasis))


def format_surprise(surprise: "Surprise", symbol: str | None, width: int, emphasis: bool) -> str:
    """A surprising character on one line: bits, line and column in `width` columns, its context, what was expected.

    `symbol` is the character that stands for all that the model does not know, where it has one.
    """
    from charrnn.terminal.heatmap import RESET, percent
    from charrnn.text.visible import LINE_SIGNS, SINGLE_SIGNS, make_visible

    before, after = (make_visible(part, signs=LINE_SIGNS) for part in (surprise.before, surprise.after))
    character = make_visible(surprise.character, signs=SINGLE_SIGNS)
    marked = f"\x1b[7m{character}{RESET}" if emphasis else f"[{character}]"
    place = f"{surprise.line}:{surprise.column}"
    names = {symbol: "other", " ": "␣"}
    guesses = "  ".join(f"{names.get(c) or make_visible(c, signs=SINGLE_SIGNS)} {percent(p)}" for c, p in surprise.guesses)
    return f"{surprise.bits:7.2f} {place:>{width}}  {before[-BEFORE:]:>{BEFORE}}{marked}{after[:AFTER]:<{AFTER}}  {guesses}"
