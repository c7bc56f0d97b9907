"""slimgpt prune --experts: the right experts go, what stays is what it was, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mixtures
import pytest
import tiny_llama
import torch
from mixtures import EXPERTS, PER_TOKEN
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from slimgpt import PruneConfig, cli, prune
from slimgpt.errors import ConfigError, ModelError
from slimgpt.experts.counts import count_kept
from slimgpt.experts.mixture import Mixture, find_mixture
from slimgpt.model.stock import open_stock

SAMPLES, SEQLEN = 6, 24
PROMPT = tiny_llama.tokens(2, 20, seed=1)
CLOSE = 1e-5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mixtures")
    return {kind: mixtures.save_mixture(folder / kind, kind) for kind in mixtures.KINDS}


@pytest.fixture(scope="module")
def smaller(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("smaller")
    return {kind: run(models[kind], folder / kind, experts=0.5) for kind in models}


def run(model: Path, out: Path, **options: Any) -> Path:
    numbers = {"calibration": "builtin", "samples": SAMPLES, "seqlen": SEQLEN, "device": "cpu", "batch_size": 4}
    numbers |= {"expert_repair": False} if "experts" in options else {}
    return prune(PruneConfig(str(model), str(out), **{**numbers, **options})).path


def record_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "slimgpt.json").read_text())


def kept_of(out: Path) -> dict[int, list[int]]:
    return {layer["layer"]: layer["kept"] for layer in record_of(out)["experts"]["layers"]}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=PROMPT).logits.float()


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for file in folder.glob("*.safetensors") for name, one in load_file(file).items()}


# --- what is left -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_sliced_equals_a_router_that_cannot_choose_them(
    models: dict[str, Path], smaller: dict[str, Path], kind: str
) -> None:
    dense, model = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (models[kind], smaller[kind]))
    before = logits(dense)
    for index, block in mixtures.blocks_of(dense):
        gone = sorted(set(range(EXPERTS)) - set(kept_of(smaller[kind])[index]))
        dense.model.layers[index].mlp = mixtures.Masked(block, gone, renormalised=kind != "qwen2_moe")
    torch.testing.assert_close(logits(model), logits(dense), atol=CLOSE, rtol=CLOSE)
    assert (logits(model) - before).abs().max() > 100 * CLOSE, "nothing was removed"


@pytest.mark.parametrize("kind", mixtures.KINDS)
def test_the_stock_class_loads_it_and_what_stays_is_as_it_was(
    models: dict[str, Path], smaller: dict[str, Path], kind: str
) -> None:
    dense, model = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (models[kind], smaller[kind]))
    assert type(model) is type(dense)
    assert not (smaller[kind] / "modeling_slimgpt.py").exists()
    assert model.num_parameters() == record_of(smaller[kind])["parameters"]["after"]
    dims = find_mixture(open_stock(str(models[kind]))).dims
    for name, tensor in dense.state_dict().items():
        if name in dims:
            tensor = tensor[kept_of(smaller[kind])[int(name.split(".")[2])]]
        assert torch.equal(model.state_dict()[name], tensor), name
    assert {len(block.experts.down_proj) for _, block in mixtures.blocks_of(model)} == {EXPERTS // 2}
    assert len(dims) == 3 * len(mixtures.blocks_of(dense)) + (kind == "deepseek_v3") * len(mixtures.blocks_of(dense))
    assert model.generate(PROMPT[:1], max_new_tokens=3, do_sample=False).shape[1] == PROMPT.shape[1] + 3


def test_groups_keep_equally_many_each(smaller: dict[str, Path]) -> None:
    for kept in kept_of(smaller["deepseek_v3"]).values():
        assert sum(number < EXPERTS // 2 for number in kept) == EXPERTS // 4
    settings = json.loads((smaller["deepseek_v3"] / "config.json").read_text())
    assert (settings["n_group"], settings["topk_group"], settings["first_k_dense_replace"]) == (2, 1, 1)


@pytest.mark.parametrize("kind", ["mixtral", pytest.param("deepseek_v3", marks=pytest.mark.nightly)])
def test_files_are_written_as_they_came(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """One tensor an expert, in other names than the modules'; or the modules' own; and in their dtypes."""
    fused = mixtures.save_mixture(tmp_path / "fused", kind)
    save_file(
        {name: one.contiguous() for name, one in mixtures.make_mixture(kind).to(torch.bfloat16).state_dict().items()},
        fused / "model.safetensors",
        metadata={"format": "pt"},
    )
    for dense in (models[kind], fused):
        out = run(dense, tmp_path / f"out-{dense.name}", experts=0.25)
        before, after = tensors_of(dense), tensors_of(out)
        assert set(after) <= set(before)
        assert {after[name].dtype for name in after} == {before[name].dtype for name in after}
        gone = {name.split(".experts.")[1].split(".")[0] for name in set(before) - set(after)}
        assert gone == ({"6", "7"} if dense is not fused else set())
    assert logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out-fused")).isfinite().all()
    other = run(fused, tmp_path / "other", experts=0.25, dtype="float16")
    assert {tensor.dtype for tensor in tensors_of(other).values()} == {torch.float16}


@pytest.mark.nightly
def test_shards_hold_the_same_and_a_large_model_has_a_file_a_layer(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharded = mixtures.save_mixture(tmp_path / "sharded", "qwen3_moe", shards="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one, other = (run(path, tmp_path / f"out-{path.name}", experts=0.25) for path in (models["qwen3_moe"], sharded))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    monkeypatch.setattr("slimgpt.output.place.ONE_FILE_BYTES", 0)
    large = run(sharded, tmp_path / "large", experts=0.25)
    assert len(list(large.glob("*.safetensors"))) == mixtures.LAYERS + 1
    assert all(torch.equal(tensors_of(large)[name], tensor) for name, tensor in tensors_of(one).items())


def test_tensors_that_nobody_reads_are_left_out_and_named(tmp_path: Path) -> None:
    """A head for the token after the next, as DeepSeek's files have it."""
    dense = mixtures.save_mixture(tmp_path / "dense", "deepseek_v3", num_nextn_predict_layers=1)
    more = f"model.layers.{mixtures.LAYERS}.eh_proj.weight"
    tiny_llama.edit_weights(dense, lambda tensors: tensors.update({more: torch.ones(4, 4)}))
    out = run(dense, tmp_path / "out", experts=0.5)
    assert record_of(out)["experts"]["left_out"] == [more]
    assert more not in tensors_of(out)
    assert json.loads((out / "config.json").read_text())["num_nextn_predict_layers"] == 0


