"""Train the base model `english` and pack it into the package.

    python benchmarks/english.py text BOOKS FOLDER    # the training text and the held-out text, in FOLDER
    python benchmarks/english.py train FOLDER [--device cuda] [--resume]    # minutes on a GPU, hours on two cores
    python benchmarks/english.py pack FOLDER          # into charrnn/bases/, in half precision; prints what rounding costs

BOOKS is a folder of public-domain books (*.txt), which stay outside of the project.
"""

import argparse
import collections
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from finetune import changed

from charrnn import load, train
from charrnn.checkpoint import read_model, write
from charrnn.headers import model_to_json
from charrnn.run_folder import BASES
from charrnn.training import device
from charrnn.training.recipe import choose

SETTINGS: dict[str, Any] = {
    "layers": 2,
    "hidden_size": 256,
    "batch_size": 256,
    "seq_length": 128,
    "dropout": 0.1,
    "learning_rate": 0.0125,
}
REGULARIZATION = {"recurrent_dropout": 0.0, "weight_decay": 0.03}  # lighter than is chosen for this many epochs
EPOCHS = 16
HELD_OUT = 0.02  # of the end of each book
RARE = 20  # a character that comes less often in all books is left out


def unwrap(text: str) -> str:
    """Join each paragraph of prose to one line, as in most users' texts; verse and tables keep their lines."""
    paragraphs = text.split("\n\n")
    for k, paragraph in enumerate(paragraphs):
        lines = paragraph.strip("\n").split("\n")
        if (
            len(lines) > 1
            and all(len(line) > 50 for line in lines[:-1])
            and not any(line.startswith(" ") for line in lines[1:])
        ):
            paragraphs[k] = " ".join(lines)
    return "\n\n".join(paragraphs)


def write_text(books: Path, folder: Path) -> None:
    """Write the training text and the held-out text. Every other book is unwrapped, so that the model learns both forms."""
    texts = []
    for k, path in enumerate(sorted(books.glob("*.txt"))):
        text = re.sub(r"\n{4,}", "\n\n\n", path.read_text(encoding="utf-8").replace("\r\n", "\n")).strip()
        texts.append((unwrap(text) if k % 2 else text) + "\n\n\n")
    counts = collections.Counter("".join(texts))
    rare = {ord(character): None for character, count in counts.items() if count < RARE}
    texts = [text.translate(rare) for text in texts]
    folder.mkdir(parents=True, exist_ok=True)
    ends = [round(len(text) * (1 - HELD_OUT)) for text in texts]
    (folder / "train.txt").write_text("".join(text[:end] for text, end in zip(texts, ends, strict=True)), encoding="utf-8")
    (folder / "held-out.txt").write_text("".join(text[end:] for text, end in zip(texts, ends, strict=True)), encoding="utf-8")
    print(f"{sum(map(len, texts)):,} characters, {len(counts) - len(rare)} different ones")


def learn(folder: Path, where: str, resume: bool) -> None:
    """Train the model, or resume its training."""
    out = folder / "run"
    with mock.patch.object(device, "choose", changed(choose, REGULARIZATION)):
        if resume:
            train(out=out, resume=True, device=where)
        else:
            text, held_out = folder / "train.txt", folder / "held-out.txt"
            train(text, validation=held_out, epochs=EPOCHS, precision="float32", device=where, out=out, **SETTINGS)


def pack(folder: Path) -> None:
    """Write the best model so far to the package, in half precision, and print how many bits the rounding costs."""
    tensors, header = read_model(folder / "run" / "model.safetensors")
    halved = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    BASES.mkdir(exist_ok=True)
    path = BASES / "english.safetensors"
    write(path, halved, model_to_json(replace(header, training=replace(header.training, origin=None))))
    text = (folder / "held-out.txt").read_text(encoding="utf-8")
    nats = [load(model).score(text).nats_per_character for model in (folder / "run", path)]
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB; held out {nats[0]:.4f} nats a character, rounded {nats[1]:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    text = commands.add_parser("text")
    text.add_argument("books", type=Path)
    text.add_argument("folder", type=Path)
    training = commands.add_parser("train")
    training.add_argument("folder", type=Path)
    training.add_argument("--device", default="auto")
    training.add_argument("--resume", action="store_true")
    commands.add_parser("pack").add_argument("folder", type=Path)
    asked = parser.parse_args()
    if asked.command == "text":
        write_text(asked.books, asked.folder)
    elif asked.command == "pack":
        pack(asked.folder)
    else:
        learn(asked.folder, asked.device, asked.resume)


if __name__ == "__main__":
    main()
