"""Activations in files are the same activations, and nothing of them is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama
import torch
from tiny_llama import prune_config

from slimgpt import prune
from slimgpt.reports import console
from slimgpt.streaming import memory
from slimgpt.streaming.activations import ActivationRoom


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("activations") / "model")


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
    with console.ProgressObserver() as observer:
        prune(prune_config(model, tmp_path / "out"), observer)
    assert [room for room in rooms if room] == [tmp_path / "out.partial" / "rank-0"] * 2, (
        "the search's and the pruning's"
    )
    assert "of memory, 0 MiB on disk for activations," in " ".join(capsys.readouterr().out.split())
