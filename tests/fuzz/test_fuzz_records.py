"""Records and measurements, mutated: what reads them goes on and leaves what can be read, or refuses in one line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import run_folders
import tiny_llama
from hostile import RARELY, SEEDS, as_json, copied, mutated, outcome, outcome_of, write

from slimgpt import open_checkpoint, prune
from slimgpt.allocation.latency.table import LatencyTable, read_table, write_table
from slimgpt.allocation.measures import ModelTimes, PartTimes
from slimgpt.config import DropConfig, ReportConfig, SparsifyConfig
from slimgpt.depth import drop
from slimgpt.output import measurements
from slimgpt.reports.page import report
from slimgpt.reports.runs import read_runs
from slimgpt.sparsity import sparsify

MAGNITUDE = ("--method", "magnitude", "--sparsity", "0.5")
HARM = {"schema": (0, -1, 2.5, "1", 10**6), "kind": ("evil", 5), "recovery": (5, [5], [{}]), "before": ({}, 5)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Outputs of every command that leaves a record."""
    place = tmp_path_factory.mktemp("records")
    model = tiny_llama.save_model(place / "model")
    prune(tiny_llama.prune_config(model, place / "pruned", solver="magnitude", allocation="log"))
    sparsify(SparsifyConfig(str(model), str(place / "sparse"), method="magnitude"))
    text = {"calibration": "builtin", "samples": 4, "seqlen": 32}
    drop(DropConfig(str(model), str(place / "shallow"), layers=1, **text))  # type: ignore[arg-type]
    return [place / name for name in ("pruned", "sparse", "shallow")]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return run_folders.save_runs(tmp_path_factory.mktemp("measured"))


def mutate(file: Path, choice: random.Random, harm: Any = None) -> None:
    write(file, as_json(mutated(json.loads(file.read_text(encoding="utf-8")), choice, harm), choice))


def test_sound_folders_pass(folders: list[Path], measured: list[Path], tmp_path: Path) -> None:
    """Negative control."""
    for folder in folders:
        assert outcome(lambda folder=folder: measurements.require_run(str(folder))) is None
    assert outcome(lambda: report(ReportConfig(tuple(map(str, measured)), str(tmp_path / "report.html")))) is None


@SEEDS
def test_record(seed: int, folders: list[Path], tmp_path: Path) -> None:
    """What a run accepts before its work it can also use at its end."""
    choice = random.Random(seed)
    model = copied(choice.choice(folders), tmp_path / "model")
    mutate(model / "slimgpt.json", choice, HARM)
    if outcome(lambda: open_checkpoint(str(model))) is not None:
        return
    if outcome(lambda: measurements.require_run(str(model))) is None:
        assert outcome(lambda: measurements.keep(model, "eval", run_folders.eval_json())) is None
    if choice.random() < RARELY and outcome_of("sparsify", model, tmp_path / "out", *MAGNITUDE) is None:
        assert outcome(lambda: measurements.require_run(str(tmp_path / "out"))) is None


@SEEDS
def test_measurements(seed: int, measured: list[Path], tmp_path: Path) -> None:
    choice = random.Random(seed)
    run = Path(shutil.copytree(choice.choice(measured), tmp_path / "run"))
    files = sorted(run.rglob("*.json"))
    mutate(choice.choice(files), choice, HARM)
    asked = ReportConfig((str(run),), str(tmp_path / "report.html"))
    if outcome(lambda: read_runs(asked)) is None and choice.random() < RARELY:
        outcome(lambda: report(asked))


@SEEDS
def test_table_of_latencies(seed: int, tmp_path: Path) -> None:
    choice = random.Random(seed)
    times = ModelTimes(5, {"attention": PartTimes((1, 2), (0, 3)), "ffn": PartTimes((8, 16), (0, 5))})
    table = LatencyTable({"parameters": 7}, {"device": "cpu"}, {"decode": times, "prefill": times})
    write_table(tmp_path / "table.json", table)
    mutate(tmp_path / "table.json", choice, HARM)
    outcome(lambda: read_table(tmp_path / "table.json"))
