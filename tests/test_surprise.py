"""Surprisal: bits of each character, the most surprising ones, the model's guesses, and the heatmap."""

import itertools
import json
import math
import os
import pty
import re
import subprocess
import sys
import tracemalloc
import unicodedata

import numpy as np
import pytest
from conftest import CORPORA, charrnn

from charrnn.checkpoint import RECORD_HASHES, write
from charrnn.headers import ModelHeader, model_to_json
from charrnn.inference import score
from charrnn.inference.model import Model
from charrnn.inference.surprisal import Details, Surprise, Top
from charrnn.network.config import Config
from charrnn.terminal.heatmap import LEVELS, Heatmap, ink, luminance, magma, palette, percent
from charrnn.terminal.scores import format_surprise
from charrnn.text.reading import build_corpus
from charrnn.text.records import SEPARATORS, find_spans, hash_records
from charrnn.text.vocabulary import Vocabulary

BOOK = (CORPORA / "the-lamp.txt").read_text()
LINES = (CORPORA / "birds.txt").read_text()[:9000]
STRANGE = "ein Löwe, 三 lions\nand ☃\n\n\n" + BOOK[:3000] + "☃☃ the end ☃\n"


def header_of(characters, cell="lstm", layers=1, hidden=7, records=None, unknown=False):
    vocabulary = Vocabulary(characters, unknown).characters
    config = Config(len(vocabulary), cell, num_layers=layers, hidden_size=hidden, embedding_size=0, residual=False)
    return ModelHeader(config=config, vocabulary=vocabulary, start="\n", records=records, unknown=unknown)


def tensors_of(header, seed=1):
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.7, shape).astype(np.float32) for name, shape in header.config.shapes().items()}


def model_of(*arguments, **more):
    """An untrained network: scores must be right for any network."""
    header = header_of(*arguments, **more)
    return Model(tensors_of(header), header)


KINDS = {
    "a text": (model_of(BOOK), BOOK[:9000]),
    "a short text": (model_of(BOOK), "To be\n"),
    "gru": (model_of(BOOK, "gru", 2), BOOK[:3000]),
    "softmax alone": (model_of(BOOK, layers=0), BOOK[:9000]),
    "three characters": (model_of("ab\n"), "abba\n" * 9),
    "unknown characters": (model_of(BOOK), STRANGE),
    "nothing but unknown characters": (model_of(BOOK), "☃☃☃"),
    "a symbol for the unknown": (model_of(BOOK[:300] + "\ufffd", unknown=True), STRANGE),
    "lines": (model_of(LINES, records="line"), LINES),
    "lines with unknown characters": (model_of(LINES[:60] + "\n", records="line"), LINES + "\n\nno end"),
    "lines and a symbol": (model_of(LINES[:60] + "\n\ufffd", records="line", unknown=True), LINES),
    "paragraphs": (model_of(BOOK, records="paragraph"), BOOK[:9000]),
}


def read_naively(model, text):
    """Read a text one character after the other. Returns: what is scored, the place of each character, and the
    probabilities (N, V) before each, in float64; unknown characters are skipped."""
    spans = find_spans(text, model.records) if model.records else [(0, len(text))]
    separator = SEPARATORS[model.records] if model.records else ""
    scored, places, p = "", [], []
    for start, stop in spans:
        state = model.network.initial_state(1)
        state.step([model.start])
        record = text[start:stop] + separator
        for i in model.vocabulary.encode(record):
            logits = state.logits[0].astype(np.float64)
            if model.records and not text[start : start + len(places) - len(scored)].strip():
                logits[model.start] = -np.inf  # no record is blank
            p.append(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
            places.append(start + len(places) - len(scored))
            if i >= 0:
                state.step([i])
        scored += record
    return scored, places, np.array(p)


def naive_bits(model, scored, p):
    """The bits of each character, as docs/bits.md defines them."""
    vocabulary = model.vocabulary
    ids = vocabulary.encode(scored)
    if vocabulary.unknown is not None:
        rest = np.where(ids == vocabulary.unknown, math.log2(score.UNICODE - (len(vocabulary) - 1)), 0)
        return rest - np.log2(p[np.arange(len(ids)), ids])
    unknown = -math.log2(score.ESCAPE / (score.UNICODE - len(vocabulary)))
    known = -np.log2(p[np.arange(len(ids)), ids] * (1 - score.ESCAPE))
    return np.where(ids < 0, unknown, known)


@pytest.fixture(params=KINDS)
def case(request, monkeypatch):
    """A model, a text, and what the naive pass says of it; pieces are short."""
    model, text = KINDS[request.param]
    monkeypatch.setattr(score, "BLOCK", 1 << 12)
    scored, places, p = read_naively(model, text)
    return model, text, scored, places, p, naive_bits(model, scored, p)


def test_pieces_come_in_order_with_the_bits_of_one_pass(case):
    model, text, scored, places, _, bits = case
    pieces = list(model.pieces(text))
    assert "".join(piece.text for piece in pieces) == scored
    assert [piece.start + k for piece in pieces for k in range(len(piece.text))] == places
    assert np.concatenate([piece.bits for piece in pieces]) == pytest.approx(bits, abs=1e-4)
    for piece in pieces:
        before = text[: piece.start]
        assert (piece.line, piece.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))


