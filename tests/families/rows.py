"""A row of docs/families.md: what a type's model does when it is pruned, or why it is not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from contract import CLOSE, ROUGH, Case, caching, difference, load, logits, masked, padding, rounding

from slimgpt.arch import is_tested
from slimgpt.errors import SlimGPTError
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.inspection import staying

TESTED = "tested family"
AS_STOCK = "as stock"
"""What a check says where the stock model does not pass it either."""

Measure = Callable[[], float]
CHECKS = ("sliced = masked", "cache", "padding", "bfloat16")


@dataclass
class Row:
    """Of one type.

    Attributes:
        model_type: of transformers.
        known: how its units are known; empty where it is refused.
        parts: part -> in how many layers it can go, of how many.
        checks: what of :data:`CHECKS` holds; what does not, with a figure.
        why: why it is refused, or what stays whole.
    """

    model_type: str
    known: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def fails(self) -> list[str]:
        """Checks that do not hold of a model that was accepted."""
        return [name for name, said in self.checks.items() if said not in ("yes", AS_STOCK)]


def row_of(model_type: str, folder: Path) -> Row:
    """Make a random model of the type, prune it, and look at what came out."""
    if is_tested(model_type):
        return Row(model_type, TESTED, why="tests/contract")
    case = Case(model_type, folder)
    try:
        checkpoint = open_checkpoint(str(case.dense))
        case.pruned  # noqa: B018
    except SlimGPTError as error:
        return Row(model_type, why=_short(str(error).replace(f"{folder}/dense: ", "").replace(f"{folder}/", "")))
    why = _short(" ".join(staying(checkpoint)))
    return Row(model_type, "detected", _parts(checkpoint), _checks(case), why)


def _parts(checkpoint: Checkpoint) -> dict[str, str]:
    layers = range(len(checkpoint.layers))
    count = Counter(site.part.partition("-")[0] for index in layers for site in {*_first_of_each(checkpoint, index)})
    return {part: f"{times} of {len(layers)}" for part, times in count.items()}


def _first_of_each(checkpoint: Checkpoint, index: int) -> list:  # type: ignore[type-arg]
    found = {site.part.partition("-")[0]: site for site in reversed(checkpoint.sites(index))}
    return list(found.values())


def _checks(case: Case) -> dict[str, str]:
    """What the pruned model does; where it fails, whether the stock model fails as well."""
    model = load(case.pruned)
    tries = {
        "sliced = masked": (lambda: difference(logits(model), logits(masked(case))), None, CLOSE),
        "cache": (lambda: caching(model), lambda: caching(load(case.dense)), CLOSE),
        "padding": (lambda: padding(model), lambda: padding(load(case.dense)), CLOSE),
        "bfloat16": (lambda: rounding(case.pruned), lambda: rounding(case.dense), ROUGH),
    }
    return {name: _tried(*tries[name]) for name in CHECKS}


def _tried(ours: Measure, stock: Measure | None, limit: float) -> str:
    said = _within(ours, limit)
    return AS_STOCK if said != "yes" and stock is not None and _within(stock, limit) != "yes" else said


def _within(measure: Measure, limit: float) -> str:
    try:
        found = measure()
    except Exception as error:
        return _short(f"{type(error).__name__}: {error}", 60)
    return "yes" if found < limit else f"off by {found:.2%}"


def _short(text: str, most: int = 240) -> str:
    text = re.sub(r"\s+", " ", text).replace("|", "/")
    return text if len(text) <= most else text[: most - 2] + " …"
