"""A run as one HTML file to share: how it learned, what it wrote on the way, where a text surprises it, what it is made of.

`page` takes a model, its history and a text, and gives back the page. The page asks nothing of any network, and whatever
comes from a text or a file stands in it as text, never as markup.
"""

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import charrnn
from charrnn import checkpoint
from charrnn.inference.model import Model
from charrnn.inference.score import Score
from charrnn.inference.surprisal import Details, Surprise, Top, reading_of
from charrnn.report.charts import Line, curves, reliability, short
from charrnn.report.packing import NAMES, pack_to_fit
from charrnn.report.source import ReportText
from charrnn.terminal.color import LEVELS, ink, magma
from charrnn.terminal.heatmap import percent
from charrnn.terminal.output import duration, printable
from charrnn.text.reading import corpus_of
from charrnn.text.records import SEPARATORS

Array = np.ndarray
Record = Mapping[str, Any]

LIMIT = 100_000  # characters of a text that are scored and coloured
SURPRISES = 8  # that are named
SAMPLES = 6  # that are shown at once


def page(
    model: Model,
    records: Sequence[Record],
    subject: ReportText,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """The report, a whole HTML document. Of a text longer than LIMIT it is about the beginning, and says so."""
    text = reading_of(model, subject.text)
    given = len(text)
    if given > LIMIT:
        text = corpus_of(_beginning(text.text(0, LIMIT), model.records))
    details, top = Details(model, text), Top(model, text, SURPRISES)

    def observe(*block: Array) -> None:
        details.observe(*block)
        top.observe(*block)

    scored = model.score(text, watch, observe)
    packed, facts = pack_to_fit(model, text, details)
    about = f"{len(text):,} characters" if len(text) == given else f"the first {len(text):,} of {given:,} characters"
    folder = model.path.parent.resolve().name if model.path is not None else ""
    title = folder or "a model"
    sections = [
        _head(title, model, scored, f"On {about} of {subject.what}."),
        _learning(records) if records else "",
        _samples(records),
        _heatmap(facts["characters"], len(text), scored, top.found(), model),
        _calibration(details),
        _configuration(model, records),
    ]
    values = {
        "title": escape(title),
        "version": escape(charrnn.__version__),
        "body": "\n".join(section for section in sections if section),
        "facts": json.dumps(facts, ensure_ascii=True).replace("<", "\\u003c"),
        "packed": packed,
        "light": _scheme("ffffff", 1.0, 0.12),
        "dark": _scheme("1a1522", 0.1, 1.0),
        "levels": "\n".join(f".l{k} {{ background: var(--l{k}); color: var(--t{k}); }}" for k in range(LEVELS)),
    }
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL) for tag in ("style", "script"))
    assert style is not None
    assert script is not None
    values |= {"style_hash": _hash(_filled(style[1], values)), "script_hash": _hash(script[1])}
    return _filled(template, values)


def _filled(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _hash(source: str) -> str:
    """What a Content-Security-Policy says of a style or script that may stand in the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _scheme(paper: str, first: float, last: float) -> str:
    """The colours of all levels as CSS: what was expected has the page's own colour, `paper`, dark or light."""
    colours = []
    for k in range(LEVELS):
        own = min(1.0, k / 3)  # the share of the map's colour
        colour = magma(first + (last - first) * k / (LEVELS - 1))
        red, green, blue = (round(own * c + (1 - own) * p) for c, p in zip(colour, bytes.fromhex(paper), strict=True))
        colours.append((red, green, blue))
    return "\n".join(
        f"  --l{k}: #{bytes(colour).hex()}; --t{k}: #{bytes(ink(colour)).hex()};" for k, colour in enumerate(colours)
    )


def _beginning(text: str, kind: str | None) -> str:
    """`text` or, where it is one of records, as many of these as it holds whole."""
    if kind is None:
        return text
    separator = SEPARATORS[kind]
    end = text.rfind(separator)
    return text[: end + len(separator)] if end > 0 else text


def _head(title: str, model: Model, scored: Score, about: str) -> str:
    config, records = model.header["config"], model.records
    layers = (
        f"{config['num_layers']} × {config['hidden_size']} {config['cell'].upper()}"
        if config["num_layers"]
        else "softmax alone"
    )
    figures = {
        "bits per character": f"{scored.bits_per_character:.3f}",
        "perplexity": f"{scored.perplexity:.3f}",
        "of the top guesses right": f"{scored.accuracy:.1%}",
        "characters": f"{scored.characters:,}",
    }
    if scored.unknown_characters:
        figures["of them unknown"] = f"{scored.unknown_characters:,}"
    if scored.each is not None:
        figures[f"bits per {records}"] = f"{scored.to_dict()[f'bits_per_{records}']:.2f}"
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.items())
    return (
        f"<header><h1>{escape(title)}</h1><p>A network that writes character by character: {layers}, "
        f"{len(model.vocabulary):,} characters known. {escape(about)}</p>"
        f'<dl class="figures">{cells}</dl></header>'
    )


