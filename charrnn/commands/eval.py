"""`charrnn eval`."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from charrnn.commands import common
from charrnn.terminal import frame, output
from charrnn.text.visible import LINE_SIGNS, SINGLE_SIGNS, make_visible

if TYPE_CHECKING:
    import numpy as np

    from charrnn.inference.model import Model
    from charrnn.inference.score import Score
    from charrnn.inference.surprisal import InOrder, Surprise, Top
    from charrnn.text.corpus import Corpus
    from charrnn.text.reading import Watch

BEFORE, AFTER = 14, 6  # columns of context around a surprising character
SHOWN = 200  # characters shown of a copied passage
LONGEST_SAMPLE = 10_000_000  # most characters to compare with a training text
COPIED = "Find passages that TEXT copies from TRAINING_TEXT: the training file, or a run that was trained on it. "
COPIED += "Nothing is scored."
HEATMAP = "Also print the text, each character coloured by its surprisal: -log2 of its probability."
PER_LINE = "Also print the bits per character of each line."
TOP = "Also print the N characters with the highest surprisal, and what the model expected. [default: 0]"
WORST = "With a model trained by line or paragraph: also print the N worst of them. [default: 0]"


def eval(
    text: Annotated[list[str] | None, common.argument("[TEXT]...", help=common.TEXTS)] = None,
    model: common.ModelOption = None,
    encoding: common.EncodingOption = "utf-8",
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
    from charrnn.inference.score import STRETCH
    from charrnn.inference.surprisal import InOrder, Top, select_scored_text
    from charrnn.options import require
    from charrnn.terminal.heatmap import Heatmap, JsonHeatmap, terminal_palette
    from charrnn.text.corpus import PIECE
    from charrnn.text.reading import read_corpus
    from charrnn.text.records import split

    sources = common.require_sources(text)
    common.require_texts(sources, model, "eval")
    require(worst >= 0, f"--worst must be 0 or more, not {worst}")
    require(0 <= top <= 10_000, f"--top must be between 0 and 10000, not {top}")
    require(not (per_line and heatmap), "--per-line and --heatmap can't be combined")
    if copied is not None:
        others = {"--model": model, "--worst": worst, "--per-line": per_line, "--heatmap": heatmap, "--top": top}
        for name, given in others.items():
            require(not given, f"{name} and --copied can't be combined: with --copied nothing is scored")
        _print_copied(sources, copied, encoding=encoding, as_json=as_json)
        return
    loaded = common.load_model(model)
    kind = loaded.records
    require(kind is not None or not worst, f"--worst needs a model of lines or paragraphs; {loaded.path} is not one")
    with frame.WorkDisplay() as reading, common.say_waiting(sources):
        corpus = read_corpus(sources, encoding, newlines=loaded.newlines, watch=reading.progress)
    records, notes = split(corpus.text(), kind) if kind else ([], [])
    common.print_notes(corpus.notes + notes + loaded.hint_at_form(corpus.text(0, PIECE)))
    in_order = highest = palette = None
    shows = heatmap or per_line
    if shows or top:
        write = sys.stdout.write
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        palette = None if as_json else terminal_palette()
        drawing = PerLine(write, as_json) if per_line else JsonHeatmap(write) if as_json else Heatmap(write, palette)
        corpus = select_scored_text(loaded, corpus)
        in_order = InOrder(loaded, corpus, drawing.draw) if shows else None
        highest = Top(loaded, corpus, top) if top else None
    quiet = shows and len(corpus) > STRETCH  # the text itself shows the progress
    with frame.WorkDisplay("scoring", "characters", quiet, scale=1) as scoring:
        scored = loaded.score(corpus, scoring.progress, partial(_tell, (in_order, highest)) if shows or top else None)
    if in_order is not None:
        in_order.finish()
        drawing.finish()
    found = [] if highest is None else highest.found()
    surprising = [(bits, records[k]) for k, bits in scored.worst(worst)] if worst else []
    if as_json:
        more: dict[str, object] = {"worst": [{"bits": bits, kind: record} for bits, record in surprising]} if worst else {}
        more |= {"top": [surprise.to_dict() for surprise in found]} if top else {}
        print(("" if shows else "{") + json.dumps(scored.to_dict() | more)[1:])
    else:
        _print_scores(scored, surprising)
        if found:
            _print_top(found, loaded, emphasis=palette is not None)


def _tell(observers: Iterable["InOrder | Top | None"], *block: "np.ndarray") -> None:
    for observer in observers:
        if observer is not None:
            observer.observe(*block)


class PerLine:
    """Writes each line of a text, which comes in pieces, with its bits per character (line break included)."""

    def __init__(self, write: Callable[[str], object], as_json: bool):
        self.write = write
        self.as_json = as_json
        self._number = 0
        self._line, self._bits = "", 0.0

    def draw(self, text: str, bits: "np.ndarray") -> None:
        start = 0
        while start < len(text):
            stop = text.find("\n", start) + 1 or len(text)
            self._line += text[start:stop]
            self._bits += float(bits[start:stop].sum())
            if text[stop - 1] == "\n":
                self._end_line()
            start = stop

    def finish(self) -> None:
        if self._line:
            self._end_line()
        self.write("], " if self.as_json else "\n")

    def _end_line(self) -> None:
        self._number += 1
        mean = self._bits / len(self._line)
        line = self._line.removesuffix("\n")
        if self.as_json:
            facts = {"line": self._number, "text": line, "characters": len(self._line), "bits_per_character": round(mean, 4)}
            self.write(('{"per_line": [' if self._number == 1 else ", ") + json.dumps(facts))
        else:
            self.write(f"{mean:7.4f} {make_visible(line, keep='')}\n")
        self._line, self._bits = "", 0.0


def _print_scores(scored: "Score", surprising: Iterable[tuple[float, str]]) -> None:
    """Print the scores of a text, and records with their bits."""
    _print_figures(scored.to_dict())
    for n, (bits, record) in enumerate(surprising):
        if not n:
            print(f"\n   bits {scored.kind}")
        output.write_line(f"{bits:7.2f} {record}", sys.stdout)


def _print_figures(figures: Mapping[str, float]) -> None:
    numbers = {name: f"{value:,}" if isinstance(value, int) else f"{value:,.4f}" for name, value in figures.items()}
    output.print_table([(name.replace("_", " "), number) for name, number in numbers.items()])


def _print_copied(sources: list[str], training: Path, encoding: str, as_json: bool) -> None:
    """Print how much of a sample is copied from a training text, and the longest copied passage."""
    from charrnn.options import require
    from charrnn.text.copying import CopyFinder
    from charrnn.text.reading import STDIN, read_corpus

    require(str(training) != STDIN or STDIN not in sources, "TEXT and --copied can't both be standard input")
    with frame.WorkDisplay() as reading:
        text, newlines = _read_training_text(training, encoding, reading.progress)
        sample = read_corpus(sources, encoding, newlines=newlines, watch=reading.progress)
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
    _print_figures(figures | {"longest_passage": len(passage)})
    if passage:
        print(f"\nlongest passage, at {line}:{column} of the sample and {text_line}:{text_column} of the training text:")
        shown = passage if len(passage) <= SHOWN else f"{passage[:SHOWN]}..."
        output.write_line(make_visible(shown, signs=LINE_SIGNS), sys.stdout)


def _read_training_text(name: Path, encoding: str, watch: "Watch") -> tuple["Corpus", str]:
    """Returns: the text with this name, or the training text of the run with this name; how its line ends are read."""
    from charrnn.run_folder import is_model
    from charrnn.text.reading import read_corpus

    if not is_model(name):
        return read_corpus([name], encoding, watch=watch), "universal"
    from charrnn.training.data import reread_texts

    model = common.load_model(name)
    texts = reread_texts(model, "name the text: charrnn eval --copied TRAINING_TEXT SAMPLE", watch=watch)
    return texts.training, model.newlines


def _print_top(found: "list[Surprise]", model: "Model", emphasis: bool) -> None:
    symbol = None if model.vocabulary.unknown is None else model.vocabulary.characters[model.vocabulary.unknown]
    width = max(len(f"{surprise.line}:{surprise.column}") for surprise in found)
    print(f"\n   bits {'at':>{width}}  {'':13}character        what was expected instead")
    for surprise in found:
        print(format_surprise(surprise, symbol=symbol, width=width, emphasis=emphasis))


def format_surprise(surprise: "Surprise", symbol: str | None, width: int, emphasis: bool) -> str:
    """Format a surprising character on one line: bits, line and column in `width` columns, context, guesses.

    `symbol` is the model's symbol for unknown characters, if it has one.
    """
    from charrnn.terminal.heatmap import RESET, percent

    before, after = (make_visible(part, signs=LINE_SIGNS) for part in (surprise.before, surprise.after))
    character = make_visible(surprise.character, signs=SINGLE_SIGNS)
    marked = f"\x1b[7m{character}{RESET}" if emphasis else f"[{character}]"
    place = f"{surprise.line}:{surprise.column}"
    names = {symbol: "other", " ": "␣"}
    guesses = "  ".join(f"{names.get(c) or make_visible(c, signs=SINGLE_SIGNS)} {percent(p)}" for c, p in surprise.guesses)
    return f"{surprise.bits:7.2f} {place:>{width}}  {before[-BEFORE:]:>{BEFORE}}{marked}{after[:AFTER]:<{AFTER}}  {guesses}"
