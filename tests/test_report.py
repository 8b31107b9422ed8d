"""The report: its content, what it takes from a run, and its behaviour in a browser."""

import base64
import dataclasses
import hashlib
import html
import json
import math
import re
import subprocess
import sys
import zlib

import pytest
from conftest import charrnn
from test_surprise import BOOK, LINES, header_of, model_of, tensors_of

from charrnn import load
from charrnn.checkpoint import write
from charrnn.errors import CharrnnError
from charrnn.headers import Metrics, Origin, Training, model_to_json, to_json
from charrnn.inference.model import Model
from charrnn.inference.surprisal import Details
from charrnn.options import Options, Recipe
from charrnn.report.charts import choose_ticks, draw_curves, draw_reliability
from charrnn.report.page import LIMIT, find_validation_text, render_page
from charrnn.run_folder import read_history
from charrnn.text.reading import build_corpus
from charrnn.training.sources import read_texts

MANY = "".join(chr(0x4E00 + k) for k in range(700))
LONG = (BOOK * 2)[:120_000]
HOSTILE = "</script><script>hacked = 1</script><img src=x onerror='hacked = 2'>&lt;\u202e\x07\"'`{{facts}}\n"
CONTRASTS = """() => {
    const light = c => c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const parsed = text => text.match(/[\\d.]+/g).map(Number);
    const behind = element => {
        for (let e = element; e; e = e.parentElement) {
            const c = parsed(getComputedStyle(e).backgroundColor);
            if (c.length < 4 || c[3] > 0) return c.slice(0, 3);
        }
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const e = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !e.getClientRects().length) continue;
        const style = getComputedStyle(e);
        const ink = parsed(e instanceof SVGElement ? style.fill : style.color).slice(0, 3);
        const [a, b] = [light(ink), light(behind(e))];
        found.push((Math.max(a, b) + .05) / (Math.min(a, b) + .05));
    }
    return [found.length, Math.min(...found)];
}"""  # of all words on a page with what is behind them: how many, the worst
METRICS = Metrics(
    step=1,
    characters=100,
    seconds=1.5,
    train_bits_per_character=3.0,
    validation_bits_per_character=2.5,
    learning_rate=0.01,
    sample="To be",
)


def page_of(model, text, history=(), what="a text"):
    return render_page(model, history, build_corpus(text), what)


def trained(model, **training):
    """The model with a header that has this training information."""
    model.header = dataclasses.replace(model.header, training=Training(**training))
    return model


def origin_of(*sources, corpus_hash="0", **options):
    return Origin(sources=list(sources), corpus_hash=corpus_hash, options=Options(steps=1, **options))


