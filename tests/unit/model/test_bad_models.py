"""Whatever is wrong with a model, an output place or a device is said in one sentence, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny
import tiny_llama
import torch
from tiny_llama import WEIGHTS, edit_config, edit_weights, prune_config

from slimgpt import inspect_model, load_model, prune
from slimgpt.errors import ConfigError, ModelError, NumericalError, OutputError, SlimGPTError

LAYER_1 = "model.layers.1."
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A sound model that the test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return tiny_llama.save_sharded(tmp_path / "model")


def refused(model: object, error: type[SlimGPTError], out: Path | str | None = None, **changes: Any) -> str:
    """The message of a prune that has to fail, having left the disk as it was."""
    place = Path(str(model)).absolute().parent
    before = listing(place)
    with pytest.raises(error) as raised:
        prune(prune_config(Path(str(model)), Path(out) if out is not None else place / "out", **changes))
    assert type(raised.value) is error
    assert listing(place) == before
    return str(raised.value)


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()} | {
        str(path): 0 for path in sorted(folder.rglob("*")) if path.is_dir()
    }


def says(message: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in message, message
    assert "\n" not in message
    assert len(message) < 600


def test_the_sound_model_is_not_refused(model: Path, tmp_path: Path) -> None:
    """Negative control for this whole file."""
    assert prune(prune_config(model, tmp_path / "out")).path.is_dir()


# --- folders ---------------------------------------------------------------------------------------


def test_missing_folder(tmp_path: Path) -> None:
    message = refused(tmp_path / "none", ModelError)
    says(message, tmp_path / "none", "does not exist", "name a local folder, a .gguf file or a hub id")


def test_no_config(model: Path) -> None:
    (model / "config.json").unlink()
    says(refused(model, ModelError), model, "has no config.json", "not a Hugging Face model folder")


@pytest.mark.parametrize("text", ["{", "", "[]", "7", '"llama"', "\xff"])
def test_config_is_no_json_object(model: Path, text: str) -> None:
    (model / "config.json").write_bytes(text.encode("latin-1"))
    says(refused(model, ModelError), model / "config.json", "is not a JSON object", "Download it again")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"num_attention_heads": 7},
        {"intermediate_size": [96, 96, 96]},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 0},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 0},
    ],
)
def test_config_with_senseless_values(model: Path, changes: dict[str, Any]) -> None:
    edit_config(model, **changes)
    says(refused(model, ModelError), model)


@pytest.mark.parametrize("model_type", ["t5", "no_such_thing", None])
def test_types_that_write_no_text_are_told_the_tested_families(model: Path, model_type: str | None) -> None:
    edit_config(model, model_type=model_type)
    says(refused(model, ModelError), repr(str(model_type)), "neither one of the tested families", "llama", "newer")


def test_a_type_that_no_file_names_has_to_have_its_own_weights(model: Path) -> None:
    edit_config(model, model_type="mamba")
    says(refused(model, ModelError), "tensor", "is missing", "do not belong together")


@pytest.mark.parametrize("name", ["qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize("changes", [{"mlp_only_layers": [0]}, {"decoder_sparse_step": 2}])
def test_layers_with_and_without_experts(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", name)
    edit_config(model, **changes)
    says(refused(model, ModelError), "mixes layers with and without experts", *changes, "all layers must have experts")
    with pytest.raises(ModelError, match="mixes layers"):
        inspect_model(str(model))


def test_quantised(model: Path) -> None:
    edit_config(model, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    says(refused(model, ModelError), model, "is quantised", "name the original model")


NO_NUMBERS = {torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3", torch.int32: "I32", torch.bool: "BOOL"}


@pytest.mark.parametrize("dtype", NO_NUMBERS)
@pytest.mark.parametrize("tensor", ["", "model.layers.2.mlp.up_proj.weight"])
def test_weights_that_are_no_floating_point_numbers_to_compute_with(
    model: Path, dtype: torch.dtype, tensor: str
) -> None:
    """All of them, or one in the last layer, which is found as early."""
    edit_weights(model, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items() if tensor in n}))
    says(refused(model, ModelError), model, f"{tensor}' as {NO_NUMBERS[dtype]}" if tensor else NO_NUMBERS[dtype])


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickle_only(model: Path, pickle: str) -> None:
    (model / WEIGHTS).rename(model / pickle)
    says(refused(model, ModelError), model, pickle, "can run code when read", "Convert it to safetensors")


def test_no_weights(model: Path) -> None:
    (model / WEIGHTS).unlink()
    says(refused(model, ModelError), model, "has no model.safetensors", "the weights are missing")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.2, 0.5, 0.9, -1])
def test_truncated_safetensors(model: Path, keep: float) -> None:
    size = (model / WEIGHTS).stat().st_size
    kept = round(size * keep) if 0 < keep < 1 else int(keep) if keep >= 0 else size + int(keep)
    os.truncate(model / WEIGHTS, kept)
    says(refused(model, ModelError), model / WEIGHTS, "is truncated or damaged", "Download it again")


def test_safetensors_that_is_something_else(model: Path) -> None:
    (model / WEIGHTS).write_bytes(b"<html>not found</html>" * 100)
    says(refused(model, ModelError), model / WEIGHTS, "is truncated or damaged")


def test_a_git_lfs_pointer_in_place_of_weights(model: Path) -> None:
    (model / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 302040\n")
    says(refused(model, ModelError), model / WEIGHTS, "is truncated or damaged", "Download it again")


def test_shape_other_than_configured(model: Path) -> None:
    edit_config(model, intermediate_size=90)
    message = refused(model, ModelError)
    says(message, model, "gate_proj.weight", "has shape [96, 48]", "config.json says [90, 48]", "not belong together")


def test_missing_tensor(model: Path) -> None:
    edit_weights(model, lambda tensors: tensors.pop(LAYER_1 + "self_attn.v_proj.weight"))
    says(refused(model, ModelError), model, LAYER_1 + "self_attn.v_proj.weight", "is missing", "do not belong together")


def test_a_head_that_is_not_tied_and_not_there(model: Path) -> None:
    edit_config(model, tie_word_embeddings=False)
    says(refused(model, ModelError), model, "lm_head.weight", "is missing")


# --- shards ----------------------------------------------------------------------------------------


def test_the_sharded_model_is_not_refused(sharded: Path, tmp_path: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert prune(prune_config(sharded, tmp_path / "out")).path.is_dir()


def test_shards_missing(sharded: Path) -> None:
    shards = sorted(sharded.glob("*.safetensors"))
    shards[1].unlink()
    says(refused(sharded, ModelError), sharded, f"1 of {len(shards)} shards", shards[1].name, "Download the checkpoint")


def test_index_that_lies_about_a_tensor(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    name = LAYER_1 + "mlp.up_proj.weight"
    others = sorted(set(index["weight_map"].values()) - {index["weight_map"][name]})
    index["weight_map"][name] = others[0]
    (sharded / INDEX).write_text(json.dumps(index))
    says(refused(sharded, ModelError), INDEX, repr(name), f"is in {others[0]}, but it is not there")


def test_index_that_leaves_a_tensor_out(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    name = LAYER_1 + "mlp.up_proj.weight"
    del index["weight_map"][name]
    (sharded / INDEX).write_text(json.dumps(index))
    says(refused(sharded, ModelError), repr(name), "is missing")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 7}}'])
def test_index_that_is_none(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    says(refused(sharded, ModelError), sharded / INDEX, "is not a valid index", "Download it again")


def test_index_that_points_out_of_the_folder(sharded: Path, tmp_path: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    elsewhere = tmp_path / "elsewhere.safetensors"
    shutil.copy(sorted(sharded.glob("*.safetensors"))[0], elsewhere)
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../elsewhere.safetensors")
    (sharded / INDEX).write_text(json.dumps(index))
    says(refused(sharded, ModelError), sharded / INDEX, "is not a valid index", "../elsewhere.safetensors")


def test_truncated_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[-1]
    os.truncate(shard, shard.stat().st_size // 2)
    says(refused(sharded, ModelError), shard, "is truncated or damaged")


# --- GGUF ------------------------------------------------------------------------------------------


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("weights")
    says(refused(tmp_path / "model.txt", ModelError), "is a file, but not a .gguf file", "name the folder")


@pytest.mark.parametrize("content", [b"", b"GG", b"this is no model" * 50, b"GGUF" + b"\xff" * 500])
def test_a_gguf_file_that_is_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    says(refused(path, ModelError), path, "cannot be read as GGUF", "Download it again")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_gguf(tmp_path: Path, keep: float) -> None:
    path = write_gguf(tmp_path / "model.gguf", "llama")
    os.truncate(path, round(path.stat().st_size * keep))
    says(refused(path, ModelError), path, "cannot be read as GGUF", "Download it again")


def test_gguf_of_an_unsupported_family(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", "rwkv6")
    says(refused(path, ModelError), path, "Supported families: ", "llama")


def test_a_missing_gguf(tmp_path: Path) -> None:
    says(refused(tmp_path / "none.gguf", ModelError), "none.gguf", "does not exist")


def write_gguf(path: Path, architecture: str) -> Path:
    """A file with a Llama's keys and one tensor: enough to be opened, too little to be a model."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {"block_count": 1, "context_length": 64, "embedding_length": 48}.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_tensor("token_embd.weight", np.zeros((260, 48), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# --- the hub ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nobody/no-such-model-7b", "no-such-model-7b"])
