"""`charrnn info`."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from charrnn import run_folder
from charrnn.commands.common import option
from charrnn.errors import CharrnnError
from charrnn.terminal import output

LENGTHS = "seconds", "epochs", "steps"
SHOWN = 100  # characters of a vocabulary that are printed; --json has all of them


def info(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A run's folder or its model file. [default: the newest run under runs/]",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is in a model's file.

    Sizes, vocabulary, how it was trained, its figures, and how to go on with it.
    """
    from charrnn.run_folder import find_model

    facts = describe(find_model(model))
    if as_json:
        print(json.dumps(facts))
        return
    c, best = facts["config"], facts["training"]
    rows = {
        "model": facts["model"],
        "file": f"{facts['bytes']:,} bytes, format {facts['format']}, written by charrnn {facts['version']}",
        "network": f"{c['num_layers']} x {c['hidden_size']} {c['cell']}" if c["num_layers"] else "softmax alone",
        "": f"embedding {c['embedding_size']}" if c["embedding_size"] else "one-hot characters",
        "parameters": f"{facts['parameters']:,}",
        "vocabulary": f"{c['vocabulary_size']:,} characters: {_abridged(facts['vocabulary'])}",
    }
    if facts["records"]:
        rows["records"] = f"each {facts['records']} a sequence of its own"
    if None not in (best["step"], best["characters"], best["seconds"]):
        rows["trained"] = (
            f"{best['step']:,} steps, {best['characters']:,} characters, {output.duration(best['seconds'])}, its best figures:"
        )
        figures = {"validation": best["validation_bits_per_character"], "training": best["train_bits_per_character"]}
        rows |= {f"  {name}": f"{bits:.4f} bits per character" for name, bits in figures.items() if bits is not None}
    recipe = best["recipe"]
    if recipe:
        rows["recipe"] = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in recipe.items() if value is not None)
    if best["sources"]:
        rows["text"] = ", ".join(best["sources"])
    rows |= {"began with": facts["command"] or "unknown", "go on with": facts["resume_command"] or facts["resume_obstacle"]}
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(f"{name:<{width}}{output.printable(str(value), keep='')}")


def describe(path: Path) -> dict[str, Any]:
    """All that is known of the model in the file `path`, for `--json`; a figure that the file lacks is None.

    Raises: CharrnnError where it can't be read.
    """
    from charrnn import checkpoint

    if "forecast" in checkpoint.read(path)[1]:
        raise CharrnnError(f"{path} forecasts numbers; charrnn info is about models of text")
    tensors, header = checkpoint.read_model(path)
    training = header["training"]
    sources, options, recipe = training.get("sources"), training.get("options"), training.get("recipe")
    out = path.parent if path.name == run_folder.MODEL else None
    known = isinstance(sources, list) and isinstance(options, dict)
    going = _resuming(out) if out is not None else (None, "nothing: it lies in no run's folder")
    figures = ("step", "characters", "seconds", "train_bits_per_character", "validation_bits_per_character", "learning_rate")
    return {
        "model": str(path),
        "bytes": path.stat().st_size,
        "format": header["format"],
        "version": str(header.get("version", "unknown")),
        "config": {"residual": False, **header["config"]},
        "parameters": sum(tensor.size for name, tensor in tensors.items() if name != checkpoint.FINGERPRINT),
        "vocabulary": header["vocabulary"],
        "unknown": header.get("unknown", False),
        "start": header["start"],
        "records": header.get("records"),
        "training": {
            "sources": [str(source) for source in sources] if isinstance(sources, list) else [],
            "fingerprint": training.get("fingerprint"),
            "options": options if isinstance(options, dict) else {},
            "recipe": recipe if isinstance(recipe, dict) else {},
            **{name: training[name] if type(training.get(name)) in (int, float) else None for name in figures},
        },
        "command": _command(sources, options, training.get("init_from"), out) if known else None,
        "resumable": going[0] is not None,
        "resume_command": going[0],
        "resume_obstacle": going[1],
    }


def _command(sources: list[Any], options: dict[str, Any], init_from: Any, out: Path | None) -> str:
    """The command that trains such a model, with the length that was asked for last; `init_from` None: none is known."""
    from charrnn.options import Options

    words = ["charrnn", "train", *map(str, sources)]
    for name, default in vars(Options()).items():
        value = options.get(name, default)
        if value == default:
            continue
        if name == "records":
            words.append(f"--by-{value}")
        else:
            words += [_length(name, value)] if name in LENGTHS else [f"--{name.replace('_', '-')}={value}"]
    if init_from is not None:
        words.append(f"--init-from={init_from}")
    return shlex.join(words if out is None else [*words, "-o", str(out)])


def _length(name: str, value: Any) -> str:
    return f"--for={value:g}s" if name == "seconds" else f"--{name}={value:g}" if name == "epochs" else f"--steps={value}"


def _resuming(folder: Path) -> tuple[str | None, str | None]:
    """The command that goes on with the run in `folder`, or why there is none. A run at its end goes on to twice its length."""
    from charrnn import checkpoint
    from charrnn.text.reading import STDIN
    from charrnn.training.data import require_there

    state = folder / run_folder.STATE
    if not state.exists():
        return None, f"nothing: {state} does not exist"
    try:
        header = checkpoint.read_state(state)[1]
        options, history, step = header["origin"]["options"], header["history"], header["place"]["step"]
        sources = [str(source) for source in header["origin"]["sources"]]
        words = ["charrnn", "train", "--resume", "-o", str(folder)]
        if history and history[-1]["step"] == step and not history[-1]["learning_rate"]:  # it has come to its end
            words += [_length(name, 2 * options[name]) for name in LENGTHS if options.get(name) is not None]
        if STDIN in sources:
            return f"{shlex.join([*words, STDIN])} < THE_SAME_TEXT", None
        require_there(sources, options["validation"], f"name it: charrnn train TEXT --resume -o {folder}")
    except CharrnnError as error:
        return None, f"nothing: {error}"
    except (KeyError, TypeError, ValueError, IndexError):
        return None, f"nothing: {state} is damaged"
    return shlex.join(words), None


def _abridged(vocabulary: str) -> str:
    return vocabulary[:SHOWN] + ("..." if len(vocabulary) > SHOWN else "")
