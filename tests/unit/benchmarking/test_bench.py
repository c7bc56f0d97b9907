"""What a model costs to run: counts by formula, peaks that are the model's own, ratios of paired repeats."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch

import slimgpt.benchmarking
from slimgpt import cli, prune
from slimgpt.benchmarking import bench, worker
from slimgpt.benchmarking.spread import ratios, spread
from slimgpt.config import BenchConfig
from slimgpt.errors import ModelError
from slimgpt.machine.timing import Load, Measured, Repeat

SHORT = {"prompt_tokens": 8, "new_tokens": 4, "repeats": 3, "device": "cpu"}
SPEEDS = {"prefill_tokens_per_s", "decode_tokens_per_s", "time_to_first_token_ms"}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("bench") / "dense")


@pytest.fixture(scope="module")
def pruned(dense: Path) -> Path:
    return prune(tiny_llama.prune_config(dense, dense.with_name("pruned"), ratio=0.4)).path


@pytest.fixture(scope="module")
def result(dense: Path, pruned: Path) -> dict[str, Any]:
    return bench(BenchConfig((str(dense), str(pruned)), **SHORT))


# --- what is counted -------------------------------------------------------------------------------


def test_the_result_has_the_form_that_reports_read(result: dict[str, Any], dense: Path, pruned: Path) -> None:
    assert (result["kind"], result["schema"]) == ("bench", 1)
    assert [model["model"] for model in result["models"]] == [str(dense), str(pruned)]
    assert result["settings"]["repeats"] == 3
    assert json.loads(json.dumps(result)) == result
    for model in result["models"]:
        assert set(model["ratios_to_first"]) == {"prefill", "decode", "time_to_first_token"}
        for spreads in (*(model[name] for name in SPEEDS), *model["ratios_to_first"].values()):
            assert 0 < spreads["low"] <= spreads["median"] <= spreads["high"]


def test_sizes_are_those_of_the_files_and_the_record(result: dict[str, Any], dense: Path, pruned: Path) -> None:
    record = json.loads((pruned / "slimgpt.json").read_text())["parameters"]
    first, second = result["models"]
    assert (first["parameters"], second["parameters"]) == (record["before"], record["after"])
    for folder, model in ((dense, first), (pruned, second)):
        assert model["bytes_on_disk"] == (folder / "model.safetensors").stat().st_size
        assert model["dtype"] == "float32"


def test_shards_count_and_what_is_not_of_the_model_does_not(tmp_path: Path) -> None:
    folder = tiny_llama.save_sharded(tmp_path / "sharded")
    shards = list(folder.glob("model-*.safetensors"))
    (folder / "consolidated.safetensors").write_bytes(b"another copy")
    assert len(shards) > 1
    assert slimgpt.benchmarking._bytes_on_disk(folder) == sum(shard.stat().st_size for shard in shards)


def test_flops_are_those_of_the_formula() -> None:
    """Twice every matrix of the layers and the head, and twice q·k and weights·v over the prompt and the token."""
    shape = tiny_llama.SHAPE
    heads, width, hidden = shape["num_attention_heads"], shape["head_dim"], shape["hidden_size"]
    kv_heads, ffn, layers = shape["num_key_value_heads"], shape["intermediate_size"], shape["num_hidden_layers"]
    matrices = layers * (2 * hidden * width * (heads + kv_heads) + 3 * hidden * ffn) + hidden * shape["vocab_size"]
    attention = layers * 2 * heads * width * (10 + 1)
    counted = Measured(tiny_llama.make_model(), Load(3, 10, 4, 0)).flops_per_token()
    assert counted == 2 * (matrices + attention)


# --- how it is measured ----------------------------------------------------------------------------


@pytest.mark.nightly
def test_the_peak_is_the_model_s_own(dense: Path, result: dict[str, Any], tmp_path: Path) -> None:
    """Neither its parent's, which Linux counts in a forked child, nor that of a larger model beside it."""
    ballast = torch.ones(400 << 18)  # 400 MiB
    large = tiny_llama.save_model(tmp_path / "large", intermediate_size=1 << 17)
    small, big = bench(BenchConfig((str(dense), str(large)), **SHORT))["models"]
    assert ballast.numel()
    assert abs(small["peak_bytes"] - result["models"][0]["peak_bytes"]) < 100 << 20
    weights = big["bytes_on_disk"] - small["bytes_on_disk"]
    assert weights > 200 << 20
    assert 0.8 * weights < big["peak_bytes"] - small["peak_bytes"] < 2.5 * weights
    for model in (small, big):
        assert 0 < model["idle_bytes"] < model["peak_bytes"]


