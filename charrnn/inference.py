"""The same network as NumPy arrays: it steps, writes and scores. It starts at once, since it never imports torch.

`load` gives a `Model`, which has the vocabulary; the `Network` under it knows only ids. Letters: T time steps, B streams,
H hidden size, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from charrnn import checkpoint
from charrnn.corpus import Corpus, Sliced, Vocabulary, scoring_blocks
from charrnn.errors import CharrnnError
from charrnn.records import SEPARATORS, bounds, digest, join, split

Array = np.ndarray

# What a character outside the vocabulary costs: an escape, then the choice among the rest of Unicode's scalar values.
# The escape's probability is the same for every model, so that figures compare; known characters pay for it too.
ESCAPE = 2.0**-20
UNICODE = 0x110000 - 0x800

STREAMS = 64  # that a long text is scored in, side by side
SIDE_BY_SIDE = 256  # records that are scored at a time
BLOCK = 1 << 18  # logits that scoring works on at a time
NOISE = 1 << 18  # random numbers that are drawn at a time
WEIGHTS = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"  # of a layer, as torch names them
SIGMOIDS = {"lstm": 3, "gru": 2, "rnn": 0}  # how many of a cell's gates are sigmoids; they stand first
HALF = np.array(0.5, np.float32)  # an array, which NumPy takes faster than a number


class Network:
    """The weights of `CharRNN`, arranged so that a character takes few calls, in float32.

    The input's and the recurrent weights of a layer are one matrix (G, D + H), for [x; h]; what the first layer makes of
    its input is looked up in a table (V, G). Since sigmoid(x) = tanh(x / 2) / 2 + 1 / 2, the rows of sigmoids are halved,
    and one tanh does for all gates. Rows: i, f, o, g (lstm); r, z, h's share of n, x's share of n (gru); h (rnn).
    """

    def __init__(self, config: dict[str, Any], tensors: checkpoint.Tensors):
        self.cell, self.hidden_size = config["cell"], config["hidden_size"]
        self.residual = config.get("residual", False)
        embedding = tensors.get("embedding.weight")  # (V, E); None means one-hot
        self.layers = []
        for i in range(config["num_layers"]):
            weight, bias = self._fuse(*(tensors[f"layers.{i}.{name}"] for name in WEIGHTS))
            if i == 0:
                self.table = _table(embedding, weight[:, : -self.hidden_size], bias)
                weight = weight[:, -self.hidden_size :]
            self.layers.append((self._products(weight), bias[:, None]))
        weight, bias = tensors["softmax.weight"], tensors["softmax.bias"]
        if not self.layers:
            self.table = _table(embedding, weight, bias)
        self.softmax = np.column_stack([weight, bias])  # (V, H + 1), for [h; 1]

    def initial_state(self, batch_size: int) -> "State":
        """The state before the first character of B streams: zeros."""
        return State(self, batch_size)

    def forward(self, ids: Array, state: "State") -> tuple[Array, "State"]:
        """Read `ids` (T, B) on from `state`: logits (T, B, V) and the state, which is now the one after the last of them."""
        logits = np.empty((*ids.shape, len(self.softmax)), np.float32)
        for t, row in enumerate(ids):
            logits[t] = state.step(row)
        return logits, state

    def _fuse(self, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> tuple[Array, Array]:
        H = self.hidden_size
        if self.cell == "gru":  # the reset gate comes between the two shares of n
            no_x, no_h = np.zeros((H, w_ih.shape[1]), np.float32), np.zeros((H, H), np.float32)
            w_ih = np.concatenate([w_ih[: 2 * H], no_x, w_ih[2 * H :]])
            w_hh = np.concatenate([w_hh, no_h])
            bias = np.concatenate([b_ih[: 2 * H] + b_hh[: 2 * H], b_hh[2 * H :], b_ih[2 * H :]])
        else:
            bias = b_ih + b_hh
        weight = np.concatenate([w_ih, w_hh], axis=1)
        if self.cell == "lstm":  # torch has i, f, g, o
            order = np.r_[: 2 * H, 3 * H : 4 * H, 2 * H : 3 * H]
            weight, bias = weight[order], bias[order]
        sigmoids = slice(SIGMOIDS[self.cell] * H)
        weight[sigmoids] *= HALF
        bias[sigmoids] *= HALF
        return weight, bias

    def _products(self, weight: Array) -> list[tuple[slice, slice, Array]]:
        """The products that a layer's step takes: (rows, columns, that part of `weight`), without the gru's zeros."""
        H, columns = self.hidden_size, weight.shape[1]
        parts = [(slice(None), slice(None))]
        if self.cell == "gru":
            parts = [(slice(2 * H), slice(None)), (slice(2 * H, 3 * H), slice(columns - H, None))]
            if columns > H:
                parts.append((slice(3 * H, 4 * H), slice(H)))
        return [(rows, columns, np.ascontiguousarray(weight[rows, columns])) for rows, columns in parts]


def _table(embedding: Array | None, weight: Array, bias: Array) -> Array:
    """W x + b for every character x: (V, G)."""
    return np.ascontiguousarray((weight.T if embedding is None else embedding @ weight.T) + bias)


class State(list[tuple[Array, ...]]):
    """Where B streams stand, and the means to read on: for each layer (h,) or, with lstm, (h, c), each (B, H).

    All numbers lie in buffers that are made once, and a step is a fixed list of calls on them. Features come before
    streams, so that the buffers' parts are contiguous: `hidden` holds h of one layer after the other, so that two
    neighbours are the [x; h] of the upper one. In a residual network the sums x lie between them.
    """

    def __init__(self, network: Network, batch_size: int):
        super().__init__()
        H, B, V = network.hidden_size, batch_size, len(network.softmax)
        self.ids = np.zeros(B, np.intp)  # (B,), the characters to read
        logits = np.zeros((V, B), np.float32)
        self.logits = logits.T  # (B, V), after the characters that were read
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        if not network.layers:
            self._look_up(network.table, logits)
            return
        stride = (2 if network.residual else 1) * H
        hidden = np.zeros((stride * (len(network.layers) - 1) + H + 1, B), np.float32)
        hidden[-1] = 1  # for the softmax's bias
        for i, (products, bias) in enumerate(network.layers):
            at = stride * (i - 1)  # where the layer's input lies
            xh = hidden[max(0, at) : at + 2 * H] if i else hidden[:H]
            inputs = np.zeros((len(bias), B), np.float32)
            if i:
                inputs += bias
            else:
                self._look_up(network.table, inputs)
            gates = np.zeros((len(bias) + H, B), np.float32)  # with room for the lstm's c after them
            product = np.zeros_like(inputs)
            for rows, columns, weight in products:
                self._call(weight.dot, xh[columns], product[rows])
            self._call(np.add, product, inputs, gates[:-H])
            self.append(getattr(self, f"_{network.cell}")(gates, xh[-H:]))
            if network.residual and i:
                self._call(np.add, xh[:H], xh[H:], hidden[at + 2 * H : at + 3 * H])
        self._call(network.softmax.dot, hidden[-H - 1 :], logits)

    def step(self, ids: Array | list[int]) -> Array:
        """Read one character of each stream, `ids` (B,): the logits (B, V), which stand until the next step."""
        self.ids[:] = ids
        return self.advance()

    def advance(self) -> Array:
        """Read the characters that stand in `ids`."""
        for function, arguments in self._calls:
            function(*arguments)
        return self.logits

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._calls.append((function, arguments))

    def _look_up(self, table: Array, out: Array) -> None:
        """Take the rows of `table` (V, G) that `ids` name into `out` (G, B)."""
        if len(self.ids) == 1:
            self._call(table.take, self.ids, 0, out.T, "clip")
        else:
            self._call(table.T.copy().take, self.ids, 1, out, "clip")

    def _squash(self, gates: Array, sigmoids: Array) -> None:
        self._call(np.tanh, gates, gates)
        self._call(np.multiply, sigmoids, HALF, sigmoids)
        self._call(np.add, sigmoids, HALF, sigmoids)

    def _lstm(self, gates: Array, h: Array) -> tuple[Array, ...]:
        H = len(h)
        o, c = gates[2 * H : 3 * H], gates[4 * H :]
        shares = np.empty_like(gates[: 2 * H])
        self._squash(gates[: 4 * H], gates[: 3 * H])
        self._call(np.multiply, gates[: 2 * H], gates[3 * H :], shares)  # i g and f c
        self._call(np.add, shares[:H], shares[H:], c)
        self._call(np.tanh, c, shares[:H])
        self._call(np.multiply, o, shares[:H], h)
        return h.T, c.T

    def _gru(self, gates: Array, h: Array) -> tuple[Array, ...]:
        H = len(h)
        r, z, recurrent, n = (gates[k * H : (k + 1) * H] for k in range(4))
        self._squash(gates[: 2 * H], gates[: 2 * H])
        self._call(np.multiply, r, recurrent, recurrent)
        self._call(np.add, n, recurrent, n)
        self._call(np.tanh, n, n)
        self._call(np.subtract, h, n, h)
        self._call(np.multiply, z, h, h)
        self._call(np.add, n, h, h)
        return (h.T,)

    def _rnn(self, gates: Array, h: Array) -> tuple[Array, ...]:
        self._call(np.tanh, gates[: len(h)], h)
        return (h.T,)


@dataclass(frozen=True)
class Score:
    """How well a model knows a text; every character counts, unknown ones too."""

    characters: int
    unknown_characters: int  # characters outside the vocabulary, each charged ESCAPE and a choice among Unicode's rest
    nats: float  # in all
    correct: int  # characters that were the model's top guess
    each: Array | None = field(default=None, compare=False)  # nats of each record, (R,), where the model reads records
    kind: str = ""  # what these records are

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

    def worst(self, n: int) -> list[tuple[int, float]]:
        """The `n` records that surprise the model most: (place in the text, bits)."""
        assert self.each is not None
        return [(int(k), float(self.each[k]) / math.log(2)) for k in np.argsort(-self.each, kind="stable")[:n]]

    def to_dict(self) -> dict[str, float]:
        """The figures under the names that `charrnn eval --json` prints."""
        names = "characters unknown_characters bits_per_character nats_per_character perplexity accuracy"
        figures = {name: getattr(self, name) for name in names.split()}
        if self.each is not None:
            figures |= {f"{self.kind}s": len(self.each), f"bits_per_{self.kind}": self.nats / math.log(2) / len(self.each)}
        return figures


def score(
    forward: Callable[[Array, Any], tuple[Array, Any]],
    initial_state: Callable[[int], Any],
    ids: Sliced,
    start: int,
    vocabulary_size: int,
    unknown: int | None = None,
    left_out: int = 0,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Score a text of `ids` (N,), -1 for unknown ones, read after the character `start` from the zero state.

    Ids that are no array may be more than memory holds; they have no -1 among them, and `left_out` says how many unknown
    characters the text has besides. `watch` is told how many characters of how many are done.

    Where the vocabulary has a symbol for the unknown, of the id `unknown`, these characters are read as that symbol and
    charged its probability and a uniform choice among the rest of Unicode's characters, and there is no escape.

    `forward` reads ids (T, B) on from a state and gives back logits (T, B, V) and the state after them, by either engine.

    Unknown characters leave the state as it was. Long texts are cut into up to STREAMS parallel streams of 2,048
    characters or more, each warmed up by the 256 characters before it.
    """
    known, characters, missing = ids, len(ids) + left_out, left_out
    if isinstance(ids, np.ndarray):
        known = ids[ids >= 0]
        missing += len(ids) - len(known)
    streams = max(1, min(STREAMS, len(known) // 2048))
    fit = max(1, BLOCK // (streams * vocabulary_size))
    block = 1 << min(8, fit.bit_length() - 1)  # steps; a power of two, so that one begins after the warm-up
    state = initial_state(streams)
    nats, correct = 0.0, 0
    for at, counts in scoring_blocks(len(known), streams, warm_up=256, block=block) if len(known) else ():
        if at[0, 0] == 0:  # the first stream has no text before it: it begins here, from the zero state
            for part in chain.from_iterable(state):
                part[0] = 0
        read = _gather(known, np.concatenate([at[:1] - 1, at]))  # (T + 1, S): what is read, and after it what follows
        logits, state = forward(np.where(at > 0, read[:-1], start), state)
        watch(max(0, int(at[-1, 0]) + 1) * streams, len(known))
        if not counts.any():
            continue
        targets = read[1:]
        if not counts.all():
            logits, targets = logits[counts], targets[counts]
        targets = targets.reshape(-1)
        cost, right = _costs(logits.reshape(-1, vocabulary_size), targets)
        nats += float(cost.sum(dtype=np.float64))
        correct += int(np.count_nonzero(right))
        if unknown is not None:
            missing += int(np.count_nonzero(targets == unknown))
            correct -= int(np.count_nonzero(right & (targets == unknown)))
    nats += float(_unknown_cost(len(known), missing, unknown, vocabulary_size))
    return Score(characters, missing, nats, correct)


def score_records(
    forward: Callable[[Array, Any], tuple[Array, Any]],
    initial_state: Callable[[int], Any],
    ids: Array,
    bounds: tuple[Array, Array],
    start: int,
    vocabulary_size: int,
    unknown: int | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Score the records of a text of `ids` (N,), each read after `start` from the zero state; `bounds` are theirs.

    All else is as in `score`. Records of near lengths are read side by side.
    """
    begin, stop = bounds  # (R,) each
    before = np.concatenate([[0], np.cumsum(ids >= 0)])
    length = before[stop] - before[begin]  # known characters of each record
    missing = stop - begin - length
    text = ids[ids >= 0]
    nats, correct, done = np.zeros(len(begin)), 0, 0
    order = np.argsort(-length, kind="stable")
    while done < len(order):
        longest = max(1, int(length[order[done]]))
        chosen = order[done : done + max(1, min(SIDE_BY_SIDE, BLOCK // (longest * vocabulary_size)))]
        done += len(chosen)
        at = np.arange(longest)[:, None]
        counts = at < length[chosen]  # (T, S)
        if not counts.any():
            break
        targets = text[np.minimum(before[begin[chosen]] + at, len(text) - 1)]
        inputs = np.where(counts, np.concatenate([np.full((1, len(chosen)), start), targets[:-1]]), start)
        state, block = initial_state(len(chosen)), max(1, BLOCK // (len(chosen) * vocabulary_size))
        for first in range(0, longest, block):
            part = slice(first, first + block)
            logits, state = forward(inputs[part], state)
            mine = counts[part]
            follows = targets[part][mine]
            cost, right = _costs(logits[mine], follows)
            nats[chosen] += np.bincount(np.nonzero(mine)[1], cost, len(chosen))
            if unknown is not None:
                missing[chosen] += np.bincount(np.nonzero(mine)[1], follows == unknown, len(chosen)).astype(np.int64)
                right &= follows != unknown
            correct += int(np.count_nonzero(right))
        watch(int(length[order[:done]].sum()), len(text))
    nats += _unknown_cost(length, missing, unknown, vocabulary_size)
    return Score(int((stop - begin).sum()), int(missing.sum()), float(nats.sum()), correct, nats)


def _costs(logits: Array, targets: Array) -> tuple[Array, Array]:
    """What each of `targets` (n,) costs in nats under `logits` (n, V), and whether it was the top guess: (n,), (n,)."""
    each, best = np.arange(len(targets)), logits.argmax(axis=1)
    top, right = logits[each, best], logits[each, targets]
    shifted = logits - top[:, None]
    return np.log(np.exp(shifted, out=shifted).sum(axis=1)) + top - right, best == targets


def _unknown_cost(known: Any, missing: Any, unknown: int | None, vocabulary_size: int) -> Any:
    """The nats that unknown characters cost besides what the network says, and that known ones pay for the escape."""
    if unknown is not None:
        return missing * math.log(UNICODE - (vocabulary_size - 1))
    return missing * (math.log(UNICODE - vocabulary_size) - math.log(ESCAPE)) - known * math.log1p(-ESCAPE)


def _gather(ids: Sliced, at: Array) -> Array:
    """The ids at the places `at` (T, S); each column stands for one stretch, places before the beginning for the first."""
    at = np.maximum(at, 0)
    return np.stack([ids[column[0] : column[-1] + 1][column - column[0]] for column in at.T], axis=1)


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

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Gumbel noise times the temperature, for `draw`; the next numbers of `generator`, however they are cut."""
        if self.greedy or self.temperature == 0:
            return np.zeros(shape, np.float32)
        noise = generator.standard_exponential(shape).astype(np.float32)  # drawn as float64, which is never 0
        np.log(noise, noise)
        return np.multiply(noise, np.float32(-min(self.temperature, 1e30)), noise)  # finite, yet wilder than any logits

    def draw(self, logits: Array, noise: Array, ids: Array) -> None:
        """Draw `ids` (B,) from `logits` (B, V) by `noise` (B, V), which is overwritten.

        The largest of the logits plus Gumbel noise is a draw from their softmax (Maddison et al. 2014).
        """
        if self.top_k or self.top_p < 1:
            logits = self._kept(logits)
        np.add(logits, noise, noise)
        noise.argmax(1, ids)  # by position, and the array's own: a third of the time

    def _kept(self, logits: Array) -> Array:
        """`logits` (B, V), minus infinity for all characters but those that top_k and top_p keep."""
        order = np.argsort(-logits, axis=1, kind="stable")  # of equals the first
        best = np.take_along_axis(logits, order, axis=1).astype(np.float64)
        if self.top_k:
            best[:, self.top_k :] = -np.inf
        if self.top_p < 1 and self.temperature:
            p = np.exp((best - best[:, :1]) / max(self.temperature, 1e-290))  # still a number for any logits
            before = np.cumsum(p, axis=1) - p
            best[before >= self.top_p * p.sum(axis=1, keepdims=True)] = -np.inf
        kept = np.empty_like(logits)
        np.put_along_axis(kept, order, best.astype(np.float32), axis=1)
        return kept


class Model:
    """A trained model: it writes (`sample`, `generate`) and says how well it knows a text (`score`, `bits_per_character`)."""

    def __init__(self, tensors: checkpoint.Tensors, header: checkpoint.Header, path: Path | None = None):
        self.header, self.path = header, path
        self.vocabulary = Vocabulary(header["vocabulary"], header.get("unknown", False))
        self.start = int(self.vocabulary.encode(header["start"])[0])
        self.network = Network(header["config"], tensors)
        self.records: str | None = header.get("records")  # "line" or "paragraph", where each is a sequence of its own
        self._prints = tensors.get(checkpoint.FINGERPRINT)

    def __repr__(self) -> str:
        c = self.header["config"]
        return f"<Model {self.path}: {c['num_layers']} x {c['hidden_size']} {c['cell']}, {len(self.vocabulary)} characters>"

    def unknown(self, text: str) -> str:
        """The characters of `text` that the model has never seen, each once."""
        ids = self.vocabulary.encode(text)
        outside = (-1, self.vocabulary.unknown)
        return "".join(dict.fromkeys(c for c, i in zip(text, ids, strict=True) if i in outside))

    def generate(
        self,
        prime: str = "",
        length: int = 500,
        sampler: Sampler | None = None,
        seed: int | np.random.SeedSequence | None = None,
        count: int = 1,
    ) -> Iterator[list[str]]:
        """Write `count` texts side by side: yields, `length` times, a list of the next character of each.

        The network first reads `prime`; its unknown characters are skipped. Without a prime it begins as after a line
        break (or, where there is none in its vocabulary, after the most frequent character). Text k depends on the seed
        and on k alone, not on `count` (but for the rounding of the products, which can tip a rare near-tie).
        """
        sampler = sampler or Sampler()
        if length < 0 or count < 1:
            raise CharrnnError(f"can't write {count} texts of {length} characters")
        seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        generators = [np.random.default_rng(child) for child in seeds.spawn(count)]
        ids = self.vocabulary.encode(prime)
        ids = ids[ids >= 0]
        first = self.network.initial_state(1)
        for i in [*([self.start] if self.records or not len(ids) else []), *ids.tolist()]:
            first.step([i])
        state = self.network.initial_state(count)
        state.logits[:] = first.logits
        for part, known in zip(chain.from_iterable(state), chain.from_iterable(first), strict=True):
            part[:] = known
        V, characters = len(self.vocabulary), self.vocabulary.characters
        block = max(1, min(64, NOISE // (count * V)))  # steps
        noise = np.empty((block, count, V), np.float32)
        for n in range(length):
            if n % block == 0:
                for k, generator in enumerate(generators):
                    noise[:, k] = sampler.noise(generator, (block, V))
            if n:
                state.advance()
            if self.vocabulary.unknown is not None:
                state.logits[:, self.vocabulary.unknown] = -np.inf  # the symbol is not a character to write
            sampler.draw(state.logits, noise[n % block], state.ids)
            yield [characters[i] for i in state.ids.tolist()]

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

        A model of records writes on to the end of one, and no more than `length` characters.

        >>> load("runs/hihello").sample("h", length=6, greedy=True)  # doctest: +SKIP
        'ihello'
        """
        sampler = Sampler(temperature, top_k, top_p, greedy)
        if self.records:
            return next(self.write_records(prime, length, sampler, seed, 1))[len(prime) :]
        return "".join(step[0] for step in self.generate(prime, length, sampler, seed))

    def write_records(
        self,
        prime: str = "",
        length: int = 1000,
        sampler: Sampler | None = None,
        seed: int | None = None,
        together: int = STREAMS,
    ) -> Iterator[str]:
        """Write one record after the other, without end: each begins with `prime`, is up to `length` characters longer, and
        stops where the model ends it, its separator left out. `together` are written side by side; record k depends on the
        seed and on k alone. Raises: CharrnnError where the prime holds a separator, or the model knows no records.
        """
        if self.records is None:
            raise CharrnnError(f"{self.path} is not a model of lines or paragraphs")
        separator = SEPARATORS[self.records]
        if separator in prime or prime.startswith("\n"):
            raise CharrnnError(f"the prime {prime!r} is more than the beginning of one {self.records}")
        seeds = np.random.SeedSequence(seed)
        while True:
            texts, open_ = [prime] * together, set(range(together))
            for characters in self.generate(prime, length, sampler, seeds, together):
                for k in list(open_):
                    texts[k] += characters[k]
                    if texts[k].endswith(separator):
                        open_.remove(k)
                        texts[k] = texts[k].removesuffix(separator)
                if not open_:
                    break
            yield from texts

    def is_novel(self, record: str) -> bool:
        """Whether a record was not in the text that the model was given; of n there, one in 2^40 / n is missed."""
        if self._prints is None:
            raise CharrnnError(f"{self.path} is not a model of lines or paragraphs")
        key = digest(record)
        rows, low, high = self._prints, 0, len(self._prints)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if rows[middle].tobytes() < key else (low, middle)
        return not (low < len(rows) and rows[low].tobytes() == key)

    def preview(self, seed: int) -> str:
        """A few lines for whoever watches a training."""
        if self.records is None:
            return self.sample(length=160, temperature=0.8, seed=seed)
        return SEPARATORS[self.records].join(islice(self.write_records("", 160, Sampler(0.8), seed, 5), 5))

    def score(self, text: str | Corpus, watch: Callable[[int, int], None] = lambda done, total: None) -> Score:
        """Score every character of `text`; `watch` is told how far it is. Raises: CharrnnError where it is empty.

        A model of records scores each by itself, and what stands in no record not at all.
        """
        if not len(text):
            raise CharrnnError("nothing to score: the text is empty")
        vocabulary, network = self.vocabulary, self.network
        if self.records:
            whole = join(split(text if isinstance(text, str) else text.text(), self.records)[0], self.records)
            if not whole:
                raise CharrnnError(f"nothing to score: the text has no {self.records}s")
            encoded = vocabulary.encode(whole)
            outlines = bounds(encoded, self.start, self.records)
            known = len(vocabulary), vocabulary.unknown
            result = score_records(network.forward, network.initial_state, encoded, outlines, self.start, *known, watch)
            return replace(result, kind=self.records)
        ids = vocabulary.encode(text) if isinstance(text, str) else text.encoded(vocabulary)
        known = len(vocabulary), vocabulary.unknown
        return score(network.forward, network.initial_state, ids, self.start, *known, len(text) - len(ids), watch)

    def bits_per_character(self, text: str) -> float:
        """The cross-entropy of `text` under the model in bits per character: lower is better, 0 is known by heart."""
        return self.score(text).bits_per_character


def load(path: str | Path | None = None) -> Model:
    """Open a model: a run's folder or its `model.safetensors`; without a path, the newest run under `runs/`.

    Raises: CharrnnError where there is none or it can't be read.
    """
    found = checkpoint.find_model(path)
    return Model(*checkpoint.read_model(found), found)
