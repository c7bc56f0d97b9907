"""The detector against what is known: hand-written families, and models in which something is coupled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from tiny import MODELS

from slimgpt.arch import family_of
from slimgpt.arch.family import Family
from slimgpt.detection.building import empty_model
from slimgpt.detection.decoder import find_decoder
from slimgpt.detection.detect import detect
from slimgpt.detection.findings import Detected, Place
from slimgpt.detection.hollow import hollow_
from slimgpt.detection.look import Look
from slimgpt.detection.rehearsal import half_of, rehearse
from slimgpt.detection.signature import owned_by_one
from slimgpt.errors import ModelError
from slimgpt.sites import Segment, Site

SMALL = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
DENSE = [name for name, tiny in MODELS.items() if not tiny.experts]


def config_of(name: str) -> Any:
    tiny = MODELS[name]
    tokens = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 0}
    return getattr(transformers, tiny.config)(vocab_size=260, max_position_embeddings=64, **tokens, **tiny.settings)


def what_goes(site: Site) -> Any:
    """What both the detector and a family must say of a site."""
    members = site.members > 1
    segments = sorted((one.path, one.offset, one.rows_per_unit, one.by_member and members) for one in site.producers)
    return site.part, site.consumer, site.num_units, site.unit_width, site.members, segments


@pytest.mark.parametrize("name", DENSE)
def test_finds_what_families_say(name: str) -> None:
    config = config_of(name)
    family: Family = family_of(config)
    found = detect(config)
    assert found.path == family.layers
    for index, layer in enumerate(found.layers):
        said = family.sites(config.per_layer_config[index])
        assert list(map(what_goes, layer.sites)) == list(map(what_goes, said))
        for mine, theirs in zip(layer.sites, said, strict=True):
            if theirs.block is not None:
                assert (mine.block, mine.returns_tuple) == (theirs.block, theirs.returns_tuple)
        assert not layer.refusals


@pytest.mark.parametrize("name", [name for name in DENSE if MODELS[name].uniform])
def test_learns_the_keys_that_families_say(name: str) -> None:
    """Of the families whose constructor takes any number of heads."""
    config = config_of(name)
    attention, ffn = detect(config).layers[0].places
    heads = {("num_attention_heads",), ("num_key_value_heads",)}
    if config.to_dict().get("head_dim"):  # else heads fill the hidden size
        assert attention.growth.exact and attention.growth.by_units == heads
    assert attention.growth.settings(0.5, 1)[("num_key_value_heads",)] == config.num_key_value_heads // 2
    assert ffn.growth.exact and ffn.growth.by_units == {("intermediate_size",)}


def small(config_class: str, **settings: Any) -> Detected:
    return detect(getattr(transformers, config_class)(**{**SMALL, **settings}))


def parts(found: Detected) -> list[set[str]]:
    return [{site.part for site in layer.sites} for layer in found.layers]


def test_full_width_norms_of_queries_couple_heads() -> None:
    found = small("Olmo2Config")
    assert parts(found) == [{"ffn"}, {"ffn"}]
    assert all("self_attn.q_proj, self_attn.k_proj serve all of them" in one.reason for one in found.layers[0].refusals)


def test_biases_by_head_from_outside_couple_heads() -> None:
    """ALiBi: the slopes of all heads are made outside the layers."""
    found = detect(transformers.BloomConfig(vocab_size=260, hidden_size=64, n_layer=2, n_head=8))
    assert parts(found) == [{"ffn"}, {"ffn"}]
    assert "the layer does not run without some of them" in found.layers[0].refusals[0].reason


def test_sinks_and_routers() -> None:
    found = small("GptOssConfig", head_dim=8, num_local_experts=4, num_experts_per_tok=2)
    (site,) = found.layers[0].sites
    assert (site.num_units, site.members) == (4, 2)
    assert Segment("self_attn.sinks", 2, by_member=True) in site.producers


def test_latent_attention() -> None:
    found = small(
        "DeepseekV3Config",
        num_key_value_heads=8,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        moe_intermediate_size=40,
    )
    heads, dense = found.layers[0].sites
    assert (heads.part, heads.num_units, heads.unit_width) == ("attention", 8, 8)
    assert [(one.path, one.rows_per_unit) for one in heads.producers] == [
        ("self_attn.q_b_proj", 16),
        ("self_attn.kv_b_proj", 16),
    ]
    assert dense.part == "ffn" and found.layers[1].sites[1].part == "ffn-shared_experts"


def test_layers_of_several_kinds() -> None:
    found = small(
        "Qwen3NextConfig",
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=48,
        linear_num_key_heads=4,
        linear_num_value_heads=8,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )
    assert parts(found) == [{"ffn"}, {"attention", "ffn"}]


def test_the_decoder_inside_a_larger_model() -> None:
    text = {**SMALL, "model_type": "gemma3_text", "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    found = detect(transformers.Gemma3Config(text_config=text, vision_config={**vision, "image_size": 28}))
    assert found.path == "model.language_model.layers"
    assert parts(found) == [{"attention", "ffn"}] * 2


def test_what_layers_are_told_of_tokens_is_noticed() -> None:
    found = small("Gemma4TextConfig", head_dim=8, hidden_size_per_layer_input=16, vocab_size_per_layer_input=260)
    assert "told something of each text" in (found.not_streamed or "")
    assert parts(found) == [{"attention", "ffn"}] * 2


def test_keys_that_later_layers_borrow_stay() -> None:
    found = small(
        "Gemma4TextConfig",
        head_dim=8,
        num_hidden_layers=4,
        layer_types=["full_attention"] * 4,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=260,
    )
    assert parts(found)[0] == {"attention", "ffn"}  # nobody borrows its keys
    assert parts(found)[1:] == [{"ffn"}] * 3


def test_models_that_see_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="does not run on text alone"):
        detect(transformers.BlipConfig())


# --- a detector that is told wrong units is caught -------------------------------------------------


@pytest.fixture(scope="module")
def llama() -> tuple[Look, Place]:
    config = config_of("llama")
    model = empty_model(config)
    hollow_(model)
    decoder = find_decoder(model, torch.arange(8)[None])
    layers = decoder.layers_of(model)
    look = Look(layers[0], 0, config, decoder, decoder, owned_by_one(layers))
    return look, look.findings().places[0]


WRONG = {
    "rows of keys are taken for those of values": lambda site: replace(
        site, producers=(*site.producers[:2], replace(site.producers[2], path=site.producers[1].path))
    ),
    "keys stay": lambda site: replace(site, producers=site.producers[:1] + site.producers[2:]),
    "units are half as wide": lambda site: replace(
        site,
        num_units=2 * site.num_units,
        unit_width=site.unit_width // 2,
        members=1,
        producers=tuple(replace(one, rows_per_unit=one.rows_per_unit // 2, by_member=False) for one in site.producers),
    ),
}


@pytest.mark.parametrize("slip", WRONG)
def test_wrong_units_are_caught(llama: tuple[Look, Place], slip: str) -> None:
    look, place = llama
    assert rehearse(look.stage, place.site, place.growth, half_of(place.site)) is None
    wrong = WRONG[slip](place.site)
    assert rehearse(look.stage, wrong, place.growth, half_of(wrong)) is not None
