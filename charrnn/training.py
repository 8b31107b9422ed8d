"""The loop: windows of text in, a model file out. It yields events to whoever watches and prints nothing.

`Run` holds a training run: its text, network, optimizer and place; `Run.events` advances it. `train` is the whole of it as
one call for Python.
"""

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from charrnn import checkpoint, inference, records
from charrnn.checkpoint import HISTORY, MODEL, STATE
from charrnn.corpus import Corpus, Ids, Sliced, Vocabulary, Windows, fit_windows
from charrnn.device import keep_memory, measure_speed, pick_device, pick_precision
from charrnn.errors import CharrnnError
from charrnn.model import CharRNN, Config, State
from charrnn.optimizer import Optimizer
from charrnn.reading import STDIN, Watch, corpus_of, read_corpus
from charrnn.recipe import MUON_FROM, SPEED, Options, Recipe, choose

WARM_UP = 0.02  # the share of the run in which the learning rate rises
MUON_RATE = 4.0  # Muon's learning rate for each one of Adam's
CLIP = 1.0  # the largest norm of the gradient (Pascanu et al. 2013)
VALIDATIONS = 20  # at most, in a run
VALIDATED = 250_000  # characters of the validation text that are scored each time
SAVE_EVERY = 30.0  # seconds between two saves of the state
SAVING = 50.0  # at least so many times as long between two saves as one takes
DIVERGED = 8.0  # uniform guesses' worth: a window with a larger loss, or none that is a number, sets the run back
SETBACKS = 3  # times that a diverged run goes back to its saved state
SMALLER = 0.25  # the learning rate after a setback, as a share of that before
COUNTS, MEASURES = ("step", "characters", "setbacks"), ("seconds", "train_bits")  # of a run, kept in its state
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


@dataclass(frozen=True)
class Setback:
    """The loss diverged: the run goes on from where its state was last saved, with a smaller learning rate."""

    reached: int  # the step at which it happened
    step: int  # the step that it went back to
    learning_rate: float  # the highest from now on


Event = Progress | Validation | Setback


class _StopError(Exception):
    """A validation was asked to end."""


class _DivergedError(CharrnnError):
    """The loss is far beyond a uniform guess's, or it or a weight is no longer finite."""


