"""The loop that generates, and the two examples of docs/contributing.md: a sampling rule and a view of scores."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import ROOT
from test_surprise import BOOK, LINES, model_of

from charrnn.inference import generate
from charrnn.inference.logits import TopK
from charrnn.inference.sampler import Sampler
from charrnn.inference.score import Piece
from charrnn.inference.stopping import StopString

Array = np.ndarray


@dataclass(frozen=True)
class MinP:
    """Keeps characters of at least `p` times the probability of the likeliest (Nguyen et al. 2024)."""

    p: float

    def __call__(self, ids: Array, logits: Array) -> None:
        logits[logits < logits.max(axis=1, keepdims=True) + np.log(self.p)] = -np.inf


class PerWord:
    """Prints each word with its bits."""

    def __init__(self) -> None:
        self._word, self._bits = "", 0.0

    def add(self, piece: Piece) -> None:
        for character, bits in zip(piece.text, piece.bits.tolist(), strict=True):
            if character.isspace():
                self.finish()
            else:
                self._word += character
                self._bits += bits

    def finish(self) -> None:
        if self._word:
            print(f"{self._bits:7.2f} {self._word}")
        self._word, self._bits = "", 0.0


def test_the_examples_of_the_page_are_these():
    page = (ROOT / "docs/contributing.md").read_text()
    here = (ROOT / "tests/test_generate.py").read_text()
    examples = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "MinP" in block or "PerWord" in block]
    assert len(examples) == 2
    assert all(example in here for example in examples)


class Endless:
    """An engine whose logits favour the character after the last one, of four; it counts its steps."""

    def __init__(self, B):
        self.ids = np.zeros(B, np.intp)
        self.steps = 0

    @property
    def logits(self):
        return np.eye(4, dtype=np.float32)[(self.ids + 1) % 4] * 9

    def advance(self):
        self.steps += 1


def run(B=2, **settings):
    sampler = Sampler(greedy=True)
    noise = sampler.steps([np.random.default_rng(k) for k in range(B)], 4)
    return generate.generate(Endless(B), sampler, noise=noise, **settings)


def test_a_processor_sees_what_was_drawn_and_may_exclude_it():
    seen = []

    def never_three(ids, logits):
        seen.append(ids.copy())
        logits[:, 3] = -np.inf

    steps = [(step.ids.tolist(), step.logits.argmax(axis=1).tolist()) for step in run(processors=[never_three], length=6)]
    assert [ids for ids, _ in steps] == [[1, 1], [2, 2], [0, 0], [1, 1], [2, 2], [0, 0]]
    assert steps[2][1] == [1, 1]  # the logits of a step are those of the model, for the ids that it has now
    assert [len(ids) for ids in seen] == list(range(6))
    assert seen[3].tolist() == [[1, 1], [2, 2], [0, 0]]


def test_an_endless_text_keeps_a_bounded_history(monkeypatch):
    monkeypatch.setattr(generate, "HISTORY", 8)
    lengths = []
    steps = run(processors=[lambda ids, logits: lengths.append(len(ids))])
    for _ in range(100):
        next(steps)
    assert max(lengths) == 16
    assert min(lengths[8:]) >= 8


def test_texts_end_each_for_its_own_reason_and_the_batch_when_all_have():
    ends = [StopString(np.array([1, 2]), "until", [np.array([], np.int32), np.array([1], np.int32)])]
    assert [step.why[:] for step in run(criteria=ends, length=9)] == [["", ""], ["until", "until"]]
    never = [StopString(np.array([1, -1]), "until", [np.array([], np.int32)] * 2)]
    assert [step.why[:] for step in run(criteria=never, length=3)][-1] == ["length", "length"]
    begun = StopString(np.array([3, 1]), "line", [np.array([0, 3], np.int32), np.array([], np.int32)])
    assert begun(np.array([1, 1])).tolist() == [True, False]
    assert list(run(length=0)) == []


def test_a_sampling_rule_keeps_to_its_set():
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    MinP(0.5)(np.empty((0, 1), np.intp), logits)
    assert np.isfinite(logits).tolist() == [[True, True, False, False]]
    TopK(1)(np.empty((0, 1), np.intp), logits)
    assert np.isfinite(logits).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(("model", "text"), [(model_of(BOOK), BOOK[:400]), (model_of(LINES, records="line"), LINES[:400])])
def test_a_view_prints_the_bits_of_each_word(model, text, capsys):
    view = PerWord()
    pieces = list(model.pieces(text))
    for piece in pieces:
        view.add(piece)
    view.finish()
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [word for _, word in printed] == text.split()
    spaces = sum(float(piece.bits[k]) for piece in pieces for k, c in enumerate(piece.text) if c.isspace())
    total = sum(float(piece.bits.sum()) for piece in pieces)
    assert sum(float(bits) for bits, _ in printed) == pytest.approx(total - spaces, abs=0.01 * len(printed))
