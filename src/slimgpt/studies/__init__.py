"""A study: a grid of pruned models with their dense controls, run cell by cell, resumable, answered with intervals.

    recipe ──expand──▶ cells ──chain──▶ commands ──run──▶ records ──▶ table, claims, page

Every cell is a chain of slimgpt's own commands in processes of their own, so nothing here loads a model.

Comes in: a recipe. Goes out: a table of cells, and answers with intervals.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow

from slimgpt.config import StudyConfig
from slimgpt.config.paths import path_of
from slimgpt.errors import OutputError
from slimgpt.machine.atomic import write_json
from slimgpt.machine.folder_lock import FolderLock, partial_folder
from slimgpt.machine.full_disk import AGAIN, full_disk_named
from slimgpt.studies import chain, cluster, recipe, run, table
from slimgpt.studies.cells import Cell, check_size, expand, settings
from slimgpt.studies.claims import Answer, answers
from slimgpt.studies.recipe import Recipe

CELLS, HEADER, ANSWERS = "cells", "study.json", "claims.json"
GO_ON = f"Cells that have run are kept. {AGAIN}"


class StudyObserver:
    """Hears how a study goes; this one does nothing with it."""

    def planned(self, num_cells: int, num_finished: int) -> None:
        """Work starts on what is not finished."""

    def finished(self, record: Mapping[str, Any]) -> None:
        """A cell has run."""

    def answered(self, done: StudyResult) -> None:
        """All is known, and nobody else may work in the folder yet."""


@dataclass(frozen=True)
class StudyResult:
    """A study whose cells have all run.

    Attributes:
        out: its folder.
        recipe: what it was asked.
        records: one a cell, in the grid's order.
        table: one row a cell.
        answers: to the claims, as far as the cells allow.
    """

    out: Path
    recipe: Recipe
    records: Sequence[Mapping[str, Any]]
    table: pyarrow.Table
    answers: Sequence[Answer]

    @property
    def failures(self) -> list[Mapping[str, Any]]:
        """Records of cells that failed."""
        return [record for record in self.records if record["status"] == run.FAILED]


def study(
    config: StudyConfig, observer: StudyObserver | None = None, command: run.Command = run.slimgpt
) -> StudyResult:
    """Run what is missing of a study, and write its table and its answers.

    Raises:
        ConfigError: the recipe is wrong somewhere, or Ray is asked for and not installed.
        OutputError: OUT is no study's, or another process works there.
    """
    config.check()
    if config.ray:
        cluster.require_ray()
    asked = recipe.read(config.grid)
    cells = expand(asked)
    for cell in cells.values():
        chain.check(cell, asked)
    check_size(len(cells), config.yes)
    out = path_of(config.out, "OUT").absolute()
    _check_folder(out)
    observer = observer or StudyObserver()
    with full_disk_named(out, GO_ON), FolderLock(partial_folder(out)):
        (out / CELLS).mkdir(parents=True, exist_ok=True)
        write_json(out / HEADER, {"kind": "study", "schema": 1, "recipe": asdict(asked), "cells": list(cells)})
        records = _run(config, asked, cells, out / CELLS, observer, command)
        rows = table.as_table(records)
        found = answers(records)
        table.write(rows, out)
        write_json(out / ANSWERS, {"kind": "study-claims", "schema": 1, "answers": [asdict(own) for own in found]})
        done = StudyResult(out, asked, records, rows, found)
        observer.answered(done)
    return done


def _run(
    config: StudyConfig,
    asked: Recipe,
    cells: Mapping[str, Cell],
    folder: Path,
    observer: StudyObserver,
    command: run.Command,
) -> list[dict[str, Any]]:
    """Records of all cells, in the order of the grid: those on disk, and of the others once they have run."""
    found = {identity: run.finished(folder, identity, config.keep_models) for identity in cells}
    known = {identity: record for identity, record in found.items() if record is not None}
    if config.retry:
        known = {identity: record for identity, record in known.items() if record["status"] != run.FAILED}
    run.clear_unfinished(folder)
    observer.planned(len(cells), len(known))
    works = [
        run.Work(
            identity,
            {"cell": asdict(cell), "settings": settings(cell, asked)},
            partial(chain.steps, cell, asked),
            folder,
            config.keep_models,
        )
        for identity, cell in cells.items()
        if identity not in known
    ]
    for record in _executed(config, works, command):
        known[record["id"]] = record
        observer.finished(record)
    return [known[identity] for identity in cells]


def _executed(config: StudyConfig, works: Sequence[run.Work], command: run.Command) -> Iterator[dict[str, Any]]:
    if config.ray and works:
        return cluster.run_on_ray(works, config.workers)
    return run.run_here(works, config.workers, command)


def _check_folder(out: Path) -> None:
    """Raise OutputError where OUT is something else than a study's folder."""
    if os.path.lexists(out) and not out.is_dir():
        raise OutputError(f"OUT {out} is no folder: name one, or one that is not there yet.")
    begun = {CELLS, f"{HEADER}.tmp"}  # what a study has that died at its beginning
    if out.is_dir() and not (out / HEADER).is_file() and {path.name for path in out.iterdir()} - begun:
        raise OutputError(f"OUT {out} has no {HEADER}, so it is no study's folder: choose another.")
