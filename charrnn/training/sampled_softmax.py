"""Which characters a step tells apart, where a vocabulary has so many that the softmax would take longer than the network.

A step computes the logits of the frequent ones, of those that it is to predict, and of a sample of the rest, in which each
stands for many. Letters: T time steps, B batch, V vocabulary, K candidates.
"""

import math
from typing import Self

import numpy as np
import torch
from torch import Tensor

from charrnn.training.batches import PAD

RARE = 1e-3  # the share of a text that all its rare characters have together, at most
SAMPLE = 256  # of them that a step draws


class SampledSoftmax:
    """The candidates of each step: a sampled softmax (Jean et al. 2015), whose sample is uniform over the rare characters."""

    def __init__(self, frequent: np.ndarray):
        self.frequent = torch.from_numpy(frequent)  # (V,), whether a character is
        self.width = int(frequent.sum()) + SAMPLE  # K, but for the rare ones among the targets

    @classmethod
    def of(cls, counts: np.ndarray) -> Self | None:
        """That of a text in which the characters are so frequent, (V,); None where a step is hardly quicker with one."""
        order = np.argsort(-counts, kind="stable")
        enough = np.searchsorted(np.cumsum(counts[order]), (1 - RARE) * counts.sum())
        frequent = np.zeros(len(counts), bool)
        frequent[order[: enough + 1]] = True
        made = cls(frequent)
        return made if 2 * made.width < len(counts) else None

    def draw(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates for `targets` (T, B), which are character ids or PAD.

        Returns: the candidates' ids (K,); what to add to their logits (K,), for each drawn one the log of how many it stands
        for, so that the sum of the exponentials is right on average; and the targets' places among them (T, B), or PAD.
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
