"""What is wrong with a model's files is said before any work; nothing in them chooses code, kernels or downloads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
import torch
from hostile import guarded
from safetensors.torch import load_file, save_file
from tiny_llama import WEIGHTS, edit_config, edit_weights, prune_config
from transformers import GenerationConfig, LlamaConfig, LlamaForSequenceClassification

from slimgpt import generate, inspect_model, load_model, open_checkpoint, prune
from slimgpt.errors import ModelError
from slimgpt.model.loading import load_as

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture(scope="module")
def pruned(sound: Path) -> Path:
    out = sound.with_name("pruned")
    return prune(prune_config(sound, out, solver="magnitude", allocation="log")).path


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A sound model that the test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def refused(model: Path) -> str:
    """The message of all commands' first step."""
    with pytest.raises(ModelError) as raised, guarded():
        open_checkpoint(str(model))
    message = str(raised.value)
    assert str(model) in message and "\n" not in message and len(message) < 700, message
    return message


# --- config.json -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "evil"}, "KeyError: 'evil'"),
        ({"rope_parameters": {"rope_type": "evil", "rope_theta": 1.0}}, "evil"),
        ({"num_attention_heads": 0}, "zero"),
        ({"dtype": "evil"}, "dtype cannot be 'evil'"),
        ({"torch_dtype": "load"}, "torch_dtype cannot be 'load'"),
        ({"dtype": "int8"}, "dtype cannot be 'int8'"),
        ({"per_layer_config": []}, "per_layer_config cannot be []"),
        ({"per_layer_config": {"0": {"num_attention_heads": "six"}}}, "per_layer_config cannot be"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps cannot be nan"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": float("inf")}}, "rope_parameters cannot be"),
        ({"head_dim": "8"}, "head_dim cannot be '8'"),
        ({"vocab_size": 10**400}, "config.json is not valid"),
        ({"pad_token_id": 10**6}, "Padding_idx"),
    ],
)
def test_values_that_no_model_has(model: Path, changes: dict[str, Any], reason: str) -> None:
    edit_config(model, **changes)
    message = refused(model)
    assert "config.json is not valid" in message and reason in message, message


@pytest.mark.parametrize("count", ["num_hidden_layers", "num_labels", "num_experts"])
def test_counts_that_would_fill_the_memory(model: Path, count: str) -> None:
    """Whatever is made of such a count is not made: this takes no time."""
    edit_config(model, **{count: 10**9})
    assert f"says {count} 1000000000, but the weights have" in refused(model)


def test_positions_that_would_fill_the_memory(tmp_path: Path) -> None:
    """GPT-2 makes a mask of all positions by all positions, which is a buffer: a million of them are a terabyte."""
    model = tiny.save_model(tmp_path / "model", "gpt2")
    edit_config(model, n_positions=10**6)
    assert "wpe.weight' has shape [64, 64], but config.json says [1000000, 64]" in refused(model)


def test_heads_that_contradict_each_other(tmp_path: Path) -> None:
    """Twice as many heads of half the width have the same shapes; fewer KV heads of twice the width do not divide."""
    model = tiny_llama.save_model(tmp_path / "model", num_attention_heads=6, num_key_value_heads=4, head_dim=8)
    assert "contradicts itself: 1 members" not in (message := refused(model)), message
    assert "config.json contradicts itself" in message


def test_json_of_great_depth(model: Path) -> None:
    (model / "config.json").write_text('{"a":' * 100_000)
    assert "config.json is not a JSON object: it nests deeper than 100 levels" in refused(model)


@pytest.mark.parametrize("key", ["to_dict", "__class__", "attribute_map", "from_pretrained", "base_model_tp_plan"])
def test_names_of_a_configurations_machinery_are_not_heeded(model: Path, key: str) -> None:
    edit_config(model, **{key: {"hidden_size": "intermediate_size"}})
    assert open_checkpoint(str(model)).config.hidden_size == 48


