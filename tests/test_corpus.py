"""Reading texts, vocabulary, split, and windows."""

import bz2
import gzip
import io
import json
import lzma
import math
import os
import re
import tarfile
import threading
import time
import unicodedata
import zipfile
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import charrnn

from charrnn import Model, checkpoint, load, train
from charrnn.errors import CharrnnError
from charrnn.headers import ModelHeader, Origin, Training, model_to_json, parse_model
from charrnn.inference.blocks import TextBlocks
from charrnn.inference.score import score
from charrnn.network.config import Config
from charrnn.options import Options
from charrnn.report.page import find_validation_text
from charrnn.run_folder import MODEL, read_manifest
from charrnn.text.decoding import Decoder
from charrnn.text.reading import build_corpus, read_corpus, read_text
from charrnn.text.records import split
from charrnn.text.vocabulary import Vocabulary, hint_at_form
from charrnn.training.batches import AHEAD, SHORT_TEXT, Windows, fit_windows
from charrnn.training.run import Run


def test_a_vocabulary_is_in_code_point_order_and_round_trips():
    vocabulary = Vocabulary("zażółć 🦉 gęślą\r\n")
    assert list(vocabulary.characters) == sorted(set("zażółć 🦉 gęślą\r\n"))
    assert "".join(vocabulary.characters[i] for i in vocabulary.encode("🦉ż\r")) == "🦉ż\r"
    assert vocabulary.encode("aя\U0010ffff").tolist()[1:] == [-1, -1]


