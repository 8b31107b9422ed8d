"""The real program: output, pipes, start-up, and errors for bad input."""

import gc
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import unicodedata

import pytest
import typer
from conftest import CORPORA, ROOT, charrnn, start

from charrnn import __version__
from charrnn.cli import app
from charrnn.commands import common
from charrnn.text.visible import SINGLE_SIGNS, make_visible

PROGRAM = [sys.executable, "-m", "charrnn"]
COMMANDS = ("train", "sample", "eval", "report", "info", "export", "forecast", "cache")


def test_sample_prints_the_prime_and_the_text_and_nothing_else(book_run):
    out, errors = charrnn("sample", "-p", "NELL:\n", "-n", 100, "--seed", 1, cwd=book_run, real=True)
    text = out.decode()
    assert text.startswith("NELL:\n")
    assert len(text) == 106
    assert errors == "model: runs/book/model.safetensors\n"
    assert charrnn("sample", "-p", "NELL:\n", "-n", 100, "--seed", 1, cwd=book_run)[0] == out
    assert charrnn("sample", "-n", 100, "--seed", 1, cwd=book_run, text="NELL:\n")[0] == out


def test_stdout_is_utf_8_whatever_the_locale(tmp_path):
    (tmp_path / "t.txt").write_text("żółw 🦉 ", encoding="utf-8")
    charrnn("train", "t.txt", "--steps", 3, "--validation", 0, "-q", cwd=tmp_path)
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    out, _ = charrnn("sample", "-p", "🦉", "-n", 50, "--seed", 1, cwd=tmp_path, env=env, real=True)
    assert len(out.decode("utf-8")) == 51


def test_a_reader_that_leaves_ends_it_quietly(book_run):
    command = f"{sys.executable} -m charrnn sample -m runs/book -n 100000 </dev/null | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=book_run, capture_output=True, timeout=60)
    assert done.stderr == b""
    assert done.stdout[10:] == b"0\n"


def test_count_gives_separated_samples_and_until_ends_them(book_run):
    out = charrnn("sample", "--count", 3, "-n", 40, "--seed", 2, cwd=book_run)[0].decode()
    parts = out.split("\n" + "-" * 20 + "\n")
    assert [len(part) for part in parts] == [40, 40, 40]
    out = charrnn("sample", "-n", 400, "--until", "e", "--seed", 2, cwd=book_run)[0].decode()
    assert out.endswith("e")
    assert out.count("e") == 1


def test_unknown_characters_of_the_prime_are_skipped_with_one_warning(book_run):
    out, errors = charrnn("sample", "-p", "Tobias ☃ß☃", "-n", 5, "--greedy", "-m", "runs/book", cwd=book_run)
    assert out.decode().startswith("Tobias ☃ß☃")
    assert errors == "warning: the model has never seen '☃', 'ß'; skipped in the prime\n"


def test_eval_prints_a_table_or_json(book_run):
    (book_run / "held.txt").write_text("MARGERY:\nThe lamp is lit. ☃\n")
    table = charrnn("eval", "held.txt", cwd=book_run)[0].decode()
    assert "bits per character" in table
    figures = json.loads(charrnn("eval", "held.txt", "--json", cwd=book_run)[0])
    assert figures["characters"] == 28
    assert figures["unknown_characters"] == 1
    assert json.loads(charrnn("eval", "--json", cwd=book_run, text="MARGERY:\nThe lamp is lit. ☃\n")[0]) == figures


SEVERAL = """
import json, sys
import charrnn
charrnn.__version__
from charrnn.cli import main
for arguments in json.loads(sys.argv.pop()):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        print(end.code, *{"torch"} & set(sys.modules), end=chr(30))
"""


def run_several(rows, cwd, **env):
    """What each of several command lines prints in one process, its exit status after it, and " torch" if that is imported."""
    command = [sys.executable, "-c", SEVERAL, json.dumps([list(map(str, words)) for words in rows])]
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, input=b"", capture_output=True, timeout=120)
    assert (done.returncode, b"error" in done.stderr) == (0, False), done.stderr
    *printed, rest = done.stdout.split(b"\x1e")
    assert (len(printed), rest) == (len(rows), b"")
    return printed


def test_what_only_runs_a_model_leaves_torch_unimported(book_run):
    helps = [["--help"], ["train", "--help"], ["forecast", "--help"]]
    runs = [["sample", "-n", 5], ["eval", "book.txt"], ["info", "runs/book"]]
    printed = run_several([["--version"], *helps, *runs, []], book_run)
    assert [out.split(b"\n")[-1] for out in printed[:4]] == [b"0"] * 4
    assert printed[4][5:] == b"0"
    assert [out.split(b"\n")[-1] for out in printed[5:]] == [b"0", b"0", b"2"]


def test_version_is_printed(tmp_path):
    for flag in ("--version", "-V"):
        assert charrnn(flag, cwd=tmp_path, real=True)[0].decode() == f"charrnn {__version__}\n"


