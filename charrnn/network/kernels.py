"""CPU kernels of the GRU and RNN recurrence over T time steps, forward and backward. For the LSTM, torch uses oneDNN's.

Each kernel takes W_ih x + b of all time steps and returns the hidden states. Shapes: H hidden size, T time steps, B batch
size, G gates times H.

Tensors are (features, T, B), so that the recurrent product of a step and the weight gradients of all steps are plain matrix
products without copies. The loop over time has only the recurrence, as a few in-place operations on B * H numbers; the rest
is computed for all steps at once.

Truncated backpropagation through time: no gradient flows into the initial state. Tensors may be bfloat16 (products in
bfloat16, accumulators and activations in float32), float32 or float64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def _tanh_(x: Tensor) -> Tensor:
    """tanh in place as 2 sigmoid(2x) - 1: several times faster than torch's own on CPUs."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _recurrent_gradient(d_gates: Tensor, hidden: Tensor) -> Tensor:
    """dL/dW_hh of all steps in one product: (G, T, B), (H, T + 1, B) -> (G, H)."""
    return d_gates.flatten(1) @ hidden.flatten(1)[:, : d_gates[0].numel()].t()


class GRUFunction(torch.autograd.Function):
    """GRU (Cho et al. 2014), with the reset gate after the matrix product, as in cuDNN and torch.

    Arguments: `gates` (3H, T, B), W_ih x + b for reset, update and new; `weight` (3H, H), W_hh; `bias` (3H,), b_hh, of which
    only the new gate's part is used (the others are in `gates`); `h` (H, B). Returns: the hidden states (H, T, B).
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
        H, (T, B) = weight.shape[1], gates.shape[1:]
        accumulator = torch.promote_types(gates.dtype, torch.float32)
        hidden = gates.new_empty(H, T + 1, B)
        active = gates.new_empty(T, 3, H, B, dtype=accumulator)  # r, z, n
        recurrent = gates.new_empty(T, H, B, dtype=accumulator)  # the new gate's W_hh h + b_hh
        hidden[:, 0] = h
        for t in range(T):
            product = torch.mm(weight, hidden[:, t]).view(3, H, B)
            r, z, n = active[t].unbind()
            torch.add(gates[: 2 * H, t].view(2, H, B), product[:2], out=active[t, :2]).sigmoid_()
            torch.add(product[2], bias[2 * H :, None], out=recurrent[t])
            _tanh_(torch.addcmul(gates[2 * H :, t].to(accumulator), r, recurrent[t], out=n))
            hidden[:, t + 1] = torch.lerp(n, hidden[:, t].to(accumulator), z)
        ctx.save_for_backward(weight, hidden, active, recurrent)
        return hidden[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        weight, hidden, active, recurrent = ctx.saved_tensors
        T, _, H, B = active.shape
        back = weight.t().contiguous()
        r, z, n = active.unbind(1)
        previous = hidden[:, :-1].transpose(0, 1)
        to_update = (previous - n) * (z - z * z)
        to_new = (1 - z) * (1 - n * n)
        to_reset = recurrent * (r - r * r)
        d_gates = hidden.new_empty(3 * H, T, B)
        d_recurrent = torch.empty_like(d_gates)  # d_gates with the new gate's rows times r
        d_step = torch.empty_like(active[0])
        d_h = d_hidden[:, T - 1]
        for t in range(T - 1, -1, -1):
            d_new = d_h * to_new[t]
            torch.mul(d_new, to_reset[t], out=d_step[0])
            torch.mul(d_h, to_update[t], out=d_step[1])
            d_step[2] = d_new
            d_gates[:, t] = d_step.view(3 * H, B)
            d_step[2].mul_(r[t])
            d_recurrent[:, t] = d_step.view(3 * H, B)
            if t:
                d_h = d_h * z[t] + d_hidden[:, t - 1] + torch.mm(back, d_recurrent[:, t])
        d_bias = hidden.new_zeros(3 * H)
        d_bias[2 * H :] = d_recurrent[2 * H :].sum((1, 2))
        return d_gates, _recurrent_gradient(d_recurrent, hidden), d_bias, None


class TanhFunction(torch.autograd.Function):
    """Simple recurrent network (Elman 1990): h' = tanh(W_ih x + b + W_hh h).

    Arguments: `gates` (H, T, B), W_ih x + b with b_hh included; `weight` (H, H), W_hh; `h` (H, B).
    Returns: the hidden states (H, T, B).
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, _: Tensor, h: Tensor) -> Tensor:
        H, (T, B) = weight.shape[1], gates.shape[1:]
        hidden = gates.new_empty(H, T + 1, B)
        step = gates.new_empty(H, B, dtype=torch.promote_types(gates.dtype, torch.float32))
        hidden[:, 0] = h
        for t in range(T):
            hidden[:, t + 1] = _tanh_(torch.add(gates[:, t], torch.mm(weight, hidden[:, t]), out=step))
        ctx.save_for_backward(weight, hidden)
        return hidden[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        weight, hidden = ctx.saved_tensors
        T = hidden.shape[1] - 1
        back = weight.t().contiguous()
        slope = 1 - hidden[:, 1:].square()
        d_gates = torch.empty_like(slope)
        d_h = d_hidden[:, T - 1]
        for t in range(T - 1, -1, -1):
            torch.mul(d_h, slope[:, t], out=d_gates[:, t])
            if t:
                d_h = d_hidden[:, t - 1] + torch.mm(back, d_gates[:, t])
        return d_gates, _recurrent_gradient(d_gates, hidden), None, None


# Per cell kind: (gates (G, T, B), weight (G, H), bias (G,), h (H, B)) -> hidden states (H, T, B).
KERNELS: dict[str, Callable[..., Tensor]] = {"gru": GRUFunction.apply, "rnn": TanhFunction.apply}
