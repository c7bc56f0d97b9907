"""Blocks that vanish: attention, FFN or both of a layer are gone, and the model says, loads and generates so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
import torch
from without_blocks import prune_without

from slimgpt import load_model, prune
from slimgpt.allocation.places import Key
from slimgpt.config import PruneConfig
from slimgpt.errors import ConfigError
from slimgpt.model.inspection import inspect_model

GONE = {
    "first attention": [Key(0, "attention")],
    "an FFN": [Key(1, "ffn")],
    "a whole layer": [Key(2, "attention"), Key(2, "ffn")],
}
FAMILIES = ["llama", "gemma2", "gpt2", "gpt_neox", "qwen2"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("dense")
    return lambda name: folder / name if (folder / name).is_dir() else tiny.save_model(folder / name, name)


def without(model: Path, out: Path, keys: list[Key], **changes: Any) -> Path:
    options = {"allocation": "searched", "blocks": "attention,ffn", **changes}
    return prune_without(keys, tiny_llama.prune_config(model, out, **options))


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_equals_the_dense_model_with_silent_blocks(dense: Any, name: str, gone: str, tmp_path: Path) -> None:
    out = without(dense(name), tmp_path / "out", GONE[gone])
    small, silenced = load_model(str(out), "cpu")[0], load_model(str(dense(name)), "cpu")[0]
    for layer, part in GONE[gone]:
        assert layer is not None
        consumer = tiny.consumer(name, silenced, layer, part)
        consumer.weight.zero_()
        if consumer.bias is not None:
            consumer.bias.zero_()
    ids = tiny_llama.tokens(2, 20)
    torch.testing.assert_close(small(ids).logits, silenced(ids).logits, rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in silenced.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_generates_with_a_cache_as_without(dense: Any, name: str, tmp_path: Path) -> None:
    """The first layer's cache is what a model asks how many tokens it has seen."""
    model = load_model(str(without(dense(name), tmp_path / "out", GONE["first attention"])), "cpu")[0]
    ids = tiny_llama.tokens(1, 12)
    first, second = (
        model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=cache)
        for cache in (True, False)
    )
    assert torch.equal(first, second)


def test_says_what_is_gone_counts_it_and_prunes_again(dense: Any, tmp_path: Path) -> None:
    out = without(dense("llama"), tmp_path / "out", GONE["a whole layer"])
    inspected = inspect_model(str(out))
    assert inspected["layers"][2]["skip"] == ["attention", "ffn"]
    again = prune(tiny_llama.prune_config(out, tmp_path / "again", ratio=0.1))
    assert again.record["parameters"]["before"] == inspected["parameters"]["total"]
    assert {site["layer"] for site in again.record["sites"]} == {0, 1}


def test_a_search_takes_a_block_where_that_is_cheapest(dense: Any, tmp_path: Path) -> None:
    """At a ratio that whole units cannot reach without it."""
    most = {"allocation": "searched", "ratio": 0.7}
    with pytest.raises(ConfigError, match="cannot be attained"):
        prune(tiny_llama.prune_config(dense("llama"), tmp_path / "parts", **most))
    record = prune(tiny_llama.prune_config(dense("llama"), tmp_path / "out", **most, blocks="attention,ffn")).record
    assert any(not site["kept"] for site in record["sites"])
    assert record["parameters"]["removed_ratio"] == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": "attention,heads"}, "--blocks attention,heads: 'heads' is no block of a layer: give none, or some"),
        ({"blocks": "ffn", "allocation": "log"}, "--blocks goes with --allocation searched"),
    ],
)
def test_refuses_what_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PruneConfig("model", "out", **changes).check()
