"""What the configuration of a model whose layers differ answers, and what it refuses (docs/serving.md says so)."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from tiny_llama import SHAPE, tokens
from transformers import AutoModelForCausalLM

from slimgpt.modeling_slimgpt import View, slim_classes, view_outside_layers

LAYERS = [
    {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64},
    {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64},
    {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 64},
]
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32}


@pytest.fixture
def config() -> Any:
    own = {str(index): sizes for index, sizes in enumerate(LAYERS)}
    return slim_classes("llama").config(**SHAPE, rope_parameters=YARN, per_layer_config=own)


def test_layers_answer_for_themselves(config: Any) -> None:
    for layer, sizes in zip(config.per_layer_config, LAYERS, strict=True):
        assert {key: getattr(layer, key) for key in sizes} == sizes


def test_what_all_layers_have_in_common_is_answered(config: Any) -> None:
    assert config.intermediate_size == 64  # of all layers, though of none before they were pruned
    assert (config.hidden_size, config.head_dim, config.num_hidden_layers) == (48, 8, 3)


@pytest.mark.parametrize("name", ["num_attention_heads", "num_key_value_heads"])
def test_what_differs_is_refused_with_what_to_read_instead(config: Any, name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"config\.per_layer_config\[i\]\.{name}"):
        getattr(config, name)
    config.allow_global_per_layer_attribute_access = True
    assert getattr(config, name) == SHAPE[name]  # of the model before it was pruned


def test_other_spellings_are_answered_and_refused_alike() -> None:
    own = {str(index): {"n_head": heads, "n_inner": 64} for index, heads in enumerate((2, 3))}
    sizes = {"n_embd": 48, "n_head": 6, "n_layer": 2, "n_inner": 96, "head_dim": 8}
    config = slim_classes("gpt2").config(**sizes, per_layer_config=own)
    assert config.n_inner == 64
    with pytest.raises(RuntimeError, match="n_head"):
        assert config.num_attention_heads


def test_outside_the_layers_heads_fill_the_hidden_size_and_the_rest_is_the_models(config: Any) -> None:
    """Rotary embeddings divide by the number of heads before they look for ``head_dim``."""
    view = view_outside_layers(config)
    assert (view.num_attention_heads, view.head_dim, view.intermediate_size) == (6, 8, 64)
    with pytest.raises(RuntimeError, match="num_key_value_heads"):
        assert view.num_key_value_heads
    config.rope_parameters["factor"] = 3.0
    assert view.rope_parameters["factor"] == 3.0  # no copy


def test_every_module_sees_its_own_sizes_and_models_the_whole(config: Any) -> None:
    model = AutoModelForCausalLM.from_config(config)
    assert model.config is model.model.config is config
    assert isinstance(model.model.rotary_emb.config, View)
    seen = [layer.self_attn.config.num_key_value_heads for layer in model.model.layers]
    assert seen == [sizes["num_key_value_heads"] for sizes in LAYERS]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_whole(config: Any, again: Any) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    twin = again(model)
    assert twin.model.rotary_emb.config.shared is twin.config is not model.config
    assert torch.equal(twin(tokens(1, 40)).logits, model(tokens(1, 40)).logits)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param("import slimgpt.modeling_slimgpt", marks=pytest.mark.nightly),
        "import slimgpt; from transformers import LlamaConfig",
        pytest.param("import transformers.models.auto.modeling_auto; import slimgpt", marks=pytest.mark.nightly),
    ],
)
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    """transformers' Auto classes know ours when they are asked, whoever began."""
    asked = "from transformers import AutoConfig, AutoModel; config = AutoConfig.for_model('slimgpt_opt')"
    program = f"{first}; {asked}; assert type(config) in AutoModel._model_mapping"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_constructor_that_fails_leaves_the_configuration_whole(config: Any) -> None:
    config.hidden_act = "no such thing"
    with pytest.raises(KeyError):
        AutoModelForCausalLM.from_config(config)
    assert config.per_layer_config[0].num_key_value_heads == 2
