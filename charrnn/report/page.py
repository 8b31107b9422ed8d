"""Report on a run as one HTML file: learning curves, samples, surprising characters of a text, and the configuration.

The page works offline. Strings from a text or file are escaped, so that they can't add markup.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path

import numpy as np

from charrnn.export.html import fill_page
from charrnn.headers import Metrics, to_json
from charrnn.inference.model import Model
from charrnn.inference.score import Score, Totals
from charrnn.inference.surprisal import Details, Surprise, Top
from charrnn.options import require
from charrnn.report.charts import draw_curves, draw_reliability, shorten
from charrnn.report.packing import NAMES, pack_to_fit
from charrnn.terminal.heatmap import LEVELS, ink, magma, percent
from charrnn.terminal.output import duration
from charrnn.text.corpus import Corpus
from charrnn.text.reading import Watch, build_corpus
from charrnn.text.records import SEPARATORS, join, split
from charrnn.text.visible import LINE_SIGNS, SINGLE_SIGNS, make_visible
from charrnn.training.sources import reread_texts
from charrnn.version import __version__

Value = str | float | bool  # in a table of the configuration

LIMIT = 100_000  # most characters scored and coloured
SURPRISES = 8  # surprising characters listed
SAMPLES = 6  # samples shown before "The others" is opened


def find_validation_text(model: Model, advice: str, watch: Watch | None = None) -> Corpus:
    """Read the validation text of the model's run again.

    Raises: CharrnnError, with `advice` at its end, if there was none or it can't be found.
    """
    origin = model.header.training.origin
    require(origin is None or bool(origin.options.validation), f"{model.short_name} was not validated on any text; {advice}")
    texts = reread_texts(model, advice, watch=watch)
    require(len(texts.held_out) > 0, f"{model.short_name} held no text out; {advice}")
    return texts.held_out


def render_page(
    model: Model,
    history: Sequence[Metrics],
    corpus: Corpus,
    name: str,
    watch: Watch = lambda *_: None,
    box: Mapping[str, str] | None = None,
) -> str:
    """Render the report as an HTML document, on at most LIMIT characters of `corpus`, which the page calls `name`.

    With the `box` of `export.html`, the page has the model to write with.
    """
    text, given = _select(model, corpus)
    details = Details(model.vocabulary)
    top = Top(model.vocabulary, text, SURPRISES)
    totals = Totals(model.vocabulary, model.records)
    for piece in model.pieces(text, watch):
        details.add(piece)
        top.add(piece)
        totals.add(piece)
    details.finish()
    N = len(details.text)
    packed, coloured, facts = pack_to_fit(model.vocabulary, details)
    about = f"{N:,} characters" if given <= N else f"the first {N:,} of {given:,} characters"
    values = _render_head(model, totals.finish()) | {
        "title": escape((model.path.parent.resolve().name if model.path is not None else "") or "a model"),
        "version": escape(__version__),
        "about": escape(f"On {about} of {name}."),
        "cut": "" if coloured == N else f" Only the first {coloured:,} characters are coloured, to keep the file small.",
        "surprises": "".join(_render_surprise(surprise, model, coloured) for surprise in top.finish()),
        "network": _render_configuration("Model", _list_network(model)),
        "training": _render_configuration("Training", _list_training(model, history)),
        "facts": json.dumps(facts, ensure_ascii=True).replace("<", "\\u003c"),
        "packed": packed,
        "light": _render_colours("ffffff", first=1.0, last=0.12),
        "dark": _render_colours("1a1522", first=0.1, last=1.0),
        "levels": "\n".join(f".l{k} {{ background: var(--l{k}); color: var(--t{k}); }}" for k in range(LEVELS)),
        "worker": " 'wasm-unsafe-eval'; worker-src blob:" if box else "",
        "box_style": "",
        "box_script": "",
        "steps": "".join(f'<li class="l{k}">{"" if k % 2 else k // 2}{"+" * (k == LEVELS - 1)}</li>' for k in range(LEVELS)),
    }
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    curves, samples, calibration = _render_curves(history), _render_samples(history), _render_calibration(details)
    sections = {"write": box, "learning": curves, "samples": samples, "calibration": calibration}
    for section, filled in sections.items():
        if not filled:
            template = re.sub(f'<section id="{section}">.*\n', "", template)
        values |= filled or {}
    return fill_page(template, values)


def _select(model: Model, corpus: Corpus) -> tuple[Corpus, int]:
    """Returns: the text to colour, of about LIMIT characters, for records whole ones; the characters that could be."""
    if not model.records:
        return (build_corpus(corpus.text(0, LIMIT)) if len(corpus) > LIMIT else corpus), len(corpus)
    joined = join(split(corpus.text(), model.records)[0], model.records)  # so that places are those in the coloured text
    end = joined.rfind(SEPARATORS[model.records], 0, LIMIT) + len(SEPARATORS[model.records])
    return build_corpus(joined if len(joined) <= LIMIT else joined[:end] if end > 1 else joined[:LIMIT]), len(joined)


def _render_colours(paper: str, first: float, last: float) -> str:
    """The colours of all levels as CSS. Expected characters have the page's background colour, `paper`."""
    lines = []
    for k in range(LEVELS):
        own = min(1.0, k / 3)  # share of the colour map; the rest is `paper`
        colour = magma(first + (last - first) * k / (LEVELS - 1))
        red, green, blue = (round(own * c + (1 - own) * p) for c, p in zip(colour, bytes.fromhex(paper), strict=True))
        text = bytes(ink((red, green, blue)))
        lines.append(f"  --l{k}: #{bytes((red, green, blue)).hex()}; --t{k}: #{text.hex()};")
    return "\n".join(lines)


