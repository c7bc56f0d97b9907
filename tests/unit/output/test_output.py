"""The output folder: complete, loadable, the same bytes for the same command, and all or nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import records
import tiny_llama
import torch
from safetensors.torch import load_file
from tiny_llama import prune_config, tokens
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import slimgpt
from slimgpt import PruneConfig, load_model, prune
from slimgpt.errors import OutputError
from slimgpt.output import assembly, place
from slimgpt.solvers import SOLVERS

FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "slimgpt.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("output") / "model")


@pytest.fixture(scope="module")
def pruned(model: Path) -> Path:
    return prune(prune_config(model, model.parent / "pruned")).path


@pytest.fixture(scope="module")
def record(pruned: Path) -> dict[str, Any]:
    return json.loads((pruned / "slimgpt.json").read_text())


@torch.inference_mode()
def logits(network: Any) -> Tensor:
    return network(tokens(2, 24), use_cache=False).logits


def dense_logits(model: Path) -> Tensor:
    return logits(LlamaForCausalLM.from_pretrained(model))


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


# --- what is there ---------------------------------------------------------------------------------


def test_the_folder_is_complete_and_nothing_is_left_beside_it(pruned: Path) -> None:
    assert {file.name for file in pruned.iterdir()} == FILES | {"modeling_slimgpt.py"}
    assert not pruned.with_name("pruned.partial").exists()


def test_the_record_holds_everything(pruned: Path, model: Path, record: dict[str, Any]) -> None:
    options = {**record["options"]}
    assert PruneConfig(**options) == prune_config(model, pruned, allocation="searched")
    assert set(record["versions"]) == {"slimgpt", "torch", "transformers", "python"}
    assert record["family"] == "llama"
    weights = load_file(pruned / "model.safetensors")
    sizes = record["parameters"]
    assert sizes["after"] == sum(tensor.numel() for tensor in weights.values())
    assert sizes["before"] == sum(p.numel() for p in tiny_llama.make_model().parameters())
    assert sizes["removed_ratio"] == pytest.approx(0.2, abs=0.003)
    assert sizes["bytes_after"] == 4 * sizes["after"]
    assert sum(record["cost"]["seconds"].values()) > 0
    assert record["cost"]["peak_host_bytes"] > 2**20


def test_the_record_names_the_rows_that_survive(model: Path, pruned: Path, record: dict[str, Any]) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (model, pruned))
    removed = 0
    for index, (layer, sizes) in enumerate(zip(records.by_layer(record), record["sizes"], strict=True)):
        prefix = f"model.layers.{index}."
        ffn, attention = layer["ffn"], layer["attention"]
        assert torch.equal(after[prefix + "mlp.up_proj.weight"], before[prefix + "mlp.up_proj.weight"][ffn["kept"]])
        keys = before[prefix + "self_attn.k_proj.weight"].unflatten(0, (3, 8))[attention["kept"]].flatten(0, 1)
        assert torch.equal(after[prefix + "self_attn.k_proj.weight"], keys)
        queries = before[prefix + "self_attn.q_proj.weight"].unflatten(0, (3, 16))[attention["kept"]].flatten(0, 1)
        assert torch.equal(after[prefix + "self_attn.q_proj.weight"], queries)
        assert sizes["intermediate_size"] == len(ffn["kept"])
        assert sizes["num_key_value_heads"] == len(attention["kept"])
        removed += ffn["num_units"] - len(ffn["kept"]) + attention["num_units"] - len(attention["kept"])
        assert 0 <= attention["error"] < 1
        assert 0 < ffn["error"] < 1
    assert removed > 10


def test_what_is_outside_the_layers_is_untouched(model: Path, pruned: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (model, pruned))
    for name in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"):
        assert torch.equal(before[name], after[name])


def test_the_card_says_what_was_done_and_how_to_load(pruned: Path, record: dict[str, Any]) -> None:
    card = (pruned / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for part in (
        "trust_remote_code=True",
        "Solver `obs`",
        "allocation `searched`",
        "`builtin`",
        "repaired by least squares",
    ):
        assert part in card
    assert f"{record['parameters']['before']:,} | {record['parameters']['after']:,}" in card
    assert len([line for line in card.splitlines() if line.startswith(("| 0 |", "| 1 |", "| 2 |"))]) == 3


def test_tokenizer_and_generation_settings_come_along(model: Path, pruned: Path) -> None:
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (model, pruned))
    assert before("Some text.")["input_ids"] == after("Some text.")["input_ids"]
    assert before.chat_template == after.chat_template == tiny_llama.TEMPLATE
    assert json.loads((pruned / "generation_config.json").read_text())["max_new_tokens"] == 7


# --- the same bytes, and other ones ------------------------------------------------------------------


def test_the_same_command_gives_the_same_bytes(model: Path, pruned: Path, tmp_path: Path) -> None:
    again = prune(prune_config(model, tmp_path / "out")).path
    assert digest(again) == digest(pruned)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"samples": 9}, {"damping": 0.05}, {"solver": "wanda"}])
def test_another_command_gives_other_bytes(model: Path, pruned: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert digest(prune(prune_config(model, tmp_path / "out", **changes)).path) != digest(pruned)


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"flap"}))  # whose biases are parameters too
def test_every_solver_removes_the_same_number(model: Path, pruned: Path, tmp_path: Path, solver: str) -> None:
    result = prune(prune_config(model, tmp_path / "out", solver=solver))
    assert result.record["parameters"] == json.loads((pruned / "slimgpt.json").read_text())["parameters"]
    assert logits(load_model(str(result.path), "cpu")[0]).isfinite().all()


@pytest.mark.parametrize("ratio", [0, 0.0])
@pytest.mark.parametrize("layout", ["per-layer", "uniform"])
def test_ratio_0_is_the_dense_model(model: Path, tmp_path: Path, ratio: float, layout: str) -> None:
    out = prune(prune_config(model, tmp_path / "out", ratio=ratio, layout=layout)).path
    before, after = (load_file(folder / "model.safetensors") for folder in (model, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(load_model(str(out), "cpu")[0]), dense_logits(model))


def test_pruning_changes_logits(model: Path, pruned: Path) -> None:
    """Negative control of the test above."""
    difference = (logits(load_model(str(pruned), "cpu")[0]) - dense_logits(model)).abs().max()
    assert 1e-3 < difference < 100


def test_shards_hold_what_one_file_holds(
    model: Path, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large outputs keep the journal's shards as they are."""
    monkeypatch.setattr(place, "ONE_FILE_BYTES", 0)
    out = prune(prune_config(model, tmp_path / "out")).path
    shards = sorted(out.glob("*.safetensors"))
    assert [shard.name for shard in shards] == [f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    whole = load_file(pruned / "model.safetensors")
    parts = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert torch.equal(logits(load_model(str(out), "cpu")[0]), logits(load_model(str(pruned), "cpu")[0]))


# --- layouts, dtypes, other outputs ------------------------------------------------------------------


def test_uniform_is_a_stock_class(model: Path, tmp_path: Path) -> None:
    out = prune(prune_config(model, tmp_path / "out", layout="uniform")).path
    assert {file.name for file in out.iterdir()} == FILES
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] in ("llama", "mistral")
    assert "per_layer_config" not in config
    network = AutoModelForCausalLM.from_pretrained(out)
    assert type(network).__module__.startswith("transformers.")
    assert logits(network).isfinite().all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_on_disk_is_the_one_asked_for(model: Path, tmp_path: Path, dtype: str) -> None:
    out = prune(prune_config(model, tmp_path / "out", dtype=dtype)).path
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {getattr(torch, dtype)}
    assert json.loads((out / "config.json").read_text())["dtype"] == dtype


def test_dtype_of_the_checkpoint_is_kept(tmp_path: Path) -> None:
    model = tiny_llama.save_model(tmp_path / "model", dtype=torch.bfloat16)
    out = prune(prune_config(model, tmp_path / "out")).path
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}


def test_a_pruned_model_can_be_pruned_again(pruned: Path, tmp_path: Path) -> None:
    before = slimgpt.inspect_model(str(pruned))["parameters"]["total"]
    result = prune(prune_config(pruned, tmp_path / "out", ratio=0.1))
    assert result.record["parameters"]["before"] == before
    assert result.record["parameters"]["removed_ratio"] == pytest.approx(0.1, abs=0.003)
    assert logits(load_model(str(result.path), "cpu")[0]).isfinite().all()


def test_a_failed_run_leaves_an_older_output_as_it_was(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = prune(prune_config(model, tmp_path / "out")).path
    before = digest(out)

    def disk_full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(assembly, "write_tensors", disk_full)
    with pytest.raises(OutputError, match=r"the disk is full.* --resume"):
        prune(prune_config(model, tmp_path / "out", ratio=0.4, force=True))
    assert digest(out) == before