def visible(document):
    """The words of a page."""
    body = re.sub(r"<(script|style|svg)\b.*?</\1>", "", document[document.index("<body>") :], flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture(scope="module")
def long_page(book_run):
    model = load(book_run / "runs/book")
    return page_of(model, LONG, read_history(book_run / "runs/book"))


def test_a_report_of_100_000_characters_is_under_a_megabyte_and_says_how_many_it_colours(long_page):
    assert len(long_page.encode()) < 1_000_000
    assert "the first 100,000 of 120,000 characters" in visible(long_page)


def test_a_page_holds_what_a_report_is_to_show(long_page, book_run):
    for name in ("learning", "samples", "surprise", "calibration", "configuration"):
        assert f'<section id="{name}">' in long_page
    words = visible(long_page)
    model = load(book_run / "runs/book")
    bits = model.bits_per_character(LONG[:LIMIT])
    assert f"{bits:.3f} bits per character" in re.sub(r"bits per character ([\d.]+)", r"\1 bits per character", words, count=1)
    assert f"The mean is {bits:.3f} bits" in words
    last = json.loads((book_run / "runs/book/history.jsonl").read_text().splitlines()[-1])
    assert " ".join(last["sample"].split()) in words
    assert "expected calibration error" in long_page
    for figure in ("book.txt", "48", "1 × 48 LSTM"):
        assert figure in words
    assert str(book_run) not in long_page  # it names no one's folders


def test_nothing_in_a_page_can_reach_a_network_and_only_its_own_script_may_run(long_page):
    assert not re.search(
        r"""(src|href|action|url|import)\s*[=(]\s*["']?(?!data:,)(https?:|//|[\w./]+\.(js|css|png))""", long_page
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', long_page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        source = re.search(f"<{tag}>(.*?)</{tag}>", long_page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"<[^>]+\s(style|on\w+)=", re.sub(r"<(script|style)\b.*?</\1>", "", long_page, flags=re.DOTALL))


def test_text_from_files_and_models_stands_in_the_page_as_text():
    recipe = Recipe(
        cell="lstm",
        num_layers=1,
        hidden_size=7,
        embedding_size=0,
        seq_length=64,
        batch_size=16,
        dropout=0.0,
        learning_rate=0.002,
        seed=0,
        precision=HOSTILE,
    )
    model = trained(model_of(HOSTILE + BOOK), origin=origin_of(f"/x/{HOSTILE}", validation=HOSTILE), recipe=recipe)
    document = page_of(model, HOSTILE * 9, [dataclasses.replace(METRICS, sample=HOSTILE)], HOSTILE)
    assert document.count("<script") == 3
    assert document.count("</script") == 3
    assert "<img" not in document
    assert "hacked = 1</script>" in visible(document)


def test_what_a_file_says_of_its_training_in_no_usable_way_is_left_out(tmp_path):
    header = header_of(BOOK)
    damaged = {"sources": 3, "recipe": {"seed": HOSTILE}, "options": [], "step": "one", "seconds": HOSTILE}
    write(tmp_path / "model.safetensors", tensors_of(header), model_to_json(header) | {"training": damaged})
    document = page_of(load(tmp_path), BOOK[:99])
    assert "hacked" not in document
    assert visible(document)[-500:].count("Training Written by charrnn") == 1  # nothing between the heading and the end


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (model_of("ab\n"), "abba\nc" * 9),  # fewer characters than guesses; one that is unknown, also at the end
        (model_of(BOOK, layers=0), "☃"),
        (model_of(LINES, records="line"), LINES[:800]),
        (model_of(LINES[:60] + "\n\ufffd", records="line", unknown=True), LINES[:800]),
        (
            model_of("".join(chr(0x4E00 + k) for k in range(700)) + "\n"),
            "".join(chr(0x4E00 + k % 700) for k in range(0, 4000, 7)),
        ),
    ],
)
def test_a_page_is_made_of_any_model_and_text(model, text):
    document = page_of(model, text)
    assert 'id="text"' in document
    assert "learning" not in re.findall(r'<section id="(\w+)"', document)
    assert "nan" not in visible(document)
    assert len(zlib.decompress(base64.b64decode(re.search(r'id="packed">([^<]*)<', document)[1]))) >= 3


def test_where_the_coloured_text_would_take_too_much_room_fewer_characters_are_coloured(monkeypatch):
    monkeypatch.setattr("charrnn.report.packing.PACKED", 20_000)
    document = page_of(model_of(BOOK), BOOK[:8000])
    coloured = json.loads(re.search(r'id="facts">([^<]*)<', document)[1])["characters"]
    assert 1000 < coloured < 8000
    assert f"Only the first {coloured:,} characters are coloured" in visible(document)
    assert "On 8,000 characters" in visible(document)
    assert 15_000 < len(re.search(r'id="packed">([^<]*)<', document)[1]) <= 20_000


def test_of_records_whole_ones_are_coloured():
    model = model_of(LINES, records="line")
    text = LINES.rpartition("\n")[0] + "\n"
    document = page_of(model, text * 20)
    coloured = int(re.search(r"the first ([\d,]+) of", visible(document))[1].replace(",", ""))
    assert LIMIT - 60 < coloured <= LIMIT
    assert (text * 20)[coloured - 1] == "\n"


