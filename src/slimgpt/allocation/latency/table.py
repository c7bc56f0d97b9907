"""The table of layer costs by width: plain data, as JSON for people and tools.

Times are milliseconds at batch size 1. ``fixed_ms`` is what no width changes (embeddings, norms, head, and every layer
at its narrowest); the curve of each part (``attention``, ``ffn``) is that of one layer, above what its narrowest takes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.allocation.measures import NS_PER_MS, ModelTimes, PartTimes
from slimgpt.errors import ConfigError, DamagedError, last_line, shown
from slimgpt.machine.json_files import read_object
from slimgpt.machine.seals import SEAL, intact, seal, unseal

KIND, SCHEMA = "latency-table", 1
WORKLOADS = ("decode", "prefill")
FIXED = "fixed_ms"


@dataclass(frozen=True)
class LatencyTable:
    """What layers cost by width.

    Attributes:
        model: the shape that was measured.
        measured: where, in which dtype, and how; ``prompt_tokens`` is the length of the prompt.
        times: by workload, ``decode`` (one token after the prompt) and ``prefill`` (the prompt).
    """

    model: dict[str, Any]
    measured: dict[str, Any]
    times: dict[str, ModelTimes]

    def fingerprint(self) -> str:
        """sha256 of all that a plan depends on."""
        return hashlib.sha256(json.dumps([self.model, _to_json(self.times)], sort_keys=True).encode()).hexdigest()


def write_table(path: Path, table: LatencyTable, of: str = KIND) -> None:
    """Write a table so that it is there whole or not at all; ``of`` is the key of one that is kept in the cache."""
    facts = {"schema": SCHEMA, "kind": KIND, "model": table.model, "measured": table.measured}
    seal(path, {**facts, **_to_json(table.times)}, of)


def kept_table(path: Path, of: str) -> LatencyTable | None:
    """The cache's table of this key; None where there is none, or it is damaged."""
    content = intact(path, of, "the table of layer costs is measured again")
    return None if content is None else _table(content)


def read_table(path: Path) -> LatencyTable:
    """A table that was written before, or by hand: then it has no hash.

    Raises:
        ConfigError: the file is damaged, something else, or of a later version of slimgpt.
    """
    cure = "name a new file, and the table is measured and written there"
    try:
        content = read_object(path)
        kind, schema = content["kind"], int(content["schema"])
        if kind == KIND and schema <= SCHEMA:
            return _table((unseal(path, KIND) or {}) if SEAL in content else content)
    except DamagedError as error:
        raise ConfigError(f"--latency-table {error}: {cure}; or remove its {SEAL}, if you have edited it.") from error
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--latency-table {path} holds no table of layer costs ({last_line(error)}): {cure}."
        ) from error
    if kind != KIND:
        raise ConfigError(f"--latency-table {path} holds {shown(kind)}, no table of layer costs: name a new file.")
    raise ConfigError(f"{path} was made by a newer slimgpt (schema {shown(schema)}): pip install --upgrade slimgpt.")


def _table(content: Mapping[str, Any]) -> LatencyTable:
    times = {name: _model_times(content[name]) for name in WORKLOADS}
    return LatencyTable(dict(content["model"]), dict(content["measured"]), times)


def check_model(table: LatencyTable, model: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError where a table is of another shape of model."""
    for key, value in model.items():
        if table.model.get(key) != value:
            raise ConfigError(
                f"--latency-table {path} is of another model: {key} was {shown(table.model.get(key))} and is {value!r} "
                "here. Name another file, and the table is measured and written there."
            )


def _to_json(times: Mapping[str, ModelTimes]) -> dict[str, Any]:
    return {
        name: {
            FIXED: entry.fixed_ns / NS_PER_MS,
            **{part: _part_to_json(times) for part, times in entry.parts.items()},
        }
        for name, entry in times.items()
    }


def _part_to_json(part: PartTimes) -> dict[str, list[float]]:
    return {"units": list(part.units), "ms": [ns / NS_PER_MS for ns in part.ns]}


def _model_times(entry: Mapping[str, Any]) -> ModelTimes:
    parts = {part: _part_times(found) for part, found in entry.items() if part != FIXED}
    return ModelTimes(_ns(entry[FIXED]), parts)


def _part_times(entry: Mapping[str, Any]) -> PartTimes:
    units, ns = tuple(entry["units"]), tuple(map(_ns, entry["ms"]))
    rising = list(units) == sorted(set(units)) and list(ns) == sorted(ns) and all(isinstance(u, int) for u in units)
    if not units or len(units) != len(ns) or not rising:
        raise ValueError("units have to rise, and as many times must not fall")
    return PartTimes(units, ns)


def _ns(ms: float) -> int:
    return round(float(ms) * NS_PER_MS)
