"""Where a backward pass begins: the gradients of log p(token) for tokens that the model draws itself.

Their covariance is the Fisher information, the second derivative of the divergence of a smaller model's predictions
from the dense model's. [Martens & Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature",
ICML 2015, section 2]

Shapes: T positions of a window, t of them at a time · D residual width · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slimgpt.errors import NumericalError
from slimgpt.solvers.linalg import to_float64

LOGITS_BYTES = 32 << 20
"""Of float32 logits at a time; four times as much is there with their probabilities and distribution functions."""


def drawn_gradient(logits: Callable[[Tensor], Tensor], hidden_1TD: Tensor, seed: int, vocabulary: int) -> Tensor:
    """The gradient of the summed log-likelihood of drawn tokens by the last layer's outputs, T x D.

    Args:
        logits: the model's head, 1 x t x D to 1 x t x V.
        hidden_1TD: what leaves the last layer.
        seed: of the tokens.
        vocabulary: tokens that a head of this size has logits of: what fits into memory at a time depends on it.

    Raises:
        NumericalError: predictions are not finite.
    """
    chance_T1 = chance(hidden_1TD.shape[1], seed)
    size = max(1, LOGITS_BYTES // (vocabulary * torch.float32.itemsize))
    parts = zip(hidden_1TD.split(size, 1), chance_T1.split(size), strict=True)
    return torch.cat([_gradient(logits, hidden_1tD, chance_t1) for hidden_1tD, chance_t1 in parts])


def _gradient(logits: Callable[[Tensor], Tensor], hidden_1tD: Tensor, chance_t1: Tensor) -> Tensor:
    hidden_1tD = hidden_1tD.detach().requires_grad_()
    logits_tV = logits(hidden_1tD)[0]
    slope_tV = logits_tV.detach().float().softmax(-1)  # by the logits it is softmax − one-hot
    if not slope_tV[:, 0].isfinite().all():  # a softmax with one number that is not finite has none that is
        raise NumericalError(
            "search: the model's predictions are not finite. Likely causes: activations that overflow in float16, or "
            "damaged weights. Try --dtype bfloat16 or float32."
        )
    drawn_t = draw(slope_tV, chance_t1)
    slope_tV[torch.arange(len(drawn_t), device=drawn_t.device), drawn_t] -= 1
    logits_tV.backward(slope_tV.to(logits_tV))
    assert hidden_1tD.grad is not None
    return hidden_1tD.grad[0]


def chance(num_positions: int, seed: int) -> Tensor:
    """Evenly distributed numbers in [0, 1), T x 1 float64, from the CPU: every device draws the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_positions, 1, dtype=torch.float64, generator=generator)


def draw(probability_tV: Tensor, chance_t1: Tensor) -> Tensor:
    """A token for each position, t int64: chance, looked up in the distribution functions."""
    below_tV = to_float64(probability_tV).cumsum_(-1)
    token_t1 = torch.searchsorted(below_tV, chance_t1.to(below_tV.device) * below_tV[:, -1:], right=True)
    return token_t1[:, 0].clamp_(max=probability_tV.shape[-1] - 1).to(probability_tV.device)