def test_models_take_turns_and_change_who_is_first() -> None:
    asked: list[str] = []

    class Lane:
        def __init__(self, model: str) -> None:
            self.model = model

        def ask(self, question: object) -> Repeat:
            assert question is worker.repeat
            asked.append(self.model)
            return Repeat(len(asked), 0.0, 0.0)

    config = BenchConfig(("dense", "pruned"), repeats=2, warmup=1)
    repeats = slimgpt.benchmarking._in_turns([Lane("dense"), Lane("pruned")], config, lambda: None)  # type: ignore[list-item]
    assert asked == ["dense", "pruned", "pruned", "dense", "dense", "pruned"]
    assert [[repeat.prefill_s for repeat in own] for own in repeats] == [[4, 5], [3, 6]]


def test_generation_continues_the_prompt_greedily() -> None:
    """What is timed is what a user gets: the same tokens as a loop without a cache."""
    model = tiny_llama.make_model()
    measured = Measured(model, Load(2, 8, 5, seed=3))
    seen: list[torch.Tensor] = []
    step = measured._step

    def watched(ids_BT: torch.Tensor, cache: Any) -> Any:
        token_B1, cache = step(ids_BT, cache)
        seen.append(token_B1)
        return token_B1, cache

    measured._step = watched  # type: ignore[method-assign]
    times = measured.repeat()
    assert 0 < times.prefill_s <= times.first_token_s
    assert times.decode_s > 0
    ids_BT = measured._prompt_BT
    for token_B1 in seen:
        expected_B1 = model(ids_BT, use_cache=False).logits[:, -1:].argmax(-1)
        assert torch.equal(token_B1, expected_B1)
        ids_BT = torch.cat([ids_BT, expected_B1], dim=1)
    assert len(seen) == 5


def test_the_same_seed_gives_the_same_prompt() -> None:
    prompts = [Measured(tiny_llama.make_model(), Load(1, 8, 2, seed))._prompt_BT for seed in (1, 1, 2)]
    assert torch.equal(prompts[0], prompts[1])
    assert not torch.equal(prompts[0], prompts[2])


# --- statistics ------------------------------------------------------------------------------------


def test_spread_is_the_median_and_the_quartiles() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 100.0]
    assert spread(values) == {"median": 4.0, "low": 2.0, "high": 5.0}
    assert spread([3.0]) == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_ratios_are_paired() -> None:
    """A machine that is ten times slower in one repeat does not change the ratio, but changes the ratio of medians."""
    first, second = [100.0, 10.0, 100.0, 10.0, 10.0], [150.0, 15.0, 150.0, 150.0, 15.0]
    first[3] = 100.0
    assert ratios(second, first) == {"median": 1.5, "low": 1.5, "high": 1.5}
    assert ratios([2.0, 8.0], [4.0, 4.0])["median"] == statistics.mean([0.5, 2.0])


# --- the command -----------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.nightly
def test_the_command_prints_and_keeps_the_result(
    dense: Path, pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bench.json"
    flags = ["--prompt-tokens", 8, "--new-tokens", 4, "--repeats", 2, "--json", target, "--record", "--device", "cpu"]
    assert run("bench", dense, pruned, *flags) == 0
    shown = " ".join(capsys.readouterr().out.split())
    found = json.loads(target.read_text())
    assert f"{found['models'][1]['parameters']:,}" in shown
    assert "decode, tokens/s" in shown
    assert "Median of 2 repeats (quartiles), after 1 unmeasured" in shown
    assert json.loads((pruned / "measured" / "bench.json").read_text()) == found
    assert not (dense / "measured").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DENSE", "--repeats", "0"], "--repeats 0 must be 1 or more"),
        (["DENSE", "--warmup", "-1"], "--warmup -1 must be 0 or more"),
        (["DENSE", "--new-tokens", "1"], "--new-tokens 1 must be 2 or more"),
        (["DENSE", "--prompt-tokens", "0"], "--prompt-tokens 0 must be 1 or more"),
        (["DENSE", "--batch-size", "0"], "--batch-size 0 must be 1 or more"),
        (["DENSE", "--seed", "-1"], "--seed -1 must be 0 or more"),
        (
            ["DENSE", "--prompt-tokens", "40", "--new-tokens", "25"],
            "--prompt-tokens 40 and --new-tokens 25 are together beyond the context of",
        ),
        (["./none", "DENSE"], "model './none' does not exist"),
        (["DENSE", "--device", "tpu"], "--device 'tpu' is not one of auto, cpu, cuda, cuda:N, mps"),
        (["DENSE", "--json", "no/x.json"], "there is no folder no. Make it first"),
        (["DENSE", "--record"], "is a folder with slimgpt.json. Use --json FILE"),
        ([], "no MODEL is named"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, dense: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("bench", *(argument.replace("DENSE", str(dense)) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("slimgpt: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_a_process_that_dies_is_an_error_with_a_cure(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "repeat", os.abort)
    with pytest.raises(ModelError, match=r"that measures .*dense died, most likely for want of memory"):
        bench(BenchConfig((str(dense),), **SHORT))


def test_all_options_are_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--help") == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(BenchConfig):
        assert ("MODEL" if field.name == "models" else "--" + field.name.replace("_", "-")) in shown
