"""The cells of a study: its grid written out, with the dense controls that its comparisons need."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from slimgpt.errors import ConfigError
from slimgpt.studies.methods import DEFAULT, DENSE, ONE_SHOT
from slimgpt.studies.recipe import NONE, Block, Recipe

SCHEMA = 2
MOST_CELLS = 200  # without a word from the user
MOST_POINTS = 100_000


@dataclass(frozen=True)
class Cell:
    """One point of the grid, as plain data; ``ratio`` is the removed fraction in the words of the cell's command."""

    model: str
    method: str = DENSE
    granularity: str = NONE
    ratio: float = 0.0
    schedule: str = ONE_SHOT
    allocation: str = DEFAULT
    tuning: str = NONE
    quantisation: str = NONE
    seed: int = 0

    @property
    def name(self) -> str:
        """For people: what differs from the plain dense model."""
        parts = [self.model, self.method]
        if self.method != DENSE:
            parts += [self.granularity, f"{self.ratio:.0%}"]
        parts += [part for part in (self.schedule, self.allocation) if part not in (ONE_SHOT, DEFAULT)]
        parts += [part for part in (self.tuning, self.quantisation) if part != NONE]
        return " ".join([*parts, f"seed {self.seed}"])

    def control(self) -> Cell:
        """The dense model with the same tuning, quantisation and seed; without tuning a seed changes nothing."""
        seed = self.seed if self.tuning != NONE else 0
        return Cell(self.model, tuning=self.tuning, quantisation=self.quantisation, seed=seed)


def expand(recipe: Recipe) -> dict[str, Cell]:
    """Identity -> cell, dense cells first, each once.

    Raises:
        ConfigError: they are more than anyone can run.
    """
    if _points(recipe) > MOST_POINTS:
        raise ConfigError(f"the grid has {_points(recipe):,} points, more than {MOST_POINTS:,}: shorten its lists.")
    asked = [cell for block in recipe.grid for cell in _product(block, recipe)]
    plain = [Cell(cell.model) for cell in asked]
    controls = [cell.control() for cell in asked]
    return {identity(cell, recipe): cell for cell in [*plain, *controls, *asked]}


def _points(recipe: Recipe) -> int:
    """Points of the grid, those that two blocks share counted twice."""
    return sum(math.prod(map(len, _axes(block, recipe))) for block in recipe.grid)


def _axes(block: Block, recipe: Recipe) -> tuple[tuple[Any, ...], ...]:
    """What a block varies, in the order of a cell's fields."""
    models = block.models or tuple(recipe.models)
    axes = (models, block.methods, block.granularities, block.ratios, block.schedules, block.allocations)
    return (*axes, block.tuning, block.quantisation, block.seeds)


def _product(block: Block, recipe: Recipe) -> Iterator[Cell]:
    for values in product(*_axes(block, recipe)):
        cell = Cell(*values)
        yield cell.control() if cell.method == DENSE else cell


def identity(cell: Cell, recipe: Recipe) -> str:
    """A readable beginning, and a hash of all that the cell's figures depend on but the content of files."""
    whole = json.dumps([SCHEMA, asdict(cell), settings(cell, recipe)], sort_keys=True)
    readable = re.sub(r"[^a-z0-9.]+", "-", cell.name.lower().replace("%", "").replace(":", "of"))
    return f"{readable}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}"


def settings(cell: Cell, recipe: Recipe) -> dict[str, Any]:
    """What the recipe says beyond the cell."""
    pruned = cell.method != DENSE
    return {
        "model": asdict(recipe.models[cell.model]),
        "calibration": asdict(recipe.calibration) if pruned else None,
        "tuning": dict(recipe.tuning[cell.tuning]) if cell.tuning != NONE else None,
        "evaluation": asdict(recipe.evaluation),
        "bos": recipe.bos,
    }


def check_size(cells: int, yes: bool) -> None:
    """Raise ConfigError on a grid that is larger than anyone may have meant."""
    if cells > MOST_CELLS and not yes:
        raise ConfigError(
            f"the grid has {cells:,} cells, dense controls among them, and more than {MOST_CELLS} may be a slip: "
            "shorten its lists, or say --yes."
        )
