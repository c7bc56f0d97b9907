"""Damaged between stop and resume, a recovery ends with the bytes of one that nobody disturbed, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from damage import World, check, files_below, in_turn, interrupted_at, kind_of, one_of_each_kind
from recovery_shop import Shop, options

from slimgpt.recovery import recover, trainer

STOPS_EARLY = {"full": True, "max_steps": 30, "eval_every": 1, "patience": 2, "learning_rate": 1.2e-2, "batch_size": 2}


def world_of(shop: Shop, folder: Path, given: dict[str, Any]) -> World:
    def run(resume: bool) -> None:
        recover(options(shop, folder / "out", **{"teacher": str(shop.dense), **given, "resume": resume}))

    return World(folder, run)


@pytest.mark.nightly
def test_whatever_is_damaged_the_output_is_the_same(shop: Shop, tmp_path: Path) -> None:
    """The best checkpoint is not the last one, and one is as needed as the other."""
    world = world_of(shop, tmp_path / "world", STOPS_EARLY)
    expected = world.undisturbed()
    entry = expected["out/slimgpt.json"]["recovery"][-1]
    assert entry["best_step"] < entry["steps"] < 30
    aside, others = tmp_path / "aside", tmp_path / "others"
    with interrupted_at(trainer._Watcher, "on_step_end", call=entry["best_step"] + 2):
        assert world.stopped(aside)
    with interrupted_at(trainer._Watcher, "on_step_end", call=entry["best_step"] + 2):
        assert world_of(shop, world.folder, {**STOPS_EARLY, "seed": 1, "patience": 9}).stopped(others)
    files = files_below(aside)
    kinds = {kind_of(file) for file in files}
    assert {f"out.partial/teacher/#/targets-#.{suffix}" for suffix in ("json", "safetensors")} <= kinds
    of_trainer = (
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "seal.json",
    )
    assert {f"out.partial/training/checkpoint-#/{name}" for name in of_trainer} <= kinds
    best = Path(f"out.partial/training/checkpoint-{entry['best_step']}")
    chosen = one_of_each_kind(files)
    assert best not in {file.parent for file in chosen}
    chosen += [best / name for name in ("model.safetensors", "training_args.bin", "seal.json")]
    outcomes = check(world, aside, others, expected, in_turn(chosen, each=1), {"out.partial/journal.json"})
    said = "\n".join(line for outcome in outcomes for line in outcome.said)
    assert ": the teacher reads its rows again." in said
    assert ": training goes on from the checkpoint before it, or starts anew." in said


def test_a_moved_working_folder_is_trained_anew(shop: Shop, tmp_path: Path) -> None:
    """Trainer's state names the best checkpoint by its place: without it, it would end with the last one."""
    world = world_of(shop, tmp_path / "world", {"max_steps": 4})
    expected = world.undisturbed()
    with interrupted_at(trainer._Watcher, "on_step_end", call=3):
        assert world.stopped(tmp_path / "aside")
    moved, untouched = world_of(shop, tmp_path / "moved", {"max_steps": 4}), Path("out.partial/journal.json")
    outcome = moved.goes_on(tmp_path / "aside", untouched, (tmp_path / "aside" / untouched).read_bytes())
    assert outcome.files is not None
    assert outcome.files["out/model.safetensors"] == expected["out/model.safetensors"]
    assert "checkpoint-2/seal.json is damaged, or from another run: training goes on from" in outcome.said[0]
