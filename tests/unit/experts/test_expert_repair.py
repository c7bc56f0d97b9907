"""Experts that stay are refitted to what all of them did, where unseen tokens confirm it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mixtures
import pytest
import tiny_llama
import torch
from mixtures import EXPERTS
from torch import Tensor
from transformers import AutoModelForCausalLM

from slimgpt import PruneConfig, prune
from slimgpt.errors import ConfigError
from slimgpt.experts.repair import ENOUGH, FITTED, hidden_of, is_linear, refit
from slimgpt.experts.watching import Routed, watched
from slimgpt.reports.experts import notes


def routed_by(model: Any, layer: int) -> Routed:
    """What enters the experts of a layer."""
    found: list[Routed] = []
    with torch.inference_mode(), watched(model.model.layers[layer].mlp.experts, lambda _, one: found.append(one)):
        model(input_ids=tiny_llama.tokens(8, 48))
    return found[0]


def output(experts: Any, down: Tensor, routed: Routed) -> Tensor:
    """The experts' sum with other last projections, written out."""
    sum_TD = torch.zeros_like(routed.x_TD)
    for token in range(len(routed.x_TD)):
        for number, gate in zip(routed.expert_TK[token].tolist(), routed.gate_TK[token], strict=True):
            sum_TD[token] += gate * down[number] @ hidden_of(experts, number, routed.x_TD[token : token + 1])[0]
    return sum_TD


@pytest.fixture(scope="module")
def layer() -> tuple[Any, Routed]:
    model = mixtures.make_mixture("mixtral").requires_grad_(False)
    return model.model.layers[1].mlp.experts, routed_by(model, 1)


def test_what_enters_the_last_projection(layer: tuple[Any, Routed]) -> None:
    experts, routed = layer
    assert is_linear(experts, routed.x_TD)
    expected = mixtures.expert_output(experts, 3, routed.x_TD)
    torch.testing.assert_close(hidden_of(experts, 3, routed.x_TD) @ experts.down_proj[3].T, expected)


def test_projections_that_made_the_target_are_found_again(layer: tuple[Any, Routed]) -> None:
    experts, routed = layer
    change = 0.3 * torch.randn(experts.down_proj.shape, generator=torch.Generator().manual_seed(0))
    target_TD = output(experts, experts.down_proj + change, routed)
    found = refit(experts, routed, target_TD)
    unseen = slice(int(FITTED * len(target_TD)), None)
    for down, error in ((experts.down_proj, found.error_before), (found.down, found.error_after)):
        left_TD = (target_TD - output(experts, down, routed))[unseen]
        assert error == pytest.approx(float(left_TD.square().sum() / target_TD[unseen].square().sum()), rel=1e-3)
    assert found.error_after < 0.5 * found.error_before
    assert found.refitted > 0


def test_noise_is_not_fitted(layer: tuple[Any, Routed]) -> None:
    """Negative control: what the text does not explain changes little, and never for the worse on unseen tokens."""
    experts, routed = layer
    noise_TD = torch.randn(routed.x_TD.shape, generator=torch.Generator().manual_seed(0))
    found = refit(experts, routed, output(experts, experts.down_proj, routed) + noise_TD)
    assert 0.9 * found.error_before < found.error_after <= found.error_before


def test_experts_of_few_tokens_stay_as_they_are(layer: tuple[Any, Routed]) -> None:
    experts, routed = layer
    few = Routed(*(one[:ENOUGH] for one in routed))
    found = refit(experts, few, torch.randn(few.x_TD.shape))
    assert found.refitted == 0 and torch.equal(found.down, experts.down_proj)


@pytest.mark.parametrize("kind", ["mixtral", pytest.param("deepseek_v3", marks=pytest.mark.nightly)])
def test_a_repaired_model_is_nearer_to_the_dense_one_in_every_layer(tmp_path: Path, kind: str) -> None:
    dense = mixtures.save_mixture(tmp_path / "dense", kind, dtype=torch.bfloat16)
    text = tmp_path / "text.txt"
    text.write_bytes(bytes((97 + torch.randint(0, 26, (20_000,), generator=torch.Generator().manual_seed(0))).tolist()))
    numbers = {"calibration": str(text), "samples": 40, "seqlen": 48, "device": "cpu"}
    records = []
    for repair in (False, True):
        out = tmp_path / f"out-{repair}"
        prune(PruneConfig(str(dense), str(out), experts=0.5, expert_repair=repair, **numbers))
        records.append(json.loads((out / "slimgpt.json").read_text())["experts"])
        assert type(AutoModelForCausalLM.from_pretrained(out)) is type(AutoModelForCausalLM.from_pretrained(dense))
    plain, repaired = records
    assert repaired["repaired"] and not plain["repaired"]
    assert plain["layers"][0]["kept"] == repaired["layers"][0]["kept"]
    assert "refitted by least squares" in (tmp_path / "out-True" / "README.md").read_text()
    assert "weights of what stays are as they were" in (tmp_path / "out-False" / "README.md").read_text()
    assert "were refitted; error of their layers' outputs" in " ".join(notes(repaired))
    for one in repaired["layers"]:
        assert one["refitted"] > EXPERTS // 4
        assert one["error_after_repair"] < one["error_before_repair"]


def test_experts_that_cannot_be_refitted_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it is refused; by default it is left out, and the record says so."""
    dense = mixtures.save_mixture(tmp_path / "dense", "mixtral")
    monkeypatch.setattr("slimgpt.experts.rehearsal.is_linear", lambda *args: False)
    numbers = {"experts": 0.25, "calibration": "builtin", "samples": 2, "seqlen": 16, "device": "cpu"}
    with pytest.raises(ConfigError, match="--expert-repair: the experts of model_type 'mixtral' do not end in a proj"):
        prune(PruneConfig(str(dense), str(tmp_path / "out"), expert_repair=True, **numbers))
    assert prune(PruneConfig(str(dense), str(tmp_path / "out"), **numbers)).record["experts"]["repaired"] is False
