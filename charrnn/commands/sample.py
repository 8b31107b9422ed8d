"""`charrnn sample`."""

import os
import shlex
import sys
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.commands import common
from charrnn.commands.common import ModelArgument, SameModelOption, end_by_ctrl_c, is_piped, load_model, option
from charrnn.errors import CharrnnError
from charrnn.terminal import frame, output, samples

if TYPE_CHECKING:
    from charrnn.inference.accept import AcceptanceRule
    from charrnn.inference.model import Model
    from charrnn.inference.sampler import Sampler

BATCH = 64  # most texts of a batch
MAX_BATCH_CHARACTERS = 4_000_000
PRIME = "The prompt: a text to continue, printed first. Escapes as in --until. You can also pipe it in."
PRIME_LINES = "Continue each line of this file; '-' for standard input."
LENGTH = "Characters to generate. With a model trained by line or paragraph: the maximum for each line or paragraph. "
LENGTH += "-1 never stops. [default: 500; 1000 by line or paragraph]"
UNTIL = "End a text at this string; give several to end at any. Escapes: \\n line break, \\t tab, \\\\ backslash."
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
    until: Annotated[list[str] | None, option(UNTIL, "TEXT")] = None,
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

    from charrnn.inference.accept import draw
    from charrnn.inference.sampler import Sampler
    from charrnn.options import require

    several = {"--count": count > 1, "--prime-lines": prime_lines is not None, "--novel": novel, "--json": as_json}
    primes_given = [prime is not None, prime_file is not None, prime_lines is not None]
    require(sum(primes_given) <= 1, "--prime, --prime-file and --prime-lines can't be combined")
    require(length is None or length >= -1, f"--length must be -1 (no end) or more, not {length}")
    require(1 <= count <= 100_000, f"--count must be between 1 and 100000, not {count}")
    ends = list(map(common.unescape, until or []))
    require("" not in ends, "--until is empty; name the text that ends a sample")
    require(seed is None or seed >= 0, f"--seed must be 0 or more, not {seed}")
    require(0 <= suggest <= 9, f"--suggest must be between 0 and 9, not {suggest}")
    require(interactive or not suggest, "--suggest needs --interactive")
    if interactive:
        given = {"--length": length is not None, "--until": bool(ends)} | several
        _exclude(given, "--interactive", "you end the text yourself")
        common.require_extra("prompt_toolkit", "--interactive", "write")
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy)
    loaded = _load_named(named, model)
    primes = _read_primes(loaded, prime, prime_file, prime_lines)
    require(not loaded.records or not ends, f"--until: leave it out; {loaded.path} ends each {loaded.records} itself")
    if length == -1:
        endless = {"--count", "--prime-lines"} if loaded.records else set() if ends else set(several)
        _exclude({name: several[name] for name in sorted(endless)}, "--length -1", "the text never ends")
    if interactive:
        _write_together(loaded, primes[0], sampler=sampler, seed=seed, suggest=suggest)
        return
    most = length if length not in (None, -1) else 1000 if loaded.records else None if length else 500
    with end_by_ctrl_c():
        if not loaded.records and not any(several.values()):
            _stream(loaded, primes[0], most, sampler=sampler, seed=seed, until=ends)
            return
        write = partial(loaded.write, length=most, sampler=sampler, seed=SeedSequence(seed), until=ends)
        batch = max(1, min(BATCH, loaded.max_batch, MAX_BATCH_CHARACTERS // max(most or 500, 1)))
        asked = repeat(primes[0]) if length == -1 and loaded.records else primes
        rule = _find_rule(loaded) if novel else None
        drawn = draw(write, asked, count, batch, rule)
        printed = samples.print_samples(drawn, loaded.records, as_json=as_json, raw=loaded.encoding == "bytes")
        if rule is not None:
            samples.print_rejected(rule, loaded.records, printed, asked=len(primes) * count)


def _exclude(given: dict[str, bool], option: str, why: str) -> None:
    """Raise CharrnnError if an option is given that can't be combined with `option`."""
    for name, is_given in given.items():
        if is_given:
            raise CharrnnError(f"{name} and {option} can't be combined: {why}")


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
    from charrnn.text.vocabulary import hint_at_form

    primes = [_read_prime(model, prime, file if lines is None else lines)]
    if lines is not None:
        primes = primes[0].removesuffix("\n").split("\n")
    if unknown := model.unknown("".join(primes)):
        fate = "skipped in the prime" if model.vocabulary.unknown is None else "read as its unknown symbol"
        output.write_line(f"warning: the model has never seen {', '.join(map(repr, unknown[:20]))}; {fate}")
        common.print_notes(hint_at_form(model.vocabulary, "".join(primes)))
    if model.records:
        primes = [prime.removesuffix(SEPARATORS[model.records]) for prime in primes]  # the last line break of a pipe
    return primes


def _read_prime(model: "Model", prime: str | None, file: Path | None) -> str:
    """The prime: the one given, or else standard input."""
    from charrnn.text.reading import STDIN, read_text

    if file is None and (prime is not None or not is_piped()):
        given = common.unescape(prime or "")
        return given.encode("utf-8", "surrogateescape").decode("latin-1") if model.encoding == "bytes" else given
    source = STDIN if file is None else str(file)
    try:
        with common.say_waiting([source], "; for no prompt: --prime ''" if source == STDIN else ""):
            return read_text(source, newlines=model.newlines, like=model.encoding)
    except CharrnnError as error:
        if source != STDIN or "empty" not in str(error):
            raise
    return ""


def _stream(model: "Model", prime: str, length: int | None, sampler: "Sampler", seed: int | None, until: list[str]) -> None:
    """Print one text as it is written."""
    writer = output.TextWriter(raw=model.encoding == "bytes")
    writer.write(prime)
    try:
        for (character,) in model.generate(prime, length, sampler=sampler, seed=seed, until=until):
            writer.write(character)
    finally:
        if sys.stdout.isatty():
            writer.write("\n")


def _find_rule(model: "Model") -> "AcceptanceRule":
    """The rule of --novel. Reads the training text again, unless the model is one of lines or paragraphs."""
    from charrnn.inference.accept import require_new_record, require_no_copy

    if model.records:
        return require_new_record(model)
    from charrnn.training.sources import reread_texts

    cure = "to compare a sample with another text: charrnn eval --copied TRAINING_TEXT SAMPLE"
    with frame.WorkDisplay() as reading:
        return require_no_copy(reread_texts(model, cure, watch=reading.progress).training)


def _write_together(model: "Model", prime: str, sampler: "Sampler", seed: int | None, suggest: int) -> None:
    """Run an interactive session, and print its text at the end, however it ends."""
    from charrnn.interactive.cowriter import READ_AT_ONCE, CoWriter
    from charrnn.interactive.screen import Interactive

    writer = CoWriter(model, sampler=sampler, seed=seed)
    session = Interactive(writer, prime, suggest=suggest, notes=[str(model.path)])
    with frame.WorkDisplay("reading the prime", "characters", scale=1) as reading:
        for at in range(0, len(prime), READ_AT_ONCE):
            writer.reader.read(prime[: at + READ_AT_ONCE])
            reading.progress(min(at + READ_AT_ONCE, len(prime)), len(prime))
    try:
        number = session.run()
    finally:
        output.print_or_show(session.page.text, raw=model.encoding == "bytes")
    if number:
        raise typer.Exit(128 + number)