def _render_head(model: Model, scored: Score) -> dict[str, str]:
    config = model.header.config
    layers = f"{config.num_layers} × {config.hidden_size} {config.cell.upper()}" if config.num_layers else "softmax layer alone"
    figures = {"bits per character": f"{scored.bits_per_character:.3f}", "perplexity": f"{scored.perplexity:.3f}"}
    figures |= {"accuracy of the top guess": f"{scored.accuracy:.1%}", "characters": f"{scored.characters:,}"}
    if scored.unknown_characters:
        figures["unknown characters"] = f"{scored.unknown_characters:,}"
    if scored.each is not None:
        figures[f"bits per {model.records}"] = f"{scored.to_dict()[f'bits_per_{model.records}']:.2f}"
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.items())
    sizes = {"layers": layers, "vocabulary": f"{len(model.vocabulary):,}"}
    return sizes | {"figures": cells, "mean": figures["bits per character"]}


def _render_curves(history: Sequence[Metrics]) -> dict[str, str]:
    if not history:
        return {}
    train = [(m.characters, m.train_bits_per_character) for m in history]
    held_out = [(m.characters, bits) for m in history if (bits := m.validation_bits_per_character) is not None]
    lines = {"train": train} | ({"validation": held_out} if held_out else {})
    rates = {"rate": [(m.characters, m.learning_rate) for m in history]}
    times = [(float(m.characters), duration(m.seconds)) for m in history]
    loss = draw_curves("Loss", lines, y_name="bits per character", times=times)
    rate = draw_curves("Learning rate", rates, y_name="learning rate", times=times, from_zero=True)
    rows = [
        f"<td>{m.step:,}</td><td>{m.characters:,}</td><td>{duration(m.seconds)}</td><td>{m.train_bits_per_character:.3f}</td>"
        f"<td>{_format_bits(m.validation_bits_per_character)}</td><td>{m.learning_rate:.3g}</td>"
        for m in history
    ]
    table = _render_figures(("step", "characters", "time", "train", "validation", "learning rate"), rows)
    return {"loss": loss, "rate": rate, "validations": table}


