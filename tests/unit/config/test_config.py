"""Options: every bound has a message, and a recipe may hold any option, well spelt and of the right type."""

from __future__ import annotations

import dataclasses
import math
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from slimgpt.config import EvalConfig, GenerateConfig, PruneConfig, RecoverConfig, options_from, read_recipe
from slimgpt.errors import ConfigError

PRUNE = PruneConfig("model", "out")
EVAL = EvalConfig("model", "text")
GENERATE = GenerateConfig("model", "prompt")


@pytest.mark.parametrize("config", [PRUNE, EVAL, GENERATE])
def test_defaults_are_within_their_rules(config: Any) -> None:
    config.check()


@pytest.mark.parametrize("ratio", [0, 0.0, 0.5, 0.9])
def test_ratios_inside_are_taken(ratio: float) -> None:
    dataclasses.replace(PRUNE, ratio=ratio).check()


@pytest.mark.parametrize(
    ("config", "field", "value", "message"),
    [
        *((PRUNE, "ratio", value, "is outside [0, 0.9]") for value in (-0.01, 0.91, 1.0, 25, math.nan, math.inf)),
        *((PRUNE, "damping", value, "must be 0 or more; 0.01 is usual") for value in (-1e-9, math.nan, math.inf)),
        (PRUNE, "samples", 0, "must be 1 or more"),
        (PRUNE, "samples", -3, "must be 1 or more"),
        (PRUNE, "seqlen", 1, "must be 2 or more"),
        (PRUNE, "round_to", 0, "must be 1 or more"),
        (PRUNE, "group_size", -1, "must be 0 or more"),
        (PRUNE, "batch_size", -1, "must be 0 or more"),
        (PRUNE, "seed", -1, "must be 0 or more"),
        (PRUNE, "seed", 2**63, "must be below 2**63"),
        (EVAL, "stride", 0, "must be 1 or more"),
        (EVAL, "stride", 129, "is more than the shortest --seqlen 128"),
        (EVAL, "limit", 0, "must be 1 or more"),
        (EVAL, "num_fewshot", -1, "must be 0 or more"),
        (EVAL, "seed", -1, "must be 0 or more"),
        (EVAL, "batch_size", -1, "must be 0 or more"),
        (EVAL, "max_tokens", 2047, "must be 2048 or more"),
        (GENERATE, "max_new_tokens", 0, "must be 1 or more"),
        (GENERATE, "temperature", -0.1, "must be 0 or more"),
        (GENERATE, "temperature", math.nan, "must be 0 or more"),
        (GENERATE, "seed", -1, "must be 0 or more"),
        (GENERATE, "seed", 2**63, "must be below 2**63"),
    ],
)
def test_a_value_outside_its_rule_is_refused(config: Any, field: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        dataclasses.replace(config, **{field: value}).check()
    assert str(refused.value).startswith(f"--{field.replace('_', '-')} {value}")
    assert message in str(refused.value)


def test_every_numeric_option_is_checked() -> None:
    """A new number must get a rule: no field takes every value."""
    for config in (PRUNE, EVAL, GENERATE):
        for field in dataclasses.fields(config):
            if str(field.type) in ("int", "float", "int | None"):
                assert any(refuses(config, field.name, value) for value in (-1, math.nan)), field.name


def refuses(config: Any, field: str, value: float) -> bool:
    try:
        dataclasses.replace(config, **{field: value}).check()
    except ConfigError:
        return True
    return False


def test_contradicting_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--layout uniform .* contradicts --allocation log: drop one"):
        dataclasses.replace(PRUNE, layout="uniform", allocation="log").check()
    dataclasses.replace(PRUNE, layout="uniform", allocation="uniform").check()


def test_options_are_frozen_and_documented() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRUNE.ratio = 0.5  # type: ignore[misc]


# --- recipes ---------------------------------------------------------------------------------------


def other_value(name: str) -> Any:
    """A value of the field's type that is not its default."""
    hint = typing.get_type_hints(PruneConfig)[name]
    default = getattr(PRUNE, name)
    if typing.get_origin(hint) is typing.Literal:
        return next(choice for choice in typing.get_args(hint) if choice != default)
    if isinstance(default, bool) or hint == bool | None:
        return not default
    if hint in (float | None, int | None):
        return 0.5 if hint == float | None else 7
    return default + 1 if isinstance(default, (int, float)) else "something"


@pytest.mark.parametrize("name", sorted({field.name for field in dataclasses.fields(PruneConfig)} - {"recipe"}))
def test_a_recipe_may_hold_every_option(tmp_path: Path, name: str) -> None:
    value = other_value(name)
    for key in (name, name.replace("_", "-")):
        options = read_recipe(recipe(tmp_path, {key: value}))
        assert options == {name: value}


@pytest.mark.parametrize("choice", ["auto", "float32", "float16", "bfloat16"])
def test_a_recipe_may_name_every_dtype(choice: str) -> None:
    assert options_from({"dtype": choice}, "here") == {"dtype": choice}


def test_a_recipe_gives_none_where_that_is_a_value() -> None:
    assert options_from({"repair": None, "allocation": None}, "here") == {"repair": None, "allocation": None}


def test_integers_serve_as_floats() -> None:
    options = options_from({"ratio": 0, "damping": 1}, "here")
    assert options == {"ratio": 0.0, "damping": 1.0}
    assert all(type(value) is float for value in options.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ration": 0.2}, "unknown option 'ration'; did you mean 'ratio'?"),
        ({"seq-len": 8}, "unknown option 'seq-len'; did you mean 'seqlen'?"),
        ({"zzz": 1}, "unknown option 'zzz'. Known: allocation, attention_units, batch, batch_size"),
        ({"recipe": "other.yaml"}, "unknown option 'recipe'"),
        ({3: 1}, "unknown option 3"),
        ({"ratio": "a lot"}, "ratio is 'a lot', but must be float or none"),
        ({"ratio": True}, "ratio is True, but must be float or none"),
        ({"damping": None}, "damping is None, but must be float"),
        ({"samples": 2.5}, "samples is 2.5, but must be int"),
        ({"force": 1}, "force is 1, but must be bool"),
        ({"repair": "yes"}, "repair is 'yes', but must be bool or none"),
        ({"calibration": ["c4"]}, "calibration is ['c4'], but must be str"),
        ({"model": 7}, "model is 7, but must be str"),
        ({"out": 7}, "out is 7, but must be str"),
        ({"solver": "best"}, "solver is 'best', but must be one of obs, slimgpt, flap, wanda, magnitude, random"),
        ({"dtype": "float64"}, "dtype is 'float64', but must be one of auto, float32, float16, bfloat16"),
        ({"dtype": 16}, "dtype is 16, but must be one of auto"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, settings: dict[Any, Any], message: str) -> None:
    path = recipe(tmp_path, settings)
    with pytest.raises(ConfigError) as refused:
        read_recipe(path)
    assert message in str(refused.value)
    assert path in str(refused.value)
    assert "Annotated" not in str(refused.value)


def recipe(folder: Path, settings: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ratio: [0.2", "is not YAML"),
        (b"\xff\xfe\x00ratio", "is not YAML"),
        (b"- ratio\n- 0.2\n", "must hold 'option: value' lines"),
        (b"ratio\n", "must hold 'option: value' lines"),
        (b"", "must hold 'option: value' lines"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        read_recipe(str(path))
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--recipe .*none\.yaml' does not exist: name a YAML file"):
        read_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="does not exist"):
        read_recipe(str(tmp_path))


RECIPES = Path(__file__).parents[3] / "recipes"
RECIPES_OF: dict[str, Any] = {  # studies have a reader of their own: test_study_recipe.py
    "slimgpt-*.yaml": PRUNE,
    "recover-lora.yaml": RecoverConfig("model", "out", data="text"),
    "recover-distill.yaml": RecoverConfig("model", "out", data="text", teacher="dense"),
}


@pytest.mark.parametrize("pattern", RECIPES_OF)
def test_recipes_of_this_project_are_sound(pattern: str) -> None:
    config, found = RECIPES_OF[pattern], list(RECIPES.glob(pattern))
    assert found
    for path in found:
        dataclasses.replace(config, **read_recipe(str(path), type(config))).check()
