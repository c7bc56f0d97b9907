"""The table of layer costs: measured, kept, read again, and what a run makes of it."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
import torch
from damage import KINDS
from tables import plan

from slimgpt import cli
from slimgpt.allocation.latency import measuring, table_for
from slimgpt.allocation.latency.measuring import measure, never_falling, shape
from slimgpt.allocation.latency.table import LatencyTable, read_table, write_table
from slimgpt.allocation.measures import ModelTimes, PartTimes
from slimgpt.allocation.places import whole
from slimgpt.allocation.plan import places_of
from slimgpt.config import PruneConfig
from slimgpt.errors import ConfigError, OutputError
from slimgpt.machine.timing import Repeat
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.pruning.driver import prune

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(tiny_llama.save_model(tmp_path_factory.mktemp("latency") / "model")))


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(measuring, "ENOUGH_S", 0.0)


def made_up_table(checkpoint: Checkpoint) -> LatencyTable:
    parts = {
        "attention": PartTimes((1, 2, 3), (0, 2_000_000, 4_000_000)),
        "ffn": PartTimes((32, 64, 96), (0, 500_000, 2_000_000)),
    }
    times = {"decode": ModelTimes(5_000_000, parts), "prefill": ModelTimes(9_000_000, parts)}
    measured = {"device": "somebody's phone", "dtype": "bfloat16", "prompt_tokens": 16, "batch_size": 1}
    return LatencyTable(shape(checkpoint), measured, times)


def clockwork(monkeypatch: pytest.MonkeyPatch, seconds: Any) -> None:
    """Repeats that take what ``seconds(layer, num_layers)`` says of the model they are of."""

    def repeat(self: Any) -> Repeat:
        layers = self.model.model.layers
        own = seconds(layers[0], len(layers))
        return Repeat(prefill_s=2 * own, first_token_s=0.0, decode_s=own * (measuring.NEW_TOKENS - 1))

    monkeypatch.setattr(measuring.Measured, "repeat", repeat)


def heads_and_channels(layer: Any, num_layers: int) -> float:
    """2 ms a KV group and 0.01 ms a channel in every layer, and 5 ms around them."""
    groups, channels = layer.self_attn.k_proj.out_features // 8, layer.mlp.down_proj.in_features
    return 0.005 + num_layers * (0.002 * groups + 0.00001 * channels)


# --- measuring -------------------------------------------------------------------------------------


def test_the_table_is_what_the_clock_says(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    clockwork(monkeypatch, heads_and_channels)
    table = measure(checkpoint, CPU, torch.float32, prompt_tokens=16)
    decode, prefill = table.times["decode"], table.times["prefill"]
    ffn = decode.parts["ffn"]
    assert decode.parts["attention"] == PartTimes((1, 2, 3), (0, 2_000_000, 4_000_000))
    assert ffn.units == (32, 48, 64, 72, 80, 96)
    assert ffn.ns == pytest.approx([10_000 * (units - 32) for units in ffn.units], abs=2)
    assert decode.fixed_ns == pytest.approx(5_000_000 + 3 * (2_000_000 + 320_000), abs=10)
    assert prefill.of_model(plan(*[(3, 96)] * 3)) == pytest.approx(2 * (5_000_000 + 3 * 6_960_000), abs=10)
    assert table.measured["prompt_tokens"] == 16
    assert table.measured["dtype"] == "float32"


def test_layers_that_do_not_fit_are_extrapolated(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    clockwork(monkeypatch, heads_and_channels)
    full = measure(checkpoint, CPU, torch.float32, prompt_tokens=16)
    monkeypatch.setattr(measuring, "LAYER_BYTES", 1)
    short = measure(checkpoint, CPU, torch.float32, prompt_tokens=16)
    assert (full.measured["layers"], short.measured["layers"]) == (3, 2)
    for name in ("decode", "prefill"):
        for kept in (plan(*[(3, 96)] * 3), plan((2, 40), (1, 96), (3, 33))):
            assert short.times[name].of_model(kept) == pytest.approx(full.times[name].of_model(kept), rel=1e-6)


def test_a_machine_that_slows_down_changes_nothing(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between rounds: models are compared within a round."""
    monkeypatch.setattr(measuring, "LEAST_ROUNDS", 5)
    calls = itertools.count()

    def seconds(layer: Any, num_layers: int) -> float:
        return heads_and_channels(layer, num_layers) * (1 + next(calls) // 8)  # eight models a round

    clockwork(monkeypatch, seconds)
    parts = measure(checkpoint, CPU, torch.float32, prompt_tokens=16).times["decode"].parts
    attention, ffn = parts["attention"], parts["ffn"]
    steps = [attention.ns[2] / attention.ns[1], ffn.ns[-1] / ffn.ns[-2]]
    assert steps == pytest.approx([2.0, 64 / 48], rel=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text", "qwen3_moe"])
def test_families_can_be_measured(tmp_path: Path, name: str) -> None:
    checkpoint = open_checkpoint(str(tiny.save_model(tmp_path / name, name)))
    table = measure(checkpoint, CPU, torch.float32, prompt_tokens=8)
    places = places_of(checkpoint)
    assert {place.part for place in places} == {"attention", "ffn"}
    for times in table.times.values():
        assert times.of_model(whole(places)) > 0
        assert all(times.parts[place.part].units[-1] == place.num_units for place in places)


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_sequence_that_never_falls(seed: int) -> None:
    """Against all ways to cut a sequence into blocks of equal value."""
    values = torch.randn(6, generator=torch.Generator().manual_seed(seed)).tolist()
    best: tuple[float, list[float]] = (float("inf"), [])
    for cuts in itertools.product((False, True), repeat=5):
        blocks, block = [], [values[0]]
        for value, cut in zip(values[1:], cuts, strict=True):
            if cut:
                blocks.append(block)
                block = []
            block.append(value)
        blocks.append(block)
        fitted = [sum(block) / len(block) for block in blocks for _ in block]
        if fitted == sorted(fitted):
            best = min(best, (sum((f - v) ** 2 for f, v in zip(fitted, values, strict=True)), fitted))
    assert never_falling(values) == pytest.approx(best[1])


# --- keeping ---------------------------------------------------------------------------------------


def test_a_table_survives_its_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    table = made_up_table(checkpoint)
    write_table(tmp_path / "t.json", table)
    again = read_table(tmp_path / "t.json")
    assert again == table
    assert again.fingerprint() == table.fingerprint()
    slower = replace(table, times={**table.times, "decode": replace(table.times["decode"], fixed_ns=1)})
    assert slower.fingerprint() != table.fingerprint()


def found_table(
    checkpoint: Checkpoint,
    file: Path | None = None,
    prompt_tokens: int = 16,
    note: Callable[[str], None] = lambda text: None,
) -> LatencyTable:
    return table_for(None if file is None else str(file), prompt_tokens, checkpoint, CPU, torch.float32, note)


def test_a_table_is_measured_once(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMGPT_CACHE", str(tmp_path / "cache"))
    file, notes = tmp_path / "t.json", list[str]()
    first = found_table(checkpoint, file, note=notes.append)
    cached = found_table(checkpoint, note=notes.append)
    assert [note[:29] for note in notes] == ["Measuring what layers of " + checkpoint.source[:4]] * 2
    monkeypatch.setattr("slimgpt.allocation.latency.measure", None)
    assert found_table(checkpoint, file) == first
    assert found_table(checkpoint) == cached


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "holds no table of layer costs"),
        ('{"kind": "latency-table", "schema": 1}', "holds no table of layer costs (KeyError: 'decode')"),
        ('{"kind": "bench", "schema": 1}', "holds 'bench', no table of layer costs: name a new file"),
        ('{"kind": "latency-table", "schema": 9}', "was made by a newer slimgpt (schema 9)"),
    ],
)
def test_a_file_that_is_no_table_is_refused(checkpoint: Checkpoint, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.json").write_text(content)
    assert message in refusal(checkpoint, tmp_path / "t.json")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"model": {"hidden_size": 64}}, "is of another model: hidden_size was 64 and is 48 here"),
        ({"measured": {"prompt_tokens": 99}}, "with a prompt of 99 tokens, not of 16: give --latency-prompt 99"),
        ({"decode": {"ffn": {"units": [96, 32], "ms": [0, 1]}}}, "units have to rise, and as many times must not fall"),
        ({"decode": {"ffn": {"units": [32, 96], "ms": [1, 0]}}}, "units have to rise, and as many times must not fall"),
    ],
)
def test_a_table_of_something_else_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, edit: dict[str, dict[str, Any]], message: str
) -> None:
    path = tmp_path / "t.json"
    write_table(path, made_up_table(checkpoint))
    content = json.loads(path.read_text())
    for key, changes in edit.items():
        content[key].update(changes)
    path.write_text(json.dumps(content))
    refused = refusal(checkpoint, path)
    assert f"{path} is damaged, or from another run: name a new file" in refused
    assert refused.endswith("or remove its sha256, if you have edited it.")
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert message in refusal(checkpoint, path)


