"""What solvers take beside the weight and the Hessian, at most at once, in bytes.

Shapes: O consumer outputs · I consumer inputs · K inputs that are kept.
"""

from __future__ import annotations

FLOAT32, FLOAT64 = 4, 8
ENERGY = 4  # O x I float64: the weight, what it loses, a product, and a copy on the way
PANELS = 8  # strips of the Hessian
ROUND = 1024  # most inputs that leave in a round of the paper's solver


def solving(solver: str, num_outputs: int, num_inputs: int, *, repairs: bool, ratio: float) -> int:
    """For a site that loses about ``ratio`` of its inputs by ``solver``."""
    square, matrix = FLOAT64 * num_inputs**2, FLOAT64 * num_outputs * num_inputs
    if solver == "obs":
        return eliminating(num_outputs, num_inputs)
    if solver == "slimgpt":  # the Hessian and its inverse; the weight in four versions; rows of those that leave
        return 2 * square + 4 * matrix + 2 * FLOAT64 * min(ROUND, num_inputs) * num_inputs
    measured = measuring(num_outputs, num_inputs)
    return max(measured, refitting(num_outputs, num_inputs, ratio)) if repairs else measured


def measuring(num_outputs: int, num_inputs: int) -> int:
    """The error of what is left, by strips of the Hessian."""
    return FLOAT64 * (num_inputs**2 // PANELS + ENERGY * num_outputs * num_inputs)


def eliminating(num_outputs: int, num_inputs: int) -> int:
    """The inverse and the gram; the living weight, as it is and weighed by a metric."""
    return 2 * FLOAT64 * num_inputs**2 + 2 * FLOAT64 * num_outputs * num_inputs


def refitting(num_outputs: int, num_inputs: int, ratio: float) -> int:
    """Two blocks of the Hessian, cut out and then in float64; the weight and what becomes of it."""
    kept = round((1 - ratio) * num_inputs)
    return (FLOAT32 + FLOAT64) * kept * num_inputs + 2 * FLOAT64 * num_outputs * num_inputs
