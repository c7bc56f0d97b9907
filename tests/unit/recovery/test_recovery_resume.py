"""Equal runs give equal bytes; one that dies goes on from its last checkpoint, and runs no code that is in there."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import interrupted_at, without_costs
from recovery_shop import Shop, Watching, loaded, logits, options

from slimgpt.config import RecoverConfig
from slimgpt.errors import DamageWarning, OutputError
from slimgpt.machine.seals import all_hashes, seal
from slimgpt.recovery import checkpoints, recover, save
from slimgpt.recovery.job import prepare

# --- equal runs, and resuming -------------------------------------------------------------------------


def test_the_same_command_gives_the_same_bytes_and_accumulation_only_rounds(shop: Shop, tmp_path: Path) -> None:
    same = [recover(options(shop, tmp_path / name, dropout=0.1)) for name in ("a", "b")]
    assert len({(result.path / "model.safetensors").read_bytes() for result in same}) == 1
    smaller = recover(options(shop, tmp_path / "c", dropout=0.0, micro_batch_size=2))
    larger = recover(options(shop, tmp_path / "d", dropout=0.0, micro_batch_size=8))
    torch.testing.assert_close(logits(loaded(smaller.path)), logits(loaded(larger.path)), rtol=1e-3, atol=1e-3)


def test_recomputed_activations_change_nothing(shop: Shop, tmp_path: Path) -> None:
    given = {"teacher": str(shop.dense), "full": True}
    plain = recover(options(shop, tmp_path / "a", **given))
    recomputed = recover(options(shop, tmp_path / "b", gradient_checkpointing=True, **given))
    torch.testing.assert_close(logits(loaded(plain.path)), logits(loaded(recomputed.path)), rtol=1e-4, atol=1e-4)


KILLED = """
import os, signal, sys
from slimgpt.recovery import run
from slimgpt.cli import main
class Killing(run.RecoverObserver):
    def stepped(self, step):
        if step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
run.RecoverObserver = Killing
from slimgpt.config import RecoverConfig
run.recover(RecoverConfig(**{options!r}))
"""


def kill_at(step: int, config: RecoverConfig) -> None:
    program = KILLED.format(step=step, options=asdict(config))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


class Interrupting(Watching):
    """Presses Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.last = step

    def stepped(self, step: int) -> None:
        if step == self.last:
            raise KeyboardInterrupt


def interrupt_at(step: int, config: RecoverConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        recover(config, Interrupting(step))


@pytest.mark.parametrize(
    ("given", "die_at"), [({"dropout": 0.2}, kill_at), ({"full": True}, interrupt_at)], ids=["lora killed", "full"]
)
def test_cut_short_and_resumed_it_ends_with_the_same_bytes(
    shop: Shop, tmp_path: Path, given: dict[str, Any], die_at: Callable[[int, RecoverConfig], None]
) -> None:
    given = {**given, "teacher": str(shop.dense), "max_steps": 10}
    whole = recover(options(shop, tmp_path / "whole", **given))
    config = options(shop, tmp_path / "out", **given)
    die_at(7, config)
    assert not (tmp_path / "out").exists()
    partial = tmp_path / "out.partial"
    cut_short = partial / "training" / "checkpoint-8"
    shutil.copytree(partial / "training" / "checkpoint-6", cut_short)
    (cut_short / checkpoints.RECORD).unlink()  # as if the kill had come while it was written
    with pytest.raises(OutputError, match="continue it with --resume, or drop it with --force"):
        recover(config)
    other = options(shop, tmp_path / "out", **{**given, "resume": True, "learning_rate": 1e-5})
    with pytest.raises(OutputError, match="learning_rate was"):
        recover(other)
    teacher_files = {path: path.stat().st_mtime_ns for path in (partial / "teacher").rglob("*.safetensors")}
    watching = Watching()
    resumed = recover(options(shop, tmp_path / "out", **given, resume=True), watching)
    assert min(watching.perplexities) == 8  # not from the start
    assert teacher_files
    histories = [result.record["recovery"][-1]["history"] for result in (whole, resumed)]
    assert histories[0] == histories[1]
    before, after = ((result.path / "model.safetensors").read_bytes() for result in (whole, resumed))
    assert after == before
    assert not partial.exists()
    again = recover(options(shop, tmp_path / "out", **given, resume=True))
    assert again.record == json.loads((tmp_path / "out" / "slimgpt.json").read_text())


ENDS = {
    "stopped early": {"max_steps": 30, "eval_every": 1, "patience": 2, "learning_rate": 1.2e-2, "batch_size": 2},
    "within an epoch": {"max_steps": 0, "epochs": 0.3, "keep": "last", "eval_every": 4},
}


@pytest.mark.parametrize("given", ENDS.values(), ids=list(ENDS))
@pytest.mark.parametrize("steps_left", [0, 1], ids=["at its end", "a step before"])
def test_training_ends_where_it_would_have_ended(
    shop: Shop, tmp_path: Path, given: dict[str, Any], steps_left: int
) -> None:
    """Not a step later because the patience begins anew, or because Trainer would make one more."""
    given = {"full": True, **given}
    whole = recover(options(shop, tmp_path / "whole", **given))
    steps = whole.record["recovery"][-1]["steps"]
    if steps_left:
        interrupt_at(steps, options(shop, tmp_path / "out", **given))
    else:
        with interrupted_at(save, "write"), pytest.raises(KeyboardInterrupt):
            recover(options(shop, tmp_path / "out", **given))
    resumed = recover(options(shop, tmp_path / "out", **given, resume=True))
    entries = [without_costs(result.record["recovery"][-1]) for result in (whole, resumed)]
    assert {**entries[1], "options": None} == {**entries[0], "options": None}
    before, after = ((result.path / "model.safetensors").read_bytes() for result in (whole, resumed))
    assert after == before


class Bomb:
    """Runs code where it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    ("file", "sealed"),
    [("optimizer.pt", False), ("optimizer.pt", True), ("scheduler.pt", True), ("rng_state.pth", True)],
)
def test_resuming_runs_no_code_from_a_checkpoint(shop: Shop, tmp_path: Path, file: str, sealed: bool) -> None:
    config = options(shop, tmp_path / "out")
    interrupt_at(5, config)
    place = tmp_path / "out.partial" / "training" / "checkpoint-4" / file
    assert place.is_file()
    torch.save({"state": Bomb(tmp_path / "mark")}, tmp_path / "bomb")
    shutil.copy(tmp_path / "bomb", place)
    if sealed:  # by somebody who can compute a hash
        job = prepare(options(shop, tmp_path / "out", resume=True))
        job.place.close()
        of = [job.journal.fingerprint, str(place.parent)]
        (place.parent / checkpoints.RECORD).unlink()
        seal(place.parent / checkpoints.RECORD, {"best": None, "ended": False}, of, all_hashes(place.parent))
        with pytest.raises(pickle.UnpicklingError):
            recover(options(shop, tmp_path / "out", resume=True))
    else:
        with pytest.warns(DamageWarning, match=rf"{file} is damaged, or from another run: training goes on from"):
            recover(options(shop, tmp_path / "out", resume=True))
    assert not (tmp_path / "mark").exists()
    torch.load(tmp_path / "bomb", weights_only=False)  # negative control
    assert (tmp_path / "mark").exists()
