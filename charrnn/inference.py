"""The same network as NumPy arrays: it steps, writes and scores. It starts at once, since it never imports torch.

`load` gives a `Model`, which has the vocabulary; the `Network` under it knows only ids. Letters: T time steps, B streams,
H hidden size, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charrnn import checkpoint
from charrnn.corpus import Vocabulary, scoring_blocks
from charrnn.errors import CharrnnError

Array = np.ndarray
State = list[tuple[Array, ...]]  # for each layer (h,) or, with lstm, (h, c); each (B, H)

# What a character outside the vocabulary costs: an escape, then the choice among the rest of Unicode's scalar values.
# The escape's probability is the same for every model, so that figures compare; known characters pay for it too.
ESCAPE = 2.0**-20
UNICODE = 0x110000 - 0x800


def _sigmoid(x: Array) -> Array:
    return 0.5 * np.tanh(0.5 * x) + 0.5


class Network:
    """The forward pass of `CharRNN` for B streams side by side, in float32."""

    def __init__(self, config: dict[str, Any], tensors: checkpoint.Tensors):
        self.cell, self.hidden_size = config["cell"], config["hidden_size"]
        self.softmax_weight, self.softmax_bias = tensors["softmax.weight"].T.copy(), tensors["softmax.bias"]
        self.embedding = tensors.get("embedding.weight")  # (V, E); None means one-hot
        self.layers = []
        for i in range(config["num_layers"]):
            w_ih, w_hh, b_ih, b_hh = (
                tensors[f"layers.{i}.{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            self.layers.append((w_ih.T.copy(), w_hh.T.copy(), b_ih, b_hh))

    def initial_state(self, batch_size: int) -> State:
        """The state before the first character: zeros."""
        zeros = np.zeros((batch_size, self.hidden_size), np.float32)
        return [(zeros, zeros) if self.cell == "lstm" else (zeros,) for _ in self.layers]

    def step(self, ids: Array, state: State) -> tuple[Array, State]:
        """Read one character of each stream, `ids` (B,), on from `state`: logits (B, V) and the state after it."""
        x = None if self.embedding is None else self.embedding[ids]  # (B, E)
        new_state = []
        for (w_ih, w_hh, b_ih, b_hh), layer_state in zip(self.layers, state, strict=True):
            product = (w_ih[ids] if x is None else x @ w_ih) + b_ih  # (B, gates * H); a one-hot row selects
            layer_state = getattr(self, f"_{self.cell}")(product, layer_state[0] @ w_hh + b_hh, layer_state)
            new_state.append(layer_state)
            x = layer_state[0]  # (B, H)
        logits = (self.softmax_weight[ids] if x is None else x @ self.softmax_weight) + self.softmax_bias
        return logits, new_state

    def forward(self, ids: Array, state: State) -> tuple[Array, State]:
        """Read `ids` (T, B) on from `state`: logits (T, B, V) and the state after the last of them."""
        logits = np.empty((*ids.shape, len(self.softmax_bias)), np.float32)
        for t, row in enumerate(ids):
            logits[t], state = self.step(row, state)
        return logits, state

    def _lstm(self, inputs: Array, recurrent: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        gates, H = inputs + recurrent, self.hidden_size
        i, f, o = _sigmoid(gates[:, :H]), _sigmoid(gates[:, H : 2 * H]), _sigmoid(gates[:, 3 * H :])
        c = f * state[1] + i * np.tanh(gates[:, 2 * H : 3 * H])
        return o * np.tanh(c), c

    def _gru(self, inputs: Array, recurrent: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        H = self.hidden_size
        r, z = np.split(_sigmoid(inputs[:, : 2 * H] + recurrent[:, : 2 * H]), 2, axis=1)
        n = np.tanh(inputs[:, 2 * H :] + r * recurrent[:, 2 * H :])
        return ((1 - z) * n + z * state[0],)

    def _rnn(self, inputs: Array, recurrent: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        return (np.tanh(inputs + recurrent),)


@dataclass(frozen=True)
class Score:
    """How well a model knows a text; every character counts, unknown ones too."""

    characters: int
    unknown_characters: int  # characters outside the vocabulary, each charged ESCAPE and a choice among Unicode's rest
    nats: float  # in all
    correct: int  # characters that were the model's top guess

    @property
    def nats_per_character(self) -> float:
        return self.nats / self.characters

    @property
    def bits_per_character(self) -> float:
        return self.nats_per_character / math.log(2)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_character, 700.0))

    @property
    def accuracy(self) -> float:
        return self.correct / self.characters

    def to_dict(self) -> dict[str, float]:
        """The figures under the names that `charrnn eval --json` prints."""
        names = "characters unknown_characters bits_per_character nats_per_character perplexity accuracy"
        return {name: getattr(self, name) for name in names.split()}


def score(
    forward: Callable[[Array, Any], tuple[Array, Any]],
    initial_state: Callable[[int], Any],
    ids: Array,
    start: int,
    vocabulary_size: int,
    unknown: int | None = None,
) -> Score:
    """Score a text of `ids` (N,), -1 for unknown ones, read after the character `start` from the zero state.

    Where the vocabulary has a symbol for the unknown, of the id `unknown`, these characters are read as that symbol and
    charged its probability and a uniform choice among the rest of Unicode's characters, and there is no escape.

    `forward` reads ids (T, B) on from a state and gives back logits (T, B, V) and the state after them, by either engine.

    Unknown characters leave the state as it was. Long texts are cut into up to 64 parallel streams of 2,048 characters
    or more, each warmed up by the 256 characters before it.
    """
    known = ids[ids >= 0]
    strangers = len(ids) - len(known) if unknown is None else int((ids == unknown).sum())
    inputs = np.concatenate([[start], known])[:-1]
    streams = max(1, min(64, len(known) // 2048))
    block = 64 if vocabulary_size < 1000 else 4  # bounds the memory that the logits take
    state = initial_state(streams)
    nats, correct = 0.0, 0
    for at, counts in scoring_blocks(len(known), streams, warm_up=256, block=block) if len(known) else ():
        if at[0, 0] == 0:  # the first stream has no text before it: it begins here, from the zero state
            for part in (part for layer in state for part in layer):
                part[0] = 0
        logits, state = forward(inputs[np.maximum(at, 0)], state)
        if not counts.any():
            continue
        logits, targets = logits[counts], known[at[counts]]  # (n, V), (n,)
        top = logits.max(axis=1)
        right = logits[np.arange(len(targets)), targets]
        nats += float((np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - right).sum(dtype=np.float64))
        guesses = logits.argmax(axis=1)
        correct += int(((guesses == targets) & (guesses != unknown)).sum())
    if unknown is None:
        nats -= len(known) * math.log1p(-ESCAPE)
        nats += strangers * (math.log(UNICODE - vocabulary_size) - math.log(ESCAPE))
    else:
        nats += strangers * math.log(UNICODE - (vocabulary_size - 1))
    return Score(len(ids), strangers, nats, correct)


@dataclass(frozen=True)
class Sampler:
    """How the next character is chosen from the logits."""

    temperature: float = 1.0  # below 1 the likely becomes likelier, above 1 the text wilder; 0 is greedy
    top_k: int = 0  # only the k likeliest characters; 0: all
    top_p: float = 1.0  # only the likeliest characters that together reach this probability (Holtzman et al. 2020)
    greedy: bool = False  # always the likeliest

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise CharrnnError(f"temperature {self.temperature} is not a number of 0 or more")
        if self.top_k < 0:
            raise CharrnnError(f"top-k {self.top_k} is not 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise CharrnnError(f"top-p {self.top_p} is not above 0 and at most 1")

    def draw(self, logits: Array, generator: np.random.Generator) -> int:
        """Draw the id of a character from `logits` (V,)."""
        if self.greedy or self.temperature == 0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64)
        scaled = (scaled - scaled.max()) / self.temperature
        order = None
        if self.top_k or self.top_p < 1:
            order = np.argsort(-scaled, kind="stable")[: self.top_k or None]
            scaled = scaled[order]
        cumulative = np.cumsum(np.exp(scaled))
        if self.top_p < 1:
            kept = int(np.searchsorted(cumulative, self.top_p * cumulative[-1])) + 1
            cumulative = cumulative[:kept]
        choice = min(int(np.searchsorted(cumulative, generator.random() * cumulative[-1], "right")), len(cumulative) - 1)
        return choice if order is None else int(order[choice])


class Model:
    """A trained model: it writes (`sample`, `generate`) and says how well it knows a text (`score`, `bits_per_character`)."""

    def __init__(self, tensors: checkpoint.Tensors, header: checkpoint.Header, path: Path | None = None):
        self.header, self.path = header, path
        self.vocabulary = Vocabulary(header["vocabulary"], header.get("unknown", False))
        self.start = int(self.vocabulary.encode(header["start"])[0])
        self.network = Network(header["config"], tensors)

    def __repr__(self) -> str:
        c = self.header["config"]
        return f"<Model {self.path}: {c['num_layers']} x {c['hidden_size']} {c['cell']}, {len(self.vocabulary)} characters>"

    def unknown(self, text: str) -> str:
        """The characters of `text` that the model has never seen, each once."""
        ids = self.vocabulary.encode(text)
        outside = (-1, self.vocabulary.unknown)
        return "".join(dict.fromkeys(c for c, i in zip(text, ids, strict=True) if i in outside))

    def generate(
        self, prime: str = "", length: int = 500, sampler: Sampler | None = None, seed: int | None = None, count: int = 1
    ) -> Iterator[list[str]]:
        """Write `count` texts side by side: yields, `length` times, a list of the next character of each.

        The network first reads `prime`; its unknown characters are skipped. Without a prime it begins as after a line
        break (or, where there is none in its vocabulary, after the most frequent character). Text k depends on the seed
        and on k alone, not on `count`.
        """
        sampler = sampler or Sampler()
        if length < 0 or count < 1:
            raise CharrnnError(f"can't write {count} texts of {length} characters")
        root = np.random.SeedSequence(seed)
        generators = [np.random.default_rng(child) for child in root.spawn(count)]
        ids = self.vocabulary.encode(prime)
        ids = ids[ids >= 0]
        state = self.network.initial_state(1)
        logits = np.empty(0)
        for i in ids if len(ids) else [self.start]:
            logits, state = self.network.step(np.array([i]), state)
        logits = np.repeat(logits, count, axis=0)
        state = [tuple(np.repeat(part, count, axis=0) for part in layer) for layer in state]
        for left in range(length, 0, -1):
            if self.vocabulary.unknown is not None:
                logits[:, self.vocabulary.unknown] = -np.inf  # the symbol is not a character to write
            drawn = np.array([sampler.draw(logits[k], generators[k]) for k in range(count)])
            yield [self.vocabulary.characters[i] for i in drawn]
            if left > 1:
                logits, state = self.network.step(drawn, state)

    def sample(
        self,
        prime: str = "",
        length: int = 500,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        greedy: bool = False,
        seed: int | None = None,
    ) -> str:
        """Write `length` characters on from `prime` and return them, without the prime.

        >>> load("runs/hihello").sample("h", length=6, greedy=True)  # doctest: +SKIP
        'ihello'
        """
        sampler = Sampler(temperature, top_k, top_p, greedy)
        return "".join(step[0] for step in self.generate(prime, length, sampler, seed))

    def score(self, text: str) -> Score:
        """Score every character of `text`. Raises: CharrnnError where it is empty."""
        if not text:
            raise CharrnnError("nothing to score: the text is empty")
        ids = self.vocabulary.encode(text)
        vocabulary = self.vocabulary
        return score(self.network.forward, self.network.initial_state, ids, self.start, len(vocabulary), vocabulary.unknown)

    def bits_per_character(self, text: str) -> float:
        """The cross-entropy of `text` under the model in bits per character: lower is better, 0 is known by heart."""
        return self.score(text).bits_per_character


def load(path: str | Path | None = None) -> Model:
    """Open a model: a run's folder or its `model.safetensors`; without a path, the newest run under `runs/`.

    Raises: CharrnnError where there is none or it can't be read.
    """
    found = checkpoint.find_model(path)
    return Model(*checkpoint.read_model(found), found)
