"""Answers to the claims of "Can pruning make Large Language Models more efficient?" (arXiv 2310.04573), from cells.

The paper's abstract claims that (1) large reductions are possible without considerable loss where hyper-parameters are
chosen well, (2) the method of pruning matters, and (3) some models that are tuned after pruning generalise better. It
names no threshold and no control. Here a loss is considerable above 5 % of perplexity, and a tuned pruned model is
compared with the dense model after the same tuning, seed by seed and window by window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slimgpt.studies.cells import Cell
from slimgpt.studies.methods import DENSE
from slimgpt.studies.paired import Difference, Windows, difference
from slimgpt.studies.recipe import NONE
from slimgpt.studies.run import DONE
from slimgpt.studies.table import text_entry

CONSIDERABLE = 0.05  # of perplexity
LARGE = 0.25  # of all parameters
STORED = "no longer stored"
SUPPORTED, CONTRADICTED, UNDECIDED, UNTESTED = "supported", "contradicted", "undecided", "not tested"

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Evidence:
    """One comparison.

    Attributes:
        what: the models compared.
        ratio: removed fraction of parameters, zeros counted as removed.
        difference: nats per token on held-out text, the first less the second.
        details: further figures, by name.
    """

    what: str
    ratio: float | None
    difference: Difference
    details: Mapping[str, float | int | None]


@dataclass(frozen=True)
class Answer:
    """What a study says to one claim.

    Attributes:
        claim: in words.
        verdict: supported, contradicted, undecided or not tested.
        test: what was compared, and by which rule the verdict follows.
        summary: what was found.
        evidence: every comparison.
    """

    claim: str
    verdict: str
    test: str
    summary: str
    evidence: Sequence[Evidence]


class Cells:
    """Finished cells of a study, seeds of one configuration together.

    Args:
        records: of cells; those that failed or have no text are left out.
    """

    def __init__(self, records: Records) -> None:
        self._by_cell = {Cell(**record["cell"]): record for record in records if _measured(record)}

    def groups(self, wanted: Callable[[Cell], bool]) -> list[list[Cell]]:
        """Pruned cells that are wanted, those that differ in seed alone together."""
        found: dict[Cell, list[Cell]] = {}
        for cell in self._by_cell:
            if cell.method != DENSE and wanted(cell):
                found.setdefault(_seedless(cell), []).append(cell)
        return list(found.values())

    def has(self, cell: Cell) -> bool:
        """The cell was measured."""
        return cell in self._by_cell

    def windows(self, cell: Cell, of: str = "eval") -> Windows:
        """Its loss, window by window."""
        found = self._by_cell[cell]["measured"][of]
        name, _ = text_entry(found)
        windows = tuple(found["window_nll"][name])
        return Windows(windows, found["configs"][name]["num_tokens"] / len(windows))

    def seen(self, cell: Cell) -> float | None:
        """Nats per token on text like what tuning saw."""
        _, entry = text_entry(self._by_cell[cell]["measured"].get("seen"))
        return float(entry["nll_per_token,none"]) if entry else None

    def held_out(self, cell: Cell) -> float:
        """Nats per token on held-out text."""
        return float(text_entry(self._by_cell[cell]["measured"]["eval"])[1]["nll_per_token,none"])

    def removed(self, cell: Cell) -> float:
        """Share of the dense model's parameters that are gone or zero."""
        own, dense = (self._by_cell[one]["measured"]["eval"] for one in (cell, Cell(cell.model)))
        return 1 - (own["parameters"] - own["zeros"]) / (dense["parameters"] - dense["zeros"])

    def no_longer_stored(self, cell: Cell) -> float:
        """Share of the dense model's parameters that no file holds: in an ordinary file zeros are numbers as any."""
        own, dense = (self._by_cell[one]["measured"]["eval"] for one in (cell, Cell(cell.model)))
        return float(1 - own["parameters"] / dense["parameters"])

    def compared(self, group: Sequence[Cell], against: Callable[[Cell], Cell], comparisons: int = 1) -> Difference:
        """A configuration less another, paired by seed and window."""
        return difference([(self.windows(own), self.windows(against(own))) for own in group], comparisons)


def _measured(record: Mapping[str, Any]) -> bool:
    return record["status"] == DONE and bool(text_entry(record["measured"].get("eval"))[0])


def _seedless(cell: Cell) -> Cell:
    return Cell(**{**asdict(cell), "seed": 0})


