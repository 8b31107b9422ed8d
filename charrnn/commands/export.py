"""`charrnn export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from charrnn.commands.common import ModelArgument, SameModelOption, option, pick_model, print_notes, require_extra
from charrnn.commands.outputs import require_output, write_output
from charrnn.errors import CharrnnError
from charrnn.terminal import frame, output

if TYPE_CHECKING:
    from charrnn.checkpoint import Tensors
    from charrnn.headers import ModelHeader

FORMATS = ("onnx", "html")  # also the file name extensions
TO = "`onnx` for other programs; `html` for a page that generates text in any browser. "
TO += "[default: from the extension of --out, else onnx]"
OUT = "The file to write. [default: model.onnx or model.html in the run's folder; for a base model, in the current folder]"
ABOUT = "A sentence for the page about the text that the model was trained on."


def export(
    named: ModelArgument = None,
    model: SameModelOption = None,
    to: Annotated[str | None, option(TO, "onnx|html", group="Output")] = None,
    out: Annotated[Path | None, option(OUT, "FILE", names="-o --out")] = None,
    title: Annotated[str, option("Title of the page.", "TEXT")] = "",
    about: Annotated[str, option(ABOUT, "TEXT")] = "",
) -> None:
    """Export a model as an ONNX graph or as a web page. Both run without charrnn.

    An ONNX file runs in ONNX Runtime; to write one, install charrnn[onnx]. The web page works offline and sends nothing.

    Examples:
    charrnn export -o model.onnx
    charrnn export runs/large -o large.html --title "Write with me"
    """
    from charrnn.checkpoint import read_model
    from charrnn.run_folder import find_model, output_folder

    path = find_model(pick_model(named, model))
    if to is None:
        to = out.suffix[1:] if out is not None else "onnx"
        if to not in FORMATS:
            raise CharrnnError(f"--out {out}: name a file that ends in .onnx or .html")
    elif to not in FORMATS:
        raise CharrnnError(f"--to must be onnx or html, not {to!r}")
    out = out or output_folder(path) / f"{path.stem}.{to}"
    if out.suffix != f".{to}":
        raise CharrnnError(f"--out {out}: name a file that ends in .{to}")
    if (title or about) and to != "html":
        raise CharrnnError("--title and --about are for pages: add --to html")
    tensors, header = read_model(path)
    origin = header.training.origin
    require_output("--out", out, [path, *(origin.texts if origin else [])])
    if to == "onnx":
        require_extra("onnx", "export", "onnx")
        from charrnn.export.onnx import to_onnx

        data = to_onnx(tensors, header)
    else:
        data = _render_page(path, tensors, header, title=title, about=about)
    write_output(out, data)
    output.write_line(f"wrote {out}, {len(data):,} bytes")


def _render_page(path: Path, tensors: "Tensors", header: "ModelHeader", title: str, about: str) -> bytes:
    """Render the page, after printing how many bits per character the rounding of weights costs."""
    from charrnn.export.html import measure_rounding, render_page, require_page
    from charrnn.inference.model import Model
    from charrnn.report.page import find_validation_text

    require_page(header)
    metrics = header.training.metrics
    bits = metrics.validation_bits_per_character if metrics is not None else None
    try:
        with frame.WorkDisplay() as reading:
            text = find_validation_text(Model(tensors, header, path), "the cost of rounding is not measured", reading.progress)
    except CharrnnError as error:
        print_notes([str(error)])
    else:
        with frame.WorkDisplay("scoring", "characters", scale=1) as scoring:
            exact, bits = measure_rounding(tensors, header, text, watch=scoring.progress)
        output.write_line(f"rounding to 8 bits costs {bits - exact:.4f} bits per character: {bits:.4f} instead of {exact:.4f}")
    return render_page(tensors, header, title=title, about=about, bits=bits).encode("utf-8", "backslashreplace")
