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
from recovery_shop import Shop, Watching, loaded, logits, options
from safetensors.torch import load_file

from slimgpt.config import RecoverConfig
from slimgpt.errors import OutputError
from slimgpt.recovery import recover

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
class Killing(run.Unwatched):
    def stepped(self, step):
        if step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
run.Unwatched = Killing
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
def test_cut_short_and_resumed_it_ends_with_the_same_weights(
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
    (cut_short / "trainer_state.json").unlink()  # as if the kill had come while it was written
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
    for undisturbed, gone_on in zip(*histories, strict=True):
        assert gone_on == pytest.approx(undisturbed, rel=1e-6)
    before, after = (load_file(result.path / "model.safetensors") for result in (whole, resumed))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=1e-7, msg=name)
    assert not partial.exists()
    again = recover(options(shop, tmp_path / "out", **given, resume=True))
    assert again.record == json.loads((tmp_path / "out" / "slimgpt.json").read_text())


class Bomb:
    """Runs code where it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_resuming_runs_no_code_from_a_checkpoint(shop: Shop, tmp_path: Path, file: str) -> None:
    config = options(shop, tmp_path / "out")
    interrupt_at(5, config)
    place = tmp_path / "out.partial" / "training" / "checkpoint-4" / file
    assert place.is_file()
    torch.save({"state": Bomb(tmp_path / "mark")}, place)
    with pytest.raises(pickle.UnpicklingError):
        recover(options(shop, tmp_path / "out", resume=True))
    assert not (tmp_path / "mark").exists()
    torch.load(place, weights_only=False)  # negative control
    assert (tmp_path / "mark").exists()