def test_the_bare_program_prints_its_help(tmp_path):
    out, errors = charrnn(cwd=tmp_path, status=2, real=True)  # the status that Typer gives it, too: a command is missing
    assert out.startswith(b"Usage: charrnn ")
    assert b"\n  forecast " in out
    assert errors == ""
    assert charrnn("--help", cwd=tmp_path) == (out, "")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_has_a_short_name(tmp_path, command):
    out = charrnn(*command, "--help", cwd=tmp_path)
    assert charrnn(*command, "-h", cwd=tmp_path) == out
    assert b"-h, --help" in out[0]
    assert b"Usage: charrnn" in out[0]


@pytest.mark.parametrize("command", [*COMMANDS, "cache"])
def test_help_names_every_value_and_fits_80_columns(tmp_path, command):
    lines = charrnn(command, "--help", cwd=tmp_path)[0].decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert "<" not in "".join(lines)  # as in "--steps <int>"
    assert "Examples:" in lines


def test_help_of_train_has_its_options_in_groups(tmp_path):
    lines = charrnn("train", "--help", cwd=tmp_path)[0].decode().splitlines()
    headings = [line for line in lines if re.fullmatch("[A-Z][a-z]+:", line)]
    assert headings == ["Arguments:", "Data:", "Length:", "Model:", "Optimization:", "Output:", "Examples:"]
    first = {heading: lines[lines.index(heading) + 1].split()[0] for heading in headings[1:-1]}
    assert list(first.values()) == ["--encoding", "--for", "--cell", "--seq-length", "-o,"]


def test_the_examples_of_the_help_work_one_after_the_other(tmp_path):
    lamp = (CORPORA / "the-lamp.txt").read_text()
    for name, length in {"corpus": 4000, "letters": 4000, "held-out": 500}.items():
        (tmp_path / f"{name}.txt").write_text(lamp[:length])
    (tmp_path / "names.txt").write_text("Anna\nBerta\nClara\n" * 40)
    for name in ("prices", "new-prices"):
        (tmp_path / f"{name}.csv").write_text("day,close\n" + "".join(f"{day},{day * day % 7}\n" for day in range(60)))
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    for name, command in typer.main.get_command(app).commands.items():
        assert len(command.epilog.splitlines()) >= 2
        for example in command.epilog.splitlines():
            assert example.startswith(f"charrnn {name}") or f"| charrnn {name} " in example
            learns = name == "train" or (name == "forecast" and "-m" not in example)
            shorter = re.sub(r" --for \S+| --epochs \S+", "", example) + " --steps 2" * learns
            words = shlex.split(shorter)
            if {"|", ">"} & set(words):
                done = subprocess.run(["bash", "-c", shorter], cwd=tmp_path, env=os.environ | env, capture_output=True)
                assert done.returncode == 0, (example, done.stderr)
            else:
                charrnn(*words[1:], cwd=tmp_path, env=env)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_no_command_fails_where_stdout_is_not_utf_8(tmp_path, encoding):
    (tmp_path / "żółw.txt").write_text("żółw 🦉 ćma\nżaba\n" * 40, encoding="utf-8")
    (tmp_path / "t.csv").write_text("dzień,żółw\n" + "".join(f"{i},{i * i % 7}\n" for i in range(30)), encoding="utf-8")
    run = ("-m", "żółw")
    rows = (  # of words, and what is printed
        ("train", "żółw.txt", "--by-line", "--steps", "3", "--validation", "0", "-o", "runs/żółw", b""),
        ("sample", *run, "-n", "20", "--count", "2", b"\n"),
        ("eval", "żółw.txt", *run, b"bits per character"),
        ("eval", "żółw.txt", *run, "--worst", "1", b"\\u017c"),
        ("eval", "żółw.txt", *run, "--json", b"{"),
        ("info", *run, b"\\u017c"),
        ("info", *run, "--json", b"{"),
        ("report", "runs/żółw", "żółw.txt", b""),
        ("export", *run, b""),
        ("forecast", "t.csv", "--steps", "2", b"\\u017c"),
        ("forecast", "t.csv", "--steps", "2", "--json", b"{"),
        ("cache", b"files"),
        ("--help", b"Usage"),
        *((name, "--help", b"Usage") for name in COMMANDS),
        ("eval", "żółw.txt", *run, "--top", "3", "--heatmap", b"bits"),  # has the encoding changed, so it comes last
    )
    printed = run_several(
        [words for *words, _ in rows], tmp_path, PYTHONIOENCODING=encoding, XDG_CACHE_HOME=str(tmp_path / "ż")
    )
    for (*words, expected), out in zip(rows, printed, strict=True):
        assert expected in out, words
        assert re.search(b"0( torch)?$", out), words


