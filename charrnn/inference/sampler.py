"""The options of sampling, and the draw of the next character. Shapes: B batch size, V vocabulary size."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from charrnn.errors import CharrnnError
from charrnn.inference.logits import Processor, TopK, TopP

Array = np.ndarray
NOISE = 1 << 18  # random numbers drawn at a time


@dataclass(frozen=True)
class Sampler:
    """Draws the next character from the logits."""

    temperature: float = 1.0  # below 1 likely characters become likelier, above 1 less likely; 0 is greedy
    top_k: int = 0  # draw only from the k likeliest characters; 0: from all
    top_p: float = 1.0  # nucleus sampling: only from the likeliest, with this probability in total (Holtzman et al. 2020)
    greedy: bool = False  # always take the likeliest

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise CharrnnError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise CharrnnError(f"top-k must be 0 (off) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise CharrnnError(f"top-p must be above 0 and at most 1, not {self.top_p}")

    @property
    def processors(self) -> list[Processor]:
        """The logits processors of these options, in the order in which they apply."""
        processors: list[Processor] = []
        if self.top_k:
            processors.append(TopK(self.top_k))
        if self.top_p < 1 and self.temperature:
            processors.append(TopP(self.top_p, self.temperature))
        return processors

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Gumbel noise times the temperature, for `draw`. Splitting the noise into several calls gives the same numbers."""
        if self.greedy or self.temperature == 0:
            return np.zeros(shape, np.float32)
        noise = generator.standard_exponential(shape).astype(np.float32)  # in float64 it is never 0, whose log is infinite
        np.log(noise, noise)
        return np.multiply(noise, np.float32(-min(self.temperature, 1e30)), noise)  # finite, yet larger than any logits

    def steps(self, generators: Sequence[np.random.Generator], V: int, block: int = 64) -> Iterator[Array]:
        """Yield the noise (B, V) of each step, text k from generator k. It is drawn for up to `block` steps at a time."""
        B = len(generators)
        noise = np.empty((max(1, min(block, NOISE // (B * V))), B, V), np.float32)
        while True:
            for k, generator in enumerate(generators):
                noise[:, k] = self.noise(generator, (len(noise), V))
            yield from noise

    def draw(self, logits: Array, noise: Array, ids: Array) -> None:
        """Draw `ids` (B,) from `logits` (B, V) by the Gumbel-max trick (Maddison et al. 2014); overwrites `noise` (B, V)."""
        np.add(logits, noise, noise)
        noise.argmax(1, ids)  # three times as fast as np.argmax with keywords

    def probabilities(self, logits: Array) -> Array:
        """The probability of each character to be drawn, (V,) float64, given `logits` (V,)."""
        if self.greedy or self.temperature == 0:
            likeliest: Array = np.eye(len(logits))[logits.argmax()]
            return likeliest
        batch = logits[None].copy()
        for process in self.processors:
            process(np.empty((0, 1), np.intp), batch)
        logits = batch[0]
        p: Array = np.exp((logits.astype(np.float64) - logits.max()) / max(self.temperature, 1e-290))
        p /= p.sum()
        return p
