"""`charrnn sample`: JSON, endless and novel samples; `eval` with bits per line; models and texts mistaken for each other."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import CORPORA

from charrnn.checkpoint import RECORD_HASHES
from charrnn.errors import CharrnnError
from charrnn.headers import ModelHeader, Origin, Training
from charrnn.inference import writing
from charrnn.inference.model import load
from charrnn.network.config import Config
from charrnn.options import Options
from charrnn.run_folder import RunFolder
from charrnn.text.copying import PASSAGE, CopyFinder
from charrnn.text.reading import read_corpus
from charrnn.text.records import hash_records
from charrnn.text.vocabulary import Vocabulary

ENDLESS = [sys.executable, "-m", "charrnn", "sample", "-n", "-1", "--seed", "1"]
BETWEEN = "\n" + "-" * 20 + "\n"


def save_bigrams(folder, text, records=None):
    """Save a bigram model of `text` (a network without recurrent layers) in `folder`/runs/t, and `text` as t.txt."""
    (folder / "t.txt").write_text(text)
    vocabulary = Vocabulary(text)
    V, ids = len(vocabulary), vocabulary.encode(text)
    pairs = np.full((V, V), 0.01)
    np.add.at(pairs, (ids[1:], ids[:-1]), 1)
    tensors = {"softmax.weight": np.log(pairs / pairs.sum(0)).astype(np.float32), "softmax.bias": np.zeros(V, np.float32)}
    if records:
        tensors[RECORD_HASHES] = hash_records(text.splitlines())
    config = Config(V, num_layers=0, embedding_size=0, residual=False)
    options = Options(validation=0.0, records=records)
    corpus_hash = read_corpus([folder / "t.txt"]).corpus_hash
    training = Training(origin=Origin(sources=[str(folder / "t.txt")], corpus_hash=corpus_hash, options=options))
    start = "\n" if "\n" in text else text[0]
    header = ModelHeader(config=config, vocabulary=vocabulary.characters, start=start, records=records, training=training)
    (folder / "runs/t").mkdir(parents=True)
    RunFolder(folder / "runs/t").save_model(tensors, header)
    return folder


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """A folder with a model of continuous text."""
    text = "NELL:\nThe lamp is lit, and the quiet harbour sleeps.\n\nMARGERY:\nWho goes there?\n"
    return save_bigrams(tmp_path_factory.mktemp("text"), text * 9)


@pytest.fixture(scope="module")
def lines_run(tmp_path_factory):
    """A folder with a line-by-line model."""
    return save_bigrams(tmp_path_factory.mktemp("lines"), "anna\nbea\ncleo\ndora\neve\nfay\n" * 4, records="line")


@pytest.fixture
def sample(inside):
    """Run `charrnn sample`. Returns: its output, parsed if `--json` is given."""

    def run(folder, *arguments, text=""):
        out, _ = inside(folder, ["sample", *arguments], text=text)
        return [json.loads(line) for line in out.splitlines()] if "--json" in arguments else out

    return run


def test_json_has_an_object_for_each_sample_with_its_bits(sample, text_run):
    arguments = ["-n", 90, "--count", 3, "--seed", 4]
    samples = sample(text_run, *arguments, "--json")
    assert [one["text"] for one in samples] == sample(text_run, *arguments).split(BETWEEN)
    model = load(text_run / "runs/t")
    for one in samples:
        assert one["prime"] == ""
        assert one["bits_per_character"] == pytest.approx(model.bits_per_character(one["text"]), abs=1e-4)
    assert sample(text_run, "-n", 0, "-p", "The", "--json") == [{"prime": "The", "text": "", "bits_per_character": None}]


def test_bits_after_a_prime_are_those_of_the_text_alone(text_run):
    model = load(text_run / "runs/t")
    first, _, third = model.write(["The lamp ", "MARGERY", "The lamp "], length=50, seed=2)
    whole, prime = (model.score(text).nats for text in ("The lamp " + first.text, "The lamp "))
    assert first.bits_per_character * 50 == pytest.approx((whole - prime) / np.log(2), abs=1e-3)
    assert third.text != first.text
    assert model.write(["The lamp "], length=50, seed=2)[0].text == first.text


def test_json_of_a_model_of_lines_counts_the_end_of_the_line(sample, lines_run):
    samples = sample(lines_run, "--json", "--count", 9, "--seed", 1)
    assert [one["text"] for one in samples] == sample(lines_run, "--count", 9, "--seed", 1).splitlines()
    model = load(lines_run / "runs/t")
    filled = [one for one in samples if one["text"].strip()]
    for one in filled:
        assert one["bits_per_character"] == pytest.approx(model.bits_per_character(one["text"] + "\n"), abs=1e-4)
    assert filled


def test_prime_lines_gives_a_sample_for_each_line_in_order(sample, text_run):
    primes = "NELL:\n\nThe lamp\n"
    (text_run / "primes.txt").write_text(primes)
    arguments = ["-n", 20, "--count", 2, "--seed", 1, "--prime-lines"]
    samples = sample(text_run, "--json", *arguments, "primes.txt")
    assert [one["prime"] for one in samples] == ["NELL:", "NELL:", "", "", "The lamp", "The lamp"]
    assert len({one["text"] for one in samples}) == 6
    plain = sample(text_run, *arguments, "primes.txt")
    assert plain.split(BETWEEN) == [one["prime"] + one["text"] for one in samples]
    assert sample(text_run, *arguments, "-", text=primes) == plain


def test_prime_lines_of_a_model_of_lines_begin_lines(sample, lines_run):
    out = sample(lines_run, "--prime-lines", "-", "--seed", 1, text="an\nev\nd\n").splitlines()
    assert [line[:2] for line in out[:2]] == ["an", "ev"]
    assert len(out) == 3


def test_until_ends_each_of_several_samples(sample, text_run):
    arguments = ["--until", "e", "-n", 200, "--seed", 1]
    samples = sample(text_run, *arguments, "--count", 4, "--json")
    assert all(one["text"].endswith("e") and one["text"].count("e") == 1 for one in samples)
    assert sample(text_run, *arguments) == samples[0]["text"]


@pytest.mark.parametrize("folder", ["text_run", "lines_run"])
def test_an_endless_sample_streams_until_its_reader_has_had_enough(request, folder):
    folder = request.getfixturevalue(folder)
    with subprocess.Popen(ENDLESS, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        sizes = []
        for _ in range(2):
            assert len(process.stdout.read(20_000)) == 20_000
            with open(f"/proc/{process.pid}/statm") as file:
                sizes.append(int(file.read().split()[1]) * 4096)
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert sizes[1] - sizes[0] < 4e6


def test_ctrl_c_ends_an_endless_sample_with_all_that_was_written(sample, text_run):
    text = sample(text_run, "-n", 60_000, "--seed", 1)
    default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (a shell's '&' has it ignored)
    with subprocess.Popen(
        ENDLESS, cwd=text_run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=default
    ) as process:
        begun = process.stdout.read(1000)
        process.send_signal(signal.SIGINT)
        begun += process.stdout.read()
        assert process.wait(timeout=60) == 130
    assert len(begun) >= 1000
    assert text.startswith(begun.decode()[:60_000])


def test_endless_samples_can_end_with_a_word(sample, text_run):
    out = sample(text_run, "-n", -1, "--until", "the", "--seed", 1)
    assert out.endswith("the")
    assert sample(text_run, "-n", len(out) + 50, "--seed", 1).startswith(out)


def test_escapes_several_ends_and_ends_of_several_endless_samples(sample, text_run):
    for end, escaped in (("\n", "\\n"), (" l", " l")):
        out = sample(text_run, "-n", -1, "--until", escaped, "--seed", 1)
        assert out.endswith(end)
        assert end not in out[: -len(end)]
        both = sample(text_run, "-n", -1, "--until", escaped, "--until", "h", "--seed", 1)
        assert out.startswith(both)
        assert both.endswith((end, "h"))
    several = sample(text_run, "-n", -1, "--until", ".", "--count", 3, "--seed", 1, "--json")
    assert len(several) == 3
    assert all(one["text"].endswith(".") for one in several)
    assert sample(text_run, "-p", "NELL:\\n", "-n", 0) == "NELL:\n"
    assert load(text_run / "runs/t").write(["", ""], length=None, until=["\n", "."], seed=1)[0].why == "until"


def test_an_end_that_can_not_come_is_an_error_not_an_endless_text(inside, text_run):
    for end in ("☃", "☃s"):
        errors = inside(text_run, ["sample", "-n", "-1", "--until", end], status=2)[1]
        assert errors.splitlines()[-1] == f"error: no text can end at {end!r}: the model never writes '☃'"
    with pytest.raises(CharrnnError, match="no text can end at '☃s'"):
        load(text_run / "runs/t").write([""], until="☃s")


def test_an_option_given_twice_is_an_error(inside, text_run):
    for command in (["sample", "-n", "3"], ["eval", "t.txt"], ["report"]):
        errors = inside(text_run, [*command, "-m", "t", "-m", "t"], status=2)[1]
        assert errors == "error: --model is given twice; give it once\n"
    assert inside(text_run, ["sample", "-n", "3", "--seed", "1", "--seed", "2"], status=2)[1].startswith(
        "error: --seed is given"
    )


def test_of_a_very_long_prime_the_end_is_read_and_gives_the_same_text(text_run):
    model = load("english")
    text = (CORPORA / "the-lamp.txt").read_text()[: 2 * writing.MEMORY]
    state = model.network.initial_state(1)
    for i in [model.start, *model.vocabulary.encode_known(text).tolist()]:
        state.step([i])
    assert writing._read(model, [text]).logits[0] == pytest.approx(state.logits[0], abs=1e-4)


def test_per_line_gives_each_line_its_bits(inside, text_run):
    text = "NELL: ☃\nThe lamp is lit.\n\nqqqq"
    figures = json.loads(inside(text_run, ["eval", "--per-line", "--json"], text=text)[0])
    lines = figures.pop("per_line")
    assert [line["text"] for line in lines] == text.split("\n")
    assert [line["line"] for line in lines] == [1, 2, 3, 4]
    assert [line["characters"] for line in lines] == [8, 17, 1, 4]
    total = sum(line["bits_per_character"] * line["characters"] for line in lines)
    assert total == pytest.approx(figures["bits_per_character"] * len(text), abs=1e-2)
    assert figures == pytest.approx(json.loads(inside(text_run, ["eval", "--json"], text=text)[0]), rel=1e-6)
    plain = inside(text_run, ["eval", "--per-line"], text=text)[0].splitlines()
    assert plain[1] == f"{lines[1]['bits_per_character']:7.4f} The lamp is lit."
    assert plain[4] == ""
    assert plain[5].startswith("characters")


def test_per_line_of_a_model_of_lines_gives_each_record_its_bits(inside, lines_run):
    out = inside(lines_run, ["eval", "--per-line", "--worst", 2, "--json"], text="anna\n\nqqq\neve\n")[0]
    figures = json.loads(out)
    assert [line["text"] for line in figures["per_line"]] == ["anna", "qqq", "eve"]
    assert [line["line"] for line in figures["per_line"]] == [1, 3, 4]  # of the file
    worst = figures["worst"][0]
    assert worst["line"] == "qqq"
    assert worst["bits"] == pytest.approx(4 * figures["per_line"][1]["bits_per_character"], abs=1e-2)


def test_novel_texts_hold_no_long_passage_of_the_training_text(sample, inside, tmp_path):
    save_bigrams(tmp_path, "".join(map(chr, range(33, 93))) * 20)
    training = read_corpus([tmp_path / "t.txt"])
    arguments = ["-n", 100, "--seed", 1, "--json", "--count"]
    texts = [one["text"] for one in sample(tmp_path, *arguments, 20)]
    copied = [bool(part.any()) for part in CopyFinder(texts, training).copied()]
    assert 0 < sum(copied) < 20
    novel = [text for text, is_copied in zip(texts, copied, strict=True) if not is_copied]
    assert [one["text"] for one in sample(tmp_path, *arguments, len(novel), "--novel")] == novel
    assert not any(text[i : i + PASSAGE] in training.text() for text in novel for i in range(100 - PASSAGE + 1))
    out, errors = inside(tmp_path, ["sample", "-n", 100, "--greedy", "--novel", "--count", 2])
    assert out == ""
    assert "skipped 40 texts that copy 50 characters or more in a row from the training text" in errors
    assert "warning: found 0 of 2" in errors


def test_what_needs_the_training_text_says_where_it_is_gone(inside, tmp_path):
    save_bigrams(tmp_path, "to be or not to be, " * 100)
    out, _ = inside(tmp_path, ["eval", "--copied", "t", "--json"], text="what is to be or not to be?")
    assert json.loads(out)["longest_passage"]["text"] == " to be or not to be"
    (tmp_path / "t.txt").write_text("to be or not to bee, " * 100)
    errors = inside(tmp_path, ["sample", "--novel"], status=2)[1].splitlines()[-1]
    assert "t.txt is not the one that runs/t was trained on; to compare a sample with another text: charrnn eval" in errors
    (tmp_path / "t.txt").unlink()
    errors = inside(tmp_path, ["sample", "--novel"], status=2)[1].splitlines()[-1]
    assert "t.txt no longer exists; to compare a sample with another text: charrnn eval --copied" in errors
    errors = inside(tmp_path, ["eval", "--copied", "t"], text="to be", status=2)[1].splitlines()[-1]
    assert "t.txt no longer exists; name the text: charrnn eval --copied" in errors


BAD = {
    "two primes": (["sample", "-p", "a", "--prime-lines", "t.txt"], "--prime-file and --prime-lines can't be combined"),
    "no file of primes": (["sample", "--prime-lines", "gone.txt"], "gone.txt does not exist"),
    "endless and several": (["sample", "-n", "-1", "--count", "2"], "--count and --length -1 can't be combined"),
    "endless and as JSON": (["sample", "-n", "-1", "--json"], "--json and --length -1 can't be combined"),
    "endless and novel": (["sample", "-n", "-1", "--novel"], "--novel and --length -1 can't be combined"),
    "endless for each line": (["sample", "-n", "-1", "--prime-lines", "t.txt"], "--prime-lines and --length -1"),
    "interactive as JSON": (["sample", "--interactive", "--json"], "--json and --interactive can't be combined"),
    "lines and colours": (["eval", "t.txt", "--per-line", "--heatmap"], "--per-line and --heatmap can't be combined"),
    "copied by a model": (["eval", "t.txt", "--copied", "t.txt", "-m", "t"], "--model and --copied can't be combined"),
    "copied from nothing": (["eval", "t.txt", "--copied", "gone.txt"], "gone.txt does not exist"),
    "copied from a pipe": (["eval", "-", "--copied", "-"], "TEXT and --copied can't both be standard input"),
    "train on a run": (["train", "runs/t"], "to continue one: charrnn train --resume -o runs/t"),
    "train on a run's name": (["train", "t.txt", "t"], "did you mean: charrnn train t.txt --init-from t"),
    "a model of text for a table": (["forecast", "t.csv", "-m", "t"], "t is a model of text, not of numbers"),
    "a table for a model": (["forecast", "t.csv", "-m", "t.txt"], "t.txt is a text, not a model"),
    "an unknown model of numbers": (["forecast", "t.csv", "-m", "tid"], "the forecast models under runs/: tide"),
    "a folder without numbers": (["forecast", "t.csv", "-m", "runs"], "runs has no forecast model: runs/forecast"),
    "a model for a table": (["forecast", "tide"], "did you mean: charrnn forecast TABLE -m tide"),
    "model and table swapped": (["forecast", "tide", "-m", "t.csv"], "did you mean: charrnn forecast t.csv -m tide"),
    "a model of numbers by name": (["sample", "tide"], "use it with: charrnn forecast TABLE -m tide"),
    "a model of numbers for a command": (["tide"], "to forecast with this model: charrnn forecast TABLE -m tide"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_error_line(inside, text_run, case):
    arguments, words = BAD[case]
    (text_run / "t.csv").write_text("a,b\n1,2\n")
    (text_run / "runs/tide").mkdir(exist_ok=True)
    (text_run / "runs/tide/forecast.safetensors").write_text("")
    out, errors = inside(text_run, arguments, status=2)
    assert out == ""
    assert errors.splitlines()[-1].startswith("error: ")
    assert words in errors.splitlines()[-1]
