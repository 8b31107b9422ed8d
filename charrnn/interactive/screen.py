"""The screen of `sample --interactive`, built on prompt_toolkit (an extra).

`Interactive` takes a `CoWriter` and the initial text. `run` returns when the user ends the session; `page.text` is the result.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, TextIO

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Point
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, UIContent, Window
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from charrnn.errors import CharrnnError
from charrnn.interactive.cowriter import CoWriter, Past
from charrnn.text.visible import SINGLE_SIGNS, make_visible

TOKEN = re.compile(r"\n|[^\S\n]{1,200}|\S{1,200}")  # parts of a row that are not split if possible
STYLE = Style.from_dict({"model": "ansicyan", "unknown": "ansired underline", "bar": "reverse", "chosen": "reverse"})
NAMES = {" ": "space", "\n": "line break", "\t": "tab"}
TEMPERATURE_STEP = 0.1  # change of the temperature per key press

Row = tuple[int, int]  # start and stop in the text


def show(text: str) -> str:
    """Convert `text` for drawing: control characters to escape codes, a tab to four spaces."""
    return make_visible(text, keep="", signs={"\t": "    "})


def measure(text: str) -> int:
    """The width of `text` on the screen, in columns."""
    return len(text) if text.isascii() and text.isprintable() else sum(map(get_cwidth, show(text)))


def wrap(text: str, start: int, width: int, count: int) -> list[Row]:
    """Wrap `text` from `start` on into at most `count` rows of `width` columns, between words if possible."""
    rows: list[Row] = []
    begin, column = start, 0
    for token in TOKEN.finditer(text, start):
        word, at = token[0], token.start()
        size = measure(word)
        if word == "\n":
            rows.append((begin, at))
            begin, column = at + 1, 0
        elif size > width:
            for i, character in enumerate(word, at):
                size = measure(character)
                if column + size > width:
                    rows.append((begin, i))
                    begin, column = i, 0
                column += size
        else:
            if column and column + size > width and word != " ":  # a space may go beyond the margin
                rows.append((begin, at))
                begin, column = at, 0
            column += size
        if len(rows) >= count:
            return rows[:count]
    return [*rows, (begin, len(text))]


class Page(Buffer):
    """The text and its cursor. Undo and redo use `Past`, since prompt_toolkit's own stores the whole text per edit."""

    def __init__(self, text: str):
        super().__init__(document=Document(text, len(text)))
        self.past = Past(text, len(text))

    def save_to_undo_stack(self, clear_redo_stack: bool = True) -> None:
        self.past.mark(self.text, self.cursor_position)

    def undo(self) -> None:
        self.document = Document(*self.past.undo(self.text, self.cursor_position))

    def redo(self) -> None:
        self.document = Document(*self.past.redo(self.text, self.cursor_position))


class PageControl(BufferControl):
    """Draws the part of a page around the cursor, with word wrap. A long line takes no longer than a short one."""

    def __init__(self, page: Page, style: Callable[[int, str], str]):
        super().__init__(page)
        self.style = style  # style of the character at a position
        self.top = 0  # start of the first row
        self.rows: list[Row] = [(0, 0)]

    def preferred_height(self, *_: object) -> None:
        return None

    def create_content(self, width: int, height: int, preview_search: bool = False) -> UIContent:
        text, cursor = self.buffer.text, self.buffer.cursor_position
        width = max(width - 1, 1)  # the cursor takes a column
        self.rows = wrap(text, self.top, width, height + 1) if self.top <= cursor else []
        if not self.rows or self.row_of(cursor) >= height:
            room = width * height
            start = text.rfind("\n", 0, max(cursor - room, 0)) + 1
            self.rows = wrap(text, start if cursor - start <= 3 * room else cursor - room, width, 4 * room)
            row = self.row_of(cursor)
            self.top = self.rows[row if cursor < self.top else max(row - height + 1, 0)][0]
            self.rows = wrap(text, self.top, width, height + 1)
        row = self.row_of(cursor)
        column = min(measure(text[self.rows[row][0] : cursor]), width)
        return UIContent(self._draw, min(len(self.rows), height), Point(column, row))

    def row_of(self, place: int) -> int:
        """The row of a position in the text."""
        return max((i for i, (start, _) in enumerate(self.rows) if start <= place), default=0)

    def move(self, by: int) -> None:
        """Move the cursor `by` one row, down or up, keeping its column if possible."""
        place, document = self.buffer.cursor_position, self.buffer.document
        row = self.row_of(place)
        if 0 <= row + by < len(self.rows):
            start, stop = self.rows[row + by]
            if row + by + 1 < len(self.rows) and stop == self.rows[row + by + 1][0]:
                stop -= 1  # the end of a wrapped row is the start of the next
            self.buffer.cursor_position = min(start + place - self.rows[row][0], stop)
        else:  # not on the screen: the line before or after
            self.buffer.cursor_position += document.get_cursor_up_position() if by < 0 else document.get_cursor_down_position()

    def _draw(self, row: int) -> StyleAndTextTuples:
        start, stop = self.rows[row]
        text = self.buffer.text
        styled = ((self.style(place, text[place]), text[place]) for place in range(start, stop))
        return [(style, show("".join(c for _, c in run))) for style, run in groupby(styled, key=itemgetter(0))]


