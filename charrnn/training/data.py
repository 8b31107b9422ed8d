"""The data of a run: training and validation text as ids. This module does not import torch."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from charrnn.errors import CharrnnError
from charrnn.headers import StateHeader
from charrnn.inference.blocks import RecordBlocks, TextBlocks
from charrnn.options import Options, require
from charrnn.text import records
from charrnn.text.corpus import PIECE, Corpus, Sliced, count_ids
from charrnn.text.reading import Watch
from charrnn.text.records import RecordText, find_records, hash_records
from charrnn.text.vocabulary import Ids, Vocabulary, hint_at_form
from charrnn.training.batches import fit_windows
from charrnn.training.distributed import ALONE, Group
from charrnn.training.recipe import with_sizes_of
from charrnn.training.sources import MAX_VALIDATED, Sources, SplitText, read_texts, suggest_base

if TYPE_CHECKING:  # `info` imports this module and starts faster without it
    from charrnn.inference.model import Model

MIN_VALIDATED = 20_000  # fewest characters scored per validation, if the text is that long
VALIDATION_LOGITS = 125_000_000  # logits computed per validation, between these limits
MAX_LOGITS = 1_000_000_000  # most logits computed per validation: with a million outputs, even MIN_VALIDATED takes too long


class Dataset:
    """Both texts as ids of one vocabulary. `kind` is "line" or "paragraph" for records, None for continuous text."""

    def __init__(self, text: SplitText, kind: str | None, vocabulary: Vocabulary, start: str):
        self.text = text
        self.kind = kind
        self.vocabulary = vocabulary
        self.start = start  # the first input, before the first character of a text
        self.ids: Sliced = text.training.encoded(vocabulary)  # of the training text, without unknown characters
        self.counts = count_ids(self.ids, len(vocabulary))  # (V,) how often each character occurs; estimated in long texts
        self.validation_ids: Ids = text.held_out.ids(vocabulary, 0, validation_length(len(vocabulary)))  # -1: unknown
        self.records: RecordText | None = None  # of the training text
        self.record_hashes: np.ndarray | None = None  # of all records of both texts
        if kind is not None:
            self.records = find_records(self.ids[0 : len(self.ids)], kind=kind, line_break=int(vocabulary.encode("\n")[0]))
            given = text.training.text() + ("" if isinstance(text.validation, str) else text.held_out.text())
            self.record_hashes = hash_records(records.split(given, kind)[0])

    def is_known(self, vocabulary: Vocabulary) -> bool:
        """Whether `vocabulary` covers at least half of the training text's characters."""
        known = self.vocabulary.encode(vocabulary.characters)
        return bool(2 * self.counts[known[known >= 0]].sum() >= self.counts.sum())

    def beginning(self, length: int) -> str:
        """The first `length` characters of the training text."""
        return "".join(self.vocabulary.characters[i] for i in self.ids[0 : min(length, len(self.ids))])

    def validation_blocks(self, group: Group = ALONE) -> TextBlocks | RecordBlocks:
        """This rank's part of the validation text."""
        start = int(self.vocabulary.encode(self.start)[0])
        if self.kind is not None:
            record_text = find_records(self.validation_ids, kind=self.kind, line_break=start)
            return RecordBlocks(record_text[group.rank :: group.size], self.vocabulary)
        known = self.validation_ids[self.validation_ids >= 0]
        unknown = len(self.validation_ids) - len(known) if group.rank == 0 else 0
        return TextBlocks(known, start, unknown=unknown, quick=True, part=group.part)