def _learning(records: Sequence[Record]) -> str:
    def line(name: str, key: str) -> Line:
        return Line(name, [(record["characters"], record[key]) for record in records if record[key] is not None])

    times = [(float(record["characters"]), duration(record["seconds"])) for record in records]
    losses = [
        line
        for line in (line("train", "train_bits_per_character"), line("validation", "validation_bits_per_character"))
        if line.points
    ]
    loss = curves("Loss", losses, "bits per character", times)
    rate = curves("Learning rate", [line("rate", "learning_rate")], "learning rate", times, from_zero=True)
    rows = "".join(
        f"<tr><td>{record['step']:,}</td><td>{record['characters']:,}</td><td>{duration(record['seconds'])}</td>"
        f"<td>{record['train_bits_per_character']:.3f}</td><td>{_bits(record['validation_bits_per_character'])}</td>"
        f"<td>{record['learning_rate']:.3g}</td></tr>"
        for record in records
    )
    names = "".join(
        f'<th scope="col">{name}</th>' for name in ("step", "characters", "time", "train", "validation", "learning rate")
    )
    return (
        '<section id="learning"><h2>How it learned</h2><p class="say">Characters read from left to right, the time '
        "that they took along the top. Less is better: a text known by heart costs 0 bits.</p>"
        f'<div class="pair"><figure>{loss}</figure><figure>{rate}</figure></div>'
        f'<details><summary>These figures as a table</summary><div class="scroll"><table class="table numbers">'
        f"<thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div></details></section>"
    )


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _samples(records: Sequence[Record]) -> str:
    cards = [
        f"<li><h3><span>after {short(record['characters'])} characters, {duration(record['seconds'])}</span>"
        f"<b>{_bits(record['validation_bits_per_character'])}</b></h3><pre>{escape(printable(record['sample']))}</pre></li>"
        for record in records
        if record.get("sample")
    ]
    if not cards:
        return ""
    chosen = {round(place) - 1 for place in np.geomspace(1, len(cards), SAMPLES)}  # a network changes most at first
    shown = "".join(card for k, card in enumerate(cards) if k in chosen)
    rest = "".join(card for k, card in enumerate(cards) if k not in chosen)
    more = f'<details><summary>The others</summary><ol class="samples">{rest}</ol></details>' if rest else ""
    return (
        '<section id="samples"><h2>What it wrote on the way</h2><p class="say">Samples from the validations, with the bits per '
        f'character on the validation text.</p><ol class="samples">{shown}</ol>{more}</section>'
    )


def _heatmap(coloured: int, characters: int, scored: Score, surprises: Sequence[Surprise], model: Model) -> str:
    steps = "".join(
        f'<li class="l{k}">{k // 2 if k % 2 == 0 else ""}{"+" if k == LEVELS - 1 else ""}</li>' for k in range(LEVELS)
    )
    cut = "" if coloured == characters else f" Coloured are the first {coloured:,} characters, which fit into the page."
    symbol = model.vocabulary.characters[model.vocabulary.unknown] if model.vocabulary.unknown is not None else None
    items = "".join(_surprise(surprise, symbol, coloured) for surprise in surprises)
    return (
        '<section id="surprise"><h2>Where it was surprised</h2><p class="say">Each character by its surprisal: the fewer bits, '
        "the more likely the network held it after all that stood before. Point at a character, tap it, or go there with Tab "
        f"and the arrow keys, to see what was expected. Their mean is {scored.bits_per_character:.3f} bits.{cut}</p>"
        f'<div class="legend"><span>bits</span><ol aria-label="Colours from 0 to 8 bits and more">{steps}</ol></div>'
        '<div id="text" class="mono" role="group" aria-busy="true" aria-label="The text, each character coloured by its '
        'surprisal; arrow keys go from one to the next"></div>'
        "<noscript><p>The text is drawn by a script in this file, which is switched off.</p></noscript>"
        f'<ol class="surprises" aria-label="The most surprising characters">{items}</ol></section>'
    )


