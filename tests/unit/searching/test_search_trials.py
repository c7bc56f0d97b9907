"""Trials of allocations: a local search that only gets better, and a judge that measures what a user would."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
import records
import tiny
import tiny_llama
import torch
from tables import channels, heads, layers, plan, stacked
from transformers import AutoModelForCausalLM

from slimgpt import cli
from slimgpt.allocation.places import Allocation, Key, Place
from slimgpt.errors import ConfigError
from slimgpt.machine.seals import seal, unseal
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.embeddings_and_head import head
from slimgpt.pruning.driver import prune
from slimgpt.pruning.observer import PruneResult
from slimgpt.searching.cache import identity
from slimgpt.searching.exchange import Known, exchange
from slimgpt.searching.levels import Levels
from slimgpt.searching.programme import Offer, solve
from slimgpt.searching.tilt import kinds, tilt
from slimgpt.searching.trial import KEPT_TOKENS, Trial
from slimgpt.searching.windows import search_windows, tried_windows
from slimgpt.sites import Kept

CPU = torch.device("cpu")
DENSE = (3, 96)


# --- exchanges -------------------------------------------------------------------------------------


class Interacting:
    """Sites that hurt each other: the sum of the offers' losses, and more where neighbours both give much."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.offers = offers
        self.asked: list[list[int]] = []

    def measure(self, levels: Sequence[int]) -> float:
        self.asked.append(list(levels))
        losses = [offer.loss[level] for offer, level in zip(self.offers, levels, strict=True)]
        return sum(losses) + 3 * sum(left * right for left, right in itertools.pairwise(losses))

    def adopt(self) -> None:
        pass


def some_offers(seed: int, num_sites: int = 4, num_levels: int = 7) -> list[Offer]:
    rng = random.Random(seed)
    offers = []
    for _ in range(num_sites):
        scale = rng.uniform(0.5, 2)
        loss = tuple(scale * (level / num_levels) ** 2 for level in range(num_levels))
        offers.append(Offer(loss, tuple(10 * level for level in range(num_levels)), fine=True))
    return offers


@pytest.mark.parametrize("seed", range(8))
def test_exchanges_find_what_all_allocations_hold(seed: int) -> None:
    offers, target = some_offers(seed), 120
    start = solve(offers, target)
    judge = Interacting(offers)
    before = judge.measure(start)
    levels, after = exchange(offers, Known(start, before), target, False, judge, 300, seed)
    everything = itertools.product(*(range(len(offer.saved)) for offer in offers))
    best = min(judge.measure(found) for found in everything if given(offers, found) == target)
    assert judge.measure(levels) == after <= before
    assert after == pytest.approx(best)


def test_there_is_something_to_find() -> None:
    """The programme's sum of single sites is not the best there is."""
    gains = []
    for seed in range(8):
        offers = some_offers(seed)
        start, judge = solve(offers, 120), Interacting(offers)
        before = judge.measure(start)
        gains.append(before - exchange(offers, Known(start, before), 120, False, judge, 300, seed).loss)
    assert all(gain >= 0 for gain in gains)
    assert any(gain > 0.01 for gain in gains)


def given(offers: Sequence[Offer], levels: Sequence[int]) -> int:
    return sum(offer.saved[level] for offer, level in zip(offers, levels, strict=True))


@pytest.mark.parametrize("at_least", [False, True])
def test_every_candidate_comes_to_the_target(at_least: bool) -> None:
    coarse = Offer((0.0, 0.2, 0.5), (0, 23, 46), fine=False)
    offers, target = [*some_offers(0), coarse, coarse], 155
    start = solve(offers, target, at_least)
    judge = Interacting(offers)
    exchange(offers, Known(start, math.inf), target, at_least, judge, 200, 0)
    missing = [target - given(offers, levels) for levels in judge.asked]
    assert all(-(10 if at_least else 5) <= found <= (0 if at_least else 5) for found in missing)
    changed = [sum(a != b for a, b in zip(start, levels, strict=True)) for levels in judge.asked]
    assert max(changed) > 0
    assert any(levels[-1] != start[-1] for levels in judge.asked), "coarse sites take part"


def test_the_same_seed_asks_the_same() -> None:
    offers = some_offers(3)
    asked = []
    for seed in (5, 5, 6):
        judge = Interacting(offers)
        exchange(offers, Known(solve(offers, 120), math.inf), 120, False, judge, 20, seed)
        asked.append(judge.asked)
    assert asked[0] == asked[1]
    assert asked[0] != asked[2]


