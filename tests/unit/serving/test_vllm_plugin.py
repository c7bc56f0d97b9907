"""The vLLM plugin, beside a stand-in for vLLM: the real one has an environment of its own (``make test-vllm``)."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from slimgpt.modeling_slimgpt import BASES, slim_classes
from slimgpt.serving import vllm_plugin
from slimgpt.serving.native import NATIVE

OWN = [
    {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64},
    {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "skip": ["attention"]},
]
SHAPE = {"hidden_size": 48, "head_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3}


class Layer(nn.Module):
    """Reads its sizes as some models of vLLM do, and as others do."""

    def __init__(self, vllm_config: Any, prefix: str = "", config: Any = None) -> None:
        super().__init__()
        read = vllm_config.model_config
        self.seen = [each.num_attention_heads for each in (config, read.hf_config, read.hf_text_config) if each]
        self.qkv_bias = getattr(read.hf_config, "qkv_bias", False)
        self.self_attn, self.mlp = nn.Identity(), nn.Identity()
        vllm_config.compilation_config.static_forward_context[f"{prefix}.self_attn.attn"] = self.self_attn


class Model(nn.Module):
    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        given = {} if vllm_config.silent else {"config": config}
        self.layers = nn.ModuleList(Layer(vllm_config=vllm_config, prefix=f"layers.{i}", **given) for i in range(2))


@pytest.fixture
def vllm_config(monkeypatch: pytest.MonkeyPatch) -> Any:
    """That of a model in the stand-in, which has just what the plugin asks of vLLM."""
    config = slim_classes("llama").config(**SHAPE, per_layer_config={str(i): sizes for i, sizes in enumerate(OWN)})
    found = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=config, hf_text_config=config),
        compilation_config=SimpleNamespace(static_forward_context={}),
        silent=False,
    )
    modules = {
        "vllm": {"ModelRegistry": SimpleNamespace(register_model=lambda *pair: found.known.update([pair]))},
        "vllm.config": {"get_current_vllm_config": lambda: found},
        "vllm.model_executor": {},
        "vllm.model_executor.models": {},
        "vllm.model_executor.models.utils": {"extract_layer_index": lambda prefix: int(prefix.rpartition(".")[2])},
        "vllm.model_executor.models.llama": {"LlamaForCausalLM": Model, "LlamaDecoderLayer": Layer},
    }
    found.known = {}
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "slimgpt.serving.vllm_models", raising=False)
    return found


def classes() -> Any:
    return importlib.import_module("slimgpt.serving.vllm_models")


def test_every_family_is_registered(vllm_config: Any) -> None:
    vllm_plugin.register()
    expected = {slim_classes(model_type).models["AutoModelForCausalLM"].__name__ for model_type in BASES}
    assert set(vllm_config.known) == expected
    assert vllm_config.known["SlimQwen3MoeForCausalLM"] == "slimgpt.serving.vllm_models:SlimQwen3MoeForCausalLM"
    assert vllm_config.known["SlimGemma2ForCausalLM"].endswith("models.transformers:TransformersForCausalLM")
    assert vllm_config.known["SlimQwen2MoeForCausalLM"].endswith("models.transformers:TransformersMoEForCausalLM")
    assert set(NATIVE) < set(BASES)


@pytest.mark.parametrize("silent", [False, True], ids=["in an argument", "in vLLM's own configuration"])
def test_layers_find_their_own_sizes(vllm_config: Any, silent: bool) -> None:
    vllm_config.silent = silent
    model = classes().SlimLlamaForCausalLM(vllm_config=vllm_config, prefix="")
    assert [set(layer.seen) for layer in model.layers] == [{4}, {2}]
    assert isinstance(model, Model) and type(model).__name__ == "SlimLlamaForCausalLM"
    whole = vllm_config.model_config
    assert whole.hf_config is whole.hf_text_config and whole.hf_config.is_heterogeneous


def test_blocks_that_are_gone_add_nothing_and_get_no_cache(vllm_config: Any) -> None:
    model = classes().SlimLlamaForCausalLM(vllm_config=vllm_config, prefix="")
    assert list(vllm_config.compilation_config.static_forward_context) == ["layers.0.self_attn.attn"]
    x = torch.ones(2, 3)
    assert torch.equal(model.layers[1].self_attn(positions=None, hidden_states=x), torch.zeros(2, 3))
    assert torch.equal(model.layers[1].mlp(x), x)


def test_qwen2_is_a_llama_with_biases(vllm_config: Any) -> None:
    """vLLM's own class derives the width of heads from their number."""
    model = classes().SlimQwen2ForCausalLM(vllm_config=vllm_config, prefix="")
    assert all(layer.qkv_bias for layer in model.layers)
    assert not any(layer.qkv_bias for layer in classes().SlimLlamaForCausalLM(vllm_config=vllm_config).layers)


def test_vllm_s_classes_are_as_they_were_afterwards(vllm_config: Any) -> None:
    before = Layer.__init__
    classes().SlimLlamaForCausalLM(vllm_config=vllm_config, prefix="")
    vllm_config.model_config.hf_config = None
    with pytest.raises(AttributeError):
        classes().SlimLlamaForCausalLM(vllm_config=vllm_config, prefix="")
    assert Layer.__init__ is before
    with pytest.raises(AttributeError, match="no attribute 'SlimSomething'"):
        classes().SlimSomething  # noqa: B018


def test_vllm_is_imported_only_when_it_asks() -> None:
    program = "import sys, slimgpt.serving.vllm_plugin; print([m for m in sys.modules if m.startswith('vllm')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_point_is_the_plugin() -> None:
    """Read in the project file: what is installed beside these tests may be older (``make test-vllm`` installs it)."""
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    _, _, table = text.partition('[project.entry-points."vllm.general_plugins"]')
    module, name = re.findall(r'^slimgpt = "([\w.]+):(\w+)"$', table, re.MULTILINE)[0]
    assert getattr(importlib.import_module(module), name) is vllm_plugin.register