def _surprise(surprise: Surprise, symbol: str | None, coloured: int) -> str:
    def flat(text: str) -> str:
        return printable(text.replace("\n", "↵").replace("\t", "⇥"), keep="")

    guesses = ", ".join(
        f"{'any other' if c == symbol else NAMES.get(c, f'“{flat(c)}”')} {percent(p)}" for c, p in surprise.guesses[:3]
    )
    held = "" if surprise.place < coloured else " disabled"
    said = f"expected {guesses}" if guesses else "unknown to the model"
    before, character, after = (escape(flat(part)) for part in (surprise.before[-14:], surprise.character, surprise.after[:12]))
    return (
        f'<li><button type="button" data-place="{surprise.place}"{held}><span class="mono">{before}<mark>{character}</mark>'
        f"{after}</span><small>{surprise.bits:.1f} bits; {escape(said)}</small></button></li>"
    )


def _calibration(details: Details) -> str:
    error = details.calibration_error
    counts = details.calibration
    rows = "".join(
        f"<tr><td>{k / len(counts):.0%} to {(k + 1) / len(counts):.0%}</td><td>{n:,}</td><td>{p:.1%}</td><td>{f:.1%}</td></tr>"
        for k, (n, p, f) in enumerate(counts)
        if n
    )
    if not rows:
        return ""
    names = "".join(f'<th scope="col">{name}</th>' for name in ("probability", "guesses", "on average", "right"))
    return (
        '<section id="calibration"><h2>Whether its probabilities can be believed</h2><div class="pair">'
        f"<figure>{reliability(counts, error)}</figure><div>"
        '<p class="say">When the network holds its top guess for 70 % likely, it should be right 70 % of the time: then the '
        "dots lie on the diagonal. Below it the network is too sure, above it not sure enough. The bars say how many guesses "
        "there were of each probability.</p>"
        f"<p>Expected calibration error: <b>{error:.2%}</b>, the mean distance from the diagonal, each of {len(counts)} bins "
        "weighted by its guesses (Naeini, Cooper &amp; Hauskrecht 2015; Guo et al. 2017).</p>"
        f'<div class="scroll"><table class="table numbers"><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</div></div></section>"
    )


def _configuration(model: Model, records: Sequence[Record]) -> str:
    config, training = model.header["config"], model.header["training"]
    recipe, options = ((training.get(key) if isinstance(training.get(key), dict) else {}) for key in ("recipe", "options"))
    weights = sum(math.prod(shape) for shape in checkpoint.shapes(model.header).values())
    network = {
        "cell": config["cell"],
        "layers": config["num_layers"],
        "units in each": config["hidden_size"],
        "embedding": config["embedding_size"] or "one-hot",
        "residual": config.get("residual", False),
        "vocabulary": len(model.vocabulary),
        "weights": weights,
        "each sequence": model.records or "the whole text",
    }
    said = {"cell", "layers", "hidden_size", "embedding", "residual", "records"}
    trained = {name.replace("_", " "): value for name, value in recipe.items() if name not in said and value is not None}
    if isinstance(training.get("sources"), list):
        trained = {"text": ", ".join(os.path.basename(str(source)) or "-" for source in training["sources"])} | trained
    held_out = options.get("validation")
    if isinstance(held_out, (str, float, int)):
        trained["held out"] = os.path.basename(held_out) if isinstance(held_out, str) else f"{held_out:.0%}"
    for key in ("step", "characters"):
        if type(training.get(key)) is int:
            trained[{"step": "steps of this model", "characters": "characters read"}[key]] = training[key]
    for key in ("train", "validation"):
        bits = training.get(f"{key}_bits_per_character")
        if type(bits) is float:
            trained[f"{key} bits per character"] = f"{bits:.4f}"
    if type(training.get("seconds")) in (int, float):
        trained["time"] = duration(training["seconds"])
    if records and records[-1]["step"] != training.get("step"):
        trained["steps of the run"] = records[-1]["step"]
    tables = "".join(
        f'<div><h3>{name}</h3><table class="table"><tbody>'
        + "".join(f'<tr><th scope="row">{escape(key)}</th><td>{_value(value)}</td></tr>' for key, value in rows.items())
        + "</tbody></table></div>"
        for name, rows in (("The network", network), ("Its training", trained))
    )
    return f'<section id="configuration"><h2>How it is made</h2><div class="pair">{tables}</div></section>'


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return escape(printable(f"{value:.6g}" if isinstance(value, float) else str(value), keep=""))
