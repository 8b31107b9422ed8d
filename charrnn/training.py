"""The loop: windows of text in, a model file out. It yields events to whoever watches and prints nothing.

`Run` holds a training run: its text, network, optimizer and place; `Run.events` advances it. `train` is the whole of it as
one call for Python.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from charrnn import checkpoint, inference
from charrnn.checkpoint import HISTORY, MODEL, STATE
from charrnn.corpus import Corpus, Ids, Sliced, Vocabulary, Windows
from charrnn.errors import CharrnnError
from charrnn.model import CharRNN, Config, State
from charrnn.muon import Muon
from charrnn.reading import STDIN, Watch, read_corpus
from charrnn.recipe import Options, Recipe, choose, has_bfloat16

WARM_UP = 0.02  # the share of the run in which the learning rate rises
MUON_FROM = 64  # hidden units from which on Muon trains the recurrent matrices; below, and for the rest, it is Adam
MUON_RATE = 4.0  # Muon's learning rate for each one of Adam's
CLIP = 1.0  # the largest norm of the gradient (Pascanu et al. 2013)
VALIDATIONS = 20  # at most, in a run
VALIDATED = 250_000  # characters of the validation text that are scored each time
SAVE_EVERY = 30.0  # seconds between two saves of the state
LN2 = math.log(2)


@dataclass(frozen=True)
class Progress:
    """Where the run stands, several times a second."""

    fraction: float  # of the run, 0 to 1
    step: int
    characters: int  # seen so far
    seconds: float  # spent so far
    seconds_left: float
    characters_per_second: float
    train_bits: float  # bits per character, a running mean


@dataclass(frozen=True)
class Validation:
    """A validation: the line of `history.jsonl`, whether it is the best so far, and what the model writes now."""

    record: dict[str, Any]
    best: bool
    fraction: float
    sample: str


class Run:
    """A training run in a folder. Make one with `Run.create` or `Run.resume`."""

    def __init__(
        self,
        out: Path,
        training: Corpus,
        held_out: Corpus,
        vocabulary: Vocabulary,
        start: str,
        recipe: Recipe,
        origin: dict[str, Any],
        device: str,
    ):
        self.out, self.recipe, self.origin, self.start_character = out, recipe, origin, start
        self.vocabulary = vocabulary
        self.device = torch.device(device)
        self.ids: Sliced = training.encoded(vocabulary)
        self.validation_ids: Ids = held_out.ids(vocabulary, 0, VALIDATED)
        self.windows = Windows(self.ids, recipe.batch_size, recipe.seq_length, recipe.seed)
        torch.manual_seed(recipe.seed)
        config = Config(len(self.vocabulary), recipe.cell, recipe.layers, recipe.hidden_size, recipe.embedding)
        self.model = CharRNN(config).to(self.device)
        self.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        matrices = self._matrices_for_muon()
        rest = [p for p in self.model.parameters() if not any(p is m for m in matrices)]
        fused = self.device.type in ("cpu", "cuda")
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=0.0, betas=(0.9, 0.99), fused=fused)]
        if matrices:
            self.optimizers.append(Muon(matrices, lr=0.0, dtype=self.dtype))
        self.state: State = self.model.initial_state(recipe.batch_size)
        self.step = self.characters = 0
        self.seconds = 0.0  # spent so far, in earlier sittings too
        self.train_bits = math.log2(len(self.vocabulary))
        self.history: list[dict[str, Any]] = []

    @classmethod
    def create(
        cls,
        sources: Sequence[str | Path],
        options: Options,
        out: Path,
        init_from: str | Path | None = None,
        watch: Watch | None = None,
    ) -> tuple["Run", list[str]]:
        """Read the text, choose what the options leave open, and make the run's folder.

        `watch` is told how much of the text has been read.
        Returns: the run, and notes for the user. Raises: CharrnnError for unusable input.
        """
        training, held_out, fingerprint, notes = _read(sources, options, watch)
        if options.validation and not len(held_out):
            notes.append("the text is too short to hold any of it out: the best model is that of the lowest training loss")
        origin = {
            "sources": [str(s) if str(s) == STDIN else str(Path(s).resolve()) for s in sources],
            "fingerprint": fingerprint,
            "options": dataclasses.asdict(options),
        }
        base = inference.load(init_from) if init_from is not None else None
        characters = len(training)
        if base is None:
            vocabulary = training.vocabulary(options.max_vocabulary)
            start = _start(training, vocabulary)
        else:
            if options.max_vocabulary is not None:
                raise CharrnnError(f"--max-vocabulary: {base.path} keeps the vocabulary that it has")
            vocabulary, start = base.vocabulary, base.header["start"]
            unknown = base.unknown(training.alphabet)
            if unknown:
                fate = "are left out of the training text" if vocabulary.unknown is None else "are read as its unknown symbol"
                notes.append(f"{base.path} has never seen {unknown[:40]!r}; these characters {fate}")
            characters = len(training.encoded(vocabulary))
        recipe, more = choose(options, characters, len(vocabulary), base.header["config"] if base else None)
        device = _device(options.device)
        recipe = dataclasses.replace(recipe, precision=_precision(recipe, device))
        run = cls(out, training, held_out, vocabulary, start, recipe, origin, device)
        if base is not None and base.path is not None:
            run._load_weights(checkpoint.read_model(base.path)[0])
        return run, notes + more

    @classmethod
    def resume(cls, out: Path, sources: Sequence[str | Path], device: str = "auto", watch: Watch | None = None) -> "Run":
        """Take up the run in `out` where its state was last saved. Without `sources` it reads those it began with.

        Raises: CharrnnError where there is no state, or the text is not the one it began with.
        """
        tensors, header = checkpoint.read(out / STATE)
        try:
            origin, recipe = header["origin"], Recipe(**header["recipe"])
            options = Options(**origin["options"])
            if not sources and STDIN in origin["sources"]:
                raise CharrnnError(f"{out} was trained on a pipe; pipe the same text in again (charrnn train - --resume)")
            training, held_out, fingerprint, _ = _read(sources or origin["sources"], options, watch)
            if fingerprint != origin["fingerprint"]:
                raise CharrnnError(
                    f"the text is not the one that {out} was trained on; to train on another, use --init-from {out}"
                )
            vocabulary = Vocabulary(header["vocabulary"], header.get("unknown", False))
            run = cls(out, training, held_out, vocabulary, header["start"], recipe, origin, _device(device))
            run._restore(tensors, header)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CharrnnError(f"{out / STATE} is damaged ({error}); its model may still be good") from None
        return run

    def events(
        self, options: Options, started: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Progress | Validation]:
        """Train to the length that `options` ask for, saving as it goes; `stop` is asked at each step.

        `started` is when the clock of `--for` began (`time.monotonic`). Raises: CharrnnError (status 1) when the loss is
        no longer finite or a file can't be written.
        """
        started = time.monotonic() if started is None else started
        self.origin["options"] |= {"seconds": options.seconds, "epochs": options.epochs, "steps": options.steps}
        earlier, budget = self.seconds, options.seconds
        steps = options.steps or (math.ceil(options.epochs * self.windows.per_epoch) if options.epochs else None)
        per_validation = 0.3 + len(self.validation_ids) / 200_000  # seconds, until one has been measured
        affordable = math.inf if budget is None else 0.04 * budget / per_validation  # at most a twentieth of the time
        planned = int(max(1, min(VALIDATIONS, affordable)))
        marks = [(k + 1) / planned for k in range(planned)]
        begun, seen = time.monotonic(), self.characters
        shown = saved = begun

        def fraction() -> float:
            if steps is not None:
                return self.step / steps
            assert budget is not None
            reserve = min(1.1 * per_validation + 0.1, 0.2 * budget)
            return (earlier + time.monotonic() - started) / max(budget - reserve, 1e-9)

        last = self.history[-1]["step"] if self.history else -1
        now = fraction()
        while (now < 1 or not self.step) and not stop():  # one step at least, however short the time
            rate = self._learn(now)
            now = fraction()
            moment = time.monotonic()
            self.seconds = earlier + moment - started
            due = [mark for mark in marks if mark <= now and now < 1]
            if due and last != self.step:
                marks = [mark for mark in marks if mark > now]
                yield self._validate(rate, now)
                last = self.step
                per_validation = max(per_validation, time.monotonic() - moment)
                self.save()
                saved = time.monotonic()
            elif moment - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
            if moment - shown > 0.2:
                shown = moment
                speed = (self.characters - seen) / (moment - begun)
                left = (1 - now) * (self.seconds / now if now else 0.0)
                yield Progress(min(now, 1.0), self.step, self.characters, self.seconds, left, speed, self.train_bits)
        if last != self.step and self.step:
            self.seconds = earlier + time.monotonic() - started
            yield self._validate(self.learning_rate(min(now, 1.0)), min(now, 1.0))
        self.seconds = earlier + time.monotonic() - started
        self.save()

    @property
    def options(self) -> Options:
        """What the user asked for, with the length that was asked for last."""
        return Options(**self.origin["options"])

    def learning_rate(self, fraction: float) -> float:
        """Linear warm-up, then a cosine to zero (Loshchilov & Hutter 2017), fitted to the length of the run."""
        rise = min(1.0, fraction / WARM_UP) if self.step else WARM_UP
        return self.recipe.learning_rate * max(rise, 0.1) * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))

    def _learn(self, fraction: float) -> float:
        """One window, one step of the optimizer; returns the learning rate."""
        inputs, targets, begins, moves_on = self.windows[self.step]
        if moves_on:
            self.state = [tuple(part.roll(1, 0) for part in layer) for layer in self.state]
        if begins.any():
            fresh = torch.from_numpy(begins)[:, None].to(self.device)
            self.state = [tuple(part.masked_fill(fresh, 0.0) for part in layer) for layer in self.state]
        x = torch.from_numpy(inputs.astype(np.int64)).to(self.device)  # (T, B)
        y = torch.from_numpy(targets.astype(np.int64)).to(self.device)
        logits, self.state = self.model(x, self.state, self.recipe.dropout, self.dtype)
        loss = functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        self.model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP, foreach=True)
        bits = loss.item() / LN2
        if not (math.isfinite(bits) and math.isfinite(norm.item())):
            raise CharrnnError(
                f"the loss is no longer finite at step {self.step}; what was saved is whole; take a smaller --learning-rate", 1
            )
        rate = self.learning_rate(fraction)
        for optimizer, scale in zip(self.optimizers, (1.0, MUON_RATE), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
        self.step += 1
        self.characters += x.numel()
        self.train_bits += (bits - self.train_bits) * max(0.02, 1 / self.step)
        return rate

    def _validate(self, rate: float, fraction: float) -> Validation:
        """Score the validation text, keep the model if it is the best so far, and let it write a line."""
        result = None
        if len(self.validation_ids):
            start = int(self.vocabulary.encode(self.start_character)[0])
            result = inference.score(
                self._forward,
                self.model.initial_state,
                self.validation_ids,
                start,
                len(self.vocabulary),
                self.vocabulary.unknown,
            )
        record = {
            "step": self.step,
            "characters": self.characters,
            "seconds": round(self.seconds, 3),
            "train_bits_per_character": self.train_bits,
            "validation_bits_per_character": result.bits_per_character if result else None,
            "learning_rate": rate,
        }
        key = "validation_bits_per_character" if result else "train_bits_per_character"
        figure = result.bits_per_character if result else self.train_bits
        best = math.isfinite(figure) and all(figure < past[key] for past in self.history)
        self.history.append(record)
        tensors, header = (
            self._weights(),
            self._header() | {"training": {**self.origin, "recipe": self.recipe.to_dict(), **record}},
        )
        if best:
            self.out.mkdir(parents=True, exist_ok=True)
            checkpoint.write(self.out / MODEL, tensors, header)
        sample = inference.Model(tensors, header).sample(length=160, temperature=0.8, seed=self.step)
        return Validation(record, best, fraction, sample)

    @torch.no_grad()
    def _forward(self, ids: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        logits, state = self.model(torch.from_numpy(ids.astype(np.int64)).to(self.device), state, dtype=self.dtype)
        return logits.float().cpu().numpy(), state

    def _matrices_for_muon(self) -> list[torch.Tensor]:
        """The matrices from hidden units to gates, if they are large enough for it to pay."""
        if self.recipe.hidden_size < MUON_FROM:
            return []
        square = [weights for layer in self.model.layers for weights in layer.all_weights[0][:2]]
        return [matrix for i, matrix in enumerate(square) if i]  # not the first layer's input, which is no hidden state

    def _header(self) -> dict[str, Any]:
        header = {
            "config": self.model.config.to_dict(),
            "vocabulary": self.vocabulary.characters,
            "start": self.start_character,
        }
        return header if self.vocabulary.unknown is None else header | {"unknown": True}

    def _weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.float().cpu().numpy().copy() for name, tensor in self.model.state_dict().items()}

    def _load_weights(self, tensors: dict[str, np.ndarray]) -> None:
        self.model.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})

    def save(self) -> None:
        """Write `history.jsonl` and then `state.safetensors`, each atomically."""
        tensors = {f"model.{name}": tensor for name, tensor in self._weights().items()}
        for name, parameter in self.model.named_parameters():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{name}.{key}"] = value.cpu().numpy()
        for i, layer in enumerate(self.state):
            tensors |= {f"carried.{i}.{j}": part.float().cpu().numpy() for j, part in enumerate(layer)}
        tensors["generator"] = torch.get_rng_state().numpy()
        place = {"step": self.step, "characters": self.characters, "seconds": self.seconds, "train_bits": self.train_bits}
        header = self._header() | {
            "origin": self.origin,
            "recipe": self.recipe.to_dict(),
            "place": place,
            "history": self.history,
        }
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CharrnnError(f"{self.out} can't be made: {error.strerror or error}", 1) from None
        checkpoint.write_atomically(self.out / HISTORY, "".join(json.dumps(line) + "\n" for line in self.history).encode())
        checkpoint.write(self.out / STATE, tensors, header)

    def _restore(self, tensors: dict[str, np.ndarray], header: dict[str, Any]) -> None:
        self._load_weights({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
        for name, parameter in self.model.named_parameters():
            prefix = f"optimizer.{name}."
            moments = {key.removeprefix(prefix): np.array(t) for key, t in tensors.items() if key.startswith(prefix)}
            optimizer = next(o for o in self.optimizers if any(parameter is p for p in o.param_groups[0]["params"]))
            if moments:
                optimizer.state[parameter] = {key: torch.from_numpy(value) for key, value in moments.items()}
        self.state = [
            tuple(torch.from_numpy(np.array(tensors[f"carried.{i}.{j}"])).to(self.device) for j in range(len(layer)))
            for i, layer in enumerate(self.state)
        ]
        torch.set_rng_state(torch.from_numpy(np.array(tensors["generator"])))
        for name in ("step", "characters", "seconds", "train_bits"):
            setattr(self, name, header["place"][name])
        self.history = header["history"]


def train(
    corpus: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    watch: Callable[[Progress | Validation], None] = lambda event: None,
    **options: Any,
) -> inference.Model:
    """Train a model on files or folders and return the best one, which is also saved in the folder `out`.

    `options` are those of `Options`: `seconds`, `epochs` or `steps` (default: five minutes), `cell`, `layers`,
    `hidden_size`, `embedding`, `seq_length`, `batch_size`, `dropout`, `learning_rate`, `validation`, `seed`, `device`,
    `precision`, `encoding`, `max_vocabulary`. `watch` is given each event. Raises: CharrnnError for unusable input.

    >>> train("corpora/hihello.txt", steps=50, hidden_size=5, validation=0.0)  # doctest: +SKIP
    <Model runs/hihello/model.safetensors: 1 x 5 lstm, 5 characters>
    """
    sources = [corpus] if isinstance(corpus, (str, Path)) else list(corpus)
    try:
        asked = Options(**{"seconds": None if {"epochs", "steps"} & options.keys() else 300.0, **options})
    except TypeError as error:
        raise CharrnnError(str(error).replace("Options.__init__()", "train()")) from None
    folder = new_folder(sources, out)
    run, _ = Run.create(sources, asked, folder, init_from)
    for event in run.events(asked):
        watch(event)
    return inference.load(folder)


def new_folder(sources: Sequence[str | Path], out: str | Path | None) -> Path:
    """The folder of a new run: `out`, or `runs/NAME` after the first source, numbered where a run stands there already.

    Raises: CharrnnError where `out` holds a run or is a file.
    """
    if out is not None:
        folder = Path(out)
        if (folder / MODEL).exists() or (folder / STATE).exists():
            raise CharrnnError(f"{folder} holds a run already; continue it with --resume or name another folder with --out")
        if folder.exists() and not folder.is_dir():
            raise CharrnnError(f"--out {folder} is a file; name a folder")
        return folder
    name = "stdin" if not sources or str(sources[0]) == STDIN else Path(sources[0]).resolve().stem or "corpus"
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def _read(sources: Sequence[str | Path], options: Options, watch: Watch | None) -> tuple[Corpus, Corpus, str, list[str]]:
    """The text to train on, the text to validate on, a hash of both, and notes for the user."""
    corpus = read_corpus(sources, options.encoding, watch)
    if isinstance(options.validation, str):
        held_out = read_corpus([options.validation], options.encoding, watch)
        return corpus, held_out, f"{corpus.fingerprint} {held_out.fingerprint}", corpus.notes + held_out.notes
    return *corpus.split(options.validation), corpus.fingerprint, corpus.notes


def _start(text: Corpus, vocabulary: Vocabulary) -> str:
    """The character after which a text begins: a line break or, where there is none, the most frequent one."""
    if "\n" in vocabulary.characters:
        return "\n"
    counts = np.bincount(vocabulary.encode(text.alphabet), text.counts())
    if vocabulary.unknown is not None:
        counts[vocabulary.unknown] = 0
    return vocabulary.characters[int(counts.argmax())]


def _device(name: str) -> str:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        raise CharrnnError(f"--device {name}: this machine has none that torch can use; take cpu")
    return name


def _precision(recipe: Recipe, device: str) -> str:
    if recipe.precision != "auto":
        return recipe.precision
    native = has_bfloat16() if device == "cpu" else device == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if native and recipe.layers and recipe.hidden_size >= 128 else "float32"
