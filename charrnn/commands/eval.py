"""`charrnn eval`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from charrnn import display
from charrnn.commands.common import load_model, option, piped
from charrnn.errors import CharrnnError


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
) -> None:
    """Say how well a model knows a text, in bits per character."""
    from charrnn.reading import STDIN, read_corpus
    from charrnn.records import split

    sources = list(text or ([STDIN] if piped() else []))
    if not sources:
        raise CharrnnError("no text: name files or folders, or pipe one in")
    if worst < 0:
        raise CharrnnError(f"--worst {worst} is below 0")
    loaded = load_model(model)
    if worst and not loaded.records:
        raise CharrnnError(f"--worst: {loaded.path} is not a model of lines or paragraphs")
    with display.WorkDisplay() as reading:
        corpus = read_corpus(sources, encoding, reading.progress)
    records, notes = split(corpus.text(), loaded.records) if loaded.records else ([], [])
    for note in corpus.notes + notes:
        display.write_line(f"note: {note}")
    with display.WorkDisplay("scoring", "million characters") as scoring:
        scored = loaded.score(corpus, scoring.progress)
    figures = scored.to_dict()
    surprising = [{"bits": bits, loaded.records: records[k]} for k, bits in scored.worst(worst)] if worst else []
    if as_json:
        print(json.dumps(figures | {"worst": surprising} if worst else figures))
    else:
        shown = {
            name.replace("_", " "): f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
            for name, value in figures.items()
        }
        display.print_scores(shown)
        if surprising:
            display.print_surprises(
                f"   bits {loaded.records}", [(found["bits"], found[loaded.records]) for found in surprising]
            )
