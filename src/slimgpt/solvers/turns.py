"""Units that take turns: every block of units loses one before any block loses another.

Shapes: N units still there · B blocks · S units that leave.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Turns:
    """Keeps count of who has had its turn. One block knows no turns.

    Args:
        num_units: all units at first; blocks are consecutive runs of equally many.
        num_blocks: B.
        device: where the choice is made; nothing here waits for it.
    """

    def __init__(self, num_units: int, num_blocks: int, device: torch.device) -> None:
        assert num_units % num_blocks == 0, f"{num_blocks} blocks of equal size cannot be made of {num_units} units"
        self._block_size = num_units // num_blocks
        self._lost_B = torch.zeros(num_blocks, dtype=torch.long, device=device)

    def cost(self, cost_N: Tensor, unit_N: Tensor) -> Tensor:
        """The costs of ``unit_N``, infinite for those that have to wait for other blocks."""
        if len(self._lost_B) == 1:
            return cost_N
        ahead_B = self._lost_B > self._lost_B.min()
        return cost_N.masked_fill(ahead_B[unit_N // self._block_size], torch.inf)

    def leave(self, unit_N: Tensor, place_S: Tensor) -> None:
        """The units at these places of ``unit_N`` go."""
        if len(self._lost_B) == 1:
            return
        block_S = unit_N[place_S] // self._block_size
        self._lost_B.index_add_(0, block_S, torch.ones_like(block_S))


def lowest(score_N: Tensor, num_removed: int, num_blocks: int) -> Tensor:
    """The units of least score, equally many of every block: what turns come to where scores do not change."""
    score_BN = score_N.unflatten(0, (num_blocks, -1))
    lowest_BS = score_BN.argsort(dim=1, stable=True)[:, : num_removed // num_blocks]
    first_B1 = score_BN.shape[1] * torch.arange(num_blocks, device=score_N.device)[:, None]
    return (first_B1 + lowest_BS).flatten()
