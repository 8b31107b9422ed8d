"""`charrnn sample`."""

import io
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.commands.common import (
    ModelArgument,
    ModelOption,
    is_piped,
    load_model,
    option,
    print_notes,
    require_extra,
    say_waiting,
)
from charrnn.errors import CharrnnError
from charrnn.terminal import frame, output

if TYPE_CHECKING:
    from charrnn.inference.model import Model
    from charrnn.inference.sampler import Sampler

TRIES = 20  # records that are drawn at most for each that is asked for, where only novel ones are printed
PRIME = "Text to go on from; it is printed first. A pipe does the same."
LENGTH = "Characters to write; of a line or paragraph at most. [default: 500 or 1000]"
TEMPERATURE = "Below 1 plainer, above 1 wilder; 0 is greedy. [default: 1]"
NOVEL = "Of a model of lines or paragraphs: only those that its text did not hold."
INTERACTIVE = "Write together with the model on this terminal; takes charrnn[write]."
SUGGEST = "With --interactive: offer the N likeliest next characters, 9 at most. [default: 0]"


def sample(
    named: ModelArgument = None,
    model: ModelOption = None,
    prime: Annotated[str | None, option(PRIME, names="-p --prime")] = None,
    prime_file: Annotated[Path | None, option("The same from a file.")] = None,
    length: Annotated[int | None, option(LENGTH, names="-n --length")] = None,
    temperature: Annotated[float, option(TEMPERATURE, names="-t --temperature")] = 1.0,
    top_k: Annotated[int, option("Draw from the K likeliest characters only; 0 is all. [default: 0]")] = 0,
    top_p: Annotated[float, option("Draw from the likeliest characters that reach this probability. [default: 1]")] = 1.0,
    greedy: Annotated[bool, option("Always take the likeliest character.", names="--greedy")] = False,
    seed: Annotated[int | None, option("Repeats a text. [default: another each time]")] = None,
    count: Annotated[int, option("Texts to write, separated by a line of dashes. [default: 1]")] = 1,
    until: Annotated[str | None, option("End a text after it has written this.")] = None,
    novel: Annotated[bool, option(NOVEL, names="--novel")] = False,
    interactive: Annotated[bool, option(INTERACTIVE, names="--interactive")] = False,
    suggest: Annotated[int, option(SUGGEST, metavar="N")] = 0,
) -> None:
    """Write text with a model."""
    from numpy.random import SeedSequence

    from charrnn.inference.sampler import Sampler
    from charrnn.options import require
    from charrnn.text.records import SEPARATORS

    require(prime is None or prime_file is None, "--prime and --prime-file exclude each other")
    require(length is None or length >= 0, f"--length {length} is below 0")
    require(1 <= count <= 100_000, f"--count {count} is not between 1 and 100000")
    require(until != "", "--until is empty; name the text that ends a sample")
    require(seed is None or seed >= 0, f"--seed {seed} is below 0")
    require(0 <= suggest <= 9, f"--suggest {suggest} is not between 0 and 9")
    require(interactive or not suggest, "--suggest goes with --interactive")
    if interactive:
        for name, given in (("--length", length is not None), ("--count", count > 1), ("--until", until), ("--novel", novel)):
            require(not given, f"{name} and --interactive exclude each other: you end the text yourself")
        require_extra("prompt_toolkit", "--interactive", "write")
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy)
    loaded = _load_named(named, model)
    prime = _read_prime(prime, prime_file, loaded.newlines)
    require(loaded.records is not None or not novel, f"--novel: {loaded.path} is not a model of lines or paragraphs")
    if unknown := loaded.unknown(prime):
        fate = "skipped in the prime" if loaded.vocabulary.unknown is None else "read as its unknown symbol"
        output.write_line(f"warning: the model has never seen {', '.join(map(repr, unknown[:20]))}; {fate}")
        print_notes(loaded.hint_at_form(prime))
    if loaded.records:
        prime = prime.removesuffix(SEPARATORS[loaded.records])  # a pipe's last line break
    if interactive:
        _write_together(loaded, prime, sampler=sampler, seed=seed, suggest=suggest)
    elif loaded.records:
        require(until is None, f"--until: {loaded.path} ends each {loaded.records} itself")
        length = 1000 if length is None else length
        together = min(count, 64, loaded.most_together)
        records = loaded.write_records(prime, length=length, sampler=sampler, seed=seed, together=together)
        _print_records(loaded, records, count=count, novel=novel)
    else:
        length = 500 if length is None else length
        most = loaded.most_together
        sizes = [min(most, count - first) for first in range(0, count, most)]
        seeds = SeedSequence(seed)
        groups = [(n, loaded.generate(prime, length=length, sampler=sampler, seed=seeds, count=n)) for n in sizes]
        _print_texts(prime, groups, until)


