"""`charrnn sample`."""

import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.commands.common import (
    ModelArgument,
    SameModelOption,
    is_piped,
    load_model,
    option,
    print_notes,
    require_extra,
    say_waiting,
)
from charrnn.errors import CharrnnError, leave
from charrnn.terminal import frame, output

if TYPE_CHECKING:
    from charrnn.inference.model import Model, Sample
    from charrnn.inference.sampler import Sampler

    Write = Callable[[list[str]], list[Sample]]

TRIES = 20  # with --novel: most texts to write for each one asked for
TOGETHER = 64  # most texts of a batch
MOST_AT_ONCE = 4_000_000  # most characters of a batch
PRIME = "The prompt: a text to continue. It is printed first. You can also pipe it in."
PRIME_LINES = "Continue each line of this file; '-' for standard input."
LENGTH = "Characters to generate. With a model trained by line or paragraph: the maximum for each line or paragraph. "
LENGTH += "-1 never stops. [default: 500; 1000 by line or paragraph]"
UNTIL = "End a text when this string appears in it."
COUNT = "Number of texts, separated by a line of dashes. [default: 1]"
NOVEL = "Skip lines or paragraphs that are in the training text. With a model that is "
NOVEL += "not trained by line or paragraph, skip texts that copy 50 characters in a row from the training text."
TEMPERATURE = "Below 1 is more predictable, above 1 more varied; 0 is greedy. [default: 1]"
TOP_K = "Draw from the K most likely characters only; 0 is off. [default: 0]"
TOP_P = "Nucleus sampling: draw from the smallest set of characters with total probability P. [default: 1]"
JSON = "Print a JSON object for each text, with its prompt and bits per character."
INTERACTIVE = "Write together with the model, in the terminal; needs charrnn[write]."
SUGGEST = "With --interactive: show the N most likely next characters, up to 9. [default: 0]"


