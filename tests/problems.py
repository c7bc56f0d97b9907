"""Small layer-wise problems with a character: correlated, ill-conditioned, too few tokens, dead inputs.

Each gives ``(weight_OI, x_TI)`` in float64, always the same for the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def correlated(num_inputs: int, num_tokens: int = 400, decay: float = 1.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """ReLU features of a random mixture whose spectrum falls by ``decay`` decades; columns of W of unequal size."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    spectrum_I = torch.logspace(0, -decay, num_inputs, dtype=torch.float64)
    x_TI = torch.relu(normal(num_tokens, num_inputs) * spectrum_I @ normal(num_inputs, num_inputs))
    return normal(24, num_inputs) * torch.exp(0.5 * normal(num_inputs)), x_TI


def ill_conditioned(num_inputs: int) -> tuple[Tensor, Tensor]:
    return correlated(num_inputs, decay=6.0, seed=1)


def rank_deficient(num_inputs: int) -> tuple[Tensor, Tensor]:
    return correlated(num_inputs, num_tokens=num_inputs // 2, seed=2)


def with_dead_inputs(num_inputs: int) -> tuple[Tensor, Tensor]:
    weight_OI, x_TI = correlated(num_inputs, seed=3)
    x_TI[:, num_inputs // 3] = 0.0
    return weight_OI, x_TI


PROBLEMS: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "correlated": correlated,
    "ill_conditioned": ill_conditioned,
    "rank_deficient": rank_deficient,
    "with_dead_inputs": with_dead_inputs,
}
