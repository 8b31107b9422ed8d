"""Try training recipes: a trial is a few settings `name=value` and trains for a fixed number of steps.

    python benchmarks/recipe.py TEXT [NAME=VALUE]... [--trials FILE]

Prints a row of a Markdown table for each trial: its words, the loss on the last tenth of TEXT and on the rest (nats per
character), steps, seconds, characters per second. FILE holds a trial a line; what follows a "|" or a "#" is passed over.
What is not named is as below. Trials to be compared at equal time need steps fitted to the speed of each.
"""

import argparse
import dataclasses
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.commands.train import keep_memory
from charrnn.inference.score import TextBlocks, score
from charrnn.network import optimizer
from charrnn.network.char_rnn import CharRNN
from charrnn.network.config import Config
from charrnn.network.optimizer import Optimizer, orthogonalize
from charrnn.text.corpus import Corpus, count_ids
from charrnn.text.reading import read_corpus
from charrnn.text.vocabulary import Vocabulary
from charrnn.training.batches import Windows

# The coefficients of each iteration by the Polar Express (Amsel et al. 2025); the last ones serve for all that follow.
POLAR = (
    (8.2872, -23.5959, 17.3004),
    (4.1071, -2.9479, 0.5448),
    (3.9487, -2.9089, 0.5518),
    (3.3184, -2.4885, 0.5100),
    (2.3007, -1.6689, 0.4188),
)
State = list[tuple[Tensor, ...]]  # the previous characters (B, ng), then h and c of each layer, each (B, H)


