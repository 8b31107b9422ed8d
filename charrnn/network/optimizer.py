"""The optimizer: Muon (Jordan et al. 2024) for matrices between hidden units, Adam (Kingma & Ba 2015) for the rest.

It is not a `torch.optim.Optimizer`, since these import torch's compiler at their first step, which takes a second.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ITERATIONS = 3  # of Newton-Schulz: two train worse; five train no better and take half as long again
QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of Newton-Schulz, which drive singular values to about 1
EVERY = 4  # steps between two updates of Muon's direction: it changes slowly, and computing it takes a fifth of a step
MOMENTUM = 0.95  # Muon's
BETAS = (0.9, 0.99)  # Adam's
EPSILON = 1e-8


def orthogonalize(blocks: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """The orthogonal matrices nearest to `blocks` (n, H, H), approximately, by a quintic Newton-Schulz iteration."""
    a, b, c = QUINTIC
    x: Tensor = blocks / (blocks.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Optimizer:
    """Muon for `matrices`, each (gates * H, H), and Adam for `others`.

    Muon moves each gate's block (H, H) by the orthogonal matrix nearest to its Nesterov momentum, so that all directions are
    learned at the same speed. `dtype` is the precision in which it is computed. The blocks are split into `parts`, which
    `run`, a function like `map`, may compute in parallel.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        others: Sequence[Tensor],
        dtype: torch.dtype = torch.float32,
        parts: int = 1,
        run: Callable[..., Any] = map,
    ):
        self.matrices = matrices
        self.others = others
        self.dtype = dtype
        self.parts = parts
        self.run = run
        self.momentum = [torch.zeros_like(p) for p in matrices]
        self.direction = [torch.zeros_like(p) for p in matrices]  # orthogonal blocks, updated every EVERY steps
        self.mean = [torch.zeros_like(p) for p in others]
        self.square = [torch.zeros_like(p) for p in others]

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state, by name."""
        kinds = {"momentum": self.momentum, "direction": self.direction, "mean": self.mean, "square": self.square}
        return {f"{kind}.{i}": tensor for kind, tensors in kinds.items() for i, tensor in enumerate(tensors)}

    @torch.no_grad()
    def step(self, number: int, rate: float, muon_rate: float, decay: float = 0.0) -> None:
        """Update the parameters from their gradients; `number` counts steps from 1.

        `rate` is Adam's learning rate, `muon_rate` Muon's (the spectral norm of its steps), `decay` the decoupled weight
        decay of Muon's matrices (Loshchilov & Hutter 2019).
        """
        for p, momentum in zip(self.matrices, self.momentum, strict=True):
            momentum.mul_(MOMENTUM).add_(_gradient(p))
        if self.matrices and (number - 1) % EVERY == 0:
            nesterov = [_gradient(p) + MOMENTUM * m for p, m in zip(self.matrices, self.momentum, strict=True)]
            blocks = torch.cat([update.view(-1, update.shape[1], update.shape[1]) for update in nesterov]).to(self.dtype)
            directions = torch.cat(list(self.run(orthogonalize, blocks.chunk(self.parts)))).flatten(
                0, 1
            )  # (gates * H of all, H)
            for direction, part in zip(self.direction, torch.split(directions, [len(p) for p in self.matrices]), strict=True):
                direction.copy_(part)
        for p, direction in zip(self.matrices, self.direction, strict=True):
            p.mul_(1 - muon_rate * decay).sub_(direction, alpha=muon_rate)
        b1, b2 = BETAS
        rate *= math.sqrt(1 - b2**number) / (1 - b1**number)  # Adam's bias correction: both means start at zero
        for p, mean, square in zip(self.others, self.mean, self.square, strict=True):
            gradient = _gradient(p)
            mean.lerp_(gradient, 1 - b1)
            square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
            p.addcdiv_(mean, square.sqrt().add_(EPSILON), value=-rate)


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad
