"""A run as one HTML file to share: how it learned, samples, where a text surprises the model, and how the model is made.

`render_page` takes a model, its history and a text, and gives back the page. The page works offline. What comes from a text
or a file is text in the page, never markup.
"""

import base64
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path

import numpy as np

from charrnn.headers import Metrics, to_json
from charrnn.inference.model import Model
from charrnn.inference.score import Observe, Score
from charrnn.inference.surprisal import Details, Surprise, Top, reading_of
from charrnn.report.charts import Line, draw_curves, draw_reliability, shorten
from charrnn.report.packing import NAMES, pack_to_fit
from charrnn.report.source import ReportText
from charrnn.terminal.color import LEVELS, ink, magma
from charrnn.terminal.heatmap import percent
from charrnn.terminal.output import duration
from charrnn.text.reading import corpus_of
from charrnn.text.records import SEPARATORS
from charrnn.text.visible import LINE_SIGNS, make_visible
from charrnn.version import __version__

Array = np.ndarray
Value = str | float | bool  # of a row in a table

LIMIT = 100_000  # characters of a text that are scored and coloured
SURPRISES = 8  # that are listed
SAMPLES = 6  # that are shown at once


def render_page(
    model: Model,
    history: Sequence[Metrics],
    subject: ReportText,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """The report, a whole HTML document. Of a text longer than LIMIT it is about the beginning, and says so."""
    text = reading_of(model, subject.text)
    given = len(text)
    if given > LIMIT:
        text = corpus_of(_cut_whole_records(text.text(0, LIMIT), model.records))
    details = Details(model, text)
    top = Top(model, text, SURPRISES)
    scored = model.score(text, watch=watch, observe=partial(_tell, (details.observe, top.observe)))
    packed, facts = pack_to_fit(model, text, details)
    about = f"{len(text):,} characters" if len(text) == given else f"the first {len(text):,} of {given:,} characters"
    folder = model.path.parent.resolve().name if model.path is not None else ""
    title = folder or "a model"
    sections = [
        _render_head(title, model, scored, about=f"On {about} of {subject.what}."),
        _render_curves(history) if history else "",
        _render_samples(history),
        _render_text(model, scored, top.found(), characters=len(text), coloured=facts.characters),
        _render_calibration(details),
        _render_configuration(model, history),
    ]
    values = {
        "title": escape(title),
        "version": escape(__version__),
        "body": "\n".join(section for section in sections if section),
        "facts": json.dumps(dataclasses.asdict(facts), ensure_ascii=True).replace("<", "\\u003c"),
        "packed": packed,
        "light": _render_colours("ffffff", first=1.0, last=0.12),
        "dark": _render_colours("1a1522", first=0.1, last=1.0),
        "levels": "\n".join(f".l{k} {{ background: var(--l{k}); color: var(--t{k}); }}" for k in range(LEVELS)),
    }
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL) for tag in ("style", "script"))
    assert style is not None
    assert script is not None
    values |= {"style_hash": _hash(_fill(style[1], values)), "script_hash": _hash(script[1])}
    return _fill(template, values)


def _tell(observers: Sequence[Observe], *block: Array) -> None:
    for observe in observers:
        observe(*block)


