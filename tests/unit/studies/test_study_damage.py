"""Damaged between stop and going on, a study comes to the table and the answers of one that nobody disturbed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from damage import KINDS, World, check, files_below, in_turn, interrupted_at
from study_shop import Pretended, study_config

from slimgpt.errors import DamageWarning, OutputError
from slimgpt.studies import study, table

RECORD = "cell.json"


def world_of(folder: Path, nll: float = 3.0, **options: bool) -> World:
    return World(folder, lambda resume: studied(folder, nll, **options))


def studied(folder: Path, nll: float = 3.0, **options: bool) -> None:
    study(study_config(folder, **options), command=Pretended(lambda words: nll))


@pytest.mark.parametrize("keep_models", [False, True])
def test_whatever_is_damaged_the_study_is_the_same(tmp_path: Path, keep_models: bool) -> None:
    world = world_of(tmp_path / "world", keep_models=keep_models)
    expected = world.undisturbed()
    aside, others = tmp_path / "aside", tmp_path / "others"
    for folder, nll in ((aside, 3.0), (others, 4.0)):  # the same recipe, and models of the same names
        with interrupted_at(table, "write"):
            assert world_of(world.folder, nll, keep_models=keep_models).stopped(folder)
    files = [file for file in files_below(aside) if file.parts[0] == "out"]
    assert ("model.safetensors" in {file.name for file in files}) == keep_models
    assert {RECORD, "eval.json", "seen.json", "bench.json", "slimgpt.json", "0.log"} <= {file.name for file in files}
    if keep_models:
        files = [file for file in files if "wanda" in str(file)]
    check(world, aside, others, expected, in_turn(files), {"out/study.json"})


def test_what_a_finished_study_has_written_is_written_again(tmp_path: Path) -> None:
    world = world_of(tmp_path / "world")
    expected = world.undisturbed()
    aside = (tmp_path / "world").rename(tmp_path / "aside")
    files = [file for file in files_below(aside) if len(file.parts) == 2]
    assert {file.name for file in files} == {"study.json", "claims.json", "table.csv", "table.parquet"}
    outcomes = check(world, aside, aside, expected, in_turn(files), {"out/study.json"})
    assert all("so it is no study's folder: choose another." in o.refusal for o in outcomes if o.files is None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_cell_runs_again_and_no_other(tmp_path: Path, kind: str) -> None:
    studied(tmp_path)
    first, second = sorted((tmp_path / "out" / "cells").iterdir())[:2]
    path = first / "eval.json"
    damaged = KINDS[kind](path.read_bytes(), (second / "eval.json").read_bytes())
    path.unlink() if damaged is None else path.write_bytes(damaged)
    again = Pretended()
    with pytest.warns(DamageWarning) as said:
        study(study_config(tmp_path), command=again)
    reason = "gone" if damaged is None else "damaged, or from another run"
    assert [str(one.message) for one in said] == [f"{path} is {reason}: the cell is run again."]
    assert all(first.name in " ".join(words) for words in again.calls)
    assert again.calls


def test_kept_models_may_go_where_nobody_asks_for_them(tmp_path: Path) -> None:
    studied(tmp_path, keep_models=True)
    for path in (tmp_path / "out").rglob("*.safetensors"):
        path.unlink()
    again = Pretended()
    study(study_config(tmp_path), command=again)
    assert not again.calls
    with pytest.warns(DamageWarning, match=r"model\.safetensors is gone: the cell is run again\."):
        study(study_config(tmp_path, keep_models=True), command=again)
    assert {words[0] for words in again.calls} >= {"prune", "eval"}


def test_another_cell_s_folder_is_not_this_one_s(tmp_path: Path) -> None:
    studied(tmp_path)
    first, second = sorted((tmp_path / "out" / "cells").iterdir())[:2]
    (first / RECORD).write_bytes((second / RECORD).read_bytes())
    with pytest.warns(DamageWarning, match=r"cell\.json is damaged, or from another run: the cell is run again\."):
        studied(tmp_path)
    assert json.loads((first / RECORD).read_text())["id"] == first.name


def test_a_study_that_an_older_version_began_is_refused(tmp_path: Path) -> None:
    studied(tmp_path)
    path = next((tmp_path / "out" / "cells").iterdir()) / RECORD
    record = json.loads(path.read_text())
    del record["sha256"], record["files"]
    path.write_text(json.dumps(record))
    with pytest.raises(OutputError) as refused:
        studied(tmp_path)
    assert str(refused.value) == (
        f"{path} has no hash, so an older slimgpt wrote it: choose another OUT, or remove this cell's folder, and it "
        "is run again."
    )
    assert json.loads(path.read_text()) == record
