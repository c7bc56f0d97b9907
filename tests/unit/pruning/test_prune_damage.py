"""Damaged between stop and resume, a pruning run ends with the bytes of one that nobody disturbed, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from damage import World, check, files_below, in_turn, interrupted_at, kind_of

from slimgpt.output import place
from slimgpt.pruning.driver import prune
from slimgpt.searching import refine

HEADER = "out.partial/journal.json"
TRIES = {"search_candidates": 3, "attention_units": "queries", "correct_errors": True, "ratio": 0.3}


class Shop:
    """A model, and a world in which it is pruned."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_llama.save_model(folder / "model", num_hidden_layers=2)
        self.options: dict[str, Any] = TRIES
        self.world = World(folder / "world", self.run)

    def run(self, resume: bool) -> None:
        prune(tiny_llama.prune_config(self.model, self.world.folder / "out", resume=resume, **self.options))

    def unpublished(self, name: str, **options: Any) -> Path:
        """Where the world of a run lies that stopped when all was done but the last rename."""
        self.options = {**TRIES, **options}
        with interrupted_at(place.Place, "publish"):
            assert self.world.stopped(self.folder / name)
        return self.folder / name


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("damage"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIMGPT_CACHE", str(made.world.folder / "cache"))
        yield made


@pytest.fixture(scope="module")
def others(shop: Shop) -> Path:
    return shop.unpublished("others", seed=1)


@pytest.fixture(scope="module")
def expected(shop: Shop) -> dict[str, Any]:
    shop.options = TRIES
    return shop.world.undisturbed()


@pytest.mark.nightly
def test_whatever_is_damaged_at_the_end_the_output_is_the_same(
    shop: Shop, others: Path, expected: dict[str, Any]
) -> None:
    aside = shop.unpublished("all but published")
    files = files_below(aside)
    assert {kind_of(file).removeprefix("out.partial/") for file in files} >= {
        "journal.json", "layer-#.json", "layer-#.safetensors", "search/curves.json", "search/metrics-#.safetensors",
        "search/inputs-#.safetensors", "search/levels/#-ffn.json", "search/tried-#.json", "finished/model.safetensors",
        "cache/windows/#.json", "cache/windows/#.safetensors",
    }  # fmt: skip
    kept = [file for file in files if "finished" not in file.parts or file.suffix in (".json", ".safetensors")]
    check(shop.world, aside, others, expected, in_turn(kept), {HEADER})


def test_what_a_search_kept_before_it_was_stopped(shop: Shop, others: Path, expected: dict[str, Any]) -> None:
    """Choices are read where candidates have not been tried yet."""
    shop.options, aside = TRIES, shop.folder / "searching"
    with interrupted_at(refine, "seal"):
        assert shop.world.stopped(aside)
    levels = [file for file in files_below(aside) if "levels" in file.parts]
    assert levels
    outcomes = check(shop.world, aside, others, expected, in_turn(levels))
    assert any("is damaged, or from another run: what the site keeps is chosen again." in str(o.said) for o in outcomes)


def test_the_user_s_own_search_is_mended_but_for_its_curves(shop: Shop, others: Path, expected: dict[str, Any]) -> None:
    """A folder that may be anybody's is not filled anew."""
    cache = {"search_cache": str(shop.world.folder / "search")}
    aside = shop.unpublished("with a cache", **cache)
    curves, metrics = Path("search/curves.json"), Path("search/metrics-00001.safetensors")
    cases = [(curves, "half"), (curves, "late bit"), (metrics, "early bit"), (metrics, "gone")]
    outcomes = check(shop.world, aside, others, same_but_for(expected, cache), iter(cases), {"search/curves.json"})
    for outcome in outcomes[:2]:
        assert "curves.json is damaged" in outcome.refusal
        assert outcome.refusal.endswith(f": remove {cache['search_cache']} and search again.")
    assert outcomes[2].said == [
        f"{shop.world.folder / metrics} is damaged, or from another run: the search is done again."
    ]
    assert outcomes[3].said == [f"{shop.world.folder / metrics} is gone: the search is done again."]


def same_but_for(expected: dict[str, Any], options: dict[str, str]) -> dict[str, Any]:
    record = expected["out/slimgpt.json"]
    return {**expected, "out/slimgpt.json": {**record, "options": {**record["options"], **options}}}
