"""To write a text together with a model: where the network stands at any place of it, how it goes on, and undo.

`CoWriter` is given the text before the cursor and gives back what the model would write there; `Past` remembers what a text
was. It knows no screen and no keys. Letters: V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from charrnn.inference.model import Model
from charrnn.inference.sampler import Sampler
from charrnn.text.records import SEPARATORS

STRIDE = 32  # characters between two states that are kept for good: no place is further than that from one
RECENT = 1024  # states that are kept besides, the last ones that the network was in
READ_AT_ONCE = 4096  # characters of a text to begin with that are read before one says how far one is
LONGEST_WORD, LONGEST_LINE = 32, 400  # characters that are written at once, where the model finds no end
WILDEST = 5.0  # the highest temperature that the keys reach

State = list[np.ndarray]  # a copy of all that the network knows of a text: each part of its state, then the logits (V,)


class Reader:
    """Where the network stands after the characters of a text, which may grow, shrink and change as one edits it.

    A character that follows what has been read takes one step; any other place of the text, and what stands there after a
    change, takes at most STRIDE of them on from a state that was kept. Each text begins as after a line break (the model's
    start), and so does, in a model of records, each record. Characters that the model doesn't know are skipped.
    """

    def __init__(self, model: Model):
        self.model, self.text = model, ""
        self._state = model.network.initial_state(1)
        self._separator = SEPARATORS[model.records] if model.records else None
        self._state.step([model.start])
        self._first = self._copy()
        self._marks = {0: self._first}  # by how many characters have been read
        self._recent: dict[int, State] = {}

    def read(self, text: str) -> np.ndarray:
        """The logits (V,) of the character that follows `text`."""
        same = _common(self.text, text)
        if same < len(text):
            if same < len(self.text):  # what was read beyond is no longer so
                self._marks = {at: state for at, state in self._marks.items() if at <= same}
                self._recent = {at: state for at, state in self._recent.items() if at <= same}
            self.text = text
        at, state = len(text), self._kept(len(text))
        while state is None:
            at -= 1
            state = self._kept(at)
        if at < len(text):
            self._restore(state)
            for known in self.model.vocabulary.encode(text[at:]).tolist():
                at += 1
                if known >= 0:
                    self._state.step([known])
                if self._separator is not None and text.endswith(self._separator, 0, at):
                    self._restore(self._first)
                state = self._copy()
                self._keep(at, state)
        return state[-1]

    def _kept(self, at: int) -> State | None:
        return self._recent.get(at) or self._marks.get(at)

    def _keep(self, at: int, state: State) -> None:
        if at % STRIDE == 0:
            self._marks[at] = state
        self._recent[at] = state
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    def _copy(self) -> State:
        return [part.copy() for layer in self._state for part in layer] + [self._state.logits[0].copy()]

    def _restore(self, state: State) -> None:
        *parts, logits = state
        for part, saved in zip((part for layer in self._state for part in layer), parts, strict=True):
            part[:] = saved
        self._state.logits[0] = logits


class CoWriter:
    """Writes on from any text. With a seed, the same calls give the same characters."""

    def __init__(self, model: Model, sampler: Sampler, seed: int | None = None):
        self.model, self.sampler = model, sampler
        self.reader = Reader(model)
        self._generator = np.random.default_rng(seed)

    def warm(self, by: float) -> None:
        """Raise the temperature (or lower it), within 0 and WILDEST."""
        temperature = round(min(max(self.sampler.temperature + by, 0.0), WILDEST), 2)
        self.sampler = replace(self.sampler, temperature=temperature, greedy=False)

    def word(self, text: str) -> str:
        """What the model writes on from `text` up to the end of a word, with the space or line break that ends it."""
        written = ""
        for character in self._characters(text, LONGEST_WORD):
            written += character
            if character.isspace() and not written.isspace():
                break
        return written

    def line(self, text: str) -> str:
        """What the model writes on from `text` up to the end of the line, with its line break."""
        written = ""
        for character in self._characters(text, LONGEST_LINE):
            written += character
            if character == "\n":
                break
        return written

    def suggest(self, text: str, count: int) -> list[tuple[str, float]]:
        """The `count` likeliest characters after `text`, likeliest first, each with the probability that it is drawn.

        Where nothing is drawn, since the likeliest is always taken, it is the model's own probability.
        """
        sampler = self.sampler
        if sampler.greedy or not sampler.temperature:
            sampler = Sampler()
        p = sampler.probabilities(self._logits(text))
        best = np.argsort(-p, kind="stable")[:count]
        return [(self.model.vocabulary.characters[i], float(p[i])) for i in best if p[i] > 0]

    def _characters(self, text: str, most: int) -> Iterator[str]:
        """Up to `most` characters on from `text`; a record's end is the last of them."""
        ids = np.zeros(1, np.intp)
        separator = SEPARATORS[self.model.records] if self.model.records else None
        for _ in range(most):
            logits = self._logits(text)[None]
            self.sampler.draw(logits, self.sampler.noise(self._generator, logits.shape), ids)
            character = self.model.vocabulary.characters[ids[0]]
            yield character
            text += character
            if separator is not None and text.endswith(separator):
                return

    def _logits(self, text: str) -> np.ndarray:
        """The logits (V,) after `text`, a copy in which the symbol for unknown characters can't be drawn."""
        logits = self.reader.read(text).copy()
        if self.model.vocabulary.unknown is not None:
            logits[self.model.vocabulary.unknown] = -np.inf
        return logits


@dataclass(frozen=True)
class Edit:
    """How one text became the next: at `start`, `removed` gave way to `inserted`; the cursor stood at `cursor` before."""

    start: int
    removed: str
    inserted: str
    cursor: int


class Past:
    """What a text was, to undo and redo; it keeps what changed, not the texts."""

    def __init__(self, text: str, cursor: int):
        self.text, self.cursor = text, cursor
        self._back: list[Edit] = []
        self._forth: list[Edit] = []

    def mark(self, text: str, cursor: int) -> None:
        """Remember the text that stands now as one to come back to."""
        if text != self.text:
            self._back.append(_edit(self.text, text, self.cursor))
            self._forth.clear()
        self.text, self.cursor = text, cursor

    def undo(self, text: str, cursor: int) -> tuple[str, int]:
        """The text before the last change of `text`, and where the cursor was."""
        self.mark(text, cursor)
        return self._go(self._back, self._forth)

    def redo(self, text: str, cursor: int) -> tuple[str, int]:
        """The text that was undone last, unless it has changed since."""
        self.mark(text, cursor)
        return self._go(self._forth, self._back)

    def _go(self, edits: list[Edit], reverse: list[Edit]) -> tuple[str, int]:
        if edits:
            edit = edits.pop()
            reverse.append(Edit(edit.start, edit.inserted, edit.removed, self.cursor))
            self.text = self.text[: edit.start] + edit.removed + self.text[edit.start + len(edit.inserted) :]
            self.cursor = edit.cursor
        return self.text, self.cursor


def _edit(old: str, new: str, cursor: int) -> Edit:
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    return Edit(start, old[start : len(old) - end], new[start : len(new) - end], cursor)


def _common(a: str, b: str) -> int:
    """How many characters `a` and `b` begin with that are the same; by halves, so that long texts take no time."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a.startswith(b[low:middle], low) else (low, middle - 1)
    return low
