"""A working folder serves one run at a time, whoever else comes and whatever flags they bring."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_llama

from slimgpt import prune
from slimgpt.errors import OutputError
from slimgpt.machine.folder_lock import LOCK, FolderLock, clear
from slimgpt.output.place import Place, partial_folder
from slimgpt.pruning import finish

HOLDS_AND_WAITS = """
import sys
from pathlib import Path
from slimgpt.machine.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out.partial"


def test_a_held_folder_is_refused_until_it_is_let_go(folder: Path) -> None:
    first = FolderLock(folder)
    first.acquire()
    first.acquire()  # holding it already is enough
    with pytest.raises(OutputError, match=r"another slimgpt run is at work in .* let it finish, or end it"):
        FolderLock(folder).acquire()
    first.release()
    first.release()
    with FolderLock(folder):
        pass


def test_nothing_is_left_of_a_folder_that_nothing_is_in(folder: Path) -> None:
    with FolderLock(folder):
        assert [path.name for path in folder.iterdir()] == [LOCK]
    assert not folder.exists()


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_with_something_in_it_stays_as_it_was_found(folder: Path, killed: bool) -> None:
    folder.mkdir()
    for name in ["layer", *([LOCK] if killed else [])]:
        (folder / name).touch()
    before = sorted(folder.iterdir())
    with FolderLock(folder):
        pass
    assert sorted(folder.iterdir()) == before


def test_a_file_in_the_folders_place_is_left_alone(folder: Path) -> None:
    folder.write_text("mine")
    with pytest.raises(OutputError, match=r"out\.partial is no folder: move it away"):
        FolderLock(folder).acquire()
    assert folder.read_text() == "mine"


def test_the_lock_ends_with_its_process_however_that_dies(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_AND_WAITS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError):
            FolderLock(folder).acquire()
        other.kill()
    FolderLock(folder).acquire()


def test_a_lock_on_a_folder_that_was_removed_meanwhile_is_worth_nothing(folder: Path) -> None:
    """Who opens the lock file just before its holder removes it must not think that he holds what comes after."""
    first = FolderLock(folder)
    first.acquire()
    late = os.open(folder / LOCK, os.O_RDWR)
    first.release()
    with FolderLock(folder), pytest.raises(OutputError):
        FolderLock(folder).acquire()
    assert os.fstat(late).st_nlink == 0
    os.close(late)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_has_a_file_for_one(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def no_locks(*given: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_locks)
    for _ in range(2):
        with FolderLock(folder), pytest.raises(OutputError, match="at work"):
            FolderLock(folder).acquire()
    assert not folder.exists()


def test_clear_removes_all_but_the_lock_and_follows_no_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    with FolderLock(folder):
        (folder / "inner" / "innermost").mkdir(parents=True)
        (folder / "file").touch()
        (folder / "link").symlink_to(tmp_path / "mine")
        (folder / "nowhere").symlink_to(tmp_path / "nowhere")
        clear(folder)
        assert [path.name for path in folder.iterdir()] == [LOCK]
    assert (tmp_path / "mine" / "thesis").exists()


def test_what_a_run_is_assembling_is_not_swept_away(tmp_path: Path) -> None:
    place, other = Place(tmp_path / "out"), Place(tmp_path / "out")
    place.hold(force=False)
    place.finished.mkdir()
    for flag in (False, True):
        with pytest.raises(OutputError, match="at work"):
            other.check(None, 0, force=flag, resume=flag)
    assert place.finished.is_dir()
    place.close()
    (place.partial / LOCK).touch()  # as a kill leaves it
    other.check(None, 0, force=False)
    assert not place.finished.exists()


@pytest.mark.parametrize("flags", [{"resume": True}, {"force": True}, {}], ids=["resume", "force", "neither"])
def test_a_second_run_into_the_same_out_is_refused_and_the_first_one_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool]
) -> None:
    model = tiny_llama.save_model(tmp_path / "model")
    refusals: list[str] = []
    assemble = finish.assembly.assemble

    def while_another_comes(*given: Any) -> None:
        assemble(*given)
        with pytest.raises(OutputError) as refused:
            prune(tiny_llama.prune_config(model, tmp_path / "out", **flags))
        refusals.append(str(refused.value))

    monkeypatch.setattr(finish.assembly, "assemble", while_another_comes)
    done = prune(tiny_llama.prune_config(model, tmp_path / "out"))
    assert len(refusals) == 1
    assert "another slimgpt run is at work" in refusals[0]
    assert (done.path / "model.safetensors").is_file()
    assert not partial_folder(tmp_path / "out").exists()


def test_a_run_that_was_broken_off_can_go_on_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook keeps the last exception, and with it the journal."""
    model = tiny_llama.save_model(tmp_path / "model")

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as kept:
        patch.setattr(finish.assembly, "assemble", interrupted)
        prune(tiny_llama.prune_config(model, tmp_path / "out"))
    assert prune(tiny_llama.prune_config(model, tmp_path / "out", resume=True)).path.is_dir()
    assert kept.value.__traceback__ is not None
