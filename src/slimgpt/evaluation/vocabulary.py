"""A loss over a wide vocabulary, a few positions at a time.

In float32 the logits of a thousand positions over 50,000 tokens are 200 MB, and autograd would hold and pass over
several tensors of that size: on a CPU as much work as a quarter of the model. Here a block of positions becomes float32
in a buffer that stays in the cache, where it turns into probabilities and then into the loss's gradient. What remains
is one gradient in the logits' own dtype, which is what the model's head multiplies by.

That needs no pass for the loss itself: all losses here depend on the probabilities of a few tokens, so their derivative
by the logits is a multiple of all probabilities, and more at those tokens.

Shapes: B rows · T tokens · V vocabulary · P positions that count · b positions of a block · K a few tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = {"cpu": 8, "mps": 256, "cuda": 512}
"""Positions by kind of device: on a CPU 1.6 MB of float32 at 50,000 tokens, about what a core has to itself; elsewhere
enough to be worth a launch."""


class Slope(NamedTuple):
    """A block's loss and its derivative by the logits.

    Attributes:
        loss: summed over the block's positions, a float32 scalar.
        common_b1: what the derivative holds of all probabilities.
        token_bK: where it holds more; a token that is named twice gets both.
        extra_bK: how much more.
    """

    loss: Tensor
    common_b1: Tensor
    token_bK: Tensor
    extra_bK: Tensor


LogProb = Callable[[Tensor], Tensor]
"""Tokens (b x K) -> the model's log-probabilities of them (b x K, float32)."""

BlockLoss = Callable[[LogProb, slice], Slope]
"""What the model says at the positions of a block, and which of the P they are -> the loss there."""


def summed_loss(logits_BTV: Tensor, counts_BT: Tensor, loss_of: BlockLoss, temperature: float = 1.0) -> Tensor:
    """The loss of all positions that count, a float32 scalar; differentiable once, by the logits.

    At a temperature τ probabilities are those of logits / τ, and the loss is multiplied by τ² so that gradients keep
    their size (Hinton et al., https://arxiv.org/abs/1503.02531).
    """
    total: Tensor = _Blockwise.apply(logits_BTV, counts_BT, loss_of, temperature)
    return total


def token_loss(label_P: Tensor) -> BlockLoss:
    """Negative log-likelihood of the labels; its derivative is softmax − one-hot."""

    def loss_of(log_prob: LogProb, block: slice) -> Slope:
        label_b1 = label_P[block, None]
        log_prob_b1 = log_prob(label_b1)
        one_b1 = torch.ones_like(log_prob_b1)
        return Slope(-log_prob_b1.sum(), one_b1, label_b1, -one_b1)

    return loss_of


def blended(first: BlockLoss, second: BlockLoss, share: float) -> BlockLoss:
    """(1 − share) of one loss and ``share`` of another of the same probabilities."""

    def loss_of(log_prob: LogProb, block: slice) -> Slope:
        one, two = first(log_prob, block), second(log_prob, block)
        return Slope(
            torch.lerp(one.loss, two.loss, share),
            torch.lerp(one.common_b1, two.common_b1, share),
            torch.cat([one.token_bK, two.token_bK], 1),
            torch.cat([(1 - share) * one.extra_bK, share * two.extra_bK], 1),
        )

    return loss_of


def blocks(logits_BTV: Tensor, counts_BT: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The positions that count, a block at a time: which of the P they are, and which of the logits' B·T.

    ``counts_BT`` is bool and may be shorter than the rows, whose last positions then do not count.
    """
    row_P, token_P = counts_BT.nonzero(as_tuple=True)
    position_P = row_P * logits_BTV.shape[1] + token_P
    size = BLOCK[logits_BTV.device.type]
    for start in range(0, len(position_P), size):
        block = slice(start, start + size)
        yield block, position_P[block]


class _Blockwise(torch.autograd.Function):
    """Makes the gradient along with the loss, because both need the same block in float32."""

    @staticmethod
    def forward(ctx: Any, logits_BTV: Tensor, counts_BT: Tensor, loss_of: BlockLoss, temperature: float) -> Tensor:
        logits_NV = logits_BTV.flatten(0, 1)
        gradient_NV = torch.zeros_like(logits_NV) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=logits_NV.device)
        buffer_bV = torch.empty(BLOCK[logits_NV.device.type], logits_NV.shape[1], device=logits_NV.device)
        for block, position_b in blocks(logits_BTV, counts_BT):
            logits_bV = logits_NV[position_b]
            work_bV = buffer_bV[: len(position_b)].copy_(logits_bV)
            if temperature != 1:
                work_bV.div_(temperature)
            total_b1, normaliser_b1 = _exponentiate_(work_bV)
            slope = loss_of(_log_prob(logits_bV, normaliser_b1, temperature), block)
            total += temperature**2 * slope.loss
            if gradient_NV is not None:
                work_bV.mul_(temperature * slope.common_b1 / total_b1)
                work_bV.scatter_add_(1, slope.token_bK, temperature * slope.extra_bK)
                gradient_NV[position_b] = work_bV.to(gradient_NV.dtype)
        if gradient_NV is not None:
            ctx.save_for_backward(gradient_NV.view_as(logits_BTV))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_BTV,) = ctx.saved_tensors
        return gradient_BTV.mul_(gradients[0]), None, None, None


def _exponentiate_(logits_bV: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into softmax's numerators, in place; their sums, and the logs of the normalisers (each b x 1)."""
    largest_b1 = logits_bV.amax(-1, keepdim=True)
    total_b1 = logits_bV.sub_(largest_b1).exp_().sum(-1, keepdim=True)
    return total_b1, largest_b1 + total_b1.log()


def _log_prob(logits_bV: Tensor, normaliser_b1: Tensor, temperature: float) -> LogProb:
    """From the logits themselves: the numerators of unlikely tokens are zero."""
    return lambda token_bK: logits_bV.gather(1, token_bK).float() / temperature - normaliser_b1
