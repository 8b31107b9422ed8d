"""Write a text together with a model: continue the text at any position, suggest characters, undo and redo.

`CoWriter` takes the text before the cursor and returns what the model writes there. V is the vocabulary size.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import numpy as np

from charrnn.inference.generate import generate
from charrnn.inference.logits import Processor
from charrnn.inference.model import Model
from charrnn.inference.sampler import Sampler
from charrnn.inference.writing import model_processors
from charrnn.text.records import SEPARATORS

STRIDE = 32  # characters between two states that are always kept
RECENT = 1024  # latest states that are kept as well
READ_AT_ONCE = 4096  # characters of the first text to read between two progress reports
LONGEST_WORD = 32  # characters written if the model does not end the word
LONGEST_LINE = 400
MAX_TEMPERATURE = 5.0  # highest temperature that the keys can set

Edit = tuple[int, str, str, int]  # position, text removed there, text inserted there, cursor before the edit
State = list[np.ndarray]  # a copy of the network's state: its arrays, then the logits (V,)


class Reader:
    """Computes the logits at any position of a text that is being edited.

    The next character takes one step of the network; any other position takes at most STRIDE steps, from a saved state. Each
    text or record starts after the model's start character. Unknown characters are skipped.
    """

    def __init__(self, model: Model):
        self.model = model
        self.separator = SEPARATORS[model.records] if model.records else None
        self.text = ""
        self._state = model.network.initial_state(1)
        self._state.step([model.start])
        self._first = self._copy()
        self._marks = {0: self._first}  # number of characters read -> state
        self._recent: dict[int, State] = {}

    def read(self, text: str) -> np.ndarray:
        """The logits (V,) of the character that follows `text`."""
        same = _common(self.text, text)
        if same < len(text):
            if same < len(self.text):  # states after the change are no longer valid
                self._marks = {at: state for at, state in self._marks.items() if at <= same}
                self._recent = {at: state for at, state in self._recent.items() if at <= same}
            self.text = text
        at = len(text)
        while (state := self._recent.get(at) or self._marks.get(at)) is None:
            at -= 1
        if at < len(text):
            self._restore(state)
            for i in self.model.vocabulary.encode(text[at:]).tolist():
                at += 1
                if i >= 0:
                    self._state.step([i])
                if self.separator is not None and text.endswith(self.separator, 0, at):
                    self._restore(self._first)
                state = self._recent[at] = self._copy()
                if at % STRIDE == 0:
                    self._marks[at] = state
                if len(self._recent) > RECENT:
                    del self._recent[next(iter(self._recent))]
        return state[-1]

    def _copy(self) -> State:
        return [part.copy() for part in chain.from_iterable(self._state)] + [self._state.logits[0].copy()]

    def _restore(self, state: State) -> None:
        for part, saved in zip([*chain.from_iterable(self._state), self._state.logits[0]], state, strict=True):
            part[:] = saved


class CoWriter:
    """Continues any text. With a seed, the same calls give the same characters."""

    def __init__(self, model: Model, sampler: Sampler, seed: int | None = None):
        self.model = model
        self.sampler = sampler
        self.reader = Reader(model)
        self._generator = np.random.default_rng(seed)

    def change_temperature(self, by: float) -> None:
        """Add `by` to the temperature, within 0 and MAX_TEMPERATURE."""
        temperature = round(min(max(self.sampler.temperature + by, 0.0), MAX_TEMPERATURE), 2)
        self.sampler = replace(self.sampler, temperature=temperature, greedy=False)

    def write_word(self, text: str) -> str:
        """Continue `text` to the end of a word, including the space or line break after it."""
        return self._write(text, LONGEST_WORD, lambda written: written[-1].isspace() and not written.isspace())

    def write_line(self, text: str) -> str:
        """Continue `text` to the end of the line, including the line break."""
        return self._write(text, LONGEST_LINE, lambda written: written[-1] == "\n")

    def suggest(self, text: str, count: int) -> list[tuple[str, float]]:
        """The `count` likeliest characters after `text`, likeliest first, with their probabilities of being drawn."""
        # A greedy sampler would give 0 or 1; show the model's probabilities instead.
        sampler = Sampler() if self.sampler.greedy or not self.sampler.temperature else self.sampler
        logits = self.reader.read(text)[None].copy()
        for process in self._processors(text):
            process(np.empty((0, 1), np.intp), logits)
        p = sampler.probabilities(logits[0])
        best = np.argsort(-p, kind="stable")[:count]
        return [(self.model.vocabulary.characters[i], float(p[i])) for i in best if p[i] > 0]

    def _processors(self, text: str) -> list[Processor]:
        """The logits processors of the model after `text`."""
        separator = self.reader.separator
        return model_processors(self.model, [text if separator is None else text.rpartition(separator)[2]])

    def _write(self, text: str, most: int, has_ended: Callable[[str], bool]) -> str:
        """Write up to `most` characters after `text`; stop when `has_ended` or at the end of a record."""
        engine = _Continuation(self.reader, text)
        separator = self.reader.separator
        processors = [*self._processors(text), *self.sampler.processors]
        noise = self.sampler.steps([self._generator], len(self.model.vocabulary), block=1)
        written = ""
        for step in generate(engine, self.sampler, noise=noise, processors=processors, length=most):
            written += self.model.vocabulary.characters[step.ids[0]]
            if has_ended(written) or (separator is not None and (text + written).endswith(separator)):
                break
        return written


class _Continuation:
    """The engine that continues `text` in the loop of `generate`; B is 1."""

    def __init__(self, reader: Reader, text: str):
        self.reader = reader
        self.text = text
        self.ids = np.zeros(1, np.intp)

    @property
    def logits(self) -> np.ndarray:
        return self.reader.read(self.text)[None]

    def advance(self) -> None:
        self.text += self.reader.model.vocabulary.characters[self.ids[0]]


class Past:
    """Undo and redo. It stores only the changes, since whole texts would take megabytes per edit."""

    def __init__(self, text: str, cursor: int):
        self.text, self.cursor = text, cursor
        self._back: list[Edit] = []
        self._forth: list[Edit] = []

    def mark(self, text: str, cursor: int) -> None:
        """Record the present text, for undo."""
        if text != self.text:
            start = _common(self.text, text)
            end = _common(self.text[start:][::-1], text[start:][::-1])
            self._back.append((start, self.text[start : len(self.text) - end], text[start : len(text) - end], self.cursor))
            self._forth.clear()
        self.text, self.cursor = text, cursor

    def undo(self, text: str, cursor: int) -> tuple[str, int]:
        """Undo the last change. Returns: the text and the cursor."""
        self.mark(text, cursor)
        return self._go(self._back, self._forth)

    def redo(self, text: str, cursor: int) -> tuple[str, int]:
        """Redo the last undone change, unless the text has changed since. Returns: the text and the cursor."""
        self.mark(text, cursor)
        return self._go(self._forth, self._back)

    def _go(self, edits: list[Edit], reverse: list[Edit]) -> tuple[str, int]:
        if edits:
            start, removed, inserted, cursor = edits.pop()
            reverse.append((start, inserted, removed, self.cursor))
            self.text = self.text[:start] + removed + self.text[start + len(inserted) :]
            self.cursor = cursor
        return self.text, self.cursor


def _common(a: str, b: str) -> int:
    """The length of the common prefix, by bisection, which is fast for long texts."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a.startswith(b[low:middle], low) else (low, middle - 1)
    return low