def knob(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Trial:
    """All settings of a trial."""

    steps: int = knob(2000, "steps of the optimizer")
    seed: int = knob(0, "of weights, dropout and fresh starts")
    threads: int = knob(1, "of the processor")
    part: float = knob(1.0, "share of the training text that is learned, from its beginning")
    val: int = knob(0, "validations on the way, told on stderr")
    precision: str = knob("bfloat16", "of the products in the layers and in Muon: bfloat16 or float32")
    # the network
    L: int = knob(1, "layers of LSTM")
    H: int = knob(256, "units of each")
    E: int = knob(32, "numbers that stand for a character")
    res: int = knob(0, "1: each layer but the first adds to what it reads")
    high: int = knob(0, "1: a learned gate mixes each layer but the first with what it reads (highway)")
    norm: int = knob(0, "1: what each layer but the first reads is of mean 0 and variance 1 for each character")
    cat: int = knob(0, "1: the softmax layer reads what all layers give, one beside the other")
    skip: int = knob(0, "1: what a layer adds to is free of dropout")
    ng: int = knob(0, "previous characters whose embeddings the first layer reads, too")
    ngtab: int = knob(0, "1: a table from each character to the logits of the next is learned besides")
    fb: float = knob(1.0, "bias of the forget gate at first")
    orth: int = knob(1, "0: all matrices begin uniform within 1 / sqrt(H), as torch's own, and none orthogonal")
    uni: int = knob(0, "1: the softmax layer's bias begins at the logarithm of how frequent each character is")
    # windows
    B: int = knob(32, "streams side by side")
    T: int = knob(48, "characters of a window")
    T0: int = knob(0, "characters of the first n0 windows, of which whole ones of T are made")
    n0: int = knob(0, "how many windows are of T0 characters")
    fresh: float = knob(50.0, "windows between two fresh starts of a stream, on average; 0: none")
    # steps
    muon: float = knob(0.04, "Muon's highest rate, for the matrices between hidden units; 0: Adam trains them")
    adam: float = knob(0.01, "Adam's highest rate, for all else")
    b1: float = knob(0.9, "Adam's decay of the mean gradient")
    b2: float = knob(0.99, "Adam's decay of the mean square")
    mom: float = knob(0.95, "Muon's momentum")
    mw: int = knob(0, "steps in which it rises from 0.85")
    nor: float = knob(0.0, "NorMuon: rows of equal size, by a running mean square of this decay; 0: not")
    its: int = knob(3, "iterations of Newton-Schulz")
    lazy: int = knob(1, "steps for which a direction of Muon serves")
    polar: int = knob(0, "1: with the coefficients of the Polar Express")
    whole: int = knob(0, "1: each of Muon's matrices is made orthogonal as a whole and not by gate, in steps of equal size")
    emuon: int = knob(0, "1: Muon for the first layer's input matrix, too")
    wd: float = knob(0.0, "weight decay with Adam")
    mwd: float = knob(0.0, "weight decay with Muon")
    clip: float = knob(1.0, "the largest norm of the gradient")
    sched: str = knob("cos", "from the highest rate to zero: cos, lin, trap (level, then linear), sqrt (1 - sqrt at the end)")
    warm: float = knob(0.02, "share of the steps in which the rates rise")
    back: float = knob(0.0, "at a mark of `val` that is not the best: on from the best, at so much of the rates; 0: not")
    ema: float = knob(0.0, "decay of the averaged weights, which are validated as well; 0: none")
    # noise
    drop: float = knob(0.0, "dropout of units between layers and before the softmax")
    wdrop: float = knob(0.0, "dropout of recurrent weights")
    edrop: float = knob(0.0, "dropout of embeddings")
    late: float = knob(0.0, "readings of the text before anything is dropped")
    lsm: float = knob(0.0, "label smoothing")

    @classmethod
    def parse(cls, words: list[str]) -> "Trial":
        """Raises: ValueError for what is no knob or no value of it."""
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        values = {}
        for word in words:
            name, _, value = word.partition("=")
            if name not in kinds:
                raise ValueError(f"{word}: there is no knob {name}")
            values[name] = kinds[name](value)
        trial = cls(**values)
        if trial.sched not in SCHEDULES or trial.precision not in ("bfloat16", "float32"):
            raise ValueError(f"{' '.join(words)}: no such schedule or precision")
        return trial


SCHEDULES = {
    "cos": lambda f: (1 + math.cos(math.pi * f)) / 2,
    "lin": lambda f: 1 - f,
    "trap": lambda f: min(1, (1 - f) / 0.6),
    "sqrt": lambda f: 1 - math.sqrt(max(0, f - 0.3) / 0.7),
}


def rate(trial: Trial, f: float) -> float:
    """The learning rates at the fraction `f` of the steps, as a fraction of their peak."""
    rise = min(1, f / trial.warm) if trial.warm else 1
    return max(rise, 0.1) * SCHEDULES[trial.sched](f)


class Network(CharRNN):
    """The project's network and initialization, with a forward pass that has all settings."""

    def __init__(self, trial: Trial, vocabulary: int):
        super().__init__(Config(vocabulary, cell="lstm", num_layers=trial.L, hidden_size=trial.H, embedding_size=trial.E))
        self.trial, self.dtype, self.readings = trial, getattr(torch, trial.precision), 0.0
        for layer in self.layers:
            layer.bias_ih_l0.data[trial.H : 2 * trial.H] = trial.fb
            for weight in () if trial.orth else layer.all_weights[0][:2]:
                nn.init.uniform_(weight, -(trial.H**-0.5), trial.H**-0.5)
        if trial.cat:
            self.softmax = nn.Linear(trial.L * trial.H, vocabulary)
            nn.init.zeros_(self.softmax.weight)
        self.gates = nn.ModuleList(nn.Linear(trial.H, trial.H) for _ in range(trial.high * (trial.L - 1)))
        self.before = nn.ParameterList(torch.randn(vocabulary, trial.E) / 2 for _ in range(trial.ng))
        self.table = nn.Parameter(torch.zeros(vocabulary, vocabulary)) if trial.ngtab else None

    def initial_state(self, batch_size: int) -> State:
        zeros = torch.zeros(batch_size, self.trial.H, dtype=self.dtype)
        previous = torch.zeros(batch_size, self.trial.ng, dtype=torch.int64)
        return [(previous,), *((zeros.clone(), zeros.clone()) for _ in self.layers)]

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the network over `ids` (T, B). Returns: logits (T, B, V) and the state after them. Dropout while training."""
        a, ((previous,), *states) = self.trial, state
        x = self.embedding(ids)  # (T, B, E)
        known = torch.cat([previous.t(), ids])  # (ng + T, B)
        for k, weight in enumerate(self.before, 1):
            x = x + functional.embedding(known[a.ng - k : len(known) - k], weight)
        x = self.dropped(x, a.edrop).to(self.dtype)
        after: State = [(known[len(known) - a.ng :].t(),)]
        given = []
        for i, (layer, parts) in enumerate(zip(self.layers, states, strict=True)):
            weights = [weight.to(self.dtype) for weight in layer.all_weights[0]]
            weights[1] = functional.dropout(weights[1], a.wdrop, self.dropping)
            inputs = self.dropped(x, a.drop) if i else x
            read = functional.layer_norm(inputs.float(), inputs.shape[-1:]).to(self.dtype) if a.norm and i else inputs
            out, *last = torch.lstm(read, [part[None] for part in parts], weights, True, 1, 0.0, self.training, False, False)
            after.append(tuple(part[0].detach() for part in last))
            if a.high and i:  # Srivastava et al. 2015
                out = torch.lerp(inputs, out, self.gates[i - 1](inputs.float()).sigmoid().to(self.dtype))
            x = (x if a.skip else inputs) + out if a.res and i else out
            given.append(x)
        x = torch.cat(given, -1) if a.cat else x
        logits = functional.linear(self.dropped(x, a.drop), self.softmax.weight.to(self.dtype)).float() + self.softmax.bias
        return logits if self.table is None else logits + functional.embedding(ids, self.table), after

    def dropped(self, x: Tensor, p: float) -> Tensor:
        """Apply dropout to `x` (T, B, D), with the same mask at all time steps."""
        if not (p and self.dropping):
            return x
        return x * ((torch.rand(x.shape[1:]) >= p).to(x.dtype) / (1 - p))

    @property
    def dropping(self) -> bool:
        return self.training and self.readings >= self.trial.late


class Muon:
    """As in `charrnn.network.optimizer`, with all settings; matrices may be (gates * H, any width)."""

    def __init__(self, matrices: list[Tensor], trial: Trial):
        self.matrices, self.trial, self.dtype = matrices, trial, getattr(torch, trial.precision)
        self.momentum = [torch.zeros_like(p) for p in matrices]
        self.steps, self.directions, self.rows = 0, {}, {}  # the latter by the width of the matrices

    @torch.no_grad()
    def step(self, rate: float) -> None:
        a, updates = self.trial, {}  # by the shape of the blocks, which are worked on together
        mom = 0.85 + (a.mom - 0.85) * min(1.0, self.steps / a.mw) if a.mw else a.mom
        for p, momentum in zip(self.matrices, self.momentum, strict=True):
            momentum.mul_(mom).add_(p.grad)
            sizes = (1, -1) if a.whole else (-1, a.H)
            updates.setdefault(p.shape[1], []).append((p, p.grad.add(momentum, alpha=mom).unflatten(0, sizes)))
        for width, group in updates.items():
            if self.steps % a.lazy == 0:
                blocks = torch.cat([update for _, update in group])  # (n, rows, width)
                rows = blocks.shape[1]
                found = self.orthogonal(blocks.mT).mT * math.sqrt(rows / width) if width < rows else self.orthogonal(blocks)
                if a.nor:
                    found = self.evened(found, width)
                self.directions[width] = found.split([len(update) for _, update in group])
            for (p, _), direction in zip(group, self.directions[width], strict=True):
                p.mul_(1 - rate * a.mwd).sub_(direction.flatten(0, 1), alpha=rate)
        self.steps += 1

    def evened(self, found: Tensor, width: int) -> Tensor:
        """NorMuon (Li et al. 2025): normalize each row by its running size, and keep the norm of each block."""
        rows, before = found.square().mean(-1, keepdim=True), self.rows.get(width)
        self.rows[width] = rows if before is None or not before.any() else before.lerp(rows, 1 - self.trial.nor)
        even = found / (self.rows[width].sqrt() + 1e-8)
        return even * (found.norm(dim=(-2, -1), keepdim=True) / (even.norm(dim=(-2, -1), keepdim=True) + 1e-7))

    def orthogonal(self, blocks: Tensor) -> Tensor:
        x, a = blocks.to(self.dtype), self.trial
        if not a.polar:
            return orthogonalize(x, a.its).float()
        x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for i in range(a.its):
            p, q, r = POLAR[min(i, len(POLAR) - 1)]
            gram = torch.bmm(x, x.mT)
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=q, alpha=r), x, beta=p)
        return x.float()


class Scored:
    """The network with the interface that `charrnn.inference.score` needs."""

    def __init__(self, network: Network):
        self.network = network
        self.initial_state = network.initial_state

    @torch.no_grad()
    def forward(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        logits, state = self.network(torch.from_numpy(ids.astype(np.int64)), state)
        return logits.numpy(), state


def validate(network: Network, ids: np.ndarray, vocabulary: Vocabulary) -> float:
    """Nats per character of the held-out text, as the program scores it."""
    start = max(0, int(vocabulary.encode("\n")[0]))
    network.eval()
    result = score(Scored(network), TextBlocks(ids, start), vocabulary)
    network.train()
    return result.nats_per_character


def run(trial: Trial, corpus: Corpus) -> list[str]:
    """Run a trial. Returns: the numbers of its row."""
    torch.set_num_threads(trial.threads)
    torch.manual_seed(trial.seed)
    optimizer.BETAS = trial.b1, trial.b2
    training, held_out = corpus.split(0.1)
    training.stop = int(len(training) * trial.part)
    vocabulary = training.vocabulary()
    ids = training.encoded(vocabulary)[:]
    windows = Windows(ids, trial.B, trial.T, trial.seed)
    short = Windows(ids, trial.B, trial.T0 or trial.T, trial.seed)
    behind = trial.n0 - trial.n0 * short.seq_length // trial.T  # windows that the short ones are ahead in number
    known = held_out.encoded(vocabulary)[:]
    network, draw = Network(trial, len(vocabulary)), np.random.default_rng(trial.seed)
    if trial.uni:
        network.init_output_bias(torch.from_numpy(count_ids(ids, len(vocabulary))))
    matrices = [w for layer in network.layers for w in layer.all_weights[0][:2]][0 if trial.emuon else 1 :]
    muon = Muon(matrices if trial.muon else [], trial)
    others = [p for p in network.parameters() if not any(p is m for m in muon.matrices)]
    adam, params = Optimizer([], others), list(network.parameters())
    average: list[Tensor] = []
    moving = [*(p.data for p in params), *adam.mean, *adam.square, *muon.momentum]
    best, copies, scale = math.inf, moving, 1.0
    state, loss, characters = network.initial_state(trial.B), math.nan, 0
    marks = {trial.steps * k // trial.val for k in range(1, trial.val + 1)} if trial.val else set()
    began = time.perf_counter()
    for step in range(trial.steps):
        batch = short[step] if step < trial.n0 else windows[step - behind]
        if batch.shifts:
            state = [tuple(part.roll(1, 0) for part in parts) for parts in state]
        if trial.fresh and (fresh := torch.from_numpy(draw.random(trial.B) < 1 / trial.fresh)[:, None]).any():
            state[1:] = [tuple(part.masked_fill(fresh, 0) for part in parts) for parts in state[1:]]
        x, y = (torch.from_numpy(ids.astype(np.int64)) for ids in (batch.inputs, batch.targets))  # (T, B)
        network.readings = characters / len(ids)
        logits, state = network(x, state)
        error = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), label_smoothing=trial.lsm)
        network.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(params, trial.clip, foreach=True)
        share = scale * rate(trial, step / trial.steps)
        with torch.no_grad():
            if trial.wd:
                torch._foreach_mul_(others, 1 - share * trial.adam * trial.wd)
            adam.step(step + 1, rate=share * trial.adam, muon_rate=0)
            muon.step(share * trial.muon)
            if trial.ema:
                average = average or [p.clone() for p in params]
                torch._foreach_lerp_(average, params, max(1 / (step + 1), 1 - trial.ema))
        loss = error.item() + 0.98 * (loss - error.item() if step else 0)
        characters += x.numel()
        if step + 1 in marks:
            paused = time.perf_counter()
            figure = validate(network, known, vocabulary)
            cells = ", ".join(f"{parts[1].float().abs().mean():.2f}" for parts in state[1:])
            print(f"step {step + 1}: train {loss:.4f}, val {figure:.4f}, mean size of cells {cells}", file=sys.stderr)
            if figure < best:
                best, copies = figure, [tensor.clone() for tensor in moving]
            elif trial.back:
                scale *= trial.back
                for tensor, copy in zip(moving, copies, strict=True):
                    tensor.copy_(copy)
            began += time.perf_counter() - paused
    seconds = time.perf_counter() - began
    figures = f"{validate(network, known, vocabulary):.4f}"
    if trial.ema:
        for p, mean in zip(params, average, strict=True):
            p.data.copy_(mean)
        figures += f", averaged {validate(network, known, vocabulary):.4f}"
    return [figures, f"{loss:.4f}", f"{trial.steps:,}", f"{seconds:.1f}", f"{characters / seconds:,.0f}"]


def trials(path: str) -> list[list[str]]:
    """The settings on each line that is not empty."""
    with open(path, encoding="utf-8") as lines:
        return [words for line in lines if (words := line.split("#")[0].split("|")[0].split())]


def main() -> None:
    knobs = [f"  {f'{field.name}={field.default}':20} {field.metadata['help']}" for field in dataclasses.fields(Trial)]
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="\n".join(["knobs:", *knobs]), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("words", nargs="*", metavar="NAME=VALUE", help="a trial")
    parser.add_argument("--trials", metavar="FILE", help="more of them, one a line")
    asked = parser.parse_intermixed_args()
    wanted = [*([asked.words] if asked.words or not asked.trials else []), *(trials(asked.trials) if asked.trials else [])]
    try:
        rows = [(" ".join(words), Trial.parse(words)) for words in wanted]
    except ValueError as error:
        parser.error(str(error))
    keep_memory()
    corpus = read_corpus([asked.text])
    print("| trial | val | train | steps | seconds | characters/s |\n| --- | --- | --- | --- | --- | --- |")
    for name, trial in rows:
        print(f"| {name} | {' | '.join(run(trial, corpus))} |", flush=True)


if __name__ == "__main__":
    main()