def load_dataset(sources: Sources, options: Options, base: "Model | None", watch: Watch | None, group: Group) -> Dataset:
    """Read the texts of a new run. The vocabulary extends that of the `base` model, if there is one. Raises: CharrnnError."""
    if base is not None:
        options = with_sizes_of(base.header.config, options)
        options = replace(options, records=options.records or base.records)  # a line-by-line base stays one
    text = read_texts(sources, options=options, watch=watch, group=group)
    group.require_same({"the text": text.corpus_hash})
    if text.validation and not len(text.held_out):
        reason = f"has too few different {options.records}s" if options.records else "is too short"
        text.notes.append(f"the text {reason} for a validation set: the model with the lowest training loss is kept")
    vocabulary, start = choose_vocabulary(text.training, options=options, group=group)
    if base is None:
        text.notes.extend(suggest_base(text.training, options))
    else:
        vocabulary, added = extend_vocabulary(base.vocabulary, vocabulary)
        start = start if options.records else base.header.start
        if added:
            what = "1 character" if len(added) == 1 else f"{len(added):,} characters"
            text.notes.append(f"added {what} to the vocabulary of {base.name}: {added[:40]!r}")
            text.notes.extend(hint_at_form(base.vocabulary, text.training.text(0, PIECE)))
    dataset = Dataset(text, kind=options.records, vocabulary=vocabulary, start=start)
    require(len(dataset.ids) > 1, f"the training text has {len(dataset.ids)} character; at least 2 are needed")
    return dataset


def extend_vocabulary(base: Vocabulary, other: Vocabulary) -> tuple[Vocabulary, str]:
    """Returns: `base` with the new characters of `other` appended, and these characters, sorted by code point."""
    unknown = base.unknown is not None or other.unknown is not None
    added = "".join(sorted(set(other.characters) - set(base.characters)))
    return Vocabulary(base.characters + added, unknown), added


def rebuild_dataset(text: SplitText, header: StateHeader) -> Dataset:
    """Make the dataset of a saved run. Raises: ValueError if the run's batches don't fit the text."""
    vocabulary = Vocabulary(header.model.vocabulary, header.model.unknown)
    dataset = Dataset(text, kind=header.recipe.records, vocabulary=vocabulary, start=header.model.start)
    sizes = (header.recipe.batch_size, header.recipe.seq_length)
    if len(dataset.ids) < 2 or (dataset.kind is None and fit_windows(len(dataset.ids), *sizes) != sizes):
        raise ValueError("its windows don't fit the text")
    return dataset


def validation_length(vocabulary_size: int) -> int:
    """How many characters are scored per validation: fewer for large vocabularies, where each takes thousands of logits.

    >>> validation_length(65), validation_length(5_000), validation_length(50_000), validation_length(1_000_000)
    (250000, 25000, 20000, 1000)
    """
    fewest = min(MIN_VALIDATED, MAX_LOGITS // vocabulary_size)
    return max(fewest, min(MAX_VALIDATED, VALIDATION_LOGITS // vocabulary_size))


def choose_vocabulary(text: Corpus, options: Options, group: Group) -> tuple[Vocabulary, str]:
    """Returns: the vocabulary of a training text, and its start character. Raises: CharrnnError."""
    vocabulary = group.broadcast(lambda: text.vocabulary(options.max_vocabulary))
    if any("\ud800" <= c <= "\udfff" for c in vocabulary.characters):
        raise CharrnnError(f"the text has lone surrogates, which are not characters; is its --encoding {options.encoding}?")
    if options.records is not None and "\n" not in vocabulary.characters:
        cause = f"it drops the line break, which ends each {options.records}"
        raise CharrnnError(f"--max-vocabulary {options.max_vocabulary} is too small: {cause}")
    return vocabulary, group.broadcast(lambda: choose_start(text, vocabulary))


def choose_start(text: Corpus, vocabulary: Vocabulary) -> str:
    """The start character, which is the input before the first one: a line break or, without one, the most frequent."""
    if "\n" in vocabulary.characters:
        return "\n"
    counts = np.bincount(vocabulary.encode(text.alphabet), text.counts())
    if vocabulary.unknown is not None:
        counts[vocabulary.unknown] = 0
    return vocabulary.characters[int(counts.argmax())]
