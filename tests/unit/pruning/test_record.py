"""What a run records, it records also where it was interrupted and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama

from slimgpt import Observer, prune


class Interrupt(Observer):
    """Two layers are finished when it strikes."""

    def stage(self, layer: int, stage: str) -> None:
        if layer == 2:
            raise KeyboardInterrupt


def test_a_resumed_run_records_what_a_straight_one_does(tmp_path: Path) -> None:
    model, options = tiny_llama.save_model(tmp_path / "model"), {"allocation": "log", "attention_units": "queries"}
    straight = prune(tiny_llama.prune_config(model, tmp_path / "straight", **options)).record
    with pytest.raises(KeyboardInterrupt):
        prune(tiny_llama.prune_config(model, tmp_path / "out", **options), Interrupt())
    assert len(list((tmp_path / "out.partial").glob("layer-*.json"))) == 2
    resumed = prune(tiny_llama.prune_config(model, tmp_path / "out", resume=True, **options)).record
    assert [(site["layer"], site["site"]) for site in resumed["sites"]] == [
        (layer, part) for layer in range(3) for part in ("attention", "ffn")
    ]
    assert all(resumed[key] == straight[key] for key in ("sites", "sizes", "parameters"))
