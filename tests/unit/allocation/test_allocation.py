"""Ratios over layers: the curves' formulas, and plans that meet their target whatever the model's shape."""

from __future__ import annotations

import json
import math
from itertools import pairwise, product
from pathlib import Path

import pytest
import yaml

from slimgpt.allocation.allocate import allocate, allocate_uniform
from slimgpt.allocation.budget import MIN_WIDTH, LayerBudget, LayerPlan, SiteBudget, min_width, removed_params
from slimgpt.allocation.curves import CURVES, FIRST_RATIO, log_curve, scaled_curves
from slimgpt.allocation.plan import curves
from slimgpt.errors import ConfigError

TOLERANCE = 0.003  # of the model's size, as issue 2 promises


def llama(num_layers: int, hidden: int, heads: int, kv_heads: int, width: int, vocab: int, tied: bool = False):
    """Budget and total parameters of a Llama's shape, counted here by hand."""
    head_dim = hidden // heads
    per_group = heads // kv_heads * head_dim * hidden * 2 + 2 * head_dim * hidden
    layer = LayerBudget(SiteBudget(kv_heads, per_group), SiteBudget(width, 3 * hidden))
    norms = 2 * hidden * num_layers + hidden
    total = num_layers * (kv_heads * per_group + width * 3 * hidden) + norms + vocab * hidden * (1 if tied else 2)
    return [layer] * num_layers, total


SHAPES = {
    "llama-7b": llama(32, 4096, 32, 32, 11008, 32000),
    "llama-3.2-1b": llama(16, 2048, 32, 8, 8192, 128256, tied=True),
    "smollm2-135m": llama(30, 576, 9, 3, 1536, 49152, tied=True),
    "llama-70b": llama(80, 8192, 64, 8, 28672, 32000),
    "one-group": llama(12, 768, 12, 1, 3072, 32000),
}


# --- curves ----------------------------------------------------------------------------------------


def test_log_curve_is_the_papers() -> None:
    r_mean = 0.2
    r_last = FIRST_RATIO + (r_mean - FIRST_RATIO) / 0.7354
    paper = [FIRST_RATIO + (r_last - FIRST_RATIO) * math.log(i + 1) / math.log(32) for i in range(32)]
    assert log_curve(32)(r_mean) == pytest.approx(paper, abs=2e-5)


def test_log_curve_at_32_layers_has_mean_07354_of_its_height() -> None:
    ratios = log_curve(32)(0.3)
    heights = [(ratio - ratios[0]) / (ratios[-1] - ratios[0]) for ratio in ratios]
    assert sum(heights) / 32 == pytest.approx(0.7354, abs=5e-5)


def test_first_ratio_is_the_papers_unless_less_is_asked() -> None:
    assert log_curve(32)(0.2)[0] == 0.0625
    assert log_curve(32)(0.03) == pytest.approx([0.03] * 32)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 12, 32, 80])
@pytest.mark.parametrize("name", CURVES)
def test_every_curve_has_the_amount_as_its_mean(name: str, num_layers: int) -> None:
    for amount in (0.0, 0.01, 0.2, 0.5, 1.0):
        ratios = CURVES[name](num_layers)(amount)
        assert len(ratios) == num_layers
        assert sum(ratios) / num_layers == pytest.approx(amount, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "rises"), [("log", True), ("linear", True), ("log-down", False), ("linear-down", False)]
)
def test_curves_rise_or_fall_strictly(name: str, rises: bool) -> None:
    ratios = CURVES[name](24)(0.25)
    assert all((later > earlier) == rises for earlier, later in pairwise(ratios))


@pytest.mark.parametrize("name", CURVES)
def test_a_larger_amount_takes_more_from_every_layer(name: str) -> None:
    for less, more in pairwise(CURVES[name](24)(amount / 50) for amount in range(0, 50, 3)):
        assert all(after >= before for before, after in zip(less, more, strict=True))
        assert any(after > before for before, after in zip(less, more, strict=True))


def test_the_first_layer_gives_more_only_where_others_have_no_more() -> None:
    curve = log_curve(30)
    assert curve(1.0)[0] == FIRST_RATIO
    assert curve(2.0)[0] > FIRST_RATIO
    assert all(later > earlier for earlier, later in pairwise(curve(2.0)))


