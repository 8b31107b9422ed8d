"""`charrnn eval`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from charrnn.commands.common import load_model, option, piped
from charrnn.errors import CharrnnError
from charrnn.terminal import output, progress


def eval(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...", help="Files and folders of text; '-' or a pipe for standard input.", show_default=False
        ),
    ] = None,
    model: Annotated[
        Path | None, option("-m", "--model", help="A run's folder or its model file. [default: the newest run under runs/]")
    ] = None,
    encoding: Annotated[str, option("--encoding", help="The text's encoding. [default: utf-8]")] = "utf-8",
    as_json: Annotated[bool, option("--json", help="Print one JSON object.")] = False,
    worst: Annotated[
        int,
        option("--worst", metavar="N", help="Print the N lines or paragraphs that surprise a model of such most. [default: 0]"),
    ] = 0,
    heatmap: Annotated[
        bool, option("--heatmap", help="Print the text too, each character coloured by its surprisal in bits.")
    ] = False,
    top: Annotated[
        int,
        option("--top", metavar="N", help="Print the N most surprising characters and what was expected instead. [default: 0]"),
    ] = 0,
) -> None:
    """Say how well a model knows a text, in bits per character."""
    from charrnn.inference.score import STRETCH
    from charrnn.text.reading import STDIN, read_corpus
    from charrnn.text.records import split

    sources = list(text or ([STDIN] if piped() else []))
    if not sources:
        raise CharrnnError("no text: name files or folders, or pipe one in")
    if worst < 0:
        raise CharrnnError(f"--worst {worst} is below 0")
    if not 0 <= top <= 10_000:
        raise CharrnnError(f"--top {top} is not between 0 and 10000")
    loaded = load_model(model)
    if worst and not loaded.records:
        raise CharrnnError(f"--worst: {loaded.path} is not a model of lines or paragraphs")
    with progress.WorkDisplay() as reading:
        corpus = read_corpus(sources, encoding, reading.progress)
    records, notes = split(corpus.text(), loaded.records) if loaded.records else ([], [])
    for note in corpus.notes + notes:
        output.write_line(f"note: {note}")
    shown = _Shown(loaded, corpus, heatmap, top, as_json) if heatmap or top else None
    quiet = heatmap and len(corpus) > STRETCH  # then the text comes as it is scored
    with progress.WorkDisplay("scoring", "million characters", quiet) as scoring:
        scored = loaded.score(shown.text if shown else corpus, scoring.progress, shown.observe if shown else None)
    if shown:
        shown.finish()
    figures = scored.to_dict()
    surprising = [{"bits": bits, loaded.records: records[k]} for k, bits in scored.worst(worst)] if worst else []
    if as_json:
        more: dict[str, Any] = {"worst": surprising} if worst else {}
        if top and shown:
            more["top"] = [surprise.to_dict() for surprise in shown.found()]
        print(("" if heatmap else "{") + json.dumps(figures | more)[1:])
        return
    output.print_scores(
        {name.replace("_", " "): f"{value:,}" if isinstance(value, int) else f"{value:,.4f}" for name, value in figures.items()}
    )
    if surprising:
        output.print_surprises(f"   bits {loaded.records}", [(found["bits"], found[loaded.records]) for found in surprising])
    if top and shown:
        shown.print_top()


class _Shown:
    """What is printed of single characters while a text is scored: the heat map, and the most surprising ones."""

    def __init__(self, model: Any, corpus: Any, heatmap: bool, top: int, as_json: bool):
        from charrnn.inference.surprisal import InOrder, Top, reading_of
        from charrnn.terminal.color import terminal_palette
        from charrnn.terminal.heatmap import Heatmap

        if sys.stdout is None:
            raise CharrnnError("standard output is closed", 1)
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        self.text = reading_of(model, corpus)
        self.symbol = model.header["vocabulary"][model.vocabulary.unknown] if model.vocabulary.unknown is not None else None
        self.begun = False
        self.palette = None if as_json else terminal_palette()
        self.map = Heatmap(sys.stdout.write, self.palette) if heatmap and not as_json else None
        self.in_order = InOrder(model, self.text, self._see) if heatmap else None
        self.top = Top(model, self.text, top) if top else None

    def observe(self, *block: Any) -> None:
        for observer in (self.in_order, self.top):
            if observer is not None:
                observer.observe(*block)

    def _see(self, text: str, bits: Any) -> None:
        if self.map is None:
            pairs = json.dumps(list(zip(text, bits.astype(float).round(4).tolist(), strict=True)))
            sys.stdout.write((", " if self.begun else '{"heatmap": [') + pairs[1:-1])
        else:
            if not self.begun:
                self.map.legend()
            self.map.draw(text, bits.tolist())
        self.begun = True

    def finish(self) -> None:
        """Print what is left of the heat map."""
        if self.in_order is not None:
            self.in_order.finish()
            if self.map is None:
                sys.stdout.write("], ")
            else:
                self.map.finish()
                sys.stdout.write("\n")
                if self.map.lines > 20:
                    self.map.legend()

    def found(self) -> list[Any]:
        return self.top.found() if self.top is not None else []

    def print_top(self) -> None:
        """Print the most surprising characters."""
        from charrnn.terminal.heatmap import surprise_line

        found = [surprise.to_dict() for surprise in self.found()]
        width = max(len(f"{surprise['line']}:{surprise['column']}") for surprise in found)
        print(f"\n   bits {'at':>{width}}  {'':13}character        what was expected instead")
        for surprise in found:
            print(surprise_line(surprise, self.symbol, width, self.palette is not None))
