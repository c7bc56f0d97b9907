"""Ratios over layers: the curves' formulas, and plans that meet their target whatever the model's shape."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
import yaml
from tables import channels, heads, layers, plan, stacked, units

from slimgpt.allocation.allocate import allocate, allocate_uniform
from slimgpt.allocation.curves import CURVES, FIRST_RATIO, Curve, log_curve, scaled_curves, uniform_curve
from slimgpt.allocation.places import (
    MIN_WIDTH,
    NOTHING,
    Allocation,
    Key,
    Place,
    of_layer,
    removed_params,
    whole,
)
from slimgpt.allocation.ratios import curves
from slimgpt.allocation.shape import Shape, least
from slimgpt.errors import ConfigError
from slimgpt.sites import Kept

TOLERANCE = 0.003  # of the model's size, as issue 2 promises
PARTS = ("attention", "ffn")


def llama(num_layers: int, hidden: int, queries: int, kv_heads: int, width: int, vocab: int, tied: bool = False):
    """Places, layers and total parameters of a Llama's shape, counted here by hand."""
    head_dim = hidden // queries
    per_group = queries // kv_heads * head_dim * hidden * 2 + 2 * head_dim * hidden
    places = layers(num_layers, heads(kv_heads, per_group), channels(width, 3 * hidden))
    norms = 2 * hidden * num_layers + hidden
    total = num_layers * (kv_heads * per_group + width * 3 * hidden) + norms + vocab * hidden * (1 if tied else 2)
    return places, num_layers, total


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
    places, num_layers, total = SHAPES[shape]
    along = both(CURVES[name](num_layers))
    for ratio in (0.01, 0.2, 0.33, 0.5, 0.65):
        target = round(ratio * total)
        if target > most_removable(places, round_to):
            with pytest.raises(ConfigError):
                allocate(places, target, along, Shape(round_to=round_to))
            continue
        kept = allocate(places, target, along, Shape(round_to=round_to))
        assert abs(removed_params(places, kept) - target) <= TOLERANCE * total
        check_whole(places, kept, round_to)


def test_plan_at_one_channel_steps_is_exact_to_half_a_channel() -> None:
    places, num_layers, total = SHAPES["smollm2-135m"]
    for ratio in (k / 40 for k in range(1, 27, 3)):
        kept = allocate(places, round(ratio * total), both(log_curve(num_layers)), Shape(round_to=1))
        assert abs(removed_params(places, kept) - ratio * total) <= 3 * 576 / 2 + 1


def test_every_attainable_target_up_to_the_limit_is_met() -> None:
    places, num_layers, total = SHAPES["smollm2-135m"]
    limit = most_removable(places, 8)
    for target in (limit, limit - 1, limit - 12345, round(0.97 * limit), round(0.9 * limit)):
        kept = allocate(places, target, both(log_curve(num_layers)), Shape(round_to=8))
        assert abs(removed_params(places, kept) - target) <= TOLERANCE * total
        check_whole(places, kept, 8)


def test_models_whose_layers_differ_are_met_too() -> None:
    """A pruned model can be pruned again."""
    widths = (1536, 1000, 40, 777, 32, 1301, 8, 512)
    places = stacked(*((heads(1 + i % 5, 98304), channels(width, 1728)) for i, width in enumerate(widths)))
    total = sum(place.num_units * place.unit_params for place in places)
    for ratio, round_to in product((0.05, 0.2, 0.4, 0.6), (1, 8)):
        kept = allocate(places, round(ratio * total), both(log_curve(len(widths))), Shape(round_to=round_to))
        assert abs(removed_params(places, kept) - ratio * total) <= max(TOLERANCE * total, 4 * 1728)
        check_whole(places, kept, round_to)


@pytest.mark.parametrize("round_to", [1, 8])
def test_layers_that_lack_a_part_are_met_too(round_to: int) -> None:
    """A part that is absent is not zero: no plan speaks of it."""
    attention, ffn = heads(4, 98304), channels(1000, 1728)
    places = stacked((attention, ffn), (ffn,), (attention,), (), (attention, ffn), (ffn,))
    total = sum(place.num_units * place.unit_params for place in places)
    for ratio in (0.05, 0.2, 0.4, 0.6):
        kept = allocate(places, round(ratio * total), both(log_curve(6)), Shape(round_to=round_to))
        assert abs(removed_params(places, kept) - ratio * total) <= TOLERANCE * total
        check_whole(places, kept, round_to)
    assert [set(of_layer(kept, index)) for index in range(4)] == [{*PARTS}, {"ffn"}, {"attention"}, set()]


def test_places_that_no_curve_speaks_of_stay_whole() -> None:
    """Those beside the layers, and those of other parts."""
    beside, experts = Place(None, "vocabulary", 32000, 512), Place(1, "experts", 8, 9_000)
    places = [*layers(4, heads(4, 5000), channels(200, 300)), experts, beside]
    kept = allocate(places, 60_000, both(log_curve(4)), Shape(round_to=1))
    assert (kept[beside.key], kept[experts.key]) == (Kept(32000), Kept(8))
    assert removed_params(places, kept) == pytest.approx(60_000, abs=150)
    with pytest.raises(ConfigError, match=f"at most {4 * (3 * 5000 + 168 * 300):,} can go"):
        allocate(places, 400_000, both(log_curve(4)), Shape(round_to=1))


