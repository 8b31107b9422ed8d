"""Draw the next character from logits. Shapes: B batch size, V vocabulary size."""

import math
from dataclasses import dataclass

import numpy as np

from charrnn.errors import CharrnnError

Array = np.ndarray


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

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Gumbel noise times the temperature, for `draw`. Splitting the noise into several calls gives the same numbers."""
        if self.greedy or self.temperature == 0:
            return np.zeros(shape, np.float32)
        noise = generator.standard_exponential(shape).astype(np.float32)  # in float64 it is never 0, whose log is infinite
        np.log(noise, noise)
        return np.multiply(noise, np.float32(-min(self.temperature, 1e30)), noise)  # finite, yet larger than any logits

    def draw(self, logits: Array, noise: Array, ids: Array) -> None:
        """Draw `ids` (B,) from `logits` (B, V) by the Gumbel-max trick (Maddison et al. 2014); overwrites `noise` (B, V)."""
        np.add(self._mask(logits), noise, noise)
        noise.argmax(1, ids)  # three times as fast as np.argmax with keywords

    def probabilities(self, logits: Array) -> Array:
        """The probability of each character to be drawn, (V,) float64, given `logits` (V,)."""
        if self.greedy or self.temperature == 0:
            likeliest: Array = np.eye(len(logits))[logits.argmax()]
            return likeliest
        logits = self._mask(logits[None])[0]
        p: Array = np.exp((logits.astype(np.float64) - logits.max()) / max(self.temperature, 1e-290))
        p /= p.sum()
        return p

    def _mask(self, logits: Array) -> Array:
        """`logits` (B, V) with minus infinity for the characters that top_k and top_p exclude."""
        if not self.top_k and self.top_p == 1:
            return logits
        order = np.argsort(-logits, axis=1, kind="stable")  # ties: the first in the vocabulary
        best = np.take_along_axis(logits, order, axis=1).astype(np.float64)
        if self.top_k:
            best[:, self.top_k :] = -np.inf
        if self.top_p < 1 and self.temperature:
            p = np.exp((best - best[:, :1]) / max(self.temperature, 1e-290))  # never 0 / 0
            before = np.cumsum(p, axis=1) - p
            best[before >= self.top_p * p.sum(axis=1, keepdims=True)] = -np.inf
        kept = np.empty_like(logits)
        np.put_along_axis(kept, order, best.astype(np.float32), axis=1)
        return kept
