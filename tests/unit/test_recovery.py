"""``slimgpt recover`` on tiny models: what comes out, what is chosen, resuming, and what is refused before work."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from slimgpt import cli, load_model, perplexity, prune
from slimgpt.config import RecoverConfig
from slimgpt.errors import ConfigError, ModelError, NumericalError, OutputError, SlimGPTError
from slimgpt.recovery import recover
from slimgpt.recovery.lora import adapted_paths

WORDS = ["few", "words", "of", "some", "small", "language", "that", "come", "back", "again", "and", "so", "on"]
SETTINGS: dict[str, Any] = {
    "seqlen": 32,
    "batch_size": 8,
    "warmup": 1,
    "max_steps": 8,
    "eval_every": 2,
    "learning_rate": 3e-3,
    "precision": "float32",
    "device": "cpu",
}


def sentences(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=10)) for _ in range(count)]


class Shop:
    """Models and data that the tests share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = folder / "text.jsonl"
        self.text.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(0, 200)))
        self.instructions = folder / "instructions.jsonl"
        rows = [{"instruction": text[:5], "output": text} for text in sentences(1, 60)]
        self.instructions.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.dense = self._dense()
        self.pruned = folder / "pruned"
        options = {"ratio": 0.5, "solver": "random", "calibration": str(self.text), "samples": 4}
        prune(tiny_llama.prune_config(self.dense, self.pruned, **options))

    def _dense(self) -> Path:
        """A model that knows the sentences, as a teacher must."""
        untaught = tiny_llama.save_model(self.folder / "untaught")
        options = {**SETTINGS, "max_steps": 100, "eval_every": 50, "learning_rate": 1e-2}
        config = RecoverConfig(str(untaught), str(self.folder / "dense"), str(self.text), full=True, **options)
        return recover(config).path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def options(shop: Shop, out: Path, **changes: Any) -> RecoverConfig:
    given = {"model": str(shop.pruned), "data": str(shop.text), **SETTINGS, **changes}
    return RecoverConfig(out=str(out), **given)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=tiny_llama.tokens(2, 20, seed=5)).logits


def loaded(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path)


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


@pytest.mark.parametrize("preparation", ["import slimgpt; options = {}", "options = {'trust_remote_code': True}"])
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
    assert record["layers"] == json.loads((shop.pruned / "slimgpt.json").read_text())["layers"]
    first, second = record["recovery"]
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
    from slimgpt.checkpoint import open_checkpoint

    return open_checkpoint(str(path))


def test_llama_has_the_papers_seven_projections(shop: Shop) -> None:
    names = {path.rpartition(".")[2] for path in adapted_paths(open_model(shop.pruned))}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


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


class Watching:
    """Notes held-out perplexities."""

    def __init__(self) -> None:
        self.perplexities: dict[int, float] = {}

    def planned(self, job: Any) -> None: ...

    def taught(self, tokens: int) -> None: ...

    def stepped(self, step: int) -> None: ...

    def noted(self, loss: float) -> None: ...

    def measured(self, step: int, perplexity: float) -> None:
        self.perplexities[step] = perplexity


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


# --- equal runs, and resuming -------------------------------------------------------------------------


def test_the_same_command_gives_the_same_bytes_and_accumulation_only_rounds(shop: Shop, tmp_path: Path) -> None:
    same = [recover(options(shop, tmp_path / name, dropout=0.1)) for name in ("a", "b")]
    assert len({(result.path / "model.safetensors").read_bytes() for result in same}) == 1
    smaller = recover(options(shop, tmp_path / "c", dropout=0.0, micro_batch_size=2))
    larger = recover(options(shop, tmp_path / "d", dropout=0.0, micro_batch_size=8))
    torch.testing.assert_close(logits(loaded(smaller.path)), logits(loaded(larger.path)), rtol=1e-3, atol=1e-3)


def test_recomputed_activations_change_nothing(shop: Shop, tmp_path: Path) -> None:
    given = {"teacher": str(shop.dense), "full": True}
    plain = recover(options(shop, tmp_path / "a", **given))
    recomputed = recover(options(shop, tmp_path / "b", gradient_checkpointing=True, **given))
    torch.testing.assert_close(logits(loaded(plain.path)), logits(loaded(recomputed.path)), rtol=1e-4, atol=1e-4)


