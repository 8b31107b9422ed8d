"""`charrnn info`."""

import json
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.commands.common import JsonFlag, ModelArgument, SameModelOption, as_called, longer, pick_model
from charrnn.errors import CharrnnError
from charrnn.terminal import output
from charrnn.text.visible import make_visible

if TYPE_CHECKING:
    from charrnn.headers import Json, ModelHeader, Origin
    from charrnn.options import Options

SHOWN = 100  # characters of a vocabulary to print; --json has all of them
UNSHOWN = ("passes", "most_passes", "shards")  # keys of a recipe: planned, not done; how threads share a step


def info(named: ModelArgument = None, model: SameModelOption = None, as_json: JsonFlag = False) -> None:
    """Describe a model. Shows sizes, vocabulary, losses, and the commands to repeat or continue its run.

    Examples:
    charrnn info
    charrnn info runs/large --json
    """
    from charrnn import checkpoint
    from charrnn.run_folder import MODEL, find_model

    path = find_model(pick_model(named, model))
    written = checkpoint.read(path)[1]  # as it is in the file: older versions have fewer options
    if "forecast" in written:
        raise CharrnnError(f"{path} is a forecast model; charrnn info describes models of text")
    tensors, header = checkpoint.read_model(path)
    parameters = sum(tensor.size for name, tensor in tensors.items() if name != checkpoint.RECORD_HASHES)
    folder = path.parent if path.name == MODEL else None
    origin = header.training.origin
    size = path.stat().st_size
    begin = None if origin is None else _begin_command(origin, folder)
    resume, obstacle = (None, "not possible: it is not in a run's folder") if folder is None else _resume_command(folder)
    if as_json:
        facts = {"model": str(path), "bytes": size} | _facts(header, written, parameters=parameters)
        ways = {"command": begin, "resumable": resume is not None, "resume_command": resume, "resume_obstacle": obstacle}
        print(json.dumps(facts | ways))
        return
    file = f"{size:,} bytes, format {header.format}, written by charrnn {header.version}"
    rows = {"model": str(path), "file": file} | _rows(header, written, parameters=parameters)
    if folder is not None or begin is not None:
        rows |= {"repeat": as_called(begin or "unknown"), "continue": as_called(resume or str(obstacle))}
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(f"{name:<{width}}{make_visible(value, keep='')}")


def _facts(header: "ModelHeader", written: "Json", parameters: int) -> "Json":
    """The facts for `--json`; None for what the file lacks."""
    from charrnn.headers import Metrics

    origin, recipe, metrics = header.training.origin, header.training.recipe, header.training.metrics
    given = written["training"] if origin or recipe else {}
    training: Json = {"sources": origin.sources if origin else [], "fingerprint": origin.corpus_hash if origin else None}
    training |= {"options": given["options"] if origin else {}, "recipe": given["recipe"] if recipe else {}}
    training |= {field.name: getattr(metrics, field.name, None) for field in fields(Metrics) if field.name != "sample"}
    said = {name: getattr(header, name) for name in ("vocabulary", "unknown", "start", "records")}
    facts = {"format": header.format, "version": header.version, "config": {"residual": False, **written["config"]}}
    return facts | {"parameters": parameters} | said | {"training": training}


def _rows(header: "ModelHeader", written: "Json", parameters: int) -> dict[str, str]:
    """The facts as lines of text."""
    config = header.config
    metrics = header.training.metrics
    vocabulary = header.vocabulary[:SHOWN] + ("..." if len(header.vocabulary) > SHOWN else "")
    rows = {
        "network": config.describe(),
        "": f"embedding {config.embedding_size}" if config.embedding_size else "one-hot input",
        "parameters": f"{parameters:,}",
        "vocabulary": f"{config.vocabulary_size:,} characters: {vocabulary}",
    }
    if header.records:
        rows["records"] = f"each {header.records} is a separate sequence"
    if metrics:
        spent = output.duration(metrics.seconds)
        epochs = "" if metrics.epochs is None else f"{output.count_epochs(metrics.epochs)}, "
        rows["trained"] = f"{epochs}{metrics.step:,} steps, {metrics.characters:,} characters, {spent}; its losses:"
        figures = {"validation": metrics.validation_bits_per_character, "training": metrics.train_bits_per_character}
        rows |= {f"  {name}": f"{bits:.4f} bits per character" for name, bits in figures.items() if bits is not None}
    if header.training.recipe:
        chosen = written["training"]["recipe"].items()
        said = [f"{name.replace('_', ' ')} {value}" for name, value in chosen if value is not None and name not in UNSHOWN]
        rows["settings"] = ", ".join(said)
    if header.training.origin:
        rows["text"] = ", ".join(header.training.origin.sources)
    return rows


def _begin_command(origin: "Origin", out: Path | None) -> str:
    """The command that trains such a model, with the length of the last session."""
    from charrnn.options import Options, flag_of

    words = ["charrnn", "train", *origin.sources, *_length_flags(origin.options)]
    for name, default in vars(Options()).items():
        value = getattr(origin.options, name)
        if name == "records" and value:
            words.append(f"--by-{value}")
        elif value != default and name not in ("seconds", "epochs", "steps"):
            words.append(f"{flag_of(name)}={value}")
    words += [] if origin.init_from is None else [f"--init-from={origin.init_from}"]
    return shlex.join(words if out is None else [*words, "-o", str(out)])


def _length_flags(options: "Options") -> list[str]:
    """The option for the run's length."""
    if options.seconds is not None:
        return [f"--for={options.seconds:.12g}s"]
    if options.epochs is not None:
        return [f"--epochs={options.epochs:g}"]
    return [] if options.steps is None else [f"--steps={options.steps}"]


def _resume_command(folder: Path) -> tuple[str | None, str | None]:
    """The command that continues the run in `folder` (a completed one for as long again), or why there is none."""
    from charrnn.checkpoint import read_state
    from charrnn.run_folder import STATE
    from charrnn.text.reading import STDIN
    from charrnn.training.sources import require_there

    state = folder / STATE
    if not state.exists():
        return None, f"not possible: {state} does not exist"
    try:
        header = read_state(state)[1]
        origin = header.origin
        words = ["charrnn", "train", "--resume", "-o", str(folder)]
        last = header.history[-1] if header.history else None
        if last and last.step == header.counters.step and not last.learning_rate:  # the run is complete
            option = longer(origin.options, header.recipe.max_epochs, header.counters, epochs=last.epochs or 0)
            words.append(option.replace(" ", "="))
        if STDIN in origin.sources:
            return f"{shlex.join([*words, STDIN])} < THE_SAME_TEXT", None
        require_there(origin, f"name it: charrnn train TEXT --resume -o {shlex.quote(str(folder))}")
    except CharrnnError as error:
        return None, f"not possible: {error}"
    return shlex.join(words), None
