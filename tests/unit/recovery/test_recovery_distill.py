"""The store of a teacher's predictions, and the distance to its hidden states."""

from __future__ import annotations

import math
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch

from slimgpt.errors import DamageWarning
from slimgpt.evaluation.predictions import Targets, targets_of
from slimgpt.machine.processes import Processes
from slimgpt.recovery import targets
from slimgpt.recovery.batches import Rows, make_batch, take_targets
from slimgpt.recovery.hidden_states import hidden_state_error
from slimgpt.recovery.packing import IGNORED, Row, learned, num_learned

# --- hidden states ----------------------------------------------------------------------------------


def test_hidden_states_are_compared_by_position_and_layer() -> None:
    theirs = [torch.randn(2, 5, 8), 100 * torch.randn(2, 5, 8)]
    learned_BT = torch.zeros(2, 4, dtype=torch.bool)
    learned_BT[0, 1] = learned_BT[1, 3] = True
    ours = [layer.clone() for layer in theirs]
    ours[0][0, 1] *= 1.5
    ours[1][1, 3] *= 0.0
    ours[1][0, 0] += 7.0  # not learned
    expected = (math.log1p(0.25) + math.log1p(1.0)) / 2
    assert hidden_state_error(ours, theirs, learned_BT).item() == pytest.approx(expected, rel=1e-5)
    assert hidden_state_error(theirs, theirs, learned_BT).item() == 0.0


def test_a_hidden_state_that_exploded_does_not_steer_the_step() -> None:
    """Of two positions one is a hundred times too long, as where an attention sink has moved to."""
    theirs_BTD = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    ours_BTD = theirs_BTD * torch.tensor([100.0, 1.5, 1.0])[None, :, None]
    ours_BTD.requires_grad_()
    hidden_state_error([ours_BTD], [theirs_BTD], torch.ones(1, 2, dtype=torch.bool)).backward()
    pull_T = ours_BTD.grad.norm(dim=-1)[0] * theirs_BTD.norm(dim=-1)[0]
    assert 0 < pull_T[0] < 0.1 * pull_T[1]


# --- the store --------------------------------------------------------------------------------------


def some_rows(count: int) -> list[Row]:
    """Of different lengths, every third token of them not learned."""
    found = []
    for number in range(count):
        ids = tiny_llama.tokens(1, 5 + number % 7, seed=number)[0].tolist()
        labels = [IGNORED, *(IGNORED if place % 3 == 0 else token for place, token in enumerate(ids[1:]))]
        found.append(Row(ids, labels, list(range(len(ids)))))
    return found


class Counting:
    """Loads a teacher, and counts how often."""

    def __init__(self) -> None:
        self.loaded = 0

    def __call__(self) -> Any:
        self.loaded += 1
        return tiny_llama.make_model()


def filled(folder: Path, rows: list[Row], load: Any, batch_size: int = 4) -> targets.TargetStore:
    store = targets.open_store(folder, "teacher", rows, 8, 1.0)
    predict = partial(targets.predict, num_kept=8, temperature=1.0, batch_size=batch_size)
    targets.fill(store, rows, load, predict, Processes(), lambda tokens: None)
    return store


def test_what_is_stored_is_what_a_fresh_teacher_says(tmp_path: Path) -> None:
    rows = some_rows(targets.SHARD + 5)
    store = filled(tmp_path, rows, tiny_llama.make_model)
    with torch.inference_mode():
        for number in (0, 3, targets.SHARD - 1, targets.SHARD, len(rows) - 1):
            row = rows[number]
            logits_TV = tiny_llama.make_model()(input_ids=torch.tensor([row.ids])).logits[0, :-1]
            fresh = targets_of(logits_TV[None], learned(torch.tensor([row.labels])), 8, 1.0)
            torch.testing.assert_close(store[number].log_prob_PK, fresh.log_prob_PK, rtol=2e-3, atol=2e-3)
            assert (store[number].token_PK == fresh.token_PK).float().mean() > 0.98
            assert len(store[number].token_PK) == num_learned(row)


def test_a_batch_has_the_targets_of_its_learned_positions_in_order(tmp_path: Path) -> None:
    rows = some_rows(6)
    store = filled(tmp_path, rows, tiny_llama.make_model)
    data = Rows(rows, store)
    batch = make_batch([data[4], data[1]])
    found = take_targets(batch)
    assert found is not None
    assert sorted(batch) == ["input_ids", "labels", "position_ids"]
    for name in Targets._fields:
        expected = torch.cat([getattr(store[4], name), getattr(store[1], name)])
        assert torch.equal(getattr(found, name), expected)
    assert len(found.token_PK) == learned(batch["labels"]).sum()
    assert take_targets(make_batch([Rows(rows)[0]])) is None


def test_the_teacher_runs_once(tmp_path: Path) -> None:
    rows, load = some_rows(2 * targets.SHARD), Counting()
    filled(tmp_path, rows, load)
    filled(tmp_path, rows, load)
    assert load.loaded == 1


def test_files_that_are_missing_or_damaged_are_made_again(tmp_path: Path) -> None:
    rows, load = some_rows(5 * targets.SHARD), Counting()
    store = filled(tmp_path, rows, load)
    before = [Targets(*map(torch.clone, store[row])) for row in range(len(rows))]  # not mapped from the files
    files = sorted(tmp_path.rglob("*.safetensors"))
    untouched = files[4].stat().st_mtime_ns
    files[0].unlink()
    os.truncate(files[1], files[1].stat().st_size // 2)
    shutil.copy(files[1], files[2])
    files[3].with_suffix(".json").unlink()
    with pytest.warns(DamageWarning) as said:
        filled(tmp_path, rows, load)
    reasons = ["gone", "damaged, or from another run", "damaged, or from another run"]
    assert [str(one.message) for one in said] == [
        f"{file} is {reason}: the teacher reads its rows again."
        for file, reason in zip(files[:3], reasons, strict=True)
    ]
    assert load.loaded == 2
    assert files[4].stat().st_mtime_ns == untouched
    for row, targets_before in enumerate(before):
        assert all(map(torch.equal, targets_before, store[row]))


@pytest.mark.parametrize("changed", ["teacher", "rows", "labels", "kept", "temperature"])
def test_other_rows_or_another_teacher_have_a_store_of_their_own(tmp_path: Path, changed: str) -> None:
    rows, load = some_rows(4), Counting()
    filled(tmp_path, rows, load)
    if changed == "rows":
        rows = rows[::-1]
    if changed == "labels":
        rows = [rows[0]._replace(labels=[IGNORED, *rows[0].ids[1:]]), *rows[1:]]
    kept, temperature = 9 if changed == "kept" else 8, 2.0 if changed == "temperature" else 1.0
    store = targets.open_store(tmp_path, "other" if changed == "teacher" else "teacher", rows, kept, temperature)
    assert store.missing() == [0]


def test_the_disk_that_a_store_takes_is_foreseen(tmp_path: Path) -> None:
    rows = some_rows(2 * targets.SHARD)
    filled(tmp_path, rows, tiny_llama.make_model)
    taken = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert (
        targets.estimated_bytes(rows, 8) < taken < 20 * targets.estimated_bytes(rows, 8)
    )  # headers, for rows so short
