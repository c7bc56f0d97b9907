import oracle
import pytest
import torch
from problems import PROBLEMS, correlated, with_dead_inputs

from slimgpt.errors import NumericalError
from slimgpt.solvers import linalg


def half(num_inputs: int) -> torch.Tensor:
    return torch.rand(num_inputs, generator=torch.Generator().manual_seed(7)) > 0.5


@pytest.mark.parametrize("name", PROBLEMS)
def test_damped_hessian_equals_its_definition(name):
    _, x_TI = PROBLEMS[name](40)
    hessian_II = x_TI.T @ x_TI
    before = hessian_II.clone()
    torch.testing.assert_close(linalg.damped(hessian_II, 0.03), oracle.damped(hessian_II, 0.03))
    assert torch.equal(hessian_II, before), "the caller's Hessian was changed"


def test_dead_inputs_get_a_unit_pivot_and_no_weight():
    weight_OI, x_TI = with_dead_inputs(30)
    hessian_II = x_TI.T @ x_TI
    assert linalg.damped(hessian_II, 0.5)[10, 10] == 1.0
    alive_OI = linalg.living_weight(weight_OI, hessian_II)
    assert alive_OI[:, 10].abs().max() == 0 and weight_OI[:, 10].abs().max() > 0
    assert torch.equal(alive_OI[:, :10], weight_OI[:, :10])


@pytest.mark.parametrize("size", [1, 127, 128, 129, 576, 1536, 4864])
def test_panels_cover_the_range_once_and_save_work(size):
    panels = linalg.panels(size)
    assert [i for start, stop in panels for i in range(start, stop)] == list(range(size))
    share = sum((stop - start) * (size - start) for start, stop in panels) / size**2
    assert len(panels) <= 8 and (share < 0.65 or size < 512)


def test_energy_is_the_output_norm_however_it_is_computed():
    weight_OI, x_TI = correlated(300)
    hessian_II = x_TI.T @ x_TI
    expected = float((x_TI @ weight_OI.T).square().sum())
    assert linalg.energy(weight_OI, hessian_II) == pytest.approx(expected, rel=1e-12)
    gram_II = linalg.gram(weight_OI, hessian_II)
    assert linalg.gram_energy(gram_II, hessian_II) == pytest.approx(expected, rel=1e-12)


def test_inverse_in_place():
    _, x_TI = correlated(50)
    matrix_II = linalg.damped(x_TI.T @ x_TI, 0.01)
    inverse_II = linalg.inverse_(matrix_II.clone(), 0.01)
    torch.testing.assert_close(inverse_II @ matrix_II, torch.eye(50, dtype=torch.float64))
    assert torch.equal(inverse_II, inverse_II.T)


def test_singular_matrix_raises_with_value_causes_and_cures():
    _, x_TI = correlated(40, num_tokens=20)
    with pytest.raises(NumericalError) as caught:
        linalg.cholesky_(linalg.damped(x_TI.T @ x_TI, 0.0), 0.0)
    for words in ("40 inputs", "damping 0.", "fewer calibration tokens", "duplicate", "--damping", "--samples"):
        assert words in str(caught.value)


def test_duplicated_input_raises_even_where_rounding_leaves_a_positive_pivot():
    # 2⁻⁴⁰ of variance of its own: LAPACK factors this matrix without complaint
    matrix_II = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2.0**-52]], dtype=torch.float64)
    assert torch.linalg.cholesky_ex(matrix_II).info == 0
    with pytest.raises(NumericalError, match="singular"):
        linalg.cholesky_(matrix_II, 0.0)


def test_cholesky_of_a_batch_checks_every_matrix():
    good = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(linalg.cholesky_(torch.stack([4 * good, good]), 0.0), torch.stack([2 * good, good]))
    with pytest.raises(NumericalError):
        linalg.cholesky_(torch.stack([good, torch.ones(3, 3, dtype=torch.float64)]), 0.0)


def test_diagonal_blocks_are_copies():
    matrix_II = torch.arange(36.0).view(6, 6)
    blocks_NKK = linalg.diagonal_blocks(matrix_II, 2)
    assert torch.equal(blocks_NKK, torch.stack([matrix_II[i : i + 2, i : i + 2] for i in (0, 2, 4)]))
    blocks_NKK.zero_()
    assert matrix_II[5, 5] == 35


def test_refit_without_damping_is_least_squares():
    weight_OI, x_TI = correlated(40)
    kept_I = half(40)
    expected = torch.linalg.lstsq(x_TI[:, kept_I], x_TI @ weight_OI.T).solution.T
    torch.testing.assert_close(linalg.refit(weight_OI, x_TI.T @ x_TI, kept_I, 0.0), expected)


@pytest.mark.parametrize("name", ["correlated", "ill_conditioned", "rank_deficient"])
def test_refit_with_damping_is_ridge_towards_the_original_weights(name):
    """√λ · I below X, and the original weights' own answer as its target."""
    weight_OI, x_TI = PROBLEMS[name](40)
    ridge = (0.02 * x_TI.square().sum(0).mean()).sqrt() * torch.eye(40, dtype=torch.float64)
    augmented_TI, kept_I = torch.cat([x_TI, ridge]), half(40)
    expected = torch.linalg.lstsq(augmented_TI[:, kept_I], augmented_TI @ weight_OI.T).solution.T
    torch.testing.assert_close(linalg.refit(weight_OI, x_TI.T @ x_TI, kept_I, 0.02), expected)


def test_refit_that_keeps_everything_returns_the_weights():
    weight_OI, x_TI = correlated(40)
    assert torch.equal(linalg.refit(weight_OI, x_TI.T @ x_TI, torch.ones(40, dtype=torch.bool), 0.01), weight_OI)


def test_relative_error_is_the_measured_one():
    weight_OI, x_TI = correlated(40)
    kept_I, kept_weight_OK = half(40), torch.randn(24, int(half(40).sum()), dtype=torch.float64)
    lost = x_TI @ weight_OI.T - x_TI[:, kept_I] @ kept_weight_OK.T
    expected = float(lost.square().sum() / (x_TI @ weight_OI.T).square().sum())
    assert linalg.relative_error(weight_OI, x_TI.T @ x_TI, kept_I, kept_weight_OK) == pytest.approx(expected)


def test_relative_error_without_output_is_zero():
    kept_I = half(8)
    assert linalg.relative_error(torch.ones(3, 8), torch.zeros(8, 8), kept_I, torch.ones(3, int(kept_I.sum()))) == 0.0
