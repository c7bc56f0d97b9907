"""AIMER, by weights alone: how far an expert's weights are from all being of one size (Liu et al., "AIMER:
Calibration-Free Task-Agnostic MoE Pruning", https://arxiv.org/abs/2603.18492).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimgpt.experts.watching import RoutingStats


def aimer(stats: RoutingStats, experts: nn.Module, generator: torch.Generator) -> Tensor:
    """−‖w‖₁ / (√N ‖w‖₂) over all N weights of an expert's projections: those whose weights are the least concentrated
    go.
    """
    projections = [parameter for parameter in experts.parameters() if parameter.dim() == 3]
    # One expert at a time: all of them in float64 would be several layers' memory.
    return torch.stack([-_evenness([one[number] for one in projections]) for number in range(len(stats.tokens_E))])


def _evenness(matrices: list[Tensor]) -> Tensor:
    num = sum(matrix.numel() for matrix in matrices)
    absolute = torch.stack([matrix.abs().sum(dtype=torch.float64) for matrix in matrices]).sum()
    squares = torch.stack([matrix.double().square().sum() for matrix in matrices]).sum()
    return (absolute / (num * squares).sqrt()).cpu()
