"""``slimgpt recover`` on tiny models: what comes out, what is chosen, resuming, and what is refused before work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
import torch
from peft import PeftModel
from recovery_shop import Shop, Watching, loaded, logits, options, sentences
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from slimgpt import load_model, perplexity
from slimgpt.config import RecoverConfig
from slimgpt.errors import ModelError, NumericalError, SlimGPTError
from slimgpt.recovery import recover
from slimgpt.recovery.lora import adapted_paths


def held_out_perplexity(model: Path, seed: int = 99) -> float:
    return perplexity(*load_model(str(model), "cpu"), "\n".join(sentences(seed, 30)), 32).perplexity


# --- what comes out ----------------------------------------------------------------------------------


def test_merged_weights_give_the_adapter_models_logits(shop: Shop, tmp_path: Path) -> None:
    result = recover(options(shop, tmp_path / "out", keep_adapter=True))
    adapted = PeftModel.from_pretrained(loaded(shop.pruned), tmp_path / "out" / "adapter")
    torch.testing.assert_close(logits(loaded(result.path)), logits(adapted), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(loaded(result.path)), logits(loaded(shop.pruned)), atol=1e-1)


def test_bfloat16_weights_are_merged_in_float32_and_rounded_once(shop: Shop, tmp_path: Path) -> None:
    dense = tiny_llama.save_model(tmp_path / "m", dtype=torch.bfloat16)
    recover(options(shop, tmp_path / "out", model=str(dense), keep_adapter=True))
    base = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").merge_and_unload().state_dict()
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    for name, tensor in written.items():
        assert torch.equal(tensor, merged[name].bfloat16()), name


def test_the_layout_is_that_of_the_model(shop: Shop, tmp_path: Path) -> None:
    recover(options(shop, tmp_path / "out"))
    names = {path.name for path in shop.pruned.iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in names - {"model.safetensors", "slimgpt.json", "README.md"}:
        assert (tmp_path / "out" / name).read_bytes() == (shop.pruned / name).read_bytes(), name
    before, after = (load_file(folder / "model.safetensors") for folder in (shop.pruned, tmp_path / "out"))
    assert {name: tensor.shape for name, tensor in before.items()} == {n: tensor.shape for n, tensor in after.items()}


@pytest.mark.parametrize(
    "preparation",
    [
        pytest.param("import slimgpt; options = {}", marks=pytest.mark.nightly),
        "options = {'trust_remote_code': True}",
    ],
)
def test_the_output_loads_in_a_fresh_process(shop: Shop, tmp_path: Path, preparation: str) -> None:
    result = recover(options(shop, tmp_path / "out"))
    program = (
        f"{preparation}\nimport sys, torch\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(result.path)!r}, **options).eval()\n"
        "total = model(input_ids=torch.arange(12)[None]).logits.double().sum().item()\n"
        "print(total, 'slimgpt' in sys.modules)"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    total, with_slimgpt = done.stdout.split()
    expected = loaded(result.path).eval()(input_ids=torch.arange(12)[None]).logits.double().sum().item()
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert with_slimgpt == str(preparation.startswith("import"))


def test_the_record_goes_on_and_the_card_says_so(shop: Shop, tmp_path: Path) -> None:
    once = recover(options(shop, tmp_path / "once"))
    twice = recover(options(shop, tmp_path / "twice", model=str(once.path), teacher=str(shop.dense), full=True))
    record = json.loads((twice.path / "slimgpt.json").read_text())
    assert record == json.loads(json.dumps(twice.record))
    pruned = json.loads((shop.pruned / "slimgpt.json").read_text())
    assert (record["sites"], record["sizes"]) == (pruned["sites"], pruned["sizes"])
    first, second = record["recovery"]
    assert 0 < first["cpu_seconds"] < 3600
    assert (first["method"], first["weights"], second["method"], second["weights"]) == (
        "fine-tuning",
        "lora",
        "distillation",
        "all",
    )
    assert [row["step"] for row in first["history"] if "eval_perplexity" in row] == [0, 2, 4, 6, 8]
    assert [row["step"] for row in first["history"] if "loss" in row] == list(range(1, 9))
    held_out = first["held_out"]
    assert held_out["perplexity_after"] == min(row.get("eval_perplexity", 1e9) for row in first["history"])
    assert held_out["perplexity_before"] == first["history"][0]["eval_perplexity"]
    card = (twice.path / "README.md").read_text()
    assert f"{held_out['perplexity_before']:.2f}" in card
    assert "distillation from" in card


def test_a_dense_model_is_recovered_too_as_the_control(shop: Shop, tmp_path: Path) -> None:
    shutil.copytree(shop.dense, tmp_path / "dense")
    (tmp_path / "dense" / "slimgpt.json").unlink()
    result = recover(options(shop, tmp_path / "out", model=str(tmp_path / "dense"), learning_rate=1e-3))
    assert len(result.record["recovery"]) == 1
    assert "Fine-tuned" in (result.path / "README.md").read_text()
    loaded(result.path)


# --- what is learned ---------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
def test_distillation_brings_a_pruned_model_nearer_to_the_dense_one(shop: Shop, tmp_path: Path, full: bool) -> None:
    steps = {"max_steps": 40, "eval_every": 20, "learning_rate": 5e-3}
    result = recover(options(shop, tmp_path / "out", teacher=str(shop.dense), full=full, **steps))
    before, after = (held_out_perplexity(path) for path in (shop.pruned, result.path))
    assert held_out_perplexity(shop.dense) < after < 0.8 * before
    distances = [divergence(shop, path) for path in (shop.pruned, result.path)]
    assert distances[1] < 0.6 * distances[0]


def divergence(shop: Shop, model: Path) -> float:
    """KL from the dense model on sentences that nobody has seen."""
    dense, tokenizer = load_model(str(shop.dense), "cpu")
    other, _ = load_model(str(model), "cpu")
    ids = torch.tensor([tokenizer(text)["input_ids"][:32] for text in sentences(98, 20)])
    with torch.inference_mode():
        p, q = (of(input_ids=ids).logits.log_softmax(-1) for of in (dense, other))
    return float(torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True))


def test_hidden_states_may_be_matched_too(shop: Shop, tmp_path: Path) -> None:
    """Heavily weighted, matching brings hidden states nearer than distillation alone does."""
    found = {}
    for weight in (0.0, 10.0):
        given = {"teacher": str(shop.dense), "full": True, "hidden_weight": weight, "max_steps": 20}
        result = recover(options(shop, tmp_path / f"out{weight}", **given))
        ids = tiny_llama.tokens(4, 20, seed=3) % 128
        with torch.inference_mode():
            ours, theirs = (loaded(p)(input_ids=ids, output_hidden_states=True) for p in (result.path, shop.dense))
        found[weight] = sum(
            float((a - b).square().sum() / b.square().sum())
            for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True)
        )
    assert found[10.0] < found[0.0]


@pytest.mark.parametrize(
    "how",
    [{}, {"hidden_weight": 1e-12}, {"temperature": 2.0}],
    ids=["teacher ahead", "teacher beside", "other temperature"],
)
def test_the_texts_own_tokens_are_learned_beside_the_teachers_predictions(
    shop: Shop, tmp_path: Path, how: dict[str, float]
) -> None:
    """A model that is its own teacher has nothing but rounding to learn from it."""
    given = {"teacher": str(shop.pruned), "full": True, "keep": "last", **how}
    before = held_out_perplexity(shop.pruned)
    after = {
        share: held_out_perplexity(recover(options(shop, tmp_path / f"{share}", label_share=share, **given)).path)
        for share in (0.0, 0.5)
    }
    assert after[0.5] < 0.9 * min(before, after[0.0])


def test_a_teacher_beside_the_training_says_what_it_says_ahead_of_it(shop: Shop, tmp_path: Path) -> None:
    """Hidden states that weigh nothing leave the predictions, which then come from no store."""
    given = {"teacher": str(shop.dense), "full": True}
    ahead, watching = recover(options(shop, tmp_path / "a", **given)), Watching()
    beside = recover(options(shop, tmp_path / "b", hidden_weight=1e-12, **given), watching)
    torch.testing.assert_close(logits(loaded(ahead.path)), logits(loaded(beside.path)), rtol=1e-4, atol=1e-4)
    assert "teacher" in ahead.record["recovery"][-1]["seconds"]
    assert "teacher" not in beside.record["recovery"][-1]["seconds"]


def test_only_responses_are_learned_unless_asked_otherwise(shop: Shop, tmp_path: Path) -> None:
    counts = {}
    for loss_on in ("response", "all"):
        given = {"data": str(shop.instructions), "loss_on": loss_on, "seqlen": 64, "learning_rate": 1e-3}
        with pytest.raises(SlimGPTError, match="no response that begins within"):
            recover(options(shop, tmp_path / "no", data=str(shop.instructions), seqlen=16))
        dense = tiny_llama.save_model(tmp_path / f"m-{loss_on}", max_position_embeddings=512)
        result = recover(options(shop, tmp_path / loss_on, **{**given, "model": str(dense), "seqlen": 256}))
        counts[loss_on] = result.record["recovery"][0]["learned_tokens"]
    assert counts["response"] < 0.4 * counts["all"]


@pytest.mark.parametrize("name", ["gpt2", "phi3", "gemma2", "opt"])
def test_every_kind_of_projection_gets_an_adapter(shop: Shop, tmp_path: Path, name: str) -> None:
    """Transposed, fused and plain ones; OPT does not pack."""
    dense = tiny.save_model(tmp_path / "m", name)
    result = recover(options(shop, tmp_path / "out", model=str(dense), keep_adapter=True, max_steps=4))
    adapted = PeftModel.from_pretrained(loaded(dense), tmp_path / "out" / "adapter")
    torch.testing.assert_close(logits(loaded(result.path)), logits(adapted), rtol=1e-4, atol=1e-4)
    before, after = (loaded(path).state_dict() for path in (dense, result.path))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    paths = adapted_paths(open_model(dense))
    layers = tiny.MODELS[name].layers
    assert changed == {f"{layers}.{layer}.{path}.weight" for layer in range(tiny.LAYERS) for path in paths}


def open_model(path: Path) -> Any:
    from slimgpt.model.checkpoint import open_checkpoint

    return open_checkpoint(str(path))


def test_llama_has_the_papers_seven_projections(shop: Shop) -> None:
    names = {path.rpartition(".")[2] for path in adapted_paths(open_model(shop.pruned))}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("embeddings", [False, True])
def test_embeddings_and_head_stay_unless_asked_otherwise(shop: Shop, tmp_path: Path, embeddings: bool) -> None:
    dense = tiny_llama.save_model(tmp_path / "m", tie_word_embeddings=False)
    given = {"model": str(dense), "full": True, "train_embeddings": embeddings, "max_steps": 4}
    result = recover(options(shop, tmp_path / "out", **given))
    before, after = (loaded(path).state_dict() for path in (dense, result.path))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == (set() if embeddings else {"model.embed_tokens.weight", "lm_head.weight"})


def test_experts_are_trained_whole(shop: Shop, tmp_path: Path) -> None:
    dense = tiny.save_model(tmp_path / "m", "mixtral")
    with pytest.raises(ModelError, match=r"which LoRA adapters do not reach\. Use --full"):
        recover(options(shop, tmp_path / "out", model=str(dense)))
    result = recover(options(shop, tmp_path / "out", model=str(dense), full=True, max_steps=4))
    before, after = (loaded(path).state_dict() for path in (dense, result.path))
    assert before.keys() == after.keys()
    assert not torch.equal(
        before["model.layers.0.mlp.experts.down_proj"], after["model.layers.0.mlp.experts.down_proj"]
    )


# --- which checkpoint wins ----------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
def test_the_best_checkpoint_wins_and_training_stops_early(shop: Shop, tmp_path: Path, full: bool) -> None:
    """Few sentences and a high rate: learned by heart soon, to the harm of all others."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(7, 16)))
    watching = Watching()
    given = {"data": str(few), "held_out": 0.5, "max_steps": 0, "epochs": 400, "eval_every": 4, "patience": 2}
    rates = {"learning_rate": 2e-2, "full": full, "rank": 32}
    result = recover(options(shop, tmp_path / "out", **given, **rates), watching)
    entry = result.record["recovery"][-1]
    best = min(watching.perplexities, key=lambda step: watching.perplexities[step])
    assert entry["best_step"] == best
    assert max(watching.perplexities) == entry["steps"] == best + 2 * 4
    stopped = options(shop, tmp_path / "again", **{**given, "patience": 400}, **rates)
    assert stopped.epochs == 400
    assert entry["held_out"]["perplexity_after"] == pytest.approx(remeasured(result.path, shop, stopped), rel=1e-3)


