"""The live display of a training on a terminal, and the summary at its end. pyte emulates the terminal."""

import contextlib
import fcntl
import itertools
import math
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from types import SimpleNamespace

import pyte
import pytest
from conftest import CORPORA

from charrnn import cli
from charrnn.headers import Metrics
from charrnn.terminal import frame, live
from charrnn.training.events import End, Progress, Sample, Setback, Validation

SIZES = [(40, 24), (60, 24), (80, 24), (160, 30)]
BRAILLE = re.compile("[\u2801-\u28ff]")
SAMPLE = "NELL:\nThe lamp is lit, and the boat comes in.\n\nHOLLIS:\nNo.\n"


class Terminal:
    """Standard error as a terminal. `reflows`: whether it rewraps lines when it is made narrower; if not, it cuts them."""

    encoding, errors = "utf-8", "backslashreplace"

    def __init__(self, columns, rows, reflows=True):
        self.columns, self.rows, self.reflows = columns, rows, reflows
        self.written, self.gone, self.hidden = [], [], False
        self._start([])

    def _start(self, lines, up=0):
        self.screen = pyte.HistoryScreen(self.columns, self.rows, history=1000)
        self.stream = pyte.Stream(self.screen)
        self.stream.feed("\r\n".join(lines) + "\r" + (f"\x1b[{up}A" if up else ""))

    def isatty(self):
        return True

    def fileno(self):
        return 2

    def flush(self):
        pass

    def write(self, text):
        if not text:
            return
        self.written.append(text)
        self.stream.feed(text.replace("\r\n", "\n").replace("\n", "\r\n"))
        self.hidden = self.screen.cursor.hidden

    def lines(self):
        """All lines, including those scrolled off the screen."""
        pushed = ["".join(row[x].data for x in range(self.columns)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*self.gone, *pushed, *self.screen.display]]

    def text(self):
        return "\n".join(self.lines())

    def resize(self, columns, rows):
        shown = [line.rstrip() for line in self.screen.display]
        self.gone = self.lines()[: -len(shown)]
        y = self.screen.cursor.y
        below = len(shown) - 1 - next(n for n, line in enumerate(reversed(["x", *shown])) if line)
        shown = shown[: max(below, y) + 1]
        pieces = [[line[n : n + columns] for n in range(0, max(len(line), 1), columns)] for line in shown]
        if not self.reflows:
            pieces = [piece[:1] for piece in pieces]
        self.columns, self.rows = columns, rows
        self._start([part for piece in pieces for part in piece], sum(map(len, pieces[y:])) - 1)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test advances."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.fixture
