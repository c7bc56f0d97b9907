"""A working folder serves one run at a time, whoever else comes and whatever flags they bring."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_llama

from slimgpt import prune
from slimgpt.errors import OutputError
from slimgpt.machine.folder_lock import FolderLock
from slimgpt.output.place import FINISHED, partial_folder, recover
from slimgpt.pruning import driver

HOLDS_AND_WAITS = """
import sys
from pathlib import Path
from slimgpt.machine.folder_lock import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_held_folder_is_refused_until_it_is_let_go(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    first.acquire()
    first.acquire()  # holding it already is enough
    with pytest.raises(OutputError, match=r"another slimgpt run is at work in .* let it finish, or end it"):
        FolderLock(tmp_path).acquire()
    first.release()
    with FolderLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_nobodys(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "out.partial"), FolderLock(tmp_path / "out.partial"):
        assert not (tmp_path / "out.partial").exists()


def test_the_lock_ends_with_its_process_however_that_dies(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_AND_WAITS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError):
            FolderLock(tmp_path).acquire()
        other.kill()
    FolderLock(tmp_path).acquire()


def test_a_file_system_without_locks_is_no_reason_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*args: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    FolderLock(tmp_path).acquire()


def test_what_a_run_is_assembling_is_not_swept_away(tmp_path: Path) -> None:
    finished = partial_folder(tmp_path / "out") / FINISHED
    finished.mkdir(parents=True)
    with FolderLock(finished.parent), pytest.raises(OutputError, match="at work"):
        recover(tmp_path / "out")
    assert finished.is_dir()
    recover(tmp_path / "out")
    assert not finished.exists()


@pytest.mark.parametrize("flags", [{"resume": True}, {"force": True}, {}], ids=["resume", "force", "neither"])
def test_a_second_run_into_the_same_out_is_refused_and_the_first_one_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool]
) -> None:
    model = tiny_llama.save_model(tmp_path / "model")
    refusals: list[str] = []
    assemble = driver.assembly.assemble

    def while_another_comes(*given: Any) -> Path:
        folder = assemble(*given)
        with pytest.raises(OutputError) as refused:
            prune(tiny_llama.prune_config(model, tmp_path / "out", **flags))
        refusals.append(str(refused.value))
        return folder

    monkeypatch.setattr(driver.assembly, "assemble", while_another_comes)
    done = prune(tiny_llama.prune_config(model, tmp_path / "out"))
    assert len(refusals) == 1
    assert ("at work" if flags else "unfinished run") in refusals[0]
    assert (done.path / "model.safetensors").is_file()
    assert not partial_folder(tmp_path / "out").exists()


def test_a_run_that_was_broken_off_can_go_on_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook keeps the last exception, and with it the journal."""
    model = tiny_llama.save_model(tmp_path / "model")

    def interrupted(*given: Any) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as kept:
        patch.setattr(driver.assembly, "assemble", interrupted)
        prune(tiny_llama.prune_config(model, tmp_path / "out"))
    assert prune(tiny_llama.prune_config(model, tmp_path / "out", resume=True)).path.is_dir()
    assert kept.value.__traceback__ is not None
