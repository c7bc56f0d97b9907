"""FLAP: the metric, the bias for what goes, and the ranking over all layers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import records
import tiny
import tiny_llama
import torch
from problems import correlated
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from slimgpt import load_model, prune
from slimgpt.allocation.ranking import ranked_curves, standardised
from slimgpt.config import PruneConfig
from slimgpt.errors import ConfigError
from slimgpt.sites import SolverOptions
from slimgpt.solvers.flap import flap, fluctuation


def problem(num_inputs: int = 40) -> tuple[Tensor, Tensor, SolverOptions]:
    """Inputs with means of their own, as after a ReLU."""
    weight_OI, x_TI = correlated(num_inputs)
    return weight_OI, x_TI, SolverOptions(mean_I=x_TI.mean(0), num_tokens=len(x_TI), bias_O=torch.zeros(24).double())


def lost(weight_OI: Tensor, x_TI: Tensor, removal: Any, bias_O: Tensor) -> float:
    kept_I = torch.repeat_interleave(removal.kept_N, x_TI.shape[1] // len(removal.kept_N))
    gap = x_TI @ weight_OI.T - x_TI[:, kept_I] @ removal.weight_OI.T - bias_O
    return float(gap.square().sum() / (x_TI @ weight_OI.T).square().sum())


@pytest.mark.parametrize("width", [1, 4])
def test_the_metric_is_the_variance_weighed_by_the_weights(width: int) -> None:
    weight_OI, x_TI, options = problem()
    by_hand = [
        sum(
            float(x_TI[:, j].var()) * float(weight_OI[:, j].square().sum())
            for j in range(unit * width, (unit + 1) * width)
        )
        for unit in range(40 // width)
    ]
    found_N = fluctuation(weight_OI, x_TI.T @ x_TI, 40 // width, options)
    torch.testing.assert_close(found_N, torch.tensor(by_hand, dtype=torch.float64))
    removal = flap(weight_OI, x_TI.T @ x_TI, 40 // width, 40 // width // 2, options)
    gone = (~removal.kept_N).nonzero().flatten().tolist()
    assert set(gone) == set(sorted(range(40 // width), key=by_hand.__getitem__)[: 40 // width // 2])


@pytest.mark.parametrize("repair", [False, True])
def test_the_bias_is_the_best_constant_and_the_error_counts_it(repair: bool) -> None:
    weight_OI, x_TI, options = problem()
    options = SolverOptions(repair=repair, mean_I=options.mean_I, num_tokens=400, bias_O=torch.ones(24).double())
    removal = flap(weight_OI, x_TI.T @ x_TI, 40, 20, options)
    assert removal.bias_O is not None
    shift_O = removal.bias_O - 1
    error = lost(weight_OI, x_TI, removal, shift_O)
    assert removal.error == pytest.approx(error)
    for factor in (0.0, 0.9, 1.1):
        assert lost(weight_OI, x_TI, removal, factor * shift_O) > error


def test_without_a_bias_nothing_is_made_up_for() -> None:
    weight_OI, x_TI, options = problem()
    options = SolverOptions(mean_I=options.mean_I, num_tokens=400)
    removal = flap(weight_OI, x_TI.T @ x_TI, 40, 20, options)
    assert removal.bias_O is None
    assert removal.error == pytest.approx(lost(weight_OI, x_TI, removal, torch.zeros(24)))


def test_constant_inputs_go_first_and_cost_nothing() -> None:
    weight_OI, x_TI, _ = problem()
    x_TI[:, 7] = 3.0
    options = SolverOptions(mean_I=x_TI.mean(0), num_tokens=400, bias_O=torch.zeros(24).double())
    removal = flap(weight_OI, x_TI.T @ x_TI, 40, 1, options)
    assert not removal.kept_N[7] and removal.error == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(removal.bias_O, 3 * weight_OI[:, 7])


# --- the ranking ------------------------------------------------------------------------------------


def test_standardised_scores_have_mean_0_and_variance_1() -> None:
    found = standardised(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    assert float(found.mean()) == pytest.approx(0, abs=1e-12) and float(found.var(correction=0)) == pytest.approx(1)
    assert not standardised(torch.full((3,), 2.0)).any()


def test_one_threshold_for_all_layers_and_ratios_grow_with_it() -> None:
    curves = ranked_curves({"attention": {0: [0.0, 1.0], 1: [2.0, 3.0]}, "ffn": {1: [-1.0, 0.5, 0.6, 4.0]}}, 2)
    attention, ffn = curves["attention"], curves["ffn"]
    amounts = [step / 50 for step in range(51)]
    for curve in (attention, ffn):
        ratios = [curve(amount) for amount in amounts]
        assert all(a <= b for one, two in itertools.pairwise(ratios) for a, b in zip(one, two, strict=True))
        assert set(ratios[0]) == {0.0}
    assert (attention(1.0), ffn(1.0)) == ([1.0, 1.0], [0.0, 1.0])  # the first layer has no FFN
    assert attention(0.4) == [pytest.approx(0.55), 0.0]  # the threshold is 1.4 on the way from -1 to 5
    assert ffn(0.4)[1] > 0.5


# --- through the command ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("flap") / "model")


def read_record(out: Path) -> dict[str, Any]:
    return json.loads((out / "slimgpt.json").read_text())


def test_a_llama_gets_biases_that_hold_what_went(model: Path, tmp_path: Path) -> None:
    out = prune(tiny_llama.prune_config(model, tmp_path / "out", solver="flap", ratio=0.3)).path
    record, state = read_record(out), load_file(out / "model.safetensors")
    assert record["bias_compensation"] == {"attention": True, "ffn": True}
    layers = records.by_layer(record)
    for name, tensor in state.items():
        if name.endswith(".bias"):
            cut = layers[int(name.split(".")[2])]["attention" if "self_attn" in name else "ffn"]
            consumer = "o_proj" in name or "down_proj" in name
            assert bool(tensor.any()) == (consumer and len(cut["kept"]) < cut["num_units"]), name
    assert len(set(records.widths(record))) > 1
    assert abs(record["parameters"]["removed_ratio"] - 0.3) < 0.02
    network, _ = load_model(str(out), "cpu")
    assert network.config.attention_bias and network.config.mlp_bias
    plain = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    tokens = tiny_llama.tokens(2, 16)
    torch.testing.assert_close(plain(tokens).logits, network(tokens).logits)


def test_ratio_0_is_the_dense_model(model: Path, tmp_path: Path) -> None:
    out = prune(tiny_llama.prune_config(model, tmp_path / "out", solver="flap", ratio=0.0)).path
    tokens = tiny_llama.tokens(2, 16)
    dense, same = (load_model(str(path), "cpu")[0] for path in (model, out))
    torch.testing.assert_close(same(tokens).logits, dense(tokens).logits)


@pytest.mark.parametrize(("name", "carries"), [("opt", True), ("gpt2", True), ("mistral", False), ("mixtral", False)])
def test_other_families_say_whether_they_carry_a_bias(tmp_path: Path, name: str, carries: bool) -> None:
    dense = tiny.save_model(tmp_path / "dense", name)
    config = tiny_llama.prune_config(dense, tmp_path / "out", solver="flap", round_to=8, samples=16)
    record = read_record(prune(config).path)
    assert record["bias_compensation"] == {"attention": carries, "ffn": carries}


def test_resuming_gives_the_same_bytes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a solver put into a bias comes back from the journal."""
    whole = prune(tiny_llama.prune_config(model, tmp_path / "whole", solver="flap")).path

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("slimgpt.pruning.driver.finish", dies)
        prune(tiny_llama.prune_config(model, tmp_path / "out", solver="flap"))
    (tmp_path / "out.partial" / "layer-00002.json").unlink()  # as if it had died in the last layer
    out = prune(tiny_llama.prune_config(model, tmp_path / "out", solver="flap", resume=True)).path
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_the_ranking_serves_other_solvers_and_not_the_uniform_layout(model: Path, tmp_path: Path) -> None:
    record = read_record(prune(tiny_llama.prune_config(model, tmp_path / "out", allocation="flap")).path)
    assert "bias_compensation" not in record
    assert len(set(records.widths(record))) > 1
    with pytest.raises(ConfigError, match="contradicts --allocation flap"):
        prune(tiny_llama.prune_config(model, tmp_path / "no", allocation="flap", layout="uniform"))


def test_query_heads_are_not_for_it() -> None:
    with pytest.raises(ConfigError, match=r"--solver flap removes whole KV groups: drop --attention-units queries"):
        PruneConfig("m", "o", solver="flap", attention_units="queries").check()
