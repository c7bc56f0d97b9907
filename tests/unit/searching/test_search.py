"""The search: true gradients, curves that mean what they say, a budget solved exactly, a cache that is kept."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import records
import tiny_llama
import torch
import yaml
from tables import channels, heads, layers, quadratic_losses, stacked, units
from torch import Tensor
from transformers import AutoModelForCausalLM

from slimgpt import cli
from slimgpt.allocation.goal import Goal
from slimgpt.allocation.places import Place
from slimgpt.allocation.shape import Shape
from slimgpt.config import SearchConfig
from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.pruning.driver import prune
from slimgpt.searching import allocate, removed_params, search, to_yaml
from slimgpt.searching.cache import CURVES, LossCurve, LossCurves, read_curves, write_curves
from slimgpt.searching.curves import loss_table, metric_OO
from slimgpt.searching.drawn import chance, draw
from slimgpt.searching.programme import Offer, solve
from slimgpt.searching.sweep import Moments, Sweep
from slimgpt.sites import Kept, Site, SolverOptions
from slimgpt.solvers.linalg import damped
from slimgpt.solvers.members import solve_site
from slimgpt.solvers.obs import obs
from slimgpt.streaming.activations import ActivationRoom

CPU = torch.device("cpu")
NUM_WINDOWS, SEQLEN = 6, 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("search") / "model")


@pytest.fixture(scope="module")
def checkpoint(model: Path) -> Checkpoint:
    return open_checkpoint(str(model))


def sweep(checkpoint: Checkpoint, batch_size: int, seed: int = 0) -> dict[int, dict[str, Moments]]:
    windows_BT = tiny_llama.tokens(NUM_WINDOWS, SEQLEN)
    room, seeds_B = ActivationRoom(torch.float32), 100 * seed + torch.arange(NUM_WINDOWS)
    return dict(Sweep(checkpoint, windows_BT, CPU, torch.float32, batch_size, room, seeds_B).layers())


@pytest.fixture(scope="module")
def swept(checkpoint: Checkpoint) -> dict[int, dict[str, Moments]]:
    return sweep(checkpoint, batch_size=4)


# --- the sweep -------------------------------------------------------------------------------------


def plain_moments(model: Path, seed: int) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """The whole model at once, autograd as everybody uses it."""
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    windows_BT = tiny_llama.tokens(NUM_WINDOWS, SEQLEN)
    kept: dict[tuple[int, str], list[tuple[Tensor, Tensor]]] = {}

    def keep(key: tuple[int, str]) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            kept.setdefault(key, []).append((args[0], output))

        return hook

    for index, layer in enumerate(whole.model.layers):
        layer.self_attn.o_proj.register_forward_hook(keep((index, "attention")))
        layer.mlp.down_proj.register_forward_hook(keep((index, "ffn")))
    for index, window_T in enumerate(windows_BT):
        logits_TV = whole(input_ids=window_T[None]).logits[0]
        drawn_T = draw(logits_TV.detach().softmax(-1), chance(len(logits_TV), 100 * seed + index))
        torch.nn.functional.cross_entropy(logits_TV, drawn_T, reduction="sum").backward()
    result = {}
    for key, seen in kept.items():
        x_TI = torch.cat([x[0] for x, _ in seen]).detach()
        gradient_TO = torch.cat([output.grad[0] for _, output in seen])  # type: ignore[index]
        result[key] = (x_TI.T @ x_TI, gradient_TO.T @ gradient_TO)
    return result


def test_layer_by_layer_gives_the_moments_of_the_whole_model(model: Path, swept: dict[int, dict[str, Moments]]) -> None:
    for (index, name), (hessian_II, gradients_OO) in plain_moments(model, seed=0).items():
        moments = swept[index][name]
        torch.testing.assert_close(moments.inputs.hessian_II(), hessian_II, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(moments.gradients.hessian_II(), gradients_OO, rtol=1e-3, atol=1e-6)


def test_tokens_are_drawn_as_often_as_the_logits_say() -> None:
    logits_V = torch.tensor([0.0, 2.0, -torch.inf, 1.0, -1.0])
    drawn = draw(logits_V.softmax(-1).expand(40_000, -1), chance(40_000, seed=3)).bincount(minlength=5) / 40_000
    torch.testing.assert_close(drawn, logits_V.softmax(-1), rtol=0, atol=0.01)
    assert drawn[2] == 0


def test_draws_depend_on_the_seed_alone() -> None:
    probability_TV = torch.randn(300, 50, generator=torch.Generator().manual_seed(0)).softmax(-1)
    first = draw(probability_TV, chance(300, seed=1))
    torch.manual_seed(7)
    assert torch.equal(draw(probability_TV, chance(300, seed=1)), first)
    assert not torch.equal(draw(probability_TV, chance(300, seed=2)), first)


def test_batch_size_changes_nothing_beyond_rounding(
    checkpoint: Checkpoint, swept: dict[int, dict[str, Moments]]
) -> None:
    for index, moments in sweep(checkpoint, batch_size=1).items():
        for name, found in moments.items():
            expected = swept[index][name].gradients.hessian_II()
            torch.testing.assert_close(found.gradients.hessian_II(), expected, rtol=1e-3, atol=1e-6)


def test_the_skeleton_is_empty_again(checkpoint: Checkpoint, swept: object) -> None:
    assert all(parameter.is_meta for parameter in checkpoint.skeleton.parameters())


def test_another_seed_draws_other_tokens(checkpoint: Checkpoint, swept: dict[int, dict[str, Moments]]) -> None:
    other = sweep(checkpoint, batch_size=4, seed=1)
    assert not torch.equal(other[0]["ffn"].gradients.hessian_II(), swept[0]["ffn"].gradients.hessian_II())


# --- the curves ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "width"), [("attention", 16), ("ffn", 1)])
def test_a_curve_is_the_weighed_loss_of_the_best_repair(
    swept: dict[int, dict[str, Moments]], name: str, width: int
) -> None:
    """The first removal, by trying all units with normal equations; the last, by having nothing left."""
    moments, damping = swept[1][name], 0.01
    have = heads(moments.weight_OI.shape[1] // width, 1)
    (curve,) = loss_table([moments], have, NUM_WINDOWS * SEQLEN, damping)
    damped_II = damped(moments.inputs.hessian_II(), damping)
    weight_OI, metric = moments.weight_OI.double(), metric_OO(moments).double()

    def nats(kept: list[int]) -> float:
        lost_OI = weight_OI.clone()
        if kept:
            best = torch.linalg.solve(damped_II[kept][:, kept], damped_II[kept] @ weight_OI.T).T
            lost_OI[:, kept] -= best
        return float((metric @ lost_OI @ damped_II * lost_OI).sum()) / (2 * NUM_WINDOWS * SEQLEN)

    columns = range(weight_OI.shape[1])
    units = [set(range(start, start + width)) for start in range(0, len(columns), width)]
    cheapest = min(nats([c for c in columns if c not in unit]) for unit in units)
    assert curve[0] == 0.0
    assert curve[1] == pytest.approx(cheapest, rel=1e-6)
    assert curve[-1] == pytest.approx(nats([]), rel=1e-6)
    assert all(before <= after for before, after in itertools.pairwise(curve))


def test_experts_of_a_layer_add_up(swept: dict[int, dict[str, Moments]]) -> None:
    one = swept[0]["ffn"]
    have = channels(one.weight_OI.shape[1], 1)
    single, double = (loss_table([one] * n, have, 100, 0.01)[0] for n in (1, 2))
    assert double == pytest.approx([2 * loss for loss in single])


# --- the budget ------------------------------------------------------------------------------------


def random_offers(seed: int) -> list[Offer]:
    generator = torch.Generator().manual_seed(seed)
    offers = []
    for fine in (False, True, False, True):
        removed = (0, 1, 2) if not fine else (0, 2, 4, 6, 8)
        steps = torch.rand(len(removed) - 1, generator=generator).cumsum(0).tolist()
        saved = tuple(count * (1 if fine else 7) for count in removed)
        offers.append(Offer((0.0, *steps), saved, fine))
    return offers


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("target", [0, 6, 14, 20, 31, 44])
def test_no_other_choice_of_the_same_size_costs_less(seed: int, target: int) -> None:
    offers = random_offers(seed)

    def size(levels: tuple[int, ...]) -> int:
        return sum(offer.saved[level] for offer, level in zip(offers, levels, strict=True))

    def loss(levels: tuple[int, ...]) -> float:
        return sum(offer.loss[level] for offer, level in zip(offers, levels, strict=True))

    found = tuple(solve(offers, target))
    everything = list(itertools.product(*(range(len(offer.saved)) for offer in offers)))
    assert abs(size(found) - target) == min(abs(size(levels) - target) for levels in everything)
    assert loss(found) == pytest.approx(min(loss(levels) for levels in everything if size(levels) == size(found)))


def losses(num_layers: int) -> LossCurves:
    return quadratic_losses(layers(num_layers, heads(4, 5000), channels(200, 300)), num_params=10**6, alike=50)


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.3])
def test_the_size_is_met_and_cheap_layers_give_more(ratio: float) -> None:
    curves = losses(6)
    kept, loss = allocate(curves, Goal("--ratio", round(ratio * curves.num_params)), Shape(round_to=8))
    attention, ffn = units(kept, "attention"), units(kept, "ffn")
    removed = sum((4 - left) * 5000 for left in attention) + sum((200 - left) * 300 for left in ffn)
    assert removed == pytest.approx(ratio * curves.num_params, abs=8 * 300)
    assert all(left % 8 == 0 and 32 <= left <= 200 for left in ffn) and min(attention) >= 1
    assert (attention[0], ffn[0]) < (attention[-1], ffn[-1])
    assert loss > 0


def test_layers_that_lack_a_part_and_what_lies_beside_them_take_part() -> None:
    attention, ffn, beside = heads(4, 5000), channels(200, 300), Place(None, "vocabulary", 50, 1000)
    places = [*stacked((attention, ffn), (ffn,), (attention,)), beside]
    curves = quadratic_losses(places, num_params=10**6, alike=50)
    kept, _ = allocate(curves, Goal("--ratio 0.12", 120_000), Shape(round_to=1))
    assert list(kept) == [place.key for place in places]
    assert all(1 <= kept[place.key].units < place.num_units for place in places)
    assert removed_params(curves, kept) == pytest.approx(120_000, abs=150)
    ratios = yaml.safe_load(to_yaml(curves, kept))
    assert ratios.keys() == {"attention", "ffn"}
    assert [ratio > 0 for ratio in ratios["attention"]] == [True, False, True]
    assert [ratio > 0 for ratio in ratios["ffn"]] == [True, True, False]


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"900,000 parameters to remove, but at most .* can go.*Lower --ratio"):
        allocate(losses(2), Goal("--ratio 0.9", 900_000), Shape(round_to=8))


def test_a_table_says_what_solving_the_site_would_lose(swept: dict[int, dict[str, Moments]]) -> None:
    """Every entry is the weighed loss of the solver's own choice, repaired."""
    moments, damping = swept[1]["attention"], 0.01
    metric, hessian_II = metric_OO(moments), moments.inputs.hessian_II()
    table = loss_table([moments], heads(3, 1, 2, 1), NUM_WINDOWS * SEQLEN, damping)
    alone = loss_table([moments], heads(3, 1, 2, 1), NUM_WINDOWS * SEQLEN, damping, by_members=False)
    assert alone == table[:1]
    site = Site("attention", None, "o_proj", (), 3, 16, members=2)
    damped_II = damped(hessian_II, damping)
    for kept in itertools.starmap(Kept, itertools.product((1, 2, 3), (1, 2))):
        options = SolverOptions(damping, metric_OO=metric)
        removal = solve_site(obs, moments.weight_OI.double(), hessian_II, site, kept, options)
        lost_OI = moments.weight_OI.double()
        lost_OI[:, site.kept_columns(removal.kept_N)] -= removal.weight_OI
        nats = float((metric.double() @ lost_OI @ damped_II * lost_OI).sum()) / (2 * NUM_WINDOWS * SEQLEN)
        assert table[2 - kept.members][3 - kept.units] == pytest.approx(nats, rel=1e-6, abs=1e-15)


