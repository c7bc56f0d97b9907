"""Killed at any moment and resumed, a run ends with the same bytes; nothing half-written is taken for finished."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_llama
from safetensors.torch import load_file, save_file
from zygote import WRITES, How, Outcome, Zygote, last_of_each

pytestmark = pytest.mark.e2e

OPTIONS = ["--ratio=0.2", "--calibration=builtin", "--samples=8", "--seqlen=32", "--round-to=1", "--device=cpu"]
SHARDS = {"slimgpt.output.place.ONE_FILE_BYTES": 0}  # as if the model were too large for one file


class Place:
    """A model, where its smaller version goes, and the process that makes it."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self._zygote = zygote
        self.model = tiny_llama.save_model(folder / "model", num_hidden_layers=2)
        self.out = folder / "out"
        self.partial = folder / "out.partial"

    def run(self, *flags: str, how: How = How(), model: Path | None = None) -> Outcome:  # noqa: B008 - frozen
        return self._zygote.run(["prune", str(model or self.model), str(self.out), *OPTIONS, *flags], how)

    def clear(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.rmtree(self.partial, ignore_errors=True)


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Its first run fills the cache of calibration windows, so that all others have the same moments."""
    with Zygote(tmp_path_factory.mktemp("zygote")) as process:
        Place(process, tmp_path_factory.mktemp("first")).run()
        yield process


@pytest.fixture
def place(zygote: Zygote, tmp_path: Path) -> Place:
    return Place(zygote, tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the record, which holds timings."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "slimgpt.json"}


def undisturbed(place: Place, *flags: str, how: How = How()) -> tuple[dict[str, bytes], list[str]]:  # noqa: B008
    done = place.run(*flags, how=how)
    assert done.status == 0, done.text
    expected = contents(place.out)
    place.clear()
    return expected, done.moments


def killed(place: Place, label: str, *flags: str, torn: bool = False) -> None:
    """Kill a run at the last moment of this label."""
    moments = last_of_each(undisturbed(place, *flags)[1])
    assert place.run(*flags, how=How(moments[label], torn)).status == -signal.SIGKILL


# --- SIGKILL at every kind of moment -----------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [pytest.param({}, id="one file", marks=pytest.mark.nightly), pytest.param(SHARDS, id="shards")]
)
def test_killed_anywhere_and_resumed_it_gives_the_same_bytes(place: Place, settings: dict[str, int]) -> None:
    expected, moments = undisturbed(place, how=How(settings=settings))
    every = last_of_each(moments)
    if settings:
        every = {label: number for label, number in every.items() if "model" in label}  # the rest is the other case's
    deaths = [(number, False) for number in every.values()]
    deaths += [(number, True) for label, number in every.items() if label.startswith(WRITES)]
    for number, torn in deaths:
        what = f"{moments[number]}, {'torn' if torn else 'before'}"
        dead = place.run(how=How(number, torn, settings=settings))
        assert dead.status == -signal.SIGKILL, f"{what}: {dead.text}"
        assert not place.out.exists() or contents(place.out) == expected, what
        resumed = place.run("--resume", how=How(settings=settings))
        assert resumed.status == 0, f"{what}: {resumed.text}"
        assert contents(place.out) == expected, what
        assert not place.partial.exists(), what
        place.clear()
    assert len(deaths) >= (5 if settings else 20)


def test_an_older_output_is_there_until_the_new_one_is(place: Place) -> None:
    """The two renames of --force, and all that comes after: the older output can always be had, or the new one."""
    new, _ = undisturbed(place)
    older = tiny_llama.save_model(place.out.with_name("older"))
    (older / "slimgpt.json").write_text("{}")
    shutil.copytree(older, place.out)
    moments = place.run("--force").moments
    replacing = next(number for number, label in enumerate(moments) if label == "replace replaced")
    for number in (*range(replacing, replacing + 4), len(moments) - 1):
        place.clear()
        shutil.copytree(older, place.out)
        assert place.run("--force", how=How(number)).status == -signal.SIGKILL
        at_hand = place.out if place.out.exists() else place.partial / "replaced"
        assert contents(at_hand) in (contents(older), new), moments[number]
        resumed = place.run("--force", "--resume")
        assert resumed.status == 0, resumed.text
        assert contents(place.out) == new
        assert not place.partial.exists()


def test_a_new_start_after_a_kill_between_the_renames_puts_the_older_output_back(place: Place) -> None:
    older = tiny_llama.save_model(place.out.with_name("older"))
    (older / "slimgpt.json").write_text("{}")
    shutil.copytree(older, place.out)
    moments = place.run("--force").moments
    place.clear()
    shutil.copytree(older, place.out)
    place.run("--force", how=How(moments.index("replace replaced") + 1))
    assert not place.out.exists()
    refused = place.run("--ratio", "0.3")
    assert "unfinished run" in refused.text
    dead = place.run("--ratio", "0.3", "--force", how=How(2))
    assert dead.status == -signal.SIGKILL
    assert contents(place.out) == contents(older)


# --- a damaged journal -------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", ["layer-00001.safetensors", "layer-00001.json"])
def test_a_journal_cut_off_in_the_middle_resumes_from_its_last_good_record(place: Place, damaged: str) -> None:
    expected, _ = undisturbed(place)
    killed(place, "save_file model.safetensors.tmp")
    file = place.partial / damaged
    os.truncate(file, file.stat().st_size // 2)
    resumed = place.run("--resume")
    assert resumed.status == 0, resumed.text
    assert contents(place.out) == expected
    saved = [label for label in resumed.moments if label.startswith("save_file layer")]
    assert saved == ["save_file layer-00001.safetensors.tmp"]


def test_layers_of_a_half_dropped_run_do_not_count(place: Place) -> None:
    """A journal without its header was being dropped: another run must not take its layers for its own."""
    expected, _ = undisturbed(place, "--ratio", "0.3")
    killed(place, "save_file model.safetensors.tmp")
    (place.partial / "journal.json").unlink()
    assert place.run("--ratio", "0.3", "--resume").status == 0
    assert contents(place.out) == expected


# --- what --resume takes and refuses -------------------------------------------------------------------


def test_another_run_is_refused_with_the_difference_and_nothing_is_lost(place: Place, tmp_path: Path) -> None:
    expected, _ = undisturbed(place)
    killed(place, "save_file model.safetensors.tmp")
    refused = place.run("--resume", "--ratio", "0.3")
    assert refused.status == 2
    assert "ratio was 0.2 and is now 0.3" in " ".join(refused.text.split())
    tuned = shutil.copytree(place.model, tmp_path / "tuned")
    tensors = load_file(tuned / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.01  # all else is the same, embeddings included
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    refused = place.run("--resume", model=tuned)
    assert refused.status == 2
    assert "model was" in refused.text
    assert place.run("--resume").status == 0
    assert contents(place.out) == expected


def test_a_model_that_was_moved_is_still_the_same(place: Place, tmp_path: Path) -> None:
    killed(place, "save_file model.safetensors.tmp")
    moved = shutil.move(place.model, tmp_path / "moved")
    assert place.run("--resume", model=moved).status == 0


def test_with_nothing_to_resume_it_just_runs(place: Place) -> None:
    expected, _ = undisturbed(place)
    assert place.run("--resume").status == 0
    assert contents(place.out) == expected


def test_a_finished_run_is_not_run_again_and_not_another_s(place: Place) -> None:
    assert place.run().status == 0
    written = (place.out / "model.safetensors").stat().st_mtime_ns
    again = place.run("--resume")
    assert again.status == 0, again.text
    assert "Written to" in again.text
    assert (place.out / "model.safetensors").stat().st_mtime_ns == written
    other = place.run("--resume", "--ratio", "0.3")
    assert other.status == 2
    assert "exists" in other.text


# --- Ctrl-C --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["save_file layer-#.safetensors.tmp", "replace layer-#.json", "replace out"])
def test_ctrl_c_says_how_to_resume(place: Place, label: str) -> None:
    expected, moments = undisturbed(place)
    interrupted = place.run(how=How(last_of_each(moments)[label], signal=signal.SIGINT))
    assert interrupted.status == 130, interrupted.text
    assert "Traceback" not in interrupted.text
    assert "same command with --resume" in interrupted.text
    assert not place.out.exists()
    assert not list(place.partial.glob("*.tmp"))
    assert place.run("--resume").status == 0
    assert contents(place.out) == expected
