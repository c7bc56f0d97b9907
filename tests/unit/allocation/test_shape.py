"""What layouts and servers ask of sizes: every way of allocating keeps to it. The rules are stated here once more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import tiny
from tables import channels, heads, layers, quadratic_losses

from slimgpt import cli
from slimgpt.allocation.goal import Goal
from slimgpt.allocation.measures import Memory, ModelTimes, PartTimes
from slimgpt.allocation.places import NOTHING, Key, Place, parts_of, removed_params, whole
from slimgpt.allocation.plan import along
from slimgpt.allocation.ranking import ranked_curves
from slimgpt.allocation.ratios import curves
from slimgpt.allocation.shape import Shape, largest, least
from slimgpt.config import PruneConfig
from slimgpt.errors import ConfigError
from slimgpt.searching import allocate as search
from slimgpt.searching.cache import LossCurve, LossCurves
from slimgpt.sites import Kept

MODELS = {
    "grouped": layers(5, heads(8, 4000, 4, 800), channels(344, 30)),
    "odd groups": layers(5, heads(3, 3000, 3, 800), channels(1536, 8)),
    "multi-head": layers(5, heads(12, 900), channels(200, 30)),
}
SHAPES = {
    "plain": Shape(),
    "uniform": Shape("uniform"),
    "wide steps": Shape(round_to=64),
    "two devices": Shape(tensor_parallel=2),
    "four devices, uniform": Shape("uniform", round_to=1, tensor_parallel=4),
    "three devices": Shape(round_to=16, tensor_parallel=3),
    "two devices, query heads": Shape(by_members=True, tensor_parallel=2),
    "two devices, blocks": Shape(blocks=("attention", "ffn"), tensor_parallel=2),
}
IMPOSSIBLE = {("odd groups", "four devices, uniform")}  # 9, 6 or 3 query heads
CASES = [(model, shape) for model in MODELS for shape in SHAPES if (model, shape) not in IMPOSSIBLE]
each = pytest.mark.parametrize(("model", "shape"), CASES)
PATHS = ["log", "linear-down", "ranked", "searched"]
LIMITS = [("log", "time"), ("log", "memory"), ("searched", "time"), ("searched", "memory")]


def goes_together(shape: str, path: str, target: str = "parameters") -> bool:
    """Layers that are alike have one ratio, and no times are known of query heads: other options are refused."""
    wanted = SHAPES[shape]
    return not (wanted.alike and path != "log") and not (wanted.by_members and target == "time")


def breaches(places: Sequence[Place], kept: Mapping[Key, Kept], shape: Shape) -> list[str]:
    """What a plan has that it may not have."""
    return [f"{place.key} keeps {kept[place.key]}" for place in places if not allowed(place, kept[place.key], shape)]


def allowed(place: Place, kept: Kept, shape: Shape) -> bool:
    num, units, members = shape.tensor_parallel, kept.units, kept.members or place.members
    if kept == NOTHING:
        return place.part in shape.blocks
    if place.fine:
        return units % num == 0 and (units % shape.round_to == 0 or units == place.num_units) and units >= 32
    by_members = kept.members is None or shape.by_members
    return by_members and units * members % num == 0 and (units % num == 0 or num % units == 0)


def with_block(places: Sequence[Place]) -> list[Place]:
    return [replace(place, block_params=10, cache_values=16 if not place.fine else 0) for place in places]


def curve_plan(name: str) -> Callable[..., Mapping[Key, Kept]]:
    def found(places: Sequence[Place], goal: Goal, shape: Shape, losses: LossCurves) -> Mapping[Key, Kept]:
        return along(places, goal, curves(name, parts_of(places), 5), shape.without_blocks(), 5)

    return found


def ranked(places: Sequence[Place], goal: Goal, shape: Shape, losses: LossCurves) -> Mapping[Key, Kept]:
    scores = {part: {i: [i + j / 7 for j in range(12)] for i in range(5)} for part in parts_of(places)}
    return along(places, goal, ranked_curves(scores, 5), shape.without_blocks(), 5)


def searched(places: Sequence[Place], goal: Goal, shape: Shape, losses: LossCurves) -> Mapping[Key, Kept]:
    return search(losses, goal, shape)[0]


def planned(path: str) -> Callable[..., Mapping[Key, Kept]]:
    return {"ranked": ranked, "searched": searched}.get(path) or curve_plan(path)


def losses_of(places: Sequence[Place]) -> LossCurves:
    found = quadratic_losses(places, num_params=2 * params(places), alike=30)
    return replace(found, curves=tuple(map(by_members, found.curves)))


def by_members(curve: LossCurve) -> LossCurve:
    """The more members of every unit are gone, the more it costs."""
    rows = (tuple(value * (1 + lost) for value in curve.loss[0]) for lost in range(curve.place.members))
    return replace(curve, loss=tuple(rows))


def params(places: Sequence[Place]) -> int:
    return sum(place.params(place.whole) for place in places)


@pytest.mark.parametrize(
    ("model", "shape", "path"), [(*case, path) for case in CASES for path in PATHS if goes_together(case[1], path)]
)
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5])
def test_every_path_keeps_to_the_shape(model: str, shape: str, path: str, ratio: float) -> None:
    places, wanted = with_block(MODELS[model]), SHAPES[shape]
    kept = planned(path)(places, Goal("", round(ratio * params(places))), wanted, losses_of(places))
    assert breaches(places, kept, wanted) == []
    if wanted.alike:
        assert all(len({kept[place.key] for place in places if place.part == part}) == 1 for part in parts_of(places))


@pytest.mark.parametrize(
    ("model", "shape", "path", "target"),
    [(*case, *limit) for case in CASES for limit in LIMITS if goes_together(case[1], *limit)],
)
def test_limits_are_met_within_the_shape(model: str, shape: str, path: str, target: str) -> None:
    places, wanted = with_block(MODELS[model]), SHAPES[shape]
    measure = measure_of(places, target)
    goal = Goal("", measure.of_model(whole(places)) // 4, at_least=True, measure=measure)
    kept = planned(path)(places, goal, wanted, losses_of(places))
    assert breaches(places, kept, wanted) == []
    assert goal.removed(places, kept) >= goal.removes


def measure_of(places: Sequence[Place], target: str) -> Any:
    if target == "memory":
        return Memory(2 * params(places), tuple(places), 2, context=100, batch=2)
    widest = {place.part: place.num_units for place in places}
    return ModelTimes(100, {part: PartTimes((1, units), (0, 1000)) for part, units in widest.items()})


@each
def test_menus_are_all_that_is_allowed(model: str, shape: str) -> None:
    """Held against every choice there is."""
    wanted = SHAPES[shape]
    for place in with_block(MODELS[model]):
        every = {*place.choices(), NOTHING}
        assert set(wanted.menu(place)) == {kept for kept in every if allowed(place, kept, wanted)}


@each
def test_the_ends_of_menus(model: str, shape: str) -> None:
    places, wanted = with_block(MODELS[model]), SHAPES[shape]
    removed = [removed_params(places, plan) for plan in (largest(places, wanted), least(places, wanted))]
    for place in places:
        given = [place.removed(kept) for kept in wanted.menu(place) if kept.members is None]
        assert given == sorted(given)
    assert 0 <= removed[0] < removed[1]


def test_what_cannot_be_split_is_refused() -> None:
    place = replace(MODELS["odd groups"][0], unit="KV group")
    with pytest.raises(ConfigError) as refused:
        Shape(tensor_parallel=4).menu(place)
    assert str(refused.value) == (
        "--tensor-parallel 4: layer 0 has 3 KV groups of 3 query heads, and no part of them can be split over 4 "
        "devices. Give a divisor of the heads, or let query heads go by themselves (--attention-units queries)."
    )
    assert Shape(by_members=True, tensor_parallel=4).menu(place)[0] == Kept(2, 2)


def test_less_than_one_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="--tensor-parallel 0 must be 1 or more"):
        PruneConfig("m", "o", tensor_parallel=0).check()


@pytest.mark.parametrize("allocation", ["log", "searched"])
def test_a_pruned_model_can_be_split(allocation: str, tmp_path: Any) -> None:
    """The layers of the tiny Qwen2 have 4 KV heads, with 2 query heads each."""
    from transformers import AutoConfig

    model, out = tiny.save_model(tmp_path / "model", "qwen2"), tmp_path / "out"
    small = ["--calibration", "builtin", "--samples", "4", "--seqlen", "32", "--device", "cpu", "--round-to", "1"]
    asked = ["--tensor-parallel", "4", "--ratio", "0.3", "--allocation", allocation]
    assert cli.main(["prune", str(model), str(out), *small, *asked]) == 0
    for layer in AutoConfig.from_pretrained(out).per_layer_config:
        assert layer.num_attention_heads % 4 == 0
        assert layer.num_key_value_heads in (1, 2, 4)
        assert layer.intermediate_size % 4 == 0