def shared_curves(cheap_queries: bool) -> LossCurves:
    """Three KV groups of two query heads: one query head of each costs little or much."""
    cost = 0.2 if cheap_queries else 2.0
    losses = {
        "attention": ((0.0, 1.0, 2.5, 5.0), tuple(cost + gone for gone in range(4))),
        "ffn": (tuple((gone / 60) ** 2 for gone in range(201)),),
    }
    places = layers(4, heads(3, 40, 2, 10), channels(200, 1))
    return LossCurves("m", 10**4, 2, {}, tuple(LossCurve(place, losses[place.part]) for place in places))


def test_query_heads_go_where_that_is_cheaper_and_allowed() -> None:
    for cheap in (True, False):
        curves, goal = shared_curves(cheap), Goal("--ratio 0.02", 200)
        coarse, coarse_loss = allocate(curves, goal, Shape(round_to=1))
        fine, fine_loss = allocate(curves, goal, Shape(round_to=1, by_members=True))
        assert all(kept.members is None for kept in coarse.values())
        assert any(kept.members == 1 for kept in fine.values()) == cheap
        assert fine_loss < coarse_loss if cheap else fine == coarse
        assert removed_params(curves, fine) == removed_params(curves, coarse) == 200
        assert len(yaml.safe_load(to_yaml(curves, fine))["attention"]) == 4