def test_every_command_takes_a_model_by_its_name_under_runs(book_run):
    (book_run / "held.txt").write_text("MARGERY:\nThe lamp is lit.\n")
    for command in (["sample", "-n", 9, "--seed", 1], ["info"], ["export", "-o", "m.onnx"], ["report", "-o", "r.html"]):
        results = {charrnn(*command, *named, cwd=book_run) for named in (["runs/book"], ["-m", "book"], ["--model", "book"])}
        assert len(results) == 1, command
        assert charrnn(*command, "book", cwd=book_run) in results
    assert len({charrnn("eval", "held.txt", "-m", name, cwd=book_run) for name in ("book", "runs/book")}) == 1
    charrnn("report", "-m", "book", "held.txt", "-o", "r.html", cwd=book_run)
    assert "MARGERY" in (book_run / "r.html").read_text()
    charrnn("train", "held.txt", "--init-from", "book", "--steps", 1, "-q", "-o", "tuned", cwd=book_run)


def test_a_name_that_is_none_is_answered_with_the_runs(book_run):
    for command in (["sample"], ["info"], ["export"], ["eval", "book.txt"], ["report"], ["train", "book.txt", "--init-from"]):
        named = ["boook"] if command[-1] == "--init-from" else ["-m", "boook"]
        errors = charrnn(*command, *named, cwd=book_run, status=2)[1]
        assert errors.startswith("error: boook does not exist; the runs under runs/: ")
        assert "book" in errors.partition("the runs under runs/: ")[2]
    errors = charrnn("sample", "-m", "runs", cwd=book_run, status=2)[1]
    assert errors.startswith("error: runs has no model: runs/model.safetensors does not exist; the runs under runs/: ")
    errors = charrnn("eval", "book", cwd=book_run, status=2)[1]
    assert errors == "error: book is a model, not a text; did you mean: charrnn eval TEXT -m book\n"


def test_torch_is_imported_without_garbage_collection_which_then_goes_on():
    with common.import_quickly():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), common.import_quickly():
        raise ImportError
    assert gc.isenabled()


def test_training_prints_plain_lines_where_there_is_no_terminal(tmp_path):
    text = "to be or not to be, " * 200
    out, errors = charrnn("train", "-", "--steps", 40, "--hidden-size", 8, cwd=tmp_path, text=text, real=True)
    assert out == b""
    lines = errors.splitlines()
    assert lines[0] == "loading PyTorch, reading standard input"
    assert lines[1].startswith("runs/stdin: trains on ")
    assert lines[2].startswith("model: 1-layer LSTM, 8 units; batch ")
    assert "validation" in lines[-3]
    assert "bits per character" in lines[-3]
    assert re.fullmatch(r"done after [\d.]+ epochs \(40 steps, \d+s\)", lines[-2])
    assert lines[-1] == "saved in runs/stdin; generate text with: charrnn sample -m runs/stdin"
    assert "\x1b" not in errors
    charrnn("train", "--resume", "--steps", 45, "-q", "-o", "runs/stdin", "-", cwd=tmp_path, text="to be or not to be, " * 200)
    history = (tmp_path / "runs/stdin/history.jsonl").read_text().splitlines()
    assert json.loads(history[-1])["step"] == 45
    _, errors = charrnn("train", "--resume", "-o", "runs/stdin", "-", cwd=tmp_path, text="to be or not to be, " * 200)
    assert "saved in runs/stdin" in errors
    longer = "--steps counts from the beginning: charrnn train - --resume --steps 90 -o runs/stdin\n"  # not five minutes
    assert errors.count("nothing to train: runs/stdin has reached that length; " + longer) == 1
    for flags, longer in (["--steps", 5], r"--steps 50"), (["--for", 0.001], r"--for [\dms]+"):
        again = ["train", "--resume", *flags, "-o", "runs/stdin", "-"]
        errors = charrnn(*again, cwd=tmp_path, text="to be or not to be, " * 200)[1]
        assert re.search(f"{flags[0]} counts from the beginning: charrnn train - --resume {longer} -o", errors)
    charrnn("train", "-", "--steps", 2, "-q", cwd=tmp_path, text="another " * 50)
    assert (tmp_path / "runs/stdin-2/model.safetensors").exists()


def test_commands_read_line_ends_as_the_model_s_text_was_read(tmp_path):
    lines = "the lamp is lit\nand the boat is out\n" * 30
    (tmp_path / "lf.txt").write_bytes(lines.encode())
    (tmp_path / "crlf.txt").write_bytes(lines.replace("\n", "\r\n").encode())
    errors = charrnn("train", "crlf.txt", "--steps", 1, "--hidden-size", 8, cwd=tmp_path)[1]
    assert errors.count("note: its CRLF line ends are read as LF\n") == 1
    errors = charrnn("train", "crlf.txt", "--newlines", "keep", "--steps", 1, "--hidden-size", 8, "-o", "kept", cwd=tmp_path)[1]
    assert "CRLF" not in errors
    lf, crlf, kept = (
        json.loads(charrnn("eval", text, "-m", model, "--json", cwd=tmp_path)[0])
        for text, model in (("lf.txt", "crlf"), ("crlf.txt", "crlf"), ("crlf.txt", "kept"))
    )
    assert lf == crlf
    assert kept["characters"] == len(lines) + lines.count("\n")
    assert kept["unknown_characters"] == 0
    for model, prime in (("crlf", b"lit\nand"), ("kept", b"lit\r\nand")):
        assert charrnn("sample", "-m", model, "-n", 0, cwd=tmp_path, text=b"lit\r\nand") == (prime, "")
        command = json.loads(charrnn("info", model, "--json", cwd=tmp_path)[0])["command"]
        assert ("--newlines=keep" in command) == (model == "kept")
    charrnn("report", "kept", cwd=tmp_path)  # finds its validation text