def remeasured(model: Path, shop: Shop, config: RecoverConfig) -> float:
    """Held-out perplexity of a written model, on the rows that the run had."""
    from slimgpt.recovery import rows
    from slimgpt.recovery.packing import collate

    model_loaded, tokenizer = load_model(str(model), "cpu")
    _, held_out = rows.build(config, tokenizer, packing=True)
    total = count = 0.0
    for row in held_out:
        batch = collate([row])
        labels = batch.pop("labels")
        with torch.inference_mode():
            logits_TV = model_loaded(**batch, use_cache=False).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits_TV, labels[0, 1:], reduction="sum"))
        count += int((labels[0, 1:] != -100).sum())
    return float(torch.tensor(total / count).exp())


def test_a_run_that_only_harms_is_not_written(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"so nothing was written\. Lower --learning-rate"):
        recover(options(shop, tmp_path / "out", full=True, learning_rate=5.0))
    assert not (tmp_path / "out").exists()
    assert recover(options(shop, tmp_path / "out")).path.exists()


def test_the_last_step_is_written_where_that_is_asked(shop: Shop, tmp_path: Path) -> None:
    """Equal training of several models, of which it may harm some."""
    config = options(shop, tmp_path / "out", full=True, learning_rate=1.0, keep="last", patience=1)
    result = recover(config)
    entry = result.record["recovery"][-1]
    assert entry["best_step"] == entry["steps"] == config.max_steps
    held_out = entry["held_out"]
    assert held_out["perplexity_after"] > held_out["perplexity_before"]
    assert held_out["perplexity_after"] == entry["history"][-1]["eval_perplexity"]
    assert held_out["perplexity_after"] == pytest.approx(remeasured(result.path, shop, config), rel=1e-2)


# --- teachers ----------------------------------------------------------------------------------------


def test_a_streamed_teacher_says_the_same(shop: Shop, tmp_path: Path) -> None:
    given = {"teacher": str(shop.dense), "full": True}
    plain = recover(options(shop, tmp_path / "a", **given))
    streamed = recover(options(shop, tmp_path / "b", teacher_streamed=True, **given))
    torch.testing.assert_close(logits(loaded(plain.path)), logits(loaded(streamed.path)), rtol=1e-4, atol=1e-4)


def test_a_teachers_predictions_may_be_kept_for_other_runs(shop: Shop, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    given = {"teacher": str(shop.dense), "teacher_cache": str(cache)}
    recover(options(shop, tmp_path / "a", **given))
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    recover(options(shop, tmp_path / "b", rank=4, **given))
    assert files == {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    recover(options(shop, tmp_path / "c", temperature=2.0, **given))
    assert len(list(cache.rglob("*.safetensors"))) == 2 * len(files)