KILLED = """
import os, signal, sys
from slimgpt.recovery import run
from slimgpt.cli import main
class Killing(run.Unwatched):
    def stepped(self, step):
        if step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
run.Unwatched = Killing
from slimgpt.config import RecoverConfig
run.recover(RecoverConfig(**{options!r}))
"""


def kill_at(step: int, config: RecoverConfig) -> None:
    from dataclasses import asdict

    program = KILLED.format(step=step, options=asdict(config))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("given", [{"dropout": 0.2}, {"full": True}], ids=["lora", "full"])
def test_killed_and_resumed_it_ends_with_the_same_weights(shop: Shop, tmp_path: Path, given: dict[str, Any]) -> None:
    given = {**given, "teacher": str(shop.dense), "max_steps": 10}
    whole = recover(options(shop, tmp_path / "whole", **given))
    config = options(shop, tmp_path / "out", **given)
    kill_at(7, config)
    assert not (tmp_path / "out").exists()
    partial = tmp_path / "out.partial"
    cut_short = partial / "training" / "checkpoint-8"
    shutil.copytree(partial / "training" / "checkpoint-6", cut_short)
    (cut_short / "trainer_state.json").unlink()  # as if the kill had come while it was written
    with pytest.raises(OutputError, match="continue it with --resume, or drop it with --force"):
        recover(config)
    other = options(shop, tmp_path / "out", **{**given, "resume": True, "learning_rate": 1e-5})
    with pytest.raises(OutputError, match="learning_rate was"):
        recover(other)
    teacher_files = {path: path.stat().st_mtime_ns for path in (partial / "teacher").rglob("*.safetensors")}
    watching = Watching()
    resumed = recover(options(shop, tmp_path / "out", **given, resume=True), watching)
    assert min(watching.perplexities) == 8  # not from the start
    assert teacher_files
    histories = [result.record["recovery"][-1]["history"] for result in (whole, resumed)]
    for undisturbed, gone_on in zip(*histories, strict=True):
        assert gone_on == pytest.approx(undisturbed, rel=1e-6)
    before, after = (load_file(result.path / "model.safetensors") for result in (whole, resumed))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=1e-7, msg=name)
    assert not partial.exists()
    again = recover(options(shop, tmp_path / "out", **given, resume=True))
    assert again.record == json.loads((tmp_path / "out" / "slimgpt.json").read_text())


