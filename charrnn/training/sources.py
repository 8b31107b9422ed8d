"""The sources of a run: reads its texts, splits off the held-out text, names the run, and advises. It does not import torch."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.checkpoint import read_model
from charrnn.errors import CharrnnError, shorten
from charrnn.headers import Origin
from charrnn.options import Options, require
from charrnn.run_folder import BASES, list_bases, read_manifest
from charrnn.text import id_cache, records
from charrnn.text.archives import ARCHIVES
from charrnn.text.corpus import Corpus, SourceFile
from charrnn.text.reading import STDIN, Watch, build_corpus, read_corpus
from charrnn.training.distributed import ALONE, Group

if TYPE_CHECKING:  # `info` imports this module and starts faster without it
    from charrnn.inference.model import Model

SMALL = 2_000_000  # characters; for shorter texts a note suggests a base model
MIN_KNOWN = 0.9  # fraction of the text's characters that a suggested base model must have in its vocabulary
TINY = 1_000  # characters; shorter texts are memorized, since a held-out tenth would be too short to measure anything
HELD_OUT = 0.1  # default fraction of the text held out for validation, of which MAX_VALIDATED characters at most
MAX_VALIDATED = 250_000  # most characters scored per validation

Sources = Sequence[str | Path] | Corpus  # files, folders and pipes; or a text in memory


@dataclass(frozen=True, kw_only=True)
class SplitText:
    """Training text and held-out text of a run."""

    training: Corpus
    held_out: Corpus
    corpus_hash: str  # of both
    notes: list[str]  # for the user
    files: list[SourceFile]  # the source files of both
    validation: str | float  # the held-out fraction, or the name of the validation file


def suggest_base(text: Corpus, options: Options) -> list[str]:
    """A note that suggests a base model, for a small text whose characters nearly all are in the base's vocabulary."""
    asked = (options.num_layers, options.hidden_size, options.embedding_size, options.max_vocabulary)
    if options.cell != "lstm" or asked != (None,) * 4 or not TINY <= len(text) <= SMALL:
        return []
    counts = text.counts()
    for name in list_bases():
        known = read_model(BASES / f"{name}.safetensors")[1].vocabulary
        if sum(counts[k] for k, character in enumerate(text.alphabet) if character in known) >= MIN_KNOWN * len(text):
            return [f"for a text of this length, fine-tuning usually gives a better model: --init-from {name}"]
    return []


def reload_text(out: Path, origin: Origin, sources: Sources, watch: Watch | None, group: Group) -> SplitText:
    """Read the text of the run in `out` again. Raises: CharrnnError if it has changed."""
    name = shlex.quote(str(out))
    if not sources:
        if STDIN in origin.sources:
            raise CharrnnError(f"the text of {out} was piped in; give it again: charrnn train - --resume -o {name}")
        require_there(origin, f"name it: charrnn train TEXT --resume -o {name}")
    text = read_texts(sources or origin.sources, options=origin.options, watch=watch, group=group)
    if text.corpus_hash != origin.corpus_hash:
        what = describe_changes(read_manifest(out), text.files)
        other = f"the text is not the one that {out} was trained on" + (f" ({what})" if what else "")
        raise CharrnnError(f"{other}; to fine-tune the model on this text: --init-from {name}")
    return text


def reread_texts(model: "Model", cure: str, watch: Watch | None = None) -> SplitText:
    """Read the texts of `model` again. Raises: CharrnnError, with `cure` at its end, if they have changed or are gone."""
    folder = model.path.parent if model.path is not None else Path()
    origin = model.header.training.origin
    if origin is None:
        raise CharrnnError(f"{model.path} does not say which text it was trained on; {cure}")
    require(STDIN not in origin.sources, f"{folder} was trained on piped text; {cure}")
    require_there(origin, cure=cure)
    texts = read_texts(origin.sources, origin.options, watch=watch)
    same = texts.corpus_hash == origin.corpus_hash
    require(same, f"the text {origin.sources[0]} is not the one that {folder} was trained on; {cure}")
    return texts


