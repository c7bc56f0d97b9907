import pytest
import torch
from problems import correlated

from slimgpt.errors import NumericalError
from slimgpt.solvers.stats import InputStats


def streamed(x_TI, *sizes):
    stats = InputStats(x_TI.shape[1])
    for batch_TI in x_TI.split(sizes):
        stats.update(batch_TI)
    return stats


@pytest.mark.parametrize("num_inputs", [1, 100, 128, 300])
def test_hessian_is_the_sum_of_outer_products(num_inputs):
    _, x_TI = correlated(num_inputs)
    stats = streamed(x_TI.float(), 400)
    expected = x_TI.float().double().T @ x_TI.float().double()
    torch.testing.assert_close(stats.hessian_II().double(), expected, rtol=1e-5, atol=1e-4)
    assert stats.hessian_II().dtype == torch.float32 and stats.num_tokens == 400


def test_hessian_is_symmetric_to_the_bit_and_asking_changes_nothing():
    _, x_TI = correlated(300)
    stats = streamed(x_TI.float(), 150, 250)
    first = stats.hessian_II().clone()
    assert torch.equal(first, first.T)
    assert torch.equal(stats.hessian_II(), first)
    stats.update(x_TI.float())
    torch.testing.assert_close(stats.hessian_II(), 2 * first)


def test_streaming_gives_what_one_batch_gives_in_any_order():
    _, x_TI = correlated(150)
    x_TI = x_TI.float()
    at_once = streamed(x_TI, 400).hessian_II()
    torch.testing.assert_close(streamed(x_TI, 1, 99, 300).hessian_II(), at_once)
    assert streamed(x_TI, 1, 99, 300).num_tokens == 400
    torch.testing.assert_close(streamed(x_TI[torch.randperm(400)], 200, 200).hessian_II(), at_once)


def test_merging_and_summing_buffers_pool_the_tokens():
    _, x_TI = correlated(150)
    x_TI = x_TI.float()
    at_once, left, right = streamed(x_TI, 400), streamed(x_TI[:100], 100), streamed(x_TI[100:], 300)
    by_hand = InputStats(150)
    for total, *parts in zip(by_hand.buffers(), left.buffers(), right.buffers(), strict=True):
        total.copy_(sum(parts))  # what an all-reduce does
    for pooled in (left.merge_(right), by_hand):
        torch.testing.assert_close(pooled.hessian_II(), at_once.hessian_II())
        assert pooled.num_tokens == 400


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_summed_in_float32(dtype):
    x_TI = torch.full((4096, 2), 0.1).to(dtype)
    expected = 4096 * float(x_TI[0, 0]) ** 2  # a sum in bfloat16 would have stalled far below
    assert float(streamed(x_TI, *[64] * 64).hessian_II()[0, 1]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_non_finite_inputs_are_refused_with_place_cause_and_cure(bad):
    x_TI = torch.ones(10, 5)
    x_TI[3, 2] = bad
    with pytest.raises(NumericalError) as caught:
        streamed(x_TI, 10).hessian_II()
    for words in ("1 of 5 inputs", "input 2", "10 calibration tokens", "float16", "--dtype"):
        assert words in str(caught.value)


def test_the_tf32_setting_of_the_caller_survives():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        streamed(torch.ones(4, 3), 4)
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cuda_sums_as_the_cpu_does_with_tf32_switched_on(dtype):
    _, x_TI = correlated(300)
    x_TI = x_TI.to(dtype)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        stats = InputStats(300, "cuda")
        stats.update(x_TI.cuda())
        torch.testing.assert_close(stats.hessian_II().cpu(), streamed(x_TI, 400).hessian_II(), rtol=1e-5, atol=1e-4)
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_token_at_all_is_an_error() -> None:
    with pytest.raises(NumericalError, match="an expert that the router never chose"):
        InputStats(4).hessian_II()
