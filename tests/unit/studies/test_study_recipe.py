"""Recipes of studies: what is refused before any work, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from study_shop import RECIPE, Pretended, study_config, write_recipe
from tiny_llama import save_model

from slimgpt.errors import ConfigError, OutputError
from slimgpt.studies import cells, chain, recipe, study

BLOCK = RECIPE["grid"][0]


def refusal(tmp_path: Path, **sections: Any) -> str:
    """What a study with these sections is refused with, before any command has run."""
    commands = Pretended()
    with pytest.raises(ConfigError) as caught:
        study(study_config(tmp_path, sections), command=commands)
    assert not commands.calls and not (tmp_path / "out").exists()
    return str(caught.value)


@pytest.mark.parametrize("name", ["study-small.yaml", "study-large.yaml"])
def test_the_projects_recipes_are_fine(name: str) -> None:
    found = recipe.read(str(Path(__file__).parents[3] / "recipes" / name))
    expanded = cells.expand(found)
    cells.check_size(len(expanded), yes=False)
    for cell in expanded.values():
        chain.check(cell, found)


def test_the_shops_recipe_is_fine(tmp_path: Path) -> None:
    """Negative control of all that follows."""
    found = recipe.read(str(write_recipe(tmp_path)))
    assert found.models["tiny"].text == "held-out.txt"
    assert found.grid[0].seeds == (0, 1)
    for cell in cells.expand(found).values():
        chain.check(cell, found)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"modells": []}, "study.yaml: unknown name 'modells'; did you mean 'models'?"),
        ({"grid": []}, "study.yaml: grid must be a list with one entry or more."),
        ({"grid": [{**BLOCK, "seed": [0]}]}, "study.yaml, grid: unknown option 'seed'; did you mean 'seeds'?"),
        ({"grid": [{**BLOCK, "ratios": ["many"]}]}, "study.yaml, grid: ratios is 'many', but must be float."),
        ({"grid": [{**BLOCK, "ratios": []}]}, "study.yaml, grid: ratios is an empty list, so the block has no cells."),
        ({"grid": [{**BLOCK, "models": ["tinny"]}]}, "grid, models: unknown name 'tinny'; did you mean 'tiny'?"),
        ({"grid": [{**BLOCK, "tuning": ["ful"]}]}, "grid, tuning: unknown name 'ful'; did you mean 'full'?"),
        ({"grid": [{"methods": ["wanda"], "ratios": [0.5]}]}, "granularities is missing. Needed are methods,"),
        ({"grid": [{**BLOCK, "granularities": [124]}]}, "granularity 124 is a number to YAML. Put it in quotes: '2:4'"),
        ({"grid": [{**BLOCK, "granularities": ["rows"]}]}, "unknown granularity 'rows'. Known: structured, depth,"),
        ({"grid": [{**BLOCK, "quantisation": ["int3"]}]}, "unknown quantisation 'int3'. Known: none, int8, int4,"),
        ({"grid": [{**BLOCK, "methods": ["wonder"]}]}, "must be one of obs,"),
        ({"grid": [{**BLOCK, "ratios": [1.5]}]}, "--ratio 1.5 is outside [0, 0.9]"),
        ({"grid": [{**BLOCK, "granularities": ["2:4"], "ratios": [0.3]}]}, "2:4 removes 0.5 of the weights, which"),
        ({"grid": [{**BLOCK, "schedules": ["gradual"]}]}, "schedule 'gradual' is for unstructured and N:M pruning:"),
        ({"grid": [{**BLOCK, "granularities": ["depth"], "methods": ["angular"], "allocations": ["log"]}]},
         "slimgpt drop has no allocation, so 'log' means nothing: say 'default'."),
        ({"grid": [{**BLOCK, "methods": ["movement"], "granularities": ["unstructured"]}]},
         "movement prunes while it tunes: give it a tuning."),
        ({"grid": [{**BLOCK, "methods": ["movement"], "tuning": ["full"]}]},
         "say granularity unstructured, schedule one-shot and allocation default."),
        ({"bos": "often"}, "study.yaml: bos is 'often', but must be one of auto, always, never."),
        ({"bos": True}, "study.yaml: bos is True, but must be one of auto, always, never."),
        ({"tuning": {"a": 5}}, "tuning, a: 5 must be 'option: value' lines."),
        ({"tuning": {"a": [1]}}, "tuning, a: [1] must be 'option: value' lines."),
        ({"calibration": 0}, "calibration: 0 must be 'option: value' lines."),
        ({"evaluation": []}, "evaluation: [] must be 'option: value' lines."),
        ({"grid": [{**BLOCK, "ratios": [float("nan")]}]}, "ratios is nan, but no number here is that large."),
        ({"tuning": {"full": {"ful": True}}}, "tuning, full: unknown option 'ful'; did you mean 'full'?"),
        ({"tuning": {"full": {"seed": 3}}}, "tuning, full: seed is decided by each cell. Remove it."),
        ({"tuning": {"lora": {}}, "grid": [{**BLOCK, "granularities": ["unstructured"], "tuning": ["lora"]}]},
         "--keep-zeros is for --full: merged adapters change every weight of a projection."),
        ({"models": [{"name": "tiny", "path": "a-model"}]}, "models: text is missing. Needed are name, path, text."),
        ({"models": RECIPE["models"] * 2}, "two models have one name. Give each its own."),
    ],
)  # fmt: skip
def test_refuses(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    assert words in refusal(tmp_path, **sections)


def test_names_the_cell_that_cannot_work(tmp_path: Path) -> None:
    words = refusal(tmp_path, grid=[{**BLOCK, "ratios": [0.1, 0.95], "seeds": [3]}])
    assert words.startswith("cell 'tiny wanda structured 95% seed 3': --ratio 0.95")


def test_refuses_patterns_that_do_not_fit_the_model(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", hidden_size=36, intermediate_size=96)
    models = [{**RECIPE["models"][0], "path": str(model)}]
    block = {**BLOCK, "granularities": ["4:8"], "ratios": [0.5]}
    assert "4:8 needs inputs in groups of 8, but hidden_size of" in refusal(tmp_path, models=models, grid=[block])


def test_one_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    block = recipe.read(str(write_recipe(tmp_path, grid=[{**BLOCK, "ratios": 0.2, "seeds": 1}]))).grid[0]
    assert (block.ratios, block.seeds) == ((0.2,), (1,))


def test_refuses_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"RECIPE '.*nowhere.yaml' does not exist: name a YAML file"):
        recipe.read(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "bad.yaml").write_text("models: [")
    with pytest.raises(ConfigError, match="is not YAML: expected the node content"):
        recipe.read(str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="must hold the sections models, grid, calibration, tuning, evaluation"):
        recipe.read(str(tmp_path / "list.yaml"))


def test_a_large_grid_wants_a_yes(tmp_path: Path) -> None:
    large = {"grid": [{**BLOCK, "seeds": list(range(101))}]}
    assert "the grid has 203 cells, dense controls among them, and more than 200 may be a slip" in refusal(
        tmp_path, **large
    )
    commands = Pretended()
    assert len(study(study_config(tmp_path, large, yes=True), command=commands).records) == 203


def test_refuses_places_that_are_not_its_own(tmp_path: Path) -> None:
    config = study_config(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match=r"has no study\.json, so it is no study's folder: choose another"):
        study(config, command=Pretended())


def test_the_recipes_that_come_with_slimgpt_are_whole() -> None:
    for path in (Path(__file__).parents[3] / "recipes").glob("study-*.yaml"):
        found = recipe.read(str(path))
        planned = cells.expand(found)
        for cell in planned.values():
            chain.check(cell, found)
        cells.check_size(len(planned), yes=False)
        assert yaml.safe_load(path.read_text())["grid"]


def test_a_grid_beyond_all_sense_is_counted_and_not_made(tmp_path: Path) -> None:
    """Even with --yes: 10^8 cells would fill the memory before they are counted."""
    ratios, seeds = [number / 1000 for number in range(100)], list(range(1000))
    block = {**BLOCK, "ratios": ratios, "seeds": seeds, "allocations": ["log"] * 1000}
    path = write_recipe(tmp_path, grid=[block])
    with pytest.raises(ConfigError, match=r"the grid has [\d,]+00,000,000 points, more than 100,000: shorten its"):
        cells.expand(recipe.read(str(path)))
