"""Linear centred kernel alignment (CKA) of two representations of the same tokens, from streamed moments.

Kornblith et al., https://arxiv.org/abs/1905.00414: with centred features X and Y,
CKA = ‖YᵀX‖² / (‖XᵀX‖ · ‖YᵀY‖) in Frobenius norms: 1 if one is a rotation of the other, however scaled, 0 if they are
uncorrelated. The three moments take memory by the width of the model and not by the number of tokens.

Shapes: N tokens · D features of the first representation · E of the second.
"""

from __future__ import annotations

import torch
from torch import Tensor


class LinearCKA:
    """Accumulates what the CKA of two representations needs.

    Each batch is centred by itself and then joined with what came before (Chan, Golub and LeVeque 1979): features of a
    residual stream have means far above their spread, and moments about zero would drown in them.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean_D, self._mean_E = torch.zeros(()), torch.zeros(())
        self._xx_DD, self._yy_EE, self._xy_DE = torch.zeros(()), torch.zeros(()), torch.zeros(())

    def update(self, x_ND: Tensor, y_NE: Tensor) -> None:
        """Add a batch of the same tokens in both representations; moments are kept in float32."""
        x_ND, y_NE = x_ND.float(), y_NE.float()
        mean_D, mean_E = x_ND.mean(0), y_NE.mean(0)
        x_ND, y_NE = x_ND - mean_D, y_NE - mean_E
        step_D, step_E = mean_D - self._mean_D, mean_E - self._mean_E
        total = self._count + len(x_ND)
        weight = self._count * len(x_ND) / total
        self._xx_DD = self._xx_DD + x_ND.T @ x_ND + weight * torch.outer(step_D, step_D)
        self._yy_EE = self._yy_EE + y_NE.T @ y_NE + weight * torch.outer(step_E, step_E)
        self._xy_DE = self._xy_DE + x_ND.T @ y_NE + weight * torch.outer(step_D, step_E)
        self._mean_D = self._mean_D + step_D * (len(x_ND) / total)
        self._mean_E = self._mean_E + step_E * (len(x_ND) / total)
        self._count = total

    def value(self) -> float:
        """The CKA so far, in [0, 1]; 0 where a representation does not vary."""
        norms = self._xx_DD.double().norm() * self._yy_EE.double().norm()
        return (self._xy_DE.double().norm().square() / norms).item() if norms > 0 else 0.0
