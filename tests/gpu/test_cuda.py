"""A GPU decides as the CPU does: the same units stay, and the weights are equal to rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import records
import tiny_llama
import torch
from safetensors.torch import load_file
from tiny_llama import make_model, make_tokenizer, prune_config
from torch import Tensor

from slimgpt import prune
from slimgpt.calibration import windows
from slimgpt.solvers import SOLVERS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and torch sees none")

STEPS = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that has learned something: in random ones units are so alike that rounding can swap two."""
    folder = tmp_path_factory.mktemp("cuda") / "model"
    network = make_model(hidden_size=96, intermediate_size=256).cuda().train()
    text_BT = windows("builtin", make_tokenizer(), 512, 64, 0).cuda()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(STEPS):
        batch = text_BT[torch.arange(step * 16, step * 16 + 16) % len(text_BT)]
        optimizer.zero_grad()
        network(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    network.cpu().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def pruned(model: Path, name: str, **changes: Any) -> tuple[dict[Any, list[int]], dict[str, Tensor]]:
    """What stays at every site, and the weights."""
    out = prune(prune_config(model, model.parent / name, ratio=0.3, samples=64, seqlen=64, force=True, **changes)).path
    return records.kept(json.loads((out / "slimgpt.json").read_text())), load_file(out / "model.safetensors")


@pytest.mark.parametrize("solver", SOLVERS)
def test_same_units_and_weights_as_on_the_cpu(model: Path, solver: str) -> None:
    ours, weights = pruned(model, f"cuda-{solver}", solver=solver, device="cuda")
    theirs, expected = pruned(model, f"cpu-{solver}", solver=solver)
    assert ours == theirs
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-3 * float(expected[name].abs().max()))


def test_half_precision_chooses_nearly_the_same(model: Path, tmp_path: Path) -> None:
    """A GPU computes in the checkpoint's bfloat16, the CPU in float32: units on the brink may change places."""
    network = tiny_llama.LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    network.save_pretrained(tmp_path / "half")
    make_tokenizer().save_pretrained(tmp_path / "half")
    ours, _ = pruned(tmp_path / "half", "cuda-half", device="cuda")
    theirs, _ = pruned(tmp_path / "half", "cpu-half")
    assert ours.keys() == theirs.keys()
    for site, units in ours.items():
        assert len(set(units) & set(theirs[site])) >= 0.9 * len(units)


def test_the_same_command_gives_the_same_bytes_offloaded_or_not(model: Path, tmp_path: Path) -> None:
    _, first = pruned(model, "cuda-first", device="cuda")
    _, second = pruned(model, "cuda-second", device="cuda", offload_dir=str(tmp_path / "offload"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_device_s_peak_is_within_the_plan(model: Path) -> None:
    """The estimate is an upper bound of what the run allocates."""
    from slimgpt.pruning.job import Job
    from slimgpt.pruning.observer import Observer

    class Watcher(Observer):
        job: Job

        def planned(self, job: Job) -> None:
            self.job = job
            torch.cuda.reset_peak_memory_stats()

    watcher = Watcher()
    config = prune_config(model, model.parent / "watched", samples=64, seqlen=64, batch_size=64, device="cuda")
    result = prune(config, watcher)
    workspaces = 64 << 20  # of cuBLAS and cuSOLVER, which a model this small does not hide
    assert result.record["cost"]["peak_device_bytes"] <= watcher.job.needs.device + workspaces
