"""Magnitude: the smallest weights go (Han et al., "Learning both Weights and Connections", arXiv 1506.02626)."""

from __future__ import annotations

from torch import Tensor

from slimgpt.sparsity.masks.method import MaskOptions, without_lowest


def magnitude(weight_OI: Tensor, hessian_II: Tensor | None, sparsity: float, options: MaskOptions) -> Tensor:
    """Zero the weights of least |W_ij| in the whole matrix, or in each group of a pattern. Looks at no inputs."""
    return without_lowest(weight_OI, weight_OI.abs().float(), sparsity, options.group, by_row=False)
