"""The stream shows the solver what a plain forward pass would, and runs no weight more often than it must.

Seen through ``prune`` itself: a solver that takes notes stands in for the real one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import records
import tiny_llama
import torch
from safetensors.torch import load_file
from tiny_llama import prune_config
from torch import Tensor, nn

from slimgpt import PruneResult, load_model, prune
from slimgpt.pruning import prepare
from slimgpt.pruning.job import Job
from slimgpt.pruning.observer import Observer
from slimgpt.sites import SolverOptions
from slimgpt.solvers import SOLVERS

CONSUMERS = ("self_attn.o_proj", "mlp.down_proj")
NUM_LAYERS = tiny_llama.SHAPE["num_hidden_layers"]


class Watcher(Observer):
    """Keeps the job and counts the tokens that the run reports."""

    job: Job
    num_tokens = 0

    def planned(self, job: Job) -> None:
        self.job = job

    def tokens(self, count: int) -> None:
        self.num_tokens += count


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("stream") / "model")


@pytest.fixture
def hessians(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the solver is given, site after site."""
    seen: list[Tensor] = []
    solve = SOLVERS["obs"]

    def taking_notes(weight_OI: Tensor, hessian_II: Tensor, units: int, removed: int, options: SolverOptions) -> Any:
        seen.append(hessian_II.clone())
        return solve(weight_OI, hessian_II, units, removed, options)

    monkeypatch.setitem(SOLVERS, "obs", taking_notes)  # type: ignore[arg-type]
    return seen


def run(model: Path, out: Path, **changes: Any) -> tuple[PruneResult, Watcher]:
    watcher = Watcher()
    return prune(prune_config(model, out, allocation="log", **changes), watcher), watcher


def plain_hessians(network: nn.Module, windows_BT: Tensor) -> list[Tensor]:
    """X Xᵀ of every consumer's input in one ordinary forward pass, in float64."""
    sums: dict[str, Tensor] = {}

    def gather(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x_TI = args[0].flatten(0, -2).double()
            sums[name] = x_TI.T @ x_TI

        return hook

    names = [f"model.layers.{i}.{consumer}" for i in range(NUM_LAYERS) for consumer in CONSUMERS]
    handles = [network.get_submodule(name).register_forward_pre_hook(gather(name)) for name in names]
    with torch.inference_mode():
        network(input_ids=windows_BT, use_cache=False)
    for handle in handles:
        handle.remove()
    return [sums[name] for name in names]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def test_statistics_are_those_of_a_plain_forward_pass(model: Path, tmp_path: Path, hessians: list[Tensor]) -> None:
    _, watcher = run(model, tmp_path / "out", ratio=0)
    expected = plain_hessians(load_model(str(model), "cpu")[0], watcher.job.windows_BT)
    assert len(hessians) == len(expected) == 2 * NUM_LAYERS
    assert all(close(found, plain) for found, plain in zip(hessians, expected, strict=True))


def test_statistics_are_taken_behind_what_is_already_pruned(
    model: Path, tmp_path: Path, hessians: list[Tensor]
) -> None:
    """A consumer's input in the finished model is the kept part of what its solver saw, in every layer."""
    result, watcher = run(model, tmp_path / "out", ratio=0.3)
    expected = plain_hessians(load_model(str(result.path), "cpu")[0], watcher.job.windows_BT)
    dense = plain_hessians(load_model(str(model), "cpu")[0], watcher.job.windows_BT)
    for found, plain, site in zip(hessians, expected, result.record["sites"], strict=True):
        width = len(found) // site["num_units"]
        kept = torch.tensor([unit * width + k for unit in site["kept"] for k in range(width)])
        assert close(found[kept][:, kept], plain)
    assert not close(hessians[-1], dense[-1], 1e-2)  # negative control: it matters behind what


@contextmanager
def counting_calls() -> Iterator[Counter[int]]:
    """Tokens through each linear module, by the module's id."""
    seen: Counter[int] = Counter()

    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear):
            seen[id(module)] += output.shape[:-1].numel()

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_no_weight_sees_a_token_more_often_than_it_must(
    model: Path, tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "note_other_way", lambda *_: None)  # it reads a few windows before the run begins
    with counting_calls() as seen:
        _, watcher = run(model, tmp_path / "out", batch_size=batch_size)
    num_tokens = watcher.job.windows_BT.numel()
    for layer in watcher.job.checkpoint.layers:
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear):
                # o_proj finishes the attention block twice: in front of the FFN's statistics and of the next layer
                times = 2 if name == "self_attn.o_proj" else 1
                assert 0 < seen[id(module)] <= times * num_tokens, name


def test_reported_tokens_are_three_passes_a_layer(model: Path, tmp_path: Path) -> None:
    _, watcher = run(model, tmp_path / "out")
    assert watcher.num_tokens == 3 * NUM_LAYERS * watcher.job.windows_BT.numel()


def test_batch_size_changes_nothing_but_rounding(model: Path, tmp_path: Path) -> None:
    results = [run(model, tmp_path / f"out{size}", batch_size=size)[0] for size in (1, 3, 8)]
    first, *others = (records.kept(result.record) for result in results)
    assert others == [first, first]
    first, *others = (load_file(result.path / "model.safetensors") for result in results)
    for other in others:
        assert first.keys() == other.keys()
        assert all(close(other[name], first[name], 1e-4) for name in first)


def test_nothing_stays_behind_in_the_skeleton(model: Path, tmp_path: Path) -> None:
    """Layers' weights are forgotten, hooks removed, and stand-in forwards gone."""
    _, watcher = run(model, tmp_path / "out")
    skeleton = watcher.job.checkpoint.skeleton
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    for module in skeleton.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        assert "forward" not in vars(module)


def test_hooks_go_when_the_solver_fails(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setitem(SOLVERS, "obs", fail)
    watcher = Watcher()
    with pytest.raises(RuntimeError, match="no"):
        prune(prune_config(model, tmp_path / "out"), watcher)
    assert all(parameter.is_meta for parameter in watcher.job.checkpoint.layers.parameters())
    assert all("forward" not in vars(module) for module in watcher.job.checkpoint.skeleton.modules())
