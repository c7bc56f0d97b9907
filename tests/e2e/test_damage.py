"""Every file of a working folder and of a cache, at every stage of a run, damaged: the same bytes, or a refusal."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from damage import World, check, files_below, in_turn, interrupted_at
from recovery_shop import Shop, options
from study_shop import Pretended, study_config

from slimgpt.output import place
from slimgpt.pruning.driver import prune
from slimgpt.pruning.observer import Observer
from slimgpt.recovery import RecoverObserver, recover, save
from slimgpt.studies import study, table

pytestmark = pytest.mark.nightly

HEADERS = {"out.partial/journal.json", "search/curves.json", "out/study.json"}
"""Nobody can tell what they were: damage to them may be refused."""

PRUNING: dict[str, dict[str, Any]] = {
    "plain": {"allocation": "log"},
    "candidates, query heads, errors corrected": {
        "search_candidates": 4, "attention_units": "queries", "correct_errors": True, "ratio": 0.3,
    },
    "a search of the user's": {"search_candidates": 2, "search_cache": "WORLD/search"},
}  # fmt: skip
RECOVERING: dict[str, dict[str, Any]] = {
    "LoRA, a teacher": {"teacher": "DENSE"},
    "all weights, a teacher's cache": {"full": True, "teacher": "DENSE", "teacher_cache": "WORLD/teacher"},
    "movement": {"full": True, "movement": 0.3, "keep": "last"},
}


def stopped(world: World, folder: Path, stops: list[tuple[Any, str]]) -> Iterator[Path]:
    """Worlds of a run that was stopped at each call of each function, where they hold other files than the last one."""
    before: list[Path] = []
    for owner, name in stops:
        for call in itertools.count(1):
            aside = folder / f"{name} {call}"
            with interrupted_at(owner, name, call):
                if not world.stopped(aside):
                    break
            if (files := files_below(aside)) != before:
                before = files
                yield aside


def holds(world: World, another: World, tmp_path: Path, stops: list[tuple[Any, str]]) -> None:
    """Every file meets one kind of damage at each stage, at each another, and three at the last stage."""
    expected = world.undisturbed()
    with interrupted_at(*stops[-1]):
        assert another.stopped(tmp_path / "others")
    asides = list(stopped(world, tmp_path, stops))
    assert len(asides) > 2
    for number, aside in enumerate(asides):
        cases = in_turn(files_below(aside), 3 if aside == asides[-1] else 1, shift=number)
        check(world, aside, tmp_path / "others", expected, cases, HEADERS)


def placed(given: dict[str, Any], **places: object) -> dict[str, Any]:
    """Options with the places that they name."""
    words = {word: str(path) for word, path in places.items()}
    return {
        key: re.sub("|".join(words), lambda found: words[found[0]], value) if isinstance(value, str) else value
        for key, value in given.items()
    }


@pytest.mark.parametrize("given", PRUNING.values(), ids=list(PRUNING))
def test_prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> None:
    model, folder = tiny_llama.save_model(tmp_path / "model", num_hidden_layers=2), tmp_path / "world"
    monkeypatch.setenv("SLIMGPT_CACHE", str(folder / "cache"))

    def world(**changes: Any) -> World:
        asked = {**placed(given, WORLD=folder), **changes}
        return World(
            folder, lambda resume: prune(tiny_llama.prune_config(model, folder / "out", resume=resume, **asked))
        )

    holds(world(), world(seed=1), tmp_path, [(Observer, "stage"), (place.Place, "publish")])


@pytest.mark.parametrize("given", RECOVERING.values(), ids=list(RECOVERING))
def test_recover(shop: Shop, tmp_path: Path, given: dict[str, Any]) -> None:
    folder = tmp_path / "world"

    def world(**changes: Any) -> World:
        asked = {"max_steps": 4, **placed(given, WORLD=folder, DENSE=shop.dense), **changes}
        return World(folder, lambda resume: recover(options(shop, folder / "out", resume=resume, **asked)))

    stops = [(RecoverObserver, "taught"), (RecoverObserver, "stepped"), (save, "write"), (place.Place, "publish")]
    holds(world(), world(seed=1), tmp_path, stops)


def test_study(tmp_path: Path) -> None:
    folder = tmp_path / "world"

    def world(nll: float) -> World:
        def run(resume: bool) -> None:
            study(study_config(folder, keep_models=True), command=Pretended(lambda words: nll))

        return World(folder, run)

    holds(world(3.0), world(4.0), tmp_path, [(Pretended, "__call__"), (table, "write")])