class Run:
    """A training run in a folder, which it holds alone. Make one with `Run.create` or `Run.resume`."""

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
        windows = recipe.batch_size, recipe.seq_length, recipe.seed
        self.windows: Windows | records.Records = Windows(self.ids, *windows)
        self.fingerprint: dict[str, np.ndarray] = {}
        if recipe.records is not None:
            line_break = int(vocabulary.encode("\n")[0])
            self.windows = records.Records(self.ids, line_break, recipe.records, *windows)
            given = training.text() + ("" if isinstance(origin["options"]["validation"], str) else held_out.text())
            self.fingerprint = {checkpoint.FINGERPRINT: records.prints(records.split(given, recipe.records)[0])}
        torch.manual_seed(recipe.seed)
        sizes = recipe.layers, recipe.hidden_size, recipe.embedding
        config = Config(len(self.vocabulary), recipe.cell, *sizes, recipe.residual)
        self.model = CharRNN(config).to(self.device)
        self.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        matrices = self._matrices_for_muon()
        others = [p for p in self.model.parameters() if not any(p is m for m in matrices)]
        self.optimizer = Optimizer(matrices, others, self.dtype)
        self.state: State = self.model.initial_state(recipe.batch_size) if recipe.records is None else []
        self.step = self.characters = self.setbacks = 0
        self.seconds = 0.0  # spent so far, in earlier sittings too
        self.train_bits = math.log2(len(self.vocabulary))
        self.history: list[dict[str, Any]] = []
        self.saving = 0.0  # seconds that the last save took
        self.lock: checkpoint.Lock | None = None

    @classmethod
    def create(
        cls,
        sources: Sequence[str | Path],
        options: Options,
        out: str | Path | None = None,
        init_from: str | Path | None = None,
        force: bool = False,
        watch: Watch | None = None,
    ) -> tuple["Run", list[str]]:
        """Read the text, choose what the options leave open, and make the run's folder.

        The folder is `out`, or `runs/NAME` after the first source, numbered where a run stands there already; with
        `force` that run is replaced, file by file, as this one writes its own. `watch` is told how much has been read.
        Returns: the run, and notes for the user. Raises: CharrnnError for unusable input.
        """
        if out is not None and not force:
            checkpoint.require_unused(Path(out))
        base = inference.load(init_from) if init_from is not None else None
        if base is not None:
            if options.records not in (None, base.records):
                kind = f"learned {base.records}s" if base.records else "took its text for one sequence"
                raise CharrnnError(f"--by-{options.records}: {base.path} {kind}, and goes on so")
            options = dataclasses.replace(options, records=base.records)
        training, held_out, fingerprint, notes = _read(sources, options, watch)
        if options.validation and not len(held_out):
            notes.append("the text is too short to hold any of it out: the best model is that of the lowest training loss")
        origin = {
            "sources": [str(s) if str(s) == STDIN else str(Path(s).resolve()) for s in sources],
            "fingerprint": fingerprint,
            "options": dataclasses.asdict(options),
        }
        characters = len(training)
        if base is None:
            vocabulary = training.vocabulary(options.max_vocabulary)
            if any("\ud800" <= c <= "\udfff" for c in vocabulary.characters):
                raise CharrnnError(
                    f"the text holds lone surrogates, which are no characters; is {options.encoding} its encoding?"
                )
            if options.records is not None and "\n" not in vocabulary.characters:
                raise CharrnnError(f"--max-vocabulary {options.max_vocabulary} leaves out the line break, which ends a record")
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
        device = pick_device(options.device)
        precision = pick_precision(options.precision, device)
        speed = measure_speed(device, precision) if options.seconds is not None else SPEED
        network = base.header["config"] if base else None
        count = training.text().count(records.SEPARATORS[options.records]) if options.records else 0
        recipe, more = choose(options, characters, len(vocabulary), precision, speed, network, count)
        run = cls(Path(), training, held_out, vocabulary, start, recipe, origin, device)
        if base is not None and base.path is not None:
            run._load_weights(checkpoint.read_model(base.path)[0])
        if isinstance(run.windows, records.Records) and run.windows.cut:
            longest = f"{recipe.records}s are longer than {recipe.seq_length:,} characters"
            more.append(f"{run.windows.cut:,} {longest}; the rest of each is not learned")
        name = "stdin" if not sources or str(sources[0]) == STDIN else Path(sources[0]).resolve().stem or "corpus"
        run.out, run.lock = checkpoint.claim(Path(out) if out is not None else None, name, force)
        return run, notes + more

    @classmethod
    def resume(cls, out: Path, sources: Sequence[str | Path], device: str = "auto", watch: Watch | None = None) -> "Run":
        """Take up the run in `out` where its state was last saved. Without `sources` it reads those it began with.

        Raises: CharrnnError where there is no state, or the text is not the one it began with.
        """
        if not (out / STATE).exists():
            raise CharrnnError(f"{out} has nothing saved to resume; begin it again with the command that began it")
        lock: checkpoint.Lock | None = checkpoint.Lock(out)
        try:
            tensors, header = checkpoint.read_state(out / STATE)
            try:
                origin, recipe = header["origin"], checkpoint.typed(Recipe, header["recipe"])
                options, kept = checkpoint.typed(Options, origin["options"]), [str(source) for source in origin["sources"]]
                Options(
                    dropout=recipe.dropout, learning_rate=recipe.learning_rate, seed=recipe.seed, precision=recipe.precision
                )
                if recipe.records != options.records or header.get("records") != options.records:
                    raise ValueError("its records are of two kinds")
            except (KeyError, TypeError, ValueError, OverflowError, CharrnnError) as error:
                raise _damaged(out, error) from None
            if not sources and STDIN in kept:
                raise CharrnnError(f"{out} was trained on a pipe; pipe the same text in again (charrnn train - --resume)")
            named = [*kept, options.validation] if isinstance(options.validation, str) else kept
            gone = [name for name in named if not (sources or os.path.isfile(name) or os.path.isdir(name))]
            if gone:
                raise CharrnnError(f"the text {gone[0]} is not there any more; name it: charrnn train TEXT --resume -o {out}")
            training, held_out, fingerprint, _ = _read(sources or kept, options, watch)
            if fingerprint != origin.get("fingerprint"):
                raise CharrnnError(
                    f"the text is not the one that {out} was trained on; to train on another, use --init-from {out}"
                )
            device = pick_device(device)
            try:
                config, windows = header["config"], (recipe.batch_size, recipe.seq_length)
                keys = ("cell", "num_layers", "hidden_size", "embedding_size", "residual")
                mine = (recipe.cell, recipe.layers, recipe.hidden_size, recipe.embedding, recipe.residual)
                if tuple(config.get(key, False) for key in keys) != mine:
                    raise ValueError("its recipe is not that of its network")
                vocabulary = Vocabulary(header["vocabulary"], header.get("unknown", False))
                characters = len(training.encoded(vocabulary))
                if characters < 2 or (recipe.records is None and fit_windows(characters, *windows) != windows):
                    raise ValueError("its windows don't fit the text")
                run = cls(out, training, held_out, vocabulary, header["start"], recipe, origin, device)
                run._restore(tensors, header)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise _damaged(out, error) from None
            run.lock, lock = lock, None
            return run
        finally:
            if lock is not None:
                lock.close()

    def events(
        self, options: Options, started: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Train to the length that `options` ask for, saving as it goes; `stop` is asked at each step.

        `started` is when the clock of `--for` began (`time.monotonic`). A loss that diverges sets the run back to its saved
        state with a smaller learning rate, SETBACKS times at most. Raises: CharrnnError (status 1) when it diverges after
        that, or a file can't be written.
        """
        keep_memory()
        self.lock = self.lock or checkpoint.Lock(self.out)
        try:
            yield from self._events(options, time.monotonic() if started is None else started, stop)
        finally:
            self.lock.close()
            self.lock = None

    def _events(self, options: Options, started: float, stop: Callable[[], bool]) -> Iterator[Event]:
        self.origin["options"] |= {"seconds": options.seconds, "epochs": options.epochs, "steps": options.steps}
        earlier, budget = self.seconds, options.seconds
        steps = options.steps or (math.ceil(options.epochs * self.windows.per_epoch) if options.epochs else None)
        self.save()  # says at once where nothing can be saved, and completes what a killed run had begun to write
        per_validation = 0.1 + len(self.validation_ids) / 150_000  # seconds, until one has been measured
        # Validations take at most a twentieth of the time; their saves a fiftieth, at four times what the first one takes,
        # since it has neither moments nor a model to write.
        affordable = math.inf if budget is None else budget / max(per_validation / 0.04, 4 * self.saving / 0.02)
        planned = int(max(1, min(VALIDATIONS, affordable)))
        begun, seen = time.monotonic(), self.characters
        shown = saved = begun

        def fraction(step: int, seconds: float) -> float:
            if steps is not None:
                return step / steps
            assert budget is not None
            reserve = min(1.1 * per_validation + 0.1, 0.2 * budget)
            return seconds / max(budget - reserve, 1e-9)

        # The run has `planned` marks; a validation is due where one has been passed since the last.
        last, passed = -1, 0
        if self.history:
            last = self.history[-1]["step"]
            passed = int(fraction(last, self.history[-1]["seconds"]) * planned)
        now = fraction(self.step, earlier + time.monotonic() - started)
        while True:
            moment = time.monotonic()
            try:
                if self.step and now < 1 and int(now * planned) > passed and last != self.step:
                    passed = int(now * planned)
                    yield self._validate(now, stop)
                    last = self.step
                    per_validation = max(per_validation, time.monotonic() - moment)
                    saved = time.monotonic()
                elif moment - saved > max(SAVE_EVERY, SAVING * self.saving):
                    self.save()
                    saved = time.monotonic()
                if (now >= 1 and self.step) or stop():  # one step at least, however short the time
                    break
                self._learn(now)
            except _StopError:
                break
            except _DivergedError:
                yield self._set_back()
            moment = time.monotonic()
            self.seconds = earlier + moment - started
            now = fraction(self.step, self.seconds)
            if moment - shown > 0.2:
                shown = moment
                speed = (self.characters - seen) / (moment - begun)
                left = (1 - now) * (self.seconds / now if now else 0.0)
                yield Progress(min(now, 1.0), self.step, self.characters, self.seconds, left, speed, self.train_bits)
        with contextlib.suppress(_StopError):
            if now >= 1 and last != self.step:
                yield self._validate(1.0, stop)
        self.seconds = earlier + time.monotonic() - started
        self.save()
        if self.step and not self.history:  # stopped before its first validation, whose model will replace this one
            self._write_model(self._record(self.learning_rate(now), None))

    @property
    def options(self) -> Options:
        """What the user asked for, with the length that was asked for last."""
        return Options(**self.origin["options"])

    def learning_rate(self, fraction: float) -> float:
        """Linear warm-up, then linearly to zero, fitted to the length of the run."""
        rise = min(1.0, fraction / WARM_UP) if self.step else WARM_UP
        return self._highest_rate() * max(rise, 0.1) * (1 - min(fraction, 1.0))

    def _highest_rate(self) -> float:
        return self.recipe.learning_rate * SMALLER**self.setbacks

    def _learn(self, fraction: float) -> None:
        """One window, one step of the optimizer."""
        inputs, targets, begins, moves_on = self.windows[self.step]
        if moves_on:
            self.state = [tuple(part.roll(1, 0) for part in layer) for layer in self.state]
        if self.recipe.records is not None:  # nothing goes from one batch to the next
            state = self.model.initial_state(len(begins))
        elif begins.any():
            fresh = torch.from_numpy(begins)[:, None].to(self.device)
            state = [tuple(part.masked_fill(fresh, 0.0) for part in layer) for layer in self.state]
        else:
            state = self.state
        x = torch.from_numpy(inputs.astype(np.int64)).to(self.device)  # (T, B)
        y = torch.from_numpy(targets.astype(np.int64)).to(self.device)
        logits, state = self.model(x, state, self.recipe.dropout, self.dtype)
        if self.recipe.records is None:
            self.state = state
        loss = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=records.PAD)
        self.model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP, foreach=True)
        bits = loss.item() / LN2
        if not (bits < DIVERGED * math.log2(len(self.vocabulary) + 1) and math.isfinite(norm.item())):
            raise self._diverged()
        rate = self.learning_rate(fraction)
        self.optimizer.step(self.step + 1, rate, MUON_RATE * rate)
        self.step += 1
        self.characters += int(np.count_nonzero(targets != records.PAD))
        self.train_bits += (bits - self.train_bits) * max(0.02, 1 / self.step)

    def _validate(self, fraction: float, stop: Callable[[], bool]) -> Validation:
        """Score the validation text, save, with the model if it is the best so far, and let it write a line.

        Raises: _StopError as soon as `stop` says so; nothing has changed then.
        """
        result = None

        def forward(ids: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
            if stop():
                raise _StopError
            return self._forward(ids, state)

        if len(self.validation_ids):
            start = int(self.vocabulary.encode(self.start_character)[0])
            network, known = (forward, self.model.initial_state), (len(self.vocabulary), self.vocabulary.unknown)
            if self.recipe.records is None:
                result = inference.score(*network, self.validation_ids, start, *known)
            else:
                bounds = records.bounds(self.validation_ids, start, self.recipe.records)
                result = inference.score_records(*network, self.validation_ids, bounds, start, *known)
        record = self._record(self.learning_rate(fraction), result.bits_per_character if result else None)
        if not math.isfinite(result.bits_per_character if result else self.train_bits):
            raise self._diverged()
        tensors = self._weights()
        self.history.append(record)
        self.save()
        sample = inference.Model(tensors, self._header()).preview(self.step)
        return Validation(record, self._best(), fraction, sample)

    def _record(self, rate: float, bits: float | None) -> dict[str, Any]:
        """The line that says where the run stands, with `bits` per character of the validation text."""
        return {
            "step": self.step,
            "characters": self.characters,
            "seconds": round(self.seconds, 3),
            "train_bits_per_character": self.train_bits,
            "validation_bits_per_character": bits,
            "learning_rate": rate,
        }

    def _figures(self) -> list[float]:
        """What each validation is judged by: the validation text's bits, or without one the training text's."""
        key = "validation_bits_per_character" if len(self.validation_ids) else "train_bits_per_character"
        return [checkpoint.number(record[key]) for record in self.history]

    def _best(self) -> bool:
        """Whether the run was validated at this very step, and better than ever before."""
        *earlier, last = self._figures() or [math.inf]
        return bool(self.history) and self.history[-1]["step"] == self.step and all(last < figure for figure in earlier)

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
        if self.recipe.records is not None:
            header["records"] = self.recipe.records
        return header if self.vocabulary.unknown is None else header | {"unknown": True}

    def _weights(self) -> dict[str, np.ndarray]:
        """A copy of the weights. Raises: CharrnnError (status 1) where one is not finite or beyond all bounds."""
        weights = {name: tensor.float().cpu().numpy().copy() for name, tensor in self.model.state_dict().items()}
        if not all(checkpoint.sound(tensor) for tensor in weights.values()):
            raise self._diverged()
        return weights

    def _diverged(self) -> CharrnnError:
        return _DivergedError(
            f"the loss diverged at step {self.step}; what was saved is whole; take a smaller --learning-rate", 1
        )

    def _set_back(self) -> Setback:
        """Take up the saved state again, with a smaller learning rate. Raises: CharrnnError after SETBACKS times."""
        if self.setbacks == SETBACKS:
            raise self._diverged()
        reached, setbacks = self.step, self.setbacks + 1
        self._restore(*checkpoint.read_state(self.out / STATE))
        self.setbacks = setbacks
        self.save()
        return Setback(reached, self.step, self._highest_rate())

    def _load_weights(self, tensors: dict[str, np.ndarray]) -> None:
        mine = self.model.state_dict()
        self.model.load_state_dict({name: torch.from_numpy(np.array(tensors[name])) for name in mine})

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Everything of the run's state that is a tensor, under its name in the state file."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.tensors().items()}
        tensors |= {f"carried.{i}.{j}": part for i, layer in enumerate(self.state) for j, part in enumerate(layer)}
        return tensors | {"generator": torch.get_rng_state()}

    def save(self) -> None:
        """Write the state, then what follows from it: the model where this step is the best so far, and the history.

        A run killed in between has a state from which the next `save`, the first of a resumed run, writes the rest.
        Raises: CharrnnError (status 1) where the network has diverged or a file can't be written.
        """
        began = time.monotonic()
        self._weights()  # held to be sound before anything is written
        place = {name: getattr(self, name) for name in (*COUNTS, *MEASURES)}
        header = self._header() | {
            "origin": self.origin,
            "recipe": self.recipe.to_dict(),
            "place": place,
            "history": self.history,
        }
        if self.lock is not None:
            self.lock.check()
        tensors = {name: (t.float() if t.is_floating_point() else t).cpu().numpy() for name, t in self._tensors().items()}
        checkpoint.write(self.out / STATE, tensors, header)
        if self._best():
            self._write_model(self.history[-1])
        checkpoint.write_atomically(self.out / HISTORY, "".join(json.dumps(line) + "\n" for line in self.history).encode())
        self.saving = time.monotonic() - began

    def _write_model(self, record: dict[str, Any]) -> None:
        training = {**self.origin, "recipe": self.recipe.to_dict(), **record}
        checkpoint.write(self.out / MODEL, self._weights() | self.fingerprint, self._header() | {"training": training})

    def _restore(self, tensors: dict[str, np.ndarray], header: dict[str, Any]) -> None:
        """Take up a saved state. Raises: KeyError, TypeError, ValueError or RuntimeError where it is not one of this run."""
        place = header["place"]
        self.step, self.characters, self.setbacks = (checkpoint.whole(place[name]) for name in COUNTS)
        self.seconds, self.train_bits = (checkpoint.number(place[name]) for name in MEASURES)
        self.history = list(header["history"])
        for record in self.history:
            checkpoint.whole(record["step"]), checkpoint.number(record["seconds"])
        self._figures()
        self.state = [tuple(part.clone() for part in layer) for layer in self.state]
        mine = self._tensors()
        if mine.keys() != tensors.keys():
            raise ValueError(f"tensor {min(mine.keys() ^ tensors.keys())!r} is missing or unknown")
        for name, tensor in mine.items():
            saved = torch.from_numpy(np.array(tensors[name]))
            if saved.shape != tensor.shape:
                raise ValueError(f"tensor {name!r} is {tuple(saved.shape)}, not {tuple(tensor.shape)}")
            tensor.data.copy_(saved)
        torch.set_rng_state(mine["generator"])


def train(
    corpus: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    watch: Callable[[Event], None] = lambda event: None,
    **options: Any,
) -> inference.Model:
    """Train a model on files or folders and return the best one, which is also saved in the folder `out`.

    `options` are those of `Options`: `seconds`, `epochs` or `steps` (default: five minutes), `cell`, `layers`,
    `hidden_size`, `embedding`, `seq_length`, `batch_size`, `dropout`, `learning_rate`, `validation`, `seed`, `device`,
    `precision`, `encoding`, `max_vocabulary`, `records` ("line" or "paragraph"). `watch` is given each event.
    Raises: CharrnnError for unusable input.

    >>> train("corpora/hihello.txt", steps=50, hidden_size=5, validation=0.0)  # doctest: +SKIP
    <Model runs/hihello/model.safetensors: 1 x 5 lstm, 5 characters>
    """
    sources = [corpus] if isinstance(corpus, (str, Path)) else list(corpus)
    try:
        asked = Options(**{"seconds": None if {"epochs", "steps"} & options.keys() else 300.0, **options})
    except TypeError as error:
        raise CharrnnError(str(error).replace("Options.__init__()", "train()")) from None
    run, _ = Run.create(sources, asked, out, init_from)
    for event in run.events(asked):
        watch(event)
    return inference.load(run.out)


def _damaged(out: Path, error: Exception) -> CharrnnError:
    return CharrnnError(f"{out / STATE} is damaged ({error}); its model may still be good")


def _read(sources: Sequence[str | Path], options: Options, watch: Watch | None) -> tuple[Corpus, Corpus, str, list[str]]:
    """The text to train on, the text to validate on, a hash of both, and notes for the user."""
    corpus = read_corpus(sources, options.encoding, watch)
    if options.records is not None:
        return _read_records(corpus, options.records, options, watch)
    if isinstance(options.validation, str):
        held_out = read_corpus([options.validation], options.encoding, watch)
        return corpus, held_out, f"{corpus.fingerprint} {held_out.fingerprint}", corpus.notes + held_out.notes
    return *corpus.split(options.validation), corpus.fingerprint, corpus.notes


def _read_records(corpus: Corpus, kind: str, options: Options, watch: Watch | None) -> tuple[Corpus, Corpus, str, list[str]]:
    """What `_read` gives, for a text of records: both parts hold whole records, each ended by its separator."""
    training, notes = records.split(corpus.text(), kind)
    notes, fingerprint = corpus.notes + notes, corpus.fingerprint
    if len(set(training)) < 2:
        found = f"{len(training):,} {kind}s, all of them the same" if len(training) > 1 else f"{len(training)} {kind}"
        raise CharrnnError(f"the text holds {found}; --by-{kind} needs at least 2 different ones")
    if isinstance(options.validation, str):
        other = read_corpus([options.validation], options.encoding, watch)
        held_out, more = records.split(other.text(), kind)
        known, given = set(training), len(held_out)
        held_out = [record for record in held_out if record not in known]
        notes += other.notes + more
        fingerprint, dropped = f"{fingerprint} {other.fingerprint}", given - len(held_out)
    else:
        training, held_out, dropped = records.hold_out(training, options.validation, options.seed)
    if dropped:
        notes.append(f"{dropped:,} {kind}s were drawn to be held out but are in the training text too; they are left out")
    return corpus_of(records.join(training, kind)), corpus_of(records.join(held_out, kind)), fingerprint, notes


def _start(text: Corpus, vocabulary: Vocabulary) -> str:
    """The character after which a text begins: a line break or, where there is none, the most frequent one."""
    if "\n" in vocabulary.characters:
        return "\n"
    counts = np.bincount(vocabulary.encode(text.alphabet), text.counts())
    if vocabulary.unknown is not None:
        counts[vocabulary.unknown] = 0
    return vocabulary.characters[int(counts.argmax())]