def test_the_same_seed_gives_the_same_bytes(models: dict[str, Path], tmp_path: Path) -> None:
    outs = [
        run(models["mixtral"], tmp_path / name, experts=0.5, expert_score="random", seed=seed)
        for name, seed in (("one", 3), ("two", 3), ("three", 4))
    ]
    one, two, three = ((out / "model.safetensors").read_bytes() for out in outs)
    assert one == two != three


def test_the_result_is_pruned_again(smaller: dict[str, Path], tmp_path: Path) -> None:
    fewer = run(smaller["qwen3_moe"], tmp_path / "fewer", experts=0.25)
    assert record_of(fewer)["experts"]["after"] == 3
    narrower = run(fewer, tmp_path / "narrower", ratio=0.1, solver="magnitude", allocation="uniform")
    record = record_of(narrower)
    assert record["before"]["before"]["kind"] == "experts"
    assert record["parameters"]["after"] < record_of(fewer)["parameters"]["after"]


# --- around it --------------------------------------------------------------------------------------


def test_record_card_and_command_say_what_went(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ["--calibration", "builtin", "--samples", "4", "--seqlen", "16", "--device", "cpu"]
    assert cli.main(["prune", str(models["mixtral"]), str(tmp_path / "out"), "--experts", "0.25", *numbers]) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = record_of(tmp_path / "out")["experts"]
    assert f"{EXPERTS} → 6 experts a layer, {PER_TOKEN} of them a token" in said
    assert f"{found['tokens_least']:,} at least" in said and "note: with fewer than 100 tokens" in said
    assert found["tokens_mean"] == 4 * 16 * PER_TOKEN / EXPERTS
    for layer in found["layers"]:
        assert sum(layer["tokens"]) == 4 * 16 * PER_TOKEN
        assert sum(layer["share_after"]) == pytest.approx(1)
        assert layer["share_kept"] == pytest.approx(sum(layer["share_before"][kept] for kept in layer["kept"]))
    card = (tmp_path / "out" / "README.md").read_text()
    gone = sorted(set(range(EXPERTS)) - set(found["layers"][0]["kept"]))
    assert f"taking out\n2 of the {EXPERTS} experts" in card and f"| 0 | {gone[0]}, {gone[1]} |" in card
    assert "score `exact`" in card and "4 windows of 16 tokens of `builtin`" in card


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("mixtral", {"experts": 1.0}, r"--experts 1\.0 is outside \(0, 1\)"),
        (
            "mixtral",
            {"experts": 0.9},
            r"--experts 0\.9 leaves 1 of 8 experts of a layer, and that cannot be: each token goes to 2 of them, so at "
            r"least 2 stay, and one goes\. The nearest that can: --experts 0\.75 \(2 stay\) or --experts 0\.625",
        ),
        ("mixtral", {"experts": 0.01}, r"leaves 8 of 8 .* --experts 0\.25 \(6 stay\) or --experts 0\.125 \(7 stay\)"),
        ("deepseek_v3", {"experts": 0.4}, r"chosen from 1 of 2 groups of equal size, so at least 4 in multiples of 2"),
        ("mixtral", {"experts": 0.25, "experts_multiple_of": 8}, "none of the 8 experts of a layer can go"),
        ("mixtral", {"experts_multiple_of": 2, "ratio": 0.1}, "--experts-multiple-of goes with --experts: add that"),
        ("mixtral", {"experts": 0.25, "ratio": 0.1}, "--experts goes without --ratio: heads and channels stay"),
        ("mixtral", {"experts": 0.25, "layout": "uniform"}, "--experts goes without --layout"),
        ("mixtral", {"experts": 0.25, "calibration": "self"}, "--experts never does: give a text"),
        ("mixtral", {"experts": 0.25, "seqlen": 65}, "--seqlen 65 is beyond the model's context of 64 tokens"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    models: dict[str, Path], tmp_path: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(models[kind], tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("num_experts", "share", "multiple_of", "expected"),
    [(8, 0.3, 1, 6), (8, 0.3, 4, 4), (60, 0.25, 1, 45), (60, 0.25, 8, 48), (128, 0.5, 8, 64)],
)
def test_counts_are_rounded(num_experts: int, share: float, multiple_of: int, expected: int) -> None:
    mixture = Mixture(("n",), num_experts, {}, {0: "experts"}, groups=1, groups_chosen=1)
    assert count_kept(mixture, share, multiple_of, per_token=2) == expected


def test_groups_want_two_experts_each_and_enough_for_a_token() -> None:
    mixture = Mixture(("n",), 256, {}, {0: "experts"}, groups=8, groups_chosen=4)
    assert (mixture.least(8), mixture.least(12), count_kept(mixture, 0.25, 1, 8)) == (16, 24, 192)


def test_models_without_such_experts_are_refused(tmp_path: Path) -> None:
    dense = tiny_llama.save_model(tmp_path / "dense")
    with pytest.raises(ModelError, match="no experts of model_type 'llama' can be removed: it has no layers of routed"):
        run(dense, tmp_path / "out", experts=0.25)


def test_a_layer_that_does_something_else_is_refused(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the rehearsal: a router whose mask does not hold."""
    monkeypatch.setattr("slimgpt.experts.masking.PRODUCTS", set())
    with pytest.raises(ModelError, match="layer 0 without some of them is not what it is when its router cannot"):
        run(models["mixtral"], tmp_path / "out", experts=0.25)
    assert not list(tmp_path.iterdir())


def test_experts_in_a_form_that_cannot_be_cut_are_refused(tmp_path: Path) -> None:
    dense = mixtures.save_mixture(tmp_path / "dense", "mixtral")
    with safe_open(dense / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert any(".experts.7." in name for name in names)
    lost = [name for name in names if ".experts.7." in name]
    tiny_llama.edit_weights(dense, lambda tensors: [tensors.pop(name) for name in lost])
    with pytest.raises(ModelError, match="has shape"):
        run(dense, tmp_path / "out", experts=0.25)
