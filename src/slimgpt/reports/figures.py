"""Every figure of a report as a file of its own, in a folder that may hold other things."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from slimgpt.config.paths import path_of
from slimgpt.errors import OutputError
from slimgpt.machine.atomic import sync
from slimgpt.machine.folder_lock import FolderLock, clear
from slimgpt.output.standing import FOLDER, PAGE, refuse_standing, standing
from slimgpt.reports.charts.chart import Chart

OPTION = "--figures"
WORK = "figures.partial"  # in the folder, while they are drawn


def folder(path: str | None) -> Path | None:
    """The folder that was named.

    Raises:
        OutputError: it can be none.
    """
    if path is None:
        return None
    named = path_of(path, OPTION)
    if not named.absolute().parent.is_dir():
        raise OutputError(f"{OPTION} {path} cannot be written: there is no folder {named.parent}. Make it first.")
    if standing(named) is not None and not named.is_dir():  # a link to a folder will do: nothing takes its place
        raise OutputError(f"{OPTION} {path} is {standing(named)}: name {FOLDER}.")
    return named


def write(folder: Path, charts: Collection[Chart], form: str, force: bool) -> tuple[Path, ...]:
    """Draw into the folder, which is made where it is not there: all figures or none.

    Raises:
        OutputError: one is there and ``force`` is off, or is no file, or another report is written there.
    """
    files = {folder / f"{chart.name}.{form}": chart for chart in charts}
    for file in files:
        refuse_standing(file, PAGE, OPTION, force)
    with FolderLock(work := folder / WORK):
        try:
            clear(work)
            for file, chart in files.items():
                chart.save(work / file.name, form)
                sync(work / file.name)
            for file in files:
                os.replace(work / file.name, file)
        finally:
            clear(work)
    return tuple(files)