# --- the commands ----------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_a_search_is_reused_and_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = {"allocation": "searched", "search_cache": str(cache)}
    first = prune(tiny_llama.prune_config(model, tmp_path / "first", **options))
    again = prune(tiny_llama.prune_config(model, tmp_path / "again", **options))
    alone = prune(tiny_llama.prune_config(model, tmp_path / "alone", allocation="searched"))
    weights = [(result.path / tiny_llama.WEIGHTS).read_bytes() for result in (first, again, alone)]
    assert weights[0] == weights[1] == weights[2]
    assert first.record["parameters"]["removed_ratio"] == pytest.approx(0.2, abs=0.01)
    assert not (tmp_path / "alone.partial").exists()


@pytest.mark.parametrize("by_queries", [False, True])
def test_another_ratio_needs_no_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], by_queries: bool
) -> None:
    cache, file = tmp_path / "cache", tmp_path / "allocation.yaml"
    prune(tiny_llama.prune_config(model, tmp_path / "out", allocation="searched", search_cache=str(cache)))
    attention_units = "queries" if by_queries else "groups"
    flags = ("--attention-units", attention_units)
    assert run("search", cache, "--ratio", 0.3, "--round-to", 1, "--out", file, *flags) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"parameters: (29\.9|30\.0)", printed)  # whole units of a tiny model
    assert ("3 x 2 →" in printed) == by_queries
    searched = search(SearchConfig(str(cache), ratio=0.3, round_to=1, attention_units=attention_units)).kept
    options = {"allocation": str(file), "ratio": 0.3, "attention_units": attention_units}
    record = prune(tiny_llama.prune_config(model, tmp_path / "by-file", **options)).record
    # A file has ratios: three groups of one query head are as large as two of two, keys and values of a group as one.
    attention = [layer["attention"] for layer in records.by_layer(record)]
    pieces = [len(site["kept_members"]) + len(site["kept"]) for site in attention]
    wanted = [kept for key, kept in searched.items() if key.part == "attention"]
    assert pieces == [kept.units * ((kept.members or 2) + 1) for kept in wanted]
    assert records.widths(record) == pytest.approx(units(searched, "ffn"), abs=1)
    assert set(yaml.safe_load(file.read_text())) == {"attention", "ffn"}