def terminal(monkeypatch, clock):
    """A function that replaces standard error by a terminal of the given size."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "LC_ALL", "LANG", "STY", "XTERM_VERSION", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def make(columns=80, rows=24, **more):
        made = Terminal(columns, rows, **more)
        monkeypatch.setattr(sys, "stderr", made)
        monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((made.columns, made.rows)))
        return made

    return make


def metrics_of(step, train, validation, sample=None):
    return Metrics(
        step=step,
        characters=step * 1536,
        seconds=step / 10,
        train_bits_per_character=train,
        validation_bits_per_character=validation,
        learning_rate=0.01,
        sample=sample,
    )


def progress_of(fraction, seconds, left, speed, bits):
    return Progress(
        fraction=fraction,
        step=round(1000 * fraction),
        characters=0,
        seconds=seconds,
        seconds_left=left,
        characters_per_second=speed,
        train_bits=bits,
        learning_rate=0.01,
    )


def play(screen, clock, begin=0.0, end=1.0, sample=SAMPLE, held_out=True):
    """Show a training of 1000 steps in 100 seconds, with the best validation at 0.8, from `begin` to `end`."""
    for n in range(round(200 * begin) + 1, round(200 * end) + 1):
        share = n / 200
        loss = 1.8 + 4 * math.exp(-20 * share)
        clock.seconds += 0.5
        screen.show(progress_of(share, 100 * share, 100 - 100 * share, 41_230, loss))
        if n % 10 == 0:
            validation = loss + 0.1 + max(0.0, share - 0.8) if held_out else None
            metrics = metrics_of(5 * n, loss, validation, sample)
            screen.show(Validation(metrics=metrics, best=n <= 160, fraction=share))


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_a_run_is_seen_as_it_goes_and_leaves_a_record_in_terminals_of_every_width(terminal, clock, columns, rows):
    seen = terminal(columns, rows)
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.8)
        play(screen, clock, 0.8, 0.9, sample="worse\n")
        text = seen.text()
        assert all(len(line) < columns for line in seen.lines())
        assert text.count(" left") == 1
        for words in ("90%", "10s left", "41,230 characters/s", "train 1.800", "validation 2.000", "best 1.900"):
            assert words in text
        assert re.search(r"sample at step 900\n.*│ worse\n", text)
        assert len(BRAILLE.findall(text)) > columns // 4
        assert re.search(r"^ *1\.80 ", text, re.MULTILINE)
        assert seen.hidden
        play(screen, clock, 0.9, sample="worse\n")
    assert not seen.hidden
    lines = seen.lines()
    text = seen.text()
    assert " left" not in text
    first = lines.index("validations, in bits per character") + 1
    assert lines[first].split()[-2:] == ["train", "validation"]
    rows = [line.split() for line in lines[first + 1 : first + 21]]
    assert [row[0] for row in rows[:2]] == ["5s", "10s"]
    assert [n for n, row in enumerate(rows) if row[-1] == "best"] == [15]
    assert rows[15][-3:-1] == ["1.800", "1.900"]
    assert "sample of the best model, step 800\n│ NELL:\n│ The lamp" in text
    assert BRAILLE.search(text)
    assert "1m40s" in text


def test_a_frame_is_written_over_in_one_piece_and_only_where_it_changes(terminal, clock):
    seen = terminal()
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.1)
        before = len(seen.written)
        clock.seconds += 0.2
        screen.show(progress_of(0.1001, 10.0, 89.0, 41_230, 3.123))
        assert len(seen.written) == before + 1
        assert "3.123" in seen.written[-1]
        assert "NELL" not in seen.written[-1]
        assert not re.search(r"\x1b\[[012]?J|\x1b\[2K", seen.written[-1])


def test_it_is_drawn_eight_times_a_second_at_most(terminal, clock):
    seen = terminal()
    with live.TrainingDisplay() as screen:
        before = len(seen.written)
        for n in range(1000):
            clock.seconds += 0.001
            screen.show(progress_of(n / 1000, n / 10, 1.0, 1.0, 2.0))
        assert 5 <= len(seen.written) - before <= 8


@pytest.fixture(params=[True, False], ids=["reflows", "cuts"])
def resized(request, terminal, monkeypatch):
    """A function that makes a terminal of 100 by 24, of either kind, with two lines on it."""

    def make():
        if not request.param:
            monkeypatch.setenv("XTERM_VERSION", "XTerm(379)")
        seen = terminal(100, 24, reflows=request.param)
        seen.write("$ charrnn train\r\nnote: something about the text\r\n")
        return seen

    return make


def test_a_window_made_narrower_bit_by_bit_keeps_what_was_above_and_nothing_of_older_frames(resized, clock):
    seen = resized()
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.5)
        for n, columns in enumerate([90, *range(89, 80, -1), 70, 60]):
            seen.resize(columns, 24)
            clock.seconds += 0.2
            screen.show(progress_of(0.5 + n / 1000, 50.0, 50.0, 41_230, 1.8))
            assert seen.text().count(" left") == 1
        assert seen.text().count("NELL") == 0  # until the window keeps its size
        play(screen, clock, 0.52, 0.55)
        assert seen.text().count("NELL") == 1
        assert max(map(len, seen.lines())) < 60
    before = seen.lines()[: seen.lines().index("validations, in bits per character")]
    assert [line for line in before if line] == ["$ charrnn train", "note: something about the text"]


def test_a_window_made_much_narrower_at_once_shows_one_frame(terminal, clock):
    seen = terminal(100, 60)
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.5)
        seen.resize(45, 60)
        play(screen, clock, 0.5, 0.55)
        assert len(re.findall(r"^ 3\.37", seen.text(), re.MULTILINE)) == 1


def test_a_window_of_any_size_shows_one_whole_frame(resized, clock):
    seen = resized()
    with live.TrainingDisplay() as screen:
        share = 0.2
        play(screen, clock, end=share)
        for columns, rows in [(60, 24), (59, 24), (120, 40), (40, 24), (12, 24), (80, 12), (80, 3), (80, 24)]:
            seen.resize(columns, rows)
            play(screen, clock, share, share + 0.05)
            share += 0.05
            shown = [line.rstrip() for line in seen.screen.display]
            assert "\n".join(shown).count(" left" if columns > 20 else "━") >= 1
            assert "\n".join(shown).count(" left") <= 1
            assert all(len(line) < columns for line in shown if not line.startswith(("$ char", "note: som")))
        assert BRAILLE.search("\n".join(seen.screen.display))
    assert seen.text().count("validations, in bits") == 1


def test_a_terminal_of_three_rows_shows_the_figures_alone(terminal, clock):
    seen = terminal(80, 3)
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.9)
        assert seen.text().count(" left") == 1
        assert "NELL" not in seen.text()


def test_a_sample_is_data_and_breaks_no_line(terminal, clock):
    seen = terminal(60, 24)
    hostile = (
        "\x1b[2J\x07[red]a\tb\r\u202ec\n" + "日本語のテキスト" * 6 + "\n👩🏽\u200d🚀🇩🇪❤️e\u0301\u0301" + "\u0301" * 50 + "\n"
    )
    hostile = "👩🏽" * 25 + "\n" + hostile  # which pyte takes for twice as wide as we do
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.1, sample=hostile)
        play(screen, clock, 0.1, 0.2, sample=hostile)
        assert (seen.text().count(" left"), seen.text().count("sample at")) == (1, 1)
        assert r"│ \x1b[2J\x07[red]a" in seen.text()
        assert r"\r\u202ec" in seen.text()
        begin = next(n for n, line in enumerate(seen.lines()) if line.startswith("sample at"))
        assert all(line.startswith("│ ") for line in seen.lines()[begin + 1 : begin + 6])
    written = "".join(seen.written)
    assert not re.search("[\x07\u202e]", written)
    assert "\x1b" not in re.sub(r"\x1b\[(\?25[lh]|\?7[lh]|[0-9;]*m|[0-9]*[AJK])", "", written)


def test_the_lines_of_a_model_of_records_stand_under_each_other(terminal, clock):
    seen = terminal()
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.1, sample="Anna\nBrendan\nCeline\nDov\nElif")
    assert "\n│ Anna\n│ Brendan\n│ Celine\n│ Dov\n│ Elif\n" in seen.text()


@pytest.mark.parametrize("why", ["encoding", "LC_ALL", "LANG"])
def test_a_terminal_without_utf_8_gets_ascii(terminal, clock, monkeypatch, why):
    seen = terminal()
    if why == "encoding":
        seen.encoding = "ascii"
    else:
        monkeypatch.setenv(why, "C")
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.5, sample="żółw 🦉\n")
        screen.note("naïve")
    assert "".join(seen.written).isascii()
    assert r"| \u017c\xf3\u0142w \U0001f989" in seen.text()
    assert "*****" in seen.text()


def test_no_color_leaves_out_colours_and_nothing_else(terminal, clock, monkeypatch):
    def colours():
        seen = terminal()
        with live.TrainingDisplay() as screen:
            play(screen, clock, end=0.5)
        return [code for code in re.findall(r"\x1b\[([0-9;]+)m", "".join(seen.written)) if re.search(r"\b[349]\d\b", code)]

    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


def test_a_note_is_seen_at_once_and_stays(terminal, clock):
    seen = terminal(60, 24)
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.3)
        screen.note("the loss diverged at step 300: \x1b[31mthe run continues from step 200")
        assert seen.text().count("note: the loss diverged at step 300:") == 1
        play(screen, clock, 0.2, 0.3)  # where a setback has taken it
        assert screen.train.points == sorted(screen.train.points)
    assert seen.text().count("note: the loss diverged at step 300:") == 1
    assert r"\x1b[31m" in seen.text()


def test_a_setback_becomes_a_note(terminal, clock, monkeypatch):
    seen = terminal()
    monkeypatch.setattr(seen, "isatty", lambda: False)
    with live.TrainingDisplay() as screen:
        screen.show(Setback(reached=1300, step=1200, learning_rate=0.0025))
    assert seen.written[0] == (
        "note: the loss diverged at step 1,300: the run continues from step 1,200 with the learning rate 0.0025"
    )


def test_thousands_of_validations_stay_quick_to_draw_and_short_to_read(terminal, clock):
    seen = terminal()
    with live.TrainingDisplay(history=[metrics_of(n, 2.0, 3.0 - n / 10_000) for n in range(1, 8001)]) as screen:
        for n in range(8001, 12_001):
            metrics = metrics_of(n, 2.0, 3.0 - n / 10_000 if n < 9_000 else 2.5, SAMPLE)
            screen.show(Validation(metrics=metrics, best=n < 9_000, fraction=n / 12_000))
            if n == 8001:
                screen._draw = lambda: None
        assert len(screen.validated.points) <= live.POINTS + 2
        began = time.perf_counter()
        for _ in range(20):
            clock.seconds += 1
            screen.draw_frame(80, 24)
        assert (time.perf_counter() - began) / 20 < 0.1
    lines = seen.lines()
    begin = next(n for n, line in enumerate(lines) if "of 12,000" in line)
    table = [line.split() for line in lines[begin + 2 : lines.index("", begin)]]
    assert len(table) == 1 + live.ROWS + 1  # its head, and the best one
    assert [row[1] for row in table if row[-1] == "best"] == ["8,999"]
    assert (table[1][1], table[-1][1]) == ("1", "12,000")


def test_a_resumed_run_shows_the_validations_before(terminal, clock):
    seen = terminal()
    with live.TrainingDisplay(history=[metrics_of(100, 2.5, 2.6), metrics_of(200, 2.2, 2.4)]) as screen:
        screen.show(progress_of(0.5, 30.0, 30.0, 1000.0, 2.1))
        assert [x for x, _ in screen.validated.points] == pytest.approx([0.5 / 3, 1 / 3])
        assert "validation 2.400  best 2.400" in seen.text()
    assert re.search(r"20s +200 +307,200 +2\.200 +2\.400  best", seen.text())


def test_a_run_that_holds_nothing_out_is_judged_by_its_training_loss(terminal, clock):
    seen = terminal()
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.5, held_out=False)
        assert "train 1.800  best 1.800 bits/character" in seen.text()
        assert "validation " not in seen.text()
    assert re.search(r"50s +500 +768,000 +1\.800  best", seen.text())


@pytest.mark.parametrize("way", ["quiet", "dumb", "pipe"])
def test_without_a_frame_there_are_plain_lines_or_none(terminal, clock, monkeypatch, way):
    seen = terminal()
    monkeypatch.setenv("TERM", "dumb" if way == "dumb" else "xterm")
    if way == "pipe":
        monkeypatch.setattr(seen, "isatty", lambda: False)
    with live.TrainingDisplay(quiet=way == "quiet") as screen:
        play(screen, clock, end=0.1)
        screen.note("something")
    written = "".join(seen.written)
    assert "\x1b" not in written
    lines = written.splitlines()
    if way == "quiet":
        assert not lines
    else:
        assert lines[0] == (
            "  5%      5s  step 50  train 3.272  validation 3.372 (best) bits per character  41,230 characters/s  1m35s left"
        )
        assert (len(lines), lines[2]) == (3, "note: something")


def test_a_sample_is_shown_before_the_first_validation(terminal, clock):
    seen = terminal()
    with live.TrainingDisplay() as screen:
        screen.show(progress_of(0.01, 1.0, 99.0, 41_230, 4.2))
        assert "no sample yet" in seen.text()
        screen.show(Sample(step=10, text="xq e tt\n"))
        assert "sample at step 10\n│ xq e tt" in seen.text()


def test_a_log_gets_a_line_at_least_every_half_minute_with_the_time_left(terminal, clock, monkeypatch):
    seen = terminal()
    monkeypatch.setattr(seen, "isatty", lambda: False)
    with live.TrainingDisplay() as screen:
        for second in range(1, 91):
            clock.seconds += 1
            screen.show(progress_of(second / 1000, second, 1000 - second, 41_230, 2.5))
            if second == 50:
                screen.show(Validation(metrics=metrics_of(50, 2.5, 2.6), best=True, fraction=0.05))
    lines = "".join(seen.written).splitlines()
    assert [line.split()[1] for line in lines] == ["20s", "40s", "5s", "1m10s", "1m30s"]  # the validation says 5s
    assert lines[0] == "  2%     20s  step 20  train 2.500 bits per character  41,230 characters/s  16m20s left"


@pytest.mark.parametrize(
    ("why", "line"),
    [
        ("steps", "done after 12.3 epochs (7,950 steps, 5m00s)"),
        ("time", "time is up after 12.3 epochs (7,950 steps, 5m00s)"),
        ("max epochs", "stopped after 12.3 epochs (7,950 steps, 5m00s), to avoid overfitting"),
        ("memorized", "stopped after 12.3 epochs (7,950 steps, 5m00s): the text is memorised"),
        ("interrupted", "interrupted after 12.3 epochs (7,950 steps, 5m00s)"),
    ],
)
@pytest.mark.parametrize("way", ["quiet", "terminal", "pipe"])
def test_at_its_end_a_run_says_what_was_done_and_why_it_ended(terminal, clock, monkeypatch, why, line, way):
    seen = terminal()
    monkeypatch.setattr(seen, "isatty", lambda: way == "terminal")
    with live.TrainingDisplay(quiet=way == "quiet") as screen:
        screen.show(End(why=why, step=7_950, epochs=12.345, seconds=300.2))
    assert "".join(seen.written).endswith("" if way == "quiet" else line + "\n")
    assert bool(seen.written) == (way != "quiet")


def test_reading_hands_a_clean_screen_over_to_the_training(terminal, clock, monkeypatch):
    seen = terminal()
    monkeypatch.setattr(frame, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    with frame.WorkDisplay() as reading:
        reading.progress(0, 4_000_000)
        assert not seen.written
        clock.seconds += 2
        reading.progress(1_000_000, 4_000_000)
        assert seen.text().rstrip() == "━━━━━━────────────────── reading: 1.0 of 4.0 MB"
        clock.seconds += 2
        reading.progress(2_000_000, None)
        assert seen.text().rstrip() == " reading: 2.0 MB"
        assert seen.hidden
    assert seen.text().strip() == ""
    assert not seen.hidden
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.1)
        assert re.match(r" \d\.\d\d ", seen.screen.display[1])
        assert "reading" not in seen.text()


def test_slow_scoring_of_a_short_text_counts_its_characters(book_run, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the tests' own Ctrl-C stays theirs
    monkeypatch.setattr(frame, "time", SimpleNamespace(monotonic=itertools.count(0, 60).__next__))  # a minute at each look
    monkeypatch.setattr(sys, "argv", ["charrnn", "eval", str(book_run / "book.txt"), "-m", str(book_run / "runs/book")])
    with pytest.raises(SystemExit):
        cli.main()
    assert re.search(r"^scoring: [\d,]+ of 30,000 characters$", capsys.readouterr().err, re.M)


def test_a_stopped_training_lends_the_shell_its_cursor_and_goes_on_below(terminal, clock, monkeypatch):
    seen = terminal()
    monkeypatch.setattr(frame.os, "kill", lambda *_: seen.write("[1]+  Stopped\r\n$ fg\r\n" if not seen.hidden else "hidden"))
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.1)
        signal.raise_signal(signal.SIGTSTP)
        play(screen, clock, 0.1, 0.2)
        assert "$ fg" in seen.text()
        assert seen.hidden
        assert seen.screen.display[-1].strip() or seen.screen.display[-2].strip()
    assert signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL


def test_a_terminal_that_goes_away_is_no_reason_to_stop(terminal, clock, monkeypatch):
    seen = terminal()
    with live.TrainingDisplay() as screen:
        play(screen, clock, end=0.1)

        def gone(_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(seen, "write", gone)
        play(screen, clock, 0.1, 0.3)


def run_on_terminal(*arguments, cwd, columns, rows=24, interrupt_at=None):
    """Run the real program on a pseudo-terminal. Returns: a screen high enough for all its output, and its status."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.chdir(cwd)
            kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
            environment = {**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
            os.execve(sys.executable, [sys.executable, "-m", "charrnn", *map(str, arguments)], environment)
        finally:
            os._exit(99)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    screen = pyte.Screen(columns, 100)
    stream = pyte.ByteStream(screen)
    with contextlib.suppress(OSError):  # how a terminal says that its last writer has gone
        while select.select([master], [], [], 60)[0] and (chunk := os.read(master, 65536)):
            stream.feed(chunk)
            if interrupt_at is not None and interrupt_at in "\n".join(screen.display):
                time.sleep(1)
                os.write(master, b"\x03")
                interrupt_at = None
    os.close(master)
    return screen, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


FLAGS = ["--hidden-size", 16, "--batch-size", 8, "--seq-length", 32]


def test_the_program_ends_with_a_record_and_what_to_type_next(tmp_path):
    (tmp_path / "t.txt").write_text((CORPORA / "the-lamp.txt").read_text()[:20_000])
    screen, status = run_on_terminal("train", "t.txt", "--steps", 60, *FLAGS, cwd=tmp_path, columns=60)
    assert status == 0
    lines = [line.rstrip() for line in screen.display]
    first = lines.index("validations, in bits per character")
    assert lines[first + 1].split() == ["time", "step", "characters", "train", "validation"]
    assert lines[lines.index("", first) - 1].split()[1] == "60"
    assert any(line.startswith("sample of the best model, step ") for line in lines)
    end = lines.index("saved in runs/t")
    assert re.fullmatch(r"done after [\d.]+ epochs \(60 steps, \d+s\)", lines[end - 1])
    assert lines[end + 1 : end + 4] == [
        "  charrnn sample -m runs/t  # generate",
        "  charrnn eval TEXT -m runs/t  # score a text",
        "  charrnn train --resume --steps 120 -o runs/t  # continue",
    ]
    assert not screen.cursor.hidden
    assert not any(" left" in line for line in lines)


def test_ctrl_c_leaves_a_readable_record_and_says_where_it_is_saved(tmp_path):
    (tmp_path / "t.txt").write_text((CORPORA / "the-lamp.txt").read_text()[:20_000])
    command = ["train", "t.txt", "--steps", 100_000, *FLAGS]
    screen, status = run_on_terminal(*command, cwd=tmp_path, columns=80, interrupt_at="characters/s")
    assert status == 130
    lines = [line.rstrip() for line in screen.display]
    end = lines.index("saved in runs/t")
    assert re.fullmatch(r"interrupted after [\d.]+ epochs \(\d+ steps, \d+s\)", lines[end - 1])
    assert "  charrnn train --resume -o runs/t  # continue" in lines[end + 1 :]
    assert BRAILLE.search("\n".join(lines[:end]))
    assert not any(" left" in line for line in lines)
    assert not screen.cursor.hidden
