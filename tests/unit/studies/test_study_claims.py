"""Answers from cells whose losses are known by construction, and intervals that hold what they promise."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from study_shop import PARAMETERS, evaluation

from slimgpt.studies.cells import Cell
from slimgpt.studies.claims import CONTRADICTED, SUPPORTED, UNDECIDED, UNTESTED, answers
from slimgpt.studies.paired import Windows, difference

DENSE = 3.0


def record(cell: Cell, nll: float, seen: float | None = None, zeros: int = 0, status: str = "done") -> dict[str, Any]:
    measured = {"eval": evaluation(nll, pruned=cell.granularity == "structured", zeros=zeros, seed=cell.seed)}
    if seen is not None:
        measured["seen"] = evaluation(seen)
    return {"cell": asdict(cell), "status": status, "measured": measured}


def structured(method: str, tuning: str = "none", seed: int = 0) -> Cell:
    return Cell("tiny", method, "structured", 0.25, tuning=tuning, seed=seed)


def seeds(make: Callable[[int], Cell], values: Sequence[float]) -> list[dict[str, Any]]:
    return [record(make(seed), value) for seed, value in enumerate(values)]


def verdicts(records: Sequence[dict[str, Any]]) -> list[str]:
    return [answer.verdict for answer in answers(records)]


def test_nothing_measured_is_nothing_tested() -> None:
    assert verdicts([]) == verdicts([record(Cell("tiny"), DENSE)]) == [UNTESTED] * 3


def test_a_quarter_for_little_is_support_for_the_first_claim() -> None:
    dense = record(Cell("tiny"), DENSE)
    cheap = seeds(lambda seed: structured("obs", seed=seed), [DENSE + 0.01, DENSE + 0.012])
    assert verdicts([dense, *cheap])[0] == SUPPORTED
    summary = answers([dense, *cheap])[0].summary
    assert "The largest in parameters that are no longer stored is 25%: tiny, obs, structured 25%." in summary
    costly = seeds(lambda seed: structured("obs", seed=seed), [DENSE + 0.3, DENSE + 0.31])
    assert verdicts([dense, *costly])[0] == CONTRADICTED
    assert "0 of 1 configurations stay within 5%, 1 do not." in answers([dense, *costly])[0].summary


def test_what_is_neither_is_undecided() -> None:
    """Two seeds that disagree about the threshold."""
    dense = record(Cell("tiny"), DENSE)
    unsure = seeds(lambda seed: structured("obs", seed=seed), [DENSE + 0.01, DENSE + 0.3])
    assert verdicts([dense, *unsure])[0] == UNDECIDED


def test_zeros_count_as_removed_but_stored_parameters_are_named() -> None:
    cell = Cell("tiny", "wanda", "unstructured", 0.5)
    records = [record(Cell("tiny"), DENSE), record(cell, DENSE + 0.01, zeros=PARAMETERS // 2)]
    (evidence,) = answers(records)[0].evidence
    assert evidence.ratio == pytest.approx(0.5)
    assert evidence.details["no longer stored"] == pytest.approx(0.0)
    assert "None of those within it has fewer parameters to store" in answers(records)[0].summary


def test_methods_that_differ_for_certain() -> None:
    def both(apart: float) -> list[dict[str, Any]]:
        return [
            record(Cell("tiny"), DENSE),
            *seeds(lambda seed: structured("obs", seed=seed), [3.20, 3.21]),
            *seeds(lambda seed: structured("random", seed=seed), [3.20 + apart, 3.21 + apart]),
        ]

    assert verdicts(both(0.2))[1] == SUPPORTED
    assert verdicts(both(0.0005))[1] == CONTRADICTED
    assert "structured 25%: random against obs" in answers(both(0.2))[1].evidence[0].what


def test_one_method_alone_says_nothing_about_methods() -> None:
    assert verdicts([record(Cell("tiny"), DENSE), record(structured("obs"), 3.2)])[1] == UNTESTED


def tuned(pruned: float, dense: float) -> list[dict[str, Any]]:
    """Two seeds of a tuned pruned model, and of the dense one after the same tuning."""
    control = seeds(lambda seed: Cell("tiny", tuning="full", seed=seed), [dense, dense + 0.001])
    own = seeds(lambda seed: structured("obs", "full", seed), [pruned, pruned + 0.001])
    return [record(Cell("tiny"), DENSE), *control, *own]


def test_better_than_the_dense_model_alone_is_no_better_generalisation() -> None:
    """The control decides: here tuning helps the dense model more than it helps the pruned one."""
    answer = answers(tuned(pruned=2.9, dense=2.8))[2]
    assert answer.verdict == CONTRADICTED
    assert "Against the dense model without tuning, 1 would have seemed better." in answer.summary


def test_better_than_the_tuned_dense_model_is() -> None:
    assert verdicts(tuned(pruned=2.7, dense=2.8))[2] == SUPPORTED


def test_no_control_no_answer() -> None:
    without = [own for own in tuned(2.7, 2.8) if own["cell"] != asdict(Cell("tiny", tuning="full"))]
    assert verdicts(without)[2] == UNTESTED


def test_failed_cells_are_no_evidence() -> None:
    failed = {**record(structured("obs"), 3.0), "status": "failed"}
    assert verdicts([record(Cell("tiny"), DENSE), failed])[0] == UNTESTED


def test_gaps_are_between_held_out_and_seen_text() -> None:
    cells = [Cell("tiny"), Cell("tiny", tuning="full"), structured("obs", "full")]
    records = [
        record(cell, nll, seen) for cell, nll, seen in zip(cells, (3.0, 2.8, 2.9), (2.9, 2.5, 2.75), strict=True)
    ]
    (evidence,) = answers(records)[2].evidence
    assert evidence.details["gap"] == pytest.approx(0.15, abs=1e-6)
    assert evidence.details["gap of tuned dense"] == pytest.approx(0.3, abs=1e-6)


# --- paired differences ------------------------------------------------------------------------------


def windows(values: Sequence[float], tokens: float = 10.0) -> Windows:
    return Windows(tuple(values), tokens)


def test_a_constant_shift_is_certain() -> None:
    hard = [random.Random(0).gauss(30, 9) for _ in range(30)]
    found = difference([(windows([value + 1 for value in hard]), windows(hard))])
    assert found.value == pytest.approx(0.1) and found.high - found.low < 1e-9
    assert (found.seeds, found.windows) == (1, 30)


def test_pairing_narrows_the_interval_and_comparisons_widen_it() -> None:
    chance = random.Random(1)
    hard = [chance.gauss(30, 9) for _ in range(50)]
    mine = [value + chance.gauss(1, 0.5) for value in hard]
    paired = difference([(windows(mine), windows(hard))])
    shuffled = difference([(windows(mine), windows(chance.sample(hard, len(hard))))])
    assert paired.high - paired.low < (shuffled.high - shuffled.low) / 5
    many = difference([(windows(mine), windows(hard))], comparisons=20)
    assert many.high - many.low > paired.high - paired.low


def test_seeds_that_disagree_widen_it() -> None:
    flat = windows([30.0] * 40)
    agreeing = difference([(windows([31.0 + 0.1 * (i % 2) for i in range(40)]), flat)] * 2)
    apart = difference([(windows([30.5] * 40), flat), (windows([31.5] * 40), flat)])
    assert apart.value == pytest.approx(0.1)
    assert apart.low < 0 < agreeing.low


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Coverage over made-up studies of three seeds: 95 %, within what 400 of them can tell."""
    chance = random.Random(2)
    hits = 0
    for _ in range(400):
        pairs = []
        for _ in range(3):
            seed = chance.gauss(1, 0.5)
            pairs.append((windows([seed + chance.gauss(0, 0.5) for _ in range(30)]), windows([0.0] * 30)))
        found = difference(pairs)
        hits += found.low <= 0.1 <= found.high
    assert 0.92 <= hits / 400 <= 0.995


def test_one_window_and_one_seed_tell_nothing() -> None:
    found = difference([(windows([31.0]), windows([30.0]))])
    assert found.low == -math.inf and found.high == math.inf


def test_refuses_other_windows() -> None:
    with pytest.raises(ValueError, match="compared on the same windows"):
        difference([(windows([1.0, 2.0]), windows([1.0]))])
