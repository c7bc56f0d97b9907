"""Targets in place of a ratio: what they may look like, that plans meet them, and what cannot be attained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from tables import channels, heads, layers, plan, quadratic_losses, units

from slimgpt import cli
from slimgpt.allocation.allocate import allocate
from slimgpt.allocation.curves import log_curve
from slimgpt.allocation.goal import Goal, met
from slimgpt.allocation.measures import ModelTimes, PartTimes
from slimgpt.allocation.places import Key, Place, removed_params
from slimgpt.allocation.plan import Plan, make_plan
from slimgpt.allocation.shape import Shape, least
from slimgpt.config import PruneConfig, SearchConfig
from slimgpt.config.target import count, latency, size
from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.pruning.driver import prune
from slimgpt.searching import allocate as allocate_by_curves
from slimgpt.searching.programme import Offer, solve
from slimgpt.sites import Kept

PRUNE = PruneConfig("m", "o")
STEP = 3 * 48  # parameters of a channel of the tiny Llama
HEAD_GROUP = (2 * 2 + 2) * 8 * 48


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(tiny_llama.save_model(tmp_path_factory.mktemp("targets") / "model")))


# --- how targets are spelled -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "params"),
    [
        (100_000_000, 10**8),
        ("100M", 10**8),
        ("100 m", 10**8),
        ("1.5B", 15 * 10**8),
        ("300k", 3 * 10**5),
        ("1e8", 10**8),
        ("100,000,000", 10**8),
        ("100_000", 10**5),
    ],
)
def test_counts(text: int | str, params: int) -> None:
    assert count(text) == params


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("200MB", 200 * 10**6), ("200MiB", 200 << 20), ("1.5 GB", 1_500_000_000), ("2GiB", 2 << 30), ("1000B", 1000)],
)
def test_sizes(text: str, num_bytes: int) -> None:
    assert size(text) == num_bytes


def test_latencies() -> None:
    assert latency("0.7x") == (0.7, True)
    assert latency("12ms") == (12.0, False)
    assert latency("1.5 ms") == (1.5, False)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("target_params", "much", "--target-params 'much' is no number of parameters: write 100000000, 100M or 1.5B"),
        ("target_params", "-5", "--target-params '-5' is no number"),
        ("target_params", 0, "--target-params 0 is no number"),
        ("target_params", "100MB", "--target-params '100MB' is no number"),
        ("target_size", "200", "--target-size '200' is no size: write it with a unit, 200MB"),
        ("target_size", "200M", "--target-size '200M' is no size"),
        ("target_size", "0MB", "--target-size '0MB' is no size"),
        ("target_latency", "0.7", "--target-latency '0.7' is no time: write 0.7x for a fraction"),
        ("target_latency", "12s", "--target-latency '12s' is no time"),
        ("target_latency", "0x", "--target-latency '0x' is no time"),
        ("target_latency", "1x", "--target-latency '1x' must be below 1x"),
        ("latency_prompt", 0, "--latency-prompt 0 must be 1 or more"),
        ("latency_table", "t.json", "--latency-table and --latency-of go with --target-latency"),
        ("latency_of", "prefill", "--latency-table and --latency-of go with --target-latency"),
    ],
)
@pytest.mark.parametrize("config", [PRUNE, SearchConfig("cache")])
def test_values_that_are_none(config: Any, option: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(config, **{option: value}).check()
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.2, "target_params": "1M"}, "--ratio and --target-params both say"),
        ({"target_size": "1MB", "target_params": "1M"}, "--target-params and --target-size both say"),
        ({"ratio": 0.25, "target_latency": "0.5x"}, "--ratio and --target-latency both say"),
    ],
)
def test_two_targets_are_one_too_many(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}.*give one of them"):
        replace(PRUNE, **options).check()


def test_the_ratio_is_a_quarter_where_nothing_else_is_said() -> None:
    assert PRUNE.asked_ratio == 0.25
    assert replace(PRUNE, target_params="1M").asked_ratio is None
    assert replace(PRUNE, ratio=0.0).asked_ratio == 0.0


def test_a_conflict_ends_the_command_before_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prune", "m", "o", "--ratio", "0.2", "--target-size", "1MB"]) == 2
    assert "--ratio and --target-size both say how small" in capsys.readouterr().err


def test_a_recipe_may_hold_a_target_as_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("target-params: 0\n")
    assert cli.main(["prune", "m", "o", "--recipe", str(recipe)]) == 2
    assert "--target-params 0 is no number of parameters" in capsys.readouterr().err


# --- parameters and size ---------------------------------------------------------------------------


def planned(checkpoint: Checkpoint, times: ModelTimes | None = None, **options: Any) -> Plan:
    asked = PruneConfig("m", "o", **options)
    return make_plan(checkpoint, asked, asked.chosen_allocation, Shape(asked.layout, round_to=1), 4, times)


@pytest.mark.parametrize("layout", ["per-layer", "uniform"])
@pytest.mark.parametrize("share", [0.95, 0.8, 0.6])
def test_parameters_are_met_to_a_step_and_never_exceeded(checkpoint: Checkpoint, share: float, layout: str) -> None:
    target = int(share * checkpoint.num_params)
    found = planned(checkpoint, target_params=target, layout=layout)
    step = STEP * (len(checkpoint.layers) if layout == "uniform" else 1)
    assert target - step <= found.params_after <= target


@pytest.mark.parametrize("allocation", ["log", "uniform", "linear-down"])
def test_curves_meet_parameters_too(checkpoint: Checkpoint, allocation: str) -> None:
    target = int(0.7 * checkpoint.num_params)
    assert target - STEP <= planned(checkpoint, target_params=target, allocation=allocation).params_after <= target


def test_the_written_file_is_within_the_size(checkpoint: Checkpoint, tmp_path: Path) -> None:
    limit = 4 * int(0.75 * checkpoint.num_params)
    config = tiny_llama.prune_config(
        Path(checkpoint.source), tmp_path / "out", ratio=None, target_size=f"{limit}B", allocation="uniform"
    )
    result = prune(config)
    written = (result.path / tiny_llama.WEIGHTS).stat().st_size
    assert 0.95 * limit <= written <= limit
    assert result.record["options"]["target_size"] == f"{limit}B"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_params": "1B"}, r"--target-params 1B asks for nothing: the model as it is has [\d,]+ parameters"),
        ({"target_size": "1GB"}, r"--target-size 1GB asks for nothing: the model as it is has [\d,]+ bytes \(4 a"),
        (
            {"target_params": "1k"},
            r"--target-params 1k cannot be attained: [\d,]+ parameters to remove, but at most [\d,]+ can go.*Raise the",
        ),
        ({"target_size": "1kB"}, r"--target-size 1kB cannot be attained: .* parameters to remove.*Raise the target"),
        ({"ratio": 0.9}, r"--ratio 0.9 cannot be attained: .*at most .* Lower --ratio"),
    ],
)
def test_what_cannot_be_is_refused(checkpoint: Checkpoint, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(checkpoint, **options)


# --- latency ---------------------------------------------------------------------------------------


def made_up_times(fixed_ns: int = 10_000, head_ns: int = 2_000, channel_ns: int = 30) -> ModelTimes:
    """Attention in steps of heads, FFNs that gain nothing between 48 and 64 channels."""
    attention = PartTimes((1, 2, 3), (0, head_ns, 2 * head_ns))
    ffn = PartTimes((32, 48, 64, 96), (0, 16 * channel_ns, 16 * channel_ns, 48 * channel_ns))
    return ModelTimes(fixed_ns, {"attention": attention, "ffn": ffn})


DENSE = plan(*[(3, 96)] * 3)


def test_times_between_measured_widths_lie_on_a_line() -> None:
    times = PartTimes((32, 64, 96), (0, 100, 300))
    assert [times.at(kept) for kept in (8, 32, 48, 64, 72, 95, 96, 200)] == [0, 0, 50, 100, 150, 293, 300, 300]


def test_what_was_not_timed_takes_no_time() -> None:
    times, beside = made_up_times(), Place(None, "vocabulary", 32000, 512)
    assert times.of_model({**DENSE, beside.key: beside.whole}) == times.of_model(DENSE)
    assert Goal("", 1, at_least=True, measure=times).saved(beside, Kept(1)) == 0


def test_a_models_time_is_the_sum_of_its_parts() -> None:
    times = made_up_times()
    assert times.of_model(plan((1, 32))) == times.fixed_ns
    assert times.of_model(DENSE) == times.fixed_ns + 3 * (4000 + 48 * 30)


@pytest.mark.parametrize("layout", ["per-layer", "uniform"])
def test_a_smaller_budget_is_met_by_a_faster_plan(checkpoint: Checkpoint, layout: str) -> None:
    times, before = made_up_times(), made_up_times().of_model(DENSE)
    found = [
        times.of_model(planned(checkpoint, times, target_latency=f"{share}x", layout=layout).kept) / before
        for share in (0.95, 0.85, 0.7, 0.5)
    ]
    assert all(time <= share for time, share in zip(found, (0.95, 0.85, 0.7, 0.5), strict=True))
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.75  # no more goes than has to


def test_milliseconds_and_fractions_are_the_same_goal(checkpoint: Checkpoint) -> None:
    times = made_up_times(fixed_ns=10_000_000, head_ns=2_000_000, channel_ns=30_000)
    ms = 0.7 * times.of_model(DENSE) / 1e6
    absolute, relative = (planned(checkpoint, times, target_latency=asked).kept for asked in (f"{ms}ms", "0.7x"))
    assert absolute == relative


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.1x", r"--target-latency 0.1x cannot be attained: .* ms would have to go, and .* ms are gone"),
        ("900ms", r"--target-latency 900ms asks for nothing: the model as it is has a decode time of 0.0263 ms"),
    ],
)
def test_times_that_cannot_be_are_refused(checkpoint: Checkpoint, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(checkpoint, made_up_times(), target_latency=value)


def test_the_cut_is_the_first_that_meets_the_goal() -> None:
    places = layers(4, heads(3, 500), channels(200, 10))
    floors, along = least(places, Shape(round_to=8)), dict.fromkeys(("attention", "ffn"), log_curve(4))

    def cut(params: int) -> dict[Key, Kept]:
        return allocate(places, params, along, Shape(round_to=8))

    def given(removes: int) -> int:
        return removed_params(places, met(Goal("", removes, at_least=True), places, floors, cut))

    most = removed_params(places, floors)
    for removes in range(100, most, 333):
        assert 0 <= given(removes) - removes <= 80
    assert given(most) == most


def test_query_heads_have_no_times() -> None:
    config = PruneConfig("m", "o", target_latency="0.7x", attention_units="queries")
    with pytest.raises(ConfigError, match=r"knows what whole KV groups take: drop --attention-units queries"):
        config.check()


# --- the search's budget ---------------------------------------------------------------------------


LOSSES = quadratic_losses(layers(3, heads(3, HEAD_GROUP), channels(96, STEP)), num_params=10**5, alike=30)


@pytest.mark.parametrize("share", [0.95, 0.8, 0.6, 0.5])
def test_a_search_meets_a_time(share: float) -> None:
    times, before = made_up_times(), made_up_times().of_model(DENSE)
    goal = Goal("", before - int(share * before), at_least=True, measure=times)
    kept, _ = allocate_by_curves(LOSSES, goal, Shape(round_to=8))
    assert times.of_model(kept) <= share * before


def test_what_costs_no_time_is_left_alone() -> None:
    """Attention that takes no time by its width is not cut for a time, though it is for parameters."""
    times = made_up_times(head_ns=0)
    before = times.of_model(DENSE)
    faster, _ = allocate_by_curves(LOSSES, Goal("", before // 10, at_least=True, measure=times), Shape(round_to=8))
    assert units(faster, "attention") == [3, 3, 3]
    smaller, _ = allocate_by_curves(LOSSES, Goal("", 30_000, at_least=True), Shape(round_to=8))
    assert min(units(smaller, "attention")) < 3


def test_a_search_refuses_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"--target-latency 0\.1x cannot be attained"):
        allocate_by_curves(LOSSES, Goal("--target-latency 0.1x", 10**6, True, made_up_times()), Shape(round_to=8))


@pytest.mark.parametrize("target", range(1, 44, 3))
def test_at_least_the_target_goes(target: int) -> None:
    flat = Offer((0.0, 1.0, 2.0, 3.0), (0, 7, 7, 14), fine=True)  # its second level gives nothing more
    coarse = Offer((0.0, 0.5, 4.0), (0, 10, 30), fine=False)
    offers = [flat, coarse]

    def total(levels: Sequence[int]) -> int:
        return sum(offer.saved[level] for offer, level in zip(offers, levels, strict=True))

    assert total(solve(offers, target, at_least=True)) >= target
