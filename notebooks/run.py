"""Run the notebooks where they lie and keep what they print: ``make notebooks``.

    python notebooks/run.py [NAME...]

Each runs in a scratch folder, so that nothing but the notebook changes here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
TIMEOUT_S = 3600


def run(notebook: Path, folder: Path, parameters: Mapping[str, Any] | None = None) -> Any:
    """The notebook after a run in ``folder``, with other values where ``parameters`` names some.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    book = nbformat.read(notebook, as_version=4)
    if parameters is not None:
        first = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
        first.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    return NotebookClient(book, timeout=TIMEOUT_S, resources={"metadata": {"path": str(folder)}}).execute()


def main(names: list[str]) -> None:
    """Run those that are named, or all."""
    for notebook in sorted(HERE.glob("*.ipynb")):
        if names and notebook.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            book = run(notebook, Path(folder))
        nbformat.write(printed_alone(book), notebook)


def printed_alone(book: Any) -> Any:
    """The notebook without what is of one run: times of day, and what libraries say of the machine on stderr."""
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return book


if __name__ == "__main__":
    main(sys.argv[1:])
