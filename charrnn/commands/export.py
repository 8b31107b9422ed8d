"""`charrnn export`."""

from pathlib import Path
from typing import Annotated

from charrnn.commands.common import ModelArgument, ModelOption, option, pick_model, require_extra
from charrnn.commands.outputs import require_output, write_output
from charrnn.errors import CharrnnError
from charrnn.terminal import output

OUT = "The file to write. [default: model.onnx beside the model]"


def export(
    named: ModelArgument = None,
    model: ModelOption = None,
    out: Annotated[Path | None, option(OUT, names="-o --out", metavar="FILE")] = None,
) -> None:
    """Write a model as an ONNX file.

    Other programs run it: ONNX Runtime, browsers, phones. Takes charrnn[onnx].
    """
    from charrnn.checkpoint import read_model
    from charrnn.run_folder import find_model

    path = find_model(pick_model(named, model))
    out = out or path.with_suffix(".onnx")
    if out.suffix != ".onnx":
        raise CharrnnError(f"--out {out}: name a file that ends in .onnx")
    require_output("--out", out, [path])
    tensors, header = read_model(path)
    require_extra("onnx", "export", "onnx")
    from charrnn.export.onnx import to_onnx

    data = to_onnx(tensors, header)
    write_output(out, data)
    output.write_line(f"{path} is written as {out}, {len(data):,} bytes")
