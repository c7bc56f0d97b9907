"""MAN, the mean activation norm: as REAP, whatever the router thinks of the expert (Liu et al., "How to Score Experts
for One-Shot MoE Expert Pruning", https://arxiv.org/abs/2606.15716).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimgpt.experts.watching import RoutingStats


def man(stats: RoutingStats, experts: nn.Module, generator: torch.Generator) -> Tensor:
    """E ‖output‖ over the tokens that were sent to an expert; 0 where none was."""
    return stats.norms_E / stats.tokens_E.clamp(min=1)
