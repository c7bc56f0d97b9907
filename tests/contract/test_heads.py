"""Every head that transformers puts on a family's body, on a pruned one: classifiers are trained from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from test_families import PROMPT, Workshop, every_model, load
from tiny import MODELS

from slimgpt import modeling_slimgpt

NEW = {
    "AutoModel": set(),
    "AutoModelForCausalLM": set(),
    "AutoModelForSequenceClassification": {"score"},
    "AutoModelForTokenClassification": {"score", "classifier"},
    "AutoModelForQuestionAnswering": {"qa_outputs"},
}
"""Auto class -> modules that a language model does not have, which start at random."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("heads"))


@every_model
@torch.no_grad()
def test_heads_of_the_stock_model_go_on_the_pruned_body(shop: Workshop, name: str, tmp_path: Path) -> None:
    out = shop.pruned(shop.dense(name))
    model = load(out)
    hidden = model.base_model(PROMPT).last_hidden_state
    assert set(model.config.auto_map) - {"AutoConfig"} == kinds(MODELS[name].config)
    for kind in kinds(MODELS[name].config):
        auto = getattr(transformers, kind)
        one, loading = auto.from_pretrained(out, output_loading_info=True)
        assert {key.split(".")[0] for key in loading["missing_keys"]} <= NEW[kind]
        assert torch.equal(one.eval().base_model(PROMPT).last_hidden_state, hidden)
        one.save_pretrained(tmp_path / kind)
        again = auto.from_pretrained(tmp_path / kind).eval()
        assert type(again) is type(one) and torch.equal(again(PROMPT)[0], one(PROMPT)[0])


def kinds(config: str) -> set[str]:
    """The Auto classes that load stock models of this configuration."""
    return {kind for kind in NEW if getattr(transformers, config) in getattr(transformers, kind)._model_mapping}


def test_checkpoints_made_before_there_were_heads_load_them(shop: Workshop, tmp_path: Path) -> None:
    out = shop.pruned(shop.dense("llama"))
    config = transformers.AutoConfig.from_pretrained(out)
    config.auto_map = {kind: config.auto_map[kind] for kind in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")}
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(out / "model.safetensors")
    labels = {"num_labels": 3, "pad_token_id": 0}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, **labels)
    assert model(PROMPT).logits.shape == (len(PROMPT), 3)


def test_constructors_have_no_annotations() -> None:
    """vLLM's Transformers back end holds positional arguments against them, ``self`` included, and asks
    ``isinstance``: a string, which all annotations of that file are, ends in a TypeError.
    """
    for model_type in modeling_slimgpt.BASES:
        for model in modeling_slimgpt.slim_classes(model_type).models.values():
            assert model.__init__.__annotations__ == {}
