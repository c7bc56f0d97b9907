"""How often an expert is chosen: the oldest score (Chen et al., "Task-Specific Expert Pruning for Sparse
Mixture-of-Experts", https://arxiv.org/abs/2206.00277).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimgpt.experts.watching import RoutingStats


def frequency(stats: RoutingStats, experts: nn.Module, generator: torch.Generator) -> Tensor:
    """Tokens that were sent to an expert."""
    return stats.tokens_E
