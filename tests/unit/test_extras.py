"""What pip installs without any extra prunes, measures and exports; what needs more says so in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_llama

OPTIONAL = "peft jinja2 matplotlib lm_eval scipy torchao ray onnx onnxruntime onnxscript llama_cpp vllm mkdocs"
"""Modules that extras bring, but for pyarrow, which comes with datasets."""

WITHOUT = """
import sys
for name in sys.argv[1].split():
    sys.modules[name] = None  # importing it fails
from slimgpt import cli
sys.exit(cli.main(sys.argv[2:]))
"""
CALIBRATION = ["--calibration", "text.txt", "--samples", "4", "--seqlen", "32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extras")
    (folder / "text.txt").write_text("\n".join(f"Line {number} of a text." for number in range(200)))
    tiny_llama.save_model(folder / "model")
    return folder


def without_extras(place: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, OPTIONAL, *arguments], cwd=place, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def test_a_model_is_pruned(place: Path) -> None:
    status, said = without_extras(place, "prune", "model", "smaller", "--ratio", "0.2", *CALIBRATION)
    assert status == 0, said
    assert (place / "smaller" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["recover", "smaller", "better", "--data", "text.txt"], "training needs peft: pip install 'slimgpt[recover]'"),
        (["prune", "model", "high", "--ratio", "0.2", "--effort", "high", *CALIBRATION], "slimgpt[recover]"),
        (["report", "smaller"], "slimgpt[report]"),
        (["study", "study.yaml", "out"], "slimgpt[study]"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_needs_more_says_so(place: Path, arguments: list[str], cure: str) -> None:
    status, said = without_extras(place, *arguments)
    assert status == 2 and cure in said and said.strip().count("\n") == 0, said