# --- whose choice it is ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("name", ["nobody/kernels", "flash_attention_2", "flex_attention"])
def test_the_implementation_of_attention_is_ours_to_choose(model: Path, key: str, name: str) -> None:
    edit_config(model, **{key: name})
    with guarded():
        checkpoint, loaded = open_checkpoint(str(model)), load_as(model, torch.float32)
    assert checkpoint.skeleton.config._attn_implementation == "sdpa"
    assert loaded.config._attn_implementation == "sdpa"
    assert not hasattr(checkpoint.config, "attn_implementation")


@pytest.mark.parametrize("reference", ["evil.Evil", "nobody/evil--evil.Evil"])
def test_code_that_comes_with_a_model_never_runs(model: Path, reference: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nclass Evil: pass\n"
    for name in ("evil.py", "custom_generate/generate.py"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(code)
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    edit_config(model, auto_map=dict.fromkeys(names, reference))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": [reference, reference]}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with guarded():
        loaded, tokenizer = load_model(str(model), "cpu")
        generate(loaded, tokenizer, "Hi", max_new_tokens=2)
    assert not ran.exists()
    assert type(loaded).__name__ == "LlamaForCausalLM"


def test_other_weights_than_those_that_were_checked_are_not_loaded(model: Path) -> None:
    other = {name: tensor + 1 for name, tensor in load_file(model / WEIGHTS).items()}
    save_file(other, model / "other.safetensors", metadata={"format": "pt"})
    edit_config(model, transformers_weights="other.safetensors")
    name = "model.norm.weight"
    assert torch.equal(load_as(model, torch.float32).get_parameter(name), open_checkpoint(str(model)).weights.get(name))


def test_what_a_forward_pass_gives_back_is_ours_to_choose(model: Path, tmp_path: Path) -> None:
    edit_config(model, return_dict=False, output_attentions=True, output_hidden_states=True, torchscript=True)
    assert prune(prune_config(model, tmp_path / "out", allocation="log")).path.is_dir()


def test_a_dense_configuration_is_the_same_with_and_without_the_border(sound: Path) -> None:
    """Negative control: nothing that a model needs is left out."""
    ours, theirs = open_checkpoint(str(sound)).config.to_dict(), LlamaConfig.from_pretrained(sound).to_dict()
    assert {**ours, "_name_or_path": ""} == {**theirs, "_name_or_path": ""}


# --- what else a folder can be ---------------------------------------------------------------------


def test_a_reward_model_is_called_one(sound: Path, tmp_path: Path) -> None:
    for tied in (True, False):
        config = LlamaConfig(**{**tiny_llama.SHAPE, "tie_word_embeddings": tied, "num_labels": 1, "pad_token_id": 0})
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / str(tied))
        message = refused(tmp_path / str(tied))
        assert "is a LlamaForSequenceClassification: it judges texts by score.weight and predicts no words" in message
        assert "Name the language model it was trained from" in message


@pytest.mark.parametrize(
    ("prefix", "what", "cure"),
    [
        ("_orig_mod.", "torch.compile had wrapped", "save model._orig_mod instead"),
        ("language_model.", "language part of a larger model", "save its language model alone"),
        ("model.language_model.", "language part of a larger model", "save its language model alone"),
        ("module.", "wrapped for several devices", "save model.module instead"),
        ("base_model.model.", "adapters by peft", "merge_and_unload()"),
        ("something.", "have 'something.' in front", "save them without it"),
    ],
)
def test_names_that_a_wrapping_has_made(model: Path, prefix: str, what: str, cure: str) -> None:
    def rename(tensors: dict[str, Any]) -> None:
        plain = dict(tensors)
        tensors.clear()
        tensors.update({prefix + name: tensor for name, tensor in plain.items()})

    edit_weights(model, rename)
    message = refused(model)
    assert what in message and cure in message and "tie_word_embeddings" not in message, message


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_is_called_one(model: Path, whole: bool) -> None:
    """With a model beside it, too: transformers would load both."""
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/base", "peft_type": "LORA"}')
    if not whole:
        (model / "config.json").unlink()
        (model / WEIGHTS).rename(model / "adapter_model.safetensors")
    message = refused(model)
    assert "holds an adapter (adapter_config.json)" in message and "merge_and_unload()" in message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "is quantised ('gptq')"),
        ({"quant_method": "fp8"}, "FineGrainedFP8Config(dequantize=True)).save_pretrained(FOLDER)"),
        ({"quant_method": "mxfp4"}, "Mxfp4Config(dequantize=True)).save_pretrained(FOLDER)"),
        ({"quant_method": "bitsandbytes"}, ".dequantize().save_pretrained(FOLDER)"),
        ({"quant_method": ["x"]}, "is quantised (['x'])"),
    ],
)
def test_quantised_weights_are_named_with_the_way_to_plain_ones(
    model: Path, settings: dict[str, Any], said: str
) -> None:
    edit_config(model, quantization_config=settings)
    message = refused(model)
    assert said in message and "name the original model" in message


