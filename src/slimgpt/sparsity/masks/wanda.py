"""Wanda: weight times norm of its input (Sun et al., "A Simple and Effective Pruning Approach for Large Language
Models", https://arxiv.org/abs/2306.11695, section 3).
"""

from __future__ import annotations

from torch import Tensor

from slimgpt.solvers.linalg import to_float64
from slimgpt.sparsity.masks.method import MaskOptions, without_lowest


def wanda(weight_OI: Tensor, hessian_II: Tensor | None, sparsity: float, options: MaskOptions) -> Tensor:
    """Zero the weights of least |W_ij| · ‖x_j‖ among those of their output i, or in each group of a pattern.

    The others stay as they are. Scores of different outputs are not compared: the paper found that to matter.
    """
    assert hessian_II is not None
    norm_I = to_float64(hessian_II.diagonal()).sqrt()
    score_OI = to_float64(weight_OI).to(norm_I.device).abs() * norm_I
    return without_lowest(weight_OI, score_OI, sparsity, options.group, by_row=True)
