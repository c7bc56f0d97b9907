"""Which experts a layer misses least, by what their absence does to its output: ours.

Experts go one by one. Each time every candidate is tried: its tokens go where the router then sends them, all gates are
what they then are, and the error is that of the layer's output, squared and summed over tokens. So an expert counts for
little if those that are left do its work, and for more once they are gone.

With F the outputs of all experts for a token, c and d its gates before and after, the error is ‖Fᵀ(d − c)‖² =
(d − c)ᵀ FFᵀ (d − c): FFᵀ is made once, and a trial takes the router alone.

Shapes: T tokens · E experts · D residual width · G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimgpt.experts.mixture import count_of
from slimgpt.experts.rerouting import Rerouting
from slimgpt.experts.watching import output_of

MOST_TOKENS = 4096  # that a layer is tried with
GRAM_NUMBERS = 1 << 25  # of all tokens' FFᵀ at most
CHUNK = 256  # tokens whose outputs of all experts are there at once


def num_tokens(num_experts: int) -> int:
    """Tokens that a layer of so many experts is tried with."""
    return max(1, min(MOST_TOKENS, GRAM_NUMBERS // num_experts**2))


def order_of_going(experts: nn.Module, rerouting: Rerouting, x_TD: Tensor, num_kept: int, groups: int) -> Tensor:
    """E float64, more being better: the place at which an expert goes, and E for those that stay; none goes from a
    group that has given its share.

    Args:
        experts: of a layer, with their weights.
        rerouting: of the same layer.
        x_TD: tokens that enter it.
        num_kept: experts that stay.
        groups: of equal size, that keep equally many.
    """
    num_experts = count_of(experts)
    gram_TEE, dense_TE = grams(experts, num_experts, x_TD), rerouting.gates(x_TD, ())
    of_group = num_experts // groups
    gone: list[int] = []
    while len(gone) < num_experts - num_kept:
        given = [sum(one // of_group == group for one in gone) for group in range(groups)]
        candidates = [
            one
            for one in range(num_experts)
            if one not in gone and given[one // of_group] < (num_experts - num_kept) // groups
        ]
        errors = [error(gram_TEE, rerouting.gates(x_TD, [*gone, one]) - dense_TE) for one in candidates]
        gone.append(candidates[errors.index(min(errors))])
    place_E = torch.full((num_experts,), float(num_experts), dtype=torch.float64)
    place_E[gone] = torch.arange(len(gone), dtype=torch.float64)
    return place_E


def grams(experts: nn.Module, num_experts: int, x_TD: Tensor) -> Tensor:
    """FFᵀ of every token, float32."""
    made = []
    for x_tD in x_TD.split(CHUNK):
        output_tED = torch.stack([output_of(experts, number, x_tD).float() for number in range(num_experts)], dim=1)
        made.append(output_tED @ output_tED.mT)
    return torch.cat(made)


def error(gram_TEE: Tensor, change_TE: Tensor) -> float:
    """Squared error of the layer's output, summed over tokens."""
    return float(((gram_TEE @ change_TE[:, :, None]).squeeze(2) * change_TE).sum(dtype=torch.float64))
