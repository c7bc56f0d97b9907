"""What a system without ``fcntl`` and ``resource`` has to do: Windows has neither, and is not at hand in tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_llama

PROGRAM = """
import sys
from pathlib import Path
import psutil  # its own part for Linux needs what is not to be had from here on
for name in ("fcntl", "resource"):
    sys.modules[name] = None  # importing it is an ImportError
from slimgpt import cli
from slimgpt.errors import OutputError
from slimgpt.machine import host
from slimgpt.machine.folder_lock import FolderLock, partial_folder

model, text, folder = map(Path, sys.argv[1:])
assert host.resource is None and host.peak_host_bytes() > 2**20

def run(status, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == status, arguments

options = ["--ratio=0.2", "--calibration=builtin", "--samples=4", "--seqlen=32", "--round-to=1", "--device=cpu"]
run(0, "inspect", model, "--json", folder / "inspect.json")
run(0, "eval", model, "--text", text, "--seqlen=32", "--max-tokens=64")
with FolderLock(partial_folder(folder / "out")):
    run(2, "prune", model, folder / "out", *options)
run(0, "prune", model, folder / "out", *options)
run(2, "prune", model, folder / "out", *options)
run(0, "prune", model, folder / "out", *options, "--force")
run(0, "inspect", folder / "out")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("model") / "model")


def test_inspect_eval_and_prune_without_fcntl_and_resource(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some text to read " * 40)
    (tmp_path / "made").mkdir()
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(model), str(text), str(tmp_path / "made")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "another slimgpt run is at work" in done.stderr
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["inspect.json", "out"]
