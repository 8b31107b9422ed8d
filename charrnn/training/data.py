"""What a run reads: the text to learn and the text to validate on, which share no record. It knows no torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charrnn.errors import CharrnnError
from charrnn.options import Options
from charrnn.text import id_cache, records
from charrnn.text.corpus import Corpus
from charrnn.text.reading import ARCHIVES, STDIN, Watch, corpus_of, read_corpus
from charrnn.text.vocabulary import Vocabulary
from charrnn.training.distributed import ALONE, Group

HELD_OUT = 0.1  # the share of a text that is held out, where nothing else is asked for
TINY = 1_000  # characters; a shorter text is learned whole, by heart: a few words held out of it would say nothing


@dataclass(frozen=True)
class Texts:
    """Both texts of a run."""

    training: Corpus
    held_out: Corpus
    fingerprint: str  # a hash of both
    notes: list[str]  # for the user
    files: list[dict[str, Any]]  # that they were read from; see `Corpus.files`
    validation: str | float  # what was held out


def read_texts(sources: Sequence[str | Path], options: Options, watch: Watch | None, group: Group = ALONE) -> Texts:
    """Read the text of `sources`, and hold out what `options` say."""
    corpus = _read(sources, options.encoding, watch, group)
    notes, fingerprint, files, other = corpus.notes, corpus.fingerprint, corpus.files, None
    if isinstance(options.validation, str):
        other = _read([options.validation], options.encoding, watch, group)
        notes, files = notes + other.notes, files + other.files
        fingerprint = f"{fingerprint} {other.fingerprint}"
    validation = options.validation
    if validation is None:
        validation = HELD_OUT
        if options.records is None and len(corpus) < TINY:
            validation, note = 0.0, f"{len(corpus):,} characters are too few to hold any out; they are learned by heart"
            notes = [*notes, note]
    if options.records is not None:
        share = 0.0 if isinstance(validation, str) else validation
        training, held_out, more = _part_records(corpus, other, options.records, share, options.seed)
        return Texts(training, held_out, fingerprint, notes + more, files, validation)
    training, held_out = (corpus, other) if other is not None else corpus.split(float(validation))
    return Texts(training, held_out, fingerprint, notes, files, validation)


def require_there(sources: Sequence[str], validation: Any, cure: str) -> None:
    """Raise CharrnnError where a text that a run read is not there any more; `cure` says what to do about it."""
    for name in [*sources, validation] if isinstance(validation, str) else sources:
        if not (os.path.isfile(name) or os.path.isdir(name)):
            raise CharrnnError(f"the text {name} is not there any more; {cure}")


def _read(sources: Sequence[str | Path], encoding: str, watch: Watch | None, group: Group) -> Corpus:
    """Read a text; on each machine its first rank does, and the others open the ids that it has kept, where they are many."""
    if group.size > 1 and STDIN in map(str, sources):
        raise CharrnnError("several ranks can't share standard input; name files or folders")
    corpus = None
    with group.patiently():
        if group.local_rank == 0:
            corpus = read_corpus(sources, encoding, watch)
    path = group.meet(corpus.path if corpus is not None else None)[group.rank - group.local_rank]
    if corpus is not None:
        return corpus
    kept = id_cache.load(path, checked=True) if path is not None else None
    return kept[0] if kept is not None else read_corpus(sources, encoding)


def _part_records(
    corpus: Corpus, other: Corpus | None, kind: str, validation: float, seed: int
) -> tuple[Corpus, Corpus, list[str]]:
    """The text to learn and the text to validate on, of whole records, each ended by its separator; and notes for the user."""
    training, notes = records.split(corpus.text(), kind)
    if len(set(training)) < 2:
        found = f"{len(training):,} {kind}s, all of them the same" if len(training) > 1 else f"{len(training)} {kind}"
        raise CharrnnError(f"the text holds {found}; --by-{kind} needs at least 2 different ones")
    if other is not None:
        held_out, more = records.split(other.text(), kind)
        known, given = set(training), len(held_out)
        held_out = [record for record in held_out if record not in known]
        notes, dropped = notes + more, given - len(held_out)
    else:
        training, held_out, dropped = records.hold_out(training, validation, seed)
    if dropped:
        notes.append(f"{dropped:,} {kind}s were drawn to be held out but are in the training text too; they are left out")
    return corpus_of(records.join(training, kind)), corpus_of(records.join(held_out, kind)), notes


def start_character(text: Corpus, vocabulary: Vocabulary) -> str:
    """The character after which a text begins: a line break or, where there is none, the most frequent one."""
    if "\n" in vocabulary.characters:
        return "\n"
    counts = np.bincount(vocabulary.encode(text.alphabet), text.counts())
    if vocabulary.unknown is not None:
        counts[vocabulary.unknown] = 0
    return vocabulary.characters[int(counts.argmax())]


def name_of(sources: Sequence[str | Path]) -> str:
    """What a run on `sources` is called: after the first of them."""
    if not sources or str(sources[0]) == STDIN:
        return "stdin"
    path = Path(sources[0]).resolve()
    return Path(path.stem if path.suffix in ARCHIVES else path.name).stem or "corpus"


def changes(then: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> str:
    """Which files of a corpus are not what they were, in words; empty where none is known to have changed."""
    old, new = ({str(facts.get("file")): facts.get("hash") for facts in files} for files in (then, now))
    found = [f"{name} has changed" for name in new if name in old and new[name] != old[name]]
    found += [f"{name} is gone" for name in old if name not in new] + [f"{name} is new" for name in new if name not in old]
    return ", ".join(found[:3]) + (f" and {len(found) - 3:,} more" if len(found) > 3 else "")