def answers(records: Records) -> list[Answer]:
    """To the three claims, in order."""
    cells = Cells(records)
    return [reduction(cells), methods(cells), generalisation(cells)]


def reduction(cells: Cells) -> Answer:
    """Claim 1, by the largest reduction of each model and kind that costs no more than 5 % of perplexity."""
    claim = "Large reductions are possible without considerable loss, if the hyper-parameters are chosen well."
    test = (
        f"Pruned models against the dense model with the same tuning and quantisation. A loss above {CONSIDERABLE:.0%} "
        "of perplexity is considerable; the upper end of the 95 % interval counts, made wider for the number of "
        "comparisons (Bonferroni). Supported if a quarter or more of all parameters can go."
    )
    groups = [group for group in cells.groups(lambda cell: True) if all(cells.has(own.control()) for own in group)]
    evidence = [
        Evidence(
            _what(group[0]),
            cells.removed(group[0]),
            cells.compared(group, Cell.control, len(groups)),
            {STORED: cells.no_longer_stored(group[0])},
        )
        for group in groups
    ]
    limit = math.log1p(CONSIDERABLE)
    cheap = [own for own in evidence if own.difference.high <= limit]
    costly = [own for own in evidence if own.difference.low > limit]
    most = max(cheap, key=lambda own: own.ratio or 0.0, default=None)
    if not evidence:
        return Answer(claim, UNTESTED, test, "No pruned model and its dense control were both measured.", evidence)
    large = most is not None and (most.ratio or 0) >= LARGE
    verdict = SUPPORTED if large else CONTRADICTED if len(costly) == len(evidence) else UNDECIDED
    if most is not None:
        extreme = f"The largest reduction within it is {most.ratio:.0%} of all parameters: {most.what}, "
        extreme += f"{shown(most.difference)}. {_smaller_files(cheap)}"
    else:
        best = min(evidence, key=lambda own: own.difference.value)
        extreme = f"The least loss is {shown(best.difference)} at {best.ratio:.0%} of all parameters: {best.what}."
    counts = f"{len(cheap)} of {len(evidence)} configurations stay within {CONSIDERABLE:.0%}, {len(costly)} do not."
    return Answer(claim, verdict, test, f"{counts} {extreme}", evidence)


def _smaller_files(cheap: Sequence[Evidence]) -> str:
    """Zeros make no file smaller, so what is no longer stored is said apart."""
    smaller = [own for own in cheap if (own.details[STORED] or 0) > 0]
    if not smaller:
        return "None of those within it has fewer parameters to store: they are zeros in matrices of the old size."
    most = max(smaller, key=lambda own: own.details[STORED] or 0)
    return f"The largest in parameters that are no longer stored is {most.details[STORED]:.0%}: {most.what}."


def methods(cells: Cells) -> Answer:
    """Claim 2, by the best and the worst method wherever several were asked for the same."""
    claim = "The method of pruning matters for quality."
    test = (
        "Wherever two methods or more removed the same share at the same granularity with the same tuning: the worst "
        "less the best. As they are picked by the result, the interval is widened for all pairs (Bonferroni). "
        "Supported if zero is outside the interval in most such places."
    )
    places: dict[tuple[Any, ...], list[list[Cell]]] = {}
    for group in cells.groups(lambda cell: True):
        own = group[0]
        place = (own.model, own.granularity, own.ratio, own.tuning, own.quantisation)
        places.setdefault(place, []).append(group)
    evidence = [_extremes(cells, rivals) for rivals in places.values() if _several_methods(rivals)]
    if not evidence:
        return Answer(claim, UNTESTED, test, "Nowhere did two methods remove the same share of one model.", evidence)
    clear = [own for own in evidence if own.difference.low > 0]
    verdict = SUPPORTED if 2 * len(clear) > len(evidence) else UNDECIDED if clear else CONTRADICTED
    widest = max(evidence, key=lambda own: own.difference.value)
    summary = (
        f"In {len(clear)} of {len(evidence)} places the best and the worst method clearly differ. The widest: "
        f"{widest.what}, {shown(widest.difference)}."
    )
    return Answer(claim, verdict, test, summary, evidence)


def _several_methods(rivals: Sequence[Sequence[Cell]]) -> bool:
    return len({(group[0].method, group[0].schedule, group[0].allocation) for group in rivals}) > 1