def test_where_nothing_can_be_exchanged_nothing_is_asked() -> None:
    offers = some_offers(0)
    judge = Interacting(offers)
    everything = [len(offer.saved) - 1 for offer in offers]
    levels, loss = exchange(offers, Known(everything, 1.5), given(offers, everything), False, judge, 10, 0)
    assert (levels, loss, judge.asked) == (everything, 1.5, [])


# --- tilts -----------------------------------------------------------------------------------------


class Tilted(Interacting):
    """Sites of the first kind are worth so many times what their curves say."""

    def __init__(self, offers: Sequence[Offer], of_kind: Sequence[float], factor: float) -> None:
        super().__init__(offers)
        self.factors = [factor**share for share in of_kind]
        self.adopted: list[int] = []

    def measure(self, levels: Sequence[int]) -> float:
        self.asked.append(list(levels))
        triples = zip(self.offers, self.factors, levels, strict=True)
        return sum(factor * offer.loss[level] for offer, factor, level in triples)

    def adopt(self) -> None:
        self.adopted = self.asked[-1]


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("seed", range(4))
def test_tilts_find_that_a_kind_is_worth_more_or_less(seed: int, factor: float) -> None:
    offers, of_kind = some_offers(seed, num_sites=6, num_levels=30), [1.0, 0.0] * 3
    judge = Tilted(offers, of_kind, factor)
    start = solve(offers, 700)
    true_offers = [replace(o, loss=tuple(f * x for x in o.loss)) for o, f in zip(offers, judge.factors, strict=True)]
    best = judge.measure(solve(true_offers, 700))
    before = judge.measure(start)
    assert best < before
    judge.asked.clear()
    known, tried = tilt(offers, [of_kind, [0.0, 1.0] * 3], Known(start, before), 700, False, judge, 100)
    assert before - known.loss > 0.95 * (before - best)
    assert known.levels == judge.adopted
    assert known.loss == judge.measure(known.levels)
    asked = [tuple(levels) for levels in judge.asked[:-1]]
    assert len(asked) == tried == len(set(asked)), "nothing is tried twice"
    assert all(given(offers, levels) == 700 for levels in asked)


def test_where_the_curves_are_right_nothing_is_adopted() -> None:
    offers = some_offers(0, num_sites=6, num_levels=30)
    judge, start = Tilted(offers, [0.0] * 6, 1.0), solve(offers, 700)
    known, tried = tilt(offers, [[1.0, 0.0] * 3], Known(start, judge.measure(start)), 700, False, judge, 100)
    assert known.levels == start
    assert tried >= 2


@pytest.mark.parametrize("num_candidates", [0, 1, 3])
def test_tilts_end_with_their_candidates(num_candidates: int) -> None:
    offers, of_kind = some_offers(0, num_sites=6, num_levels=30), [1.0, 0.0] * 3
    judge, start = Tilted(offers, of_kind, 8.0), solve(offers, 700)
    _, tried = tilt(offers, [of_kind], Known(start, math.inf), 700, False, judge, num_candidates)
    assert len(judge.asked) == tried == num_candidates


def test_kinds_are_attention_and_the_two_ends() -> None:
    attention, first, last = kinds(layers(16, heads(3, 1), channels(96, 1)), 16)
    assert attention == [1.0, 0.0] * 16
    assert first[0] == first[1] == last[-1] == last[-2] == 1.0
    assert first == sorted(first, reverse=True) == last[::-1]
    assert first[2 * 8] < 0.02


def test_kinds_of_places_that_are_not_in_every_layer() -> None:
    """What lies beside the layers is near to neither end."""
    mixed = stacked((heads(3, 1), channels(96, 1)), (channels(96, 1),), (heads(3, 1),))
    attention, ffn, first, last = kinds([*mixed, Place(None, "vocabulary", 9, 1)], 3)
    assert attention == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert ffn == [0.0, 1.0, 1.0, 0.0, 0.0]
    assert first[0] == first[1] == last[3] == 1.0
    assert (first[4], last[4]) == (0.0, 0.0)


# --- trials ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("trials") / "model")


@pytest.fixture(scope="module")
def checkpoint(model: Path) -> Checkpoint:
    return open_checkpoint(str(model))


