"""Train the base model `english` and pack it into the package.

    python benchmarks/english.py text BOOKS FOLDER    # the training text and the held-out text, in FOLDER
    python benchmarks/english.py train FOLDER [--device cuda] [--resume]    # minutes on a GPU, hours on two cores
    python benchmarks/english.py pack FOLDER          # into charrnn/bases/, in half precision; prints what rounding costs

BOOKS is a folder of public-domain books (*.txt), which stay outside of the project.
"""

import argparse
import collections
import random
import re
import textwrap
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
    "batch_size": 64,
    "seq_length": 128,
    "dropout": 0.0,
    "learning_rate": 0.0125,
}
REGULARIZATION = {"recurrent_dropout": 0.0, "weight_decay": 0.03}  # lighter than is chosen for this many epochs
STEPS = 24_000
HELD_OUT = ("howards-end", "kidnapped", "my-man-jeeves", "northanger-abbey", "the-call-of-the-wild")
SCORED = 50_000  # characters of each held-out book that are scored during the training
RARE = 20  # a character that comes less often in all books is left out
CHUNK = 30_000  # characters that share one style
COMMON = 25  # a capitalized word that is in so many books is no name
STRAIGHT = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'"})


def clean(text: str) -> str:
    """The text of a book without credits, long gaps and no-break spaces."""
    text = text.replace("\r\n", "\n").replace("\xa0", " ")
    text = re.sub(r"\A\s*(Produced|Transcribed|E-text prepared) by.*?\n\n", "", text, flags=re.DOTALL)
    return re.sub(r"\n{4,}", "\n\n\n", text).strip("\n")


def unwrap(paragraph: str) -> str:
    """Join the lines of a paragraph of prose; verse and tables keep their lines."""
    lines = paragraph.split("\n")
    is_prose = all(len(line) > 50 for line in lines[:-1]) and not any(line.startswith(" ") for line in lines[1:])
    return " ".join(lines) if is_prose else paragraph


def find_names(books: list[str]) -> set[str]:
    """Words that are nearly always capitalized, also within sentences, and only in a few books."""
    capitalized: collections.Counter[str] = collections.Counter()
    lower: collections.Counter[str] = collections.Counter()
    spread: collections.Counter[str] = collections.Counter()
    for book in books:
        own = collections.Counter(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b", book))
        capitalized.update(own)
        spread.update(own.keys())
        lower.update(re.findall(r"\b[a-z]{3,}\b", book))
    return {
        word for word, count in capitalized.items() if count > 2 and spread[word] < COMMON and 20 * lower[word.lower()] < count
    }


def rename(text: str, names: list[str], known: set[str], rng: random.Random) -> str:
    """Give each name in `text` another one, so that the model learns what names look like and no single name."""
    chosen: dict[str, str] = {}

    def other(match: re.Match[str]) -> str:
        word = match[0]
        if word not in known:
            return word
        if word not in chosen:
            chosen[word] = rng.choice(names)
        return chosen[word]

    return re.sub(r"\b[A-Z][a-z]{2,}\b", other, text)


def restyle(paragraphs: list[str], rng: random.Random) -> str:
    """Set a part of a book in one of the ways in which people type: wrapped or not, quotes, dashes, emphasis, capitals."""
    layout = rng.choice(["kept", "joined", "joined", "wrapped"])
    if layout != "kept":
        paragraphs = [unwrap(paragraph) for paragraph in paragraphs]
    if layout == "wrapped":
        width = rng.randint(40, 100)
        paragraphs = [textwrap.fill(p, width) if "\n" not in p and len(p) > width else p for p in paragraphs]
    text = "\n\n".join(paragraphs)
    if rng.random() < 0.6:
        text = text.translate(STRAIGHT)
    dash = rng.choice(["", "--", "—", " - "])
    if dash:
        text = re.sub(r"(?<=\w)(--|—)(?=\w)", dash, text)
    if rng.random() < 0.7:
        text = text.replace("_", "")
    return text.lower() if rng.random() < 0.02 else text


def write_text(books: Path, folder: Path) -> None:
    """Write the training text, and of the books that are held out the parts scored in training and the whole."""
    texts = {path.stem: clean(path.read_text(encoding="utf-8")) for path in sorted(books.glob("*.txt"))}
    counts = collections.Counter("".join(texts.values()))
    rare = {ord(character): None for character, count in counts.items() if count < RARE}
    texts = {name: text.translate(rare) for name, text in texts.items()}
    held_out = [texts.pop(name) for name in HELD_OUT]
    known = find_names(list(texts.values()))
    names = sorted(known)
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.txt", "w", encoding="utf-8") as file:
        for text in texts.values():
            part: list[str] = []
            for paragraph in [*text.split("\n\n"), None]:
                if paragraph is None or sum(map(len, part)) > CHUNK:
                    file.write(rename(restyle(part, rng), names, known, rng) + "\n\n")
                    part = []
                if paragraph is not None:
                    part.append(paragraph)
            file.write("\n")
    joined = ["\n\n".join(map(unwrap, text.split("\n\n"))) if k % 2 else text for k, text in enumerate(held_out)]
    (folder / "held-out.txt").write_text("\n\n\n".join(text[:SCORED] for text in joined), encoding="utf-8")
    (folder / "held-out-books.txt").write_text("\n\n\n".join(joined), encoding="utf-8")
    print(f"{sum(map(len, texts.values())):,} characters, {len(counts) - len(rare)} different ones, {len(names):,} names")


def learn(folder: Path, where: str, resume: bool) -> None:
    """Train the model, or resume its training."""
    out = folder / "run"
    with mock.patch.object(device, "choose", changed(choose, REGULARIZATION)):
        if resume:
            train(out=out, resume=True, device=where)
        else:
            text, held_out = folder / "train.txt", folder / "held-out.txt"
            train(text, validation=held_out, steps=STEPS, device=where, out=out, **SETTINGS)


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
