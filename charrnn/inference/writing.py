"""Write samples with a model: primes in, the steps of the loop, finished samples out. Shapes: B batch size."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from charrnn.errors import CharrnnError
from charrnn.inference.generate import Step, generate
from charrnn.inference.logits import Ban, NoBlankRecord, Processor
from charrnn.inference.sampler import Sampler
from charrnn.inference.score import escape_costs, surprisals
from charrnn.inference.stopping import Criterion, StopString
from charrnn.network.engine import Network, Stepper
from charrnn.text.records import SEPARATORS
from charrnn.text.vocabulary import Vocabulary, code_points, text_of

Array = np.ndarray
MEMORY = 1 << 14  # characters of a prime that are read, its last: a state keeps nothing of what is further back
Seed = int | np.random.SeedSequence | None


class Writer(Protocol):
    """What of a model is needed here."""

    network: Network
    vocabulary: Vocabulary
    start: int  # id of the character before the first one
    records: str | None


@dataclass(frozen=True)
class Sample:
    """A generated text."""

    prime: str
    text: str  # without the prime and, for a line-by-line model, without the separator
    bits_per_character: float | None  # of `text`, as `Model.score` counts them; None if it is empty
    why: str  # it ended: "length", "until", or "line" or "paragraph", at whose end it is


def steps(
    model: Writer,
    primes: Sequence[str],
    length: int | None,
    sampler: Sampler | None = None,
    seed: Seed = None,
    until: str | Sequence[str] = (),
) -> Iterator[Step]:
    """Generate ids after each of `primes`, see `Model.generate` and `Model.write`. Raises: CharrnnError."""
    sampler = sampler or Sampler()
    if not primes or (length is not None and length < 0):
        raise CharrnnError(f"can't write {len(primes)} texts of {length} characters")
    seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    generators = [np.random.default_rng(child) for child in seeds.spawn(len(primes))]
    return generate(
        _read(model, primes),
        sampler=sampler,
        noise=sampler.steps(generators, len(model.vocabulary)),
        processors=[*model_processors(model, primes), *sampler.processors],
        criteria=_find_criteria(model, primes, [until] if isinstance(until, str) else until),
        length=length,
    )


def model_processors(model: Writer, primes: Sequence[str]) -> list[Processor]:
    """The logits processors that a model's texts need. Of a line-by-line model, `primes` are the lines so far."""
    processors: list[Processor] = []
    if model.vocabulary.unknown is not None:  # it is no character to write
        processors.append(Ban((model.vocabulary.unknown,)))
    return processors + record_rules(model, primes)


def record_rules(model: Writer, primes: Sequence[str]) -> list[Processor]:
    """What makes a line-by-line model's probabilities, also those of `score`, differ from its network's."""
    return [NoBlankRecord(model.start, model.vocabulary.is_space, primes)] if model.records else []


def _find_criteria(model: Writer, primes: Sequence[str], until: Sequence[str]) -> list[Criterion]:
    """What ends a text: its record's separator, or one of the strings `until`."""
    if model.records:
        before = [model.vocabulary.encode(prime) for prime in primes]
        return [StopString(model.vocabulary.encode(SEPARATORS[model.records]), model.records, before)]
    criteria: list[Criterion] = []
    for string in until:
        unknown = np.flatnonzero(model.vocabulary.is_unknown(string))
        if not string or len(unknown):
            why = f"the model never writes {string[unknown[0]]!r}" if string else "it is empty"
            raise CharrnnError(f"no text can end at {string!r}: {why}")
        nothing = np.empty(0, np.int32)  # a match must not begin in the prime
        criteria.append(StopString(model.vocabulary.encode(string), "until", [nothing] * len(primes)))
    return criteria


def _read(model: Writer, primes: Sequence[str]) -> Stepper:
    """Run the network over each of `primes`. Returns: its state, as one batch."""
    state, one = model.network.initial_state(len(primes)), model.network.initial_state(1)
    for k, prime in enumerate(primes):
        if not k or prime != primes[k - 1]:
            one = model.network.initial_state(1)
            for i in [model.start, *model.vocabulary.encode_known(prime).tolist()][-MEMORY:]:
                one.step([i])
        state.logits[k] = one.logits[0]
        for part, read in zip(chain.from_iterable(state), chain.from_iterable(one), strict=True):
            part[k] = read[0]
    return state


def write(
    model: Writer,
    primes: Sequence[str],
    length: int | None,
    sampler: Sampler | None,
    seed: Seed,
    until: str | Sequence[str],
) -> list[Sample]:
    """See `Model.write`. Raises: CharrnnError, TypeError."""
    if isinstance(primes, str):
        raise TypeError(f"write takes a list of primes: model.write([{primes!r}]); for one text: model.sample({primes!r})")
    separator = SEPARATORS[model.records] if model.records else ""
    for prime in primes if model.records else ():
        if separator in prime or prime.startswith("\n"):
            raise CharrnnError(f"the prime {prime!r} is not the beginning of one {model.records}")
    B = len(primes)
    running = np.ones(B, bool)
    lengths = np.zeros(B, np.int64)
    nats = np.zeros(B)
    rules = record_rules(model, primes)
    drawn: list[Array] = []  # per step the ids (B,)
    why = ["length"] * B
    for step in steps(model, primes, length, sampler=sampler, seed=seed, until=until):
        logits = step.logits
        for rule in rules:
            logits = logits.copy()
            rule(np.array(drawn[-1:]), logits)
        drawn.append(step.ids.astype(np.int32))
        nats += np.where(running, surprisals(logits, step.ids)[0], 0.0)
        lengths += running
        why = step.why
        running = np.array([not reason for reason in why])
    codes = code_points(model.vocabulary.characters)
    bits = (nats / np.maximum(lengths, 1) + escape_costs(model.vocabulary)[0]) / math.log(2)
    ids = np.array(drawn, np.int32).reshape(-1, B)
    samples = []
    for k, prime in enumerate(primes):
        text = (prime + text_of(codes[ids[: lengths[k], k]])).removesuffix(separator)[len(prime) :]
        samples.append(Sample(prime, text, bits_per_character=float(bits[k]) if lengths[k] else None, why=why[k]))
    return samples
