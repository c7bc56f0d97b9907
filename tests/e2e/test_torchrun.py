"""Several processes, started by torchrun, do the work of one: same choice, same weights to rounding."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import records
import tiny_llama
import torch
from safetensors.torch import load_file
from tiny_llama import prune_config

from slimgpt import prune

pytestmark = pytest.mark.e2e

NUM_LAYERS = 24  # enough for a rank to be killed in the middle
PATIENCE_S = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("torchrun") / "model", num_hidden_layers=NUM_LAYERS)


@pytest.fixture(scope="module")
def together(model: Path) -> Path:
    """Two processes, undisturbed; both had their say on what is printed."""
    out = model.parent / "together"
    team = started(model, out)
    text = ended(team)
    assert team.returncode == 0, text
    assert text.count("Plan:") == text.count("Result") == text.count("Written to") == 1
    assert "of memory in each of 2 processes" in " ".join(text.split())
    return out


def started(model: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    options = ["--ratio=0.2", "--calibration=builtin", "--samples=8", "--seqlen=32", "--round-to=1", "--device=cpu"]
    return subprocess.Popen(
        [*torchrun, "-m", "slimgpt", "prune", str(model), str(out), *options, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def ended(team: subprocess.Popen[str], patience_s: int = 2 * PATIENCE_S) -> str:
    family = psutil.Process(team.pid).children(recursive=True)
    try:
        return team.communicate(timeout=patience_s)[0]
    finally:
        for process in (team, *family):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def rank_1(team: subprocess.Popen[str]) -> psutil.Process:
    children = psutil.Process(team.pid).children()
    return next(child for child in children if child.environ().get("RANK") == "1")


def kept(out: Path) -> dict[Any, list[int]]:
    return records.kept(json.loads((out / "slimgpt.json").read_text()))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the record, which holds timings."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "slimgpt.json"}


def test_two_processes_choose_and_repair_as_one(model: Path, together: Path) -> None:
    alone = prune(prune_config(model, model.parent / "alone")).path
    assert kept(together) == kept(alone)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (together, alone))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4 * float(theirs[name].abs().max()))


@pytest.mark.nightly
def test_a_rank_that_is_killed_takes_the_job_down_and_the_job_resumes(model: Path, together: Path) -> None:
    out = model.parent / "killed"
    team = started(model, out)
    while not (out.with_name("killed.partial") / "layer-00002.json").exists():
        assert team.poll() is None, ended(team)
        time.sleep(0.01)
    rank_1(team).kill()
    start = time.monotonic()
    text = ended(team, PATIENCE_S)
    assert time.monotonic() - start < PATIENCE_S
    assert team.returncode not in (0, None), text
    assert f"-{signal.SIGKILL.value}" in text  # torchrun's own report
    assert not out.exists()
    resumed = started(model, out, "--resume")
    text = ended(resumed)
    assert resumed.returncode == 0, text
    assert contents(out) == contents(together)


def test_more_processes_than_windows_are_refused(model: Path) -> None:
    out = model.parent / "refused"
    team = started(model, out, "--samples=1")
    text = ended(team)
    assert team.returncode != 0
    assert "slimgpt: error: 2 processes for 1 calibration windows" in text
    assert not out.exists()
    assert not out.with_name("refused.partial").exists()
