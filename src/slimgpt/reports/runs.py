"""What is known about pruned models, read from their folders' JSON files and checked: plain data for the page.

Nothing here opens a model. A file that is missing is None, a file that is damaged or too new is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slimgpt.config import ReportConfig
from slimgpt.config.paths import path_of
from slimgpt.errors import ConfigError, ModelError, last_line, shown
from slimgpt.machine.json_files import read_object
from slimgpt.model.schema import RECORD, SCHEMA
from slimgpt.output.measurements import FOLDER
from slimgpt.output.record_sites import SiteRecord, by_layer, is_pruned, sites_of
from slimgpt.reports.results import Comparison, Quality, Speed, comparison, quality, speeds

MEASURED_SCHEMA = 1
DENSE_NAME = "dense"  # what the model before pruning is called


@dataclass(frozen=True)
class Kept:
    """What is left of one part of a layer.

    Attributes:
        units: indices of the units that stayed; of experts, which keep equally many, those of the first. In a run where
            query heads went by themselves, those of query heads.
        num_units: how many there were.
        error: relative squared error that it cost, averaged over experts.
        members: query heads that share keys and values, where ``units`` are query heads; else 1.
        unit: what people call one.
    """

    units: tuple[int, ...]
    num_units: int
    error: float
    members: int = 1
    unit: str = "unit"


@dataclass(frozen=True)
class Run:
    """A pruned model and what was measured of it.

    Attributes:
        name: short, and unlike the other runs'.
        folder: as the user named it.
        record: its slimgpt.json.
        before: parameters of the dense model.
        after: parameters now.
        bytes_after: its weights on disk.
        layers: part -> what is left, for every layer; a part that a layer lacks is absent.
        quality: its eval.json.
        speed: its entry in bench.json.
        dense_speed: the dense model's entry in the same file.
        comparison: its compare.json.
    """

    name: str
    folder: str
    record: Mapping[str, Any]
    before: int
    after: int
    bytes_after: int
    layers: tuple[Mapping[str, Kept], ...]
    quality: Quality | None
    speed: Speed | None
    dense_speed: Speed | None
    comparison: Comparison | None

    @property
    def parts(self) -> list[str]:
        """The parts that its layers have, in order."""
        return list(dict.fromkeys(part for layer in self.layers for part in layer))

    @property
    def recovered(self) -> bool:
        """Whether it was trained after pruning."""
        return bool(self.record.get("recovery"))

    @property
    def source(self) -> str:
        """What it was pruned from."""
        return str(self.record["source"])


@dataclass(frozen=True)
class Dense:
    """What was measured of the model before pruning."""

    quality: Quality | None = None
    speed: Speed | None = None


def read_runs(config: ReportConfig) -> tuple[list[Run], Dense]:
    """All that the folders say.

    Raises:
        ConfigError: a folder named twice.
        ModelError: a folder without its record, a damaged file or one of a newer slimgpt, or a dense model that is
            none of the runs'.
    """
    folders = [path_of(run, "RUN") for run in config.runs]
    names = short_names(folders)
    runs = [_run(folder, run, name) for folder, run, name in zip(folders, config.runs, names, strict=True)]
    dense = _dense(config.dense, runs) if config.dense is not None else Dense()
    if dense.speed is None:
        dense = replace(dense, speed=next((run.dense_speed for run in runs if run.dense_speed), None))
    return runs, dense


def short_names(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, with as many parents as it takes to tell them apart, and from the dense model.

    Raises:
        ConfigError: two are the same folder.
    """
    places = [Path(os.path.abspath(folder)).parts for folder in folders]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError(f"the run {Path(*place)} is named twice: name each folder once.")
    depth = 1
    while len({(DENSE_NAME,), *(place[-depth:] for place in places)}) <= len(places):
        depth += 1
    return ["/".join(place[-depth:]) for place in places]


