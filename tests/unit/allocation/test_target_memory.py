"""--target-memory: what a plan says of weights and cache is what the written files and a real cache take."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
import torch
from safetensors.torch import load_file
from tables import channels, heads, layers, quadratic_losses, units

from slimgpt import cli, load_model, prune
from slimgpt.allocation.goal import goal_of
from slimgpt.allocation.measures import Memory
from slimgpt.allocation.places import Key, whole
from slimgpt.allocation.plan import make_plan, places_of
from slimgpt.allocation.shape import Shape
from slimgpt.config import PruneConfig, SearchConfig
from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.searching import allocate
from slimgpt.sites import Kept

CONTEXT, BATCH = 40, 3  # longer than the windows of tiny.WINDOW tokens
ASKED = {"context": CONTEXT, "batch": BATCH}
WINDOWED = {"mistral": 3, "gemma2": 2, "llama": 0}
"""Families -> how many of the three layers have a sliding window."""


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("dense")
    return lambda name: folder / name if (folder / name).is_dir() else tiny.save_model(folder / name, name)


@torch.no_grad()
def cached(folder: Path) -> int:
    """Bytes of all tensors that transformers keeps of ``BATCH`` texts of ``CONTEXT`` tokens."""
    model: Any = load_model(str(folder), "cpu")[0]
    cache = model(tiny_llama.tokens(BATCH, CONTEXT), use_cache=True).past_key_values
    return sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))


def newest_token(name: str, folder: Path) -> int:
    """transformers drops the oldest token of a full window as soon as attention has read it: it holds one fewer."""
    model: Any = load_model(str(folder), "cpu")[0]
    cache = model(tiny_llama.tokens(BATCH, 1), use_cache=True).past_key_values
    full = [layer for layer in cache.layers if layer.is_sliding]
    assert len(full) == WINDOWED[name]
    return sum(tensor.nbytes for layer in full for tensor in (layer.keys, layer.values))


def stored(folder: Path) -> int:
    """Bytes of all tensors in the folder."""
    return sum(tensor.nbytes for file in folder.glob("*.safetensors") for tensor in load_file(file).values())


@pytest.mark.parametrize("name", WINDOWED)
def test_bytes_are_those_of_files_and_of_a_real_cache(dense: Any, name: str, tmp_path: Path) -> None:
    before = stored(dense(name)) + cached(dense(name)) + newest_token(name, dense(name))
    limit = int(0.8 * before)
    options = {"ratio": None, "allocation": "log", "solver": "magnitude", "target_memory": f"{limit}B", "round_to": 8}
    out = prune(tiny_llama.prune_config(dense(name), tmp_path / "out", **options, **ASKED))
    found = out.record["planned_memory"]
    assert found["weights_bytes"] == {"before": stored(dense(name)), "after": stored(out.path)}
    for when, folder in (("before", dense(name)), ("after", out.path)):
        assert found["cache_bytes"][when] == cached(folder) + newest_token(name, folder)
    taken = found["weights_bytes"]["after"] + found["cache_bytes"]["after"]
    assert 0.96 * limit <= taken <= limit
    assert f"| cache of {BATCH} x {CONTEXT} tokens, bytes | {found['cache_bytes']['before']:,} |" in card(out.path)


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_half_precision_takes_half(dense: Any) -> None:
    checkpoint = open_checkpoint(str(dense("llama")))
    whole_bytes = [memory_of(checkpoint, size).of_model(whole(places_of(checkpoint))) for size in (2, 4)]
    assert 2 * whole_bytes[0] == whole_bytes[1]


def memory_of(checkpoint: Checkpoint, bytes_per_value: int) -> Memory:
    return Memory(checkpoint.num_params, places_of(checkpoint), bytes_per_value, CONTEXT, BATCH)


def test_an_attention_that_is_gone_has_no_cache(dense: Any) -> None:
    checkpoint = open_checkpoint(str(dense("llama")))
    memory, kept = memory_of(checkpoint, 4), whole(places_of(checkpoint))
    gone = {**kept, Key(1, "attention"): Kept(0)}
    assert memory.cache(kept) - memory.cache(gone) == cached(dense("llama")) // 3
    saved = sum(memory.saved(place, gone[place.key]) for place in memory.places)
    assert memory.of_model(kept) - memory.of_model(gone) == saved


# --- plans --------------------------------------------------------------------------------------------


def planned(checkpoint: Checkpoint, limit: int, **options: Any) -> int:
    """Bytes of a plan within a limit."""
    asked = PruneConfig("m", "o", target_memory=f"{limit}B", **{**ASKED, **options})
    shape = Shape(asked.layout, 1, asked.by_queries, asked.whole_blocks)
    plan = make_plan(checkpoint, asked, asked.chosen_allocation, shape, 4)
    return memory_of(checkpoint, 4).of_model(plan.kept)


@pytest.mark.parametrize("share", [0.95, 0.75, 0.6])
@pytest.mark.parametrize("options", [{"allocation": "log"}, {"layout": "uniform"}, {"allocation": "linear-down"}])
def test_curves_meet_it_and_never_exceed_it(dense: Any, options: dict[str, Any], share: float) -> None:
    checkpoint = open_checkpoint(str(dense("llama")))
    limit = int(share * memory_of(checkpoint, 4).of_model(whole(places_of(checkpoint))))
    step = 4 * tiny.GATED_CHANNEL * (tiny.LAYERS if "layout" in options else 1)
    assert limit - step < planned(checkpoint, limit, **options) <= limit


LOSSES = quadratic_losses(
    [
        replace(place, cache_values=16) if not place.fine else place
        for place in layers(3, heads(4, 2304), channels(96, 144))
    ],
    num_params=10**5,
    alike=30,
)


def goal(share: float, context: int) -> Any:
    memory = Memory(LOSSES.num_params, tuple(LOSSES.places), LOSSES.bytes_per_param, context, BATCH)
    limit = int(share * memory.of_model(whole(LOSSES.places)))
    asked = SearchConfig("c", target_memory=f"{limit}B", context=context, batch=BATCH)
    return limit, memory, goal_of(asked, LOSSES.num_params, LOSSES.bytes_per_param, places=LOSSES.places)


@pytest.mark.parametrize("context", [1, 100, 10_000])
@pytest.mark.parametrize("share", [0.95, 0.75, 0.6])
def test_a_search_meets_it(share: float, context: int) -> None:
    limit, memory, wanted = goal(share, context)
    kept, _ = allocate(LOSSES, wanted, Shape(round_to=8))
    assert memory.of_model(kept) <= limit


def test_the_longer_the_text_the_more_attention_goes() -> None:
    left = [
        sum(units(allocate(LOSSES, goal(0.8, context)[2], Shape(round_to=1))[0], "attention"))
        for context in (1, 100, 1000)
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1]


def test_query_heads_take_no_cache_with_them(dense: Any, tmp_path: Path) -> None:
    """A query head gives weights, a KV group gives cache as well: menus are in order of what they give."""
    memory = memory_of(open_checkpoint(str(dense("llama"))), 4)
    limit = int(0.7 * memory.of_model(whole(memory.places)))
    options = {"ratio": None, "allocation": "searched", "attention_units": "queries", "target_memory": f"{limit}B"}
    found = prune(tiny_llama.prune_config(dense("llama"), tmp_path / "out", **options, **ASKED))
    assert 0.97 * limit <= stored(found.path) + cached(found.path) <= limit


# --- what is refused, and what is said ---------------------------------------------------------------


@pytest.mark.parametrize("layout", ["per-layer", "uniform"])
def test_what_cannot_be_says_what_can(dense: Any, layout: str) -> None:
    checkpoint = open_checkpoint(str(dense("llama")))
    with pytest.raises(
        ConfigError, match=r"--target-memory 1000B --context 40 --batch 3 cannot be attained"
    ) as refused:
        planned(checkpoint, 1000, layout=layout)
    found = re.search(r"they take ([\d,]+) bytes \([\d.]+ GB\)\. Raise the target", str(refused.value))
    assert found is not None
    least = int(found[1].replace(",", ""))
    assert planned(checkpoint, least, layout=layout) == least
    with pytest.raises(ConfigError, match="cannot be attained"):
        planned(checkpoint, least - 1, layout=layout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_memory": "6"}, "--target-memory '6' is no size: write it with a unit"),
        ({"target_memory": "6GB"}, "--target-memory 6GB counts the cache too.*such as --context 8192"),
        ({"target_memory": "6GB", "context": 0}, "--context 0 must be 1 or more"),
        ({"target_memory": "6GB", "context": 8, "batch": 0}, "--batch 0 must be 1 or more"),
        ({"context": 8}, "--context and --batch go with --target-memory"),
        ({"batch": 2}, "--context and --batch go with --target-memory"),
        ({"target_memory": "6GB", "target_size": "1GB"}, "--target-size and --target-memory both say how small"),
    ],
)
@pytest.mark.parametrize("config", [PruneConfig("m", "o"), SearchConfig("cache")])
def test_options_that_contradict(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config, **options).check()


@pytest.mark.parametrize(
    ("limit", "options", "message"),
    [
        (10**9, {}, r"asks for nothing: the model as it is has [\d,]+ bytes of weights and [\d,]+ of cache. Lower it"),
        (10**5, {"context": 65}, "--context 65 is beyond the model's context of 64 tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(dense: Any, limit: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(open_checkpoint(str(dense("llama"))), limit, **options)


def test_a_cache_that_is_not_known_is_not_guessed() -> None:
    places = [replace(place, cache_values=0) for place in LOSSES.places]
    asked = SearchConfig("c", target_memory="1kB", context=8)
    with pytest.raises(ConfigError, match=r"--target-memory counts the cache.*known of the tested families alone"):
        goal_of(asked, LOSSES.num_params, 2, places=places)


def test_prune_and_search_say_the_same(dense: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = memory_of(open_checkpoint(str(dense("mistral"))), 4)
    limit = [
        "--target-memory",
        f"{int(0.8 * memory.of_model(whole(memory.places)))}B",
        "--context",
        CONTEXT,
        "--batch",
        BATCH,
    ]
    small = ["--calibration", "builtin", "--samples", 8, "--seqlen", 32, "--device", "cpu"]
    cache = ["--search-cache", tmp_path / "cache"]
    said = [said_by(capsys, "prune", dense("mistral"), tmp_path / "out", *limit, *small, *cache)]
    said.append(said_by(capsys, "search", tmp_path / "cache", *limit))
    lines = [re.search(r"Memory: weights .*? MiB\.", text) for text in said]
    assert lines[0] is not None and lines[1] is not None
    assert lines[0][0] == lines[1][0]
    assert f"a cache of {BATCH} x {CONTEXT} tokens" in lines[0][0]


def said_by(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert cli.main([str(arg) for arg in args]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_windows(dense: Any) -> None:
    """The windows are those that the families' configurations say."""
    for name, windowed in WINDOWED.items():
        found = [place.window for place in places_of(open_checkpoint(str(dense(name)))) if place.part == "attention"]
        assert sorted(filter(None, found)) == [tiny.WINDOW] * windowed