def test_the_totals_of_pieces_are_the_score(case):
    model, text, scored, _, p, bits = case
    totals = score.Totals(model.vocabulary, model.records)
    for piece in model.pieces(text):
        totals.add(piece)
    one, parallel = totals.finish(), model.score(text)
    assert one.bits_per_character == pytest.approx(bits.mean(), abs=1e-5)
    assert one.bits_per_character == pytest.approx(parallel.bits_per_character, abs=0.002)
    ids = model.vocabulary.encode(scored)
    outside = (ids < 0) | (ids == model.vocabulary.unknown)
    assert one.unknown_characters == parallel.unknown_characters == outside.sum()
    assert one.characters == parallel.characters == len(scored)
    assert one.correct == ((p.argmax(axis=1) == ids) & ~outside).sum()
    assert (
        one.worst(3) == [(k, pytest.approx(b, abs=1e-3)) for k, b in parallel.worst(3)] if model.records else one.each is None
    )


def test_what_follows_never_changes_the_bits_of_a_character():
    model = model_of(BOOK, layers=2)
    long = np.concatenate([piece.bits for piece in model.pieces(BOOK[:9000])])
    for n in (1, 700, 5000):
        short = np.concatenate([piece.bits for piece in model.pieces(BOOK[:n])])
        assert long[:n] == pytest.approx(short, abs=1e-5)


def test_the_most_surprising_characters_are_the_first_of_all_sorted(case):
    model, text, scored, places, p, bits = case
    top = Top(model.vocabulary, build_corpus(text), 12)
    for piece in model.pieces(text):
        top.add(piece)
    assert len(top._kept) <= 24
    surprises = top.finish()
    order = np.lexsort((np.arange(len(bits)), -bits.round(4)))[:12]
    assert [surprise.bits for surprise in surprises] == pytest.approx(bits[order].tolist(), abs=1e-4)
    for surprise in surprises:
        k = places.index(surprise.place)
        assert bits[k] == pytest.approx(surprise.bits, abs=1e-4)
        assert surprise.character == scored[k]
        assert surprise.before == text[max(0, surprise.place - 30) : surprise.place]
        assert surprise.after == text[surprise.place + 1 : surprise.place + 16]
        before = text[: surprise.place]
        assert (surprise.line, surprise.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))
        likeliest = np.sort(p[k])[::-1][:5]
        assert [q for _, q in surprise.guesses] == pytest.approx(likeliest.tolist(), abs=1e-5)
        guessed = p[k][model.vocabulary.encode("".join(c for c, _ in surprise.guesses))]
        assert guessed.tolist() == pytest.approx(likeliest.tolist(), abs=1e-5)


def test_equally_surprising_characters_come_in_the_order_of_the_text():
    model, text = model_of(BOOK), "A ☃ and a\nlamp☃." * 9
    top = Top(model.vocabulary, build_corpus(text), 5)
    for piece in model.pieces(text):
        top.add(piece)
    found = top.finish()
    assert [surprise.character for surprise in found] == ["☃"] * 5
    assert [surprise.place for surprise in found] == [k for k, c in enumerate(text) if c == "☃"][:5]
    assert found[0].bits == pytest.approx(40.085, abs=0.01)


def test_details_say_the_same_and_calibration_is_that_of_its_definition(case):
    model, text, scored, _, _, bits = case
    details = Details(model.vocabulary)
    for piece in model.pieces(text):
        details.add(piece)
    details.finish()
    assert details.text == scored
    assert details.surprisals == pytest.approx(bits, abs=1e-4)
    assert (details.ids == model.vocabulary.encode(scored)).all()
    known = details.ids >= 0
    assert sum(n for n, _, _ in details.calibration) == known.sum()
    sure, right = details.probabilities[known, 0].astype(np.float64), details.guesses[known, 0] == details.ids[known]
    error = 0.0
    for k in range(10):
        mine = (sure >= k / 10) & ((sure < (k + 1) / 10) | (k == 9))
        if mine.any():
            error += mine.mean() * abs(sure[mine].mean() - right[mine].mean())
    assert details.calibration_error == pytest.approx(error, abs=1e-6)


