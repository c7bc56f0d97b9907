"""Lots: what any score has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimgpt.experts.watching import RoutingStats


def random(stats: RoutingStats, experts: nn.Module, generator: torch.Generator) -> Tensor:
    """Uniform numbers, other ones for each layer."""
    return torch.rand(len(stats.tokens_E), generator=generator, dtype=torch.float64)
