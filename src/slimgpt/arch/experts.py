"""Mixtures of experts: each expert's FFN channels are a site of their own.

transformers keeps the experts of a layer in two fused 3-D parameters, checkpoints keep them one by one. Pruning wants
them one by one too, each with an input of its own: the skeleton's fused module is replaced by :class:`Experts`, whose
parameters have the names of checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.arch import gated
from slimgpt.sites import ATTENTION, FFN, Segment, Site

PRUNED = {
    ATTENTION: gated.PRUNED[ATTENTION],
    FFN: "channels of every expert: equally many of each, each its own; the router stays",
}

WIDTH_MULTIPLE = 8
"""Grouped matrix products, which transformers runs experts with, want rows of a multiple of 16 bytes."""


@dataclass(frozen=True)
class ExpertNames:
    """Where a layer's fused experts are, and what checkpoints call the projections of one."""

    path: str
    gate: str
    up: str
    down: str


class Expert(nn.Module):
    """One gated FFN."""

    def __init__(self, names: ExpertNames, hidden: int, width: int, act: nn.Module) -> None:
        super().__init__()
        self.names = names
        self.act = act
        self.add_module(names.gate, nn.Linear(hidden, width, bias=False))
        self.add_module(names.up, nn.Linear(hidden, width, bias=False))
        self.add_module(names.down, nn.Linear(width, hidden, bias=False))

    def forward(self, x_TD: Tensor) -> Tensor:
        """down(act(gate(x)) · up(x))."""
        gate, up, down = (self.get_submodule(name) for name in (self.names.gate, self.names.up, self.names.down))
        return down(self.act(gate(x_TD)) * up(x_TD))


class Experts(nn.ModuleList):
    """Experts one by one; called as the fused module that it stands in for."""

    def forward(self, x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> Tensor:
        """Every token's K experts, weighted by the router."""
        sum_TD = torch.zeros_like(x_TD)
        for number, expert in enumerate(self):
            token, choice = torch.where(expert_TK == number)
            if len(token):
                output = expert(x_TD[token]) * weight_TK[token, choice, None]
                sum_TD.index_add_(0, token, output.to(sum_TD.dtype))
        return sum_TD


def separate_(layer: nn.Module, names: ExpertNames) -> None:
    """Put empty experts one by one in the place of a layer's fused ones."""
    fused: Any = layer.get_submodule(names.path)
    num_experts, hidden, width = fused.down_proj.shape
    with torch.device("meta"):
        experts = Experts(Expert(names, hidden, width, fused.act_fn) for _ in range(num_experts))
    layer.set_submodule(names.path, experts.eval().requires_grad_(False))


def sites(config: Any, names: ExpertNames, num_experts: int, width: int) -> tuple[Site, ...]:
    """Attention, then every expert; a layer has to run its experts again, as each sees only some of the tokens."""
    experts = (f"{names.path}.{number}" for number in range(num_experts))
    return (
        gated.attention(config),
        *(
            Site(
                name=f"{FFN}.{number}",
                block=None,
                consumer=f"{expert}.{names.down}",
                producers=(Segment(f"{expert}.{names.gate}", 1), Segment(f"{expert}.{names.up}", 1)),
                num_units=width,
                unit_width=1,
            )
            for number, expert in enumerate(experts)
        ),
    )
