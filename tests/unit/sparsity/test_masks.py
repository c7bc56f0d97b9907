"""Masks: exact shares, the twin of every kernel, and what repair is worth."""

import sys

import oracle
import pytest
import torch
from problems import PROBLEMS, correlated, rank_deficient, with_dead_inputs

from slimgpt.errors import NumericalError
from slimgpt.sparsity.masks import METHODS, NEED_INPUTS
from slimgpt.sparsity.masks.method import MaskOptions, lowest
from slimgpt.sparsity.masks.sparsegpt import BLOCK, blocks, inverse_factor, sparsegpt
from slimgpt.sparsity.masks.wanda import wanda

PATTERNS = {"unstructured": 0, "2:4": 4, "4:8": 8}


def lost(weight_OI, x_TI, sparse_OI) -> float:
    return float(((weight_OI - sparse_OI) @ x_TI.T).square().sum() / (weight_OI @ x_TI.T).square().sum())


# --- what every method promises --------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.77])
@pytest.mark.parametrize("name", METHODS)
def test_the_share_of_zeros_is_exact(name, sparsity):
    weight_OI, x_TI = correlated(40)
    sparse_OI = METHODS[name](weight_OI, x_TI.T @ x_TI, sparsity, MaskOptions())
    assert sparse_OI.shape == weight_OI.shape and sparse_OI.dtype == weight_OI.dtype
    if name == "wanda":
        assert ((sparse_OI == 0).sum(1) == round(sparsity * 40)).all()
    else:
        assert (sparse_OI == 0).sum() == round(sparsity * weight_OI.numel())


@pytest.mark.parametrize(("pattern", "kept"), [(4, 2), (8, 4), (4, 1), (5, 3)])
@pytest.mark.parametrize("name", METHODS)
def test_every_group_of_a_pattern_keeps_exactly_n(name, pattern, kept):
    weight_OI, x_TI = correlated(40 * 5)
    sparse_OI = METHODS[name](weight_OI, x_TI.T @ x_TI, 1 - kept / pattern, MaskOptions(group=pattern))
    assert ((sparse_OI != 0).view(24, -1, pattern).sum(2) == kept).all()


@pytest.mark.parametrize("group", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("name", METHODS)
def test_nothing_asked_returns_the_very_bytes(name, group):
    weight_OI, x_TI = with_dead_inputs(40)
    sparse_OI = METHODS[name](weight_OI.bfloat16(), x_TI.T @ x_TI, 0.0, MaskOptions(group=group))
    assert torch.equal(sparse_OI, weight_OI.bfloat16())


@pytest.mark.parametrize("name", METHODS)
def test_zeros_stay_zero_when_more_is_asked_of_a_result(name):
    weight_OI, x_TI = correlated(40)
    once_OI = METHODS[name](weight_OI, x_TI.T @ x_TI, 0.3, MaskOptions(seed=1))
    twice_OI = METHODS[name](once_OI, x_TI.T @ x_TI, 0.6, MaskOptions(seed=2))
    assert not twice_OI[once_OI == 0].any()
    assert (twice_OI == 0).sum() == round(0.6 * 960)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"sparsegpt"}))
def test_what_only_masks_leaves_the_rest_as_it_was(name):
    weight_OI, x_TI = correlated(40)
    sparse_OI = METHODS[name](weight_OI, x_TI.T @ x_TI, 0.5, MaskOptions())
    assert torch.equal(sparse_OI[sparse_OI != 0], weight_OI[sparse_OI != 0])


@pytest.mark.parametrize("name", sorted(set(METHODS) - NEED_INPUTS))
def test_methods_without_inputs_need_none(name):
    weight_OI, _ = correlated(40)
    assert (METHODS[name](weight_OI, None, 0.5, MaskOptions()) == 0).sum() == 480


# --- the twins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_magnitude_and_wanda_equal_their_twins(problem, group):
    weight_OI, x_TI = PROBLEMS[problem](40)
    weight_OI[3, 5:9] = 0.0
    norm_I = x_TI.square().sum(0).sqrt()
    scores = {"magnitude": weight_OI.abs(), "wanda": weight_OI.abs() * norm_I}
    for name, score_OI in scores.items():
        sparse_OI = METHODS[name](weight_OI, x_TI.T @ x_TI, 0.5, MaskOptions(group=group))
        assert torch.equal(sparse_OI, oracle.masked(weight_OI, score_OI, 0.5, group, by_row=name == "wanda"))