def refusal(checkpoint: Checkpoint, table: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        found_table(checkpoint, table)
    return str(refused.value)


def test_a_table_made_by_hand_needs_no_hash(checkpoint: Checkpoint, tmp_path: Path) -> None:
    table = made_up_table(checkpoint)
    write_table(tmp_path / "t.json", table)
    content = json.loads((tmp_path / "t.json").read_text())
    del content["sha256"]
    (tmp_path / "t.json").write_text(json.dumps(content))
    assert read_table(tmp_path / "t.json") == table


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_entry_of_the_cache_is_measured_again(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("SLIMGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("slimgpt.allocation.latency.measure", lambda *given: made_up_table(checkpoint))
    first = found_table(checkpoint)
    [entry] = (tmp_path / "cache" / "latency").iterdir()
    other = tmp_path / "another.json"
    write_table(other, replace(first, times={**first.times, "decode": first.times["prefill"]}))
    whole = entry.read_bytes()
    damaged = KINDS[kind](whole, other.read_bytes())
    entry.unlink() if damaged is None else entry.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as caught:
        assert found_table(checkpoint) == first
    said = f"{entry} is damaged, or from another run: the table of layer costs is measured again."
    assert [str(one.message) for one in caught] == ([] if kind == "gone" else [said])
    assert entry.read_bytes() == whole


def test_what_cannot_be_measured_is_refused_before(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--latency-prompt 64 leaves no room .* context of 64: give a shorter one"):
        found_table(checkpoint, prompt_tokens=tiny_llama.CONTEXT)
    with pytest.raises(ConfigError, match=r"--latency-table .* cannot be written: there is no folder .* Make it first"):
        found_table(checkpoint, tmp_path / "no" / "t.json")


# --- pruning by it ---------------------------------------------------------------------------------


@pytest.fixture
def table_file(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    write_table(tmp_path / "table.json", made_up_table(checkpoint))
    return tmp_path / "table.json"


def config(checkpoint: Checkpoint, out: Path, table: Path, **changes: Any) -> PruneConfig:
    asked = {"ratio": None, "target_latency": "0.7x", "latency_prompt": 16, "latency_table": str(table)}
    return tiny_llama.prune_config(Path(checkpoint.source), out, **{**asked, **changes})


@pytest.mark.parametrize("allocation", [None, "searched"])
@pytest.mark.parametrize(("workload", "other"), [("decode", "prefill"), ("prefill", "decode")])
def test_the_record_says_what_is_predicted(
    checkpoint: Checkpoint, tmp_path: Path, table_file: Path, allocation: str | None, workload: str, other: str
) -> None:
    asked = config(checkpoint, tmp_path / "out", table_file, allocation=allocation, latency_of=workload)
    record = prune(asked).record
    found = record["predicted_latency"]
    assert found[f"{workload}_ms"]["after"] <= 0.7 * found[f"{workload}_ms"]["before"]
    assert found[f"{other}_ms"]["after"] < found[f"{other}_ms"]["before"]
    assert found["table"] == made_up_table(checkpoint).fingerprint() == record["fingerprint"]["latency_table"]
    assert found["device"] == "somebody's phone"


def test_the_plan_says_it_too(
    checkpoint: Checkpoint, tmp_path: Path, table_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--target-latency", "0.7x", "--latency-prompt", "16", "--latency-table", str(table_file)]
    rest = ["--calibration", "builtin", "--samples", "4", "--seqlen", "32", "--round-to", "1"]
    assert cli.main(["prune", checkpoint.source, str(tmp_path / "out"), *flags, *rest]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "(asked: --target-latency 0.7x)" in printed
    assert "Predicted: a token 23 → " in printed
    assert "a prompt of 16 tokens 27 → " in printed
    assert "by a table measured on somebody's phone in bfloat16" in printed


def test_another_table_is_another_run(
    checkpoint: Checkpoint, tmp_path: Path, table_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed must plan as it did."""
    asked = config(checkpoint, tmp_path / "out", table_file)
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="power"):
        broken.setattr("slimgpt.pruning.driver.record.layer", lambda *_: (_ for _ in ()).throw(RuntimeError("power")))
        prune(asked)
    table = made_up_table(checkpoint)
    write_table(table_file, replace(table, times={**table.times, "decode": table.times["prefill"]}))
    with pytest.raises(OutputError, match=r"holds another run: latency_table was"):
        prune(replace(asked, resume=True))
    write_table(table_file, table)
    assert prune(replace(asked, resume=True)).record["predicted_latency"]["table"] == table.fingerprint()


def test_an_output_in_the_way_is_found_before_measuring(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists"):
        prune(config(checkpoint, tmp_path / "out", tmp_path / "new.json"))
    assert not (tmp_path / "new.json").exists()


def test_a_search_answers_for_targets(
    checkpoint: Checkpoint, tmp_path: Path, table_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = str(tmp_path / "cache")
    prune(config(checkpoint, tmp_path / "out", table_file, allocation="searched", search_cache=cache))
    capsys.readouterr()
    table = ["--latency-table", str(table_file), "--round-to", "1"]
    assert cli.main(["search", cache, "--target-latency", "0.6x", *table]) == 0
    assert "Predicted: a token 23 → 13." in " ".join(capsys.readouterr().out.split())
    params = checkpoint.num_params * 8 // 10
    assert cli.main(["search", cache, "--target-params", str(params), "--round-to", "1"]) == 0
    assert f"(asked: --target-params {params})" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["search", cache, "--target-size", f"{4 * params}B", "--round-to", "1"]) == 0
    assert cli.main(["search", cache, "--target-latency", "0.6x"]) == 2
    assert "slimgpt search --target-latency needs --latency-table FILE" in capsys.readouterr().err
    assert cli.main(["search", cache, "--target-latency", "0.6x", "--latency-table", str(tmp_path / "no")]) == 2
    assert "--target-latency 0.6x --latency-table" in " ".join(capsys.readouterr().err.split())
