"""What ``from slimgpt import …`` gives: every command as a function, each with its options, lazily."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tiny_llama
import yaml

import slimgpt
from slimgpt.cli.commands import COMMANDS

FUNCTION_OF = {"eval": "evaluate", "inspect": "inspect_model"}  # eval is a builtin, inspect a module
FOR_THE_SCREEN = {"families", "compare", "chat", "doctor"}
WITHOUT_OPTIONS = {"generate", "inspect_model"}  # plain arguments are shorter to write
PACKAGE = Path(slimgpt.__file__).parent


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama.save_model(tmp_path / "model")


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - FOR_THE_SCREEN))
def test_every_command_is_a_function_that_takes_its_options(command: str) -> None:
    name = FUNCTION_OF.get(command, command)
    function = getattr(slimgpt, name)
    assert name in slimgpt.__all__ and inspect.isfunction(function) and "Raises:" in (function.__doc__ or "")
    if name not in WITHOUT_OPTIONS:
        config = get_type_hints(function)["config"]
        assert config is COMMANDS[command].config is getattr(slimgpt, config.__name__)


@pytest.mark.parametrize("name", [name for name in slimgpt.__all__ if name.endswith("Result")])
def test_results_are_frozen_and_say_what_they_hold(name: str) -> None:
    result = getattr(slimgpt, name)
    assert dataclasses.is_dataclass(result) and result.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert result.__doc__ and not result.__doc__.startswith(f"{name}(")  # what dataclasses write where nobody did


@pytest.mark.parametrize("name", [name for name in slimgpt.__all__ if name.endswith("Observer")])
def test_observers_do_nothing_themselves(name: str) -> None:
    observer = getattr(slimgpt, name)()
    for method, function in inspect.getmembers(type(observer), inspect.isfunction):
        given: list[Any] = [None] * (len(inspect.signature(function).parameters) - 1)
        assert getattr(observer, method)(*given) is None and function.__doc__


def test_no_name_is_hidden_by_a_room() -> None:
    """``import slimgpt.x.y`` puts the package x in the place of a function x."""
    assert not set(slimgpt.__all__) & {path.name for path in PACKAGE.iterdir() if path.is_dir()}


def test_type_checkers_see_what_python_gives() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"__version__"} == set(slimgpt.__all__) == set(dir(slimgpt))


def test_names_load_what_they_need_when_used() -> None:
    program = (
        "import sys, slimgpt\n"
        "slimgpt.PruneConfig, slimgpt.SlimGPTError\n"
        "assert 'torch' not in sys.modules\n"
        "from slimgpt import bench, drop, evaluate, export, prune, recover, search, sparsify\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from slimgpt import report, study\n"
        "import slimgpt.studies.run, slimgpt.reports.page\n"
        "assert callable(slimgpt.report) and callable(slimgpt.study)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_unknown_names_are_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        slimgpt.prunes  # noqa: B018


def test_functions_write_what_their_options_name(model: Path, tmp_path: Path) -> None:
    """As the command line does: files, and measurements kept with a run."""
    out, cache = tmp_path / "out", tmp_path / "search"
    slimgpt.prune(tiny_llama.prune_config(model, out, allocation="searched", search_cache=str(cache)))
    ratios = tmp_path / "ratios.yaml"
    found = slimgpt.search(slimgpt.SearchConfig(str(cache), ratio=0.3, out=str(ratios)))
    assert found.asked and set(yaml.safe_load(ratios.read_text())) == {"attention", "ffn"}
    (tmp_path / "text.txt").write_text("A word, and another. " * 50)
    scored = slimgpt.evaluate(
        slimgpt.EvalConfig(
            str(out), text=str(tmp_path / "text.txt"), seqlen=(16,), record=True, json=str(tmp_path / "eval.json")
        )
    )
    assert json.loads((tmp_path / "eval.json").read_text()) == scored.found
    assert (out / "measured" / "eval.json").is_file()
    measured = slimgpt.bench(
        slimgpt.BenchConfig((str(out),), 4, 2, repeats=1, record=True, json=str(tmp_path / "bench.json"))
    )
    assert json.loads((tmp_path / "bench.json").read_text()) == measured
    assert (out / "measured" / "bench.json").is_file()
