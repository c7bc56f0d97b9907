"""The notebooks run from first cell to last, here on a tiny model; as they lie, they show what they printed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_llama

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install nbformat nbclient ipykernel")
pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient ipykernel")

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SIZES: dict[str, dict[str, Any]] = {
    "first_prune": {"RATIO": 0.2, "SAMPLES": 4, "SEQLEN": 32, "EVAL_TOKENS": 256},
    "to_gguf": {"TARGET": "120KB", "SAMPLES": 4, "SEQLEN": 32},
    "a_study": {"SAMPLES": 4, "SEQLEN": 32, "EVAL_TOKENS": 256},
}


def runner() -> Any:
    spec = importlib.util.spec_from_file_location("run_notebooks", FOLDER / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def printed(book: Any) -> str:
    return "".join(output.get("text", "") for cell in code(book) for output in cell.outputs)


def test_there_is_one_of_each() -> None:
    assert {notebook.stem for notebook in NOTEBOOKS} == set(SIZES)


SLOW = {"a_study": pytest.mark.nightly}  # a process for each command of each cell


@pytest.mark.parametrize(
    "notebook", [pytest.param(book, id=book.stem, marks=SLOW.get(book.stem, ())) for book in NOTEBOOKS]
)
def test_it_runs(notebook: Path, tmp_path: Path) -> None:
    model = tiny_llama.save_model(tmp_path / "model")
    book = runner().run(notebook, tmp_path, {"MODEL": str(model), **SIZES[notebook.stem]})
    assert "parameters" in printed(book) or "obs" in printed(book)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[notebook.stem for notebook in NOTEBOOKS])
def test_it_shows_what_it_printed(notebook: Path) -> None:
    """Run from the top, without errors, and without names of the machine that it ran on."""
    book = nbformat.read(notebook, as_version=4)
    assert [cell.execution_count for cell in code(book)] == list(range(1, len(code(book)) + 1))
    assert all(output.output_type != "error" for cell in code(book) for output in cell.outputs)
    assert not re.search(r"(^|[\s\"'(])/[\w.-]+/", printed(book))  # paths of a machine
    assert printed(book).strip()
