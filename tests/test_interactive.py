"""`charrnn sample --interactive`: the network's state while a text is edited, and the real program at a terminal."""

import contextlib
import fcntl
import itertools
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import numpy as np
import pyte
import pytest
from conftest import charrnn

from charrnn import load
from charrnn.inference.sampler import Sampler
from charrnn.interactive import screen
from charrnn.interactive.cowriter import RECENT, STRIDE, CoWriter, Past, Reader


@pytest.fixture(scope="module")
def model(book_run):
    return load(book_run / "runs" / "book")


@pytest.fixture(scope="module")
def names_run(tmp_path_factory):
    """A folder with `runs/names`, a line-by-line model."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.txt").write_text(
        "".join(f"{a}{b}\n" for a in ("An", "Bo", "Cleo", "Dora") for b in ("na", "bel", "ris", ""))
    )
    charrnn("train", "names.txt", "--by-line", "--steps", 60, "--hidden-size", 16, "-q", cwd=folder)
    return folder


def read_whole(model, text):
    """The logits after `text`, computed from the start character."""
    state = model.network.initial_state(1)
    for i in [model.start, *model.vocabulary.encode(text).tolist()]:
        if i >= 0:
            state.step([i])
    return state.logits[0]


def test_a_text_may_change_anywhere_and_is_read_as_if_it_were_new(model):
    reader, generator, text = Reader(model), np.random.default_rng(0), ""
    for _ in range(60):
        at = int(generator.integers(len(text) + 1))
        text = text[:at] + "".join(generator.choice(list("Nel \n☃"), 40)) + text[at + int(generator.integers(60)) :]
        for place in (len(text), at, 0, len(text) // 2):
            np.testing.assert_array_equal(reader.read(text[:place]), read_whole(model, text[:place]))


def test_a_key_takes_few_steps_and_the_states_of_a_long_text_little_room(model, monkeypatch):
    reader, text = Reader(model), "The lamp is lit. " * 400
    reader.read(text)
    steps = []
    monkeypatch.setattr(reader._state, "step", lambda ids, step=reader._state.step: steps.append(ids) or step(ids))
    reader.read(text + "I")
    assert len(steps) == 1
    reader.read(text)  # undone: its state is kept
    assert len(steps) == 1
    for place in range(len(text), 0, -500):
        before = len(steps)
        reader.read(text[:place])
        assert len(steps) - before < STRIDE
    assert len(reader._recent) <= RECENT
    assert len(reader._marks) <= len(text) // STRIDE + 1


def test_a_record_begins_afresh_after_the_one_before(names_run):
    model = load(names_run / "runs" / "names")
    reader = Reader(model)
    np.testing.assert_array_equal(reader.read("Anna\nBobel\nCl"), read_whole(model, "Cl"))
    np.testing.assert_array_equal(reader.read("Anna\n"), read_whole(model, ""))
    written = CoWriter(model, Sampler(), 1).write_line("Anna\nBo")
    assert written.count("\n") <= 1
    assert not written.rstrip("\n").count("\n")


def test_a_seed_repeats_what_is_written_and_another_try_differs(model):
    def session(seed):
        writer = CoWriter(model, Sampler(0.9), seed)
        return [writer.write_word("NELL:\n"), writer.write_line("NELL:\n"), writer.write_word("NELL:\n")]

    assert session(3) == session(3)
    assert session(3) != session(4)
    assert len(set(session(3))) == 3


def test_greedy_writes_the_likeliest_that_is_suggested(model):
    writer = CoWriter(model, Sampler(greedy=True), 1)
    text = "NELL:\n"
    for character in writer.write_line(text):
        assert writer.suggest(text, 1)[0][0] == character
        text += character


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(0.4), Sampler(2.0, top_k=3), Sampler(0.8, top_p=0.6)])
def test_suggested_probabilities_are_those_of_what_is_drawn(model, sampler):
    writer = CoWriter(model, sampler, 5)
    suggested = dict(writer.suggest("The ", len(model.vocabulary)))
    assert sum(suggested.values()) == pytest.approx(1)
    assert list(suggested.values()) == sorted(suggested.values(), reverse=True)
    drawn = [writer._write("The ", 1, bool) for _ in range(1500)]
    assert set(drawn) <= set(suggested)
    for character, p in suggested.items():
        assert drawn.count(character) / 1500 == pytest.approx(p, abs=0.07)


def test_undo_goes_back_through_every_text_and_redo_forth():
    generator, text = np.random.default_rng(1), "begin"
    past, texts = Past(text, 5), ["begin"]
    for _ in range(50):
        at = int(generator.integers(len(text) + 1))
        text = text[:at] + "ab"[: int(generator.integers(3))] + text[at + int(generator.integers(3)) :]
        past.mark(text, at)
        texts += [text] if text != texts[-1] else []
    for earlier in reversed(texts[:-1]):
        text, cursor = past.undo(text, 0)
        assert text == earlier
        assert 0 <= cursor <= len(text)
    assert past.undo(text, 0)[0] == "begin"
    for later in texts[1:]:
        text, _ = past.redo(text, 0)
        assert text == later
    past.undo(text, 0)
    past.mark("another", 0)
    assert past.redo("another", 0)[0] == "another"  # what was undone has no place any more


@pytest.mark.parametrize("width", [7, 20, 61])
def test_rows_hold_the_whole_text_within_their_width(width):
    text = "To be, or not to be:\n\nthat is 日本語の文字 the\tquestion " + "x" * 90 + " " * 30 + "\x1b[31m e\u0301nd"
    rows = screen.wrap(text, 0, width, 1000)
    assert rows[0][0] == 0
    assert rows[-1][1] == len(text)
    for (start, stop), (after, _) in itertools.pairwise(rows):
        assert after - stop == (text[stop] == "\n")
        assert screen.measure(text[start:stop].rstrip(" ")) <= width
    assert screen.wrap(text, rows[3][0], width, 2) == rows[3:5]


class Terminal:
    """The real program on a pseudo-terminal drawn by pyte; its standard output is captured separately."""

    def __init__(self, *arguments, cwd, columns=60, rows=16, product=None):
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        out_of, self.out = os.pipe()
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.dup2(self.out if product is None else os.open(product, os.O_WRONLY), 1)
            os.closerange(3, 64)
            os.environ.update({"TERM": "xterm-256color", "LANG": "C.UTF-8"})
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execv(sys.executable, [sys.executable, "-m", "charrnn", "sample", "--interactive", *map(str, arguments)])
        os.close(self.out)
        self.out = out_of
        self.sent = b""

    def wait(self, words):
        """Draw until `words` are on the screen."""
        deadline = time.monotonic() + 30
        while words not in self.shown():
            assert time.monotonic() < deadline, f"no {words!r} on the screen:\n{self.shown()}"
            self.draw(0.2)

    def draw(self, seconds):
        while select.select([self.terminal], [], [], seconds)[0]:
            try:
                drawn = os.read(self.terminal, 65536)
            except OSError:
                return
            self.sent += drawn
            self.stream.feed(drawn)

    def shown(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def press(self, keys):
        os.write(self.terminal, keys.encode())

    def end(self, keys="\x04"):
        """End the program. Returns: (standard output, exit status)."""
        if keys:
            self.press(keys)
        product = b""
        while part := os.read(self.out, 65536):
            product += part
            self.draw(0)
        while (ended := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            self.draw(0.05)
        self.draw(0.05)
        os.close(self.terminal)
        os.close(self.out)
        return product.decode(), os.waitstatus_to_exitcode(ended[1])


@pytest.fixture
def terminal(book_run):
    """A function that opens a `Terminal` on the book's model; it is killed at the end of the test."""
    opened = []

    def open_(*arguments, **more):
        opened.append(Terminal(*arguments, **{"cwd": book_run, **more}))
        opened[-1].wait("^D done")
        return opened[-1]

    yield open_
    for one in opened:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(one.pid, 0)


