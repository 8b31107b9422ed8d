"""Sampled softmax (Jean et al. 2015) for vocabularies so large that the softmax would take longer than the network.

A step computes logits only for candidates: the frequent characters, the step's targets, and a random sample of the rest.
Shapes: T time steps, B batch size, V vocabulary size, K candidates.
"""

import math
from typing import Self

import numpy as np
import torch
from torch import Tensor

from charrnn.training.batches import PAD

RARE = 1e-3  # the rare characters together make up at most this fraction of the text
SAMPLE = 256  # rare characters drawn per step


class SampledSoftmax:
    """Draws the candidates of each step, the rare ones uniformly."""

    def __init__(self, frequent: np.ndarray):
        self.frequent = torch.from_numpy(frequent)  # (V,) bool
        self.width = int(frequent.sum()) + SAMPLE  # K, without the rare characters among the targets

    @classmethod
    def of(cls, counts: np.ndarray) -> Self | None:
        """Make one from the character counts (V,) of a text; None if it would save little time."""
        order = np.argsort(-counts, kind="stable")
        enough = np.searchsorted(np.cumsum(counts[order]), (1 - RARE) * counts.sum())
        frequent = np.zeros(len(counts), bool)
        frequent[order[: enough + 1]] = True
        softmax = cls(frequent)
        return softmax if 2 * softmax.width < len(counts) else None

    def draw(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw candidates for `targets` (T, B), which are character ids or PAD.

        Returns:
            the candidates' ids (K,);
            a correction to add to their logits (K,): the log of how many characters each drawn one represents, which makes
            the softmax's denominator right on average;
            the targets as indices of candidates (T, B), or PAD.
        """
        taken = self.frequent.to(targets.device, copy=True)
        taken[targets[targets != PAD]] = True
        sure, rest = taken.nonzero()[:, 0], (~taken).nonzero()[:, 0]
        drawn = rest[torch.randperm(len(rest), device=rest.device)[:SAMPLE]]
        candidates = torch.cat([sure, drawn])
        correction = torch.zeros(len(candidates), device=targets.device)
        if len(drawn):
            correction[len(sure) :] = math.log(len(rest) / len(drawn))
        places = torch.full((len(taken),), PAD, device=targets.device)
        places[sure] = torch.arange(len(sure), device=targets.device)
        return candidates, correction, torch.where(targets == PAD, PAD, places[targets])