def test_down_is_up_reversed() -> None:
    assert CURVES["log-down"](9)(0.3) == CURVES["log"](9)(0.3)[::-1]


def test_scaled_curves_keeps_proportions() -> None:
    assert scaled_curves([0.1, 0.2, 0.3])[0](0.4) == pytest.approx([0.2, 0.4, 0.6])


# --- plans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_to", [1, 8, 64, 128])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["log", "uniform", "linear-down"])
def test_plan_meets_its_target_within_a_third_of_a_percent(name: str, shape: str, round_to: int) -> None:
    budget, total = SHAPES[shape]
    curve = CURVES[name](len(budget))
    for ratio in (0.01, 0.2, 0.33, 0.5, 0.65):
        target = round(ratio * total)
        if target > most_removable(budget, round_to):
            with pytest.raises(ConfigError):
                allocate(budget, target, curve, curve, round_to)
            continue
        plan = allocate(budget, target, curve, curve, round_to)
        assert abs(removed_params(budget, plan) - target) <= TOLERANCE * total
        check_whole(budget, plan, round_to)


def test_plan_at_one_channel_steps_is_exact_to_half_a_channel() -> None:
    budget, total = SHAPES["smollm2-135m"]
    curve = log_curve(len(budget))
    for ratio in (k / 40 for k in range(1, 27, 3)):
        plan = allocate(budget, round(ratio * total), curve, curve, round_to=1)
        assert abs(removed_params(budget, plan) - ratio * total) <= 3 * 576 / 2 + 1


def test_every_attainable_target_up_to_the_limit_is_met() -> None:
    budget, total = SHAPES["smollm2-135m"]
    curve = log_curve(len(budget))
    limit = most_removable(budget, 8)
    for target in (limit, limit - 1, limit - 12345, round(0.97 * limit), round(0.9 * limit)):
        plan = allocate(budget, target, curve, curve, 8)
        assert abs(removed_params(budget, plan) - target) <= TOLERANCE * total
        check_whole(budget, plan, 8)


def test_models_whose_layers_differ_are_met_too() -> None:
    """A pruned model can be pruned again."""
    budget = [
        LayerBudget(SiteBudget(1 + i % 5, 98304), SiteBudget(width, 1728))
        for i, width in enumerate((1536, 1000, 40, 777, 32, 1301, 8, 512))
    ]
    total = sum(b.attention.num_units * 98304 + b.ffn.num_units * 1728 for b in budget)
    for ratio, round_to in product((0.05, 0.2, 0.4, 0.6), (1, 8)):
        curve = log_curve(len(budget))
        plan = allocate(budget, round(ratio * total), curve, curve, round_to)
        assert abs(removed_params(budget, plan) - ratio * total) <= max(TOLERANCE * total, 4 * 1728)
        check_whole(budget, plan, round_to)


def test_nothing_asked_keeps_everything() -> None:
    budget, _ = SHAPES["llama-3.2-1b"]
    curve = log_curve(len(budget))
    for plan in (allocate(budget, 0, curve, curve), allocate_uniform(budget, 0)):
        assert plan == [LayerPlan(8, 8192)] * 16


def test_heads_follow_rounded_ratios() -> None:
    budget, total = SHAPES["llama-7b"]
    plan = allocate(budget, round(0.25 * total), log_curve(32), log_curve(32), 1)
    removed = [32 - layer.attention for layer in plan]
    assert removed[0] == 2  # 32 x 0.0625
    assert removed == sorted(removed)
    assert removed[-1] == pytest.approx(32 * (1 - plan[-1].ffn / 11008), abs=0.6)


def test_uneven_heads_and_widths_follow_their_own_curves() -> None:
    budget, total = SHAPES["smollm2-135m"]
    only_last = scaled_curves([0.0] * 29 + [1.0])[0]
    plan = allocate(budget, round(0.2 * total), only_last, log_curve(30), 8)
    assert [layer.attention for layer in plan[:-1]] == [3] * 29
    assert plan[-1].attention < 3