def test_nothing_asked_keeps_everything() -> None:
    places, num_layers, _ = SHAPES["llama-3.2-1b"]
    dense = plan(*[(8, 8192)] * 16)
    assert dense == whole(places)
    assert dense == allocate(places, 0, both(log_curve(num_layers)), Shape())
    assert dense == allocate_uniform(places, num_layers, 0, Shape())


def test_heads_follow_rounded_ratios() -> None:
    places, num_layers, total = SHAPES["llama-7b"]
    kept = allocate(places, round(0.25 * total), both(log_curve(num_layers)), Shape(round_to=1))
    removed = [32 - left for left in units(kept, "attention")]
    assert removed[0] == 2  # 32 x 0.0625
    assert removed == sorted(removed)
    assert removed[-1] == pytest.approx(32 * (1 - units(kept, "ffn")[-1] / 11008), abs=0.6)


def test_uneven_heads_and_widths_follow_their_own_curves() -> None:
    places, _, total = SHAPES["smollm2-135m"]
    only_last = scaled_curves([0.0] * 29 + [1.0])[0]
    kept = allocate(places, round(0.2 * total), {"attention": only_last, "ffn": log_curve(30)}, Shape(round_to=8))
    *first, last = units(kept, "attention")
    assert first == [3] * 29
    assert last < 3


def test_channels_are_given_back_to_the_largest_remainder() -> None:
    """Ideal widths 105, 97, 92 and 106 (sum 400) in steps of 8: rounding down gives 104, 96, 88, 104; one step goes
    back, and it goes to the layer that lost most, the third."""
    places = layers(4, heads(4, 1000), channels(200, 10))
    removed = [95, 103, 108, 94]
    along = {"attention": lambda amount: [0.0] * 4, "ffn": scaled_curves(removed)[0]}
    kept = allocate(places, 10 * sum(removed), along, Shape(round_to=8))
    assert units(kept, "ffn") == [104, 96, 96, 104]
    assert units(kept, "attention") == [4] * 4


@pytest.mark.parametrize(("width", "round_to", "fewest"), [(1536, 8, 32), (1536, 1, 32), (1536, 64, 64), (24, 8, 24)])
def test_some_channels_always_stay(width: int, round_to: int, fewest: int) -> None:
    assert channels(width, 1).narrowest(round_to) == Kept(fewest)
    assert heads(width, 1).narrowest(round_to) == Kept(1)


def test_too_much_is_refused_with_what_would_go() -> None:
    places, num_layers, total = SHAPES["smollm2-135m"]
    target = round(0.85 * total)
    with pytest.raises(ConfigError) as refused:
        allocate(places, target, both(log_curve(num_layers)), Shape())
    message = str(refused.value)
    assert f"{target:,} parameters" in message
    assert f"at most {most_removable(places, 8):,}" in message
    assert "32 FFN channels a layer stay" in message
    assert "Lower --ratio" in message


# --- the uniform layout ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_uniform_gives_one_size(shape: str) -> None:
    places, num_layers, total = SHAPES[shape]
    for ratio in (0.1, 0.2, 0.33, 0.5):
        target = round(ratio * total)
        if target > most_removable(places, 8):
            continue
        kept = allocate_uniform(places, num_layers, target, Shape(round_to=8))
        assert all(of_layer(kept, index) == of_layer(kept, 0) for index in range(num_layers))
        step = 8 * sum(place.unit_params for place in places if place.fine)
        assert abs(removed_params(places, kept) - target) <= step / 2
        check_whole(places, kept, 8)


def test_uniform_refuses_layers_that_differ_already() -> None:
    places = stacked((heads(4, 1000), channels(200, 10)), (heads(3, 1000), channels(200, 10)))
    with pytest.raises(ConfigError, match=r"all of one size, and this one's differ.*--layout per-layer"):
        allocate_uniform(places, 2, 100, Shape())


# --- ratios from a file ----------------------------------------------------------------------------


def test_a_list_serves_both_sites(tmp_path: Path) -> None:
    found = curves(written(tmp_path / "r.yaml", [0.1, 0.2, 0.3]), PARTS, 3)
    assert found["attention"](0.2) == found["ffn"](0.2) == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["r.json", "r.yaml", "r.txt"])
