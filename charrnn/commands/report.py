"""`charrnn report`."""

import shlex
from pathlib import Path
from typing import Annotated

from charrnn.commands import common
from charrnn.commands.common import MODEL, EncodingOption, ModelOption, argument, option, print_notes
from charrnn.commands.outputs import require_output, write_output
from charrnn.errors import CharrnnError
from charrnn.terminal import frame, output

TEXT = "The text to colour: files, folders or '-'. [default: the validation text]"
WITH_MODEL = "Include the model, so that readers can generate text with it on the page."
OUT = "The file to write. [default: report.html in the run's folder]"


def report(
    run: Annotated[Path | None, argument("[RUN]", help=MODEL)] = None,
    text: Annotated[list[str] | None, argument("[TEXT]...", help=TEXT)] = None,
    model: ModelOption = None,
    encoding: EncodingOption = None,
    out: Annotated[Path | None, option(OUT, "FILE", names="-o --out", group="Output")] = None,
    with_model: Annotated[bool, option(WITH_MODEL, names="--with-model")] = False,
) -> None:
    """Write a report about a run, as one HTML file. It shows the loss curves, samples, and a text coloured by surprisal:
    -log2 of the probability of each character.

    The file works offline. It colours the first 100,000 characters of the text.

    Examples:
    charrnn report
    charrnn report runs/large held-out.txt --with-model -o large.html
    """
    from charrnn.checkpoint import read_model
    from charrnn.export.html import render_box
    from charrnn.report.page import find_validation_text, render_page
    from charrnn.run_folder import MODEL as MODEL_FILE
    from charrnn.run_folder import is_text, output_folder, read_history
    from charrnn.text.reading import likely_encodings, read_any
    from charrnn.text.records import SEPARATORS

    texts = list(text or [])
    if model is not None and run is not None:  # with -m, all arguments are texts
        texts.insert(0, str(run))
        run = None
    common.require_texts(texts, run or model, "report")
    if run is not None and is_text(run):
        words = shlex.join([str(run), *texts])
        raise CharrnnError(f"{run} is a text, not a model; name the model too: charrnn report MODEL {words}")
    loaded = common.load_model(run or model)
    assert loaded.path is not None
    folder = loaded.path.parent
    target = out or output_folder(loaded.path) / "report.html"
    origin = loaded.header.training.origin
    require_output("--out", target, [loaded.path, *(texts or (origin.texts if origin else []))])
    with frame.WorkDisplay() as reading:
        if texts:
            encodings = likely_encodings(loaded.encoding) if encoding is None else [encoding]
            between = SEPARATORS[loaded.records or "line"]
            corpus = read_any(texts, encodings, loaded.newlines, reading.progress, between)
            name = ", ".join("standard input" if source == "-" else Path(source).name for source in texts)
        else:
            named = str(folder) if loaded.path.name == MODEL_FILE else loaded.name
            advice = f"name the text to colour: charrnn report {shlex.quote(named)} TEXT"
            corpus = find_validation_text(loaded, advice, reading.progress)
            name = "its validation text"
    print_notes(corpus.notes)
    box = render_box(*read_model(loaded.path)) if with_model else None
    try:
        history = read_history(folder)
    except CharrnnError as error:
        history = []
        print_notes([str(error)])
    with frame.WorkDisplay("scoring", "characters", scale=1) as scoring:
        page = render_page(loaded, history, corpus, name=name, watch=scoring.progress, box=box)
    data = page.encode("utf-8", "backslashreplace")
    write_output(target, data)
    output.write_line(f"wrote {target}, {len(data) / 1000:,.0f} kB; open it in a browser")
