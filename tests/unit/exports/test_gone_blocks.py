"""Exports of models that have lost whole blocks: zeros stand for them, or nothing where the tool knows how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny
import tiny_llama
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM
from without_blocks import prune_without

from slimgpt.allocation.places import Key
from slimgpt.config import ExportConfig
from slimgpt.errors import ConfigError
from slimgpt.exports import export
from slimgpt.exports.gguf_architecture import MIN_FFN_CHANNELS

GONE = [Key(0, "attention"), Key(1, "ffn"), Key(2, "attention"), Key(2, "ffn")]
EVERYWHERE = [Key(index, "attention") for index in range(3)]


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model of a family that has lost some blocks, made once."""
    folder = tmp_path_factory.mktemp("without")

    def made(name: str, keys: list[Key]) -> Path:
        dense, out = folder / name, folder / f"{name}-{len(keys)}"
        if not dense.is_dir():
            tiny.save_model(dense, name)
        if not out.is_dir():
            config = tiny_llama.prune_config(dense, out, allocation="searched", blocks="attention,ffn", round_to=8)
            prune_without(keys, config)
        return out

    return made


def logits(folder: Path) -> Any:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(tiny_llama.tokens(2, 20)).logits


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("llama", GONE),
        ("gpt2", GONE),
        ("mixtral", EVERYWHERE),
        *(pytest.param(name, GONE, marks=pytest.mark.nightly) for name in ("qwen3", "gemma2", "gpt_neox")),
    ],
)
def test_padded_has_zeros_in_their_place_and_computes_the_same(
    without: Any, name: str, keys: list[Key], tmp_path: Path
) -> None:
    small = without(name, keys)
    export(ExportConfig(str(small), str(tmp_path / "padded"), format="padded"))
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "padded")).__module__.startswith("transformers.")
    torch.testing.assert_close(logits(tmp_path / "padded"), logits(small), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", pytest.param("qwen2", marks=pytest.mark.nightly)])
def test_deci_has_no_heads_where_attention_is_gone(without: Any, name: str, tmp_path: Path) -> None:
    """But zeros in the first layer, whose heads llama.cpp measures, and for FFNs, without which it drops attention."""
    file = tmp_path / "model.gguf"
    export(ExportConfig(str(without(name, GONE)), str(file), outtype="f32"))
    reader = GGUFReader(file)
    sizes = {key: reader.fields[f"deci.{key}"].contents() for key in ("attention.head_count_kv", "feed_forward_length")}
    first, second, third = sizes["attention.head_count_kv"]
    assert (first, third) == (1, 0) and second > 1
    assert sizes["feed_forward_length"][1:] == [MIN_FFN_CHANNELS] * 2
    stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    of_last = sorted(tensor for tensor in stored if tensor.startswith("blk.2."))
    assert of_last == [f"blk.2.ffn_{part}.weight" for part in ("down", "gate", "norm", "up")]
    zeros = {name for name, values in stored.items() if not values.any() and name.endswith("weight")}
    assert zeros == {
        *(f"blk.0.attn_{part}.weight" for part in ("q", "k", "v", "output")),
        *(f"blk.{layer}.ffn_{part}.weight" for layer in (1, 2) for part in ("gate", "up", "down")),
    }


def test_what_is_gone_is_named(without: Any) -> None:
    notes = export(ExportConfig(str(without("llama", GONE)), format="uniform-check")).notes
    assert "no attention in 2 of 3 layers, no ffn in 2 of 3 layers" in notes[0]


def test_layers_that_have_all_lost_the_same_are_of_no_stock_class(without: Any, tmp_path: Path) -> None:
    model = str(without("llama", EVERYWHERE))
    assert export(ExportConfig(model, format="uniform-check")).notes[0].startswith("Not uniform")
    with pytest.raises(ConfigError, match="--layout uniform"):
        export(ExportConfig(model, str(tmp_path / "onnx"), format="onnx"))