def test_a_mapping_gives_each_part_its_own_and_scales_both_alike(tmp_path: Path, name: str) -> None:
    found = curves(written(tmp_path / name, {"ffn": [0.6, 0.6, 0.6], "attention": [0, 0, 0.6]}), PARTS, 3)
    assert found["attention"](0.1) == pytest.approx([0, 0, 0.15])
    assert found["ffn"](0.1) == pytest.approx([0.15, 0.15, 0.15])


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
        ({"attention": [0.1, 0.1, 0.1]}, "3 ratios, or one such list for each of 'attention' and 'ffn'"),
        (
            {"attn": [0.1] * 3, "ffn": [0.1] * 3},
            "3 ratios, or one such list for each of 'attention' and 'ffn'",
        ),
        ("0.3", "needs a list of 3 ratios"),
        (None, "needs a list of 3 ratios"),
    ],
)
@pytest.mark.parametrize("name", ["r.json", "r.yaml"])
def test_a_wrong_file_is_refused_in_its_own_words(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(ConfigError) as refused:
        curves(path, PARTS, 3)
    assert message in str(refused.value)
    assert path in str(refused.value)


@pytest.mark.parametrize(("name", "text"), [("r.json", "[0.1,"), ("r.yaml", "a: [1\nb: }"), ("r.yaml", "\x00")])
def test_a_file_of_neither_kind_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="is not valid JSON or YAML"):
        curves(str(tmp_path / name), PARTS, 3)


def test_an_unknown_curve_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'logg' is neither one of searched, flap, log, linear, .* nor a file"):
        curves("logg", PARTS, 3)


# --- helpers ---------------------------------------------------------------------------------------


def written(path: Path, content: object) -> str:
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    return str(path)


def both(curve: Curve) -> dict[str, Curve]:
    """One curve for attention and FFN."""
    return dict.fromkeys(PARTS, curve)


def most_removable(places: Sequence[Place], round_to: int) -> int:
    least = {"attention": 1, "ffn": math.ceil(MIN_WIDTH / round_to) * round_to}
    return sum(max(place.num_units - least[place.part], 0) * place.unit_params for place in places)


def check_whole(places: Sequence[Place], kept: Allocation, round_to: int) -> None:
    """At least one head and the least width stay, nothing grows, and cut widths are multiples of ``round_to``."""
    assert kept.keys() == {place.key for place in places}
    for place in places:
        left = kept[place.key].units
        assert place.narrowest(round_to).units <= left <= place.num_units
        assert place.part == "attention" or left % round_to == 0 or left == place.num_units


# --- query heads -----------------------------------------------------------------------------------


def shared(groups: int, queries: int) -> Place:
    """Keys and values of a group together weigh as much as one of its query heads."""
    return heads(groups, 100 * (queries + 1), queries, 100)


def test_parameters_of_units_without_some_members() -> None:
    have = shared(3, 3)
    assert [have.params(Kept(*kept)) for kept in ((3,), (3, 3), (3, 2), (2, 1))] == [1200, 1200, 900, 400]
    assert removed_params(layers(1, have, channels(10, 7)), plan((Kept(2, 1), 9))) == 800 + 7


def test_a_block_takes_along_what_it_has_beside_its_units() -> None:
    """Only where it may vanish, and is asked to."""
    block, part = replace(heads(3, 100), block_params=7), channels(200, 10)
    assert (block.removed(NOTHING), block.removed(Kept(1))) == (307, 200)
    assert not part.vanishes(PARTS) and not block.vanishes(["ffn"])
    assert least([block, part], Shape(round_to=8, blocks=PARTS)) == {block.key: NOTHING, part.key: Kept(32)}
    assert least([block, part], Shape(round_to=8)) == {block.key: Kept(1), part.key: Kept(32)}


def test_a_place_offers_everything_down_to_one_member_of_one_unit() -> None:
    assert shared(2, 3).choices() == [Kept(units, members) for units in (2, 1) for members in (None, 2, 1)]
    assert channels(3, 7).choices() == [Kept(3), Kept(2), Kept(1)]


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.4, 0.6])
def test_query_heads_come_nearer_to_the_ratio(ratio: float) -> None:
    places, along = layers(8, shared(3, 3), channels(4000, 3)), both(uniform_curve(8))
    dense = sum(place.params(place.whole) for place in places)
    target = round(ratio * dense)

    def miss(kept: Allocation) -> float:
        attention = [place for place in places if place.part == "attention"]
        left = sum(place.params(kept[place.key]) for place in attention)
        return abs(left / sum(place.params(place.whole) for place in attention) - (1 - ratio))

    coarse, fine = (allocate(places, target, along, Shape(by_members=members)) for members in (False, True))
    assert miss(fine) <= miss(coarse) and miss(fine) <= 1 / 8 + 1e-9  # half of the widest step, 12 to 9
    assert removed_params(places, fine) == pytest.approx(target, abs=8 * 3)
    assert all(kept.members is None for kept in coarse.values()) and min(units(fine, "attention")) >= 1


def test_a_uniform_plan_knows_query_heads() -> None:
    places = layers(4, shared(3, 3), channels(400, 3))
    kept = allocate_uniform(places, 4, 4 * 600, Shape(round_to=8, by_members=True))
    assert all(of_layer(kept, index) == of_layer(kept, 0) for index in range(4))
    assert kept[Key(0, "attention")] == Kept(3, 2)