def _run(folder: Path, given: str, name: str) -> Run:
    path = folder / RECORD
    if not path.is_file():
        inside = sorted(found.parent.name for found in folder.glob(f"*/{RECORD}")) if folder.is_dir() else []
        hint = f" It holds runs, though: name {inside[0]}, …" if inside else ""
        raise ModelError(f"{folder} holds no {RECORD}: name a folder made by slimgpt prune or slimgpt recover.{hint}")
    record = _read(path, SCHEMA)
    if "kind" in record:
        raise ModelError(
            f"{folder} was made by slimgpt {record['kind']}: a report is of models pruned by slimgpt prune. Its record "
            f"is {path}."
        )
    if not is_pruned(record) and "recovery" in record:
        raise ModelError(f"{folder} was fine-tuned, but never pruned: a report is of pruned models.")
    with _whole(path):
        sizes = record["parameters"]
        before, after, bytes_after = (int(sizes[key]) for key in ("before", "after", "bytes_after"))
        layers = _layers(record)
        _ = record["source"], record["options"]["solver"], record["versions"].items(), record["cost"]["seconds"].items()
    measured = folder / FOLDER
    own, dense = _pair(measured / "bench.json", folder.name, before, after)
    return Run(
        name=name,
        folder=given,
        record=record,
        before=before,
        after=after,
        bytes_after=bytes_after,
        layers=layers,
        quality=_parsed(measured / "eval.json", quality),
        speed=own,
        dense_speed=dense,
        comparison=_parsed(measured / "compare.json", comparison),
    )


def _layers(record: Mapping[str, Any]) -> tuple[Mapping[str, Kept], ...]:
    sites = [site for site in sites_of(record) if site.layer is not None]
    split = {site.part for site in sites if site.lost_members}
    layers = by_layer(sites)
    return tuple(
        {part: _kept(found, part in split) for part, found in layers.get(index, {}).items()}
        for index in range(max((index for index in layers if index is not None), default=-1) + 1)
    )


def _kept(sites: Sequence[SiteRecord], by_members: bool) -> Kept:
    first = sites[0]
    error = sum(site.error for site in sites) / len(sites)
    if not by_members:
        return Kept(first.kept, first.num_units, error, unit=first.unit)
    return Kept(first.pieces, first.num_units * first.members, error, first.members, first.unit)


def _pair(path: Path, name: str, before: int, after: int) -> tuple[Speed | None, Speed | None]:
    """A run's entry in its bench.json, and that of the dense model: found by parameters, because folders move."""
    measured = _parsed(path, speeds) or []
    own = [entry for entry in measured if entry.parameters == after]
    if measured and not own:
        raise ModelError(f"{path} measures no model of {after:,} parameters: it belongs to another run. Remove it.")
    own.sort(key=lambda entry: Path(entry.model).name != name)
    dense = [entry for entry in measured if entry.parameters == before != after]
    return (own or [None])[0], (dense or [None])[0]


def _dense(given: str, runs: Sequence[Run]) -> Dense:
    folder = path_of(given, "--dense")
    places = [place for place in (folder, folder / FOLDER) if place.is_dir()]
    found = {file: place / file for file in ("eval.json", "bench.json") for place in places if (place / file).is_file()}
    if not found:
        raise ModelError(f"--dense {given} holds no eval.json and no bench.json: slimgpt eval and bench write them.")
    befores = sorted({run.before for run in runs})
    was = _parsed(found["eval.json"], quality) if "eval.json" in found else None
    if was is not None and was.parameters not in befores:
        raise ModelError(
            f"{found['eval.json']} is of a model with {was.parameters:,} parameters, but the runs were pruned from one "
            f"with {befores[0]:,}: name the folder of the right dense model."
        )
    measured = _parsed(found["bench.json"], speeds) if "bench.json" in found else []
    return Dense(was, next((entry for entry in measured or [] if entry.parameters in befores), None))


def _parsed(path: Path, parse: Any) -> Any:
    """A file of measurements as plain data; None where there is none."""
    if not path.is_file():
        return None
    content = _read(path, MEASURED_SCHEMA)
    with _whole(path):
        return parse(content)


def _read(path: Path, known: int) -> dict[str, Any]:
    with _whole(path):
        content = read_object(path)
        schema = int(content["schema"])
    if schema > known:
        raise ModelError(
            f"{path} was made by a newer slimgpt (schema {shown(schema)}; this one knows up to {known}): "
            "pip install --upgrade slimgpt."
        )
    return dict(content)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn what a damaged file leads to into an error that names it."""
    try:
        yield
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({last_line(error)}): make it again, or remove it.") from error
