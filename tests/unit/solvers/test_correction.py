"""Error correction: the strength held-out windows like best, least squares, and no harm where there is no gap."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama
import torch
from safetensors.torch import load_file
from torch import Tensor

from slimgpt.pruning.driver import prune
from slimgpt.sites import SolverOptions
from slimgpt.solvers import SOLVERS
from slimgpt.solvers.correction import correct
from slimgpt.solvers.linalg import damped, refit
from slimgpt.solvers.stats import HELD_OUT, GapStats

WINDOWS, SEQLEN, INPUTS, OUTPUTS, DAMPING = 16, 24, 12, 5, 0.01


def problem(seed: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, inputs, and a gap of which the inputs explain a part."""
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(OUTPUTS, INPUTS, generator=generator)
    x_BTI = torch.randn(WINDOWS, SEQLEN, INPUTS, generator=generator)
    true_OI = 0.3 * torch.randn(OUTPUTS, INPUTS, generator=generator)
    gap_BTO = x_BTI @ true_OI.T + noise * torch.randn(WINDOWS, SEQLEN, OUTPUTS, generator=generator)
    return weight_OI, x_BTI, gap_BTO


def gathered(x_BTI: Tensor, gap_BTO: Tensor, batch_size: int = WINDOWS) -> GapStats:
    stats = GapStats(gap_BTO.shape[-1], x_BTI.shape[-1])
    for first in range(0, len(x_BTI), batch_size):
        stats.update(x_BTI[first : first + batch_size], gap_BTO[first : first + batch_size], first)
    return stats


def closing(x_TI: Tensor, gap_TO: Tensor, kept: list[int]) -> Tensor:
    """Ridge regression of the gap on the kept inputs, from the inputs themselves."""
    damped_II = damped(x_TI.T @ x_TI, DAMPING)
    return torch.linalg.solve(damped_II[kept][:, kept], x_TI[:, kept].double().T @ gap_TO.double()).T


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.1, 3.0])
def test_the_strength_is_the_one_that_held_out_windows_like_best(seed: int, noise: float) -> None:
    weight_OI, x_BTI, gap_BTO = problem(seed, noise)
    stats = gathered(x_BTI, gap_BTO)
    options = SolverOptions(damping=DAMPING)
    x_TI = x_BTI.flatten(0, 1)
    removal = SOLVERS["obs"](weight_OI, x_TI.T @ x_TI, INPUTS, 4, options)
    kept = removal.kept_N.nonzero().flatten().tolist()
    held_B = torch.arange(WINDOWS) % HELD_OUT == HELD_OUT - 1
    fit_x, fit_gap = x_BTI[~held_B].flatten(0, 1), gap_BTO[~held_B].flatten(0, 1)
    held_x, held_gap = x_BTI[held_B].flatten(0, 1).double(), gap_BTO[held_B].flatten(0, 1).double()
    base_OK = refit(weight_OI, fit_x.T @ fit_x, removal.kept_N, DAMPING)
    direction_OK = closing(fit_x, fit_gap, kept)

    def held_out_error(strength: float) -> float:
        target = held_x @ weight_OI.double().T + held_gap
        return float((target - held_x[:, kept] @ (base_OK + strength * direction_OK).T).square().sum())

    best = min((step / 1000 for step in range(1001)), key=held_out_error)
    corrected = correct(removal, weight_OI, stats, DAMPING)
    expected_OK = removal.weight_OI.double() + best * closing(x_TI, gap_BTO.flatten(0, 1), kept)
    torch.testing.assert_close(corrected.weight_OI.double(), expected_OK, rtol=1e-3, atol=2e-3)
    assert torch.equal(corrected.kept_N, removal.kept_N)


def test_batches_do_not_matter() -> None:
    _, x_BTI, gap_BTO = problem(0, 1.0)
    whole, parts = gathered(x_BTI, gap_BTO), gathered(x_BTI, gap_BTO, batch_size=5)
    for one, other in zip(whole.buffers(), parts.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("windows", [WINDOWS, HELD_OUT - 1])
def test_without_a_gap_or_without_held_out_windows_nothing_changes(windows: int) -> None:
    weight_OI, x_BTI, gap_BTO = problem(0, 1.0)
    x_BTI, gap_BTO = x_BTI[:windows], gap_BTO[:windows] * (windows < HELD_OUT)
    x_TI = x_BTI.flatten(0, 1)
    removal = SOLVERS["obs"](weight_OI, x_TI.T @ x_TI, INPUTS, 4, SolverOptions())
    assert correct(removal, weight_OI, gathered(x_BTI, gap_BTO), DAMPING) is removal


def test_the_option_changes_weights_and_not_sizes(tmp_path: Path) -> None:
    model = tiny_llama.save_model(tmp_path / "model")
    options = {"samples": 16, "ratio": 0.3}
    plain = prune(tiny_llama.prune_config(model, tmp_path / "plain", **options))
    corrected = prune(tiny_llama.prune_config(model, tmp_path / "corrected", correct_errors=True, **options))
    again = prune(tiny_llama.prune_config(model, tmp_path / "again", correct_errors=True, **options))
    weights = [(result.path / tiny_llama.WEIGHTS).read_bytes() for result in (plain, corrected, again)]
    assert weights[0] != weights[1] == weights[2]
    assert plain.record["parameters"] == corrected.record["parameters"]


def test_with_nothing_removed_there_is_nothing_to_correct(tmp_path: Path) -> None:
    """Both paths are one, so the gap is a matter of rounding and the dense weights stay."""
    model = tiny_llama.save_model(tmp_path / "model")
    options = {"samples": 16, "ratio": 0.0, "layout": "uniform"}
    plain = prune(tiny_llama.prune_config(model, tmp_path / "plain", **options))
    corrected = prune(tiny_llama.prune_config(model, tmp_path / "corrected", correct_errors=True, **options))
    before, after = (load_file(result.path / tiny_llama.WEIGHTS) for result in (plain, corrected))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-5)
