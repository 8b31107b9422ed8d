"""Print samples to standard output, as text or JSON, and what became of rejected ones to standard error."""

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from charrnn.terminal.output import TextWriter, write_line

if TYPE_CHECKING:
    from charrnn.inference.accept import AcceptanceRule
    from charrnn.inference.writing import Sample

BETWEEN = "\n" + "-" * 20 + "\n"  # two texts


def print_samples(samples: "Iterable[Sample]", kind: str | None, as_json: bool, raw: bool) -> int:
    """Print the samples as they come. `kind` is that of the model's records; with `raw` their characters are bytes.

    Returns: their number.
    """
    from charrnn.text.records import SEPARATORS  # imports NumPy

    writer = TextWriter(raw and not as_json)
    between = SEPARATORS[kind][1:] if kind else BETWEEN
    printed = 0
    for printed, sample in enumerate(samples, 1):
        if as_json:
            facts = {"prime": sample.prime, "text": sample.text, "bits_per_character": sample.bits_per_character}
            writer.write(json.dumps(facts) + "\n")
        else:
            end = "\n" if kind else ""
            writer.write((between if printed > 1 else "") + sample.prime + sample.text + end)
    if sys.stdout.isatty() and not (as_json or kind):
        writer.write("\n")
    return printed


def print_rejected(rule: "AcceptanceRule", kind: str | None, printed: int, asked: int) -> None:
    """Print how many samples were skipped, and whether too few are left."""
    several = rule.rejected != 1
    write_line(f"skipped {rule.rejected:,} {kind or 'text'}{'s' * several} that {rule.fates[several]}")
    if printed < asked:
        counts = f"found {printed:,} of {asked:,} in {rule.tries * asked:,} tries"
        write_line(f"warning: {counts}; the model mostly repeats its training text")