def put(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


def test_a_byte_order_mark_is_dropped_and_line_ends_are_read_as_line_breaks_or_kept(tmp_path):
    path = put(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\n\r\r\n\n\r")
    assert read_text(path) == "one\ntwo\nthree\n\n\n\n\n"
    assert read_text(path, newlines="keep") == "one\r\ntwo\rthree\n\r\r\n\n\r"
    assert read_corpus([path], "bytes").text() == path.read_bytes().decode("latin-1")
    for data, ends in ((b"a\r\nb", "CRLF"), (b"a\rb", "CR"), (b"a\rb\r\n", "CRLF and CR"), (b"a\nb", "")):
        notes = [f"its {ends} line ends are read as LF"] if ends else []
        assert read_corpus([put(tmp_path, "b.txt", data)]).notes == notes
        assert read_corpus([tmp_path / "b.txt"], newlines="keep").notes == []


def test_a_folder_gives_its_text_files_in_sorted_order_and_names_the_others(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, data in {"b.txt": b"B", "a.txt": b"A", "sub/c.md": b"C", "x.png": b"\x89PNG\0\xff", ".hidden": b"no"}.items():
        (tmp_path / name).write_bytes(data)
    corpus = read_corpus([tmp_path])
    assert corpus.text() == "A\nB\nC"
    assert corpus.notes == [f"skipped files that are not utf-8 text: {tmp_path / 'x.png'}"]


def test_a_folder_is_a_corpus_without_the_runs_in_it(tmp_path):
    for name in ("a.txt", "runs/one/history.jsonl", "runs/one/mine.txt", "runs/two/state.safetensors", "runs/z.txt", "b/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        put(tmp_path, name, name.encode())
    tensors = b"\2" + bytes(7) + b"{}"
    put(tmp_path / "runs/two", "state.safetensors", tensors)
    put(tmp_path / "runs/one", "model.safetensors", tensors)
    corpus = read_corpus([tmp_path])
    assert corpus.text() == "a.txt\nb/c.txt\nruns/z.txt"
    runs = f"{tmp_path}/runs/one, {tmp_path}/runs/two"
    assert corpus.notes == [f"skipped what charrnn has written in {runs}"]
    put(tmp_path, "model.safetensors", tensors)  # a run beside its text
    put(tmp_path, "history.jsonl", b"{}")
    corpus = read_corpus([tmp_path])
    assert corpus.text() == "a.txt\nb/c.txt\nruns/z.txt"
    assert corpus.notes == [f"skipped what charrnn has written in {tmp_path}, {runs}"]
    for name in ("runs/one", "runs/two"):
        (tmp_path / name / "mine.txt").unlink(missing_ok=True)
        with pytest.raises(CharrnnError, match=f"but no text; to continue one: charrnn train --resume -o {tmp_path}/{name}$"):
            read_corpus([tmp_path / name])


def test_a_folder_can_be_trained_on_again(tmp_path):
    put(tmp_path, "a.txt", b"the lamp is lit " * 99)
    options = Options(steps=1, hidden_size=8, num_layers=1, validation=0.1)
    for name in ("one", "two"):
        run = Run.create([tmp_path], options, out=tmp_path / "runs" / name)
        assert f"skipped what charrnn has written in {tmp_path}/runs/one" in run.notes or name == "one"
        list(run.events(options))
        put(tmp_path / "runs" / name, "report.html", b"<p>")
        held_out = find_validation_text(load(tmp_path / "runs" / name), "no advice").text()
        assert held_out == ("the lamp is lit " * 99)[-158:]
    list(Run.resume(tmp_path / "runs/one").events(Options(steps=2)))


def test_a_text_that_has_moved_is_named_once(tmp_path):
    text = put(tmp_path, "a.txt", b"the lamp is lit " * 99)
    options = Options(steps=9, hidden_size=8, num_layers=1)
    run = Run.create([text], options, out=tmp_path / "run")
    list(run.events(options, stop=lambda: run.step >= 3))  # the best model is of an earlier step than the state
    moved = text.rename(tmp_path / "b.txt")
    with pytest.raises(CharrnnError, match=r"a\.txt no longer exists; name it"):
        Run.resume(tmp_path / "run")
    weights = checkpoint.read(tmp_path / "run" / MODEL)[0]
    list(Run.resume(tmp_path / "run", [moved]).events(options, stop=lambda: True))
    model = load(tmp_path / "run")
    assert model.header.training.origin.sources == [str(moved)]
    assert all((tensor == weights[name]).all() for name, tensor in checkpoint.read(tmp_path / "run" / MODEL)[0].items())
    assert len(find_validation_text(model, "no advice")) == 158
    assert [file.file for file in read_manifest(tmp_path / "run")] == [str(moved)]
    list(Run.resume(tmp_path / "run").events(options, stop=lambda: True))
    list(Run.resume(tmp_path / "run", build_corpus(moved.read_text())).events(options))  # as a pipe, which has no path
    assert Run.resume(tmp_path / "run").origin.sources == [str(moved)]


def test_a_changed_text_is_named_when_a_run_is_taken_up(tmp_path):
    text, other = (put(tmp_path, name, b"the lamp is lit " * 99) for name in ("a.txt", "b.txt"))
    options = Options(steps=1, hidden_size=8, num_layers=1)
    list(Run.create([text], options, out=tmp_path / "run").events(options))
    list(Run.resume(tmp_path / "run", [other]).events(options))  # the same text in another file, which is recorded
    text.unlink()
    list(Run.resume(tmp_path / "run").events(options))
    put(tmp_path, "b.txt", b"the lamp is out " * 99)
    with pytest.raises(
        CharrnnError, match=rf"trained on \({other} has changed\); to fine-tune the model on this text: --init-from"
    ):
        Run.resume(tmp_path / "run")
    (tmp_path / "run/corpus.json").unlink()  # as in runs of earlier versions
    with pytest.raises(CharrnnError, match="trained on; to fine-tune the model on this text"):
        Run.resume(tmp_path / "run")


def test_line_ends_of_a_text_in_memory_are_read_as_those_of_files_are(tmp_path):
    text = "the lamp is lit\r\n" * 99
    for newlines, expected in (("universal", text.replace("\r", "")), ("keep", text)):
        run = Run.create(build_corpus(text), Options(steps=1, validation=0.1, newlines=newlines), out=tmp_path / newlines)
        assert run.dataset.text.training.text() + run.dataset.text.held_out.text() == expected


def test_a_small_archive_needs_no_folder_for_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "nowhere")
    path = put(tmp_path, "t.txt.gz", gzip.compress(b"the lamp is lit"))
    assert read_text(path) == "the lamp is lit"
    monkeypatch.setattr("charrnn.text.id_cache.IN_MEMORY", 9)
    with pytest.raises(CharrnnError, match="set XDG_CACHE_HOME"):
        read_corpus([path])


def softmax_alone(vocabulary):
    return Config(len(vocabulary), num_layers=0, hidden_size=0, embedding_size=0)


def untrained(header):
    return Model({name: np.zeros(shape, np.float32) for name, shape in header.config.shapes().items()}, header)


@pytest.mark.parametrize(("learned", "form"), [("NFC", "NFC"), ("NFD", "NFD"), ("ASCII", None)])
def test_text_in_another_normal_form_gets_a_hint(learned, form):
    text = "한국어는 아름답다. Zażółć gęślą jaźń, Việt Nam.\n"
    vocabulary = Vocabulary("".join(map(chr, range(10, 127))) if form is None else unicodedata.normalize(form, text))
    for other in ("NFC", "NFD"):
        notes = hint_at_form(vocabulary, unicodedata.normalize(other, text + "한국어 ☃"))
        assert [note[-3:] for note in notes] == ([form.lower()] if form not in (None, other) else [])


@pytest.mark.parametrize(
    ("vocabulary", "chosen", "newlines"),
    [("\nab", None, "universal"), ("\n\rab", None, "keep"), ("\n\rab", "universal", "universal"), ("\n\rab", "keep", "keep")],
)
def test_a_model_s_texts_are_read_as_its_own_was_also_by_models_of_earlier_versions(vocabulary, chosen, newlines):
    origin = Origin(sources=["t.txt"], corpus_hash="", options=Options() if chosen is None else Options(newlines=chosen))
    header = ModelHeader(config=softmax_alone(vocabulary), vocabulary=vocabulary, start="\n", training=Training(origin=origin))
    written = model_to_json(header) | {"format": 1}
    if chosen is None:
        del written["training"]["options"]["newlines"]
    read = parse_model(written)
    assert untrained(read).newlines == newlines
    assert read.training.origin.options.newlines == (chosen or "keep")  # by which the text of a run is read again


def test_any_encoding_is_read_and_a_wrong_one_names_the_byte(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("früh".encode("latin-1"))
    assert read_text(path, "latin-1") == "früh"
    with pytest.raises(CharrnnError, match=r"latin\.txt is not utf-8 at byte 2.*--encoding"):
        read_corpus([path])


def parts(folder, text, validation):
    (folder / "t.txt").write_text(text)
    return [part.text() for part in read_corpus([folder / "t.txt"]).split(validation)]


def test_the_end_is_held_out(tmp_path):
    assert parts(tmp_path, "abcdefghij", 0.2) == ["abcdefgh", "ij"]
    assert parts(tmp_path, "abc", 0.1) == ["abc", ""]
    assert parts(tmp_path, "abc", 0.0) == ["abc", ""]


@pytest.mark.parametrize(("n", "batch_size", "seq_length"), [(101, 4, 5), (7, 1, 6), (100, 3, 7), (2, 1, 1), (64, 5, 50)])
def test_an_epoch_covers_every_character_and_its_windows_join(n, batch_size, seq_length):
    windows = Windows(np.arange(n, dtype=np.int32), batch_size, seq_length, seed=0)
    seen, last = set(), None
    for step in range(windows.per_epoch):
        inputs, targets, begins, moves_on, learned = windows[step]
        assert learned == targets.size
        assert inputs.shape == targets.shape
        assert (targets == inputs + 1).all()
        assert moves_on == (step == 0)
        assert begins[0] == (step == 0)
        if last is not None:
            assert (inputs[0] == last).all()
        last = targets[-1]
        seen |= set(targets.ravel().tolist())
    assert seen == set(range(1, n))


def test_a_window_is_the_same_in_whatever_order_they_are_asked_for():
    ids = np.random.default_rng(0).integers(0, 50, 9000).astype(np.int32)
    windows = Windows(ids, 4, 20, seed=0)
    steps = [*range(AHEAD + 3), 40, AHEAD - 1, windows.per_epoch - 1, windows.per_epoch, 2 * AHEAD]
    for step in steps:
        for mine, alone in zip(windows[step], Windows(ids, 4, 20, seed=0)[step], strict=True):
            assert np.array_equal(mine, alone)


def test_streams_of_a_long_text_begin_afresh_now_and_then():
    windows = Windows(np.zeros(SHORT_TEXT * 4, np.int32), 8, 16, seed=0)
    fresh = sum(int(windows[step][2].sum()) for step in range(200))
    assert 10 < fresh < 80


@pytest.mark.parametrize(("n", "asked", "fits"), [(7, (32, 48), (1, 6)), (2, (4, 4), (1, 1)), (1000, (32, 48), (20, 48))])
def test_windows_are_cut_to_what_fits(n, asked, fits):
    assert fit_windows(n, *asked) == fits


@pytest.mark.parametrize(
    ("length", "streams", "stretch"), [(1, 1, 9), (1000, 1, 1000), (10_000, 4, 20_000), (10_001, 3, 20_000), (10_001, 3, 4000)]
)
def test_each_step_is_scored_once_and_stretches_come_in_order(length, streams, stretch, monkeypatch):
    monkeypatch.setattr("charrnn.inference.blocks.SEQUENCES", streams)
    monkeypatch.setattr("charrnn.inference.blocks.STRETCH", stretch)
    blocks = list(TextBlocks(np.arange(length), 0, quick=True).cut(64 * streams))
    assert all(block.places.shape[0] <= 64 and block.places.shape[1] == streams for block in blocks)
    assert all((block.targets == np.maximum(block.places, 0)).all() for block in blocks)
    scored = np.concatenate([block.places[block.counts] for block in blocks])
    assert sorted(scored.tolist()) == list(range(length))
    assert (np.diff(scored // stretch) >= 0).all()


LONG = "ab\nzażółć gęślą 🦉 " * 3 + "".join(chr(0x4E00 + k) for k in range(300)) + "the end\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder; texts of 50 characters count as long, and blocks have seven bytes."""
    monkeypatch.setattr("charrnn.text.id_cache.IN_MEMORY", 50)
    monkeypatch.setattr("charrnn.text.id_cache.BLOCK", 7)
    for module in ("decoding", "reading"):
        monkeypatch.setattr(f"charrnn.text.{module}.HEAD", 200)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "charrnn"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32", "utf-7", "gb18030"])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_block_borders_do_not_matter(cache, tmp_path, monkeypatch, encoding, block):
    monkeypatch.setattr("charrnn.text.id_cache.BLOCK", block)
    assert read_text(put(tmp_path, "t.txt", ("\ufeff" + LONG).encode(encoding)), encoding) == LONG


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_a_line_end_split_over_two_blocks_is_one(cache, tmp_path, monkeypatch, encoding, block):
    monkeypatch.setattr("charrnn.text.id_cache.BLOCK", block)
    text = "\r\n".join(["one", "", "zwölf", "\r", "🦉"] * 9) + "\r"
    path = put(tmp_path, "t.txt", text.encode(encoding))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(path.read_bytes(),))
    writer.start()
    corpora = [read_corpus([source]) for source in (path, pipe)]  # a mark tells UTF-16 and UTF-32
    writer.join()
    for corpus in corpora:
        assert corpus.text() == text.replace("\r\n", "\n").replace("\r", "\n")
    kept = read_corpus([path], newlines="keep")
    assert kept.text() == text
    assert read_corpus([path]).corpus_hash == corpora[0].corpus_hash != kept.corpus_hash
    assert len(list(cache.iterdir())) == 2  # the choice belongs to the name of what the cache keeps


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding, order):
    path = put(tmp_path, "t.txt", ("\ufeff" + LONG).encode(f"{encoding}-{order}"))
    assert read_text(path) == LONG
    put(tmp_path, "u.txt", b"plain")
    assert read_corpus([tmp_path]).text() == LONG + "plain"  # in a folder, each file has its own
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_text(tmp_path / "t.txt.gz") == LONG
    assert "\0" in read_text(path, "latin-1")  # who names another one means it


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["plain\n", "zażółć gęślą jaźń\r\n", "一丁 道可道,非常道。\n" * 9, "да нет\n", "🦉 owl"])
def test_utf_16_without_a_mark_is_named(tmp_path, encoding, text):
    path = put(tmp_path, "t.txt", text.encode(encoding))
    with pytest.raises(CharrnnError, match=f"t.txt is {encoding} without a byte-order mark; --encoding {encoding} reads it$"):
        read_corpus([path])
    assert read_text(path, encoding) == text.replace("\r\n", "\n")


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "application/epub+zip" if name == "mimetype" else "x" * 99)
    return file.getvalue()


FORMATS = {  # bytes, what they are called, the advice
    "pdf": (b"%PDF-1.7\n1 0 obj\n", "a PDF file", "pdftotext"),
    "doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Word, Excel or PowerPoint file", "save it as plain text"),
    "docx": (zipped("[Content_Types].xml", "_rels/.rels", "word/document.xml"), "a Word document", "save it as plain text"),
    "xlsx": (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook", "save it as CSV"),
    "epub": (zipped("mimetype", "a.xhtml"), "an EPUB book", "save it as plain text"),
    "zip": (zipped("a.txt"), "a ZIP archive", "unpack it and name the folder"),
    "tar": (tarfile.TarInfo("a.txt").tobuf(), "a tar archive", "unpack it"),
    "tgz": (gzip.compress(b"x"), "a gzip archive", "a name that ends in .gz"),
    "xz": (lzma.compress(b"x"), "an xz archive", "unpack it"),
    "bz2": (bz2.compress(b"x"), "a bzip2 archive", "unpack it"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image", "no text"),
    "jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image", "no text"),
    "webp": (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image", "no text"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_no_text_is_named_as_what_it_is(tmp_path, kind):
    data, name, advice = FORMATS[kind]
    path = put(tmp_path, f"a.{kind}", data)
    for read in (lambda: read_corpus([path]), lambda: read_corpus([path], "latin-1"), lambda: read_text(path)):
        with pytest.raises(CharrnnError, match=re.escape(f"a.{kind} is {name}; ") + ".*" + re.escape(advice)) as error:
            read()
        assert "--encoding" not in str(error.value)
    assert len(read_corpus([path], "bytes")) == len(data)
    put(tmp_path, "b.txt", b"text")
    assert read_corpus([tmp_path]).notes == [f"skipped files that are not utf-8 text: {path}"]


def test_an_encoding_is_suggested_where_one_can_be_named(tmp_path):
    german, odd, binary = (
        put(tmp_path, name, data) for name, data in (("g", b"f\xfcr \x80 5"), ("o", b"\x81\x9d"), ("b", bytes(range(256))))
    )
    for path, tried, guess in ((german, "utf-8", "cp1252"), (odd, "utf-8", "latin-1"), (odd, "cp1252", "latin-1")):
        with pytest.raises(CharrnnError, match=f"is not {tried} at byte .; name its --encoding, perhaps {guess}$"):
            read_corpus([path], tried)
    with pytest.raises(CharrnnError, match=r"perhaps utf-8$"):
        read_corpus([put(tmp_path, "u", "für".encode())], "ascii")
    cut = put(tmp_path, "c", "für".encode("utf-16")[:-1])
    with pytest.raises(CharrnnError, match=r"is not utf-16 at byte 6; name its --encoding$"):
        read_corpus([cut])
    for path in (german, odd, binary, cut):
        with pytest.raises(CharrnnError, match=r"; save it as UTF-8 text$") as error:
            read_text(path)
        assert "--" not in str(error.value)
    with pytest.raises(CharrnnError, match=r"NUL bytes, so it is not text; save it as UTF-8 text$"):
        read_text(binary, "utf-8")


@pytest.mark.parametrize(
    ("encoding", "text"), [("iso2022_jp", "日本 and 語\n" * 9), ("latin-1", "".join(map(chr, range(14, 256))))]
)
def test_stateful_and_narrow_encodings_are_read_in_blocks(cache, tmp_path, encoding, text):
    assert read_text(put(tmp_path, "t.txt", text.encode(encoding)), encoding) == text


def test_bytes_take_each_byte_for_a_character(tmp_path):
    data = bytes(range(256)) * 3
    assert read_text(put(tmp_path, "t.bin", data), "bytes") == data.decode("latin-1")


def test_a_text_has_one_hash_however_it_is_read(cache, tmp_path, monkeypatch):
    whole = read_corpus([put(tmp_path, "t.txt", LONG.encode())])
    utf16 = read_corpus([put(tmp_path, "u.txt", LONG.encode("utf-16"))], "utf-16")
    end = LONG.index("\n") + 1
    halves = read_corpus([put(tmp_path, "a.txt", LONG[:end].encode()), put(tmp_path, "b.txt", LONG[end:].encode())])
    other = read_corpus([put(tmp_path, "o.txt", LONG.replace("d\n", "d!").encode())])
    assert whole.corpus_hash == utf16.corpus_hash == halves.corpus_hash != other.corpus_hash
    swapped = read_corpus([put(tmp_path, "s.txt", LONG.replace("a", "A").encode())])  # the same ids, other characters
    assert swapped.corpus_hash != whole.corpus_hash


def test_a_long_text_is_found_again_by_its_content(cache, tmp_path, monkeypatch):
    path = put(tmp_path, "t.txt", LONG.encode())
    first = read_corpus([path])
    assert "is cached for the next run in" in first.notes[0]
    (kept,) = cache.iterdir()
    monkeypatch.setattr(Decoder, "decode", lambda *_: pytest.fail("it was read a second time"))
    second = read_corpus([path.rename(tmp_path / "elsewhere.txt")])
    assert (second.text(), second.corpus_hash, second.notes) == (LONG, first.corpus_hash, [])
    assert list(cache.iterdir()) == [kept]


def test_a_changed_text_of_the_same_size_and_time_is_not_taken_for_the_old_one(cache, tmp_path):
    path = put(tmp_path, "t.txt", LONG.encode())
    read_corpus([path])
    facts = path.stat()
    path.write_bytes(LONG.replace("the end", "the and").encode())
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert read_corpus([path]).text() == LONG.replace("the end", "the and")


def test_a_damaged_cache_file_is_made_anew_and_named(cache, tmp_path):
    path = put(tmp_path, "t.txt", LONG.encode())
    read_corpus([path])
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for place in range(0, len(whole), 97):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        corpus = read_corpus([path])
        assert corpus.text() == LONG
        assert corpus.notes[0] == f"{kept} was damaged and is rebuilt"
    for length in (0, 39, 40, len(whole) - 1):
        kept.write_bytes(whole[:length])
        assert read_corpus([path]).text() == LONG
        assert kept.read_bytes() == whole


def test_no_place_for_a_long_text_is_an_error_that_says_what_to_set(cache, tmp_path, monkeypatch):
    path = put(tmp_path, "t.txt", LONG.encode())
    put(tmp_path, "file", b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CharrnnError, match="set XDG_CACHE_HOME"):
        read_corpus([path])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CharrnnError, match=r"No space left.*set XDG_CACHE_HOME"):
        read_corpus([path])
    assert list(cache.iterdir()) == []


def test_files_that_turn_out_not_to_be_text_leave_no_trace(cache, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    put(folder, "a.txt", LONG.encode())
    put(folder, "b.bin", b"begins like text, " * 9 + bytes(300))
    put(folder, "c.txt", "".join(chr(0x1000 + k) for k in range(700)).encode() + b"\xff and on" * 9)
    put(folder, "d.txt", b"last")
    expected = read_corpus([put(tmp_path, "t.txt", (LONG + "last").encode())]).corpus_hash
    for _ in range(2):  # the second time from the cache
        corpus = read_corpus([folder])
        assert corpus.text() == LONG + "last"
        assert corpus.notes[0] == f"skipped files that are not utf-8 text: {folder / 'b.bin'}, {folder / 'c.txt'}"
        monkeypatch.setattr(Decoder, "decode", lambda *_: pytest.fail("it was read a second time"))
    assert corpus.corpus_hash == expected
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    monkeypatch.setattr("charrnn.text.id_cache.IN_MEMORY", 50)
    with pytest.raises(CharrnnError, match=r"b\.bin holds NUL"):  # who names a file wants it read
        read_corpus(sorted(folder.iterdir()))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_an_undecodable_byte_is_named_by_its_place_in_the_file(cache, tmp_path, monkeypatch, block):
    monkeypatch.setattr("charrnn.text.id_cache.BLOCK", block)
    good = put(tmp_path, "good.txt", b"good " * 5)
    data = "🦉 owl".encode() * 10 + b"\xf0\x9f\xa6" + b"cut"
    with pytest.raises(CharrnnError, match=rf"bad\.txt is not utf-8 at byte {len(data) - 6};.*--encoding"):
        read_corpus([good, put(tmp_path, "bad.txt", data)])
    with pytest.raises(CharrnnError, match="at byte 3;"):
        read_corpus([put(tmp_path, "end.txt", b"ab\n\xf0\x9f\xa6")])


def test_a_text_that_changes_while_it_is_read_is_refused(cache, tmp_path):
    path = put(tmp_path, "t.txt", LONG.encode())

    def grow(done, total):
        if done == 700:  # the ids are in a file by then
            with path.open("ab") as file:
                file.write(b"more")

    with pytest.raises(CharrnnError, match=r"t\.txt changed while it was read; train on a copy of it"):
        read_corpus([path], watch=grow)
    assert list(cache.iterdir()) == []


def test_pipes_are_read_and_leave_nothing_behind(cache, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(LONG.encode(),))
    writer.start()
    seen = []
    corpus = read_corpus([pipe], watch=lambda done, total: seen.append((done, total)))
    writer.join()
    assert corpus.text() == LONG
    assert seen[-1] == (len(LONG.encode()), None)
    assert list(cache.iterdir()) == []


def test_a_killed_reader_s_leavings_are_cleared_away(cache, tmp_path):
    cache.mkdir(parents=True)
    for name, age in (("old.tmp", 7200), ("new.tmp", 0)):
        os.utime(put(cache, name, b"half"), (time.time() - age,) * 2)
    read_corpus([put(tmp_path, "t.txt", LONG.encode())])
    assert sorted(path.suffix for path in cache.iterdir()) == [".ids", ".tmp"]


def test_ids_of_a_corpus_are_those_of_its_text(cache, tmp_path):
    training, held_out = read_corpus([put(tmp_path, "t.txt", LONG.encode())]).split(0.05)
    text, rest = LONG[: len(training)], LONG[len(training) :]
    vocabulary = training.vocabulary()
    assert vocabulary.characters == Vocabulary(text).characters
    assert training.encoded(vocabulary)[0 : len(text)].tolist() == vocabulary.encode(text).tolist()
    assert held_out.ids(vocabulary).tolist() == vocabulary.encode(rest).tolist()
    assert dict(zip(training.alphabet, training.counts().tolist(), strict=True)) == Counter(text)


def test_characters_that_a_vocabulary_lacks_are_left_out_at_any_place(tmp_path, monkeypatch):
    monkeypatch.setattr("charrnn.text.corpus.BLOCK", 8)
    monkeypatch.setattr("charrnn.text.corpus.CHUNK", 4)
    corpus = read_corpus([put(tmp_path, "t.txt", b"xxxxxxxxabcxxdxxxxxexxxxfxghixxxxxxx")])
    for known in ("abcdefghi", "abcdefghix", "ghi"):
        vocabulary = Vocabulary(known)
        expected = vocabulary.encode(corpus.text())
        expected = expected[expected >= 0].tolist()
        encoded = corpus.encoded(vocabulary)
        assert len(encoded) == len(expected)
        for start in range(len(expected) + 1):
            for stop in range(start, len(expected) + 1):
                assert encoded[start:stop].tolist() == expected[start:stop]


def test_a_limited_vocabulary_keeps_the_most_frequent_characters_and_a_symbol_for_the_rest(tmp_path):
    corpus = read_corpus([put(tmp_path, "t.txt", "aaabbccdd\ufffd\ufffd\ufffd\ufffde".encode())])
    vocabulary = corpus.vocabulary(3)
    assert (vocabulary.characters, vocabulary.unknown) == ("abc\ufffd", 3)
    assert vocabulary.encode("dab\ufffd🦉").tolist() == [3, 0, 1, 3, 3]
    assert (corpus.vocabulary(6).characters, corpus.vocabulary(6).unknown) == ("abcde\ufffd", None)


def test_with_the_symbol_the_probabilities_of_all_of_unicode_sum_to_one():
    vocabulary = Vocabulary("abc\ufffd", unknown=True)
    logits = np.array([0.3, -1.0, 2.0, 0.7], np.float32)

    def forward(ids, state):
        return np.broadcast_to(logits, (*ids.shape, 4)), state

    network = SimpleNamespace(initial_state=lambda streams: [], forward=forward)

    def probability(character):
        result = score(network, TextBlocks(vocabulary.encode(character), start=0), vocabulary=vocabulary)
        assert result.unknown_characters == (character not in "abc")
        return math.exp(-result.nats)

    outside = 0x110000 - 0x800 - 3  # Unicode's scalar values but a, b, c
    assert probability("🦉") == probability("\ufffd")
    assert sum(map(probability, "abc")) + outside * probability("🦉") == pytest.approx(1.0, abs=1e-6)


def test_a_limited_vocabulary_trains_samples_without_the_symbol_and_is_carried_on(tmp_path):
    path = put(tmp_path, "t.txt", ("abcdefgh\n" * 40 + "stuvwxyz" * 60).encode())
    model = train(path, out=tmp_path / "run", steps=3, max_vocabulary=6, hidden_size=8, validation=0.2)
    assert model.header.unknown is True
    assert len(model.vocabulary) == 7
    assert "\ufffd" not in model.sample(length=3000, temperature=50.0, seed=1)
    assert model.unknown("saQ") == "".join(c for c in "saQ" if c not in model.vocabulary.characters)
    assert model.score("🦉" * 5).unknown_characters == 5
    assert Run.resume(tmp_path / "run").dataset.vocabulary.unknown == model.vocabulary.unknown
    other = put(tmp_path, "o.txt", b"QQQsss" * 30)
    run = Run.create([other], Options(steps=1, validation=0.1), out=tmp_path / "b", init_from=tmp_path / "run")
    assert len(run.dataset.ids) == 162
    assert ": 'Qs'" in "".join(run.notes)
    run = Run.create([path], Options(steps=1, max_vocabulary=9), out=tmp_path / "c", init_from=tmp_path / "run")
    added = set(run.dataset.vocabulary.characters) - set(model.vocabulary.characters)
    assert added == set("stuvwxyz")  # of the nine most frequent ones, those that the model lacks
    assert run.dataset.vocabulary.unknown is not None


def test_training_from_the_cache_gives_the_same_bytes_as_from_memory(cache, tmp_path, monkeypatch):
    path = put(tmp_path, "t.txt", LONG.encode() * 5)
    options = dict(steps=5, hidden_size=8, layers=1, seed=1)
    train(path, out=tmp_path / "kept", **options)
    monkeypatch.setattr("charrnn.text.id_cache.IN_MEMORY", 1 << 24)
    train(path, out=tmp_path / "memory", **options)
    kept, memory = (checkpoint.read(tmp_path / name / "model.safetensors")[0] for name in ("kept", "memory"))
    assert {key: kept[key].tobytes() for key in kept} == {key: memory[key].tobytes() for key in memory}


def test_a_vocabulary_of_twenty_thousand_characters_trains_and_samples(tmp_path):
    path = put(tmp_path, "t.txt", "".join(chr(0x4E00 + k) for k in range(20_000)).encode() * 2)
    model = train(path, out=tmp_path / "run", steps=1, hidden_size=8, seq_length=8, batch_size=2, validation=0.0)
    assert len(model.vocabulary) == 20_000
    assert len(model.sample(length=5, seed=1)) == 5


def test_files_are_not_glued_together(tmp_path):
    folder = tmp_path / "lv"
    folder.mkdir()
    parts = {"a.txt": "anna\nberta", "b.txt": "", "c.txt": "carla\ndora\n", "d.bin": "\0", "e.txt": "eve\r", "f.txt": "fay"}
    for name, text in parts.items():
        (folder / name).write_text(text, newline="")
    assert read_corpus([folder]).text() == "anna\nberta\ncarla\ndora\neve\nfay"
    paragraphs = read_corpus([folder], between="\n\n").text()
    assert paragraphs == "anna\nberta\n\ncarla\ndora\n\neve\n\nfay"
    assert split(paragraphs, "paragraph")[0] == ["anna\nberta", "carla\ndora", "eve", "fay"]
    named = [folder / "a.txt", folder / "f.txt"]
    assert read_corpus(named, "bytes").text() == "anna\nbertafay"
    assert read_corpus([folder / "a.txt"]).text() == parts["a.txt"]
    assert (
        read_corpus([folder / "c.txt", folder / "a.txt"]).corpus_hash
        == build_corpus(parts["c.txt"] + parts["a.txt"]).corpus_hash
    )


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("between", ["\n", "\n\n"])
def test_a_file_without_text_changes_nothing_between_two_files(cache, tmp_path, monkeypatch, between, block):
    monkeypatch.setattr("charrnn.text.id_cache.BLOCK", block)
    mark = b"\xef\xbb\xbf"
    for k, data in enumerate([b"", b"a", b"", mark, b"begins like text, and then \xff", mark + b"b", mark]):
        put(tmp_path, f"{k}.txt", data)
    assert read_corpus([tmp_path], between=between).text() == f"a{between}b"


def test_cached_files_are_not_glued_together_either(cache, tmp_path):
    for name, text in (("a.txt", LONG.rstrip("\n")), ("b.txt", LONG)):
        (tmp_path / name).write_text(text)
    names = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for _ in range(2):
        assert read_corpus(names).text() == LONG + LONG
        assert read_corpus(names, between="\n\n").text() == LONG + "\n" + LONG


@pytest.mark.parametrize(("kind", "count"), [("--by-line", 4), ("--by-paragraph", 2)])
def test_a_folder_of_lists_has_the_records_of_each_file(tmp_path, kind, count):
    (tmp_path / "lv").mkdir()
    (tmp_path / "lv/a.txt").write_text("anna\nberta")
    (tmp_path / "lv/b.txt").write_text("carla\ndora")
    charrnn("train", "lv", kind, "--steps", 1, "--validation", 0, "-q", cwd=tmp_path)
    model = load(tmp_path / "runs/lv")
    assert not model.is_novel("carla" if kind == "--by-line" else "carla\ndora")
    figures = json.loads(charrnn("eval", "lv", "--json", cwd=tmp_path)[0])
    assert figures[model.records + "s"] == count


def test_resume_takes_the_newest_run_of_that_corpus_only(tmp_path):
    for name in ("a", "ab"):
        (tmp_path / f"{name}.txt").write_text(f"to be {name} or not " * 99)
        charrnn("train", f"{name}.txt", "--steps", 2, "-q", cwd=tmp_path)
    charrnn("train", "a.txt", "--steps", 3, "-q", cwd=tmp_path)
    _, errors = charrnn("train", "a.txt", "--resume", "--steps", 4, cwd=tmp_path)
    assert "saved in runs/a-2" in errors