def test_ticks_are_round_and_cover_what_is_shown():
    for low, high in ((0, 1), (0.0, 7.3), (1.93, 4.87), (0, 1_003_855), (0.011, 0.012), (3, 3)):
        found = choose_ticks(low, high, 5)
        assert 1 <= len(found) <= 6
        assert all(low <= tick <= high for tick in found)
        assert high == low or (found[-1] - found[0]) >= 0.4 * (high - low)
    chart = draw_curves("Loss", {"train": [(0.0, 2.0)]}, y_name="bits", times=[(0.0, "1s")])
    assert "NaN" not in chart
    assert "nan" not in chart + draw_reliability([(0, 0.0, 0.0)] * 9 + [(3, 0.95, 1.0)], 0.05)


def test_histories_of_old_and_of_no_samples_and_damaged_ones(tmp_path):
    assert read_history(tmp_path) == []
    old = to_json(dataclasses.replace(METRICS, sample=None, validation_bits_per_character=None))
    assert "sample" not in old
    (tmp_path / "history.jsonl").write_text(json.dumps(old) + "\n")
    document = page_of(model_of(BOOK), BOOK[:99], read_history(tmp_path))
    assert 'id="learning"' in document
    assert 'id="samples"' not in document
    for damage in (
        "{",
        "[]",
        "null",
        json.dumps(old | {"step": "one"}),
        json.dumps(old | {"sample": 3}),
        json.dumps(to_json(METRICS) | {"seconds": math.nan}),
        "{}",
        "[" * 9999,
    ):
        (tmp_path / "history.jsonl").write_text(json.dumps(old) + "\n" + damage + "\n")
        with pytest.raises(CharrnnError, match="damaged in line 2"):
            read_history(tmp_path)


def test_the_program_finds_the_validation_text_again_and_never_imports_torch(book_run):
    watch = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); "
    code = watch + "sys.argv += ['report']; from charrnn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=book_run, capture_output=True, text=True, timeout=60)
    first, last, torch = done.stderr.splitlines()
    assert (first, torch) == ("model: runs/book/model.safetensors", "False")
    assert re.match(r"wrote runs/book/report.html, \d+ kB; open it in a browser", last)
    assert done.stdout == ""
    words = visible((book_run / "runs/book/report.html").read_text())
    held_out = json.loads((book_run / "runs/book/history.jsonl").read_text().splitlines()[-1])["validation_bits_per_character"]
    assert "On 3,000 characters of its validation text." in words
    assert f"The mean is {held_out:.3f} bits" in words