def test_one_types_and_the_model_goes_on_and_the_text_is_standard_output(terminal, model):
    session = terminal("-p", "NELL:", "--seed", 3, "-t", 0.8)
    session.wait("NELL:")
    session.press("\nI\t")
    session.press("\r")
    writer = CoWriter(model, Sampler(0.8), 3)
    text = "NELL:\nI"
    text += writer.write_word(text)
    text += writer.write_line(text)
    session.wait(f"{len(text):,} characters")
    session.press("Zed")
    session.wait(f"{len(text) + 3:,} characters")
    assert session.end() == (text + "Zed", 0)


def test_undo_redo_another_and_warmth(terminal):
    session = terminal("-p", "NELL:\n", "--seed", 1)
    session.press("\t")
    session.wait("^Z undo")
    session.press("\x1a")
    session.wait("temperature 1 ")
    session.wait("· 6 characters")
    session.press("\x19\x1a")
    session.press("\t\x1b[Z\x1b[Z\x1b[Z\x1a")
    session.wait("· 6 characters")
    session.press("\x14\x14\x12\x12\x12")
    session.wait("temperature 0.9 ")
    session.press("\x12" * 12)
    session.wait("temperature 0 ")
    assert session.end() == ("NELL:\n", 0)


def test_suggestions_are_taken_by_number_and_by_arrow(terminal, model):
    session = terminal("-p", "The ", "--suggest", 5, columns=120)
    writer, text = CoWriter(model, Sampler()), "The "
    suggested = writer.suggest(text, 5)
    for k, (character, p) in enumerate(suggested):
        session.wait(f" {k + 1}  {screen.NAMES.get(character, character):<12}{p:6.1%}")
    session.press("2")
    text += suggested[1][0]
    session.wait(f"{len(text)} characters")
    suggested = writer.suggest(text, 5)
    session.press("\x1b[B\x1b[B\x1b[B\x1b[A")
    session.wait("Enter take")
    session.press("\r")
    text += suggested[1][0]
    session.wait(f"{len(text)} characters")
    session.press("\x1b7\x1b4")
    assert session.end() == (text + "4", 0)  # Alt-4 types 4; Alt-7 is nothing here


