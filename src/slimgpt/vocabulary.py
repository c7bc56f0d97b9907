"""A loss over a wide vocabulary, a few positions at a time.

In float32 the logits of a thousand positions over 50,000 tokens are 200 MB, and autograd would hold and pass over
several tensors of that size: on a CPU as much work as a quarter of the model. Here a block of positions becomes float32
in a buffer that stays in the cache, and the loss turns that buffer into its own gradient. What remains is one gradient
in the logits' own dtype, which is what the model's head multiplies by.

Shapes: B rows · T tokens · V vocabulary · P positions that count · b positions of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BLOCK = {"cpu": 4, "mps": 256, "cuda": 512}
"""Positions by kind of device: on a CPU 0.8 MB of float32 at 50,000 tokens, about what a core has to itself; elsewhere
enough to be worth a launch."""

BlockLoss = Callable[[Tensor, slice], Tensor]
"""Logits (b x V, float32) and which of the P positions they are -> their loss, summed. The logits are replaced by the
loss's gradient by them."""


def summed_loss(logits_BTV: Tensor, counts_BT: Tensor, loss_of: BlockLoss) -> Tensor:
    """The loss of all positions that count, a float32 scalar; differentiable once, by the logits."""
    total: Tensor = _Blockwise.apply(logits_BTV, counts_BT, loss_of)
    return total


def token_loss(label_P: Tensor) -> BlockLoss:
    """Negative log-likelihood of the labels; its gradient is softmax − one-hot."""

    def loss_of(logits_bV: Tensor, block: slice) -> Tensor:
        label_b1 = label_P[block, None]
        label_logit_b1 = logits_bV.gather(1, label_b1)
        total_b1, normaliser_b1 = exponentiate_(logits_bV)
        logits_bV.div_(total_b1).scatter_add_(1, label_b1, torch.full_like(total_b1, -1.0))
        return (normaliser_b1 - label_logit_b1).sum()

    return loss_of


def blended(first: BlockLoss, second: BlockLoss, share: float) -> BlockLoss:
    """(1 − share) of one loss and ``share`` of another of the same logits."""

    def loss_of(logits_bV: Tensor, block: slice) -> Tensor:
        other_bV = logits_bV.clone()
        total = torch.lerp(first(logits_bV, block), second(other_bV, block), share)
        logits_bV.lerp_(other_bV, share)
        return total

    return loss_of


def exponentiate_(logits_bV: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into softmax's numerators, in place; their sums, and the logs of the normalisers (each b x 1)."""
    largest_b1 = logits_bV.amax(-1, keepdim=True)
    total_b1 = logits_bV.sub_(largest_b1).exp_().sum(-1, keepdim=True)
    return total_b1, largest_b1 + total_b1.log()


class _Blockwise(torch.autograd.Function):
    """Makes the gradient along with the loss, because both need the same block in float32."""

    @staticmethod
    def forward(ctx: Any, logits_BTV: Tensor, counts_BT: Tensor, loss_of: BlockLoss) -> Tensor:
        logits_NV = logits_BTV.flatten(0, 1)
        gradient_NV = torch.zeros_like(logits_NV) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=logits_BTV.device)
        row_P, token_P = counts_BT.nonzero(as_tuple=True)
        position_P = row_P * logits_BTV.shape[1] + token_P
        size = BLOCK[logits_NV.device.type]
        buffer_bV = torch.empty(size, logits_NV.shape[1], device=logits_NV.device)
        for start in range(0, len(position_P), size):
            block = slice(start, start + size)
            position_b = position_P[block]
            work_bV = buffer_bV[: len(position_b)].copy_(logits_NV[position_b])
            total += loss_of(work_bV, block)
            if gradient_NV is not None:
                gradient_NV[position_b] = work_bV.to(gradient_NV.dtype)
        if gradient_NV is not None:
            ctx.save_for_backward(gradient_NV.view_as(logits_BTV))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_BTV,) = ctx.saved_tensors
        return gradient_BTV.mul_(gradients[0]), None, None
