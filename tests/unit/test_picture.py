"""The README's picture is what its script draws from the measurements that lie beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "images" / "quality.svg"


def test_the_picture_is_up_to_date(tmp_path: Path) -> None:
    if f"Matplotlib v{matplotlib.__version__}," not in COMMITTED.read_text("utf-8"):
        pytest.skip("drawn by another version of matplotlib, which may place things otherwise")
    drawn = tmp_path / "quality.svg"
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "picture.py"), "--out", str(drawn)], check=True)
    assert drawn.read_bytes() == COMMITTED.read_bytes(), "run benchmarks/picture.py"
