"""A study's recipe: models, a grid, and how every cell is calibrated, tuned and measured. From YAML to plain data."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, TypeVar, get_args

from slimgpt.config import RecoverConfig, options_from
from slimgpt.config.calibration import Bos
from slimgpt.config.yaml_file import read_mapping
from slimgpt.errors import ConfigError, shown

NONE = "none"  # no tuning, no quantisation
SECTIONS = ("models", "grid", "calibration", "tuning", "evaluation", "bos")
BOS = get_args(Bos)
CELLS_OWN = ("model", "out", "data", "seed", "force", "resume", "recipe")  # options of tuning that a cell decides
SEXAGESIMAL = {124: "2:4", 248: "4:8"}  # what YAML makes of them without quotes
Section = TypeVar("Section")


@dataclass(frozen=True)
class Model:
    """A model of the study, and the texts that belong to it.

    Attributes:
        name: what table and page call it.
        path: folder or hub id.
        text: held-out text, for the loss that counts.
        calibration: what pruning looks at.
        seen_text: text like what tuning sees, for the gap between loss on seen and on held-out text of tuned cells.
        tuning_data: what tuning learns from; the calibration's text where it is not named.
    """

    name: str
    path: str
    text: str
    calibration: str = "c4"
    seen_text: str | None = None
    tuning_data: str | None = None


@dataclass(frozen=True)
class Block:
    """A product of lists. The grid is a list of such blocks; cells that two blocks share are run once."""

    methods: tuple[str, ...]
    granularities: tuple[str, ...]
    ratios: tuple[float, ...]
    models: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ("one-shot",)
    allocations: tuple[str, ...] = ("default",)
    tuning: tuple[str, ...] = (NONE,)
    quantisation: tuple[str, ...] = (NONE,)
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Calibration:
    """Windows of text that pruning looks at, and the rounds of schedules that have several."""

    samples: int = 128
    seqlen: int = 2048
    rounds: int = 4


@dataclass(frozen=True)
class Evaluation:
    """What is measured of every cell.

    Attributes:
        seqlen: tokens in a window of perplexity.
        max_tokens: of the text.
        suite: also the seven tasks of the SlimGPT paper.
        task_data: their rows, as ``slimgpt eval --task-data``.
        limit: the first rows of each.
        corruption: also compare with the dense model, on corrupted text too.
        bench: also measure speed and memory, in turns with the dense model, of the untuned cells of seed 0: neither
            tuning nor another seed changes a shape.
        prompt_tokens: read in each of its repeats.
        new_tokens: generated in each.
        repeats: of it.
    """

    seqlen: int = 128
    max_tokens: int | None = None
    suite: bool = False
    task_data: str | None = None
    limit: int | None = None
    corruption: bool = False
    bench: bool = True
    prompt_tokens: int = 128
    new_tokens: int = 32
    repeats: int = 7


@dataclass(frozen=True)
class Recipe:
    """A whole study.

    Attributes:
        models: by name.
        grid: its blocks.
        tuning: a name for a set of options of ``slimgpt recover`` -> those options.
        bos: where texts begin with a beginning-of-sequence token, for all commands of all cells.
    """

    models: Mapping[str, Model]
    grid: tuple[Block, ...]
    calibration: Calibration = Calibration()
    tuning: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluation: Evaluation = Evaluation()
    bos: str = "auto"


def read(path: str) -> Recipe:
    """The study that a YAML file describes.

    Raises:
        ConfigError: missing, not YAML, an unknown key (the nearest is offered), a wrong type, or an unknown name.
    """
    sections = f"the sections {', '.join(SECTIONS)}"
    content = read_mapping(path, "RECIPE", "a YAML file, see recipes/study-small.yaml", sections)
    _refuse_unknown(content, SECTIONS, path)
    models = [_section(entry, Model, f"{path}, models") for entry in _entries(content, "models", path)]
    blocks = [_block(entry, f"{path}, grid") for entry in _entries(content, "grid", path)]
    recipe = Recipe(
        {model.name: model for model in models},
        tuple(blocks),
        _section(_given(content, "calibration"), Calibration, f"{path}, calibration"),
        _tuning(_given(content, "tuning"), f"{path}, tuning"),
        _section(_given(content, "evaluation"), Evaluation, f"{path}, evaluation"),
        content.get("bos", "auto"),
    )
    if recipe.bos not in BOS:
        raise ConfigError(f"{path}: bos is {shown(recipe.bos)}, but must be one of {', '.join(BOS)}.")
    if len(recipe.models) < len(models):
        raise ConfigError(f"{path}, models: two models have one name. Give each its own.")
    for block in blocks:
        _refuse_unknown(block.models, list(recipe.models), f"{path}, grid, models")
        _refuse_unknown(block.tuning, [NONE, *recipe.tuning], f"{path}, grid, tuning")
    return recipe


def _given(content: Mapping[str, Any], name: str) -> Any:
    """A section, which may be left out, or empty below its name."""
    return {} if content.get(name) is None else content[name]


def _entries(content: Mapping[str, Any], name: str, path: str) -> list[Any]:
    entries = content.get(name)
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: {name} must be a list with one entry or more.")
    return entries


def _section(settings: Any, kind: type[Section], where: str) -> Section:
    """A dataclass from a mapping of its fields."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{where}: {shown(settings)} must be 'option: value' lines.")
    options = options_from(settings, where, kind)
    needed = [own.name for own in dataclasses.fields(kind) if _required(own)]  # type: ignore[arg-type]
    missing = [name for name in needed if name not in options]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing. Needed are {', '.join(needed)}.")
    return kind(**options)


def _required(own: dataclasses.Field[Any]) -> bool:
    return own.default is dataclasses.MISSING and own.default_factory is dataclasses.MISSING


def _block(settings: Any, where: str) -> Block:
    granularities = settings.get("granularities") if isinstance(settings, dict) else None
    for value in granularities if isinstance(granularities, list) else [granularities]:
        if isinstance(value, int):
            pattern = SEXAGESIMAL.get(value, "N:M")
            raise ConfigError(
                f"{where}: granularity {shown(value)} is a number to YAML. Put it in quotes: '{pattern}'."
            )
    block = _section(settings, Block, where)
    empty = [own.name for own in dataclasses.fields(Block) if own.name != "models" and not getattr(block, own.name)]
    if empty:
        raise ConfigError(f"{where}: {empty[0]} is an empty list, so the block has no cells. Name one value or more.")
    return block


def _tuning(settings: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(settings, dict) or NONE in settings:
        raise ConfigError(f"{where}: must hold names, other than {NONE!r}, with options of slimgpt recover below each.")
    tuning = {}
    for name, options in settings.items():
        own = f"{where}, {name if isinstance(name, str) else shown(name)}"
        if not isinstance(options, (dict, NoneType)):
            raise ConfigError(f"{own}: {shown(options)} must be 'option: value' lines.")
        tuning[str(name)] = options_from(options or {}, own, RecoverConfig)
        decided = [key for key in tuning[str(name)] if key in CELLS_OWN]
        if decided:
            raise ConfigError(f"{own}: {decided[0]} is decided by each cell. Remove it.")
    return tuning


def _refuse_unknown(names: Sequence[str] | Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f". Known: {', '.join(known)}."
            raise ConfigError(f"{where}: unknown name {shown(name)}{hint}")
