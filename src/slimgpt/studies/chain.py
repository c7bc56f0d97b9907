"""A cell as a short chain of slimgpt's own commands: prune, tune, measure. Data, checked before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimgpt.config import RecoverConfig, options_from
from slimgpt.config.paths import path_of
from slimgpt.config.step import Step
from slimgpt.errors import ConfigError, last_line, shown
from slimgpt.machine.json_files import read_object
from slimgpt.studies.cells import Cell
from slimgpt.studies.methods import (
    DEFAULT,
    DENSE,
    MOVEMENT,
    ONE_SHOT,
    PATTERN,
    Granularity,
    allocation_options,
    granularity,
    group_width,
    implied_ratio,
)
from slimgpt.studies.recipe import NONE, Model, Recipe

PRUNED, TUNED, GGUF = "pruned", "tuned", "model.gguf"  # in a cell's folder
IN_MEMORY = ("int8", "int4")
IN_GGUF = {"gguf-q8_0": "q8_0", "gguf-q4_0": "q4_0"}
QUANTISATIONS = (NONE, *IN_MEMORY, *IN_GGUF)
SLACK = 1e-9


def check(cell: Cell, recipe: Recipe) -> None:
    """Refuse what cannot work, by the rules of the commands themselves.

    Raises:
        ConfigError: it names the cell.
    """
    try:
        if cell.quantisation not in QUANTISATIONS:
            raise ConfigError(f"unknown quantisation {shown(cell.quantisation)}. Known: {', '.join(QUANTISATIONS)}.")
        if cell.method == MOVEMENT:
            _check_movement(cell)
        elif cell.method != DENSE:
            kind = granularity(cell.granularity)
            _check_schedule(cell, kind)
            options = options_from(_pruning(cell, kind, recipe), kind.command, kind.config)
            kind.config("model", "out", **options).check()
            _check_ratio(cell)
            _check_widths(cell, recipe.models[cell.model])
        if cell.tuning != NONE:
            RecoverConfig("model", "out", "data", **_tuning(cell, recipe)).check()
    except ConfigError as error:
        raise ConfigError(f"cell {shown(cell.name)}: {error}") from error


def _check_movement(cell: Cell) -> None:
    if cell.granularity != "unstructured" or (cell.schedule, cell.allocation) != (ONE_SHOT, DEFAULT):
        raise ConfigError(
            f"{MOVEMENT} prunes single weights, equally many of every matrix, by a schedule of its own: say "
            f"granularity unstructured, schedule {ONE_SHOT} and allocation {DEFAULT}."
        )
    if cell.tuning == NONE:
        raise ConfigError(f"{MOVEMENT} prunes while it tunes: give it a tuning.")


def _check_schedule(cell: Cell, kind: Granularity) -> None:
    if cell.schedule != ONE_SHOT and not kind.scheduled:
        raise ConfigError(
            f"schedule {shown(cell.schedule)} is for unstructured and N:M pruning: slimgpt {kind.command} is "
            f"{ONE_SHOT}."
        )


def _check_ratio(cell: Cell) -> None:
    implied = implied_ratio(cell.granularity)
    if implied is not None and abs(cell.ratio - implied) > SLACK:
        raise ConfigError(
            f"{cell.granularity} removes {implied:g} of the weights, which contradicts ratio {cell.ratio:g}: give N:M "
            "patterns a block of their own."
        )


def _check_widths(cell: Cell, model: Model) -> None:
    """N:M needs inputs in whole groups. A model that is not on this machine yet is left to the command."""
    width = group_width(cell.granularity)
    config = path_of(model.path, "path") / "config.json"
    if width == 1 or not config.is_file():
        return
    found = _read(config)
    for key in ("hidden_size", "intermediate_size", "n_embd"):
        if isinstance(found.get(key), int) and found[key] % width:
            raise ConfigError(
                f"{cell.granularity} needs inputs in groups of {width}, but {key} of {model.path} is {found[key]}, "
                f"which {width} does not divide: leave this model or this pattern out."
            )


def _read(config: Path) -> dict[str, Any]:
    try:
        return read_object(config)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config} cannot be read: {last_line(error)}. Download it again.") from error


def _pruning(cell: Cell, kind: Granularity, recipe: Recipe) -> dict[str, Any]:
    """Options of the command that prunes."""
    own = recipe.calibration
    options: dict[str, Any] = {kind.method: cell.method, **allocation_options(kind, cell.allocation)}
    if PATTERN.fullmatch(cell.granularity):
        options["pattern"] = cell.granularity
    else:
        options[kind.ratio] = cell.ratio
    if cell.schedule != ONE_SHOT:
        options |= {"schedule": cell.schedule, "rounds": own.rounds}
    calibration = {"calibration": _here(recipe.models[cell.model].calibration)}
    sizes = {"samples": own.samples, "seqlen": own.seqlen, "bos": recipe.bos}
    return {**options, **calibration, **sizes, "seed": cell.seed}


def _tuning(cell: Cell, recipe: Recipe) -> dict[str, Any]:
    """Options of the tuning. All steps count, better or not, so that pruned and dense models are tuned equally; where
    pruning has left zeros they stay, or a sparse model would be dense again.
    """
    options: dict[str, Any] = {"keep": "last", "bos": recipe.bos, **recipe.tuning[cell.tuning]}
    if cell.method == MOVEMENT:
        return {**options, "movement": cell.ratio}
    sparse = cell.method != DENSE and granularity(cell.granularity).zeros
    return {**options, "keep_zeros": True} if sparse else options


def steps(cell: Cell, recipe: Recipe, folder: Path) -> list[Step]:
    """The commands of a cell, which work in its folder."""
    model = recipe.models[cell.model]
    dense = current = _here(model.path)
    chain = []
    if cell.method not in (DENSE, MOVEMENT):
        kind = granularity(cell.granularity)
        places = (current, str(folder / PRUNED))
        chain.append(Step("prune", kind.command, places, _pruning(cell, kind, recipe)))
        current = places[1]
    if cell.tuning != NONE:
        places = (current, str(folder / TUNED))
        data = _here(model.tuning_data or model.calibration)
        options = {"data": data, **_tuning(cell, recipe), "seed": cell.seed}
        chain.append(Step("tune", "recover", places, options))
        current = places[1]
    if cell.quantisation in IN_GGUF:
        places = (current, str(folder / GGUF))
        chain.append(Step("export", "export", places, {"format": "gguf", "outtype": IN_GGUF[cell.quantisation]}))
        return chain  # it is for llama.cpp, whose quality and speed are not measured here
    return chain + _measurements(cell, recipe, current, dense, folder)


def _measurements(cell: Cell, recipe: Recipe, current: str, dense: str, folder: Path) -> list[Step]:
    how, model = recipe.evaluation, recipe.models[cell.model]
    in_memory = {"quantise": cell.quantisation} if cell.quantisation in IN_MEMORY else {}
    text = {
        "seqlen": how.seqlen,
        "bos": recipe.bos,
        **({"max_tokens": how.max_tokens} if how.max_tokens is not None else {}),
        **in_memory,
    }
    options: dict[str, Any] = {"text": _here(model.text), **text, "json": str(folder / "eval.json")}
    if how.suite:
        options |= {"suite": "slimgpt"}
        options |= {name: _here(value) for name in ("task_data",) if (value := getattr(how, name)) is not None}
        options |= {"limit": how.limit} if how.limit is not None else {}
    if how.corruption and cell.method != DENSE:
        options |= {"against": dense, "compare_json": str(folder / "compare.json")}
    chain = [Step("evaluate", "eval", (current,), options)]
    if model.seen_text is not None and (cell.tuning != NONE or cell.method == DENSE):
        seen = {"text": _here(model.seen_text), **text, "json": str(folder / "seen.json")}
        chain.append(Step("evaluate on seen text", "eval", (current,), seen))
    if how.bench and _changes_speed(cell):
        amounts = {"prompt_tokens": how.prompt_tokens, "new_tokens": how.new_tokens, "repeats": how.repeats}
        timing = {**amounts, **in_memory, "json": str(folder / "bench.json")}
        chain.append(Step("bench", "bench", (dense, current), timing))
    return chain


def _changes_speed(cell: Cell) -> bool:
    """Seeds and tuning change no shape, so one cell of each shape is timed."""
    return cell.seed == 0 and cell.tuning == NONE


def _here(path: str) -> str:
    """A local path in a form that holds in any working folder; names of the hub and of built-in text as they are."""
    local = path_of(path, "path")
    return str(local.resolve()) if local.exists() else path
