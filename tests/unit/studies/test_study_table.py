"""The table: what a row says of a cell, and that both files give back what went in."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_shop import PARAMETERS, Pretended, study_config

from slimgpt.studies import study, table


def test_both_files_give_back_what_went_in(tmp_path: Path) -> None:
    done = study(study_config(tmp_path), command=Pretended(refuse="--solver wanda"))
    for name in ("table.parquet", "table.csv"):
        found = table.read(done.out / name)
        assert found.column_names == list(table.COLUMNS)
        assert found.to_pylist() == done.table.to_pylist()


def test_a_row_says_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    sections = {"tuning": {"full": {"full": True}}}
    sections["grid"] = [
        {"methods": ["obs"], "granularities": ["structured"], "ratios": [0.2], "tuning": ["none", "full"]}
    ]
    done = study(study_config(tmp_path, sections), command=Pretended(lambda words: 2.0))
    rows = {(row["method"], row["tuning"]): row for row in done.table.to_pylist()}
    pruned, tuned = rows["obs", "none"], rows["obs", "full"]
    assert pruned["nll_per_token"] == 2.0 and pruned["perplexity"] == pytest.approx(2.718281828**2)
    assert pruned["parameters"] == pruned["nonzero_parameters"] == PARAMETERS * 3 // 4
    assert pruned["decode_ms_per_token"] == 20.0 and pruned["decode_ratio_to_dense"] == 1.2
    assert pruned["tuning_loss"] is None and tuned["tuning_loss"] == 2.5
    assert pruned["seen_nll_per_token"] is None and tuned["seen_nll_per_token"] == 2.0
    assert pruned["suite_accuracy"] is None and pruned["typos_bits_per_byte"] is None
    assert tuned["decode_ms_per_token"] is None  # tuning changes no shape


def test_zeros_are_free_in_theory_alone() -> None:
    record = {
        "id": "x",
        "status": "done",
        "error": None,
        "cell": {**dict.fromkeys(table.CELL, ""), "ratio": 0.5, "seed": 0},
        "steps": [{"name": "bench", "seconds": 1.0, "machine_joules": 7.0}],
        "measured": {
            "eval": {"parameters": 100, "zeros": 40, "quantisation": None, "results": {}},
            "bench": {"models": [{}, {"flops_per_token": 200, "bytes_on_disk": 400, "peak_bytes": 1}]},
        },
    }
    row = table.row(record)
    assert (row["flops_per_token"], row["flops_per_token_without_zeros"]) == (200, 120)
    assert (row["nonzero_parameters"], row["stored_bytes"]) == (60, 400)
    assert row["bench_machine_joules"] == 7.0 and row["seconds"] == 1.0