def _load_named(named: Path | None, model: Path | None) -> "Model":
    """Open the model that is named as an argument or with `-m`. The error for a text in its place says how texts are given."""
    from charrnn.run_folder import is_text

    word = shlex.quote(str(named))
    if named is not None and model is not None:
        raise CharrnnError(f"{named} and -m {model} both name a model; to begin with a text: --prime {word}")
    try:
        return load_model(model if named is None else named)
    except CharrnnError as error:
        if named is not None and is_text(named):
            raise CharrnnError(f"{error}; to continue it: charrnn sample --prime-file {word}") from None
        if named is not None and not os.path.exists(named):
            raise CharrnnError(f"{error}; to begin with this text: charrnn sample --prime {word}") from None
        raise


def _read_prime(prime: str | None, file: Path | None, newlines: str) -> str:
    """The text to go on from: the one that is named, or else what a pipe holds."""
    from charrnn.text.reading import STDIN, read_text

    if file is None and (prime is not None or not is_piped()):
        return prime or ""
    source = STDIN if file is None else str(file)
    try:
        with say_waiting([source], "; for no prompt: --prime ''" if source == STDIN else ""):
            return read_text(source, newlines=newlines)
    except CharrnnError as error:
        if source != STDIN or "empty" not in str(error):
            raise
    return ""


def _print_texts(prime: str, groups: Iterable[tuple[int, Iterable[list[str]]]], until: str | None) -> None:
    """Print the texts of each group, which has so many, each up to `until`; the first of a group as it is written.

    A step of a group has a character of each of its texts.
    """
    writer = output.TextWriter()
    line = "\n" + "-" * 20 + "\n"
    for number, (count, steps) in enumerate(groups):
        rest = [io.StringIO() for _ in range(count)]  # texts 2, 3, ... wait until the first has been written
        ends = [""] * count  # the last characters of each, in which `until` is looked for
        writer.write(line * (number > 0) + prime)
        for characters in steps:
            for k, character in enumerate(characters):
                if until is not None:
                    if ends[k] == until:
                        continue
                    ends[k] = (ends[k] + character)[-len(until) :]
                if k == 0:
                    writer.write(character)
                else:
                    rest[k].write(character)
            if until is not None and all(end == until for end in ends):
                break
        for text in rest[1:]:
            writer.write(line + prime + text.getvalue())
    if sys.stdout.isatty():
        writer.write("\n")


def _print_records(model: "Model", records: Iterable[str], count: int, novel: bool) -> None:
    """Print `count` of the records, only novel ones where asked, out of at most TRIES times as many."""
    from charrnn.text.records import SEPARATORS

    assert model.records is not None
    writer = output.TextWriter()
    printed = dropped = 0
    for record in records:
        if novel and not model.is_novel(record):
            dropped += 1
        else:
            writer.write(("" if not printed else SEPARATORS[model.records][1:]) + record + "\n")
            printed += 1
        if printed == count or printed + dropped == TRIES * count:
            break
    if novel:
        kind = f"{model.records} that is" if dropped == 1 else f"{model.records}s that are"
        output.write_line(f"skipped {dropped:,} {kind} in the training file")
    if printed < count:
        output.write_line(f"warning: {printed:,} of {count:,}: the model repeats its text; it was asked {TRIES} times as often")


def _write_together(model: "Model", prime: str, sampler: "Sampler", seed: int | None, suggest: int) -> None:
    """Hold a session at the terminal; print the text that stands at its end, however it ends."""
    from charrnn.interactive.cowriter import READ_AT_ONCE, CoWriter
    from charrnn.interactive.screen import Interactive

    stdout = output.TextWriter()
    writer = CoWriter(model, sampler=sampler, seed=seed)
    session = Interactive(writer, prime, suggest=suggest, notes=[str(model.path)])
    with frame.WorkDisplay("reading the prime", "characters", scale=1) as reading:
        for at in range(0, len(prime), READ_AT_ONCE):
            writer.reader.read(prime[: at + READ_AT_ONCE])
            reading.progress(min(at + READ_AT_ONCE, len(prime)), len(prime))
    try:
        number = session.run()
    finally:
        _print_session(session.page.text, stdout)
    if number:
        raise typer.Exit(128 + number)


def _print_session(text: str, stdout: output.TextWriter) -> None:
    """Print the text of a session; where standard output can't be written, on the terminal."""
    try:
        stdout.write(text + "\n" * sys.stdout.isatty())
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        for line in text.split("\n"):
            output.write_line(line)
        raise CharrnnError(f"standard output can't be written: {error.strerror or error}; the text stands above", 1) from None
