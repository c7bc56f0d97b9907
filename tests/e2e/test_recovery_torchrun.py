"""Several processes, started by torchrun or accelerate launch, recover what one does: same weights to rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recovery_shop import SETTINGS, Shop, options
from safetensors.torch import load_file
from test_torchrun import free_port

from slimgpt.recovery import recover

pytestmark = pytest.mark.e2e

TORCHRUN = ["torch.distributed.run", "--nproc-per-node=2"]
ACCELERATE = ["accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]


@pytest.mark.parametrize(
    ("launcher", "flags"),
    [([*TORCHRUN, "--master-port=PORT", "-m"], ["--full"]), ([*ACCELERATE, "--main_process_port=PORT", "-m"], [])],
    ids=["torchrun", "accelerate launch"],
)
def test_two_processes_do_the_work_of_one(shop: Shop, tmp_path: Path, launcher: list[str], flags: list[str]) -> None:
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    models = ["--data", str(shop.text), "--teacher", str(shop.dense), "--dropout", "0"]
    started_by = [sys.executable, "-m", *(part.replace("PORT", str(free_port())) for part in launcher)]
    done = subprocess.run(
        [*started_by, "slimgpt", "recover", str(shop.pruned), str(tmp_path / "two"), *models, *settings, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tokens to learn from") == done.stdout.count("Written to") == 1
    given = {"teacher": str(shop.dense), "dropout": 0.0, "micro_batch_size": 4, "full": bool(flags)}
    recover(options(shop, tmp_path / "one", **given))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)