class Interactive:
    """A session at the terminal. Raises: CharrnnError if there is no terminal."""

    def __init__(self, writer: CoWriter, text: str, suggest: int = 0, notes: Sequence[str] = ()):
        self.writer = writer
        self.notes = list(notes)
        self.known = set(writer.model.vocabulary.characters)
        self.page = Page(text)
        self.control = PageControl(self.page, self._style)
        self.suggest = suggest  # number of characters to suggest
        self.chosen = -1  # the marked suggestion; -1: none
        self.written = (0, 0)  # start and stop of what the model has just written
        self.act: Callable[[str], str] = writer.write_word  # how it was written
        self.signal = 0  # the signal that ended the session
        self.page.on_text_changed += lambda _: self._read()
        self.page.on_cursor_position_changed += lambda _: self._unmark()
        self._faults: list[BaseException] = []  # exceptions that ended the session
        self._files = contextlib.ExitStack()
        if os.environ.get("TERM") == "dumb" or "JPY_PARENT_PID" in os.environ:
            raise CharrnnError("--interactive needs a terminal whose cursor can be moved; TERM=dumb or a notebook is none")
        source = self._open_terminal("r", sys.stdin)
        target = self._open_terminal("w", sys.stderr, sys.stdout)
        suggestions = [Window(FormattedTextControl(self._suggestions), height=suggest)] if suggest else []
        bar = Window(FormattedTextControl(self._bar), height=2, style="class:bar")
        layout = Layout(HSplit([Window(self.control), *suggestions, bar]), self.control)
        self.application: Application[None] = Application(
            layout, STYLE, key_bindings=self._keys(), full_screen=True, input=create_input(source), output=create_output(target)
        )

    def run(self) -> int:
        """Run the session. Returns: the signal that ended it; 0 if the user did; SIGINT for Ctrl-C."""
        with self._files, contextlib.suppress(EOFError):  # the terminal is gone
            asyncio.run(self._run())
        return self.signal

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            with contextlib.suppress(AttributeError, NotImplementedError):  # not all exist on Windows
                loop.add_signal_handler(getattr(signal, name), self._end, getattr(signal, name))
        loop.set_exception_handler(self._fail)
        await self.application.run_async(handle_sigint=False, set_exception_handler=False)
        if self._faults:
            raise self._faults[0]

    def _fail(self, _: object, context: Mapping[str, Any]) -> None:
        self._faults.append(context.get("exception") or RuntimeError(context["message"]))
        self._end()

    def _end(self, number: int = 0) -> None:
        self.signal = self.signal or int(number)
        if self.application.is_running and not self.application.is_done:
            self.application.exit()

    def _open_terminal(self, mode: Literal["r", "w"], *streams: TextIO | None) -> TextIO:
        """The first of the streams that is a terminal, else /dev/tty. Raises: CharrnnError if there is none."""
        for stream in streams:
            with contextlib.suppress(ValueError):  # it is closed
                if stream is not None and stream.isatty():
                    return stream
        try:
            return self._files.enter_context(open("/dev/tty", mode, encoding="utf-8"))
        except OSError:
            raise CharrnnError("--interactive needs a terminal; there is none") from None

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        bind = partial(_bind, keys)
        bind("tab", action=lambda: self._write(self.writer.write_word))
        bind("enter", action=lambda: self._take(self.chosen) if self.chosen >= 0 else self._write(self.writer.write_line))
        bind("s-tab", action=self._write_another)
        bind("escape", "enter", action=lambda: self.page.insert_text("\n"))
        bind("c-j", action=lambda: self.page.insert_text("\n"))
        bind("c-z", action=self.page.undo, keep=False)
        bind("c-_", action=self.page.undo, keep=False)
        bind("c-y", action=self.page.redo, keep=False)
        bind("c-r", action=lambda: self.writer.change_temperature(-TEMPERATURE_STEP))
        bind("c-t", action=lambda: self.writer.change_temperature(TEMPERATURE_STEP))
        bind("c-d", action=self._end)
        bind("c-c", action=lambda: self._end(signal.SIGINT))
        for name, by in (("up", -1), ("down", 1)):
            bind(name, action=partial(self._mark if self.suggest else self.control.move, by))
        for k in range(self.suggest):
            bind(str(k + 1), action=partial(self._take, k))
            bind("escape", str(k + 1), action=partial(self.page.insert_text, str(k + 1)))
        return keys

    def _before(self) -> str:
        return self.page.text[: self.page.cursor_position]

    def _write(self, act: Callable[[str], str]) -> None:
        self.act = act
        self._insert(act(self._before()))

    def _write_another(self) -> None:
        """Replace what the model has just written by something else."""
        if self.written[1] > self.written[0]:
            self.page.undo()
        self._write(self.act)

    def _take(self, k: int) -> None:
        suggested = self.writer.suggest(self._before(), self.suggest)
        if k < len(suggested):
            self._insert(suggested[k][0])

    def _insert(self, text: str) -> None:
        start = self.page.cursor_position
        self.page.insert_text(text)
        self.written = (start, start + len(text))

    def _mark(self, by: int) -> None:
        self.chosen = (self.chosen + by) % self.suggest

    def _unmark(self) -> None:
        self.chosen = -1

    def _read(self) -> None:
        """Run the network over the changed text now, so that the next key responds at once."""
        self.written = (0, 0)
        self.chosen = -1
        if self._before().endswith((" ", "\n")):  # undo goes word by word
            self.page.save_to_undo_stack()
        self.writer.reader.read(self._before())

    def _style(self, place: int, character: str) -> str:
        if character not in self.known:
            return "class:unknown"
        return "class:model" if self.written[0] <= place < self.written[1] else ""

    def _suggestions(self) -> StyleAndTextTuples:
        fragments: StyleAndTextTuples = []
        for k, (character, p) in enumerate(self.writer.suggest(self._before(), self.suggest)):
            name = NAMES.get(character) or make_visible(character, keep="", signs=SINGLE_SIGNS)
            line = f" {k + 1}  {name}{' ' * (12 - measure(name))}{p:6.1%}  "
            fragments += [("class:chosen" if k == self.chosen else "", line), ("class:model", "█" * round(p * 30)), ("", "\n")]
        return fragments

    def _bar(self) -> StyleAndTextTuples:
        width = self.application.output.get_size().columns
        sampler = self.writer.sampler
        enter = "Enter take" if self.chosen >= 0 else "Enter a line"
        keys = ["Tab a word", enter, "^D done", "^Z undo", "⇧Tab another", "^Y redo", "Alt-Enter line break"]
        if self.suggest:
            keys = [f"1-{self.suggest} take", "↑↓ mark", *keys, "Alt-1 types 1"]
        warmth = "greedy" if sampler.greedy else f"temperature {sampler.temperature:g}"
        facts = [f"{warmth} (^R less, ^T more)", f"{len(self.page.text):,} characters", *self.notes]
        before = self._before()
        separator = self.writer.reader.separator
        if separator is not None and (not before or before.endswith(separator)):
            facts.insert(0, f"a new {self.writer.model.records} begins")
        if before and before[-1] not in self.known:
            facts.insert(0, f"the model has never seen {before[-1]!r}")
        return [("", f"{_fit(keys, width)}\n{_fit(facts, width)}")]


def _bind(keys: KeyBindings, *names: str, action: Callable[[], None], keep: bool = True) -> None:
    """Bind keys, pressed one after another, to an action. `keep`: whether it can be undone."""
    keys.add(*names, eager=len(names) == 1, save_before=lambda _: keep)(lambda _: action())


def _fit(parts: Sequence[str], width: int) -> str:
    """Join as many of `parts` as fit into one line of `width` columns."""
    line = ""
    for part in parts:
        longer = f"{line} · {part}" if line else f" {part}"
        if measure(longer) <= width:
            line = longer
    return line
