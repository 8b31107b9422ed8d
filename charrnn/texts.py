"""What a run reads: the text to learn and the text to validate on, which share no record. It knows no torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from charrnn import records
from charrnn.corpus import Corpus, Vocabulary
from charrnn.errors import CharrnnError
from charrnn.reading import Watch, corpus_of, read_corpus
from charrnn.recipe import Options


def read_texts(sources: Sequence[str | Path], options: Options, watch: Watch | None) -> tuple[Corpus, Corpus, str, list[str]]:
    """The text to train on, the text to validate on, a hash of both, and notes for the user."""
    corpus = read_corpus(sources, options.encoding, watch)
    if options.records is not None:
        return _read_records(corpus, options.records, options, watch)
    if isinstance(options.validation, str):
        held_out = read_corpus([options.validation], options.encoding, watch)
        return corpus, held_out, f"{corpus.fingerprint} {held_out.fingerprint}", corpus.notes + held_out.notes
    return *corpus.split(options.validation), corpus.fingerprint, corpus.notes


def _read_records(corpus: Corpus, kind: str, options: Options, watch: Watch | None) -> tuple[Corpus, Corpus, str, list[str]]:
    """What `read_texts` gives, for a text of records: both parts hold whole records, each ended by its separator."""
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


def start_character(text: Corpus, vocabulary: Vocabulary) -> str:
    """The character after which a text begins: a line break or, where there is none, the most frequent one."""
    if "\n" in vocabulary.characters:
        return "\n"
    counts = np.bincount(vocabulary.encode(text.alphabet), text.counts())
    if vocabulary.unknown is not None:
        counts[vocabulary.unknown] = 0
    return vocabulary.characters[int(counts.argmax())]