def _render_figures(names: Sequence[str], rows: Sequence[str]) -> str:
    """Render a table with these column `names` and the cells of each row."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(f"<tr>{cells}</tr>" for cells in rows)
    return f'<div class="scroll"><table class="table numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _format_bits(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _render_samples(history: Sequence[Metrics]) -> dict[str, str]:
    cards = [
        f"<li><h3><span>after {shorten(m.characters)} characters, {duration(m.seconds)}</span>"
        f"<b>{_format_bits(m.validation_bits_per_character)}</b></h3><pre>{escape(make_visible(m.sample))}</pre></li>"
        for m in history
        if m.sample
    ]
    if not cards:
        return {}
    chosen = {round(place) - 1 for place in np.geomspace(1, len(cards), SAMPLES)}  # a network changes most at first
    shown, rest = ("".join(card for k, card in enumerate(cards) if (k in chosen) == want) for want in (True, False))
    others = f'<details><summary>More samples</summary><ol class="samples">{rest}</ol></details>' if rest else ""
    return {"samples": shown, "others": others}


def _render_surprise(surprise: Surprise, model: Model, coloured: int) -> str:
    unknown = model.vocabulary.unknown
    show = partial(make_visible, signs=SINGLE_SIGNS)
    names = NAMES if unknown is None else NAMES | {model.vocabulary.characters[unknown]: "any other"}
    guesses = ", ".join(f"{names.get(c) or f'“{show(c)}”'} {percent(p)}" for c, p in surprise.guesses[:3])
    disabled = "" if surprise.place < coloured else " disabled"
    expectation = f"expected {guesses}" if guesses else "not in the vocabulary"
    before, after = (escape(make_visible(part, signs=LINE_SIGNS)) for part in (surprise.before[-14:], surprise.after[:12]))
    character = escape(show(surprise.character))
    return (
        f'<li><button type="button" data-place="{surprise.place}"{disabled}><span class="mono">{before}'
        f"<mark>{character}</mark>{after}</span><small>{surprise.bits:.1f} bits; {escape(expectation)}</small></button></li>"
    )


def _render_calibration(details: Details) -> dict[str, str]:
    counts = details.calibration
    rows = [
        f"<td>{k / len(counts):.0%} to {(k + 1) / len(counts):.0%}</td><td>{n:,}</td><td>{p:.1%}</td><td>{f:.1%}</td>"
        for k, (n, p, f) in enumerate(counts)
        if n
    ]
    if not rows:
        return {}
    error = details.calibration_error
    guesses = _render_figures(("probability", "guesses", "on average", "right"), rows)
    values = {"error": f"{error:.2%}", "bins": str(len(counts)), "guesses": guesses}
    return values | {"reliability": draw_reliability(counts, error)}


def _render_configuration(name: str, rows: Mapping[str, Value]) -> str:
    body = "".join(f'<tr><th scope="row">{escape(key)}</th><td>{_format(value)}</td></tr>' for key, value in rows.items())
    return f'<div><h3>{name}</h3><table class="table"><tbody>{body}</tbody></table></div>'


def _list_network(model: Model) -> dict[str, Value]:
    config = model.header.config
    return {
        "cell": config.cell,
        "layers": config.num_layers,
        "hidden size": config.hidden_size,
        "embedding": config.embedding_size or "one-hot",
        "residual": config.residual,
        "vocabulary": len(model.vocabulary),
        "weights": sum(math.prod(shape) for shape in config.shapes().values()),
        "sequences": f"each {model.records}" if model.records else "the whole text",
    }


def _list_training(model: Model, history: Sequence[Metrics]) -> dict[str, Value]:
    """How the model was trained, as far as its file has it."""
    origin, recipe, metrics = model.header.training.origin, model.header.training.recipe, model.header.training.metrics
    rows: dict[str, Value] = {}
    if origin is not None:
        rows["text"] = ", ".join(os.path.basename(source) or "-" for source in origin.sources)
    if recipe is not None:
        shown = {"cell", "layers", "hidden_size", "embedding", "residual", "records", "shards"}
        shown |= {"passes", "most_passes"}  # planned, not done
        figures = to_json(recipe).items()
        rows |= {key.replace("_", " "): value for key, value in figures if key not in shown and value is not None}
    if origin is not None and (held_out := origin.options.validation) is not None:
        rows["validation"] = os.path.basename(held_out) if isinstance(held_out, str) else f"{held_out:.0%}"
    if metrics is not None:
        rows |= {"steps": metrics.step, "characters read": metrics.characters}
        if metrics.epochs is not None:
            rows["epochs"] = metrics.epochs
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
