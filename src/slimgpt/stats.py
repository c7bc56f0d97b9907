"""Running input statistics of one linear layer: X Xᵀ and the number of tokens.

The *fitter* half of the mathematics: it is fed while the model runs, asked once for its Hessian, and
thrown away.

Shapes: T tokens · I consumer inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from slimgpt.errors import NumericalError
from slimgpt.linalg import panels


class InputStats:
    """Accumulates H = X Xᵀ in float32 over batches of tokens, in any order and of any size.

    H is symmetric, so only its upper block triangle is computed, strip by strip, and mirrored when it is
    asked for.

    Args:
        num_inputs: I, the inputs of the layer.
        device: where the sum lives; batches come from there.
    """

    def __init__(self, num_inputs: int, device: torch.device | str = "cpu") -> None:
        self._sum_II = torch.zeros(num_inputs, num_inputs, dtype=torch.float32, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, x_TI: Tensor) -> None:
        """Add the tokens of one batch, in any floating dtype; sums in true float32, never TF32."""
        if not _exact_as_it_is(x_TI):
            x_TI = x_TI.float()
        with _exact_float32():
            for start, stop in panels(x_TI.shape[1]):
                _accumulate_(self._sum_II[start:stop, start:], x_TI[:, start:stop].T, x_TI[:, start:])
        self._count += x_TI.shape[0]

    @property
    def num_tokens(self) -> int:
        """Tokens seen so far."""
        return int(self._count)

    def buffers(self) -> list[Tensor]:
        """The raw sums. Adding them up in place over processes (an all-reduce) pools their tokens."""
        return [self._sum_II, self._count]

    def merge_(self, other: InputStats) -> InputStats:
        """Pool the tokens of another accumulator into this one."""
        for mine, theirs in zip(self.buffers(), other.buffers(), strict=True):
            mine += theirs.to(mine.device)
        return self

    def hessian_II(self) -> Tensor:
        """H = X Xᵀ, symmetric to the bit, I x I float32: the accumulator's own memory, not a copy.

        Raises:
            NumericalError: an input was NaN or infinite, or its squares overflowed float32, or there was none.
        """
        if self.num_tokens == 0:
            raise NumericalError(
                "no calibration token came here. Likely cause: an expert that the router never chose. Give more "
                "calibration text with --samples."
            )
        self._require_finite()
        for start, stop in panels(self._sum_II.shape[0]):
            block = self._sum_II[start:stop, start:stop]
            block.copy_(block.triu() + block.triu(1).T)
            self._sum_II[stop:, start:stop] = self._sum_II[start:stop, stop:].T
        return self._sum_II

    def _require_finite(self) -> None:
        """The diagonal tells all: |H_ij|² ≤ H_ii H_jj, and a NaN or infinite input is in its own square."""
        bad_I = ~self._sum_II.diagonal().isfinite()
        if bad_I.any():
            raise NumericalError(
                f"{int(bad_I.sum())} of {len(bad_I)} inputs (the first: input {int(bad_I.nonzero()[0])}) were "
                f"not finite over {self.num_tokens} calibration tokens. Likely causes: activations that "
                "overflow in float16, or damaged weights. Try --dtype bfloat16 or float32."
            )


def _exact_as_it_is(x_TI: Tensor) -> bool:
    """CUDA multiplies half-precision numbers into float32 sums, where their products are exact."""
    return x_TI.is_cuda and x_TI.dtype in (torch.float16, torch.bfloat16)


def _accumulate_(sum_MN: Tensor, left_MT: Tensor, right_TN: Tensor) -> None:
    """sum += left @ right, the sum in float32."""
    if left_MT.dtype == torch.float32:
        sum_MN.addmm_(left_MT, right_TN)
    else:
        sum_MN += torch.mm(left_MT, right_TN, out_dtype=torch.float32)


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Keep CUDA from rounding float32 inputs to TF32, whatever the caller's global setting."""
    matmul = torch.backends.cuda.matmul  # torch 2.8 knows the older switch only
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, before)
