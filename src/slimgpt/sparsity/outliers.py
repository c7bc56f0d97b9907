"""The share of outliers in every layer of the dense model, which OWL's sparsities go by.

A weight is an outlier where |W_ij| · ‖x_j‖ is more than M times its mean over the layer (Yin et al., "Outlier Weighed
Layerwise Sparsity (OWL)", https://arxiv.org/abs/2310.05175, section 3.1).

Shapes: O outputs · I inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

OUTLIER = 5.0
"""M, of the paper's main tables."""


def outlier_share(weights: Sequence[Tensor], norms: Sequence[Tensor]) -> float:
    """D of one layer: its projections' weights O x I, with the norms of the inputs of each, I."""
    scores = [weight_OI.abs().float() * norm_I.float() for weight_OI, norm_I in zip(weights, norms, strict=True)]
    num = sum(score_OI.numel() for score_OI in scores)
    limit = OUTLIER * sum(float(score_OI.sum(dtype=torch.float64)) for score_OI in scores) / num
    return sum(int((score_OI > limit).sum()) for score_OI in scores) / num
