"""Which experts of a layer stay.

Shapes: E experts · G groups · N that stay.
"""

from __future__ import annotations

import torch
from torch import Tensor


def best(score_E: Tensor, num_kept: int, groups: int) -> Tensor:
    """The N experts of highest score, in their order; equally many of each group, and of equals the first."""
    score_Ge = score_E.view(groups, -1)
    ranked_Ge = score_Ge.sort(dim=1, descending=True, stable=True).indices
    first_G1 = torch.arange(groups)[:, None] * score_Ge.shape[1]
    return (ranked_Ge[:, : num_kept // groups] + first_G1).flatten().sort().values