def test_curves_survive_their_file(tmp_path: Path) -> None:
    curves = shared_curves(cheap_queries=True)
    write_curves(tmp_path, curves, {})
    assert read_curves(tmp_path) == curves


def test_units_are_scored_by_what_the_loss_feels(model: Path, tmp_path: Path) -> None:
    """The same sizes by file, without the search's metric, keep other channels."""
    cache, file = tmp_path / "cache", tmp_path / "allocation.yaml"
    searched = prune(tiny_llama.prune_config(model, tmp_path / "a", allocation="searched", search_cache=str(cache)))
    run("search", cache, "--ratio", 0.2, "--round-to", 1, "--out", file)
    by_file = prune(tiny_llama.prune_config(model, tmp_path / "b", allocation=str(file)))
    ours, theirs = ([layer["ffn"]["kept"] for layer in records.by_layer(one.record)] for one in (searched, by_file))
    assert list(map(len, ours)) == pytest.approx(list(map(len, theirs)), abs=1)
    assert ours != theirs


def test_the_search_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prune(tiny_llama.prune_config(model, tmp_path / "out", allocation="searched", search_cache=str(cache)))
    other = tiny_llama.save_model(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match=r"--search-cache .* holds another search: model was .*Name another folder"):
        prune(tiny_llama.prune_config(other, tmp_path / "out2", allocation="searched", search_cache=str(cache)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, f"holds no search: it has no {CURVES}"),
        ("{", "is damaged"),
        ('{"schema": 1}', "was made by an older slimgpt (schema 1; this one writes 4): remove"),
        ('{"schema": 2}', "was made by an older slimgpt (schema 2; this one writes 4): remove"),
        ('{"schema": 4}', "curves.json has no hash, so an older slimgpt wrote it: remove"),
        ('{"schema": 4, "sha256": "0"}', "curves.json is damaged, or from another run: remove"),
        ('{"schema": 99}', "was made by a newer slimgpt"),
    ],
)
def test_a_folder_that_is_no_cache_is_refused(
    tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / CURVES).write_text(content)
    assert run("search", tmp_path) == 2
    assert message in capsys.readouterr().err


