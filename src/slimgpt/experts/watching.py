"""What a layer's experts do on the calibration text: what a score may go by.

Shapes: E experts · T tokens · K experts of a token · D residual width · n tokens of one expert.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slimgpt.experts.mixture import count_of


class Routed(NamedTuple):
    """What a router hands to its experts.

    Attributes:
        x_TD: tokens.
        expert_TK: int64, the experts of each.
        gate_TK: their weights in the sum.
    """

    x_TD: Tensor
    expert_TK: Tensor
    gate_TK: Tensor


@dataclass
class RoutingStats:
    """Sums over the tokens that were sent to each expert.

    Attributes:
        tokens_E: how many.
        gates_E: Σ gate.
        norms_E: Σ ‖output‖.
        weighted_E: Σ gate · ‖output‖.
    """

    tokens_E: Tensor
    gates_E: Tensor = field(init=False)
    norms_E: Tensor = field(init=False)
    weighted_E: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.gates_E, self.norms_E, self.weighted_E = (torch.zeros_like(self.tokens_E) for _ in range(3))

    @classmethod
    def of(cls, num_experts: int) -> RoutingStats:
        """Of experts that have seen nothing."""
        return cls(torch.zeros(num_experts, dtype=torch.float64))

    def update(self, experts: nn.Module, routed: Routed) -> None:
        """Add a batch."""
        for number in range(len(self.tokens_E)):
            token_n, choice_n = torch.where(routed.expert_TK == number)
            if not len(token_n):
                continue
            gate_n = routed.gate_TK[token_n, choice_n].double()
            norm_n = output_of(experts, number, routed.x_TD[token_n]).double().norm(dim=-1)
            self.tokens_E[number] += len(token_n)
            self.gates_E[number] += gate_n.sum().cpu()
            self.norms_E[number] += norm_n.sum().cpu()
            self.weighted_E[number] += (gate_n.abs() * norm_n).sum().cpu()

    def count(self, experts: nn.Module, routed: Routed) -> None:
        """Add a batch's tokens and gates alone: no expert runs for it."""
        chosen = routed.expert_TK.flatten().cpu()
        self.tokens_E.index_add_(0, chosen, torch.ones(len(chosen), dtype=torch.float64))
        self.gates_E.index_add_(0, chosen, routed.gate_TK.flatten().double().cpu())

    @property
    def share_E(self) -> Tensor:
        """Of all places that the router has filled."""
        return self.tokens_E / self.tokens_E.sum()


class Sample:
    """Some of the tokens that go by, drawn evenly.

    Args:
        most: how many are kept at most.
        total: how many will go by.
        generator: of the draw.
    """

    def __init__(self, most: int, total: int, generator: torch.Generator) -> None:
        chosen = torch.randperm(total, generator=generator)[: min(most, total)]
        self._is_kept_T = torch.zeros(total, dtype=torch.bool).index_fill_(0, chosen, True)
        self._first = 0
        self._parts: list[Tensor] = []

    def update(self, rows: Tensor) -> None:
        """The next of them, a row each."""
        is_kept = self._is_kept_T[self._first : self._first + len(rows)]
        self._parts.append(rows[is_kept.to(rows.device)])
        self._first += len(rows)

    @property
    def rows(self) -> Tensor:
        """What was kept, in the order in which it went by."""
        return torch.cat(self._parts)


def gates_of(experts: nn.Module, routed: Routed) -> Tensor:
    """T x E float32: the weight of every expert in the sum, 0 where a token is not sent."""
    gates_TE = torch.zeros(len(routed.x_TD), count_of(experts), device=routed.x_TD.device)
    return gates_TE.scatter_add_(1, routed.expert_TK, routed.gate_TK.float())


def output_of(experts: nn.Module, number: int, x_nD: Tensor) -> Tensor:
    """n x D, what one expert makes of tokens, before its gate."""
    index_n1 = torch.full((len(x_nD), 1), number, dtype=torch.int64, device=x_nD.device)
    output: Tensor = type(experts).forward(experts, x_nD, index_n1, torch.ones_like(index_n1, dtype=x_nD.dtype))
    return output


@contextmanager
def watched(experts: nn.Module, tell: Callable[[nn.Module, Routed], None]) -> Iterator[None]:
    """Inside, ``tell`` hears of what enters the experts."""
    names = list(inspect.signature(type(experts).forward).parameters)[1:4]

    def hear(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        x, expert, gate = (given[name] for name in names)
        tell(module, Routed(x.flatten(0, -2), expert.flatten(0, -2), gate.flatten(0, -2)))

    handle = experts.register_forward_pre_hook(hear, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def outputs(experts: nn.Module, tell: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside, ``tell`` hears of what the experts put out together, T x D."""
    handle = experts.register_forward_hook(lambda module, args, output: tell(output.flatten(0, -2)))
    try:
        yield
    finally:
        handle.remove()
