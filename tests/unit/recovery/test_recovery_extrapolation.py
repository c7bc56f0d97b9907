"""Weights on along the line of their training: where the search stops, and what it leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from recovery_shop import Shop, loaded, options
from torch import nn

from slimgpt.errors import ConfigError
from slimgpt.recovery import recover
from slimgpt.recovery.extrapolation import FARTHEST, Line, Reached, go_on


def models(end: float) -> tuple[nn.Linear, nn.Linear]:
    """One that was trained from 0 to ``end``, with a bias that was not, and what it was before."""
    after, before = nn.Linear(3, 2), nn.Linear(3, 2)
    nn.init.constant_(after.weight, end)
    nn.init.zeros_(before.weight)
    after.bias.requires_grad_(False)
    return after, before


@pytest.mark.parametrize(("best", "reached"), [(0.5, 1.0), (1.04, 1.0), (1.26, 1.3), (1.5, 1.5), (7.0, FARTHEST)])
def test_the_search_ends_at_the_best_tenth(best: float, reached: float) -> None:
    """Perplexity is lowest where the weights are ``best``; training ended at 1."""
    after, before = models(1.0)
    bias = after.bias.clone()

    def measure() -> float:
        return 10 + (after.weight[0, 0].item() - best) ** 2

    found = go_on(Line(after, before), measure, measure())
    assert found.share == reached
    assert found.perplexity == pytest.approx(10 + (reached - best) ** 2, rel=1e-6)
    assert after.weight.unique().item() == pytest.approx(reached)
    assert torch.equal(after.bias, bias)


def test_nothing_better_leaves_the_very_weights_of_training() -> None:
    after, before = nn.Linear(50, 50), nn.Linear(50, 50)
    weight = after.weight.detach().clone()
    assert go_on(Line(after, before), lambda: math.inf, 1.0) == Reached(1.0, 1.0)
    assert torch.equal(after.weight, weight)


@pytest.mark.parametrize("zeros", [False, True])
def test_a_run_that_was_too_short_goes_on(shop: Shop, tmp_path: Path, zeros: bool) -> None:
    """At a low rate: the weights lie on the line, and held-out text is likelier than where training ended."""
    given: dict[str, Any] = {"teacher": str(shop.dense), "full": True, "learning_rate": 3e-4, "keep_zeros": zeros}
    plain, further = (recover(options(shop, tmp_path / str(on), extrapolate=on, **given)).path for on in (False, True))
    records = [recover_record(path) for path in (plain, further)]
    assert [record["extrapolated_to"] for record in records] == [1.0, pytest.approx(FARTHEST)]
    perplexities = [record["held_out"]["perplexity_after"] for record in records]
    assert perplexities[1] < perplexities[0] == records[1]["history"][-1]["eval_perplexity"]
    assert f"and on to {FARTHEST:g} of the way there" in (further / "README.md").read_text()
    start, end, beyond = (loaded(path).state_dict() for path in (shop.pruned, plain, further))
    for name, weight in beyond.items():
        torch.testing.assert_close(weight, torch.lerp(start[name], end[name], FARTHEST), rtol=1e-4, atol=1e-6)


def recover_record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "slimgpt.json").read_text())["recovery"][-1]
    return found


@pytest.mark.parametrize("changes", [{"full": False}, {"keep": "last"}, {"keep": "last", "movement": 0.5}])
def test_what_cannot_go_on_is_refused(shop: Shop, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = options(shop, tmp_path / "out", **{"full": True, "extrapolate": True, **changes})
    with pytest.raises(ConfigError, match="--extrapolate needs --full"):
        recover(config)
