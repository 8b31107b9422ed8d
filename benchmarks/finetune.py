"""Fine-tune a base model on texts that it has never seen, with the recipe as it is or with some of its settings changed.

    python benchmarks/finetune.py BASE DATA [--texts shakespeare-20k,lamp] [--set learning_rate=0.002,dropout=0.3] ...

BASE is a model, or "-" to train from scratch; DATA is the folder that holds tinyshakespeare.txt and names.txt. Texts are those
below, by name, and files. Each --set is a trial of its own, a list of the recipe's fields with their values; without one the
recipe is as it is chosen. A row for each trial and text: the text, what was set, the best validation in nats per character,
the characters trained on until then, the seconds taken.
"""

import argparse
import math
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from charrnn import train
from charrnn.training import device
from charrnn.training.recipe import choose

ROOT = Path(__file__).parent.parent


def texts(data: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """The texts by name, as keyword arguments of `train`."""
    shakespeare = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    end = len(shakespeare) * 9 // 10
    parts = {"held-out": shakespeare[end:], "20k": shakespeare[:20_000], "50k": shakespeare[:50_190], "all": shakespeare[:end]}
    for name, text in parts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    python = Path(textwrap.__file__).parent / "argparse.py"
    held_out = str(folder / "held-out.txt")
    names = (data / "names.txt").read_text(encoding="utf-8").splitlines()
    return {
        **{f"shakespeare-{n}": {"corpus": folder / f"{n}.txt", "validation": held_out} for n in ("20k", "50k", "all")},
        "lamp": {"corpus": ROOT / "corpora" / "the-lamp.txt"},
        "birds": {"corpus": ROOT / "corpora" / "birds.txt", "records": "line"},
        "names": {"corpus": data / "names.txt", "records": "line", "validation": 1_000 / len(names)},
        "python": {"corpus": python},
    }


def changed(choose: Callable[..., Any], changes: dict[str, float]) -> Callable[..., Any]:
    """`recipe.choose` with some fields of its result changed."""

    def chosen(*arguments: Any) -> Any:
        recipe, notes = choose(*arguments)
        kinds = {name: type(getattr(recipe, name)) for name in changes}
        return replace(recipe, **{name: kinds[name](value) for name, value in changes.items()}), notes

    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("data", type=Path)
    parser.add_argument("--texts", default="shakespeare-20k,shakespeare-50k,lamp,birds,names,python,shakespeare-all")
    parser.add_argument("--for", dest="seconds", type=float, default=60.0)
    parser.add_argument("--set", action="append", default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        known = texts(asked.data, Path(name))
        for text in asked.texts.split(","):
            for number, trial in enumerate(asked.set or [""]):
                changes = {key: float(value) for key, value in (part.split("=") for part in trial.split(",") if part)}
                base = None if asked.base == "-" else asked.base
                began = time.monotonic()
                out = Path(name) / f"{Path(text).stem}-{number}"
                corpus = known.get(text, {"corpus": text})
                with mock.patch.object(device, "choose", changed(choose, changes)):
                    model = train(**corpus, seconds=asked.seconds, out=out, init_from=base, progress=False)
                metrics = model.header.training.metrics
                assert metrics is not None
                nats = metrics.bits * math.log(2)
                row = (text, trial or "as chosen", f"{nats:.4f}", f"{metrics.characters:,}", f"{time.monotonic() - began:.0f}")
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
