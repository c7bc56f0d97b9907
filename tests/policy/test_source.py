"""What no source file may hold: unsafe loading, paths of one machine, and files or functions too long to read."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

MAX_FILE_LINES = 300
MAX_TRAVELLING_LINES = 400  # modeling_slimgpt.py lies alone in every checkpoint: what it needs is in it
MAX_FUNCTION_LINES = 60

MACHINE_PATH = re.compile(r"""(?:(?<=["'`=(\s])|^)/(?:work|home|root|Users|mnt|tmp/[a-z])/?[\w.-]""", re.MULTILINE)
SLASH = "/"  # keeps this file's own examples out of its own net
BINARY = {".gguf", ".safetensors", ".png", ".jpg", ".gz", ".parquet", ".pt"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_reads_no_pickles_and_runs_no_remote_code(path: Path) -> None:
    module = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(module):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "dill", "cloudpickle", "joblib"} & {name.split(".")[0] for name in names}
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("torch.load", "eval", "exec", "yaml.load")
            for keyword in node.keywords:
                assert keyword.arg != "trust_remote_code" or ast.unparse(keyword.value) == "False"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_is_short_enough_to_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    most = MAX_TRAVELLING_LINES if path.name == "modeling_slimgpt.py" else MAX_FILE_LINES
    assert len(text.splitlines()) <= most
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= MAX_FUNCTION_LINES, node.name


def test_no_tracked_file_names_a_place_on_one_machine() -> None:
    found = {relative(path): hits for path in tracked() if (hits := MACHINE_PATH.findall(path.read_text("utf-8")))}
    assert not found


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout, so nothing is tracked")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix not in BINARY]


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        (f'open("{SLASH}work/main/data")', True),
        (f"cd {SLASH}home/ann/slimgpt", True),
        (f"path = '{SLASH}root/.cache'", True),
        (f"see ..{SLASH}shared{SLASH}work{SLASH}thing", False),
        ("https://example.org/home/page", False),
    ],
)
def test_the_path_rule_can_be_broken(text: str, hit: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) == hit
