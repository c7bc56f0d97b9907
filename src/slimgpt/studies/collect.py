"""What the commands of a cell have written, as the measurements of its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.studies.chain import GGUF, PRUNED, TUNED

FILES = {"eval": "eval.json", "seen": "seen.json", "compare": "compare.json", "bench": "bench.json"}
RUN_RECORD = "slimgpt.json"
BULKY = (
    "sites",
    "sizes",
    "layers",
    "projections",
    "samples",
)  # what was removed where, and texts, stay in the cell's folder


def collected(folder: Path, dense: Path) -> dict[str, Any]:
    """Name -> content of every file that is there, and the bytes of the weights that the chain ended with.

    Args:
        folder: the cell's.
        dense: the model that the chain began with; its bytes stand where nothing was made of it.
    """
    found: dict[str, Any] = {}
    if dense.is_dir():
        found["stored_bytes"] = _weights(dense)
    for name, file in FILES.items():
        if (folder / file).is_file():
            found[name] = _lean(json.loads((folder / file).read_text(encoding="utf-8")))
    for name in (PRUNED, TUNED):
        record = folder / name / RUN_RECORD
        if record.is_file():
            found[name] = _lean(json.loads(record.read_text(encoding="utf-8")))
            found["stored_bytes"] = _weights(folder / name)
    if (folder / GGUF).is_file():
        found["stored_bytes"] = (folder / GGUF).stat().st_size
    return found


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _lean(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in BULKY}
