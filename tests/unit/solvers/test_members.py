"""Units that lose members: blocks take turns, two problems in a row are one, and every solver can do it."""

import oracle
import pytest
import torch
from problems import PROBLEMS, correlated

from slimgpt.sites import Kept, Site, SolverOptions
from slimgpt.solvers import SOLVERS, linalg
from slimgpt.solvers.elimination import eliminate_
from slimgpt.solvers.members import solve_site

UNITS, MEMBERS, WIDTH = 3, 4, 4
SITE = Site("attention", None, "out", (), UNITS, MEMBERS * WIDTH, members=MEMBERS)
INPUTS = SITE.num_inputs

every_solver = pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"flap"}))  # which takes whole units alone


def kept_NM(removal):
    return removal.kept_N.view(UNITS, MEMBERS)


@pytest.mark.parametrize("panel_columns", [1, 12, 64])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_turns_equal_the_loop_that_tries_all_whose_turn_it_is(problem, panel_columns):
    weight_OI, x_TI = PROBLEMS[problem](INPUTS)
    hessian_II = x_TI.T @ x_TI
    num_steps = UNITS * (MEMBERS - 1)
    expected, curve = oracle.greedy(weight_OI, hessian_II, WIDTH, num_steps, 0.01, UNITS)
    inverse_II = linalg.inverse_(linalg.damped(hessian_II, 0.01), 0.01)
    gram_II = linalg.gram(weight_OI, hessian_II)
    order, cost = eliminate_(inverse_II, gram_II, WIDTH, num_steps, panel_columns, UNITS)
    assert order.tolist() == expected
    total = linalg.energy(weight_OI, hessian_II)
    torch.testing.assert_close(cost.cumsum(0) / total, curve[1:], rtol=1e-9, atol=1e-12)
    free, _ = oracle.greedy(weight_OI, hessian_II, WIDTH, num_steps, 0.01)
    assert free != expected, "turns made no difference"


@every_solver
def test_every_block_loses_equally_many(name):
    weight_OI, x_TI = correlated(INPUTS)
    options = SolverOptions(blocks=UNITS)
    removal = SOLVERS[name](weight_OI, x_TI.T @ x_TI, UNITS * MEMBERS, 2 * UNITS, options)
    assert kept_NM(removal).sum(1).tolist() == [2] * UNITS


@every_solver
@pytest.mark.parametrize(("units", "members"), [(3, 2), (2, 3), (1, 1)])
def test_kept_units_keep_equally_many_members(name, units, members):
    weight_OI, x_TI = correlated(INPUTS)
    hessian_II = x_TI.T @ x_TI
    removal = solve_site(SOLVERS[name], weight_OI, hessian_II, SITE, Kept(units, members), SolverOptions())
    left = kept_NM(removal).sum(1)
    assert sorted(left.tolist()) == [0] * (UNITS - units) + [members] * units
    assert removal.weight_OI.shape == (24, units * members * WIDTH)
    kept_I = SITE.kept_columns(removal.kept_N)
    lost_OI = weight_OI.clone()
    lost_OI[:, kept_I] -= removal.weight_OI
    error = (x_TI @ lost_OI.T).square().sum() / (x_TI @ weight_OI.T).square().sum()
    assert removal.error == pytest.approx(float(error), rel=1e-8)


@every_solver
def test_whole_units_are_one_call_of_the_solver(name):
    weight_OI, x_TI = correlated(INPUTS)
    options = SolverOptions()
    plain = SOLVERS[name](weight_OI, x_TI.T @ x_TI, UNITS, 1, options)
    for members in (None, MEMBERS):
        same = solve_site(SOLVERS[name], weight_OI, x_TI.T @ x_TI, SITE, Kept(UNITS - 1, members), options)
        assert torch.equal(same.kept_N, plain.kept_N) and torch.equal(same.weight_OI, plain.weight_OI)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", ["obs", "slimgpt", "magnitude"])
def test_two_repairs_in_a_row_are_one(problem, name):
    weight_OI, x_TI = PROBLEMS[problem](INPUTS)
    hessian_II = x_TI.T @ x_TI
    removal = solve_site(SOLVERS[name], weight_OI, hessian_II, SITE, Kept(2, 2), SolverOptions(repair=True))
    kept = SITE.kept_columns(removal.kept_N).nonzero().flatten().tolist()
    alive_OI = oracle.without_dead_inputs(weight_OI, hessian_II)
    best_OK = oracle.best_weights(alive_OI, oracle.damped(hessian_II, 0.01), kept)
    torch.testing.assert_close(removal.weight_OI, best_OK, rtol=1e-6, atol=1e-8)


def test_a_unit_is_worth_what_is_left_of_it():
    """Without correlations a column is worth its norm: 8² and little, or twice 6², of which one may stay."""
    site = Site("attention", None, "out", (), 2, 2, members=2)
    weight_OI = torch.diag(torch.tensor([8.0, 0.1, 6.0, 6.0]))
    removal = solve_site(SOLVERS["obs"], weight_OI, torch.eye(4), site, Kept(1, 1), SolverOptions())
    assert removal.kept_N.tolist() == [True, False, False, False]
    whole = solve_site(SOLVERS["obs"], weight_OI, torch.eye(4), site, Kept(1), SolverOptions())
    assert whole.kept_N.tolist() == [False, True]


def test_dtype_stays():
    weight_OI, x_TI = correlated(INPUTS)
    removal = solve_site(SOLVERS["obs"], weight_OI.bfloat16(), x_TI.T @ x_TI, SITE, Kept(2, 2), SolverOptions())
    assert removal.weight_OI.dtype == torch.bfloat16
