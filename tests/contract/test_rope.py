"""Scaled rotary embeddings of every type, beyond the length that the model was made for before they were scaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_families import Workshop, assert_close, load, mask_
from tiny import ORIGINAL, SCALED
from tiny_llama import tokens
from torch import Tensor
from transformers import AutoTokenizer

from slimgpt import perplexity
from slimgpt.config import ExportConfig
from slimgpt.errors import ConfigError
from slimgpt.exports import export
from slimgpt.exports.gguf_architecture import ROPE_TYPES
from slimgpt.exports.onnx import plan_onnx
from slimgpt.model.checkpoint import open_checkpoint

NEAR = tokens(1, ORIGINAL - 3, seed=1)
BEYOND = tokens(1, ORIGINAL + 8, seed=2)
NEW_TOKENS = 8

every_scaled = pytest.mark.parametrize("name", SCALED)
one_of_a_kind = pytest.mark.parametrize(
    "name",
    [name for name in SCALED if name.startswith("llama")]
    + ["phi3-longrope", "gemma3_text-yarn", "gpt_neox-dynamic", "qwen3_moe-longrope"],
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("rope"))


@every_scaled
def test_sliced_equals_masked_and_goes_on_beyond_the_original_length(shop: Workshop, name: str) -> None:
    out = shop.pruned(shop.dense(name))
    masked, pruned = load(shop.dense(name)), load(out)
    mask_(name, masked, out)
    for cached in (True, False):
        assert torch.equal(continued(pruned, cached), continued(masked, cached))
    assert_close(logits(pruned, BEYOND), logits(masked, BEYOND))
    assert_close(logits(pruned, NEAR), logits(masked, NEAR))


@pytest.mark.parametrize("name", [name for name in SCALED if name.startswith(("llama", "phi3"))])
def test_the_cache_changes_nothing(shop: Workshop, name: str) -> None:
    """But where stock classes keep keys that they turned before the frequencies changed."""
    if name not in ("llama-dynamic", "llama-longrope"):
        model = load(shop.pruned(shop.dense(name)))
        assert torch.equal(continued(model, True), continued(model, False))


@one_of_a_kind
def test_can_be_used_like_any_other(shop: Workshop, name: str, tmp_path: Path) -> None:
    """Saved and loaded, measured, pruned again, and padded."""
    out = shop.pruned(shop.dense(name))
    model = load(out)
    expected = logits(model, BEYOND)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load(tmp_path / "again"), BEYOND), expected)
    text = shop.text.read_text(encoding="utf-8")
    assert perplexity(model, AutoTokenizer.from_pretrained(out), text, ORIGINAL, max_tokens=256).perplexity > 1
    twice = shop.pruned(out, ratio=0.2, seed=1)
    mask_(name, model, twice)
    assert_close(logits(load(twice), BEYOND), logits(model, BEYOND))
    padded = export(ExportConfig(str(out), str(tmp_path / "padded"), format="padded", verify=True)).path
    assert padded is not None
    assert_close(logits(load(padded), BEYOND), expected)


@pytest.mark.parametrize("name", [name for name in SCALED if name.startswith("llama")])
def test_gguf_has_it_or_refuses_it_by_name(shop: Workshop, name: str, tmp_path: Path) -> None:
    kind = name.removeprefix("llama-")
    config = ExportConfig(str(shop.pruned(shop.dense(name))), str(tmp_path / "m.gguf"))
    if kind in ROPE_TYPES:
        assert export(config).path == tmp_path / "m.gguf"
        return
    with pytest.raises(ConfigError, match=f"rotary scaling '{kind}' cannot be written; those that can: default, lin"):
        export(config)


def test_onnx_refuses_frequencies_that_change_with_the_text(shop: Workshop) -> None:
    uniform = open_checkpoint(str(shop.pruned(shop.dense("llama-dynamic"), layout="uniform")))
    with pytest.raises(ConfigError, match="--format onnx cannot hold rotary scaling 'dynamic'"):
        plan_onnx(uniform, ExportConfig(str(uniform.path), "out", format="onnx"))


def test_a_stock_phi3_with_longrope_keeps_its_heads(shop: Workshop) -> None:
    """Its class counts the factors by the number of heads."""
    dense = shop.dense("phi3-longrope")
    with pytest.raises(
        ConfigError, match=r"longrope for heads of 64 // \d = \d+ channels, and these have 8.*per-layer"
    ):
        shop.pruned(dense, layout="uniform")


def continued(model: Any, cached: bool) -> Tensor:
    """Tokens from before the original length to beyond it."""
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    return model.generate(NEAR, use_cache=cached, **options)


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits
