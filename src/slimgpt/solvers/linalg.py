"""The dense linear algebra under every solver, in float64 and pure torch.

The problem, for one linear layer: keep the columns K of W so that ‖W X − W' X_K‖² is least. All that is
needed of the inputs X is the Hessian H = X Xᵀ; it is solved with in its damped version H̃ = H + λI.

Shapes: O consumer outputs · I consumer inputs (= N·K) · N units · K channels per unit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slimgpt.errors import NumericalError

# --- the damped problem ---------------------------------------------------------------------------


def to_float64(tensor: Tensor) -> Tensor:
    """A float64 copy, on the same device, or on the CPU where the device has no float64 (Apple's MPS)."""
    device = torch.device("cpu") if tensor.device.type == "mps" else tensor.device
    return tensor.to(device, torch.float64, copy=True)


def damped(hessian_II: Tensor, damping: float) -> Tensor:
    """H̃ = H + λI as a fresh float64 matrix, with λ = ``damping`` · mean(diag H).

    An input that never fired (H_jj = 0) gets H̃_jj = 1: any positive number does, for its row is zero and
    its weights are dropped by :func:`living_weight`. [SparseGPT, SlimGPT]
    """
    damped_II = to_float64(hessian_II)
    damped_II.diagonal().copy_(damped_diagonal(hessian_II, damping))
    return damped_II


def damped_diagonal(hessian_II: Tensor, damping: float) -> Tensor:
    """The diagonal of H̃, all in which it differs from H."""
    diagonal_I = to_float64(hessian_II.diagonal())
    return (diagonal_I + damping * diagonal_I.mean()).masked_fill_(diagonal_I == 0, 1.0)


def living_weight(weight_OI: Tensor, hessian_II: Tensor) -> Tensor:
    """The weight in float64 beside the Hessian, its dead inputs' columns set to zero."""
    diagonal_I = to_float64(hessian_II.diagonal())
    return to_float64(weight_OI).to(diagonal_I.device).masked_fill_(diagonal_I == 0, 0.0)


def gram(weight_OI: Tensor, hessian_II: Tensor, metric_OO: Tensor | None = None) -> Tensor:
    """G = WᵀMW of the living weight: squared norms and angles of the columns, all that scores need of W.

    Without a metric M is the identity.
    """
    alive_OI = living_weight(weight_OI, hessian_II)
    weighed_OI = alive_OI if metric_OO is None else metric_OO.to(alive_OI) @ alive_OI
    return alive_OI.T @ weighed_OI


def energy(weight_OI: Tensor, hessian_II: Tensor) -> float:
    """tr(W H Wᵀ) = ‖W X‖² in float64, by panels: the upper triangle once, and no float64 copy of H."""
    total = to_float64(hessian_II.new_zeros(()))
    weight_64 = to_float64(weight_OI).to(total.device)
    for start, stop in panels(hessian_II.shape[0]):
        strip = to_float64(hessian_II[start:stop, start:])
        strip[:, stop - start :] *= 2  # stands for its mirror image below the diagonal
        total += torch.vdot((weight_64[:, start:stop] @ strip).flatten(), weight_64[:, start:].flatten())
    return max(float(total), 0.0)  # rounding must not make a norm negative


def gram_energy(gram_II: Tensor, hessian_II: Tensor) -> float:
    """tr(W H Wᵀ) where WᵀW is at hand: the inner product of two symmetric matrices."""
    total = gram_II.new_zeros(())
    for start, stop in panels(len(gram_II)):
        total += torch.vdot(gram_II[start:stop].flatten(), to_float64(hessian_II[start:stop]).flatten())
    return float(total)


def panels(size: int) -> list[tuple[int, int]]:
    """At most eight equal runs covering ``range(size)``, none under 128: the strips of a block triangle.

    Eight strips visit 56 % of a square; more would save little and make thin, slow products.
    """
    width = max(128, math.ceil(size / 8))
    return [(start, min(start + width, size)) for start in range(0, size, width)]


# --- factorising ----------------------------------------------------------------------------------


def cholesky_(matrix_II: Tensor, damping: float) -> Tensor:
    """The lower Cholesky factor of a matrix, or of each in a batch, in the matrix's own memory.

    Raises:
        NumericalError: the matrix is singular to working precision. L_jj²/H_jj is the share of input j that
            the inputs before it do not explain; at the level of rounding, nothing computed from it is true.
    """
    diagonal_I = matrix_II.diagonal(dim1=-2, dim2=-1).clone()
    info = torch.empty(matrix_II.shape[:-2], dtype=torch.int32, device=matrix_II.device)
    torch.linalg.cholesky_ex(matrix_II, out=(matrix_II, info))
    unexplained_I = matrix_II.diagonal(dim1=-2, dim2=-1).square() / diagonal_I
    rounding = matrix_II.shape[-1] * torch.finfo(matrix_II.dtype).eps
    if info.any() or not (unexplained_I > rounding).all():
        raise singular(damping, matrix_II.shape[-1])
    return matrix_II


def singular(damping: float, num_inputs: int) -> NumericalError:
    """The error to raise when a damped Hessian cannot be solved with."""
    return NumericalError(
        f"the Hessian over {num_inputs} inputs is singular with damping {damping:g}. Likely causes: fewer "
        "calibration tokens than inputs, or inputs that duplicate one another. Raise --damping (0.01 is "
        "usual), or give more calibration text with --samples."
    )


def inverse_(matrix_II: Tensor, damping: float) -> Tensor:
    """The inverse of a positive definite matrix, whose memory is lost; raises like :func:`cholesky_`.

    On the CPU LAPACK inverts in place. On a GPU torch would take two more matrices for it: panel by panel it is one.
    """
    factor_II = cholesky_(matrix_II, damping)
    if factor_II.device.type == "cpu":
        return torch.cholesky_inverse(factor_II, out=factor_II)
    return _inverse_by_panels(factor_II)


def _inverse_by_panels(factor_II: Tensor) -> Tensor:
    """(L Lᵀ)⁻¹, a run of columns at a time."""
    inverse_II = torch.zeros_like(factor_II)
    inverse_II.diagonal().fill_(1.0)
    for start, stop in panels(len(factor_II)):
        half_IP = torch.linalg.solve_triangular(factor_II, inverse_II[:, start:stop], upper=False)
        inverse_II[:, start:stop] = torch.linalg.solve_triangular(factor_II.T, half_IP, upper=True)
    return inverse_II


def diagonal_blocks(matrix_II: Tensor, width: int) -> Tensor:
    """A copy of the ``width``-sized blocks on the diagonal, N x K x K."""
    num_units = matrix_II.shape[0] // width
    blocks_NKNK = matrix_II.unflatten(1, (num_units, width)).unflatten(0, (num_units, width))
    return blocks_NKNK.diagonal(dim1=0, dim2=2).movedim(-1, 0).clone(memory_format=torch.contiguous_format)


# --- what is left ---------------------------------------------------------------------------------


def refit(weight_OI: Tensor, hessian_II: Tensor, kept_I: Tensor, damping: float) -> Tensor:
    """The best weights on the kept columns, W'_K = W H̃_:,K (H̃_KK)⁻¹, O x kept, in float64.

    Least squares with the damping as a ridge *towards the original weights*: H̃ stands on both sides, so
    keeping all columns gives W back. Written as a correction to W_K, exactly so: W'_K = W_K + W_R H_RK
    (H̃_KK)⁻¹. Of H only these blocks are copied to float64: this is where a solver's memory peaks.

    Raises:
        NumericalError: see :func:`cholesky_`.
    """
    weight_64 = living_weight(weight_OI, hessian_II)
    kept_K, gone_R = (flags.nonzero().flatten().to(hessian_II.device) for flags in (kept_I, ~kept_I))
    damped_KK = to_float64(hessian_II[kept_K[:, None], kept_K])
    damped_KK.diagonal().copy_(damped_diagonal(hessian_II, damping)[kept_K.to(weight_64.device)])
    cross_RK = to_float64(hessian_II[gone_R[:, None], kept_K])
    kept_K, gone_R = kept_K.to(weight_64.device), gone_R.to(weight_64.device)
    factor_KK = cholesky_(damped_KK, damping)
    half_KO = torch.linalg.solve_triangular(factor_KK, (weight_64[:, gone_R] @ cross_RK).T, upper=False)
    return weight_64[:, kept_K] + torch.linalg.solve_triangular(factor_KK.T, half_KO, upper=True).T


def relative_error(weight_OI: Tensor, hessian_II: Tensor, kept_I: Tensor, kept_weight_OK: Tensor) -> float:
    """‖W X − W' X_K‖² / ‖W X‖² on the undamped Hessian; 0 where the layer had no output to lose."""
    total = energy(weight_OI, hessian_II)
    lost_OI = to_float64(weight_OI)
    lost_OI[:, kept_I.to(lost_OI.device)] -= kept_weight_OK.to(lost_OI)
    return energy(lost_OI, hessian_II) / total if total > 0 else 0.0
