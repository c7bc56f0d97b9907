"""The kernel against the loop that re-inverts, and the loop against trying every unit by least squares."""

import oracle
import pytest
import torch
from problems import PROBLEMS, correlated

from slimgpt.errors import NumericalError
from slimgpt.solvers import elimination, linalg
from slimgpt.solvers.elimination import PANEL_COLUMNS, eliminate_, joint_cost


def kernel(weight_OI, hessian_II, width, num_steps, damping=0.01, panel_columns=PANEL_COLUMNS):
    inverse_II = linalg.inverse_(linalg.damped(hessian_II, damping), damping)
    gram_II = linalg.gram(weight_OI, hessian_II)
    order, cost = eliminate_(inverse_II, gram_II, width, num_steps, panel_columns)
    total = linalg.energy(weight_OI, hessian_II)
    return order.tolist(), torch.cat([torch.zeros(1, dtype=torch.float64), cost.cumsum(0)]) / total


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", ["correlated", "rank_deficient"])
def test_oracles_agree_with_each_other(name, width):
    weight_OI, x_TI = PROBLEMS[name](24)
    tried, curve = oracle.greedy(weight_OI, x_TI.T @ x_TI, width, 24 // width, 0.01)
    order, other = oracle.reinverting(weight_OI, x_TI.T @ x_TI, width, 24 // width, 0.01)
    assert order == tried
    torch.testing.assert_close(other, curve)


@pytest.mark.parametrize("panel_columns", [1, 7, 64])
@pytest.mark.parametrize(("num_inputs", "width"), [(150, 1), (96, 4), (160, 16)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_order_and_curve_equal_the_loop_that_reinverts(name, num_inputs, width, panel_columns):
    weight_OI, x_TI = PROBLEMS[name](num_inputs)
    num_steps = num_inputs // width * 3 // 4
    expected = oracle.reinverting(weight_OI, x_TI.T @ x_TI, width, num_steps, 0.01)
    order, curve = kernel(weight_OI, x_TI.T @ x_TI, width, num_steps, panel_columns=panel_columns)
    assert order == expected[0]
    torch.testing.assert_close(curve, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [1, 4, 16])
def test_every_unit_can_go(width):
    weight_OI, x_TI = correlated(80)
    order, curve = kernel(weight_OI, x_TI.T @ x_TI, width, 80 // width, panel_columns=24)
    assert sorted(order) == list(range(80 // width))
    everything = linalg.energy(weight_OI, linalg.damped(x_TI.T @ x_TI, 0.01))
    assert float(curve[-1]) == pytest.approx(everything / linalg.energy(weight_OI, x_TI.T @ x_TI), rel=1e-12)
    assert (curve.diff() >= 0).all()


@pytest.mark.parametrize(("width", "blocks"), [(1, 1), (4, 1), (1, 5)])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_panels_in_place_come_to_the_same(monkeypatch, width, blocks, share):
    """What a GPU repeats before survivors move up; here without a GPU."""
    weight_OI, x_TI = correlated(200)
    inverse_II = linalg.inverse_(linalg.damped(x_TI.T @ x_TI, 0.01), 0.01)
    gram_II = weight_OI.T @ weight_OI
    num_steps = int(share * 200 / width)
    order, cost = eliminate_(inverse_II.clone(), gram_II.clone(), width, num_steps, 16, blocks)
    monkeypatch.setattr(elimination, "_panels_in_place", lambda device, width: 5)
    again, same_cost = eliminate_(inverse_II, gram_II, width, num_steps, 16, blocks)
    assert again.tolist() == order.tolist()
    torch.testing.assert_close(same_cost, cost, rtol=1e-9, atol=0)


def test_an_indefinite_inverse_stops_panels_in_place_too(monkeypatch):
    monkeypatch.setattr(elimination, "_panels_in_place", lambda device, width: 4)
    weight_OI, _ = correlated(16)
    indefinite_II = torch.eye(16, dtype=torch.float64)
    indefinite_II[5, 6] = indefinite_II[6, 5] = 1.5
    with pytest.raises(NumericalError, match="not positive definite"):
        eliminate_(indefinite_II, weight_OI.T @ weight_OI, 1, 16, 4)


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    weight_OI, x_TI = correlated(100)
    long, curve = kernel(weight_OI, x_TI.T @ x_TI, 1, 90, panel_columns=16)
    short, beginning = kernel(weight_OI, x_TI.T @ x_TI, 1, 37, panel_columns=16)
    assert short == long[:37]
    torch.testing.assert_close(beginning, curve[:38])


@pytest.mark.parametrize("width", [1, 4, 16])
def test_joint_cost_is_the_loss_measured_after_the_best_repair(width):
    weight_OI, x_TI = correlated(48)
    inverse_II, gram_II = torch.linalg.inv(x_TI.T @ x_TI), weight_OI.T @ weight_OI
    cost_N = joint_cost(linalg.diagonal_blocks(inverse_II, width), linalg.diagonal_blocks(gram_II, width))
    for unit in range(48 // width):
        kept = [i for i in range(48) if i // width != unit]
        best = torch.linalg.lstsq(x_TI[:, kept], x_TI @ weight_OI.T).solution
        measured = (x_TI @ weight_OI.T - x_TI[:, kept] @ best).square().sum()
        torch.testing.assert_close(cost_N[unit], measured)


def test_a_metric_on_the_outputs_enters_through_the_gram():
    """G = WᵀMW weighs the outputs by M, as if W were M^½ W."""
    weight_OI, x_TI = correlated(60)
    root_OO = torch.randn(24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    gram_II = weight_OI.T @ (root_OO.T @ root_OO) @ weight_OI
    inverse_II = linalg.inverse_(linalg.damped(x_TI.T @ x_TI, 0.01), 0.01)
    order, _ = eliminate_(inverse_II, gram_II, 1, 40, 16)
    weighted, _ = oracle.reinverting(root_OO @ weight_OI, x_TI.T @ x_TI, 1, 40, 0.01)
    plain, _ = oracle.reinverting(weight_OI, x_TI.T @ x_TI, 1, 40, 0.01)
    assert order.tolist() == weighted != plain


@pytest.mark.parametrize("width", [1, 4])
def test_an_indefinite_inverse_stops_the_run(width):
    weight_OI, _ = correlated(16)
    indefinite_II = torch.eye(16, dtype=torch.float64)
    indefinite_II[5, 6] = indefinite_II[6, 5] = 1.5
    with pytest.raises(NumericalError, match=r"not positive definite.*--damping"):
        eliminate_(indefinite_II, weight_OI.T @ weight_OI, width, 16 // width)