def test_an_index_left_from_another_download_does_not_matter(model: Path, tmp_path: Path) -> None:
    """transformers loads the whole file, and so do we."""
    (model / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}))
    assert inspect_model(str(model))["parameters"]["total"] == sum(
        tensor.numel() for tensor in load_file(model / WEIGHTS).values()
    )
    assert prune(prune_config(model, tmp_path / "out", allocation="log")).path.is_dir()
    load_as(model, torch.float32)


# --- settings of generation ------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"max_new_tokens": 0}', "{", "[]", '{"cache_implementation": "evil"}', "\xff"])
def test_settings_of_generation_that_transformers_refuses(model: Path, text: str) -> None:
    (model / "generation_config.json").write_bytes(text.encode("latin-1"))
    message = refused(model)
    assert "generation_config.json holds no settings of generation" in message
    assert "remove it: transformers then has its defaults" in message


def test_the_same_in_the_configuration_of_an_older_model(model: Path) -> None:
    (model / "generation_config.json").unlink()
    edit_config(model, max_new_tokens=0)
    assert "config.json has keys of generation that are not valid" in refused(model)


def test_settings_that_can_be_read_and_not_written_travel_as_they_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError("`temperature` is set, and `do_sample` is not")

    text = '{"temperature": 0.6, "do_sample": false}'
    (model / "generation_config.json").write_text(text)
    monkeypatch.setattr(GenerationConfig, "save_pretrained", refuse)
    out = prune(prune_config(model, tmp_path / "out", solver="magnitude", allocation="log")).path
    assert (out / "generation_config.json").read_text() == text


@pytest.mark.parametrize(
    "settings", [{"penalty_alpha": 0.6, "top_k": 4}, {"eos_token_id": "x"}, {"dola_layers": "low"}]
)
def test_settings_that_do_not_work_are_said_by_generate(model: Path, settings: dict[str, Any]) -> None:
    (model / "generation_config.json").write_text(json.dumps(settings))
    with guarded():
        loaded, tokenizer = load_model(str(model), "cpu")
        with pytest.raises(ModelError, match=r"the model does not generate \(.*Look into its generation_config"):
            generate(loaded, tokenizer, "Hi", max_new_tokens=2)


# --- tokenizers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["{% for", "{{ evil() }}", "{{ 1 / 0 }}", "{{ ''.__class__.__mro__[1] }}"])
def test_a_bad_chat_template_is_said(model: Path, template: str) -> None:
    loaded, tokenizer = load_model(str(model), "cpu")
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=r"the tokenizer's chat template fails \(.*Mend it, or leave --chat out"):
        generate(loaded, tokenizer, "Hi", max_new_tokens=2, chat=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"a":' * 100_000, '{"chat_template": "\\ud800"}', "\xff"])
def test_settings_of_a_tokenizer_that_are_none(model: Path, text: str) -> None:
    (model / "tokenizer_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"no tokenizer can be read .*tokenizer_config.json is not a JSON object"):
        open_checkpoint(str(model)).tokenizer()


# --- records ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"schema": []}', '{"schema": 1e400}', '{"a":' * 100_000, "[]"])
def test_a_record_that_is_none(pruned: Path, tmp_path: Path, text: str) -> None:
    model = Path(shutil.copytree(pruned, tmp_path / "model"))
    (model / "slimgpt.json").write_text(text)
    assert "slimgpt.json is damaged" in refused(model)
