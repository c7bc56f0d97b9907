"""SparseGPT: Optimal Brain Surgeon on single weights, all outputs in one sweep over the inputs (Frantar & Alistarh,
"SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", https://arxiv.org/abs/2301.00774).

Inputs are visited from the first to the last. At input j every output decides whether its weight goes; if so, its
weights on the inputs *after* j make up for it. What lies before j is final. So all outputs share one sequence of
inverses, those of H̃ without its first inputs, and these are all in one triangular factor: with H̃⁻¹ = Uᵀ U,

    (H̃_{j:,j:})⁻¹ = U_{j:,j:}ᵀ U_{j:,j:}        whose first row is U_jj · U_{j,j:}

so that weight w at input j costs w² / U_jj², and its repair is  W_{:,j:} ← W_{:,j:} − (w / U_jj) U_{j,j:}.

Shapes: O outputs · I inputs · B inputs of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimgpt.solvers.linalg import cholesky_, damped, to_float64
from slimgpt.sparsity.masks.method import MaskOptions, count, lowest

BLOCK = 128
"""Inputs whose mask is chosen together, and whose repairs reach the inputs behind them as one matrix product; the
paper's section 3.2 and 3.3 use 128 for both."""


def sparsegpt(weight_OI: Tensor, hessian_II: Tensor | None, sparsity: float, options: MaskOptions) -> Tensor:
    """Zero the weights that are cheapest to repair, block by block (or group by group of a pattern), and repair.

    Inputs that never fired go first, and are worth nothing.

    Raises:
        NumericalError: the damped Hessian is singular.
    """
    if sparsity == 0:
        return weight_OI
    assert hessian_II is not None
    factor_II = inverse_factor(hessian_II, options.damping)
    left_OI = to_float64(weight_OI).to(factor_II.device)
    zero_OI = left_OI == 0
    worth_I = (to_float64(hessian_II.diagonal()) != 0) / factor_II.diagonal().square()
    num_outputs, num_inputs = left_OI.shape
    for start, stop in blocks(num_inputs, options.group):
        num = count(sparsity, num_outputs * stop) - count(sparsity, num_outputs * start)
        choice = _Choice(worth_I[start:stop], zero_OI[:, start:stop], sparsity, options.group, num)
        scale_OB = _sweep_(left_OI[:, start:stop], factor_II[start:stop, start:stop], choice)
        left_OI[:, stop:].addmm_(scale_OB, factor_II[start:stop, stop:], alpha=-1)
    return left_OI.to(weight_OI)


def inverse_factor(hessian_II: Tensor, damping: float) -> Tensor:
    """U, upper triangular, with H̃⁻¹ = Uᵀ U, in float64.

    Factorising from the last input to the first gives H̃ = R Rᵀ with R upper triangular, and U = R⁻¹: no inverse is
    formed and factorised again.

    Raises:
        NumericalError: the damped Hessian is singular.
    """
    reverse_II = cholesky_(damped(hessian_II, damping).flip(0, 1), damping).flip(0, 1)
    identity_II = torch.eye(len(reverse_II), dtype=reverse_II.dtype, device=reverse_II.device)
    return torch.linalg.solve_triangular(reverse_II, identity_II, upper=True)


def blocks(num_inputs: int, group: int) -> list[tuple[int, int]]:
    """Runs of inputs that share a mask choice: whole groups of a pattern."""
    width = max(group, BLOCK // group * group) if group else BLOCK
    return [(start, min(start + width, num_inputs)) for start in range(0, num_inputs, width)]


class _Choice:
    """Which weights of a block go, from the weights as they are when it is asked.

    Args:
        worth_B: 1 / U_jj², or 0 for an input that never fired.
        zero_OB: weights that were zero before the sweep.
        sparsity: share of each group that goes.
        group: of a pattern; 0 chooses the whole block at its start.
        num: weights of the block that go, without a pattern.
    """

    def __init__(self, worth_B: Tensor, zero_OB: Tensor, sparsity: float, group: int, num: int) -> None:
        self.width = group or zero_OB.shape[1]
        self._worth_B = worth_B
        self._zero_OB = zero_OB
        self._num = count(sparsity, group) if group else num
        self._by_row = bool(group)

    def gone(self, weight_OB: Tensor, first: int) -> Tensor:
        """True where a weight of the inputs ``first`` … ``first + width`` of the block goes, for all of these."""
        here = slice(first, first + self.width)
        score = (weight_OB[:, here].square() * self._worth_B[here]).masked_fill(self._zero_OB[:, here], -1.0)
        chosen = lowest(score if self._by_row else score.reshape(1, -1), self._num)
        return chosen.view_as(score) | self._zero_OB[:, here]


def _sweep_(weight_OB: Tensor, factor_BB: Tensor, choice: _Choice) -> Tensor:
    """Visit the inputs of a block one by one, in place; w / U_jj of what went, for the inputs behind the block."""
    gone_OB = torch.zeros_like(weight_OB, dtype=torch.bool)
    scale_OB = torch.empty_like(weight_OB)
    for j in range(weight_OB.shape[1]):
        if j % choice.width == 0:
            gone_OB[:, j : j + choice.width] = choice.gone(weight_OB, j)
        scale_OB[:, j] = weight_OB[:, j] * gone_OB[:, j] / factor_BB[j, j]
        weight_OB[:, j:].addr_(scale_OB[:, j], factor_BB[j, j:], alpha=-1)
        weight_OB[:, j].masked_fill_(gone_OB[:, j], 0.0)  # it is, but for rounding
    return scale_OB