def _extremes(cells: Cells, rivals: Sequence[Sequence[Cell]]) -> Evidence:
    """The worst of some configurations less the best, over the seeds that both have."""
    by_loss = sorted(rivals, key=lambda group: sum(map(cells.held_out, group)) / len(group))
    best, worst = by_loss[0], by_loss[-1]
    partners = {cell.seed: cell for cell in best}
    shared = [cell for cell in worst if cell.seed in partners] or worst[:1]
    pairs = len(rivals) * (len(rivals) - 1) // 2
    found = cells.compared(shared, lambda own: partners.get(own.seed, best[0]), pairs)
    own, other = worst[0], best[0]
    what = f"{own.model}, {own.granularity} {own.ratio:.0%}{_extras(own)}: {_how(own)} against {_how(other)}"
    return Evidence(what, cells.removed(own), found, {"configurations": len(rivals)})


def generalisation(cells: Cells) -> Answer:
    """Claim 3, by held-out loss against the dense model after the same tuning."""
    claim = "Some models that are fine-tuned after pruning generalise better than the dense model."
    test = (
        "Tuned pruned models against the dense model with the same tuning, on held-out text. Supported if the whole "
        "interval of one is below zero, after widening for the number of comparisons (Bonferroni); contradicted if all "
        "intervals are above. The last columns show what a study without that control would have compared, and the gap "
        "between held-out and seen text."
    )
    groups = [
        group
        for group in cells.groups(lambda cell: cell.tuning != NONE)
        if all(cells.has(own.control()) and cells.has(_untuned(own)) for own in group)
    ]
    evidence = [
        Evidence(
            _what(group[0]),
            cells.removed(group[0]),
            cells.compared(group, Cell.control, len(groups)),
            _generalisation_details(cells, group, len(groups)),
        )
        for group in groups
    ]
    if not evidence:
        return Answer(
            claim, UNTESTED, test, "No tuned pruned model and its tuned dense control were measured.", evidence
        )
    better = [own for own in evidence if own.difference.high < 0]
    worse = [own for own in evidence if own.difference.low > 0]
    uncontrolled = [own for own in evidence if (own.details["high against untuned dense"] or 0) < 0]
    verdict = SUPPORTED if better else CONTRADICTED if len(worse) == len(evidence) else UNDECIDED
    best = min(evidence, key=lambda own: own.difference.value)
    summary = (
        f"Of {len(evidence)} tuned pruned configurations {len(better)} are clearly better than the dense model with "
        f"the same tuning, and {len(worse)} clearly worse. The best is {best.what}: {shown(best.difference)}. Against "
        f"the dense model without tuning, {len(uncontrolled)} would have seemed better."
    )
    return Answer(claim, verdict, test, summary, evidence)


def _untuned(cell: Cell) -> Cell:
    return Cell(cell.model, quantisation=cell.quantisation)


def _generalisation_details(cells: Cells, group: Sequence[Cell], comparisons: int) -> dict[str, float | None]:
    uncontrolled = cells.compared(group, _untuned, comparisons)
    return {
        "against untuned dense": uncontrolled.value,
        "high against untuned dense": uncontrolled.high,
        "gap": _mean_gap(cells, group),
        "gap of tuned dense": _mean_gap(cells, [own.control() for own in group]),
    }


def _mean_gap(cells: Cells, group: Sequence[Cell]) -> float | None:
    """Held-out less seen loss, in nats per token."""
    gaps = [cells.held_out(own) - seen for own in group if (seen := cells.seen(own)) is not None]
    return sum(gaps) / len(gaps) if gaps else None


def _what(cell: Cell) -> str:
    return f"{cell.model}, {_how(cell)}, {cell.granularity} {cell.ratio:.0%}{_extras(cell)}"


def _how(cell: Cell) -> str:
    parts = [cell.method]
    parts += [part for part in (cell.schedule, cell.allocation) if part not in ("one-shot", "default")]
    return " ".join(parts)


def _extras(cell: Cell) -> str:
    return "".join(f", {part}" for part in (cell.tuning, cell.quantisation) if part != NONE)


def shown(found: Difference) -> str:
    """A difference for people, as perplexity."""
    value, low, high = (100 * (ratio - 1) for ratio in found.perplexity_ratio)
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    return f"perplexity {value:+,.1f} % ({low:+,.1f} to {high:+,.1f}; {seeds})".replace("-", "−")
