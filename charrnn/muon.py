"""Muon, an optimizer for the square matrices of a recurrent network: momentum, made orthogonal.

Given gradients, it moves each matrix by the orthogonal matrix nearest to its momentum (Jordan et al. 2024, "Muon"), so that
every direction is learned at one speed. It knows matrices whose rows are blocks of H, one to each gate: every block is
made orthogonal by itself.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

ITERATIONS = 3  # of Newton-Schulz; five learn no better here and take half as long again
QUINTIC = (3.4445, -4.7750, 2.0315)  # its coefficients, which drive singular values to about 1


def orthogonalize(blocks: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """The nearly orthogonal factors of `blocks` (n, H, H), by a quintic Newton-Schulz iteration in their own precision."""
    a, b, c = QUINTIC
    x: Tensor = blocks / (blocks.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized block by block; for parameters (gates * H, H).

    Arguments: `lr`, the spectral norm of a step; `momentum`; `dtype`, the precision of the orthogonalization.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, dtype: torch.dtype = torch.float32):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move each parameter that has a gradient."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            updates = []
            for p in moved:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(group["momentum"]).add_(p.grad)
                updates.append(p.grad.add(momentum, alpha=group["momentum"]).unflatten(0, (-1, p.shape[1])))
            if not moved:
                continue
            steps = orthogonalize(torch.cat(updates).to(self.dtype)).to(moved[0].dtype)
            for p, step in zip(moved, torch.split(steps, [len(u) for u in updates]), strict=True):
                p.sub_(step.flatten(0, 1), alpha=group["lr"])