def test_unknown_and_control_characters_are_shown_and_not_obeyed(terminal):
    session = terminal("-p", "a\x1b]0;owned\x07\u202eb", "--seed", 1)
    session.wait(r"a\x1b]0;owned\x07\u202eb")
    session.press("☃")
    session.wait("the model has never seen '☃'")
    session.press("\t")
    session.wait("characters")
    product, status = session.end()
    assert status == 0
    assert product.startswith("a\x1b]0;owned\x07\u202eb☃")
    assert b"\x1b]0;owned" not in session.sent
    assert "\u202e".encode() not in session.sent


def test_a_resize_wraps_anew_and_the_cursor_moves_by_rows(terminal):
    session = terminal("-p", "one two three four five six seven eight nine ten eleven twelve")
    fcntl.ioctl(session.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 24, 0, 0))
    session.screen.resize(10, 24)
    os.kill(session.pid, signal.SIGWINCH)
    session.wait("one two three four five\nsix seven eight nine\nten eleven twelve")
    session.press("\x1b[A\x1b[AX")
    product, _ = session.end()
    assert product == "one two three fouXr five six seven eight nine ten eleven twelve"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_loses_nothing(terminal, number):
    session = terminal("-p", "NELL: ")
    session.press("kept")
    session.wait("NELL: kept")
    os.kill(session.pid, number)
    assert session.end(keys="") == ("NELL: kept", 128 + number)


def test_ctrl_c_ends_it_with_its_own_status_and_the_text(terminal):
    assert terminal("-p", "NELL:").end("\x03") == ("NELL:", 130)


def test_a_full_disk_leaves_the_text_on_the_terminal(terminal):
    session = terminal("-p", "NELL: here", product="/dev/full")
    assert session.end() == ("", 1)
    assert "NELL: here" in session.shown()
    assert "error: standard output can't be written: No space left" in session.shown()


def test_a_line_of_a_model_of_lines_ends(names_run, terminal):
    session = terminal("--seed", 1, cwd=names_run)
    session.press("\r\r\r")
    session.wait("a new line begins")
    product, status = session.end()
    assert status == 0
    assert product.count("\n") == 3


def test_what_goes_not_with_it_gets_one_line(book_run):
    for arguments, words, env in (
        (["--interactive"], "needs a terminal; there is none", {}),
        (["--interactive"], "a notebook is none", {"JPY_PARENT_PID": "7"}),  # as in its cells
        (["--interactive", "--count", "2"], "--count and --interactive can't be combined", {}),
        (["--interactive", "-n", "2"], "--length and --interactive", {}),
        (["--interactive", "--suggest", "10"], "--suggest must be between 0 and 9, not 10", {}),
        (["--suggest", "3"], "--suggest needs --interactive", {}),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "charrnn", "sample", "-m", "runs/book", *arguments],
            cwd=book_run,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **env},
            start_new_session=True,  # no terminal behind the streams either
            timeout=60,
        )
        assert done.returncode == 2
        assert done.stdout == b""
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("error: ")
        assert words in line


def test_without_the_extra_it_says_what_to_install(book_run):
    code = "import sys; sys.modules['prompt_toolkit'] = None; sys.argv[1:] = ['sample', '--interactive']; "
    code += "from charrnn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=book_run, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 2
    assert done.stderr.decode() == ("error: --interactive needs prompt_toolkit: pip install 'charrnn[write]'\n")
