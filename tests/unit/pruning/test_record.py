"""What the journal keeps of a layer is taken up again, also where an earlier build wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_llama

from slimgpt import Observer, prune


class Interrupt(Observer):
    """Two layers are finished when it strikes."""

    def stage(self, layer: int, stage: str) -> None:
        if layer == 2:
            raise KeyboardInterrupt


def by_name(record: dict[str, Any]) -> dict[str, Any]:
    """A layer's record as it was before schema 2."""
    told = ("num_units", "kept", "members", "kept_members", "error")
    sites = {site["site"]: {key: site[key] for key in told if key in site} for site in record["sites"]}
    return {**record, "sites": sites}


@pytest.mark.parametrize("older", [False, True])
def test_a_resumed_run_ends_as_a_straight_one(tmp_path: Path, older: bool) -> None:
    model, options = tiny_llama.save_model(tmp_path / "model"), {"allocation": "log", "attention_units": "queries"}
    straight = prune(tiny_llama.prune_config(model, tmp_path / "straight", **options))
    with pytest.raises(KeyboardInterrupt):
        prune(tiny_llama.prune_config(model, tmp_path / "out", **options), Interrupt())
    records = sorted((tmp_path / "out.partial").glob("layer-*.json"))
    assert len(records) == 2
    for path in records if older else ():
        path.write_text(json.dumps(by_name(json.loads(path.read_text()))))
    resumed = prune(tiny_llama.prune_config(model, tmp_path / "out", resume=True, **options))
    assert (resumed.path / tiny_llama.WEIGHTS).read_bytes() == (straight.path / tiny_llama.WEIGHTS).read_bytes()
    unnamed = [[{**site, "unit": ""} for site in result.record["sites"]] for result in (resumed, straight)]
    assert unnamed[0] == unnamed[1]
    assert older or resumed.record["sites"] == straight.record["sites"]