def test_channels_are_given_back_to_the_largest_remainder() -> None:
    """Ideal widths 105, 97, 92 and 106 (sum 400) in steps of 8: rounding down gives 104, 96, 88, 104; one step goes
    back, and it goes to the layer that lost most, the third."""
    budget = [LayerBudget(SiteBudget(4, 1000), SiteBudget(200, 10))] * 4
    no_heads = scaled_curves([0.001] * 4)[0]
    removed = [95, 103, 108, 94]
    plan = allocate(budget, 10 * sum(removed), lambda s: [0 * r for r in no_heads(s)], scaled_curves(removed)[0], 8)
    assert [layer.ffn for layer in plan] == [104, 96, 96, 104]
    assert [layer.attention for layer in plan] == [4] * 4


@pytest.mark.parametrize(("width", "round_to", "least"), [(1536, 8, 32), (1536, 1, 32), (1536, 64, 64), (24, 8, 24)])
def test_some_channels_always_stay(width: int, round_to: int, least: int) -> None:
    assert min_width(width, round_to) == least


def test_too_much_is_refused_with_what_would_go() -> None:
    budget, total = SHAPES["smollm2-135m"]
    target = round(0.85 * total)
    with pytest.raises(ConfigError) as refused:
        allocate(budget, target, log_curve(30), log_curve(30))
    message = str(refused.value)
    assert f"{target:,} parameters" in message
    assert f"at most {most_removable(budget, 8):,}" in message
    assert "32 FFN channels a layer stay" in message
    assert "Lower --ratio" in message


# --- the uniform layout ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_uniform_gives_one_size(shape: str) -> None:
    budget, total = SHAPES[shape]
    for ratio in (0.1, 0.2, 0.33, 0.5):
        target = round(ratio * total)
        if target > most_removable(budget, 8):
            continue
        plan = allocate_uniform(budget, target, 8)
        assert len(set(plan)) == 1
        step = 8 * sum(layer.ffn.unit_params for layer in budget)
        assert abs(removed_params(budget, plan) - target) <= step / 2
        check_whole(budget, plan, 8)


def test_uniform_refuses_layers_that_differ_already() -> None:
    budget = [
        LayerBudget(SiteBudget(4, 1000), SiteBudget(200, 10)),
        LayerBudget(SiteBudget(3, 1000), SiteBudget(200, 10)),
    ]
    with pytest.raises(ConfigError, match=r"all of one size, and this one's differ.*--layout per-layer"):
        allocate_uniform(budget, 100)


# --- ratios from a file ----------------------------------------------------------------------------


def test_a_list_serves_both_sites(tmp_path: Path) -> None:
    attention, ffn = curves(written(tmp_path / "r.yaml", [0.1, 0.2, 0.3]), 3)
    assert attention(0.2) == ffn(0.2) == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["r.json", "r.yaml", "r.txt"])
def test_a_mapping_gives_each_part_its_own_and_scales_both_alike(tmp_path: Path, name: str) -> None:
    attention, ffn = curves(written(tmp_path / name, {"attention": [0, 0, 0.6], "ffn": [0.6, 0.6, 0.6]}), 3)
    assert attention(0.1) == pytest.approx([0, 0, 0.15])
    assert ffn(0.1) == pytest.approx([0.15, 0.15, 0.15])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([0.1, 0.2], "needs a list of 3 ratios"),
        ([0.1, 0.2, 0.3, 0.4], "needs a list of 3 ratios"),
        ({"attention": [0.1, 0.1, 0.1], "ffn": [0.2]}, "ffn: needs a list of 3 ratios"),
        ([0.1, 1.2, 0.3], "ratio 1.2 of layer 1 is not a number in [0, 1]"),
        ([0.1, 0.2, -0.3], "ratio -0.3 of layer 2 is not a number in [0, 1]"),
        ([True, 0.2, 0.3], "ratio True of layer 0"),
        (["0.1", 0.2, 0.3], "ratio '0.1' of layer 0"),
        ([float("nan"), 0.2, 0.3], "ratio nan of layer 0"),
        ([0, 0.0, 0], "all ratios are 0"),
        ({"attention": [0.1, 0.1, 0.1]}, "two such lists, 'attention' and 'ffn'"),
        ({"attn": [0.1] * 3, "ffn": [0.1] * 3}, "two such lists, 'attention' and 'ffn'"),
        ("0.3", "needs a list of 3 ratios"),
        (None, "needs a list of 3 ratios"),
    ],
)
@pytest.mark.parametrize("name", ["r.json", "r.yaml"])
def test_a_wrong_file_is_refused_in_its_own_words(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(ConfigError) as refused:
        curves(path, 3)
    assert message in str(refused.value)
    assert path in str(refused.value)


@pytest.mark.parametrize(("name", "text"), [("r.json", "[0.1,"), ("r.yaml", "a: [1\nb: }"), ("r.yaml", "\x00")])
def test_a_file_of_neither_kind_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="is not valid JSON or YAML"):
        curves(str(tmp_path / name), 3)


