"""A loss over a wide vocabulary, a few positions at a time.

In float32 the logits of a thousand positions over 50,000 tokens are 200 MB, and autograd would hold and pass over
several tensors of that size: on a CPU as much work as a quarter of the model. Here a block of positions becomes float32
and gives its loss and its gradient while it is in the cache. What remains is one gradient in the logits' own dtype,
which is what the model's head multiplies by.

Shapes: B rows · T tokens · V vocabulary · P learned positions · b positions of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 16  # positions: 3 MB of float32 at 50,000 tokens

BlockLoss = Callable[[Tensor, slice], Tensor]
"""Logits (b x V, float32) and which of the P positions they are -> their loss, summed."""


def summed_loss(logits_BTV: Tensor, learned_BT: Tensor, loss_of: BlockLoss) -> Tensor:
    """The loss of all learned positions, a float32 scalar; differentiable once, by the logits."""
    total: Tensor = _Blockwise.apply(logits_BTV, learned_BT, loss_of)
    return total


def token_loss(label_P: Tensor) -> BlockLoss:
    """Negative log-likelihood of the labels."""
    return lambda logits_bV, block: functional.cross_entropy(logits_bV, label_P[block], reduction="sum")


class _Blockwise(torch.autograd.Function):
    """Makes the gradient along with the loss, because both need the same block in float32."""

    @staticmethod
    def forward(ctx: Any, logits_BTV: Tensor, learned_BT: Tensor, loss_of: BlockLoss) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient_BTV = torch.zeros_like(logits_BTV) if wanted else None
        total = torch.zeros((), device=logits_BTV.device)
        row_P, token_P = learned_BT.nonzero(as_tuple=True)
        for start in range(0, len(row_P), BLOCK):
            block = slice(start, start + BLOCK)
            where = row_P[block], token_P[block]
            logits_bV = logits_BTV[where].float().requires_grad_(wanted)
            with torch.enable_grad():
                loss = loss_of(logits_bV, block)
            total += loss.detach()
            if gradient_BTV is not None:
                gradient_BTV[where] = torch.autograd.grad(loss, logits_bV)[0].to(gradient_BTV.dtype)
        if gradient_BTV is not None:
            ctx.save_for_backward(gradient_BTV)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_BTV,) = ctx.saved_tensors
        return gradient_BTV * gradients[0].to(gradient_BTV.dtype), None, None