@pytest.mark.parametrize("options", [Options(records="line"), Options(validation="other.txt"), Options(validation=0.3)])
def test_each_kind_of_validation_text_is_found_again(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds.txt").write_text(LINES)
    (tmp_path / "other.txt").write_text(LINES[:700])
    texts = read_texts(["birds.txt"], options, None)
    options = dataclasses.replace(options, validation=texts.validation)
    origin = Origin(sources=["birds.txt"], corpus_hash=texts.corpus_hash, options=options)
    header = dataclasses.replace(header_of(LINES, records=options.records), training=Training(origin=origin))
    model = Model(tensors_of(header), header, tmp_path / "model.safetensors")
    assert find_validation_text(model, "name one").text() == texts.held_out.text()
    (tmp_path / "birds.txt").write_text(LINES + "!")
    with pytest.raises(CharrnnError, match="is not the one that"):
        find_validation_text(model, "name one")


def test_a_pipe_can_be_named_and_another_place(bad_folder, tmp_path):
    charrnn("report", "used", "-", "-o", tmp_path / "mine.html", cwd=bad_folder, text="some text")
    assert "On 9 characters of standard input." in visible((tmp_path / "mine.html").read_text())


BAD = {
    "no run": (["gone", "t.txt"], 2, "gone does not exist"),
    "a run that is text": (["t.txt"], 2, "t.txt is a text, not a model"),
    "a missing text": (["used", "gone.txt"], 2, "gone.txt does not exist"),
    "an empty text": (["used", "empty.txt"], 2, "empty"),
    "a binary text": (["used", "binary.bin"], 2, "NUL"),
    "a text in another encoding": (["used", "t.txt", "--encoding", "klingon"], 2, "klingon"),
    "nothing said of a text": (["used"], 2, "does not say which text it was trained on; name the text"),
    "trained on a pipe": (["pipe"], 2, "pipe was trained on piped text; name the text to colour: charrnn report pipe TEXT"),
    "a base model": (["english"], 2, "which text it was trained on; name the text to colour: charrnn report english TEXT"),
    "a name with a space": (["my run"], 2, "name the text to colour: charrnn report 'my run' TEXT"),
    "another name of the file": (["my run/a.safetensors"], 2, "to colour: charrnn report 'my run/a.safetensors' TEXT"),
    "a text that has gone": (["moved"], 2, "the text /nowhere/x.txt no longer exists; name the text to colour"),
    "a text that has changed": (["changed"], 2, "is not the one that changed was trained on; name the text to colour"),
    "nothing held out": (["all"], 2, "all was not validated on any text; name the text to colour"),
    "a folder to write to": (["used", "t.txt", "-o", "used"], 2, "--out used is a folder"),
    "nowhere to write to": (["used", "t.txt", "-o", "t.txt/report.html"], 1, "t.txt/report.html can't be written"),
}


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_reports")
    (folder / "t.txt").write_text("some good text, " * 40)
    (folder / "empty.txt").write_text("")
    (folder / "binary.bin").write_bytes(bytes(range(256)))
    text = str(folder / "t.txt")
    for name, origin in {
        "used": None,
        "pipe": origin_of("-", validation=0.1),
        "moved": origin_of("/nowhere/x.txt", validation=0.1),
        "changed": origin_of(text, validation=0.1),
        "all": origin_of(text, validation=0.0),
    }.items():
        header = dataclasses.replace(header_of("some good text,\n"), training=Training(origin=origin))
        (folder / name).mkdir()
        write(folder / name / "model.safetensors", tensors_of(header), model_to_json(header))
    for name in ("model", "a"):
        (folder / "my run").mkdir(exist_ok=True)
        (folder / "my run" / f"{name}.safetensors").write_bytes((folder / "moved" / "model.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_writes_nothing(bad_folder, case, inside):
    arguments, status, words = BAD[case]
    before = sorted(bad_folder.rglob("*"))
    out, errors = inside(bad_folder, ["report", *arguments], status)
    assert out == ""
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: ")
    assert words in errors
    assert sorted(bad_folder.rglob("*")) == before


def test_a_damaged_history_is_told_and_left_out(bad_folder):
    (bad_folder / "all" / "history.jsonl").write_text("{\n")
    _, errors = charrnn("report", "all", "t.txt", "-o", "damaged.html", cwd=bad_folder)
    assert errors.startswith("note: all/history.jsonl is damaged in line 1")
    assert (bad_folder / "damaged.html").exists()
    (bad_folder / "all" / "history.jsonl").unlink()
    (bad_folder / "damaged.html").unlink()


# In a browser.


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens a report. Console messages fail the test."""
    said, contexts = [], []

    def open_(document, **options):
        (tmp_path / "report.html").write_text(document, "utf-8")
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(120_000)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or said.append(request.url))
        tab.goto((tmp_path / "report.html").as_uri())
        tab.wait_for_selector('#text[aria-busy="false"]')
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def guesses_of(tip):
    return [(row.locator("td").first.inner_text(), row.locator("td").last.inner_text()) for row in tip.locator("tr").all()]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (model_of(BOOK), "To be ☃, or\nnot."),
        (model_of(LINES[:60] + "\n\ufffd", records="line", unknown=True), LINES[:800]),
        (
            model_of("".join(chr(0x4E00 + k) for k in range(700)) + "\n"),
            "".join(chr(0x4E00 + k % 701) for k in range(0, 900, 7)),
        ),
    ],
)
def test_the_page_shows_each_characters_bits_and_guesses(opened, model, text):
    tab = opened(page_of(model, text))
    details = Details(model.vocabulary)
    for piece in model.pieces(text):
        details.add(piece)
    details.finish()
    ids, p = details.guesses, details.probabilities
    names = {" ": "space", "\n": "line break"}
    if model.vocabulary.unknown is not None:
        names["\ufffd"] = "any other"
    spans, tip = tab.locator("#text span"), tab.locator("#tip")
    assert spans.count() == len(details.text)
    assert tab.locator("#text").text_content() == details.text.replace("\n", "↵\n")
    for place in [*range(6), len(details.text) - 1]:
        spans.nth(place).hover()
        assert f"{details.surprisals[place]:.0f}" in {
            f"{float(tip.locator('span').inner_text().split()[0]) + d:.0f}" for d in (-0.06, 0.06)
        }
        shown = guesses_of(tip)
        own = [model.vocabulary.characters[i] for i in ids[place] if i >= 0]
        assert [name for name, _ in shown] == [names.get(c, c) for c in own]
        for (_, percent), probability in zip(shown, p[place], strict=False):
            assert float(re.sub("[^0-9.]", "", percent)) == pytest.approx(100 * probability, abs=1.6)


def test_keys_and_taps_show_guesses_as_pointing_does(opened, book_run, long_page):
    tab = opened(long_page, has_touch=True, viewport={"width": 400, "height": 800})
    tip, spans = tab.locator("#tip"), tab.locator("#text span")
    assert spans.count() == LIMIT
    assert not tip.is_visible()
    spans.first.focus()
    assert len(guesses_of(tip)) == 5
    assert spans.first.get_attribute("aria-label").startswith(f"{LONG[0]}, ")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.activeElement.place") == 2
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate("document.activeElement.place") == LONG.index("\n") + 1 + min(2, len(LONG.split("\n")[1]))
    tab.keyboard.press("Escape")
    assert not tip.is_visible()
    spans.nth(40).tap()
    assert tip.is_visible()
    assert tab.evaluate("document.activeElement.place") == 40
    tab.locator(".surprises button:enabled").first.click()
    place = int(tab.locator(".surprises button:enabled").first.get_attribute("data-place"))
    assert tab.evaluate("document.activeElement.place") == place
    assert tip.is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_stand_out_from_what_is_behind_them(opened, scheme):
    history = [METRICS, dataclasses.replace(METRICS, characters=300)]
    tab = opened(page_of(model_of(BOOK), BOOK[:3000], history), color_scheme=scheme)
    tab.locator("#text span").nth(3).hover()
    worst = tab.evaluate(CONTRASTS)
    assert worst[0] > 2000
    assert worst[1] >= 4.5


def test_a_page_prints_to_pdf_with_all_of_its_text(opened, book_run):
    tab = opened(page_of(load(book_run / "runs/book"), BOOK[:30_000], read_history(book_run / "runs/book")))
    pdf = tab.pdf()
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 8 <= pages <= 40


def test_hostile_text_runs_nothing_in_a_browser(opened):
    model = trained(model_of(HOSTILE + BOOK), origin=origin_of(HOSTILE))
    tab = opened(page_of(model, HOSTILE * 20, [dataclasses.replace(METRICS, sample=HOSTILE)], HOSTILE))
    for place in range(0, len(HOSTILE), 20):
        tab.locator("#text span").nth(place).hover()
    assert tab.evaluate("typeof hacked") == "undefined"
    assert tab.locator("img").count() == 0
    assert tab.locator("script").count() == 3


def test_a_model_of_an_old_format_has_a_report(tmp_path, opened):
    from conftest import ROOT

    model = load(ROOT / "tests/formats/format-1.safetensors")
    assert opened(page_of(model, "some good text")).locator("#text span").count() == 14


def test_a_line_longer_than_the_page_colours_is_cut():
    model = model_of(LINES, records="line")
    page = page_of(model, LINES[:20].replace("\n", " ") * 6_000 + "\n")
    assert f"the first {LIMIT + 1:,} of" in page