def _fill(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _hash(source: str) -> str:
    """What a Content-Security-Policy says of a style or script that the page may hold."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _render_colours(paper: str, first: float, last: float) -> str:
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


def _cut_whole_records(text: str, kind: str | None) -> str:
    """`text`, or only its whole records where it is one of records."""
    if kind is None:
        return text
    separator = SEPARATORS[kind]
    end = text.rfind(separator)
    return text[: end + len(separator)] if end > 0 else text


def _render_head(title: str, model: Model, scored: Score, about: str) -> str:
    config = model.header.config
    layers = f"{config.num_layers} × {config.hidden_size} {config.cell.upper()}" if config.num_layers else "softmax alone"
    figures = {
        "bits per character": f"{scored.bits_per_character:.3f}",
        "perplexity": f"{scored.perplexity:.3f}",
        "of the top guesses right": f"{scored.accuracy:.1%}",
        "characters": f"{scored.characters:,}",
    }
    if scored.unknown_characters:
        figures["of them unknown"] = f"{scored.unknown_characters:,}"
    if scored.each is not None:
        figures[f"bits per {model.records}"] = f"{scored.to_dict()[f'bits_per_{model.records}']:.2f}"
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.items())
    return (
        f"<header><h1>{escape(title)}</h1><p>A network that writes character by character: {layers}, "
        f"{len(model.vocabulary):,} characters known. {escape(about)}</p>"
        f'<dl class="figures">{cells}</dl></header>'
    )


def _render_curves(history: Sequence[Metrics]) -> str:
    train = [(m.characters, m.train_bits_per_character) for m in history]
    held_out = [(m.characters, m.validation_bits_per_character) for m in history]
    validation = [(characters, bits) for characters, bits in held_out if bits is not None]
    rates = [(m.characters, m.learning_rate) for m in history]
    times = [(float(m.characters), duration(m.seconds)) for m in history]
    lines = [Line("train", train), *([Line("validation", validation)] if validation else [])]
    loss = draw_curves("Loss", lines, y_name="bits per character", times=times)
    rate = draw_curves("Learning rate", [Line("rate", rates)], y_name="learning rate", times=times, from_zero=True)
    rows = [
        f"<td>{m.step:,}</td><td>{m.characters:,}</td><td>{duration(m.seconds)}</td><td>{m.train_bits_per_character:.3f}</td>"
        f"<td>{_format_bits(m.validation_bits_per_character)}</td><td>{m.learning_rate:.3g}</td>"
        for m in history
    ]
    table = _render_figures(("step", "characters", "time", "train", "validation", "learning rate"), rows)
    return (
        '<section id="learning"><h2>How it learned</h2><p class="say">Characters read from left to right, the time '
        "that they took along the top. Less is better: a text known by heart costs 0 bits.</p>"
        f'<div class="pair"><figure>{loss}</figure><figure>{rate}</figure></div>'
        f"<details><summary>These figures as a table</summary>{table}</details></section>"
    )


def _render_figures(names: Sequence[str], rows: Sequence[str]) -> str:
    """A table of figures: `names` of its columns, and the cells of each row."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(f"<tr>{cells}</tr>" for cells in rows)
    return f'<div class="scroll"><table class="table numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _format_bits(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _render_samples(history: Sequence[Metrics]) -> str:
    cards = [
        f"<li><h3><span>after {shorten(m.characters)} characters, {duration(m.seconds)}</span>"
        f"<b>{_format_bits(m.validation_bits_per_character)}</b></h3><pre>{escape(make_visible(m.sample))}</pre></li>"
        for m in history
        if m.sample
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


def _render_text(model: Model, scored: Score, surprises: Sequence[Surprise], characters: int, coloured: int) -> str:
    """The frame of the coloured text, which the page's script fills in, and the list of `surprises`."""
    steps = "".join(
        f'<li class="l{k}">{k // 2 if k % 2 == 0 else ""}{"+" if k == LEVELS - 1 else ""}</li>' for k in range(LEVELS)
    )
    cut = "" if coloured == characters else f" Coloured are the first {coloured:,} characters, which fit into the page."
    symbol = model.vocabulary.characters[model.vocabulary.unknown] if model.vocabulary.unknown is not None else None
    items = "".join(_render_surprise(surprise, symbol, coloured) for surprise in surprises)
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


def _render_surprise(surprise: Surprise, symbol: str | None, coloured: int) -> str:
    show = partial(make_visible, signs=LINE_SIGNS)
    guesses = ", ".join(
        f"{'any other' if c == symbol else NAMES.get(c, f'“{show(c)}”')} {percent(p)}" for c, p in surprise.guesses[:3]
    )
    disabled = "" if surprise.place < coloured else " disabled"
    said = f"expected {guesses}" if guesses else "unknown to the model"
    parts = (surprise.before[-14:], surprise.character, surprise.after[:12])
    before, character, after = (escape(show(part)) for part in parts)
    return (
        f'<li><button type="button" data-place="{surprise.place}"{disabled}><span class="mono">{before}'
        f"<mark>{character}</mark>{after}</span><small>{surprise.bits:.1f} bits; {escape(said)}</small></button></li>"
    )


def _render_calibration(details: Details) -> str:
    error = details.calibration_error
    counts = details.calibration
    rows = [
        f"<td>{k / len(counts):.0%} to {(k + 1) / len(counts):.0%}</td><td>{n:,}</td><td>{p:.1%}</td><td>{f:.1%}</td>"
        for k, (n, p, f) in enumerate(counts)
        if n
    ]
    if not rows:
        return ""
    return (
        '<section id="calibration"><h2>Whether its probabilities can be believed</h2><div class="pair">'
        f"<figure>{draw_reliability(counts, error)}</figure><div>"
        '<p class="say">When the network holds its top guess for 70 % likely, it should be right 70 % of the time: then the '
        "dots lie on the diagonal. Below it the network is too sure, above it not sure enough. The bars say how many guesses "
        "there were of each probability.</p>"
        f"<p>Expected calibration error: <b>{error:.2%}</b>, the mean distance from the diagonal, each of {len(counts)} bins "
        "weighted by its guesses (Naeini, Cooper &amp; Hauskrecht 2015; Guo et al. 2017).</p>"
        f"{_render_figures(('probability', 'guesses', 'on average', 'right'), rows)}</div></div></section>"
    )


def _render_configuration(model: Model, history: Sequence[Metrics]) -> str:
    tables = "".join(
        f'<div><h3>{name}</h3><table class="table"><tbody>'
        + "".join(f'<tr><th scope="row">{escape(key)}</th><td>{_format(value)}</td></tr>' for key, value in rows.items())
        + "</tbody></table></div>"
        for name, rows in (("The network", _list_network(model)), ("Its training", _list_training(model, history)))
    )
    return f'<section id="configuration"><h2>How it is made</h2><div class="pair">{tables}</div></section>'


def _list_network(model: Model) -> dict[str, Value]:
    config = model.header.config
    return {
        "cell": config.cell,
        "layers": config.num_layers,
        "units in each": config.hidden_size,
        "embedding": config.embedding_size or "one-hot",
        "residual": config.residual,
        "vocabulary": len(model.vocabulary),
        "weights": sum(math.prod(shape) for shape in config.shapes().values()),
        "each sequence": model.records or "the whole text",
    }


def _list_training(model: Model, history: Sequence[Metrics]) -> dict[str, Value]:
    """How the model was trained, as far as its file says it in a usable way."""
    training = model.header.training
    rows: dict[str, Value] = {}
    if training.origin is not None:
        rows["text"] = ", ".join(os.path.basename(source) or "-" for source in training.origin.sources)
    if training.recipe is not None:
        said = {"cell", "layers", "hidden_size", "embedding", "residual", "records"}
        recipe = to_json(training.recipe)
        rows |= {key.replace("_", " "): value for key, value in recipe.items() if key not in said and value is not None}
    if training.origin is not None and training.origin.options.validation is not None:
        held_out = training.origin.options.validation
        rows["held out"] = os.path.basename(held_out) if isinstance(held_out, str) else f"{held_out:.0%}"
    metrics = training.metrics
    if metrics is not None:
        rows["steps of this model"] = metrics.step
        rows["characters read"] = metrics.characters
        rows["train bits per character"] = f"{metrics.train_bits_per_character:.4f}"
        if metrics.validation_bits_per_character is not None:
            rows["validation bits per character"] = f"{metrics.validation_bits_per_character:.4f}"
        rows["time"] = duration(metrics.seconds)
    if history and (metrics is None or history[-1].step != metrics.step):
        rows["steps of the run"] = history[-1].step
    return rows


def _format(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return escape(make_visible(f"{value:.6g}" if isinstance(value, float) else value, keep=""))
