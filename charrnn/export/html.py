"""Export a model as one HTML file that writes text in any browser: 8-bit weights and an engine in JavaScript.

`engine.js` runs the network in a worker; `box.html`, `box.css` and `box.js` are the text box, which reports use as well;
`page.html` is the page around it. Strings from a model or user are escaped, so that they can't add markup.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import numpy as np

from charrnn.checkpoint import Tensors
from charrnn.errors import CharrnnError
from charrnn.headers import ModelHeader
from charrnn.inference.model import Model
from charrnn.inference.score import escape_costs
from charrnn.text.corpus import Corpus
from charrnn.text.reading import build_corpus
from charrnn.version import __version__

Array = np.ndarray

CELLS = ("lstm", "gru", "rnn")  # supported by engine.js
LARGEST = 50_000_000  # bytes of a page that a phone can still open
CODES = 127  # weights are rounded to integers from -CODES to CODES
MEASURED = 50_000  # characters on which the loss by rounding is measured


def require_page(header: ModelHeader) -> None:
    """Raise CharrnnError (status 1) if a model can't be exported as a page."""
    config = header.config
    if config.num_layers and config.cell not in CELLS:
        raise CharrnnError(f"a web page can't run the cell {config.cell}, only {', '.join(CELLS)}", 1)
    size = sum(math.prod(shape) + 4 * shape[0] for shape in config.shapes().values()) * 4 / 3
    if size > LARGEST:
        limit = f"more than the {LARGEST / 1e6:,.0f} MB that browsers open easily"
        raise CharrnnError(f"the page would have {size / 1e6:,.0f} MB, {limit}; --to onnx has no such limit", 1)


def round_weights(tensors: Tensors) -> Tensors:
    """The weights as the page has them: rows of matrices rounded to integers times a scale, biases unchanged."""
    return {
        name: codes * scales[:, None] if codes.size else scales
        for name, (scales, codes) in (
            (name, _quantize(tensor)) for name, tensor in tensors.items() if tensor.dtype == np.float32
        )
    }


def measure_rounding(
    tensors: Tensors, header: ModelHeader, text: Corpus, watch: Callable[[int, int], None]
) -> tuple[float, float]:
    """Score the first MEASURED characters of `text`. Returns: bits per character with the model's and the page's weights."""
    beginning = build_corpus(text.text(0, MEASURED))
    exact, rounded = (Model(weights, header).score(beginning, watch=watch) for weights in (tensors, round_weights(tensors)))
    return exact.bits_per_character, rounded.bits_per_character


def render_page(tensors: Tensors, header: ModelHeader, title: str = "", about: str = "", bits: float | None = None) -> str:
    """Render the page as an HTML document with `title`, a sentence `about` the model, and its `bits` per character.

    Raises: CharrnnError (status 1) if the model can't be exported as a page.
    """
    config = header.config
    layers = f"{config.num_layers} × {config.hidden_size} {config.cell.upper()}" if config.num_layers else "softmax layer alone"
    figures = [layers, f"{config.vocabulary_size:,} characters"]
    if bits is not None:
        figures.append(f"{bits:.2f} bits per character on held-out text")
    values = render_box(tensors, header) | {
        "title": escape(title or "A model that writes"),
        "about": f'<p dir="auto">{escape(about)}</p>' if about else "",
        "figures": escape(" · ".join(figures)),
        "version": escape(__version__),
    }
    return fill_page(_read("page.html"), values)


def render_box(tensors: Tensors, header: ModelHeader) -> dict[str, str]:
    """Render the text box. Returns: the slots `box`, `box_style` and `box_script` of a template. Raises: as `render_page`."""
    require_page(header)
    model = Model(tensors, header)
    config = header.config
    facts = {
        "config": vars(config),
        "tensors": [(name, *shape, *[0] * (2 - len(shape))) for name, shape in config.shapes().items()],
        "vocabulary": model.vocabulary.characters,
        "start": model.start,
        "unknown": model.vocabulary.unknown,
        "records": model.records,
        "costs": [nats / math.log(2) for nats in escape_costs(model.vocabulary)],
    }
    parts = [part.tobytes() for name in config.shapes() for part in _quantize(tensors[name])]
    values = {
        "facts": json.dumps(facts, ensure_ascii=True).replace("<", "\\u003c"),
        "weights": base64.b64encode(b"".join(parts)).decode(),
        "engine": _read("engine.js"),
    }
    return {"box": fill(_read("box.html"), values), "box_style": _read("box.css"), "box_script": _read("box.js")}


def fill_page(template: str, values: Mapping[str, str]) -> str:
    """Fill a page's slots with `values`, and its Content-Security-Policy with the hashes of its style and script."""
    hashes = {}
    for tag in ("style", "script"):
        source = template.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = hashlib.sha256(fill(source, values).encode()).digest()
        hashes[f"{tag}_hash"] = "sha256-" + base64.b64encode(digest).decode()
    return fill(template, {**values, **hashes})


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace the {{slots}} of a template by `values`, in which slots are not replaced."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _quantize(tensor: Array) -> tuple[Array, Array]:
    """Quantize a matrix (R, C). Returns: scales (R,) and int8 codes (R, C); for a bias (R,): itself and no codes."""
    if tensor.ndim == 1:
        return tensor.astype("<f4"), np.empty(0, np.int8)
    scales = (np.abs(tensor).max(axis=1) / CODES).astype("<f4")
    codes = np.rint(tensor / np.where(scales > 0, scales, 1)[:, None])
    return scales, np.clip(codes, -CODES, CODES).astype(np.int8)


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
