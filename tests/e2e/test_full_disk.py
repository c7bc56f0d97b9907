"""A disk that takes no more stops the run with a sentence, loses nothing, and the run goes on when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_crash import Place, contents, undisturbed, zygote  # noqa: F401 - a fixture
from zygote import How, Zygote

from slimgpt.errors import OutputError
from slimgpt.streaming.activations import ActivationRoom

pytestmark = pytest.mark.e2e

UNCHECKED = {"slimgpt.output.place.SPARE_BYTES": -(1 << 30)}  # the disk fills while the run is on, not before
KIB = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a small disk is not permitted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("file_limit", "stopped_at"),
    [(50 * KIB, "the first layer's shard"), (100 * KIB, "the merged weights")],
)
def test_a_file_that_may_not_grow(zygote: Zygote, tmp_path: Path, file_limit: int, stopped_at: str) -> None:  # noqa: F811
    place = Place(zygote, tmp_path)
    expected, _ = undisturbed(place)
    refused = place.run(how=How(file_limit=file_limit))
    text = " ".join(refused.text.split())
    assert refused.status == 2, text
    assert f"{tmp_path}: a file would be larger than the system allows (see ulimit -f)" in refused.text
    assert "MiB still to write there, and" in text
    assert "give the same command with --resume." in text
    assert not place.out.exists()
    left = {file.name for file in place.partial.iterdir()}
    assert left == {"journal.json", "search"} if "first" in stopped_at else "layer-00001.json" in left
    assert not any(name.endswith(".tmp") or name == "finished" for name in left)
    assert place.run("--resume").status == 0
    assert contents(place.out) == expected


@pytest.mark.parametrize("free", [16 * KIB, 130 * KIB, 300 * KIB])
def test_a_disk_that_fills(zygote: Zygote, small_disk: Path, free: int) -> None:  # noqa: F811
    """Full at the first layer, at the second, or while the output is put together."""
    place = Place(zygote, small_disk)
    expected, _ = undisturbed(place, how=How(settings=UNCHECKED))
    filler = small_disk / "filler"
    space = os.statvfs(small_disk)
    filler.write_bytes(bytes(space.f_bavail * space.f_frsize - free))
    refused = place.run(how=How(settings=UNCHECKED))
    assert refused.status == 2, refused.text
    assert f"{small_disk}: the disk is full" in refused.text
    assert not place.out.exists()
    assert not list(small_disk.rglob("*.tmp"))
    filler.unlink()
    assert place.run("--resume", how=How(settings=UNCHECKED)).status == 0
    assert contents(place.out) == expected


def test_activations_that_find_no_room(zygote: Zygote, tmp_path: Path) -> None:  # noqa: F811
    place = Place(zygote, tmp_path)
    expected, _ = undisturbed(place)
    refused = place.run("--offload-dir", str(tmp_path / "elsewhere"), how=How(file_limit=20 * KIB))
    assert refused.status == 2, refused.text
    assert "elsewhere/rank-0 has no room for 0 MiB of activations" in " ".join(refused.text.split())
    assert place.run("--resume", "--offload-dir", str(tmp_path / "elsewhere")).status == 0
    assert contents(place.out) == expected


def test_room_for_activations_is_claimed_before_it_is_used(small_disk: Path) -> None:
    room = ActivationRoom(torch.float32, folder=small_disk)
    with pytest.raises(OutputError, match=r"no room for 4 MiB of activations .*--offload-dir.*--resume"):
        room.empty("residual", (KIB, KIB))
    assert not list(small_disk.iterdir())