def sample(
    named: ModelArgument = None,
    model: SameModelOption = None,
    prime: Annotated[str | None, option(PRIME, "TEXT", names="-p --prime")] = None,
    prime_file: Annotated[Path | None, option("Continue the text in this file.", "FILE")] = None,
    prime_lines: Annotated[Path | None, option(PRIME_LINES, "FILE")] = None,
    length: Annotated[int | None, option(LENGTH, "N", names="-n --length", group="Length")] = None,
    until: Annotated[str | None, option(UNTIL, "TEXT")] = None,
    count: Annotated[int, option(COUNT, "N")] = 1,
    temperature: Annotated[float, option(TEMPERATURE, "T", names="-t --temperature", group="Sampling")] = 1.0,
    top_k: Annotated[int, option(TOP_K, "K")] = 0,
    top_p: Annotated[float, option(TOP_P, "P")] = 1.0,
    greedy: Annotated[bool, option("Always take the most likely character.", names="--greedy")] = False,
    seed: Annotated[int | None, option("Random seed, to repeat a text. [default: a new one each time]", "N")] = None,
    novel: Annotated[bool, option(NOVEL, names="--novel")] = False,
    as_json: Annotated[bool, option(JSON, names="--json", group="Output")] = False,
    interactive: Annotated[bool, option(INTERACTIVE, names="--interactive")] = False,
    suggest: Annotated[int, option(SUGGEST, "N")] = 0,
) -> None:
    """Generate text with a model.

    Examples:
    charrnn sample -p "It was " -t 0.7
    charrnn sample runs/large -n 2000 --seed 1 > text.txt
    charrnn sample names --count 10 --novel
    """
    from numpy.random import SeedSequence

    from charrnn.inference.sampler import Sampler
    from charrnn.options import require

    primes_given = [prime is not None, prime_file is not None, prime_lines is not None]
    require(sum(primes_given) <= 1, "--prime, --prime-file and --prime-lines can't be combined")
    require(length is None or length >= -1, f"--length must be -1 (no end) or more, not {length}")
    require(1 <= count <= 100_000, f"--count must be between 1 and 100000, not {count}")
    require(until != "", "--until is empty; name the text that ends a sample")
    require(seed is None or seed >= 0, f"--seed must be 0 or more, not {seed}")
    require(0 <= suggest <= 9, f"--suggest must be between 0 and 9, not {suggest}")
    require(interactive or not suggest, "--suggest needs --interactive")
    whole = {"--count": count > 1, "--prime-lines": prime_lines is not None, "--novel": novel, "--json": as_json}
    if interactive:
        for name, given in ({"--length": length is not None, "--until": until} | whole).items():
            require(not given, f"{name} and --interactive can't be combined: you end the text yourself")
        require_extra("prompt_toolkit", "--interactive", "write")
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy)
    loaded = _load_named(named, model)
    primes = _read_primes(loaded, prime, prime_file, prime_lines)
    require(not loaded.records or until is None, f"--until: leave it out; {loaded.path} ends each {loaded.records} itself")
    if length == -1:  # a line-by-line model ends its lines; other models generate without end
        whole |= {"--novel": novel and not loaded.records, "--json": as_json and not loaded.records}
        for name, given in whole.items():
            require(not given, f"{name} and --length -1 can't be combined: the text never ends")
    if interactive:
        _write_together(loaded, primes[0], sampler=sampler, seed=seed, suggest=suggest)
    elif not loaded.records and not any(whole.values()):
        with _ended_by_ctrl_c():
            _print_as_written(loaded, primes[0], 500 if length is None else length, sampler=sampler, seed=seed, until=until)
    else:
        most = length if length not in (None, -1) else 1000 if loaded.records else 500
        write = partial(loaded.write, length=most, sampler=sampler, seed=SeedSequence(seed), until=until or "")
        asked = repeat(primes[0]) if length == -1 else primes
        novelty = _Novelty(loaded) if novel else None
        together = max(1, min(TOGETHER, loaded.most_together, MOST_AT_ONCE // max(most, 1)))
        samples = _write_samples(write, asked, count, together)
        if novelty:
            samples = _write_novel_samples(write, asked, count, together, novelty)
        with _ended_by_ctrl_c():
            printed = _print_samples(loaded, samples, as_json=as_json)
        if novelty:
            novelty.report(printed, len(primes) * count)


def _load_named(named: Path | None, model: Path | None) -> "Model":
    """Load the model given as an argument or with `-m`. If it is a text, the error says how to pass texts."""
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


def _read_primes(model: "Model", prime: str | None, file: Path | None, lines: Path | None) -> list[str]:
    """The primes, with a warning if some of their characters are not in the model's vocabulary."""
    from charrnn.text.records import SEPARATORS

    primes = [_read_prime(prime, file if lines is None else lines, model.newlines)]
    if lines is not None:
        primes = primes[0].removesuffix("\n").split("\n")
    if unknown := model.unknown("".join(primes)):
        fate = "skipped in the prime" if model.vocabulary.unknown is None else "read as its unknown symbol"
        output.write_line(f"warning: the model has never seen {', '.join(map(repr, unknown[:20]))}; {fate}")
        print_notes(model.hint_at_form("".join(primes)))
    if model.records:
        primes = [prime.removesuffix(SEPARATORS[model.records]) for prime in primes]  # the last line break of a pipe
    return primes


def _read_prime(prime: str | None, file: Path | None, newlines: str) -> str:
    """The prime: the one given, or else standard input."""
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


def _print_as_written(model: "Model", prime: str, length: int, sampler: "Sampler", seed: int | None, until: str | None) -> None:
    """Print one text as it is written, up to `until`. A length of -1 never ends."""
    writer = output.TextWriter()
    writer.write(prime)
    end = ""  # the last characters, to search for `until`
    try:
        for (character,) in model.generate(prime, None if length == -1 else length, sampler=sampler, seed=seed):
            writer.write(character)
            if until is not None:
                end = (end + character)[-len(until) :]
                if end == until:
                    break
    finally:
        if sys.stdout.isatty():
            writer.write("\n")


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Make Ctrl-C end the program with status 130 after everything written is printed."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, lambda number, _: leave(128 + number))  # a reader may take what is left, or never
        raise typer.Exit(130) from None


def _write_samples(write: "Write", primes: Iterable[str], count: int, together: int) -> "Iterator[Sample]":
    """Write `count` texts after each of `primes`, in batches of `together`."""
    left = (prime for prime in primes for _ in range(count))
    while batch := list(islice(left, together)):
        yield from write(batch)


def _write_novel_samples(
    write: "Write", primes: Iterable[str], count: int, together: int, novelty: "_Novelty"
) -> "Iterator[Sample]":
    """Write `count` novel texts after each of `primes`, or as many as there are among TRIES * `count` texts."""
    for prime in primes:
        missing, tries, size = count, TRIES * count, min(count, together)
        while missing and tries:
            samples = write([prime] * min(size, tries))
            tries -= len(samples)
            size = min(2 * size, together)
            for sample, novel in zip(samples, novelty.test(samples), strict=True):
                if novel and missing:
                    yield sample
                novelty.copied += bool(missing and not novel)
                missing -= bool(missing and novel)


def _print_samples(model: "Model", samples: "Iterable[Sample]", as_json: bool) -> int:
    """Print the samples as they come. Returns: their number."""
    from charrnn.text.records import SEPARATORS

    writer = output.TextWriter()
    printed = 0
    for printed, sample in enumerate(samples, 1):
        text = sample.prime + sample.text
        if as_json:
            writer.write(json.dumps(vars(sample)) + "\n")
        elif model.records:
            writer.write(("" if printed == 1 else SEPARATORS[model.records][1:]) + text + "\n")
        else:
            writer.write(("" if printed == 1 else "\n" + "-" * 20 + "\n") + text)
    if sys.stdout.isatty() and not (as_json or model.records):
        writer.write("\n")
    return printed


class _Novelty:
    """Tells novel texts from copies of training text; `copied` counts the copies."""

    def __init__(self, model: "Model"):
        self.model = model
        self.copied = 0
        if model.records is None:
            from charrnn.training.data import reread_texts

            cure = "to compare a sample with another text: charrnn eval --copied TRAINING_TEXT SAMPLE"
            with frame.WorkDisplay() as reading:
                self.training = reread_texts(model, cure, watch=reading.progress).training

    def test(self, samples: "list[Sample]") -> list[bool]:
        """Whether each of `samples` is novel."""
        from charrnn.text.copying import CopyFinder

        if self.model.records:
            return [self.model.is_novel(sample.prime + sample.text) for sample in samples]
        found = CopyFinder([sample.text for sample in samples], self.training).copied()
        return [not characters.any() for characters in found]

    def report(self, printed: int, asked: int) -> None:
        """Print how many texts were skipped, and whether too few are left."""
        from charrnn.text.copying import PASSAGE

        one = self.copied == 1
        kind = (self.model.records or "text") + "s" * (not one)
        fate = f"{'copies' if one else 'copy'} {PASSAGE} characters or more in a row from the training text"
        if self.model.records:
            fate = f"{'is' if one else 'are'} in the training file"
        output.write_line(f"skipped {self.copied:,} {kind} that {fate}")
        if printed < asked:
            found = f"found {printed:,} of {asked:,} in {TRIES * asked:,} tries"
            output.write_line(f"warning: {found}; the model mostly repeats its training text")


def _write_together(model: "Model", prime: str, sampler: "Sampler", seed: int | None, suggest: int) -> None:
    """Run an interactive session, and print its text at the end, however it ends."""
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
    """Print the text of a session; on the terminal if standard output can't be written."""
    try:
        stdout.write(text + "\n" * sys.stdout.isatty())
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        for line in text.split("\n"):
            output.write_line(line)
        raise CharrnnError(f"standard output can't be written: {error.strerror or error}; the text is above", 1) from None