def test_unreachable_hub_names_the_other_choices(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(name, ModelError, out=tmp_path / "out")
    says(message, repr(name), "neither a local folder nor to be had from the hub", "the connection", "or .gguf file")


@pytest.mark.parametrize("name", ["what is this?", "a//b", "nobody/no:such"])
def test_names_that_the_hub_cannot_have(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as raised:
        inspect_model(name)
    says(str(raised.value), repr(name), "local folder")


# --- tokenizers ------------------------------------------------------------------------------------


def test_no_tokenizer(model: Path) -> None:
    for file in model.glob("*token*"):
        file.unlink()
    says(refused(model, ModelError), "no tokenizer can be read from", model, "Put tokenizer.json")


@pytest.mark.parametrize("text", ["", "{", "{}", "[]"])
def test_damaged_tokenizer(model: Path, text: str) -> None:
    (model / "tokenizer.json").write_text(text)
    says(refused(model, ModelError), "no tokenizer can be read from", model)


def test_tokenizer_of_another_model(model: Path) -> None:
    """Token ids beyond the embeddings must not crash deep inside a layer."""
    edit_config(model, vocab_size=100)
    edit_weights(model, lambda tensors: tensors.update({E: tensors[E][:100].contiguous()}))
    says(refused(model, ModelError), "token", "100", "tokenizer")


E = "model.embed_tokens.weight"


# --- options that the model refuses ----------------------------------------------------------------


def test_seqlen_beyond_the_context(model: Path) -> None:
    says(refused(model, ConfigError, seqlen=65), "--seqlen 65", "beyond the model's context of 64 tokens")


def test_ratio_beyond_what_can_go(model: Path) -> None:
    says(refused(model, ConfigError, ratio=0.8), "parameters to remove", "at most", "Lower --ratio")


def test_uniform_layout_of_a_pruned_model(model: Path, tmp_path: Path) -> None:
    pruned = prune(prune_config(model, tmp_path / "pruned")).path
    message = refused(pruned, ConfigError, layout="uniform")
    says(message, "layers are all of one size", "use --layout per-layer")


def test_file_curve_of_another_depth(model: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("[0.1, 0.2]")
    says(refused(model, ConfigError, allocation=str(tmp_path / "r.yaml")), "r.yaml", "a list of 3 ratios")


# --- output places ---------------------------------------------------------------------------------


def test_out_exists(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    says(refused(model, OutputError), tmp_path / "out", "exists", "--force")


def test_out_is_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    says(refused(model, OutputError, force=True), tmp_path / "out", "is a file: name a folder")


def test_force_replaces_an_earlier_output(model: Path, tmp_path: Path) -> None:
    first = prune(prune_config(model, tmp_path / "out")).record["parameters"]["after"]
    second = prune(prune_config(model, tmp_path / "out", ratio=0.4, force=True)).record["parameters"]["after"]
    assert second < first
    assert json.loads((tmp_path / "out" / "slimgpt.json").read_text())["parameters"]["after"] == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_force_replaces_no_folder_that_is_not_ours(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    says(refused(model, OutputError, force=True), tmp_path / "out", "slimgpt did not make it", "remove it yourself")


@pytest.mark.parametrize("force", [False, True])
def test_out_is_the_model(model: Path, force: bool) -> None:
    says(refused(model, OutputError, out=model, force=force), model, "own folder or inside it", "choose another")


@pytest.mark.parametrize("force", [False, True])
def test_out_inside_the_model(model: Path, force: bool) -> None:
    says(refused(model, OutputError, out=model / "a" / "b", force=force), "own folder or inside it", "choose another")


@pytest.mark.parametrize("force", [False, True])
def test_out_contains_the_model(model: Path, tmp_path: Path, force: bool) -> None:
    says(refused(model, OutputError, out=tmp_path, force=force), "contains the model", model, "choose another")


def test_out_contains_a_linked_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(model)
    says(refused(tmp_path / "link", OutputError, out=model, force=True), "own folder or inside it")


@pytest.mark.parametrize("out", ["", ".", "..", "/", "../here"])
def test_out_is_or_contains_the_working_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    here = tmp_path / "elsewhere" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    message = refused(model, OutputError, out=out, force=True)
    says(message, "choose another folder")


def test_parent_of_out_is_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    message = refused(model, OutputError, out=tmp_path / "file" / "out")
    says(message, tmp_path / "file" / "out", "cannot be made", "is not a folder that may be written to")


def test_parent_of_out_is_not_writable(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: Path(path) != tmp_path and allowed(path, mode, **more))
    says(refused(model, OutputError), tmp_path, "is not a folder that may be written to")


def test_disk_without_room(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 2**20, 2**20))
    says(refused(model, OutputError), "needs", "MiB", "has 1 MiB free", "make room, or choose another disk")


def test_unfinished_run(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "journal.json").write_text("{}")
    says(refused(model, OutputError), tmp_path / "out.partial", "--resume", "--force")


# --- devices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_asked_for_and_absent(model: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    says(refused(model, ConfigError, device=device), f"--device {device}", "sees 0 CUDA devices", "Use --device cpu")


def test_mps_asked_for_and_absent(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    says(refused(model, ConfigError, device="mps"), "--device mps", "no Apple GPU", "Use --device cpu")


@pytest.mark.parametrize("device", ["gpu", "", "meta", "cuda:x", "xla"])
def test_unknown_device(model: Path, device: str) -> None:
    says(refused(model, ConfigError, device=device), repr(device), "is not one of auto, cpu, cuda, cuda:N, mps")


def test_devices_are_checked_for_loading_too(model: Path) -> None:
    with pytest.raises(ConfigError, match="'gpu' is not one of"):
        load_model(str(model), "gpu")


# --- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"])
def test_weights_that_are_not_finite(model: Path, name: str, bad: float) -> None:
    edit_weights(model, lambda tensors: tensors[LAYER_1 + name].view(-1)[3:4].fill_(bad))
    message = refused(model, NumericalError)
    says(message, "layer 1", repr(name), "NaN or infinite", "download it again")


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_weights_outside_the_layers_that_are_not_finite(model: Path, name: str) -> None:
    edit_weights(model, lambda tensors: tensors[name].view(-1)[-1:].fill_(float("nan")))
    says(refused(model, NumericalError), repr(name), "NaN or infinite", "download it again")


def test_activations_that_overflow(model: Path) -> None:
    def blow_up(tensors: dict[str, torch.Tensor]) -> None:
        tensors[LAYER_1 + "mlp.up_proj.weight"] *= 1e25
        tensors[LAYER_1 + "mlp.gate_proj.weight"] *= 1e25

    edit_weights(model, blow_up)
    says(refused(model, NumericalError), "search: the model's predictions are not finite", "Try --dtype bfloat16 or")
    without = refused(model, NumericalError, allocation="log")
    says(without, "layer 1, ffn", "not finite", "Try --dtype bfloat16 or float32")


def test_weights_that_overflow_the_asked_dtype(model: Path) -> None:
    edit_weights(model, lambda tensors: tensors[LAYER_1 + "mlp.up_proj.weight"].mul_(1e6))
    message = refused(model, NumericalError, dtype="float16")
    says(message, "layer 1", "'mlp.up_proj.weight'", "float16", "--dtype")


@pytest.mark.parametrize("options", [{"solver": "obs"}, {"solver": "slimgpt"}, {"solver": "wanda", "repair": True}])
def test_a_singular_hessian_names_the_layer_and_the_cure(model: Path, options: dict[str, Any]) -> None:
    message = refused(model, NumericalError, damping=0, samples=1, seqlen=16, allocation="log", **options)
    says(message, "layer 0, ffn (mlp.down_proj)", "singular with damping 0", "Raise --damping", "--samples")


def test_so_does_the_search(model: Path) -> None:
    message = refused(model, NumericalError, damping=0, samples=1, seqlen=16)
    says(message, "search, layer 2, attention", "singular with damping 0", "Raise --damping", "--samples")


def test_damping_is_that_cure(model: Path, tmp_path: Path) -> None:
    assert prune(prune_config(model, tmp_path / "out", damping=0.01, samples=1, seqlen=16)).path.is_dir()


def test_a_layer_that_fails_late_leaves_no_unfinished_run(model: Path, tmp_path: Path) -> None:
    """Other options or another model make another run, so there is nothing to resume."""
    edit_weights(model, lambda tensors: tensors["model.layers.2.mlp.up_proj.weight"].fill_(float("nan")))
    says(refused(model, NumericalError), "layer 2")
    edit_weights(model, lambda tensors: tensors["model.layers.2.mlp.up_proj.weight"].fill_(0.1))
    assert prune(prune_config(model, tmp_path / "out")).path.is_dir()


# --- reading, beside pruning -----------------------------------------------------------------------


@pytest.mark.parametrize("read", [inspect_model, lambda name: load_model(name, "cpu")])
def test_reading_refuses_the_same(model: Path, read: Callable[[str], object]) -> None:
    os.truncate(model / WEIGHTS, 5000)
    with pytest.raises(ModelError, match="is truncated or damaged"):
        read(str(model))
