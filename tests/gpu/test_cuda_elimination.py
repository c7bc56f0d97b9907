"""A GPU repeats recorded panels: the same units leave at the same cost as on the CPU, at any number of panels."""

from __future__ import annotations

import pytest
import torch
from problems import correlated
from torch import Tensor

from slimgpt.solvers import linalg
from slimgpt.solvers.elimination import eliminate_

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and torch sees none")


def eliminated(weight_OI: Tensor, hessian_II: Tensor, width: int, num_steps: int, blocks: int) -> tuple[Tensor, Tensor]:
    inverse_II = linalg.inverse_(linalg.damped(hessian_II, 0.01), 0.01)
    return eliminate_(inverse_II, linalg.gram(weight_OI, hessian_II), width, num_steps, 16, blocks)


@pytest.mark.parametrize(("width", "num_steps", "blocks"), [(1, 600, 1), (1, 480, 4), (1, 320, 1), (4, 100, 1)])
def test_the_same_order_and_costs_as_on_the_cpu(width: int, num_steps: int, blocks: int) -> None:
    weight_OI, x_TI = correlated(640)
    hessian_II = x_TI.T @ x_TI
    expected, costs = eliminated(weight_OI, hessian_II, width, num_steps, blocks)
    order, ours = eliminated(weight_OI.cuda(), hessian_II.cuda(), width, num_steps, blocks)
    assert order.tolist() == expected.tolist()
    torch.testing.assert_close(ours.cpu(), costs, rtol=1e-8, atol=0)


def test_the_inverse_is_the_cpus() -> None:
    _, x_TI = correlated(300)
    damped_II = linalg.damped(x_TI.T @ x_TI, 0.01)
    expected = linalg.inverse_(damped_II.clone(), 0.01)
    torch.testing.assert_close(linalg.inverse_(damped_II.cuda(), 0.01).cpu(), expected, rtol=1e-9, atol=1e-15)
