"""Movement pruning: scores and masks of the paper's recursion, a schedule, and models with the zeros asked for."""

from __future__ import annotations

import itertools
from pathlib import Path

import oracle
import pytest
import torch
from recovery_shop import Shop, loaded, logits, options
from safetensors.torch import load_file
from test_recovery_resume import Interrupting
from torch import nn

from slimgpt.config import RecoverConfig
from slimgpt.errors import ConfigError
from slimgpt.recovery import recover
from slimgpt.recovery.movement import ScoredWeight, cubic_sparsity

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_the_schedule_rises_fast_first_and_then_rests() -> None:
    rising = [cubic_sparsity(0.6, step, 2, 10) for step in range(14)]
    assert rising[:3] == [0.0, 0.0, 0.0] and rising[10:] == [pytest.approx(0.6)] * 4
    steps = [later - sooner for sooner, later in itertools.pairwise(rising[2:11])]
    assert steps == sorted(steps, reverse=True) and steps[-1] > 0
    assert cubic_sparsity(0.6, 6, 2, 10) == pytest.approx(0.6 * (1 - 0.5**3))


def test_scores_and_masks_are_those_of_the_slow_loop() -> None:
    """The optimiser is free to do what it likes to masked weights: they keep their value."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 8, generator=generator)
    gradients = torch.randn(12, 6, 8, generator=generator)
    sparsities = [cubic_sparsity(0.5, step, 0, 9) for step in range(1, 13)]
    parameter = nn.Parameter(start.clone())
    weight = ScoredWeight(parameter)
    for gradient, sparsity in zip(gradients, sparsities, strict=True):
        parameter.grad = gradient.clone()
        weight.score_()
        with torch.no_grad():
            parameter -= 0.1 * gradient
        weight.mask_(sparsity)
    expected, came_back = oracle.movement(start, gradients, sparsities, rate=0.1)
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert int((parameter == 0).sum()) == 24
    assert came_back > 0  # or the loop would not show that masked weights may


@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_a_trained_model_has_that_share_of_zeros(shop: Shop, tmp_path: Path, sparsity: float) -> None:
    given = {"full": True, "keep": "last", "max_steps": 10}
    pruned = recover(options(shop, tmp_path / "pruned", movement=sparsity, **given))
    plain = recover(options(shop, tmp_path / "plain", **given))
    masked, whole = (load_file(result.path / "model.safetensors") for result in (pruned, plain))
    for name, tensor in masked.items():
        zeros = int((tensor == 0).sum())
        projection = any(part in name for part in PROJECTIONS)
        assert zeros == (round(sparsity * tensor.numel()) if projection else int((whole[name] == 0).sum())), name
    assert logits(loaded(pruned.path)).isfinite().all()


def test_an_interrupted_run_ends_with_the_same_bytes(shop: Shop, tmp_path: Path) -> None:
    given = {"full": True, "keep": "last", "movement": 0.5, "max_steps": 10}
    whole = recover(options(shop, tmp_path / "whole", **given))
    with pytest.raises(KeyboardInterrupt):
        recover(options(shop, tmp_path / "cut", **given), Interrupting(7))
    resumed = recover(options(shop, tmp_path / "cut", resume=True, **given))
    first, second = ((result.path / "model.safetensors").read_bytes() for result in (whole, resumed))
    assert first == second


@pytest.mark.parametrize("changes", [{"keep": "last"}, {"full": True}])
def test_it_needs_all_weights_and_the_last_step(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"--movement scores the steps of all weights.*add --full and --keep last"):
        RecoverConfig("m", "o", "d", movement=0.5, **changes).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ConfigError, match=r"--movement .* is outside \[0, 1\)"):
        RecoverConfig("m", "o", "d", movement=share, full=True, keep="last").check()
