"""The journal: what is finished is whole, what is not whole is not finished, and another run is told so."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt.errors import DamageWarning, OutputError
from slimgpt.machine.atomic import write_json, write_text
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.output import journal as journal_module
from slimgpt.output.journal import HEADER, Journal

RUN = {"ratio": 0.2, "seed": 0, "model": "abc"}
WEIGHTS = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.ones(2)}
RECORD = {"sites": [{"layer": 3, "site": "ffn", "kept": [0, 2], "error": 0.25}]}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return begun(tmp_path / "out.partial", RUN, resume=False)


def reopened(journal: Journal, fingerprint: dict[str, Any] = RUN) -> Journal:
    return begun(journal.shard(0).parent, fingerprint, resume=True)


def begun(folder: Path, fingerprint: dict[str, Any], resume: bool) -> Journal:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder, fingerprint)
    journal.begin(resume)
    return journal


def test_a_finished_layer_comes_back_whole(journal: Journal) -> None:
    journal.write(3, WEIGHTS, RECORD)
    again = reopened(journal)
    assert again.record(3)["sites"] == RECORD["sites"]
    weights = again.weights(3)
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


def test_a_layer_never_begun_is_not_finished(journal: Journal) -> None:
    journal.write(0, WEIGHTS, RECORD)
    assert journal.record(1) is None


def test_a_crash_between_shard_and_record_is_not_finished(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_loss(*args: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(journal_module, "seal", power_loss)
    with pytest.raises(SystemExit):
        journal.write(0, WEIGHTS, RECORD)
    assert journal.shard(0).is_file()
    assert reopened(journal).record(0) is None


@pytest.mark.parametrize("position", [0, 8, -1])
def test_a_shard_with_one_wrong_byte_is_not_finished(journal: Journal, position: int) -> None:
    journal.write(0, WEIGHTS, RECORD)
    content = bytearray(journal.shard(0).read_bytes())
    content[position] ^= 1
    journal.shard(0).write_bytes(content)
    says_that(journal, "layer-00000.safetensors is damaged, or from another run: layer 0 is pruned again.")


def test_a_missing_or_cut_off_shard_is_not_finished(journal: Journal) -> None:
    journal.write(0, WEIGHTS, RECORD)
    os.truncate(journal.shard(0), journal.shard(0).stat().st_size - 1)
    says_that(journal, "layer-00000.safetensors is damaged, or from another run: layer 0 is pruned again.")
    journal.shard(0).unlink()
    says_that(journal, "layer-00000.safetensors is gone: layer 0 is pruned again.")


def says_that(journal: Journal, what: str) -> None:
    with pytest.warns(DamageWarning) as said:
        assert reopened(journal).record(0) is None
    assert [str(one.message) for one in said] == [f"{journal.shard(0).parent}/{what}"]


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"sites": []}', '{"sha256": null}', "\x00" * 100])
def test_a_damaged_record_is_not_finished(journal: Journal, text: str) -> None:
    journal.write(0, WEIGHTS, RECORD)
    journal.shard(0).with_suffix(".json").write_text(text)
    with pytest.warns(DamageWarning, match=r"layer-00000\.json .*: layer 0 is pruned again"):
        assert reopened(journal).record(0) is None


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_another_layer_s_file_is_not_this_one_s(journal: Journal, suffix: str) -> None:
    journal.write(0, WEIGHTS, RECORD)
    journal.write(1, {"layer.weight": torch.zeros(1)}, RECORD)
    shutil.copy(journal.shard(1).with_suffix(suffix), journal.shard(0).with_suffix(suffix))
    says_that(journal, f"layer-00000{suffix} is damaged, or from another run: layer 0 is pruned again.")


def test_another_run_s_layer_is_not_this_one_s(journal: Journal, tmp_path: Path) -> None:
    other = begun(tmp_path / "other.partial", {**RUN, "seed": 1}, resume=False)
    other.write(0, WEIGHTS, RECORD)
    for suffix in (".json", ".safetensors"):
        shutil.copy(other.shard(0).with_suffix(suffix), journal.shard(0).with_suffix(suffix))
    says_that(journal, "layer-00000.json is damaged, or from another run: layer 0 is pruned again.")


def test_a_layer_may_be_written_again(journal: Journal) -> None:
    journal.write(0, WEIGHTS, RECORD)
    journal.write(0, {"layer.weight": torch.zeros(1)}, RECORD)
    assert journal.record(0) is not None
    assert list(journal.weights(0)) == ["layer.weight"]


def test_an_unfinished_run_is_not_taken_up_unasked(journal: Journal) -> None:
    with pytest.raises(OutputError, match=r"an unfinished run is in .*out\.partial: .*--resume.*--force"):
        begun(journal.shard(0).parent, RUN, resume=False)


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        ({**RUN, "ratio": 0.25}, "ratio was 0.2 and is now 0.25"),
        ({**RUN, "model": "xyz"}, "model was 'abc' and is now 'xyz'"),
        ({**RUN, "new": 1}, "new was None and is now 1"),
        ({"ratio": 0.2, "model": "abc"}, "seed was 0 and is now None"),
    ],
)
def test_another_run_is_refused_with_the_difference(journal: Journal, now: dict[str, Any], difference: str) -> None:
    with pytest.raises(OutputError) as refused:
        reopened(journal, now)
    assert difference in str(refused.value)
    assert "--force" in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "\x00\x00", '{"sha256": "0"}'])
def test_a_damaged_header_is_refused(journal: Journal, text: str) -> None:
    (journal.shard(0).parent / HEADER).write_text(text)
    with pytest.raises(OutputError, match=r"journal\.json is damaged, or from another run: start anew with --force\."):
        reopened(journal)


def test_a_run_that_an_older_version_began_is_refused(journal: Journal) -> None:
    (journal.shard(0).parent / HEADER).write_text(json.dumps(RUN))
    with pytest.raises(OutputError, match=r"journal\.json has no hash, so an older slimgpt wrote it: start anew with"):
        reopened(journal)


def test_without_its_header_nothing_counts_and_that_is_said(journal: Journal) -> None:
    journal.write(0, WEIGHTS, RECORD)
    (journal.shard(0).parent / HEADER).unlink()
    with pytest.warns(DamageWarning, match=r"journal\.json is gone: nothing that lies beside it counts, and the run"):
        again = reopened(journal)
    assert again.record(0) is None


def test_discard_leaves_nothing(journal: Journal) -> None:
    journal.write(0, WEIGHTS, RECORD)
    journal.discard()
    assert not list(journal.shard(0).parent.iterdir())


# --- atomic files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "content"), [(write_text, "new"), (write_json, {"new": 1}), (write_tensors, {"new": torch.ones(3)})]
)
def test_a_file_is_there_whole_or_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, content: Any
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def power_loss(*args: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", power_loss)
        with pytest.raises(SystemExit):
            write(path, content)
    assert path.read_text() == "old"
    write(path, content)
    assert path.read_bytes() != b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("sync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("name"), replace(*paths)))
    write_text(tmp_path / "file", "text")
    assert events == ["sync", "name", "sync"]


def test_json_keeps_lists_of_numbers_on_one_line_and_everything_else_as_it_is(tmp_path: Path) -> None:
    content = {"kept": list(range(50)), "errors": [0.5, -1e-7], "names": ["a [1,   2]", "b"], "empty": []}
    write_json(tmp_path / "file", content)
    text = (tmp_path / "file").read_text()
    assert json.loads(text) == content
    assert any(line.strip().startswith('"kept": [ 0, 1, 2') and "49 ]" in line for line in text.splitlines())
