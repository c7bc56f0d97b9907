"""Types of models that no file of ours names, one for each kind of structure: found, proved, pruned, loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contract import CLOSE, PROMPT, ROUGH, Case, caching, difference, load, logits, masked, padding, rounding

from slimgpt.errors import ModelError
from slimgpt.machine.setup import Machine
from slimgpt.model.checkpoint import open_checkpoint
from slimgpt.model.inspection import inspect_model
from slimgpt.proof import alone
from slimgpt.pruning.units_proof import prove_units
from slimgpt.sites import ATTENTION, FFN

TYPES = {
    "exaone": {ATTENTION, FFN},  # tensors are renamed, and the class is another type's
    "bloom": {FFN},  # biases by head that are made outside of the layers; tuples come out of them
}
SLOWER = {
    "qwen3_next": {ATTENTION, FFN},  # layers of several kinds, experts that stay, one that is shared
    "deepseek_v3": {ATTENTION, FFN, "ffn-shared_experts"},  # latent attention
    "gemma3": {ATTENTION, FFN},  # a decoder beside what sees
    "falcon": {ATTENTION, FFN},  # one head of keys and values for all queries
    "gpt_neo": {ATTENTION, FFN},  # masks that are computed, in the layers
    "afmoe": {ATTENTION, FFN, "ffn-shared_experts"},  # tokens of all windows in a row
}
every_type = pytest.mark.parametrize(
    "model_type", [*TYPES, *(pytest.param(name, marks=pytest.mark.families) for name in SLOWER)]
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    found = {name: Case(name, tmp_path_factory.mktemp(name)) for name in (*TYPES, *SLOWER, "olmo2", "gemma3n_text")}
    return found


@every_type
def test_sliced_equals_masked(cases: dict[str, Case], model_type: str) -> None:
    case = cases[model_type]
    model, other = load(case.pruned), masked(case)
    assert difference(logits(model), logits(other)) < CLOSE
    assert difference(logits(other), logits(load(case.dense))) > 100 * CLOSE, "nothing was pruned"
    assert {entry["site"] for entry in case.sites(case.pruned)} == {**TYPES, **SLOWER}[model_type]


@every_type
def test_cache_padding_and_rounding_change_nothing(cases: dict[str, Case], model_type: str) -> None:
    model = load(cases[model_type].pruned)
    assert caching(model) < CLOSE
    assert padding(model) < CLOSE
    assert rounding(cases[model_type].pruned) < ROUGH


@every_type
def test_is_pruned_again(cases: dict[str, Case], model_type: str) -> None:
    case = cases[model_type]
    before, after = (sum(len(entry["kept"]) for entry in case.sites(out)) for out in (case.pruned, case.twice))
    assert after < before
    assert load(case.twice).num_parameters() < load(case.pruned).num_parameters()


PLAIN = """
import sys, torch, transformers
sys.modules["slimgpt"] = None  # importing it fails
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
"""
OURS = """
import sys, torch
from slimgpt.model.loading import load_model
model, _ = load_model(sys.argv[1], "cpu")
"""
SAVE = """
with torch.inference_mode():
    torch.save(model.eval()(input_ids=torch.load(sys.argv[2])).logits, sys.argv[3])
"""


@pytest.mark.parametrize(
    "program", [pytest.param(PLAIN, marks=pytest.mark.families, id="plain"), pytest.param(OURS, id="ours")]
)
@pytest.mark.parametrize("model_type", ["exaone"])
def test_loads_in_a_fresh_process(cases: dict[str, Case], tmp_path: Path, model_type: str, program: str) -> None:
    prompt, out = tmp_path / "prompt.pt", tmp_path / "logits.pt"
    torch.save(PROMPT, prompt)
    settings = json.loads((cases[model_type].pruned / "config.json").read_text())
    assert set(settings["auto_map"]) >= {"AutoConfig", "AutoModelForCausalLM"}
    subprocess.run(
        [sys.executable, "-c", program + SAVE, cases[model_type].pruned, prompt, out],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert difference(torch.load(out), logits(load(cases[model_type].pruned))) < CLOSE


# --- what is refused -------------------------------------------------------------------------------


def test_coupled_heads_stay_and_their_ffn_goes(cases: dict[str, Case]) -> None:
    found = inspect_model(str(cases["olmo2"].dense))
    assert found["known_by"].startswith("detection")
    assert "self_attn.q_proj, self_attn.k_proj serve all of them" in found["stays_whole"][0]
    assert all(set(layer) == {"ffn channels", "parameters"} for layer in found["layers"])


def test_known_families_alone(cases: dict[str, Case]) -> None:
    with pytest.raises(ModelError, match=r"'olmo2' is none of the tested families: gemma, .* --families known"):
        cases["olmo2"].cut(cases["olmo2"].dense, "known", ratio=0.1, families="known")


def test_several_streams_are_refused_before_work(cases: dict[str, Case]) -> None:
    with pytest.raises(ModelError, match="several residual streams at once"):
        cases["gemma3n_text"].cut(cases["gemma3n_text"].dense, "out", ratio=0.1)
    assert not (cases["gemma3n_text"].folder / "out.partial").exists()


def test_wrong_units_are_caught_by_the_proof(cases: dict[str, Case]) -> None:
    """Negative control: a detector that says that half of what makes a channel makes it."""
    checkpoint = open_checkpoint(str(cases["exaone"].dense))
    prove_units(checkpoint, PROMPT, machine())
    attention, _ = checkpoint.sites(0)
    wrong = replace(attention, producers=attention.producers[:2])  # their values stay
    family = replace(checkpoint.family, sites=lambda layer: (wrong,))
    with pytest.raises(ModelError, match=r"does not hold on its weights: without half of its .*layer 0 differs at"):
        prove_units(replace(checkpoint, family=family), PROMPT, machine())


def test_coupling_that_only_weights_show_is_caught_by_the_proof(cases: dict[str, Case]) -> None:
    """Negative control: channels that hang together through what stands between them."""
    checkpoint = open_checkpoint(str(cases["exaone"].dense))
    for layer in checkpoint.layers:
        layer.get_submodule("mlp").act_fn = torch.nn.Softmax(-1)
    with pytest.raises(ModelError, match=r"layer 0 differs at mlp.down_proj by [0-9.]+% of its outputs"):
        prove_units(checkpoint, PROMPT, machine())


def machine() -> Machine:
    return alone(torch.device("cpu"), torch.float32, torch.float32)
