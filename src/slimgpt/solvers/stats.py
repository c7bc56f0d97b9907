"""Running input statistics of one linear layer: X Xᵀ, the sum of the inputs, and the number of tokens.

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
from slimgpt.solvers.linalg import panels


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
        self._total_I = torch.zeros(num_inputs, dtype=torch.float32, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, x_TI: Tensor) -> None:
        """Add the tokens of one batch, in any floating dtype; sums in true float32, never TF32."""
        if not _exact_as_it_is(x_TI):
            x_TI = x_TI.float()
        with _exact_float32():
            for start, stop in panels(x_TI.shape[1]):
                _accumulate_(self._sum_II[start:stop, start:], x_TI[:, start:stop].T, x_TI[:, start:])
        self._total_I += x_TI.sum(0, dtype=torch.float32)
        self._count += x_TI.shape[0]

    def like(self) -> InputStats:
        """An empty accumulator of the same size on the same device."""
        return InputStats(len(self._sum_II), self._sum_II.device)

    @property
    def num_tokens(self) -> int:
        """Tokens seen so far."""
        return int(self._count)

    def buffers(self) -> list[Tensor]:
        """The raw sums. Adding them up in place over processes (an all-reduce) pools their tokens."""
        return [self._sum_II, self._total_I, self._count]

    def merge_(self, other: InputStats) -> InputStats:
        """Pool the tokens of another accumulator into this one."""
        for mine, theirs in zip(self.buffers(), other.buffers(), strict=True):
            mine += theirs.to(mine.device)
        return self

    def mean_I(self) -> Tensor:
        """The mean input, I float32."""
        return self._total_I / self._count

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


HELD_OUT = 8
"""One calibration window in so many is held out where something is chosen by what it does to unseen text."""


class GapStats:
    """What separates the dense path from the pruned one at the outputs of a layer, and how far its inputs explain it.

    The *gap* of a token is what the layer put out in the dense model less what it puts out in the pruned one, before it
    is pruned itself. Two accumulators of the same kind: one for fitting, one for windows that are held out.

    Args:
        num_outputs: O, the outputs of the layer.
        num_inputs: I, its inputs.
        device: where the sums live; batches come from there.
    """

    def __init__(self, num_outputs: int, num_inputs: int, device: torch.device | str = "cpu") -> None:
        self.inputs = [InputStats(num_inputs, device) for _ in range(2)]
        self._cross_OI = [torch.zeros(num_outputs, num_inputs, device=device) for _ in range(2)]

    def update(self, x_BTI: Tensor, gap_BTO: Tensor, first: int) -> None:
        """Add a batch of windows, the first of which is calibration window number ``first``."""
        held_B = torch.arange(first, first + len(x_BTI), device=x_BTI.device) % HELD_OUT == HELD_OUT - 1
        for half, chosen_B in enumerate((~held_B, held_B)):
            x_TI, gap_TO = x_BTI[chosen_B].flatten(0, -2), gap_BTO[chosen_B].flatten(0, -2)
            self.inputs[half].update(x_TI)
            with _exact_float32():
                self._cross_OI[half].addmm_(gap_TO.T.float(), x_TI.float())

    def pooled(self) -> InputStats:
        """The inputs of all windows, in a third accumulator."""
        fit, held = self.inputs
        return fit.like().merge_(fit).merge_(held)

    def buffers(self) -> list[Tensor]:
        """The raw sums, as of :class:`InputStats`."""
        return [buffer for stats in self.inputs for buffer in stats.buffers()] + self._cross_OI

    def cross_OI(self, half: int) -> Tensor:
        """Σ gap xᵀ over the windows for fitting (0) or those held out (1), O x I float32."""
        return self._cross_OI[half]


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
