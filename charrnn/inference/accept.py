"""Rules over finished samples, and the loop that draws again until enough of them are accepted.

To add a rule, make an `AcceptanceRule`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from charrnn.inference.model import Model
from charrnn.inference.writing import Sample
from charrnn.text.copying import PASSAGE, CopyFinder
from charrnn.text.corpus import Corpus

Write = Callable[[list[str]], list[Sample]]  # writes a sample after each of some primes


@dataclass
class AcceptanceRule:
    """Accepts or rejects finished samples."""

    accepts: Callable[[list[Sample]], list[bool]]
    fates: tuple[str, str]  # what is said of one rejected sample, and of several: "is in the training file"
    rejected: int = 0  # samples rejected so far
    tries: int = 20  # most samples to draw for each one asked for


def require_new_record(model: Model) -> AcceptanceRule:
    """Accept lines or paragraphs that are not in the training text."""

    def accepts(samples: list[Sample]) -> list[bool]:
        return [model.is_novel(sample.prime + sample.text) for sample in samples]

    return AcceptanceRule(accepts, ("is in the training file", "are in the training file"))


def require_no_copy(training: Corpus) -> AcceptanceRule:
    """Accept texts that copy no passage of PASSAGE characters from the training text."""

    def accepts(samples: list[Sample]) -> list[bool]:
        copied = CopyFinder([sample.text for sample in samples], training).copied()
        return [not characters.any() for characters in copied]

    what = f"{PASSAGE} characters or more in a row from the training text"
    return AcceptanceRule(accepts, (f"copies {what}", f"copy {what}"))


def draw(write: Write, primes: Iterable[str], count: int, batch: int, rule: AcceptanceRule | None = None) -> Iterator[Sample]:
    """Yield `count` samples after each of `primes`, in batches of at most `batch`.

    With a `rule`, samples are drawn again until `count` are accepted, at most `rule.tries` times as many.
    """
    if rule is None:
        asked = (prime for prime in primes for _ in range(count))
        while chosen := list(islice(asked, batch)):
            yield from write(chosen)
        return
    for prime in primes:
        missing, tries, size = count, rule.tries * count, min(count, batch)
        while missing and tries:
            samples = write([prime] * min(size, tries))
            tries -= len(samples)
            size = min(2 * size, batch)
            for sample, accepted in zip(samples, rule.accepts(samples), strict=True):
                if accepted and missing:
                    missing -= 1
                    yield sample
                elif missing:
                    rule.rejected += 1