@pytest.mark.parametrize("group", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_sparsegpt_equals_the_loop_that_inverts_anew(problem, group, monkeypatch):
    monkeypatch.setattr(
        sys.modules["slimgpt.sparsity.masks.sparsegpt"], "BLOCK", 16
    )  # several blocks, the last one narrower
    weight_OI, x_TI = PROBLEMS[problem](40)
    weight_OI[3, 5:9] = 0.0
    sparse_OI = sparsegpt(weight_OI, x_TI.T @ x_TI, 0.5, MaskOptions(group=group, damping=0.01))
    twin_OI = oracle.sparsegpt(weight_OI, x_TI.T @ x_TI, 0.5, group, 0.01, block=16)
    assert torch.equal(sparse_OI == 0, twin_OI == 0)
    torch.testing.assert_close(sparse_OI, twin_OI, rtol=1e-6, atol=1e-9)


def test_the_factor_holds_the_inverse_of_every_trailing_block():
    _, x_TI = correlated(12)
    hessian_II = x_TI.T @ x_TI
    factor_II = inverse_factor(hessian_II, 0.01)
    for j in range(12):
        inverse_II = torch.linalg.inv(oracle.damped(hessian_II, 0.01)[j:, j:])
        torch.testing.assert_close(factor_II[j:, j:].T @ factor_II[j:, j:], inverse_II, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("num", [0, 1, 7, 12])
def test_lowest_chooses_exactly_so_many_with_ties(num):
    score_RN = torch.tensor([[2.0, 1.0, 1.0] * 4, [0.0] * 12])
    chosen_RN = lowest(score_RN, num)
    assert [set(row.nonzero().flatten().tolist()) for row in chosen_RN] == [
        oracle.lowest_in(row.tolist(), num) for row in score_RN
    ]


@pytest.mark.parametrize(("num_inputs", "group"), [(300, 0), (300, 4), (40, 4), (1000, 250), (90, 9)])
def test_blocks_cover_the_inputs_in_whole_groups(num_inputs, group):
    found = blocks(num_inputs, group)
    assert [j for start, stop in found for j in range(start, stop)] == list(range(num_inputs))
    assert not group or all(start % group == 0 for start, _ in found)
    assert all(stop - start <= max(BLOCK, group) for start, stop in found)


# --- what repair is worth ---------------------------------------------------------------------------


@pytest.mark.parametrize("group", PATTERNS.values(), ids=PATTERNS)
def test_repair_is_what_makes_the_difference_on_correlated_inputs(group):
    weight_OI, x_TI = correlated(64)
    errors = {
        name: lost(weight_OI, x_TI, method(weight_OI, x_TI.T @ x_TI, 0.5, MaskOptions(group=group)))
        for name, method in METHODS.items()
    }
    unrepaired = errors["wanda"], errors["magnitude"]
    assert 1.5 * errors["sparsegpt"] < min(unrepaired) and max(unrepaired) < errors["random"]


def test_without_correlations_there_is_nothing_to_repair():
    """The negative control: orthogonal inputs leave the survivors as they were."""
    weight_OI, _ = correlated(16)
    sparse_OI = sparsegpt(weight_OI, 3 * torch.eye(16, dtype=torch.float64), 0.5, MaskOptions())
    torch.testing.assert_close(sparse_OI[sparse_OI != 0], weight_OI[sparse_OI != 0])


@pytest.mark.parametrize("method", [wanda, sparsegpt])
def test_inputs_that_never_fired_go_first(method):
    weight_OI, x_TI = with_dead_inputs(40)
    assert not method(weight_OI, x_TI.T @ x_TI, 0.5, MaskOptions())[:, 13].any()


def test_the_dtype_survives():
    weight_OI, x_TI = correlated(40)
    assert sparsegpt(weight_OI.bfloat16(), (x_TI.T @ x_TI).float(), 0.5, MaskOptions()).dtype == torch.bfloat16


def test_singular_hessian_without_damping_stops_with_the_cure():
    weight_OI, x_TI = rank_deficient(40)
    with pytest.raises(NumericalError, match=r"40 inputs is singular with damping 0\..*--damping.*--samples"):
        sparsegpt(weight_OI, x_TI.T @ x_TI, 0.5, MaskOptions(damping=0.0))
