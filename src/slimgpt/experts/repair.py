"""The last projections of the experts that stay, refitted by least squares on the tokens that they now serve, so that
the layer puts out what it did with all its experts; as far as tokens that the fit has not seen confirm it.

With w the gate and h what enters an expert's last projection, the experts' sum for a token is Σ w D h. Experts are
refitted in turn, each to what is still missing: min ‖R − (w h) Δᵀ‖² + λ ‖Δ‖².

Shapes: T tokens · E experts · K experts of a token · D residual width · I width of an expert · n tokens of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.experts.mixture import count_of
from slimgpt.experts.watching import Routed, output_of

FITTED = 0.75  # share of the tokens that the fit sees; the rest confirm it
SWEEPS = 2
DAMPINGS = (0.01, 0.1, 1.0, 10.0)  # λ, of the mean of the Gram matrix's diagonal
ENOUGH = 8  # tokens of an expert, on either side
NUMBERS = 1 << 26  # of tokens x D at most


def num_tokens(hidden: int) -> int:
    """Tokens that a layer is refitted on, at most."""
    return max(1, NUMBERS // hidden)


@dataclass(frozen=True)
class Refit:
    """New last projections of a layer's experts.

    Attributes:
        down: in the shape of the old ones.
        refitted: how many experts have another one than before.
        error_before: squared error of the layer's output on tokens that the fit has not seen, as a share of the output.
        error_after: the same with the new ones.
    """

    down: Tensor
    refitted: int
    error_before: float
    error_after: float


def last_projection(layer: nn.Module, path: str) -> str:
    """Name in a layer of the tensor of its experts' last projections."""
    experts = layer.get_submodule(path)
    return next(f"{path}.{name}" for name, one in experts.named_parameters() if one is experts.down_proj)


def hidden_of(experts: nn.Module, number: int, x_nD: Tensor) -> Tensor:
    """n x I, what enters the last projection of one expert."""
    own: Any = experts
    weight = (own.gate_up_proj if own.has_gate else own.up_proj)[number]
    made = x_nD @ (weight if own.is_transposed else weight.T)
    if own.has_bias:
        made = made + (own.gate_up_proj_bias if own.has_gate else own.up_proj_bias)[number]
    hidden: Tensor = own._apply_gate(made) if own.has_gate else own.act_fn(made)
    return hidden


def is_linear(experts: nn.Module, x_nD: Tensor) -> bool:
    """The output of an expert is its last projection of :func:`hidden_of`, and perhaps a bias."""
    own: Any = experts
    try:
        out_nD = _projected(own.down_proj[0], hidden_of(experts, 0, x_nD), own.is_transposed)
        if own.has_bias:
            out_nD = out_nD + own.down_proj_bias[0]
        return torch.allclose(out_nD, output_of(experts, 0, x_nD), rtol=1e-3, atol=1e-4 * float(out_nD.abs().max()))
    except (AttributeError, RuntimeError):  # experts of another make
        return False


def refit(experts: nn.Module, routed: Routed, target_TD: Tensor) -> Refit:
    """Refit the experts of a layer, which stay as they are.

    Args:
        experts: those that stay, with their weights.
        routed: tokens, and where the smaller layer's router sends them.
        target_TD: what all experts made of those tokens.
    """
    own: Any = experts
    num_fitted = int(FITTED * len(target_TD))
    rest_TD = target_TD.float() - _sum(experts, routed)
    down_EDI = (own.down_proj.mT if own.is_transposed else own.down_proj).float().clone()
    unseen = slice(num_fitted, None)
    whole = float(target_TD[unseen].float().square().sum())
    before = float(rest_TD[unseen].square().sum())
    refitted = set()
    for _ in range(SWEEPS):
        for number in range(len(down_EDI)):
            token_n, choice_n = torch.where(routed.expert_TK == number)
            gate_n1 = routed.gate_TK[token_n, choice_n, None].float()
            x_nI = hidden_of(experts, number, routed.x_TD[token_n]).float() * gate_n1
            change_DI = _change(x_nI, rest_TD[token_n], int((token_n < num_fitted).sum()))
            if change_DI is not None:
                refitted.add(number)
                down_EDI[number] += change_DI
                rest_TD[token_n] -= x_nI @ change_DI.T
    after = float(rest_TD[unseen].square().sum())
    down = (down_EDI.mT if own.is_transposed else down_EDI).contiguous()
    return Refit(down, len(refitted), before / whole if whole else 0.0, after / whole if whole else 0.0)


def _change(x_nI: Tensor, rest_nD: Tensor, num_fitted: int) -> Tensor | None:
    """What is added to one expert's projection, D x I; None where the tokens that are not fitted see no gain."""
    seen, unseen = slice(num_fitted), slice(num_fitted, None)
    if min(num_fitted, len(x_nI) - num_fitted) < ENOUGH:
        return None
    gram_II, cross_ID = x_nI[seen].T @ x_nI[seen], x_nI[seen].T @ rest_nD[seen]
    mean, eye_II = gram_II.diagonal().mean(), torch.eye(len(gram_II), device=gram_II.device)
    if not mean > 0:
        return None
    best, found = float(rest_nD[unseen].square().sum()), None
    for damping in DAMPINGS:
        change_ID = torch.linalg.solve(gram_II + damping * mean * eye_II, cross_ID)
        error = float((rest_nD[unseen] - x_nI[unseen] @ change_ID).square().sum())
        if error < best:
            best, found = error, change_ID.T
    return found


def _sum(experts: nn.Module, routed: Routed) -> Tensor:
    """T x D float32, what the experts put out together."""
    sum_TD = torch.zeros_like(routed.x_TD, dtype=torch.float32)
    for number in range(count_of(experts)):
        token_n, choice_n = torch.where(routed.expert_TK == number)
        if len(token_n):
            gate_n1 = routed.gate_TK[token_n, choice_n, None].float()
            sum_TD.index_add_(0, token_n, output_of(experts, number, routed.x_TD[token_n]).float() * gate_n1)
    return sum_TD


def _projected(down: Tensor, x_nI: Tensor, is_transposed: bool) -> Tensor:
    return x_nI @ (down if is_transposed else down.T)
