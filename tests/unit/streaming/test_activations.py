"""Activations in files are the same activations, and nothing of them is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
from tiny_llama import prune_config

from slimgpt import prune
from slimgpt.errors import ConfigError
from slimgpt.reports import console
from slimgpt.streaming import memory
from slimgpt.streaming.activations import ActivationRoom

MIB, GIB = 2**20, 2**30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("activations") / "model")


def machine(monkeypatch: pytest.MonkeyPatch, free_memory: int, free_disk: int = 1 << 50) -> None:
    """What psutil says of this one."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": free_memory}))
    monkeypatch.setattr("psutil.disk_usage", lambda path: type("Disk", (), {"free": free_disk}))


# --- the room ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_is_a_tensor_without_a_name(tmp_path: Path, dtype: torch.dtype) -> None:
    room = ActivationRoom(dtype, tmp_path / "room")
    first, second = room.empty("a", (3, 5)), room.empty("b", (2,))
    first.fill_(7)
    second.fill_(1)
    assert first.dtype == dtype
    assert first.sum() == 105
    assert not list((tmp_path / "room").iterdir())  # a kill would leave nothing
    room.close()
    assert not (tmp_path / "room").exists()
    assert first.sum() == 105


def test_somebody_elses_files_stay(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("x")
    ActivationRoom(torch.float32, tmp_path).close()
    assert (tmp_path / "theirs").exists()


# --- a run with them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offloading_changes_no_byte_and_leaves_nothing(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny_llama.save_model(tmp_path / "model", dtype=dtype)
    offload = tmp_path / "offload"
    inside = prune(prune_config(model, tmp_path / "inside")).path
    offloaded = prune(prune_config(model, tmp_path / "offloaded", offload_dir=str(offload))).path
    for file in inside.iterdir():
        if file.name != "slimgpt.json":  # it holds timings
            assert file.read_bytes() == (offloaded / file.name).read_bytes()
    assert not any(offload.iterdir())


def test_activations_go_to_disk_by_themselves_where_memory_is_short(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "ROOM_LEFT", 0.0)
    rooms: list[Path | None] = []
    make = ActivationRoom.__init__

    def noted(self: ActivationRoom, dtype: torch.dtype, folder: Path | None = None, pinned: bool = False) -> None:
        rooms.append(folder)
        make(self, dtype, folder, pinned)

    monkeypatch.setattr(ActivationRoom, "__init__", noted)
    prune(prune_config(model, tmp_path / "out"), console.ProgressObserver())
    assert [room for room in rooms if room] == [tmp_path / "out.partial" / "rank-0"] * 2, (
        "the search's and the pruning's"
    )
    assert "of memory, 0 MiB on disk for activations." in " ".join(capsys.readouterr().out.split())


# --- what is said and refused beforehand ---------------------------------------------------------------


def needs(**changes: Any) -> memory.Needs:
    return memory.Needs(
        **{"device": 5 * GIB, "activations": 4 * GIB, "weights": GIB, "offloaded": False, "on_cpu": True, **changes}
    )


def test_needs_of_host_and_disk() -> None:
    assert needs().host == 10 * GIB
    assert needs().disk == 0
    assert needs(on_cpu=False).host == 5 * GIB
    assert needs(offloaded=True).host == 6 * GIB
    assert needs(offloaded=True).disk == 4 * GIB


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, 10 * GIB)
    memory.check(needs(), torch.device("cpu"), tmp_path)
    machine(monkeypatch, 9 * GIB)
    with pytest.raises(ConfigError, match=r"this run needs about 10\.0 GiB of memory, and 9\.0 GiB .*--offload-dir"):
        memory.check(needs(), torch.device("cpu"), tmp_path)
    memory.check(needs(offloaded=True), torch.device("cpu"), tmp_path)


def test_processes_on_one_machine_share_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, 24 * GIB)
    memory.check(needs(), torch.device("cpu"), tmp_path, sharers=2)
    with pytest.raises(ConfigError, match=r"each of 3 processes needs about 10\.0 GiB .* 8\.0 GiB are free for it"):
        memory.check(needs(), torch.device("cpu"), tmp_path, sharers=3)


def test_what_does_not_fit_onto_the_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, 100 * GIB, free_disk=3 * GIB)
    with pytest.raises(ConfigError, match=r"activations take 4\.0 GiB, and .*/away has 3\.0 GiB free.*--samples"):
        memory.check(needs(offloaded=True), torch.device("cpu"), tmp_path / "away")
    memory.check(needs(), torch.device("cpu"), tmp_path)


def test_a_refused_run_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, MIB)
    with pytest.raises(ConfigError, match="of memory"):
        prune(prune_config(model, tmp_path / "out"))
    assert not list(tmp_path.iterdir())
