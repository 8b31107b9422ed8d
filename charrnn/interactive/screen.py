"""The screen on which a person and a model write a text together; built on prompt_toolkit, which is an extra.

`Interactive` is given a `CoWriter` and the text to begin with; its `run` ends when the person does, and `text` is what stands
there then. It draws on the terminal alone. Text is data: what a terminal would obey is shown, not sent.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import IO, Any, TextIO

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Point
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, UIContent, Window
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from charrnn.errors import CharrnnError
from charrnn.interactive.cowriter import CoWriter, Past
from charrnn.terminal.output import printable
from charrnn.text.records import SEPARATORS

TOKEN = re.compile(r"\n|[^\S\n]{1,200}|\S{1,200}")  # what a row is made of; what is longer is taken in parts
STYLE = Style.from_dict({"model": "ansicyan", "unknown": "ansired underline", "bar": "reverse", "chosen": "reverse"})
NAMES = {" ": "space", "\n": "line break", "\t": "tab"}
WARMER = 0.1  # by so much a key changes the temperature

Row = tuple[int, int]  # where it starts in the text, and where it stops


def shown(text: str) -> str:
    """`text` as it is drawn: control characters by their numbers, a tab as four spaces."""
    return printable(text, keep="\t").replace("\t", "    ")


def cells(text: str) -> int:
    """How many columns `text` takes on the screen."""
    return len(text) if text.isascii() and text.isprintable() else sum(map(get_cwidth, shown(text)))


def wrap(text: str, start: int, width: int, count: int) -> list[Row]:
    """Cut `text` from `start` on into at most `count` rows of `width` columns, between words where that can be."""
    rows: list[Row] = []
    begin, column = start, 0
    for token in TOKEN.finditer(text, start):
        word, at = token[0], token.start()
        size = cells(word)
        if word == "\n":
            rows.append((begin, at))
            begin, column = at + 1, 0
        elif size > width:
            for i, character in enumerate(word, at):
                size = cells(character)
                if column + size > width:
                    rows.append((begin, i))
                    begin, column = i, 0
                column += size
        else:
            if column and column + size > width and word != " ":  # a space may stand beyond the margin
                rows.append((begin, at))
                begin, column = at, 0
            column += size
        if len(rows) >= count:
            return rows[:count]
    return [*rows, (begin, len(text))]


class Page(Buffer):
    """The text and its cursor; what it was is kept by `Past`, since whole texts take too much room."""

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
    """Draws the part of a page that the cursor is in, wrapped between words: a long text takes no longer than a short one."""

    def __init__(self, page: Page, style: Callable[[int, str], str]):
        super().__init__(page)
        self.style = style  # of the character at a place
        self.top = 0  # where the first row starts
        self.rows: list[Row] = [(0, 0)]

    def preferred_height(self, *_: Any) -> None:
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
        column = min(cells(text[self.rows[row][0] : cursor]), width)
        return UIContent(self._draw, min(len(self.rows), height), Point(column, row))

    def row_of(self, place: int) -> int:
        """Which of the rows a place of the text stands in."""
        return max((i for i, (start, _) in enumerate(self.rows) if start <= place), default=0)

    def neighbour(self, by: int) -> int:
        """The place one row below the cursor (or above), in its column or the last one there."""
        place = self.buffer.cursor_position
        row = self.row_of(place)
        if not 0 <= row + by < len(self.rows):  # not on the screen: the line before or after
            document = self.buffer.document
            return place + (document.get_cursor_up_position() if by < 0 else document.get_cursor_down_position())
        start, stop = self.rows[row + by]
        if row + by + 1 < len(self.rows) and stop == self.rows[row + by + 1][0]:
            stop -= 1  # the end of a row that is wrapped is the start of the next
        return min(start + place - self.rows[row][0], stop)

    def _draw(self, row: int) -> StyleAndTextTuples:
        start, stop = self.rows[row]
        text = self.buffer.text
        styled = ((self.style(place, text[place]), text[place]) for place in range(start, stop))
        return [(style, shown("".join(c for _, c in run))) for style, run in groupby(styled, key=itemgetter(0))]


class Interactive:
    """A session at the terminal. Raises: CharrnnError where there is no terminal to hold it at."""

    def __init__(self, writer: CoWriter, text: str, suggest: int = 0, notes: Sequence[str] = ()):
        self.writer, self.notes = writer, list(notes)
        self.known = set(writer.model.vocabulary.characters)
        self.page = Page(text)
        self.control = PageControl(self.page, self._style)
        self.suggest, self.chosen = suggest, -1  # how many characters are suggested, and which is marked; -1: none
        self.written = (0, 0)  # from where to where the model has written just now
        self.act: Callable[[str], str] = writer.word  # by what
        self.signal = 0  # that ended the session
        self.page.on_text_changed += lambda _: self._changed()
        self.page.on_cursor_position_changed += lambda _: self._choose(-1)
        self._files: list[IO[str]] = []
        source, target = self._terminal()
        windows = [Window(self.control)]
        if suggest:
            windows.append(Window(FormattedTextControl(self._suggestions), height=suggest))
        windows.append(Window(FormattedTextControl(self._bar), height=2, style="class:bar"))
        self.application: Application[None] = Application(
            Layout(HSplit(windows), self.control),
            STYLE,
            key_bindings=self._keys(),
            full_screen=True,
            input=create_input(source),
            output=create_output(target),
        )

    @property
    def text(self) -> str:
        return self.page.text

    def run(self) -> int:
        """Hold the session to its end. Returns: the signal that ended it, 0 where the person did, SIGINT for Ctrl-C."""
        try:
            with contextlib.suppress(EOFError):  # the terminal has gone
                asyncio.run(self._run())
        finally:
            for file in self._files:
                file.close()
        return self.signal

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            with contextlib.suppress(AttributeError, NotImplementedError):  # Windows has not all of it
                number = getattr(signal, name)
                loop.add_signal_handler(number, self._end, number)
        faults: list[BaseException] = []

        def end(_: object, context: dict[str, Any]) -> None:
            faults.append(context.get("exception") or RuntimeError(context["message"]))
            self._end()

        loop.set_exception_handler(end)
        await self.application.run_async(handle_sigint=False, set_exception_handler=False)
        if faults:
            raise faults[0]

    def _end(self, number: int = 0) -> None:
        self.signal = self.signal or int(number)
        if self.application.is_running and not self.application.is_done:
            self.application.exit()

    def _terminal(self) -> tuple[Any, Any]:
        """Where keys come from and where the screen is: the standard streams that are one, or the terminal behind them."""
        if os.environ.get("TERM") == "dumb":
            raise CharrnnError("--interactive needs a terminal whose cursor can be moved; TERM=dumb is none")

        def first(mode: str, *streams: TextIO | None) -> Any:
            for stream in streams:
                with contextlib.suppress(ValueError):  # it is closed
                    if stream is not None and stream.isatty():
                        return stream
            try:
                self._files.append(open("/dev/tty", mode, encoding="utf-8"))  # noqa: SIM115
            except OSError:
                raise CharrnnError("--interactive needs a terminal; there is none") from None
            return self._files[-1]

        return first("r", sys.stdin), first("w", sys.stderr, sys.stdout)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        suggests, marked = Condition(lambda: self.suggest > 0), Condition(lambda: self.chosen >= 0)

        def bind(*names: str, action: Callable[[], None], **more: Any) -> None:
            def handle(_: KeyPressEvent) -> None:
                action()

            keys.add(*names, eager=len(names) == 1, **more)(handle)

        bind("tab", action=lambda: self._go_on(self.writer.word))
        bind("enter", action=lambda: self._go_on(self.writer.line), filter=~marked)
        bind("enter", action=lambda: self._take(self.chosen), filter=marked)
        bind("s-tab", action=self._another)
        for names in (("escape", "enter"), ("c-j",)):
            bind(*names, action=lambda: self.page.insert_text("\n"))
        for name in ("c-z", "c-_"):
            bind(name, action=self.page.undo, save_before=lambda _: False)
        bind("c-y", action=self.page.redo, save_before=lambda _: False)
        bind("c-r", action=lambda: self.writer.warm(-WARMER))
        bind("c-t", action=lambda: self.writer.warm(WARMER))
        bind("c-d", action=self._end)
        bind("c-c", action=lambda: self._end(signal.SIGINT))
        for name, by in (("up", -1), ("down", 1)):
            bind(name, action=lambda by=by: self._move(by), filter=~suggests)  # type: ignore[misc]
            bind(name, action=lambda by=by: self._choose((self.chosen + by) % self.suggest), filter=suggests)  # type: ignore[misc]
        for k in range(self.suggest):
            bind(str(k + 1), action=lambda k=k: self._take(k))  # type: ignore[misc]
            bind("escape", str(k + 1), action=lambda k=k: self.page.insert_text(str(k + 1)))  # type: ignore[misc]
        return keys

    def _before(self) -> str:
        return self.page.text[: self.page.cursor_position]

    def _go_on(self, act: Callable[[str], str]) -> None:
        self.act = act
        self._insert(act(self._before()))

    def _another(self) -> None:
        """Take back what the model wrote just now, if it did, and have it write anew."""
        if self.written[1] > self.written[0]:
            self.page.undo()
        self._go_on(self.act)

    def _take(self, k: int) -> None:
        suggested = self.writer.suggest(self._before(), self.suggest)
        if k < len(suggested):
            self._insert(suggested[k][0])

    def _insert(self, text: str) -> None:
        start = self.page.cursor_position
        self.page.insert_text(text)
        self.written = (start, start + len(text))

    def _move(self, by: int) -> None:
        self.page.cursor_position = self.control.neighbour(by)

    def _choose(self, k: int) -> None:
        self.chosen = k

    def _changed(self) -> None:
        """The text is another: read it, so that the next key need not."""
        self.written, self.chosen = (0, 0), -1
        before = self._before()
        if before.endswith((" ", "\n")):  # undo goes word by word
            self.page.save_to_undo_stack()
        self.writer.reader.read(before)

    def _style(self, place: int, character: str) -> str:
        if character not in self.known:
            return "class:unknown"
        return "class:model" if self.written[0] <= place < self.written[1] else ""

    def _suggestions(self) -> StyleAndTextTuples:
        fragments: StyleAndTextTuples = []
        for k, (character, p) in enumerate(self.writer.suggest(self._before(), self.suggest)):
            name = NAMES.get(character) or shown(character)
            line = f" {k + 1}  {name}{' ' * (12 - cells(name))}{p:6.1%}  "
            fragments += [("class:chosen" if k == self.chosen else "", line), ("class:model", "█" * round(p * 30)), ("", "\n")]
        return fragments

    def _bar(self) -> StyleAndTextTuples:
        width = self.application.output.get_size().columns
        sampler = self.writer.sampler
        take = [f"1-{self.suggest} take", "↑↓ mark"] if self.suggest else []
        enter = "Enter take" if self.chosen >= 0 else "Enter a line"
        keys = [*take, "Tab a word", enter, "^D done", "^Z undo", "⇧Tab another", "^Y redo", "Alt-Enter line break"]
        if self.suggest:
            keys.append("Alt-1 types 1")
        warmth = "greedy" if sampler.greedy else f"temperature {sampler.temperature:g}"
        facts = [f"{warmth} (^R less, ^T more)", f"{len(self.text):,} characters", *self.notes]
        before, records = self._before(), self.writer.model.records
        last = before[-1:]
        if records and (not before or before.endswith(SEPARATORS[records])):
            facts.insert(0, f"a new {records} begins")
        if last and last not in self.known:
            facts.insert(0, f"the model has never seen {last!r}")
        return [("", f"{_fit(keys, width)}\n{_fit(facts, width)}")]


def _fit(parts: Sequence[str], width: int) -> str:
    """As many of `parts`, from the first on, as one line of `width` columns holds."""
    line = ""
    for part in parts:
        longer = f"{line} · {part}" if line else f" {part}"
        if cells(longer) <= width:
            line = longer
    return line
