"""Exact greedy Optimal Brain Surgeon over units of columns: slimgpt's own solver.

At every step the unit goes whose removal costs least *after* optimal repair of all survivors, and the
cost of a head or KV group is the joint cost of its columns. The paper approximates both (see
solvers/slimgpt.py).

Source: Hassibi & Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992,
with the block elimination derived in docs/the_maths.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimgpt.sites import Removal, SolverOptions
from slimgpt.solvers.elimination import eliminate_
from slimgpt.solvers.finish import finish, keep_all_but
from slimgpt.solvers.linalg import damped, gram, gram_energy, inverse_


def obs(weight_OI: Tensor, hessian_II: Tensor, num_units: int, num_removed: int, options: SolverOptions) -> Removal:
    """Remove the first ``num_removed`` units of :func:`removal_order`, and refit the survivors once.

    The one refit equals the sequence of OBS updates and does not drift as they do.

    Raises:
        NumericalError: the damped Hessian is singular.
    """
    order, curve = removal_order(weight_OI, hessian_II, num_units, num_removed, options)
    return finish(weight_OI, hessian_II, keep_all_but(order, num_units), options, repair=True, curve=curve)


def removal_order(
    weight_OI: Tensor, hessian_II: Tensor, num_units: int, num_steps: int, options: SolverOptions
) -> tuple[Tensor, Tensor]:
    """The nested order in which units go, and the error it costs: one pass answers for every ratio.

    Args:
        weight_OI: the consumer's weight, any floating dtype.
        hessian_II: X Xᵀ, float32 or float64, undamped.
        num_units: N; units are consecutive runs of I / N columns.
        num_steps: how far to go, up to all N.
        options: only ``damping``, ``blocks`` and ``metric_OO`` are read.

    Returns:
        ``order``, unit indices, ``num_steps`` long; and ``curve``, float64, ``num_steps + 1`` long: the
        damped loss tr(M E H̃ Eᵀ) after 0, 1, 2, … removals relative to tr(M W H Wᵀ), which is ‖W X‖² without
        a metric. It bounds the true relative error from above.

    Raises:
        NumericalError: the damped Hessian is singular.
    """
    if num_steps == 0:
        return torch.empty(0, dtype=torch.long), torch.zeros(1, dtype=torch.float64)
    inverse_II = inverse_(damped(hessian_II, options.damping), options.damping)
    # After the inverse, which takes a second matrix for a while on a GPU.
    gram_II = gram(weight_OI, hessian_II, options.metric_OO)
    total = gram_energy(gram_II, hessian_II)
    order, cost = eliminate_(inverse_II, gram_II, len(gram_II) // num_units, num_steps, blocks=options.blocks)
    return order, nested_curve(cost, total)


def nested_curve(cost: Tensor, total: float) -> Tensor:
    """Costs of single removals to the relative error after 0, 1, 2, … of them; zero without output."""
    curve = torch.cat([cost.new_zeros(1), cost.cumsum(0)])
    return curve / total if total > 0 else torch.zeros_like(curve)
