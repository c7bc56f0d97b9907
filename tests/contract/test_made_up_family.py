"""A layer without attention, one without FFN, one with two FFNs, a place behind the layers: nothing asks for a pair."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import made_up
import pytest
import tiny_llama
import torch
from safetensors.torch import load_file

from slimgpt import load_model, prune
from slimgpt.config import ReportConfig, SearchConfig
from slimgpt.model.inspection import inspect_model
from slimgpt.output.record_sites import SiteRecord, sites_of
from slimgpt.pruning.observer import Observer
from slimgpt.reports.page import report
from slimgpt.searching import search, to_yaml

PLACES = [
    *((0, "attention"), (0, "ffn"), (1, "ffn"), (2, "attention"), (3, "attention"), (3, "ffn"), (3, "shared")),
    (None, "neck"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "searched": {"allocation": "searched", "ratio": 0.3},
    "tried": {"allocation": "searched", "ratio": 0.4, "search_candidates": 6, "attention_units": "queries"},
    "log": {"allocation": "log"},
    "ranked": {"solver": "flap"},
}


@pytest.fixture(scope="module", autouse=True)
def added() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        made_up.add(patch)
        yield


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.save_model(tmp_path_factory.mktemp("made-up") / "dense")


@pytest.fixture(scope="module", params=OPTIONS)
def pruned(request: pytest.FixtureRequest, dense: Path) -> tuple[Path, dict[str, Any]]:
    out = dense.with_name(request.param)
    result = prune(tiny_llama.prune_config(dense, out, **OPTIONS[request.param], search_cache=cache_of(request, dense)))
    return result.path, result.record


def cache_of(request: pytest.FixtureRequest, dense: Path) -> str | None:
    return str(dense.with_name(f"cache-{request.param}")) if "searched" in OPTIONS[request.param].values() else None


def test_the_record_has_what_there_is_and_no_more(pruned: tuple[Path, dict[str, Any]]) -> None:
    _, record = pruned
    assert [(site.layer, site.part) for site in sites_of(record)] == PLACES
    assert {"attention", "ffn", "shared"} <= {site.part for site in sites_of(record) if len(site.pieces) < pieces(site)}


def pieces(site: SiteRecord) -> int:
    return site.num_units * site.members


def test_the_place_behind_the_layers_is_weighed_by_a_search_and_left_whole_by_curves(
    pruned: tuple[Path, dict[str, Any]],
) -> None:
    _, record = pruned
    neck = sites_of(record)[-1]
    assert (len(neck.kept) < neck.num_units) == (record["options"]["allocation"] == "searched")


def test_sizes_are_as_planned_and_the_count_by_formula(pruned: tuple[Path, dict[str, Any]]) -> None:
    path, record = pruned
    count = sum(tensor.numel() for tensor in load_file(path / "model.safetensors").values())
    assert count == record["parameters"]["after"]
    sizes = inspect_model(str(path))["layers"]
    assert [layer["num_attention_heads"] > 0 for layer in sizes] == [True, False, True, True]
    assert [layer["intermediate_size"] > 0 for layer in sizes] == [True, True, False, True]


@torch.no_grad()
def test_sliced_equals_masked(dense: Path, pruned: tuple[Path, dict[str, Any]]) -> None:
    """What went is zero in the dense model, and what stayed has the repaired weights: the logits are the same."""
    path, record = pruned
    small, whole = load_model(str(path), "cpu")[0], load_model(str(dense), "cpu")[0]
    for site in sites_of(record):
        made = (
            made_up.sites_beside(whole.config) if site.layer is None else made_up.sites(layer_config(whole, site.layer))
        )
        consumer = next(each.consumer for each in made if each.name == site.site)
        ours, theirs = (
            model.get_submodule(consumer)
            if site.layer is None
            else model.model.layers[site.layer].get_submodule(consumer)
            for model in (whole, small)
        )
        width = ours.weight.shape[1] // (site.num_units * site.members)
        columns = torch.tensor(site.pieces)[:, None] * width + torch.arange(width)
        ours.weight.zero_()
        ours.weight[:, columns.flatten()] = theirs.weight
        ours.bias = theirs.bias
    ids = tiny_llama.tokens(2, 24)
    torch.testing.assert_close(small(ids).logits, whole(ids).logits, rtol=1e-4, atol=1e-4)


def layer_config(model: Any, index: int) -> Any:
    return model.config.per_layer_config[index]


def test_generates_with_a_cache_as_without(pruned: tuple[Path, dict[str, Any]]) -> None:
    model = load_model(str(pruned[0]), "cpu")[0]
    ids = tiny_llama.tokens(1, 12)
    first, second = (model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=cache) for cache in (True, False))
    assert torch.equal(first, second)


def test_is_reported(pruned: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    text = report(ReportConfig((str(pruned[0]),), str(tmp_path / "page.html"))).page.read_text()
    for title in ("Attention of", "FFN of", "Shared of", "Error of the shared outputs"):
        assert title in text


class StopsAt(Observer):
    """Interrupts a run at the beginning of its n-th stage."""

    def __init__(self, number: int) -> None:
        self.left = number

    def stage(self, layer: int, stage: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stages", [3, 11, 18, 19])
def test_resumes_to_the_same_bytes(dense: Path, tmp_path: Path, stages: int) -> None:
    whole = prune(tiny_llama.prune_config(dense, tmp_path / "whole", allocation="uniform")).path
    with pytest.raises(KeyboardInterrupt):
        prune(tiny_llama.prune_config(dense, tmp_path / "out", allocation="uniform"), StopsAt(stages))
    again = prune(tiny_llama.prune_config(dense, tmp_path / "out", allocation="uniform", resume=True)).path
    assert digest(again) == digest(whole)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_search_answers_and_prunes_by_file(dense: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prune(tiny_llama.prune_config(dense, tmp_path / "a", allocation="searched", search_cache=str(cache)))
    found = search(SearchConfig(str(cache), ratio=0.3, round_to=1))
    assert [tuple(key) for key in found.kept] == PLACES
    (tmp_path / "ratios.yaml").write_text(to_yaml(found.curves, found.kept))
    record = prune(tiny_llama.prune_config(dense, tmp_path / "b", allocation=str(tmp_path / "ratios.yaml"))).record
    assert record["parameters"]["removed_ratio"] == pytest.approx(0.2, abs=0.01)