def test_utf_16_with_a_mark_is_read_by_every_command(tmp_path):
    (tmp_path / "t.txt").write_text("żółw ćma żaba\n" * 40, encoding="utf-16")
    (tmp_path / "t.csv").write_text("dzień,żółw\n" + "".join(f"{i},{i * i % 7}\n" for i in range(30)), encoding="utf-16")
    charrnn("train", "t.txt", "--steps", 1, "--hidden-size", 8, "-q", cwd=tmp_path)
    assert json.loads(charrnn("eval", "t.txt", "--json", cwd=tmp_path)[0])["unknown_characters"] == 0
    assert charrnn("sample", "--prime-file", "t.txt", "-n", 0, cwd=tmp_path)[0].decode() == "żółw ćma żaba\n" * 40
    charrnn("report", "t", "t.txt", cwd=tmp_path)
    assert "żółw" in charrnn("forecast", "t.csv", "--steps", 1, cwd=tmp_path)[0].decode()


def test_a_run_is_resumed_by_the_name_of_its_text(tmp_path):
    texts = ["a.txt", "ab.txt", "a-2.txt", "a-b.txt", "a.b.txt", "other/a.txt"]  # the last one's folder is runs/a-3
    small = ["--hidden-size", 8, "--layers", 1, "-q"]
    for k, text in enumerate(texts):
        (tmp_path / text).parent.mkdir(exist_ok=True)
        (tmp_path / text).write_text(f"the lamp {k} is lit\n" * 80)
        charrnn("train", text, "--steps", 1, *small, cwd=tmp_path)
    for text, folder in zip(texts, ["a", "ab", "a-2", "a-b", "a.b", "a-3"], strict=True):
        errors = charrnn("train", text, "--resume", "--steps", 2, cwd=tmp_path)[1]
        assert f"saved in runs/{folder};" in errors
    charrnn("train", "a.txt", "--steps", 1, *small, cwd=tmp_path)
    assert "saved in runs/a-4;" in charrnn("train", "a.txt", "--resume", "--steps", 2, cwd=tmp_path)[1]
    assert "saved in runs/a-4;" in charrnn("train", "--resume", "--steps", 3, cwd=tmp_path)[1]
    (tmp_path / "a").mkdir()
    (tmp_path / "a.txt").rename(tmp_path / "a/a.txt")
    assert "saved in runs/a-4;" in charrnn("train", "a/a.txt", "--resume", "--steps", 4, "-o", "runs/a-4", cwd=tmp_path)[1]
    assert "saved in runs/a-4;" in charrnn("train", "a/a.txt", "--resume", "--steps", 5, cwd=tmp_path)[1]


def test_a_text_that_has_changed_is_called_so_when_its_run_is_resumed(tmp_path):
    (tmp_path / "t.txt").write_text("the lamp is lit " * 40)
    charrnn("train", "t.txt", "--steps", 1, "--hidden-size", 8, "-q", cwd=tmp_path)
    (tmp_path / "t.txt").write_text("the lamp is out " * 40)
    errors = charrnn("train", "--resume", cwd=tmp_path, status=2)[1]
    assert f"trained on ({tmp_path}/t.txt has changed); to fine-tune the model on this text: --init-from runs/t" in errors


def test_decomposed_text_gets_a_hint(tmp_path):
    text = "한국어는 아름답다. Zażółć gęślą jaźń.\n" * 30
    (tmp_path / "nfc.txt").write_text(text, encoding="utf-8")
    (tmp_path / "nfd.txt").write_text(unicodedata.normalize("NFD", text), encoding="utf-8")
    charrnn("train", "nfc.txt", "--steps", 1, "--hidden-size", 8, "-q", cwd=tmp_path)
    hint = "note: the model was trained on composed characters (Unicode's NFC); convert the text: uconv -x any-nfc\n"
    for command in (["eval"], ["sample", "-n", 1, "--prime-file"]):
        assert hint in charrnn(*command, "nfd.txt", "-m", "nfc", cwd=tmp_path)[1]
        assert hint not in charrnn(*command, "nfc.txt", "-m", "nfc", cwd=tmp_path)[1]