class Bomb:
    """Runs code where it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_resuming_runs_no_code_from_a_checkpoint(shop: Shop, tmp_path: Path, file: str) -> None:
    import pickle

    config = options(shop, tmp_path / "out")
    kill_at(5, config)
    place = tmp_path / "out.partial" / "training" / "checkpoint-4" / file
    assert place.is_file()
    torch.save({"state": Bomb(tmp_path / "mark")}, place)
    with pytest.raises(pickle.UnpicklingError):
        recover(options(shop, tmp_path / "out", resume=True))
    assert not (tmp_path / "mark").exists()
    torch.load(place, weights_only=False)  # negative control
    assert (tmp_path / "mark").exists()


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


# --- bad input ---------------------------------------------------------------------------------------


@pytest.fixture
def places(shop: Shop, tmp_path: Path) -> Iterator[dict[str, Path]]:
    found = {"MODEL": shop.pruned, "DATA": shop.text, "OUT": tmp_path / "out"}
    found["BIGGER"] = tiny_llama.save_model(tmp_path / "bigger", vocab_size=270)
    found["OTHER"] = tiny_llama.save_model(tmp_path / "other")
    settings = json.loads((found["OTHER"] / "tokenizer.json").read_text())
    vocabulary = settings["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (found["OTHER"] / "tokenizer.json").write_text(json.dumps(settings))
    found["BAD"] = tmp_path / "bad.jsonl"
    found["BAD"].write_text('{"text": "fine"}\n{"prompt": "no"}\n')
    found["TAKEN"] = tmp_path / "taken"
    found["TAKEN"].mkdir()
    yield found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./none", "OUT", "--data", "DATA"], "model './none' does not exist"),
        (["MODEL", "TAKEN", "--data", "DATA"], "exists: choose another folder, or replace it with --force"),
        (["MODEL", "TAKEN", "--data", "DATA", "--resume"], "exists: choose another folder"),
        (["MODEL", "MODEL", "--data", "DATA"], "is the model's own folder or inside it"),
        (["MODEL", "OUT", "--data", "none.jsonl"], "data 'none.jsonl' does not exist"),
        (["MODEL", "OUT", "--data", "BAD"], "bad.jsonl, line 2, has prompt: it needs instruction and output"),
        (["MODEL", "OUT", "--data", "DATA", "--mix", "BAD"], "bad.jsonl, line 2, has prompt"),
        (["MODEL", "OUT", "--data", "DATA", "--teacher", "BIGGER"], "predicts 270 tokens, but"),
        (["MODEL", "OUT", "--data", "DATA", "--teacher", "OTHER"], "has another tokenizer than"),
        (["MODEL", "OUT", "--data", "DATA", "--teacher", "./none"], "model './none' does not exist"),
        (["MODEL", "OUT", "--data", "DATA", "--seqlen", "65"], "--seqlen 65 is beyond the model's context of 64"),
        (["MODEL", "OUT", "--data", "DATA", "--warmup", "99"], "--warmup 99 is all of the 8 optimiser steps"),
        (["MODEL", "OUT", "--data", "DATA", "--micro-batch-size", "3"], "does not divide the 8 rows of a process"),
        (["MODEL", "OUT", "--data", "DATA", "--rank", "0"], "--rank 0 must be 1 or more"),
        (["MODEL", "OUT", "--data", "DATA", "--learning-rate", "0"], "--learning-rate 0.0 must be above 0"),
        (["MODEL", "OUT", "--data", "DATA", "--dropout", "1"], "--dropout 1.0 is outside [0, 1)"),
        (["MODEL", "OUT", "--data", "DATA", "--held-out", "0"], "leaves nothing to choose the best checkpoint by"),
        (["MODEL", "OUT", "--data", "DATA", "--hidden-weight", "1"], "need --teacher DENSE"),
        (["MODEL", "OUT", "--data", "DATA", "--full", "--keep-adapter"], "so there is no adapter"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = {"--seqlen": "32", "--batch-size": "8", "--max-steps": "8", "--warmup": "1", "--device": "cpu"}
    flags = [part for flag, value in defaults.items() if flag not in arguments for part in (flag, value)]
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["recover", *(str(places.get(word, word)) for word in arguments), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("slimgpt: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_loss_that_is_no_number_stops_the_run(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slimgpt.recovery import trainer

    monkeypatch.setattr(trainer, "kl_divergence", lambda logits_PV, *rest: logits_PV.sum() * float("nan"))
    with pytest.raises(NumericalError, match=r"training loss is nan at step 1: lower --learning-rate"):
        recover(options(shop, tmp_path / "out", teacher=str(shop.dense)))
    assert not (tmp_path / "out").exists()


def test_the_command_shows_what_came_of_it(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    command = ["recover", str(shop.pruned), str(tmp_path / "out"), "--data", str(shop.text), *flags]
    assert cli.main([*command, "--teacher", str(shop.dense)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "8 optimiser steps of 8 rows" in shown
    assert "(kept)" in shown
    assert "Held-out perplexity" in shown
    assert cli.main([*command, "--resume"]) == 2


@pytest.mark.parametrize("recipe", ["recover-lora.yaml", "recover-distill.yaml"])
def test_recipes_hold_options(recipe: str) -> None:
    from slimgpt.config import read_recipe

    path = Path(__file__).parents[2] / "recipes" / recipe
    given = read_recipe(str(path), RecoverConfig)
    RecoverConfig("m", "o", **{"data": "d", "teacher": "t", **given}).check()
    if recipe == "recover-lora.yaml":
        paper = {"rank": 8, "alpha": 16.0, "dropout": 0.05, "learning_rate": 1e-4, "warmup": 10, "batch_size": 64}
        assert paper.items() <= given.items()
        assert (given["seqlen"], given["epochs"]) == (256, 1.0)


def test_numbers_of_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="--epochs nan must be above 0"):
        RecoverConfig("m", "o", "d", epochs=float("nan")).check()
    with pytest.raises(ConfigError, match="--weight-decay -1 must be 0 or more"):
        RecoverConfig("m", "o", "d", weight_decay=-1).check()
    assert RecoverConfig("m", "o", "d").peak_rate == 1e-4
    assert RecoverConfig("m", "o", "d", full=True).peak_rate > 1e-4
