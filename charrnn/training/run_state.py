"""A training run at rest: its text, network, optimizer and folder, and how it is made and taken up again.

What it keeps is in `state`, what it does in `training`.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from charrnn import checkpoint, run_folder
from charrnn.errors import CharrnnError
from charrnn.inference import model
from charrnn.network.char_rnn import CharRNN, Config, State
from charrnn.network.optimizer import Optimizer
from charrnn.options import Options, Recipe
from charrnn.run_folder import CORPUS, STATE
from charrnn.text import records
from charrnn.text.corpus import Corpus, Sliced, frequencies
from charrnn.text.reading import STDIN, Watch
from charrnn.text.vocabulary import Ids, Vocabulary
from charrnn.training import batches
from charrnn.training.batches import Windows, fit_windows
from charrnn.training.data import changes, name_of, read_texts, require_there, start_character
from charrnn.training.device import advice, measure_speed, pick_device, pick_precision
from charrnn.training.distributed import ALONE, Group
from charrnn.training.kept import Kept
from charrnn.training.recipe import MUON_FROM, SPEED, choose
from charrnn.training.sampled_softmax import SampledSoftmax

VALIDATED = 250_000  # characters of the validation text, at most, that are scored each time
LEAST_VALIDATED = 20_000  # of them, however large the vocabulary
LOGITS = 125_000_000  # that this takes, above that least


class RunState(Kept):
    """A training run in a folder, which it holds alone. Make one with `create` or `resume`."""

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
        group: Group = ALONE,
    ):
        self.group = group
        self.out, self.recipe, self.origin, self.start_character = out, recipe, origin, start
        self.vocabulary = vocabulary
        self.device = torch.device(device)
        self.ids: Sliced = training.encoded(vocabulary)
        counts = frequencies(self.ids, len(vocabulary))
        self.shortlist = SampledSoftmax.of(counts)
        self.validation_ids: Ids = held_out.ids(vocabulary, 0, validation_length(len(vocabulary)))
        windows = recipe.batch_size, recipe.seq_length, recipe.seed
        if recipe.batch_size < group.size:
            cure = "take a larger --batch-size, a longer text or fewer ranks"
            raise CharrnnError(f"a batch of {recipe.batch_size} can't be shared by {group.size} ranks; {cure}")
        self.windows: Windows | batches.RecordBatches = Windows(self.ids, *windows, group)
        self.fingerprint: dict[str, np.ndarray] = {}
        if recipe.records is not None:
            line_break = int(vocabulary.encode("\n")[0])
            self.windows = batches.RecordBatches(self.ids, line_break, recipe.records, *windows, group)
            given = training.text() + ("" if isinstance(origin["options"]["validation"], str) else held_out.text())
            self.fingerprint = {checkpoint.FINGERPRINT: records.prints(records.split(given, recipe.records)[0])}
        torch.manual_seed(recipe.seed)
        sizes = recipe.layers, recipe.hidden_size, recipe.embedding
        config = Config(len(self.vocabulary), recipe.cell, *sizes, recipe.residual)
        self.model = CharRNN(config)
        self.model.guess(torch.from_numpy(counts))
        self.model.to(self.device)
        self.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        matrices = self._matrices_for_muon()
        others = [p for p in self.model.parameters() if not any(p is m for m in matrices)]
        self.optimizer = Optimizer(matrices, others, self.dtype)
        self.network = group.averaging(self.model)  # to learn with; it has the same weights
        mine = group.part(recipe.batch_size)  # of the streams
        self.state: State = self.model.initial_state(mine.stop - mine.start) if recipe.records is None else []
        self.step = self.characters = self.setbacks = 0
        self.seconds = 0.0  # spent so far, in earlier sittings too
        self.train_bits = math.log2(len(self.vocabulary))
        self.history: list[dict[str, Any]] = []
        self.saving = 0.0  # seconds that the last save took
        self.notes: list[str] = []  # for the user, on how it is taken up again
        if group.rank:  # the weights are the same on all ranks, what dropout silences is not
            self._seed()
        self.lock: run_folder.Lock | None = None

    @classmethod
    def create(
        cls,
        sources: Sequence[str | Path],
        options: Options,
        out: str | Path | None = None,
        init_from: str | Path | None = None,
        force: bool = False,
        watch: Watch | None = None,
        group: Group = ALONE,
    ) -> tuple[Self, list[str]]:
        """Read the text, choose what the options leave open, and make the run's folder.

        The folder is `out`, or `runs/NAME` after the first source, numbered where a run stands there already; with
        `force` that run is replaced, file by file, as this one writes its own. `watch` is told how much has been read.
        Of several ranks the first one chooses, and the folder is its own.
        Returns: the run, and notes for the user. Raises: CharrnnError for unusable input.
        """
        if out is not None and not force and group.rank == 0:
            run_folder.require_unused(Path(out))
        base = group.share(lambda: model.load(init_from) if init_from is not None else None)
        if base is not None:
            if options.records not in (None, base.records):
                kind = f"learned {base.records}s" if base.records else "took its text for one sequence"
                raise CharrnnError(f"--by-{options.records}: {base.path} {kind}, and goes on so")
            options = dataclasses.replace(options, records=base.records)
        texts = read_texts(sources, options, watch, group)
        group.require_same({"the text": texts.fingerprint})
        training, held_out, notes = texts.training, texts.held_out, texts.notes
        options = dataclasses.replace(options, validation=texts.validation)
        if options.validation and not len(held_out):
            notes.append("the text is too short to hold any of it out: the best model is that of the lowest training loss")
        origin = {
            "sources": [str(s) if str(s) == STDIN else str(Path(s).resolve()) for s in sources],
            "fingerprint": texts.fingerprint,
            "options": dataclasses.asdict(options),
        }
        if init_from is not None:
            origin["init_from"] = str(Path(init_from).resolve())
        characters = len(training)
        if base is None:
            vocabulary = group.share(lambda: training.vocabulary(options.max_vocabulary))
            if any("\ud800" <= c <= "\udfff" for c in vocabulary.characters):
                raise CharrnnError(
                    f"the text holds lone surrogates, which are no characters; is {options.encoding} its encoding?"
                )
            if options.records is not None and "\n" not in vocabulary.characters:
                raise CharrnnError(f"--max-vocabulary {options.max_vocabulary} leaves out the line break, which ends a record")
            start = group.share(lambda: start_character(training, vocabulary))
        else:
            if options.max_vocabulary is not None:
                raise CharrnnError(f"--max-vocabulary: {base.path} keeps the vocabulary that it has")
            vocabulary, start = base.vocabulary, base.header["start"]
            unknown = base.unknown(training.alphabet)
            if unknown:
                fate = "are left out of the training text" if vocabulary.unknown is None else "are read as its unknown symbol"
                notes.append(f"{base.path} has never seen {unknown[:40]!r}; these characters {fate}")
            characters = len(training.encoded(vocabulary))
        device = pick_device(options.device, group)
        precision = pick_precision(options.precision, device, group)
        shortlist = SampledSoftmax.of(frequencies(training.encoded(vocabulary), len(vocabulary)))
        logits = len(vocabulary) if shortlist is None else shortlist.width
        speed = sum(group.meet(measure_speed(device, precision, logits))) if options.seconds is not None else SPEED
        network = base.header["config"] if base else None
        count = training.text().count(records.SEPARATORS[options.records]) if options.records else 0
        sizes = characters, len(vocabulary), precision, speed, network, count, logits
        recipe, more = group.share(lambda: choose(options, *sizes))
        if options.batch_size is None and recipe.batch_size < group.size:
            recipe, more = group.share(lambda: choose(dataclasses.replace(options, batch_size=group.size), *sizes))
        run = cls(Path(), training, held_out, vocabulary, start, recipe, origin, device, group)
        if base is not None and base.path is not None:
            run._load_weights(checkpoint.read_model(base.path)[0])
        if isinstance(run.windows, batches.RecordBatches) and run.windows.cut:
            longest = f"{recipe.records}s are longer than {recipe.seq_length:,} characters"
            more.append(f"{run.windows.cut:,} {longest}; the rest of each is not learned")
        more += advice(group, run.model, run.windows[0][0].shape, run.dtype)

        def claim() -> Path:
            folder, run.lock = run_folder.claim(Path(out) if out is not None else None, name_of(sources), force)
            if len(texts.files) > 1:  # else it is known which one has changed
                manifest = {"fingerprint": texts.fingerprint, "files": texts.files}
                checkpoint.write_atomically(folder / CORPUS, json.dumps(manifest, indent=1).encode())
            return folder

        run.out = group.share(claim)
        return run, notes + more

    @classmethod
    def resume(
        cls,
        out: Path,
        sources: Sequence[str | Path],
        device: str = "auto",
        watch: Watch | None = None,
        group: Group = ALONE,
    ) -> Self:
        """Take up the run in `out` where its state was last saved. Without `sources` it reads those it began with.

        Of several ranks, in whatever number, the first one reads the state for all.
        Raises: CharrnnError where there is no state, or the text is not the one it began with.
        """
        lock: run_folder.Lock | None = None

        def read() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            nonlocal lock
            if not (out / STATE).exists():
                raise CharrnnError(f"{out} has nothing saved to resume; begin it again with the command that began it")
            lock = run_folder.Lock(out)
            return checkpoint.read_state(out / STATE)

        try:
            tensors, header = group.share(read)
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
            if not sources:
                require_there(kept, options.validation, f"name it: charrnn train TEXT --resume -o {out}")
            texts = read_texts(sources or kept, options, watch, group)
            if texts.fingerprint != origin.get("fingerprint"):
                what = changes(run_folder.read_manifest(out), texts.files)
                raise CharrnnError(
                    f"the text is not the one that {out} was trained on{what and f' ({what})'}; "
                    f"to train on another, use --init-from {out}"
                )
            training, held_out = texts.training, texts.held_out
            device = pick_device(device, group)
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
                run = cls(out, training, held_out, vocabulary, header["start"], recipe, origin, device, group)
                run._restore(tensors, header)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise _damaged(out, error) from None
            run.lock, lock = lock, None
            return run
        finally:
            if lock is not None:
                lock.close()

    @property
    def options(self) -> Options:
        """What the user asked for, with the length that was asked for last."""
        return Options(**self.origin["options"])

    def _matrices_for_muon(self) -> list[torch.Tensor]:
        """The matrices from hidden units to gates, if they are large enough for it to pay."""
        if self.recipe.hidden_size < MUON_FROM:
            return []
        square = [weights for layer in self.model.layers for weights in layer.all_weights[0][:2]]
        return [matrix for i, matrix in enumerate(square) if i]  # not the first layer's input, which is no hidden state

    def _load_weights(self, tensors: dict[str, np.ndarray]) -> None:
        mine = self.model.state_dict()
        self.model.load_state_dict({name: torch.from_numpy(np.array(tensors[name])) for name in mine})


def _damaged(out: Path, error: Exception) -> CharrnnError:
    return CharrnnError(f"{out / STATE} is damaged ({error}); its model may still be good")


def validation_length(vocabulary_size: int) -> int:
    """How many characters of the validation text are scored each time: fewer where each takes thousands of logits.

    >>> validation_length(65), validation_length(5_000), validation_length(50_000)
    (250000, 25000, 20000)
    """
    return max(LEAST_VALIDATED, min(VALIDATED, LOGITS // vocabulary_size))
