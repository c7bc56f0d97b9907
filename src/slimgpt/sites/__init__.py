"""The waist of the house: plain data that the model side and the mathematics side exchange.

    model --arch--> Site --stream--> InputStats --solver--> Removal --surgery--> smaller model

Comes in: what a family or a detector knows of a layer. Goes out: sites, and the rows and columns that belong to them.

Shapes: O consumer outputs · I consumer inputs (= N·K) · N units · K channels per unit · M members of all units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

ATTENTION = "attention"
FFN = "ffn"
"""Names of the parts that most layers have."""


@dataclass(frozen=True)
class Segment:
    """A run of rows of a producer's weight that belongs to the units of a site, unit after unit.

    Rows ``[offset, offset + num_units * rows_per_unit)`` of the projection at ``path`` are cut with the units.
    A fused projection (qkv, gate_up) is simply several segments with one path. A plain parameter (attention sinks) has
    entries in place of rows.

    Attributes:
        path: path inside the layer, of a projection or of a plain parameter.
        rows_per_unit: rows of one unit.
        offset: the first row.
        by_member: a unit's rows lie member after member, and each goes with its member; else they belong to the unit as
            a whole.
    """

    path: str
    rows_per_unit: int
    offset: int = 0
    by_member: bool = False


@dataclass(frozen=True)
class Site:
    """A projection whose inputs can go, unit by unit, in a decoder layer or beside the layers.

    Paths of modules are inside the layer; of a site beside the layers, inside the causal LM.

    Attributes:
        name: what is pruned: ``"attention"``, ``"ffn"``, or ``"ffn.3"`` where there are several of a kind.
        block: module path inside the layer of the block whose output is the consumer's output; None where there is
            no such module, and the layer has to run the pruned site again.
        consumer: module path inside the layer of the projection that loses input columns.
        producers: the segments of rows that are cut with the units.
        num_units: N, the units at hand (KV groups, or FFN channels).
        unit_width: K, the consumer's input columns of one unit.
        members: equal parts of a unit that may go without the whole, as many from every unit that stays (query heads
            that share keys and values); 1 where a unit is all of a piece.
        returns_tuple: the block returns ``(output, attention weights)`` rather than the output alone.
        unit: what people call one unit.
        cache_values: numbers that each token leaves in the cache for one unit.
    """

    name: str
    block: str | None
    consumer: str
    producers: tuple[Segment, ...]
    num_units: int
    unit_width: int
    members: int = 1
    returns_tuple: bool = False
    unit: str = "channel"
    cache_values: int = 0

    @property
    def num_inputs(self) -> int:
        """I, the consumer's input columns."""
        return self.num_units * self.unit_width

    def kept_columns(self, kept_N: Tensor) -> Tensor:
        """Flags of units or of members (see :class:`Removal`) to flags of the consumer's columns."""
        return expand(kept_N, self.num_inputs // len(kept_N))

    @property
    def part(self) -> str:
        """The part of the layer, say ``"attention"`` or ``"ffn"``: sites of one part lose equally many units."""
        return part_of(self.name)

    @property
    def fine(self) -> bool:
        """Units are single columns: small steps, fit to take up what rounding leaves."""
        return self.unit_width == 1


def by_part(sites: Sequence[Site]) -> list[list[Site]]:
    """Neighbours of one part together: they see the same forward pass."""
    return [list(group) for _, group in groupby(sites, key=lambda site: site.part)]


def part_of(name: str) -> str:
    """The part of the layer that a site's name belongs to."""
    return name.partition(".")[0]


class Kept(NamedTuple):
    """What a site keeps: units, and members in each of them (None: all)."""

    units: int
    members: int | None = None


@dataclass(frozen=True)
class Removal:
    """What a solver decided for one site; immutable and small.

    Attributes:
        kept_N: bool, True where the unit survives. Where units have lost members, a flag for each member instead, unit
            after unit: M long, and equally many in every unit that survives.
        weight_OI: the repaired consumer weight on the surviving columns only, in the dtype it came in.
        error: relative squared reconstruction error ‖W X − W' X'‖² / ‖W X‖² on the calibration inputs
            (undamped), in [0, 1] for a repaired removal.
        curve: estimated relative error after 0, 1, 2, … removals in the solver's own order, as far as the solver
            knows it (float64; empty for solvers without an error model).
        bias_O: the consumer's new bias; None leaves it as it is.
    """

    kept_N: Tensor
    weight_OI: Tensor
    error: float
    curve: Tensor
    bias_O: Tensor | None = None


@dataclass(frozen=True)
class SolverOptions:
    """Numbers that solvers take beside the problem itself.

    Attributes:
        damping: λ as a fraction of the mean diagonal of the Hessian, added to the diagonal.
        repair: refit the surviving columns by least squares; ``None`` leaves it to the solver's own habit
            (yes for the OBS solvers, no for the baselines).
        seed: for solvers that draw random numbers.
        grouped_cholesky: paper solver only: score heads by the grouped Cholesky decomposition; False is the
            ablation "−GCD" (plain diagonal of the inverse).
        group_size: paper solver only: channels removed per round; 0 is the dynamic schedule 1024 … 8.
        blocks: units lie in so many equal runs that take turns: each loses as many as any other. (1: all units are free
            to go.)
        metric_OO: obs solver only: M, how much an error of the outputs matters; units go by tr(M E H Eᵀ) in place of
            tr(E H Eᵀ). (The best repair of the survivors is the same for every M.)
        mean_I: flap solver only: the mean input.
        num_tokens: flap solver only: calibration tokens in the Hessian and the mean.
        bias_O: flap solver only: the consumer's bias; None where it has none.
    """

    damping: float = 0.01
    repair: bool | None = None
    seed: int = 0
    grouped_cholesky: bool = True
    group_size: int = 0
    blocks: int = 1
    metric_OO: Tensor | None = None
    mean_I: Tensor | None = None
    num_tokens: int = 0
    bias_O: Tensor | None = None


Solver = Callable[[Tensor, Tensor, int, int, SolverOptions], Removal]
"""``solve(weight_OI, hessian_II, num_units, num_removed, options) -> Removal``.

``hessian_II`` is X Xᵀ over the calibration tokens in float32 or float64, undamped. Units are consecutive runs of
I / num_units columns; ``num_removed`` is a multiple of ``options.blocks``.
"""


def expand(kept_N: Tensor, width: int) -> Tensor:
    """Unit flags to column flags: every unit's flag repeated over its ``width`` columns."""
    return torch.repeat_interleave(kept_N, width)