def test_a_cache_without_a_search_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--search-cache goes with --allocation searched"):
        prune(tiny_llama.prune_config(model, tmp_path / "out", allocation="log", search_cache=str(tmp_path / "cache")))


@pytest.mark.parametrize(
    ("options", "allocation"),
    [
        ({}, "searched"),
        ({"solver": "slimgpt"}, "log"),
        ({"solver": "wanda"}, "log"),
        ({"solver": "flap"}, "flap"),
        ({"layout": "uniform"}, "uniform"),
        ({"allocation": "linear"}, "linear"),
    ],
)
def test_the_record_says_how_it_was_allocated(
    model: Path, tmp_path: Path, options: dict[str, Any], allocation: str
) -> None:
    result = prune(tiny_llama.prune_config(model, tmp_path / "out", **options))
    record = json.loads((result.path / "slimgpt.json").read_text())
    assert record["options"]["allocation"] == allocation
    assert ("search" in record["cost"]["seconds"]) == (allocation in ("searched", "flap"))


def test_a_caller_without_gradients_can_search(model: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        prune(tiny_llama.prune_config(model, tmp_path / "a"))
    with torch.inference_mode():
        prune(tiny_llama.prune_config(model, tmp_path / "b"))
    one, other = ((tmp_path / name / tiny_llama.WEIGHTS).read_bytes() for name in "ab")
    assert one == other