def test_an_unknown_curve_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'logg' is neither one of searched, flap, log, linear, .* nor a file"):
        curves("logg", 3)


# --- helpers ---------------------------------------------------------------------------------------


def written(path: Path, content: object) -> str:
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    return str(path)


def most_removable(budget: list[LayerBudget], round_to: int) -> int:
    floor = math.ceil(MIN_WIDTH / round_to) * round_to
    return sum(
        (layer.attention.num_units - 1) * layer.attention.unit_params
        + max(layer.ffn.num_units - floor, 0) * layer.ffn.unit_params
        for layer in budget
    )


def check_whole(budget: list[LayerBudget], plan: list[LayerPlan], round_to: int) -> None:
    """At least one head and the least width stay, nothing grows, and cut widths are multiples of ``round_to``."""
    for have, keep in zip(budget, plan, strict=True):
        assert 1 <= keep.attention <= have.attention.num_units
        assert min_width(have.ffn.num_units, round_to) <= keep.ffn <= have.ffn.num_units
        assert keep.ffn % round_to == 0 or keep.ffn == have.ffn.num_units


# --- query heads -----------------------------------------------------------------------------------


def shared(groups: int, queries: int) -> SiteBudget:
    """Keys and values of a group together weigh as much as one of its query heads."""
    return SiteBudget(groups, 100 * (queries + 1), queries, 100)


def test_parameters_of_units_without_some_members() -> None:
    have = shared(3, 3)
    assert (have.params(3), have.params(3, 3), have.params(3, 2), have.params(2, 1)) == (1200, 1200, 900, 400)
    layer = LayerBudget(have, SiteBudget(10, 7))
    assert removed_params([layer], [LayerPlan(2, 9, queries=1)]) == 800 + 7


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.4, 0.6])
def test_query_heads_come_nearer_to_the_ratio(ratio: float) -> None:
    budget = [LayerBudget(shared(3, 3), SiteBudget(4000, 3))] * 8
    whole = sum(layer.attention.params(3) for layer in budget)
    target, curve = round(ratio * sum(removed_params([b], [LayerPlan(0, 0)]) for b in budget)), CURVES["uniform"](8)

    def miss(plan: list[LayerPlan]) -> float:
        kept = sum(have.attention.params(keep.attention, keep.queries) for have, keep in zip(budget, plan, strict=True))
        return abs(kept / whole - (1 - ratio))

    coarse, fine = (allocate(budget, target, curve, curve, 8, by_queries) for by_queries in (False, True))
    assert miss(fine) <= miss(coarse) and miss(fine) <= 1 / 8 + 1e-9  # half of the widest step, 12 to 9
    assert removed_params(budget, fine) == pytest.approx(target, abs=8 * 3)
    assert all(keep.queries is None for keep in coarse) and all(keep.attention >= 1 for keep in fine)


def test_a_uniform_plan_knows_query_heads() -> None:
    budget = [LayerBudget(shared(3, 3), SiteBudget(400, 3))] * 4
    plan = allocate_uniform(budget, 4 * 600, 8, by_queries=True)
    assert plan == [plan[0]] * 4 and (plan[0].attention, plan[0].queries) == (3, 2)
