"""REAP: how much an expert adds to a token that it serves (Lasby et al., "REAP the Experts: Why Pruning Prevails for
One-Shot MoE Compression", https://arxiv.org/abs/2510.13999).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimgpt.experts.watching import RoutingStats


def reap(stats: RoutingStats, experts: nn.Module, generator: torch.Generator) -> Tensor:
    """E gate · ‖output‖ over the tokens that were sent to an expert; 0 where none was."""
    return stats.weighted_E / stats.tokens_E.clamp(min=1)
