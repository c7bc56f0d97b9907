"""Compiled layers learn what eager ones learn, each has code of its own, and a machine that cannot compile says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recovery_shop import Shop, loaded, logits, options
from safetensors import safe_open
from torch import nn
from torch._dynamo.utils import counters

from slimgpt.errors import ConfigError
from slimgpt.recovery import compiling, recover


def cannot_compile() -> bool:
    try:
        compiling.check(torch.device("cpu"))
    except ConfigError:
        return True
    return False


needs_compiler = pytest.mark.skipif(cannot_compile(), reason="torch.compile has no C++ compiler here")


@pytest.mark.nightly
@needs_compiler
@pytest.mark.parametrize("changes", [{"full": True, "hidden_weight": 1.0}, {"dropout": 0.0}], ids=["whole", "LoRA"])
def test_a_run_ends_at_the_same_model(shop: Shop, tmp_path: Path, changes: dict[str, Any]) -> None:
    given = {"teacher": str(shop.dense), **changes}
    plain = recover(options(shop, tmp_path / "plain", **given))
    compiled = recover(options(shop, tmp_path / "compiled", compile=True, **given))
    torch.testing.assert_close(logits(loaded(plain.path)), logits(loaded(compiled.path)), rtol=1e-3, atol=1e-3)
    assert tensor_names(plain.path) == tensor_names(compiled.path)


def tensor_names(model: Path) -> set[str]:
    with safe_open(model / "model.safetensors", "pt") as file:
        return set(file.keys())


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.up(x))


@needs_compiler
def test_layers_of_many_widths_all_have_compiled_code() -> None:
    torch.compiler.reset()
    counters.clear()
    layers = nn.ModuleList(Layer(width) for width in range(1, 13))
    compiling.compile_layers(layers)
    for layer in [*layers, *layers]:
        layer(torch.ones(2, 4))
    assert counters["stats"]["unique_graphs"] == len(layers)


@pytest.mark.nightly
def test_a_machine_without_a_compiler_is_told_before_any_work(shop: Shop, tmp_path: Path) -> None:
    arguments = [shop.pruned, tmp_path / "out", "--data", shop.text, "--device", "cpu", "--seqlen", "32", "--compile"]
    done = subprocess.run(
        [sys.executable, "-m", "slimgpt", "recover", *map(str, arguments)],
        env={**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("slimgpt: error: --compile: torch.compile does not work here (")
    assert done.stderr.rstrip().endswith("install it, or leave --compile out.")
    assert not (tmp_path / "out").exists()