def test_training_says_what_it_does_before_it_imports_torch(tmp_path):
    (tmp_path / "t.txt").write_text("to be or not to be, " * 20)
    code = "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['train', 't.txt', '--steps', '1']; "
    code += "from charrnn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[0] == "loading PyTorch, reading t.txt"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sample", "-n", "5"], "reading standard input until it ends; for no prompt: --prime ''\n"),
        (["sample", "-n", "5", "--prime-file", "pipe"], "reading pipe until it ends\n"),
        (["eval"], "reading standard input until it ends\n"),
    ],
)
def test_an_input_that_does_not_come_is_not_waited_for_in_silence(book_run, tmp_path, command, said):
    os.mkfifo(tmp_path / "pipe")
    piped = subprocess.PIPE if "pipe" not in command else subprocess.DEVNULL
    command = [*PROGRAM, *command, "-m", book_run / "runs" / "book"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=piped, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == said
    if "--prime-file" in command:
        (tmp_path / "pipe").write_text("NELL")
    out, errors = process.communicate(None if "--prime-file" in command else "NELL", timeout=60)
    assert (errors, process.returncode) == ("", 0)
    assert len(out) == 9 or "bits per character" in out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_where(tmp_path, number, status):
    (tmp_path / "t.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
    command = [*PROGRAM, "train", "t.txt", "--steps", "1000000", "--hidden-size", "16"]
    process = start(command, tmp_path)
    assert process.stderr.readline() == "loading PyTorch, reading t.txt\n"
    assert process.stderr.readline().startswith("runs/t: ")
    time.sleep(1)
    process.send_signal(number)
    errors = process.communicate(timeout=20)[1]
    assert process.returncode == status
    done, saved = errors.splitlines()[-2:]
    assert re.fullmatch(r"interrupted after [\d.]+ epochs \(\d+ steps, \d+s\)", done)
    assert saved == "saved in runs/t; continue with: charrnn train --resume -o runs/t"
    assert {"model.safetensors", "state.safetensors", "history.jsonl"} <= set(os.listdir(tmp_path / "runs/t"))
    charrnn("train", "--resume", "--steps", 1, "-q", cwd=tmp_path)


def test_control_characters_are_shown_on_a_terminal_and_markup_is_text():
    hostile = "\x1b[31mred\x1b]8;;http://x\x07[bold]\r\u202e\x00\n\t"
    shown = make_visible(hostile)
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert "[bold]" in shown
    assert shown.endswith("\n\t")


def test_joiners_are_shown_and_what_reorders_text_is_not():
    words = "می‌خواهم क्‍ष co\u00adoperate 👩‍👩‍👧 ❤\ufe0f 🏴\U000e0067\U000e007f a\u2060b\ufeff"  # Persian, Hindi, emoji
    assert make_visible(words) == words
    for character in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\x85\x7f":
        assert make_visible(f"a{character}b") == "a" + character.encode("unicode_escape").decode() + "b"
    assert make_visible("\u200d", signs=SINGLE_SIGNS) == "\\u200d"  # alone it would not be seen


BAD = {
    "no such command": (["dance"], 2, "no such command: dance; see charrnn --help"),
    "mistyped command": (["trian", "t.txt"], 2, "no such command: trian; did you mean train?"),
    "no such option": (["train", "t.txt", "--verbose", "9"], 2, "no such option: --verbose; see charrnn train --help"),
    "no such option of the program": (["--speed"], 2, "no such option: --speed; see charrnn --help"),
    "mistyped option": (["sample", "--temprature", "1"], 2, "no such option: --temprature; did you mean --temperature?"),
    "mistyped help": (["eval", "--hlep"], 2, "no such option: --hlep; did you mean --help?"),
    "no value": (["train", "t.txt", "--for"], 2, "--for needs a value: --for TIME"),
    "no value of a short option": (["sample", "-n"], 2, "-n needs a value: -n N"),
    "value of a flag": (["train", "t.txt", "--quiet=3"], 2, "--quiet takes no value"),
    "argument too many": (["cache", "t.txt"], 2, "unexpected argument: t.txt"),
    "no corpus at all": (["train"], 2, "no text in standard input: it is empty"),
    "missing corpus": (["train", "missing.txt"], 2, "missing.txt does not exist"),
    "empty corpus": (["train", "empty.txt"], 2, "empty"),
    "one character": (["train", "one.txt"], 2, "at least 2"),
    "binary corpus": (["train", "binary.bin"], 2, "NUL"),
    "wrong encoding": (["train", "latin.txt"], 2, "byte 2"),
    "unknown encoding": (["train", "t.txt", "--encoding", "klingon"], 2, "klingon"),
    "bytes and text": (["train", "binary.bin", "--encoding", "utf-16"], 2, "is not utf-16"),
    "encoding of bytes": (["train", "t.txt", "--encoding", "base64"], 2, "base64 is not an encoding of text"),
    "no vocabulary": (["train", "t.txt", "--max-vocabulary", "0"], 2, "--max-vocabulary"),
    "empty folder": (["train", "folder"], 2, "folder"),
    "time that is none": (["train", "t.txt", "--for", "soon"], 2, "--for must be a time such as 30s, 5m or 1h30m, not 'soon'"),
    "time without a unit": (["train", "t.txt", "--for", "1h30"], 2, "--for must be a time such as 30s"),
    "no time": (["train", "t.txt", "--for", "0"], 2, "--for"),
    "negative steps": (["train", "t.txt", "--steps", "-3"], 2, "--steps"),
    "two lengths": (["train", "t.txt", "--steps", "3", "--epochs", "2"], 2, "can't be combined"),
    "steps that are no number": (["train", "t.txt", "--steps", "many"], 2, "--steps must be a whole number, not 'many'"),
    "rate that is no number": (["train", "t.txt", "--learning-rate=fast"], 2, "--learning-rate must be a number, not 'fast'"),
    "unknown cell": (["train", "t.txt", "--cell", "lstmm"], 2, "--cell must be lstm, gru or rnn, not 'lstmm'"),
    "negative layers": (["train", "t.txt", "--layers", "-1"], 2, "--layers"),
    "no units": (["train", "t.txt", "--hidden-size", "0"], 2, "--hidden-size"),
    "too many units": (["train", "t.txt", "--hidden-size", "65536", "--steps", "1"], 2, "GiB of memory"),
    "dropout of all": (["train", "t.txt", "--dropout", "1"], 2, "--dropout"),
    "learning rate of nan": (["train", "t.txt", "--learning-rate", "nan"], 2, "--learning-rate"),
    "all held out": (["train", "t.txt", "--validation", "1.0"], 2, "--validation"),
    "missing validation file": (["train", "t.txt", "--validation", "gone.txt"], 2, "--validation gone.txt does not exist"),
    "percent to hold out": (["train", "t.txt", "--validation", "10%"], 2, "name a file, or a fraction such as 0.1"),
    "name with a space": (["train", "my", "book.txt"], 2, "my does not exist; did you mean 'my book.txt'?"),
    "address": (["eval", "http://a.org/b.txt", "-m", "used"], 2, "download it first: curl -LO http://a.org/b.txt"),
    "unknown device": (["train", "t.txt", "--device", "cdua"], 2, "--device must be auto, cpu, cuda or mps, not 'cdua'"),
    "out is a file": (["train", "t.txt", "-o", "one.txt"], 2, "one.txt"),
    "out can't be made": (["train", "t.txt", "--steps", "1", "-o", "one.txt/run"], 1, "one.txt/run"),
    "nothing to resume": (["train", "--resume"], 2, "no run to resume"),
    "resume with other options": (["train", "t.txt", "--resume", "--hidden-size", "9"], 2, "--resume"),
    "no model": (["sample"], 2, "no model"),
    "missing model": (["sample", "-m", "nowhere"], 2, "nowhere"),
    "model that is text": (["sample", "-m", "t.txt"], 2, "to train a model on it: charrnn train t.txt"),
    "model that is empty": (["eval", "t.txt", "-m", "empty.txt"], 2, "not a charrnn file"),
    "negative length": (["sample", "-n", "-2"], 2, "--length must be -1 (no end) or more, not -2"),
    "no samples": (["sample", "--count", "0"], 2, "--count"),
    "empty until": (["sample", "--until", ""], 2, "--until"),
    "temperature below 0": (["sample", "-t", "-1"], 2, "temperature"),
    "top-p above 1": (["sample", "--top-p", "2"], 2, "top-p"),
    "prime twice": (["sample", "-p", "a", "--prime-file", "t.txt"], 2, "can't be combined"),
    "eval of nothing": (["eval", "t.txt"], 2, "no model"),
    "time below zero": (["train", "t.txt", "--for=-5"], 2, "-5"),
    "eons": (["train", "t.txt", "--for", "9999999d"], 2, "ten years"),
    "epochs that are none": (["train", "t.txt", "--epochs", "nan"], 2, "--epochs"),
    "endless epochs": (["train", "t.txt", "--epochs", "inf"], 2, "--epochs"),
    "epochs beyond all numbers": (
        ["train", "t.txt", "--epochs", "1e308"],
        2,
        "--epochs must be above 0 and at most 1,000,000,000,000, not 1e+308",
    ),
    "steps beyond all numbers": (["train", "t.txt", "--steps", "1" + "0" * 400], 2, "must be above 0 and at most"),
    "half a step": (["train", "t.txt", "--steps", "1.5"], 2, "--steps"),
    "too many layers": (["train", "t.txt", "--layers", "65"], 2, "--layers must be between 0 and 64, not 65"),
    "negative embedding": (["train", "t.txt", "--embedding", "-1"], 2, "--embedding"),
    "no window": (["train", "t.txt", "--seq-length", "0"], 2, "--seq-length"),
    "no batch": (["train", "t.txt", "--batch-size", "0"], 2, "--batch-size"),
    "dropout below 0": (["train", "t.txt", "--dropout=-0.1"], 2, "--dropout"),
    "learning rate of 0": (["train", "t.txt", "--learning-rate", "0"], 2, "--learning-rate"),
    "seed below 0": (["train", "t.txt", "--seed", "-1"], 2, "--seed"),
    "unknown precision": (
        ["train", "t.txt", "--precision", "bf16"],
        2,
        "--precision must be auto, float32 or bfloat16, not 'bf16'",
    ),
    "held out below 0": (["train", "t.txt", "--validation=-0.5"], 2, "--validation"),
    "held out of nan": (["train", "t.txt", "--validation", "nan"], 2, "--validation"),
    "one of two missing": (["train", "t.txt", "gone.txt"], 2, "gone.txt does not exist"),
    "encoding that is no text itself": (["train", "t.txt", "--encoding", b"\xff"], 2, "unknown encoding"),
    "encoding of no text": (["train", "t.txt", "--encoding", "rot13"], 2, "rot13"),
    "unknown line ends": (["train", "t.txt", "--newlines", "dos"], 2, "--newlines must be universal or keep, not 'dos'"),
    "PDF file": (["train", "a.pdf"], 2, "a.pdf is a PDF file; extract its text first, for example with pdftotext"),
    "Word document": (["train", "-"], 2, "standard input is a Word document; save it as plain text"),
    "Word document to score": (["eval", "a.docx", "-m", "used"], 2, "a.docx is a Word document; save it as plain text"),
    "image as a prime": (["sample", "--prime-file", "a.png", "-m", "used"], 2, "a.png is a PNG image; it holds no text"),
    "ZIP archive": (["train", "a.zip"], 2, "a.zip is a ZIP archive; unpack it and name the folder"),
    "folder of pictures": (["train", "pictures"], 2, "no text in pictures: its files are not utf-8 text: pictures/a.png"),
    "picture to validate on": (["train", "t.txt", "--validation", "a.png"], 2, "a.png is a PNG image; it holds no text"),
    "UTF-16 without a mark": (["train", "wide.txt"], 2, "without a byte-order mark; --encoding utf-16-le reads it"),
    "prime in UTF-16 without a mark": (["sample", "--prime-file", "wide.txt", "-m", "used"], 2, "save it as UTF-8 text"),
    "prime in another encoding": (["sample", "--prime-file", "latin.txt", "-m", "used"], 2, "at byte 2; save it as UTF-8 text"),
    "text of Windows": (["train", "latin.txt"], 2, "name its --encoding, perhaps cp1252"),
    "a run and no text": (["train", "used"], 2, "no text; to continue one: charrnn train --resume -o used"),
    "halves of characters": (["train", "half.txt", "--encoding", "raw_unicode_escape"], 2, "surrogates"),
    "a run there already": (["train", "t.txt", "-o", "used"], 2, "--resume, or replace it with --force"),
    "nothing saved": (["train", "--resume", "-o", "folder"], 2, "folder has no checkpoint to resume"),
    "resume and force": (["train", "--resume", "--force", "-o", "used"], 2, "--resume"),
    "broken state": (["train", "--resume", "-o", "broken"], 2, "broken/state.safetensors is not a charrnn file"),
    "missing beginning": (["train", "t.txt", "--init-from", "gone"], 2, "gone does not exist"),
    "beginning that is text": (["train", "t.txt", "--init-from", "t.txt"], 2, "t.txt is a text, not a model"),
    "beginning of another size": (
        ["train", "h.txt", "--init-from", "used", "--hidden-size", "9"],
        2,
        "has 4; leave --hidden-size out",
    ),
    "folder without a model": (["sample", "-m", "folder"], 2, "folder/model.safetensors does not exist"),
    "model that is cut": (["sample", "-m", "cut.safetensors"], 2, "not a charrnn file"),
    "model that is a device": (["sample", "-m", "/dev/null"], 2, "not a regular file"),
    "length that is no number": (["sample", "-nmany", "-m", "used"], 2, "--length must be a whole number, not 'many'"),
    "top-k below 0": (["sample", "--top-k", "-1", "-m", "used"], 2, "top-k"),
    "top-p of 0": (["sample", "--top-p", "0", "-m", "used"], 2, "top-p"),
    "temperature of nan": (["sample", "-t", "nan", "-m", "used"], 2, "temperature"),
    "sample's seed below 0": (["sample", "--seed", "-1", "-m", "used"], 2, "--seed"),
    "too many samples": (["sample", "--count", "100001", "-m", "used"], 2, "--count"),
    "missing prime": (["sample", "--prime-file", "gone.txt", "-m", "used"], 2, "gone.txt does not exist"),
    "binary prime": (["sample", "--prime-file", "binary.bin", "-m", "used"], 2, "NUL"),
    "a word too many": (["sample", "hello", "-m", "used"], 2, "to begin with a text: --prime hello"),
    "missing text": (["eval", "gone.txt", "-m", "used"], 2, "gone.txt does not exist"),
    "empty text": (["eval", "empty.txt", "-m", "used"], 2, "empty"),
    "empty pipe": (["eval", "-m", "used"], 2, "empty"),
    "binary text": (["eval", "binary.bin", "-m", "used"], 2, "NUL"),
    "text in another encoding": (["eval", "latin.txt", "-m", "used"], 2, "byte 2"),
    "text in no encoding": (["eval", "t.txt", "--encoding", "klingon", "-m", "used"], 2, "klingon"),
    "folder without text": (["eval", "folder", "-m", "used"], 2, "folder"),
    "text for a command": (["t.txt"], 2, "to train a model on it: charrnn train t.txt"),
    "model for a command": (["used"], 2, "to generate text with it: charrnn sample used"),
    "prime for a model": (["sample", "to be"], 2, "; to begin with this text: charrnn sample --prime 'to be'"),
    "long prime for a model": (["sample", "to be " * 90], 2, "to begin with this text: charrnn sample --prime 'to be to"),
    "text for a model": (["sample", "t.txt"], 2, "to continue it: charrnn sample --prime-file t.txt"),
    "text to be told of": (["info", "t.txt"], 2, "t.txt is a text, not a model; to train a model on it:"),
    "model of numbers": (["sample", "kept"], 2, "kept is a forecast model; use it with: charrnn forecast TABLE -m kept"),
    "two models": (["info", "used", "-m", "folder"], 2, "used and -m folder both name a model; leave one out"),
    "two models to export": (["export", "used", "-m", "folder"], 2, "used and -m folder both name a model"),
    "model for a text": (["eval", "used"], 2, "used is a model, not a text; did you mean: charrnn eval TEXT -m used"),
    "model and text swapped": (["eval", "used", "-m", "t.txt"], 2, "did you mean: charrnn eval t.txt -m used"),
    "model among texts": (["eval", "t.txt", "used"], 2, "did you mean: charrnn eval t.txt -m used"),
    "model scored by a model": (["eval", "used", "-m", "used"], 2, "did you mean: charrnn eval TEXT -m used"),
    "text to report on": (["report", "t.txt"], 2, "name the model too: charrnn report MODEL t.txt"),
    "texts to report on": (["report", "t.txt", "h.txt"], 2, "name the model too: charrnn report MODEL t.txt h.txt"),
    "report's text first": (["report", "t.txt", "used"], 2, "did you mean: charrnn report t.txt -m used"),
}


DOCX = b"PK\3\4\x14\0\0\0\x08\0" + bytes(20) + b"word/document.xml" + bytes(99)


def find_foreign_flags(arguments, message):
    """The flags that a message names but neither its command has, nor one that the message tells to type; nor did the user."""
    commands = typer.main.get_command(app).commands
    told = [arguments[0], *re.findall(r"charrnn ([a-z]+)", message)]
    flags = {flag for name in told if name in commands for option in commands[name].params for flag in option.opts}
    return set(re.findall(r"--[a-z][a-z-]*", message)) - flags - {"--help", *arguments}


LATER = {"too many units", "out can't be made", "beginning of another size"}  # they are told once torch is imported
REAL = [*list(BAD)[::17], "Word document"]


def make_bad(folder):
    """Write into an empty folder what the bad inputs name."""
    (folder / "t.txt").write_text("some good text, " * 40)
    (folder / "my book.txt").write_text("some more good text, " * 40)
    (folder / "h.txt").write_text("hihello" * 40)
    (folder / "half.txt").write_bytes(rb"half of a pair: \ud800 ..." * 9)
    (folder / "z.txt").write_text("zzzz")
    (folder / "empty.txt").write_text("")
    (folder / "one.txt").write_text("x")
    (folder / "binary.bin").write_bytes(bytes(range(256)))
    (folder / "latin.txt").write_bytes("früh".encode("latin-1"))
    (folder / "wide.txt").write_bytes("früh am Tag\n".encode("utf-16-le"))
    (folder / "a.pdf").write_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (folder / "a.docx").write_bytes(DOCX)
    (folder / "a.zip").write_bytes(DOCX.replace(b"word", b"many"))
    for name in ("folder", "used", "broken", "kept", "pictures"):
        (folder / name).mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    model = (ROOT / "tests" / "formats" / "format-1.safetensors").read_bytes()
    (folder / "used" / "model.safetensors").write_bytes(model)
    (folder / "cut.safetensors").write_bytes(model[:-1])
    (folder / "kept" / "forecast.safetensors").write_text("")
    (folder / "broken" / "state.safetensors").write_text("broken")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_at_once_and_changes_nothing(tmp_path, monkeypatch, inside, case):
    arguments, status, words = BAD[case]
    make_bad(tmp_path)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    for module in () if case in LATER else ("device", "learner"):  # without these there is no torch
        monkeypatch.setitem(sys.modules, f"charrnn.training.{module}", None)
    out, errors = inside(tmp_path, [os.fsdecode(word) for word in arguments], status, DOCX if "-" in arguments else "")
    assert out == ""
    *earlier, last = errors.splitlines()
    assert last.startswith("error: ")
    assert words in last
    assert not any(line.startswith(("error", "Traceback")) for line in earlier)
    assert not find_foreign_flags(arguments, last)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("case", REAL)
def test_the_real_program_says_the_same_of_bad_input(tmp_path, inside, case):
    arguments, status, _ = BAD[case]
    make_bad(tmp_path)
    piped = DOCX if "-" in arguments else b""
    done = subprocess.run([*PROGRAM, *arguments], cwd=tmp_path, input=piped, capture_output=True, timeout=60)
    said = inside(tmp_path, [os.fsdecode(word) for word in arguments], status, piped)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (status, *said)