def test_memory_does_not_grow_with_the_text(monkeypatch):
    monkeypatch.setattr(score, "BLOCK", 1 << 16)
    model = model_of("ab\n", layers=0)
    peaks = []
    for n in (150_000, 450_000):
        text = build_corpus("ab\nba" * (n // 5))
        tracemalloc.start()
        top, totals = Top(model.vocabulary, text, 5), score.Totals(model.vocabulary)
        for piece in model.pieces(text):
            top.add(piece)
            totals.add(piece)
        assert len(top.finish()) == 5
        assert totals.finish().characters == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_the_colours_rise_in_luminance_and_what_stands_on_them_is_readable():
    colours = [magma(k / (LEVELS - 1)) for k in range(LEVELS)]
    lights = [luminance(colour) for colour in colours]
    assert all(b > a for a, b in itertools.pairwise(lights))
    for r in range(0, 256, 51):
        for g in range(0, 256, 51):
            for b in range(0, 256, 51):
                pair = sorted((luminance((r, g, b)), luminance(ink((r, g, b)))))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5
    assert all(len(palette(system)) == LEVELS for system in ("truecolor", "256", "standard"))
    cube = [int(colour.split(";")[2]) - 16 for colour in palette("256")]
    steps = (0, 95, 135, 175, 215, 255)
    shown = [luminance((steps[n // 36], steps[n // 6 % 6], steps[n % 6])) for n in cube]
    assert all(b >= a for a, b in itertools.pairwise(shown))


def drawn(text, bits, colours=None, width=20):
    lines = []
    heatmap = Heatmap(lines.append, colours, width)
    heatmap.draw(text[:3], bits[:3])
    heatmap.draw(text[3:], bits[3:])
    heatmap.finish()
    assert lines.pop() == "\n"
    return "".join(lines[1:])  # without the legend


def test_without_colours_digits_stand_below_the_characters():
    assert drawn("to be\nor\tn", [0.2, 1.2, 9, 40, 3.9, 2, 0, 0, 5.5, 1]) == "to be↵\n 19932\nor⇥n\n  51\n"
    assert drawn("三三ae\u0301", [1, 2, 3, 0.1, 4]) == "三三ae\u0301\n1 2 34\n"
    assert drawn("abcdefg", [1] * 7, width=3) == "abc\n111\ndef\n111\ng\n1\n"
    assert drawn("a\x1bb", [1, 2, 3]) == "a\\x1bb\n12   3\n"


def test_with_colours_each_line_ends_without_any():
    colours = palette("truecolor")
    out = drawn("to be\nor", [0, 0, 0.5, 8, 99, 2, 0, 0], colours)
    assert out.splitlines()[0] == "".join(
        (f"\x1b[{colours[0]}mto", f"\x1b[{colours[1]}m ", f"\x1b[{colours[16]}mbe", f"\x1b[{colours[4]}m↵", "\x1b[0m")
    )
    assert all(line.endswith("\x1b[0m") for line in out.splitlines())


def test_hostile_characters_are_shown_not_obeyed():
    hostile = "a\x1b[31m\x07\u202e\x9b\r\u2028b"
    for colours in (None, palette("256")):
        out = drawn(hostile, [1.0] * len(hostile), colours, 200)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out) if colours else out
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in plain if c != "\n")
    surprise = Surprise(
        bits=3.0,
        character="\x1b",
        place=0,
        line=1,
        column=2,
        before=hostile,
        after=hostile,
        guesses=(("\x07", 0.5),),
    )
    line = format_surprise(surprise, symbol=None, width=3, emphasis=False)
    assert line.isprintable()
    assert "\\x07 50%" in line


def test_no_probability_is_shown_as_none():
    assert [percent(p) for p in (1.0, 0.123, 0.006, 0.005, 0.0001)] == ["100%", "12%", "1%", "<1%", "<1%"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with untrained models, and texts."""
    folder = tmp_path_factory.mktemp("surprise")
    for name, header in {
        "text": header_of(BOOK),
        "symbol": header_of(BOOK[:300] + "\ufffd", unknown=True),
        "line": header_of(LINES, records="line"),
    }.items():
        (folder / name).mkdir()
        given = {RECORD_HASHES: hash_records(LINES.splitlines())} if name == "line" else {}
        write(folder / name / "model.safetensors", tensors_of(header) | given, model_to_json(header))
    (folder / "strange.txt").write_text(STRANGE)
    (folder / "lines.txt").write_text("\n" + LINES[:600] + "\n")
    return folder


@pytest.mark.parametrize(("name", "text"), [("symbol", "strange.txt"), ("line", "lines.txt")])
def test_json_holds_each_character_with_its_bits_and_the_most_surprising_ones(runs, name, text):
    plain = json.loads(charrnn("eval", text, "-m", name, "--json", cwd=runs)[0])
    figures = json.loads(charrnn("eval", text, "-m", name, "--json", "--heatmap", "--top", 3, cwd=runs)[0])
    pairs, top = figures.pop("heatmap"), figures.pop("top")
    assert figures == pytest.approx(plain, rel=1e-6)
    assert len(pairs) == figures["characters"]
    assert sum(bits for _, bits in pairs) / len(pairs) == pytest.approx(figures["bits_per_character"], abs=1e-4)
    assert "".join(character for character, _ in pairs) == (runs / text).read_text().lstrip("\n" if name == "line" else "")
    assert len(top) == 3
    assert set(top[0]) == {"bits", "character", "place", "line", "column", "before", "after", "guesses"}
    skipped = 1 if name == "line" else 0  # an empty line at the beginning
    assert [pairs[found["place"] - skipped] for found in top] == [[found["character"], found["bits"]] for found in top]
    assert top[0]["line"] == (runs / text).read_text()[: top[0]["place"]].count("\n") + 1
    assert len(top[0]["guesses"]) == 5


def test_a_pipe_gets_digits_and_the_figures_stay_the_last_but_the_top(runs):
    plain = charrnn("eval", "strange.txt", "-m", "text", cwd=runs)[0].decode()
    out = charrnn("eval", "-", "-m", "text", "--heatmap", "--top", 2, cwd=runs, text=STRANGE)[0].decode()
    assert "\x1b" not in out
    assert plain in out
    assert out.startswith("The digit below each character is its surprisal in whole bits")
    assert out.splitlines()[2] == "ein Löwe, 三 lions↵"
    assert re.match(r"[ 1-9]+$", out.splitlines()[3])
    last = out.splitlines()[-1]
    assert last.split()[:2] == ["40.08", "1:11"]
    assert "ein Löwe, [三] lions" in last


def on_terminal(arguments, cwd, **env):
    """The program's output on a terminal of 40 columns."""
    theirs, ours = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "charrnn", *arguments],
        cwd=cwd,
        env=clean | {"COLUMNS": "40"} | env,
        stdin=subprocess.DEVNULL,
        stdout=ours,
        stderr=subprocess.DEVNULL,
    )
    os.close(ours)
    out = b""
    while True:
        try:
            part = os.read(theirs, 65536)
        except OSError:
            break
        if not part:
            break
        out += part
    os.close(theirs)
    assert process.wait(60) == 0
    return out.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("env", "sign"),
    [
        (dict(TERM="xterm-256color"), "\x1b[48;5;"),
        (dict(TERM="xterm-256color", COLORTERM="truecolor"), "\x1b[48;2;"),
        (dict(TERM="linux"), "\x1b[44;97m"),
        (dict(TERM="dumb"), None),
        (dict(TERM="xterm-256color", COLORTERM="truecolor", NO_COLOR="1"), None),
    ],
)
def test_a_terminal_gets_the_colours_that_it_has(runs, env, sign):
    out = on_terminal(["eval", "strange.txt", "-m", "text", "--heatmap", "--top", "2"], runs, **env)
    if sign is None:
        assert "\x1b" not in out
        assert "ein Löwe, 三 lions↵" in out
        return
    assert sign in out
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert plain.startswith("bits  0     1     2     3     4     5     6     7     8+\n")
    assert "ein Löwe, 三 lions↵\nand ☃↵\n↵\n↵\n" in plain
    assert max(map(len, plain.split("characters   ")[0].splitlines()[1:-2])) <= 40


def test_a_pipe_gets_colours_where_they_are_forced(runs):
    out = charrnn("eval", "lines.txt", "-m", "line", "--heatmap", cwd=runs, env={"FORCE_COLOR": "1", "TERM": "xterm-256color"})[
        0
    ]
    assert b"\x1b[48;5;" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["strange.txt", "--top", "-1"], "--top must be between 0 and 10000, not -1"),
        (["strange.txt", "--top", "10001"], "--top must be between 0 and 10000, not 10001"),
        (["strange.txt", "--top", "many"], "--top must be a whole number, not 'many'"),
        (["empty.txt", "--heatmap"], "empty"),
        (["blank.txt", "--heatmap", "-m", "line"], "no lines"),
        (["blank.txt", "--heatmap", "--json", "-m", "line"], "no lines"),
    ],
)
def test_bad_input_gets_one_line(runs, inside, arguments, words):
    (runs / "empty.txt").write_text("")
    (runs / "blank.txt").write_text("\n \n")
    model = [] if "-m" in arguments else ["-m", "text"]
    out, errors = inside(runs, ["eval", *arguments, *model], 2)
    assert out == ""
    assert errors.splitlines()[-1].startswith("error: ")
    assert words in errors


def test_a_reader_that_goes_is_no_error(runs):
    (runs / "long.txt").write_text(BOOK)
    command = f"{sys.executable} -m charrnn eval long.txt -m text --heatmap | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=runs, capture_output=True, timeout=60)
    assert done.stderr == b""
    assert done.stdout == b"The digit 0\n"
