"""What people install: built, checked as the index checks it, and used away from the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tiny_llama

for tool in ("build", "twine"):
    pytest.importorskip(tool, reason=f"needs {tool}: pip install {tool}")

ROOT = Path(__file__).parents[2]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "src")


def run(*command: object, folder: Path, **environment: str) -> str:
    """What a command prints, run where the sources are not."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheel and the source distribution, made from a copy."""
    place = tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
        copy(ROOT / part, place / part)
    for stale in place.rglob("*.egg-info"):
        shutil.rmtree(stale)
    run("-m", "build", "--no-isolation", "--outdir", place / "dist", ".", folder=place)
    return sorted((place / "dist").iterdir())


def test_the_index_takes_them(built: list[Path], tmp_path: Path) -> None:
    assert [file.suffix for file in built] == [".whl", ".gz"]
    run("-m", "twine", "check", "--strict", *built, folder=tmp_path)


def test_everything_is_in_the_wheel(built: list[Path]) -> None:
    package = ROOT / "src" / "slimgpt"
    wanted = {
        f"slimgpt/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert wanted <= set(zipfile.ZipFile(built[0]).namelist())


def test_it_works_away_from_its_sources(built: list[Path], tmp_path: Path) -> None:
    """With what it needs beside it, and nothing of this checkout."""
    home = tmp_path / "installed"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", home, built[0], folder=tmp_path)
    tiny_llama.save_model(tmp_path / "model")
    out = tmp_path / "out"
    words = [
        "prune",
        tmp_path / "model",
        out,
        "--calibration",
        "builtin",
        "--samples",
        "4",
        "--seqlen",
        "16",
        "--report",
    ]
    run("-m", "slimgpt", *words, folder=tmp_path, PYTHONPATH=str(home))
    where = run("-c", "import slimgpt; print(slimgpt.__file__)", folder=tmp_path, PYTHONPATH=str(home))
    assert where.startswith(str(home)) and (out / "report.html").is_file() and (out / "slimgpt.json").is_file()
