"""slimgpt drop: the right layers go, what stays is what it was, and bad input."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from slimgpt import cli, load_model, prune
from slimgpt.calibration import cached_windows
from slimgpt.config import DropConfig
from slimgpt.depth import drop
from slimgpt.errors import ConfigError, OutputError

SAMPLES, SEQLEN, LAYERS = 6, 24, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("depth") / "model", num_hidden_layers=LAYERS)


def run(model: Path, out: Path, **options: Any) -> Path:
    numbers = {"calibration": "builtin", "samples": SAMPLES, "seqlen": SEQLEN, "device": "cpu", "batch_size": 4}
    return drop(DropConfig(str(model), str(out), **{**numbers, **options})).path


def read_record(out: Path) -> dict[str, Any]:
    return json.loads((out / "slimgpt.json").read_text())


@torch.inference_mode()
def streams(model: Path) -> list[Tensor]:
    """The residual stream before the first layer and behind each, B x T x D, from a plain forward pass."""
    network: Any = LlamaForCausalLM.from_pretrained(model)
    seen: list[Tensor] = []
    for layer in network.model.layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network.model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(cached_windows("builtin", tiny_llama.make_tokenizer(), SAMPLES, SEQLEN, 0))
    return [hidden.double() for hidden in seen]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def layers_of(network: Any, name: str = "llama") -> list[dict[str, Tensor]]:
    return [layer.state_dict() for layer in network.get_submodule(tiny.MODELS[name].layers)]


# --- what goes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 2, 5])
def test_the_run_with_the_least_angle_goes(model: Path, tmp_path: Path, num: int) -> None:
    record = read_record(run(model, tmp_path / "out", layers=num))
    ends = [hidden[:, -1] for hidden in streams(model)]
    expected = [float(cosine(a, b).arccos().mean()) / math.pi for a, b in zip(ends, ends[num:], strict=False)]
    assert len(expected) == LAYERS - num + 1
    assert record["scores"] == pytest.approx(expected, rel=1e-4)
    first = expected.index(min(expected))
    assert record["dropped"] == list(range(first, first + num))


def test_the_layers_of_least_influence_go(model: Path, tmp_path: Path) -> None:
    record = read_record(run(model, tmp_path / "out", layers=2, method="block-influence"))
    hidden = streams(model)
    expected = [1 - float(cosine(a, b).mean()) for a, b in itertools.pairwise(hidden)]
    assert record["scores"] == pytest.approx(expected, rel=1e-4)
    assert record["dropped"] == sorted(sorted(range(LAYERS), key=expected.__getitem__)[:2])


@pytest.mark.parametrize("method", ["angular", "block-influence"])
def test_layers_that_do_nothing_go_and_nothing_is_lost(tmp_path: Path, method: str) -> None:
    dense = tiny_llama.save_model(tmp_path / "dense", num_hidden_layers=LAYERS)
    idle = [f"model.layers.{layer}.{path}.weight" for layer in (2, 3) for path in ("self_attn.o_proj", "mlp.down_proj")]
    tiny_llama.edit_weights(dense, lambda tensors: [tensors[name].zero_() for name in idle])
    out = run(dense, tmp_path / "out", ratio=1 / 3, method=method)
    assert read_record(out)["dropped"] == [2, 3]
    before, after = (LlamaForCausalLM.from_pretrained(path) for path in (dense, out))
    tokens = tiny_llama.tokens(2, 24)
    torch.testing.assert_close(after(tokens).logits, before(tokens).logits)


@pytest.mark.parametrize("name", sorted(set(tiny.MODELS) - {"gpt2"}))
def test_every_family(tmp_path: Path, name: str) -> None:
    dense = tiny.save_model(tmp_path / "dense", name)
    out = run(dense, tmp_path / "out", layers=1)
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (dense, out))
    assert type(after) is type(before)
    kept = [index for index in range(tiny.LAYERS) if index not in read_record(out)["dropped"]]
    for old, new in zip([layers_of(before, name)[index] for index in kept], layers_of(after, name), strict=True):
        assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old)
    types = getattr(before.config, "layer_types", None)
    assert types is None or after.config.layer_types == [types[index] for index in kept]
    assert sum(p.numel() for p in after.parameters()) == read_record(out)["parameters"]["after"]


def test_layers_tied_to_their_place_cannot_go(tmp_path: Path) -> None:
    dense = tiny.save_model(tmp_path / "dense", "gpt2")
    with pytest.raises(ConfigError, match="scale_attn_by_inverse_layer_idx ties what a layer computes to its place"):
        run(dense, tmp_path / "out", layers=1)


def test_a_pruned_model_can_lose_layers_and_a_shallower_one_be_pruned(model: Path, tmp_path: Path) -> None:
    pruned = prune(tiny_llama.prune_config(model, tmp_path / "pruned")).path
    out = run(pruned, tmp_path / "out", layers=2)
    kept = [index for index in range(LAYERS) if index not in read_record(out)["dropped"]]
    before, after = (load_model(str(path), "cpu")[0] for path in (pruned, out))
    for old, new in zip([layers_of(before)[index] for index in kept], layers_of(after), strict=True):
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert (out / "modeling_slimgpt.py").is_file()
    again = prune(tiny_llama.prune_config(out, tmp_path / "again")).path
    assert len(layers_of(load_model(str(again), "cpu")[0])) == LAYERS - 2


# --- around it --------------------------------------------------------------------------------------


def test_the_card_and_the_command_say_what_went(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ["--calibration", "builtin", "--samples", "4", "--seqlen", "16", "--device", "cpu"]
    assert cli.main(["drop", str(model), str(tmp_path / "out"), "--layers", "2", *numbers]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("Needs about ")
    assert f"of {LAYERS} are gone" in said and "parameters" in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"taking out 2 of its\n{LAYERS} decoder layers" in card and "4 windows of 16 tokens of `builtin`" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say how many layers go: --layers N, or --ratio R, and not both"),
        ({"layers": 1, "ratio": 0.5}, "--layers N, or --ratio R, and not both"),
        ({"layers": 0}, "--layers 0 must be 1 or more"),
        ({"layers": 6}, "--layers 6 takes 6 of 6 decoder layers: at least one goes and one stays"),
        ({"ratio": 1.0}, r"--ratio 1\.0 is outside \(0, 1\)"),
        ({"ratio": 0.01}, r"--ratio 0\.01 takes 0 of 6 decoder layers"),
        ({"layers": 1, "samples": 0}, "--samples 0 must be 1 or more"),
        ({"layers": 1, "seqlen": 65}, "--seqlen 65 is beyond the model's context of 64 tokens"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    model: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(model, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "out", layers=1)
    with pytest.raises(OutputError, match="exists: choose another folder, or replace it with --force"):
        run(model, tmp_path / "out", layers=1)
    assert read_record(run(model, tmp_path / "out", layers=2, force=True))["num_layers"]["after"] == LAYERS - 2
