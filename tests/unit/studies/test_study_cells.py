"""The grid written out: every comparison has its dense control, every cell its own name, every name its commands."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from study_shop import RECIPE, write_recipe

from slimgpt.studies import chain, recipe
from slimgpt.studies.cells import Cell, expand, identity

BLOCK = RECIPE["grid"][0]


def read(folder: Path, **sections: Any) -> recipe.Recipe:
    return recipe.read(str(write_recipe(folder, **sections)))


def test_a_grid_is_the_product_of_its_lists_and_the_controls(tmp_path: Path) -> None:
    found = expand(read(tmp_path, grid=[{**BLOCK, "ratios": [0.2, 0.4], "tuning": ["none", "full"]}]))
    pruned = [cell for cell in found.values() if cell.method != "dense"]
    dense = [cell for cell in found.values() if cell.method == "dense"]
    assert len(pruned) == 2 * 2 * 2 * 2
    assert set(dense) == {Cell("tiny"), Cell("tiny", tuning="full"), Cell("tiny", tuning="full", seed=1)}
    assert all(cell.control() in dense for cell in pruned)


def test_cells_that_two_blocks_share_are_one(tmp_path: Path) -> None:
    once = expand(read(tmp_path, grid=[BLOCK]))
    assert list(expand(read(tmp_path, grid=[BLOCK, BLOCK]))) == list(once)


def test_quantised_cells_have_quantised_controls(tmp_path: Path) -> None:
    found = expand(read(tmp_path, grid=[{**BLOCK, "quantisation": ["int8"]}])).values()
    assert Cell("tiny", quantisation="int8") in found and Cell("tiny") in found


def test_identity_changes_with_what_figures_depend_on_and_with_nothing_else(tmp_path: Path) -> None:
    plain = read(tmp_path)
    cell = Cell("tiny", "wanda", "structured", 0.2)
    same = read(tmp_path, grid=[{**BLOCK, "ratios": [0.7]}], tuning={"full": {"full": True, "max_steps": 99}})
    assert identity(cell, plain) == identity(cell, same)
    others = [
        identity(replace(cell, seed=1), plain),
        identity(replace(cell, tuning="full"), plain),
        identity(cell, read(tmp_path, calibration={"samples": 5, "seqlen": 32})),
        identity(cell, read(tmp_path, evaluation={"max_tokens": 99})),
        identity(cell, read(tmp_path, models=[{**RECIPE["models"][0], "path": "b-model"}])),
    ]
    assert len({identity(cell, plain), *others}) == 6
    assert identity(cell, plain).startswith("tiny-wanda-structured-20-seed-0-")


def test_dense_cells_do_not_hang_on_calibration(tmp_path: Path) -> None:
    other = read(tmp_path, calibration={"samples": 5, "seqlen": 32})
    assert identity(Cell("tiny"), read(tmp_path)) == identity(Cell("tiny"), other)


def commands(folder: Path, cell: Cell, **sections: Any) -> list[str]:
    return [" ".join(step.arguments()) for step in chain.steps(cell, read(folder, **sections), Path("C"))]


def test_a_structured_cell_prunes_tunes_and_measures(tmp_path: Path) -> None:
    found = commands(tmp_path, Cell("tiny", "obs", "structured", 0.25, allocation="uniform", tuning="full", seed=3))
    assert found == [
        "prune a-model C/pruned --solver obs --allocation uniform --ratio 0.25 --calibration c4 --samples 4 "
        "--seqlen 32 --bos auto --seed 3",
        "recover C/pruned C/tuned --data c4 --keep last --bos auto --full --max-steps 3 --seed 3",
        "eval C/tuned --text held-out.txt --seqlen 128 --bos auto --max-tokens 4096 --json C/eval.json",
        "eval C/tuned --text seen.txt --seqlen 128 --bos auto --max-tokens 4096 --json C/seen.json",
    ]


def test_sparse_cells_keep_their_zeros_while_they_are_tuned(tmp_path: Path) -> None:
    found = commands(tmp_path, Cell("tiny", "sparsegpt", "2:4", 0.5, tuning="full"))
    assert found[0].startswith("sparsify a-model C/pruned --method sparsegpt --pattern 2:4 --calibration c4")
    assert "--keep-zeros" in found[1]
    plain = commands(tmp_path, Cell("tiny", "obs", "structured", 0.25, tuning="full"))
    assert "--keep-zeros" not in plain[1]


def test_movement_prunes_while_it_tunes(tmp_path: Path) -> None:
    found = commands(tmp_path, Cell("tiny", "movement", "unstructured", 0.5, tuning="full"))
    assert found[0] == (
        "recover a-model C/tuned --data c4 --keep last --bos auto --full --max-steps 3 --movement 0.5 --seed 0"
    )
    assert found[1].startswith("eval C/tuned ")


def test_one_word_says_for_all_commands_whether_texts_begin_with_a_token(tmp_path: Path) -> None:
    cell = Cell("tiny", "obs", "structured", 0.25, tuning="full")
    assert all("--bos never" in words for words in commands(tmp_path, cell, bos="never"))
    assert identity(cell, read(tmp_path, bos="never")) != identity(cell, read(tmp_path))


def test_schedules_and_allocations_of_sparse_cells(tmp_path: Path) -> None:
    cell = Cell("tiny", "magnitude", "unstructured", 0.5, schedule="gradual", allocation="global")
    assert (
        "--method magnitude --scope global --sparsity 0.5 --schedule gradual --rounds 4" in commands(tmp_path, cell)[0]
    )
    cell = Cell("tiny", "wanda", "unstructured", 0.5, allocation="owl")
    assert "--method wanda --layer-ratios owl --sparsity 0.5 --calibration" in commands(tmp_path, cell)[0]


def test_depth_and_the_dense_model(tmp_path: Path) -> None:
    found = commands(tmp_path, Cell("tiny", "angular", "depth", 0.2))
    assert found[0].startswith("drop a-model C/pruned --method angular --ratio 0.2")
    dense = commands(tmp_path, Cell("tiny"))
    assert [words.split()[:2] for words in dense] == [["eval", "a-model"], ["eval", "a-model"], ["bench", "a-model"]]


def test_quantised_cells(tmp_path: Path) -> None:
    in_memory = commands(tmp_path, Cell("tiny", "obs", "structured", 0.2, quantisation="int4"))
    assert all("--quantise int4" in words for words in in_memory[1:])
    gguf = commands(tmp_path, Cell("tiny", "angular", "depth", 0.2, quantisation="gguf-q8_0"))
    assert gguf[1] == "export C/pruned C/model.gguf --format gguf --outtype q8_0"
    assert len(gguf) == 2


def test_corruption_compares_with_the_dense_model(tmp_path: Path) -> None:
    evaluation = {"corruption": True, "bench": False, "suite": True, "limit": 9}
    words = commands(tmp_path, Cell("tiny", "obs", "structured", 0.2), evaluation=evaluation)
    assert words[1].endswith("--suite slimgpt --limit 9 --against a-model --compare-json C/compare.json")
    assert not any("--against" in one for one in commands(tmp_path, Cell("tiny"), evaluation=evaluation))


def test_local_paths_hold_in_any_folder(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words")
    models = [{"name": "tiny", "path": "owner/model", "text": str(text)}]
    assert f"--text {text.resolve()}" in commands(tmp_path, Cell("tiny"), models=models)[0]


def test_planning_a_study_loads_no_model_library() -> None:
    program = "import sys, slimgpt.studies; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_speed_is_measured_once_for_a_shape(tmp_path: Path) -> None:
    def timed(cell: Cell) -> list[str]:
        return [words for words in commands(tmp_path, cell) if words.startswith("bench")]

    cell = Cell("tiny", "obs", "structured", 0.2)
    assert timed(cell) == ["bench a-model C/pruned --prompt-tokens 128 --new-tokens 32 --repeats 7 --json C/bench.json"]
    assert not timed(replace(cell, seed=1)) and not timed(replace(cell, tuning="full"))