@pytest.fixture(scope="module")
def searched(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search folder with all that trials take."""
    folder = tmp_path_factory.mktemp("searched")
    options = {"allocation": "searched", "search_cache": str(folder / "cache"), "search_candidates": 1}
    prune(tiny_llama.prune_config(model, folder / "out", **options))
    return folder / "cache"


def divergences(checkpoint: Checkpoint, searched: Path, *plans: Allocation) -> list[float]:
    """Each judged after the one before was adopted."""
    windows_BT = tiny_llama.tokens(5, 16, seed=3)
    with head(checkpoint, CPU, torch.float32) as logits:
        trial = Trial(checkpoint, Levels(searched, 0.01), windows_BT, CPU, torch.float32, 2, logits)
        found = []
        for kept in plans:
            found.append(trial.divergence(kept))
            trial.adopt()
        return found


def test_the_dense_model_does_not_diverge(checkpoint: Checkpoint, searched: Path) -> None:
    (found,) = divergences(checkpoint, searched, plan(DENSE, DENSE, DENSE))
    assert found == pytest.approx(0, abs=1e-6)  # its predictions are kept in float16


def test_a_trial_measures_what_the_whole_model_does(model: Path, checkpoint: Checkpoint, searched: Path) -> None:
    """Beside the dense model with zeros in place of what goes, run by transformers as a whole."""
    cut = plan((2, 60), DENSE, (1, 96))
    levels = Levels(searched, 0.01)
    dense, zeroed = (AutoModelForCausalLM.from_pretrained(model) for _ in range(2))
    for index, layer in enumerate(zeroed.model.layers):
        consumers = (layer.self_attn.o_proj, layer.mlp.down_proj)
        for site, consumer in zip(checkpoint.sites(index), consumers, strict=True):
            kept = cut[Key(index, site.name)]
            if kept.units < site.num_units:
                removal = levels.removal(index, site, kept, consumer.weight.detach())
                columns = site.kept_columns(removal.kept_N)
                assert int(removal.kept_N.view(site.num_units, -1).any(1).sum()) == kept.units
                weight = torch.zeros_like(consumer.weight)
                weight[:, columns] = removal.weight_OI
                consumer.weight.data = weight
    with torch.no_grad():
        theirs_PV, ours_PV = (net(tiny_llama.tokens(5, 16, seed=3)).logits.flatten(0, 1) for net in (dense, zeroed))
    likeliest = theirs_PV.topk(KEPT_TOKENS).indices.tolist()
    found = [oracle.coarse_kl(*of_P, 1.0) for of_P in zip(theirs_PV, ours_PV, likeliest, strict=True)]
    expected = sum(found) / len(found)
    assert expected > 0.01
    assert divergences(checkpoint, searched, cut) == [pytest.approx(expected, rel=2e-3)]  # kept in float16


def test_what_was_adopted_is_not_run_again_and_changes_nothing(checkpoint: Checkpoint, searched: Path) -> None:
    plans = [
        plan(DENSE, DENSE, DENSE),
        plan(DENSE, (2, 50), DENSE),
        plan(DENSE, (2, 50), (2, 50)),
        plan((1, 96), (2, 50), DENSE),
        plan((1, 96), (2, 50), DENSE),
    ]
    alone = [divergences(checkpoint, searched, kept)[0] for kept in plans]
    assert divergences(checkpoint, searched, *plans) == alone
    assert len(set(alone)) == 4


# --- the command -----------------------------------------------------------------------------------


def tried_run(model: Path, out: Path, **options: Any) -> PruneResult:
    settings = {"allocation": "searched", "search_candidates": 12, "ratio": 0.4, **options}
    return prune(tiny_llama.prune_config(model, out, **settings))


def test_trials_come_nearer_to_the_dense_model_and_to_the_same_bytes(model: Path, tmp_path: Path) -> None:
    first, again = (tried_run(model, tmp_path / name, search_cache=str(tmp_path / "cache")) for name in ("a", "b"))
    alone = tried_run(model, tmp_path / "c")
    weights = [(result.path / tiny_llama.WEIGHTS).read_bytes() for result in (first, again, alone)]
    assert weights[0] == weights[1] == weights[2]
    found = first.record["search"]
    assert found["candidates"] == 12
    assert 0 < found["divergence"]["after"] < found["divergence"]["before"]
    assert first.record["parameters"]["removed_ratio"] == pytest.approx(0.4, abs=0.01)
    untried = prune(tiny_llama.prune_config(model, tmp_path / "d", allocation="searched", ratio=0.4))
    assert "search" not in untried.record
    assert untried.record["sizes"] != first.record["sizes"]


def test_what_was_found_is_not_sought_again(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tried_run(model, tmp_path / "a", search_cache=str(cache))
    (found,) = cache.glob("tried-*.json")
    planted = [[list(key), list(kept)] for key, kept in plan(*[(2, 60)] * 3).items()]
    seal(found, {**(unseal(found, identity(cache)) or {}), "kept": planted}, identity(cache))
    again = tried_run(model, tmp_path / "b", search_cache=str(cache))
    assert records.widths(again.record) == [60] * 3
    tried_run(model, tmp_path / "c", search_cache=str(cache), ratio=0.3)
    assert len(list(cache.glob("tried-*.json"))) == 2


def test_a_target_is_a_limit_for_candidates_too(model: Path, tmp_path: Path) -> None:
    dense = open_checkpoint(str(model)).num_params
    target = round(0.7 * dense)
    result = tried_run(model, tmp_path / "out", ratio=None, target_params=str(target))
    assert 0.98 * target < result.record["parameters"]["after"] <= target


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "neox", "qwen3", "mixtral"])
def test_every_kind_of_family_can_be_tried(name: str, tmp_path: Path) -> None:
    known = next(found for found in tiny.MODELS if found.startswith(name) or name in found)
    source = tiny.save_model(tmp_path / "model", known)
    out = tried_run(source, tmp_path / "out", ratio=0.2, search_candidates=4, round_to=8)
    divergence = out.record["search"]["divergence"]
    assert 0 < divergence["after"] <= divergence["before"]
    AutoModelForCausalLM.from_pretrained(out.path, trust_remote_code=True)


def test_query_heads_take_part(model: Path, tmp_path: Path) -> None:
    out = tried_run(model, tmp_path / "out", attention_units="queries", ratio=0.3, search_candidates=20)
    assert out.record["search"]["divergence"]["after"] < out.record["search"]["divergence"]["before"]


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search_candidates": -1}, "--search-candidates -1"),
        ({"allocation": "log"}, "--search-candidates goes with --allocation searched: add that, or drop it"),
        ({"samples": 1}, "needs calibration windows that the search does not read: raise --samples to 2 or more"),
    ],
)
def test_what_cannot_be_tried_is_refused(model: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tried_run(model, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_search_that_kept_no_moments_is_refused(model: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    prune(tiny_llama.prune_config(model, tmp_path / "a", allocation="searched", search_cache=cache))
    with pytest.raises(ConfigError, match="holds a search without --search-candidates, which cannot be tried out"):
        tried_run(model, tmp_path / "b", search_cache=cache)


def test_several_processes_are_refused() -> None:
    windows_BT = tiny_llama.tokens(8, 32)
    with pytest.raises(ConfigError, match="--search-candidates 3 runs in one process, and here are 2"):
        tried_windows(3, windows_BT, 2)


def test_candidates_are_judged_on_text_that_the_search_has_not_read() -> None:
    windows_BT = torch.arange(5)[:, None].expand(-1, 32)
    assert search_windows(windows_BT, 1)[:, 0].tolist() == [0, 1, 2]
    assert tried_windows(3, windows_BT, 1)[:, 0].tolist() == [3, 4]
    assert len(search_windows(torch.zeros(200, 2048), 1)) == 32, "65,536 tokens are enough"


def test_a_level_is_solved_once(checkpoint: Checkpoint, searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = Levels(searched, 0.01)
    site = checkpoint.sites(0)[1]
    weight = checkpoint.layer_state(0)[f"{site.consumer}.weight"]
    first = levels.removal(0, site, Kept(40), weight)
    assert first.weight_OI.shape == (48, 40)
    monkeypatch.delattr("slimgpt.searching.levels.removal_order")
    again = levels.removal(0, site, Kept(40), weight)
    assert torch.equal(first.weight_OI, again.weight_OI)
    assert torch.equal(first.kept_N, again.kept_N)


def test_a_search_that_keeps_moments_answers_other_ratios(searched: Path) -> None:
    assert cli.main(["search", str(searched), "--ratio", "0.3"]) == 0