def read_texts(sources: Sources, options: Options, watch: Watch | None = None, group: Group = ALONE) -> SplitText:
    """Read the text of `sources` and split it into training and held-out text. Raises: CharrnnError if it is unusable."""
    corpus = _read(sources, options=options, watch=watch, group=group)
    read = [corpus]
    validation = options.validation
    if isinstance(validation, str):
        read.append(_read([validation], options=options, watch=watch, group=group))
    notes = [note for part in read for note in part.notes]
    if validation is None:
        tiny = options.records is None and len(corpus) < TINY
        validation = 0.0 if tiny else min(HELD_OUT, MAX_VALIDATED / len(corpus))
        if tiny:
            notes.append(f"{len(corpus):,} characters are too few for a validation set; the model memorises them all")
    if options.records is not None:
        training, held_out, record_notes = _split_records(read, replace(options, validation=validation))
        notes += record_notes
    else:
        training, held_out = read if isinstance(validation, str) else corpus.split(validation)
    corpus_hash = " ".join(part.corpus_hash for part in read)
    files = [file for part in read for file in part.files]
    return SplitText(
        training=training, held_out=held_out, corpus_hash=corpus_hash, notes=notes, files=files, validation=validation
    )


def require_there(origin: Origin, cure: str) -> None:
    """Raise CharrnnError if a source file of a run is gone; `cure` tells the user what to do."""
    for name in origin.texts:
        if not (os.path.isfile(name) or os.path.isdir(name)):
            raise CharrnnError(f"the text {name} no longer exists; {cure}")


def _read(sources: Sources, options: Options, watch: Watch | None, group: Group) -> Corpus:
    """Read a text. The first rank of each machine reads the files; the others open its cache, if the text is long."""
    if isinstance(sources, Corpus):
        require(len(sources) > 0, "no text: it is empty")
        if options.newlines == "universal" and "\r" in sources.alphabet:
            return build_corpus(sources.text().replace("\r\n", "\n").replace("\r", "\n"))
        return sources
    if group.size > 1 and STDIN in map(str, sources):
        raise CharrnnError("several ranks can't share standard input; name files or folders")
    how = (sources, options.encoding, options.newlines)
    between = records.SEPARATORS.get(options.records or "line", "")
    with group.wait_for_all():
        corpus = read_corpus(*how, watch, between) if group.local_rank == 0 else None
    path = group.all_gather(corpus.path if corpus is not None else None)[group.rank - group.local_rank]
    if corpus is not None:
        return corpus
    kept = id_cache.load(path, checked=True) if path is not None else None
    return kept[0] if kept is not None else read_corpus(*how, between=between)


def _split_records(read: Sequence[Corpus], options: Options) -> tuple[Corpus, Corpus, list[str]]:
    """Split records into training and held-out text, which share no record. Returns: both, and notes for the user."""
    kind = str(options.records)
    training, notes = records.split(read[0].text(), kind)
    if len(set(training)) < 2:
        count = f"{len(training):,} {kind}s, all of them the same" if len(training) > 1 else f"{len(training)} {kind}"
        raise CharrnnError(f"the text has {count}; --by-{kind} needs at least 2 different ones")
    if len(read) > 1:
        given, split_notes = records.split(read[1].text(), kind)
        notes += split_notes
        learned = set(training)
        held_out = [record for record in given if record not in learned]
        dropped = len(given) - len(held_out)
    else:
        training, held_out, dropped = records.hold_out(training, fraction=float(options.validation or 0.0), seed=options.seed)
    if dropped:
        notes.append(f"left {dropped:,} {kind}s out of the validation set: they are in the training text too")
    return build_corpus(records.join(training, kind)), build_corpus(records.join(held_out, kind)), notes


def name_sources(sources: Sources) -> list[str]:
    """The names of `sources` to store in the run. A text in memory is stored like a pipe."""
    if isinstance(sources, Corpus):
        return [STDIN]
    return [str(s) if str(s) == STDIN else str(Path(s).resolve()) for s in sources]


def move(origin: Origin, sources: Sources) -> Origin:
    """`origin` with the paths of `sources`. A pipe or a text in memory, which can't be read again, leaves the old paths."""
    names = name_sources(sources)
    return origin if not names or STDIN in names else replace(origin, sources=names)


def name_run(sources: Sources) -> str:
    """A folder name for a run on `sources`, after the first one: never hidden (".name"), never a parent ("..")."""
    if isinstance(sources, Corpus):
        return "text"
    if not sources or str(sources[0]) == STDIN:
        return "stdin"
    path = Path(sources[0]).resolve()
    return Path(path.stem if path.suffix in ARCHIVES else path.name).stem.lstrip(".") or "corpus"


def describe_changes(then: Sequence[SourceFile], now: Sequence[SourceFile]) -> str:
    """Tell which files of a corpus have changed, in words; empty if the earlier files are unknown."""
    if not then:
        return ""
    old, new = ({"the pipe" if file.file == STDIN else file.file: file.hash for file in files} for files in (then, now))
    changes = [f"{name} has changed" for name in new if name in old and new[name] != old[name]]
    changes += [f"{name} is gone" for name in old if name not in new] + [f"{name} is new" for name in new if name not in old]
    return shorten(changes)
