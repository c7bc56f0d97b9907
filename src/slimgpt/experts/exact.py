"""Which experts a layer misses least, by what their absence does to its output: ours.

Experts go one by one. Each time every candidate is tried: its tokens go where the router then sends them, all gates are
what they then are, and the error is that of the layer's output, squared and summed over tokens. So an expert counts for
little if those that are left do its work, and for more once they are gone.

With F the outputs of all experts for a token, c and d its gates before and after, the error is ‖Fᵀ(d − c)‖² =
(d − c)ᵀ FFᵀ (d − c): FFᵀ is made once, and a trial takes the router alone. Of more than 64 experts, several go in a
round.

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
ROUNDS = 64  # more experts than that, and several go in a round: trials of one at a time would take hours
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
    trials = Trials(grams(experts, num_experts, x_TD), rerouting.gates(x_TD, ()))
    in_group = num_experts // groups
    gone: list[int] = []
    while len(gone) < num_experts - num_kept:
        full = {group for group in range(groups) if _of(gone, group, in_group) == (num_experts - num_kept) // groups}
        candidates = [one for one in range(num_experts) if one not in gone and one // in_group not in full]
        errors = {one: trials.error(rerouting.gates(x_TD, [*gone, one])) for one in candidates}
        room = num_experts - num_kept - len(gone) if groups == 1 else 1
        gone += sorted(candidates, key=errors.__getitem__)[: min(room, max(1, num_experts // ROUNDS))]
        trials.settle(rerouting.gates(x_TD, gone))
    place_E = torch.full((num_experts,), float(num_experts), dtype=torch.float64)
    place_E[gone] = torch.arange(len(gone), dtype=torch.float64)
    return place_E


def _of(gone: list[int], group: int, in_group: int) -> int:
    """How many have gone from a group."""
    return sum(one // in_group == group for one in gone)


class Trials:
    """Errors of a layer's output with other gates than it had.

    Args:
        gram_TEE: FFᵀ of every token.
        dense_TE: the gates that it had.
    """

    def __init__(self, gram_TEE: Tensor, dense_TE: Tensor) -> None:
        self._gram_TEE, self._dense_TE = gram_TEE, dense_TE
        self.settle(dense_TE)

    def settle(self, gates_TE: Tensor) -> None:
        """Trials start from these gates now."""
        self._gates_TE = gates_TE
        self._error_T = self._errors(torch.ones(len(gates_TE), dtype=torch.bool, device=gates_TE.device), gates_TE)

    def error(self, gates_TE: Tensor) -> float:
        """Squared error of the output, summed over tokens: only those with other gates are looked at."""
        other_T = (gates_TE != self._gates_TE).any(1)
        changed = self._errors(other_T, gates_TE) - self._error_T[other_T]
        return float(self._error_T.sum() + changed.sum())

    def _errors(self, which_T: Tensor, gates_TE: Tensor) -> Tensor:
        change_tE = gates_TE[which_T] - self._dense_TE[which_T]
        whole_tE = (self._gram_TEE[which_T] @ change_tE[:, :, None]).squeeze(2)
        return (whole_tE * change_tE).sum(1, dtype=torch.float64)


def grams(experts: nn.Module, num_experts: int, x_TD: Tensor) -> Tensor:
    """FFᵀ of every token, float32."""
    made = []
    for x_tD in x_TD.split(CHUNK):
        output_tED = torch.stack([output_of(experts, number, x_tD).float() for number in range(num_experts)], dim=1)
        made.append(output_tED @ output_tED.mT)
    return torch.cat(made)
