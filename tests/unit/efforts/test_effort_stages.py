"""Which commands an effort is made of: data, told from the options alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slimgpt import PruneConfig, RecoverConfig
from slimgpt.config import read_recipe
from slimgpt.config.step import Step
from slimgpt.efforts.table import TRAININGS, Stages
from slimgpt.errors import ConfigError

RECIPE = Path(__file__).parents[3] / "recipes" / "recover-distill.yaml"
WORK = Path("work")


def steps(removed: float | None = None, **options: Any) -> list[Step]:
    config = PruneConfig("dense", "out", effort="high", **options)
    share = config.asked_ratio if removed is None else removed
    return list(Stages(config, share, WORK, WORK / "text.jsonl", TRAININGS["all weights"]).steps())


def told(step: Step) -> str:
    return " ".join(step.arguments())


@pytest.mark.parametrize(("ratio", "shares"), [(0.2, [0.2]), (0.25, [0.25]), (0.5, [0.25, 0.3333]), (0.9, None)])
def test_no_step_removes_more_than_a_quarter_of_the_dense_model(ratio: float, shares: list[float] | None) -> None:
    asked = [step.options["ratio"] for step in steps(ratio=ratio) if step.command == "prune"]
    assert shares is None or asked == shares
    left = 1.0
    for share in asked:
        assert left * share < 0.2501
        left *= 1 - share
    assert left == pytest.approx(1 - ratio, abs=2e-4)


def test_each_step_is_pruned_and_taught_by_the_dense_model() -> None:
    chain = steps(ratio=0.5, calibration="text.txt", samples=64, seqlen=512, seed=3, device="cpu")
    assert told(chain[0]) == (
        "prune dense work/1-pruned --ratio 0.25 --attention-units queries --search-candidates 24 "
        "--calibration text.txt --samples 64 --seqlen 512 --device cpu --seed 3"
    )
    assert told(chain[1]) == (
        "recover work/1-pruned work/1-trained --data work/text.jsonl --teacher dense --seqlen 256 --full "
        "--learning-rate 0.0004 --warmup 10 --batch-size 8 --epochs 4.0 --hidden-weight 10.0 --loss-on all "
        "--held-out 0.01 --eval-every 100 --keep last --device cpu --seed 3"
    )
    assert [step.positional for step in chain] == [
        ("dense", "work/1-pruned"),
        ("work/1-pruned", "work/1-trained"),
        ("work/1-trained", "work/2-pruned"),
        ("work/2-pruned", "work/2-trained"),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"search_candidates": 5}, {"search_candidates": 5, "attention_units": "queries"}),
        ({"allocation": "log"}, {"allocation": "log", "attention_units": "queries"}),
        ({"layout": "uniform"}, {"layout": "uniform", "attention_units": "queries"}),
        ({"solver": "flap"}, {"solver": "flap"}),
        ({"solver": "slimgpt"}, {"solver": "slimgpt", "attention_units": "queries"}),
        ({"correct_errors": True}, {"correct_errors": True, "attention_units": "queries", "search_candidates": 24}),
    ],
)
def test_what_the_user_says_comes_first(options: dict[str, Any], expected: dict[str, Any]) -> None:
    pruning = steps(ratio=0.2, **options)[0]
    assert pruning.options == {"ratio": 0.2, **expected}
    PruneConfig(*pruning.positional, **pruning.options).check()


def test_a_target_is_met_by_the_last_step_itself() -> None:
    first, _, second, _ = steps(removed=0.4, target_params="81M", search_cache="cache")
    assert first.options["ratio"] == 0.2 and "target_params" not in first.options
    assert second.options["target_params"] == "81M" and "ratio" not in second.options
    assert first.options["search_cache"] == "cache" and "search_cache" not in second.options


def test_a_target_in_memory_is_met_in_one_step() -> None:
    config = PruneConfig("dense", "out", effort="high", target_memory="1GB", context=2048)
    pruning, _ = Stages(config, None, WORK, WORK / "text.jsonl", TRAININGS["all weights"]).steps()
    assert pruning.options["target_memory"] == "1GB" and pruning.options["context"] == 2048
    assert "ratio" not in pruning.options


def test_what_cannot_be_divided_is_done_in_one_step() -> None:
    config = PruneConfig("dense", "out", effort="high", target_latency="0.6x")
    stages = Stages(config, None, WORK, WORK / "text.jsonl", TRAININGS["all weights"])
    pruning, _ = stages.steps()
    assert pruning.options == {"target_latency": "0.6x", "search_candidates": 24}
    assert "a target in memory or time does not say what share goes" in (stages.why_in_one or "")
    own = replace(stages, config=PruneConfig("dense", "out", effort="high", ratio=0.5, calibration="self"), removed=0.5)
    assert len(list(own.steps())) == 2 and "the pruned model writes" in (own.why_in_one or "")


def test_the_training_is_the_recipe_s() -> None:
    recipe = read_recipe(str(RECIPE), RecoverConfig)
    changed = {"epochs": 4.0, "label_share": 0.0, "keep": "last"}
    meant = RecoverConfig("pruned", "out", "text", **(recipe | changed), teacher="dense")
    assert RecoverConfig("pruned", "out", "text", **TRAININGS["all weights"], teacher="dense") == meant


def test_low_takes_the_paper_s_curve_unless_another_is_named() -> None:
    low = PruneConfig("dense", "out", effort="low")
    assert (low.solver, low.chosen_allocation, low.searches) == ("obs", "log", False)
    assert replace(low, allocation="searched").searches
    assert replace(low, layout="uniform").chosen_allocation == "uniform"
    with pytest.raises(ConfigError, match="--search-candidates goes with --allocation searched"):
        replace(low, search_candidates=3).check()


def test_nothing_to_make_up_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="--ratio 0 removes nothing: drop one of the two"):
        PruneConfig("dense", "out", effort="high", ratio=0.0).check()
