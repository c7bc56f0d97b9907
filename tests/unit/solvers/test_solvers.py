import oracle
import pytest
import torch
from problems import PROBLEMS, correlated, with_dead_inputs

from slimgpt.errors import NumericalError
from slimgpt.sites import SolverOptions, expand
from slimgpt.solvers import SOLVERS
from slimgpt.solvers.obs import obs, removal_order
from slimgpt.solvers.slimgpt import round_sizes, slimgpt

SURGEONS = {"obs": obs, "slimgpt": slimgpt}


def removed(removal) -> list[int]:
    return (~removal.kept_N).nonzero().flatten().tolist()


def options(x_TI, **others) -> SolverOptions:
    """Options that hold what solvers may want to know of the inputs beside their Hessian."""
    return SolverOptions(mean_I=x_TI.mean(0), num_tokens=len(x_TI), **others)


def measured_error(weight_OI, x_TI, removal) -> float:
    kept_I = expand(removal.kept_N, x_TI.shape[1] // len(removal.kept_N))
    lost = x_TI @ weight_OI.double().T - x_TI[:, kept_I] @ removal.weight_OI.double().T
    return float(lost.square().sum() / (x_TI @ weight_OI.double().T).square().sum())


# --- what every solver promises --------------------------------------------------------------------


@pytest.mark.parametrize("repair", [None, True, False])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", SOLVERS)
def test_removal_is_what_it_says(name, width, repair):
    weight_OI, x_TI = correlated(40)
    num_units = 40 // width
    removal = SOLVERS[name](weight_OI, x_TI.T @ x_TI, num_units, num_units // 2, options(x_TI, repair=repair))
    assert removal.kept_N.dtype == torch.bool and len(removed(removal)) == num_units // 2
    assert removal.weight_OI.shape == (24, (num_units - num_units // 2) * width)
    assert removal.weight_OI.is_contiguous()
    assert removal.error == pytest.approx(measured_error(weight_OI, x_TI, removal), rel=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_nothing_removed_returns_the_very_weight(name):
    weight_OI, x_TI = with_dead_inputs(40)
    removal = SOLVERS[name](weight_OI, x_TI.T @ x_TI, 10, 0, options(x_TI, repair=True))
    assert removal.kept_N.all() and removal.error == 0.0
    assert torch.equal(removal.weight_OI, weight_OI)


@pytest.mark.parametrize("name", SOLVERS)
def test_all_units_but_one_can_go(name):
    weight_OI, x_TI = correlated(40)
    removal = SOLVERS[name](weight_OI, x_TI.T @ x_TI, 10, 9, options(x_TI, repair=True))
    assert removal.weight_OI.shape == (24, 4)
    assert removal.error == pytest.approx(measured_error(weight_OI, x_TI, removal)) and removal.error < 1


@pytest.mark.parametrize("name", SOLVERS)
def test_dtype_survives_and_the_error_is_that_of_the_rounded_result(name):
    weight_OI, x_TI = correlated(40)
    weight_OI = weight_OI.bfloat16()
    removal = SOLVERS[name](weight_OI, (x_TI.T @ x_TI).float(), 40, 10, options(x_TI))
    assert removal.weight_OI.dtype == torch.bfloat16
    assert removal.error == pytest.approx(measured_error(weight_OI, x_TI, removal), rel=1e-3)


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"random"}))
def test_permuting_the_units_permutes_the_answer(name):
    weight_OI, x_TI = correlated(48)
    shuffle_N = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffle_I = (shuffle_N[:, None] * 4 + torch.arange(4)).flatten()
    plain = SOLVERS[name](weight_OI, x_TI.T @ x_TI, 12, 5, options(x_TI))
    x_shuffled = x_TI[:, shuffle_I]
    other = SOLVERS[name](weight_OI[:, shuffle_I], x_shuffled.T @ x_shuffled, 12, 5, options(x_shuffled))
    assert torch.equal(other.kept_N, plain.kept_N[shuffle_N])
    assert other.error == pytest.approx(plain.error)


@pytest.mark.parametrize("name", SOLVERS)
def test_repair_is_what_makes_the_difference_on_correlated_inputs(name):
    """The negative control: without compensation the same choice loses several times more."""
    weight_OI, x_TI = correlated(64)
    repaired, bare = (
        SOLVERS[name](weight_OI, x_TI.T @ x_TI, 64, 24, options(x_TI, repair=repair)) for repair in (True, False)
    )
    assert torch.equal(repaired.kept_N, bare.kept_N)
    assert torch.equal(bare.weight_OI, weight_OI[:, bare.kept_N])
    assert 3 * repaired.error < bare.error


@pytest.mark.parametrize("name", SOLVERS)
def test_only_the_surgeons_repair_by_habit(name):
    weight_OI, x_TI = correlated(40)
    default, asked = (SOLVERS[name](weight_OI, x_TI.T @ x_TI, 40, 9, options(x_TI, repair=r)) for r in (None, True))
    assert torch.equal(default.weight_OI, asked.weight_OI) == (name in SURGEONS)
    assert (len(default.curve) == 10) == (name in SURGEONS)


@pytest.mark.parametrize("name", [*SURGEONS, "wanda"])
def test_dead_inputs_go_first(name):
    weight_OI, x_TI = with_dead_inputs(40)
    removal = SOLVERS[name](weight_OI, x_TI.T @ x_TI, 40, 1, options(x_TI))
    assert removed(removal) == [13]
    assert removal.error == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_layer_without_output_has_no_error(name):
    cancelling = torch.tensor([1.0, -1.0]).repeat(3, 4)  # live inputs, all alike, and weights that cancel them
    for weight_OI, hessian_II in ((torch.ones(3, 8), torch.zeros(8, 8)), (cancelling, torch.ones(8, 8))):
        removal = SOLVERS[name](weight_OI, hessian_II, 4, 2, options(torch.zeros(1, 8)))
        assert removal.error == 0.0 and not removal.curve.any()


@pytest.mark.parametrize("name", SURGEONS)
def test_singular_hessian_without_damping_stops_with_the_cure(name):
    weight_OI, x_TI = correlated(40, num_tokens=20)
    with pytest.raises(NumericalError, match=r"40 inputs is singular with damping 0\..*tokens.*duplicate.*--damping"):
        SOLVERS[name](weight_OI, x_TI.T @ x_TI, 40, 10, options(x_TI, damping=0.0))


# --- obs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", PROBLEMS)
def test_obs_equals_trying_every_unit_by_least_squares(name, width):
    weight_OI, x_TI = PROBLEMS[name](32)
    hessian_II = x_TI.T @ x_TI
    num_units = 32 // width
    order, curve = oracle.greedy(weight_OI, hessian_II, width, num_units // 2, 0.01)
    removal = obs(weight_OI, hessian_II, num_units, num_units // 2, SolverOptions())
    assert removed(removal) == sorted(order)
    torch.testing.assert_close(removal.curve, curve, rtol=1e-8, atol=1e-12)
    kept = oracle.columns(removal.kept_N.nonzero().flatten().tolist(), width)
    alive_OI = oracle.without_dead_inputs(weight_OI, hessian_II)
    expected = oracle.best_weights(alive_OI, oracle.damped(hessian_II, 0.01), kept)
    torch.testing.assert_close(removal.weight_OI, expected, rtol=1e-7, atol=1e-9)


def test_one_refit_equals_the_sequence_of_surgeries():
    weight_OI, x_TI = correlated(40)
    damped_II = oracle.damped(x_TI.T @ x_TI, 0.01)
    order, _ = removal_order(weight_OI, x_TI.T @ x_TI, 40, 20, SolverOptions())
    step_OI, left = weight_OI, list(range(40))
    for column in order.tolist():
        step_OI, _ = oracle.surgeon(step_OI, damped_II, left, column)
        left.remove(column)
    removal = obs(weight_OI, x_TI.T @ x_TI, 40, 20, SolverOptions())
    torch.testing.assert_close(removal.weight_OI, step_OI[:, left])


@pytest.mark.parametrize("damping", [0.0, 0.01, 0.3])
def test_curve_bounds_the_true_error_and_meets_it_without_damping(damping):
    weight_OI, x_TI = correlated(40)
    options = SolverOptions(damping=damping)
    for num_removed in (1, 10, 30):
        removal = obs(weight_OI, x_TI.T @ x_TI, 40, num_removed, options)
        assert removal.error <= float(removal.curve[-1]) * (1 + 1e-9)
        assert damping > 0 or removal.error == pytest.approx(float(removal.curve[-1]), rel=1e-8)


def test_order_is_nested_over_ratios():
    weight_OI, x_TI = correlated(60)
    order, curve = removal_order(weight_OI, x_TI.T @ x_TI, 60, 60, SolverOptions())
    for num_removed in (1, 17, 59):
        removal = obs(weight_OI, x_TI.T @ x_TI, 60, num_removed, SolverOptions())
        assert removed(removal) == sorted(order[:num_removed].tolist())
        torch.testing.assert_close(removal.curve, curve[: num_removed + 1])


def test_no_other_single_head_would_have_cost_less():
    """One step is provably optimal: every other head, with the best repair there is, loses at least as much."""
    weight_OI, x_TI = correlated(64)
    chosen = obs(weight_OI, x_TI.T @ x_TI, 8, 1, SolverOptions(damping=0.0))
    for unit in range(8):
        kept = oracle.columns([u for u in range(8) if u != unit], 8)
        loss = oracle.loss(weight_OI, x_TI.T @ x_TI, kept) / float((x_TI @ weight_OI.T).square().sum())
        assert chosen.error <= loss * (1 + 1e-9)


@pytest.mark.parametrize(("num_units", "num_removed"), [(96, 1), (96, 48), (12, 1), (12, 6)])
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_obs_beats_the_paper_surely_for_one_unit_and_on_average_for_many(num_units, num_removed, decay):
    """One step is provably best. A sequence of best steps promises nothing, so many units are a matter of measuring."""
    ratios = []
    for seed in range(10):
        weight_OI, x_TI = correlated(96, decay=decay, seed=seed)
        ours, paper = (
            solve(weight_OI, x_TI.T @ x_TI, num_units, num_removed, SolverOptions()) for solve in (obs, slimgpt)
        )
        ratios.append(float(ours.curve[-1]) / float(paper.curve[-1]))
    assert sum(ratios) / len(ratios) <= 1 + 1e-9
    assert num_removed > 1 or max(ratios) <= 1 + 1e-9


# --- the paper's -----------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(("num_inputs", "width", "group_size"), [(60, 1, 0), (60, 1, 5), (48, 4, 0), (64, 16, 0)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_paper_solver_equals_its_column_by_column_loop(name, num_inputs, width, group_size, grouped):
    weight_OI, x_TI = PROBLEMS[name](num_inputs)
    hessian_II, num_units = x_TI.T @ x_TI, num_inputs // width
    sizes = round_sizes(num_units // 2, width, group_size)
    order, curve, expected_OI = oracle.paper(weight_OI, hessian_II, width, sizes, 0.01, grouped)
    options = SolverOptions(grouped_cholesky=grouped, group_size=group_size)
    removal = slimgpt(weight_OI, hessian_II, num_units, num_units // 2, options)
    assert removed(removal) == sorted(order)
    torch.testing.assert_close(removal.curve, curve, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(removal.weight_OI, expected_OI[:, expand(removal.kept_N, width)], rtol=1e-7, atol=1e-9)


def test_groups_shrink_from_1024_to_8_and_heads_go_one_by_one():
    sizes = round_sizes(5504, 1, 0)
    assert sizes[0] == 1024 and sum(sizes) == 5504 and sizes == sorted(sizes, reverse=True)
    assert set(sizes[-3:-1]) == {8} and min(sizes[:-1]) == 8
    assert round_sizes(20, 1, 8) == [8, 8, 4]
    assert round_sizes(3, 64, 8) == [1, 1, 1]


def test_grouped_cholesky_sees_the_twins_in_a_head_and_the_ablation_does_not():
    """Head 0 says one loud thing twice: each column alone is redundant, both together are not."""
    x_TI = torch.randn(500, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_TI[:, 1] = x_TI[:, 0] + 0.05 * x_TI[:, 1]
    weight_OI = torch.tensor([[1.5, 1.5, 1, 1, 1, 1, 1, 1]], dtype=torch.float64)
    with_it, without = (
        slimgpt(weight_OI, x_TI.T @ x_TI, 4, 1, SolverOptions(grouped_cholesky=grouped)) for grouped in (True, False)
    )
    assert removed(with_it) != [0] and removed(without) == [0]
    assert with_it.error < without.error / 2


# --- the baselines ---------------------------------------------------------------------------------


def test_baselines_choose_by_their_scores():
    weight_OI = torch.tensor([[3.0, 1.0, 2.0, 2.0, 1.0, 1.0]])
    hessian_II = torch.diag(torch.tensor([0.1, 0.1, 1.0, 1.0, 9.0, 9.0]))
    assert removed(SOLVERS["magnitude"](weight_OI, hessian_II, 3, 1, SolverOptions())) == [2]
    assert removed(SOLVERS["wanda"](weight_OI, hessian_II, 3, 1, SolverOptions())) == [0]


def test_random_removal_depends_on_the_seed_alone():
    first, again, other = (
        removed(SOLVERS["random"](torch.ones(2, 40), torch.eye(40), 40, 20, SolverOptions(seed=seed)))
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_better_information_gives_smaller_errors():
    weight_OI, x_TI = correlated(96)
    error = {
        name: solve(weight_OI, x_TI.T @ x_TI, 96, 48, options(x_TI, repair=True)).error
        for name, solve in SOLVERS.items()
    }
    assert max(error["obs"], error["slimgpt"]) < error["wanda"] < error["magnitude"] < error["random"]
