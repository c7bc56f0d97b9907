"""Who may import whom, who may name modules, write parameters and print: the narrow waist, held by a test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "slimgpt"


@dataclass(frozen=True)
class Room:
    """A package, or a file beside the packages.

    Attributes:
        floor: it may import rooms on lower floors, and nothing else of ours.
        outside: what it may import beside that and the standard library.
    """

    floor: int
    outside: str = ""


ROOMS = {
    "_version": Room(1),
    "errors": Room(1),
    "sites": Room(1, "torch"),
    "modeling_slimgpt": Room(1, "torch transformers huggingface_hub"),
    "modeling_by_path": Room(1, "torch transformers"),
    "detection": Room(2, "torch transformers"),
    "config": Room(2, "tyro.conf yaml"),
    "arch": Room(2, "torch transformers huggingface_hub"),
    "solvers": Room(2, "torch"),
    "machine": Room(2, "torch transformers safetensors filelock psutil packaging"),
    "serving": Room(2, "torch vllm"),
    "studies": Room(3, "pyarrow scipy yaml ray"),
    "model": Room(3, "torch transformers accelerate huggingface_hub safetensors gguf torchao"),
    "calibration": Room(4, "torch transformers safetensors datasets pyarrow zstandard"),
    "streaming": Room(4, "torch accelerate psutil"),
    "output": Room(4, "torch transformers safetensors"),
    "benchmarking": Room(5, "torch psutil"),
    "proof": Room(5, "torch transformers"),
    "allocation": Room(5, "torch yaml"),
    "evaluation": Room(5, "torch transformers lm_eval yaml"),
    "depth": Room(6, "torch safetensors"),
    "experts": Room(6, "torch"),
    "exports": Room(6, "torch transformers gguf numpy"),
    "sharing": Room(6, "huggingface_hub"),
    "sparsity": Room(6, "torch safetensors transformers"),
    "searching": Room(6, "torch accelerate safetensors numpy yaml"),
    "vocabulary": Room(6, "torch"),
    "pruning": Room(7, "torch safetensors"),
    "recovery": Room(7, "torch transformers peft safetensors"),
    "efforts": Room(8, "torch"),
    "reports": Room(8, "rich matplotlib jinja2 markupsafe yaml"),
    "cli": Room(9, "tyro rich"),
    "__init__": Room(9, "wrapt"),
    "__main__": Room(10),
}
KERNELS = {"sites", "solvers"}
MOST_LOOSE = 8
MOST_FLOORS = 10

MODULE_NAMES = re.compile(
    r"\b([qkvo]_proj|(gate|up|down|gate_up|qkv)_proj|self_attn|self_attention|c_attn|c_proj|c_fc|query_key_value|"
    r"dense_h_to_4h|dense_4h_to_h|fc[12]|mlp)\b"
)
PARAMETERS_IN = {
    "model.surgery",
    "model.embeddings_and_head",  # fills the empty skeleton around its layers
    "detection.hollow",  # fills a model that has no weights
    "modeling_by_path",  # makes empty ones
}
SAYS = re.compile(r"Comes in: .*Goes\s+out: ", re.DOTALL)
PRINTS_IN = {"cli", "reports"}

MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path for path in SRC.rglob("*.py")
}


def test_there_are_modules_to_look_at() -> None:
    assert {"pruning.driver", "solvers.obs", "arch", "reports.console"} <= set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_only_from_lower_floors_and_what_its_room_may(module: str) -> None:
    room = module.split(".")[0]
    assert room in ROOMS, f"{room} has no row in ROOMS: say on which floor it lies, and what it may import from outside"
    ours, outside = imports(MODULES[module])
    up = {name for name in ours - {room} if ROOMS[name].floor >= ROOMS[room].floor}
    assert not up, f"{module} on floor {ROOMS[room].floor} imports {sorted(up)}, which do not lie below it"
    allowed = ROOMS[room].outside.split()
    assert not {name for name in outside if not any(inside(name, package) for package in allowed)}, (
        f"{module} may import only {allowed} from outside the standard library"
    )


def test_no_file_imports_itself_in_a_circle() -> None:
    arrows = {name: files_imported(path) - {name} for name, path in MODULES.items()}
    assert not circles(arrows)


def test_the_house_stays_small_enough_to_know() -> None:
    loose = [name for name, path in MODULES.items() if path.parent == SRC]
    assert len(loose) <= MOST_LOOSE, f"loose modules at the top: {loose}"
    assert max(room.floor for room in ROOMS.values()) <= MOST_FLOORS
    gone = set(ROOMS) - {name.split(".")[0] for name in MODULES}
    assert not gone, f"rooms that are no more: {gone}"


def test_every_package_says_what_comes_in_and_what_goes_out() -> None:
    packages = [path for path in SRC.glob("*/__init__.py") if path.parent.name not in ("templates",)]
    silent = [path.parent.name for path in packages if not SAYS.search(ast.get_docstring(tree(path)) or "")]
    assert not silent


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.split(".")[0] in KERNELS))
def test_kernels_know_neither_transformers_nor_options(module: str) -> None:
    ours, outside = imports(MODULES[module])
    assert not {name for name in outside if inside(name, "transformers")}
    assert "config" not in ours


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_families_name_modules(module: str) -> None:
    if module.split(".")[0] in ("arch", "modeling_slimgpt"):
        return
    named = [text for text in string_constants(MODULES[module]) if MODULE_NAMES.search(text)]
    assert not named, f"{module} names modules of a model: {named}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_surgery_makes_parameters(module: str) -> None:
    calls = {call_name(node) for node in ast.walk(tree(MODULES[module])) if isinstance(node, ast.Call)}
    makes = bool(calls & {"nn.Parameter", "torch.nn.Parameter", "Parameter"})
    assert not makes or module in PARAMETERS_IN


def test_embeddings_and_head_make_parameters_in_one_place() -> None:
    makers = [
        function.name
        for function in ast.walk(tree(MODULES["model.embeddings_and_head"]))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and call_name(node) == "nn.Parameter"
    ]
    assert makers == ["_filled"]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_the_command_line_and_reports_print(module: str) -> None:
    if module.split(".")[0] in PRINTS_IN:
        return
    calls = {call_name(node) for node in ast.walk(tree(MODULES[module])) if isinstance(node, ast.Call)}
    assert not calls & {"print", "rich.print", "sys.stdout.write", "sys.stderr.write"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, slimgpt; print([m for m in ('torch', 'transformers', 'tyro') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_rules_can_be_broken(tmp_path: Path) -> None:
    """Negative control: the helpers see an import inside a function, an f-string and a nested package."""
    file = tmp_path / "bad.py"
    file.write_text(
        "def f(i):\n"
        "    from transformers.models import auto\n"
        "    from slimgpt import config, errors\n"
        "    import slimgpt.reports.console\n"
        "    return f'layers.{i}.q_proj'\n"
    )
    assert imports(file) == ({"config", "errors", "reports"}, {"transformers.models"})
    assert [text for text in string_constants(file) if MODULE_NAMES.search(text)] == [".q_proj"]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {"b", "c"}


# --- reading the source ----------------------------------------------------------------------------


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def files_imported(path: Path) -> set[str]:
    """Names in MODULES that a file imports; a package by its ``__init__`` only where that holds what is named."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and inside(node.module, "slimgpt"):
            base = node.module.removeprefix("slimgpt").removeprefix(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".removeprefix(".")
                found |= {whole if whole in MODULES else base} & set(MODULES)
    return found


def circles(arrows: Mapping[str, set[str]]) -> set[str]:
    """Files that reach themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [*arrows[start]]
        while todo:
            if (name := todo.pop()) not in seen:
                seen.add(name)
                todo += arrows[name]
        return seen

    return {name for name in arrows if name in reached(name)}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Top-level names of slimgpt, and dotted names from outside, that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            assert node.module is not None
            if node.module == "slimgpt":
                names |= {f"slimgpt.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    ours = {name.split(".")[1] for name in names if inside(name, "slimgpt")}
    outside = {name for name in names if name.split(".")[0] not in {*sys.stdlib_module_names, "slimgpt"}}
    return ours, outside


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def string_constants(path: Path) -> list[str]:
    """String literals that are no docstrings."""
    module = tree(path)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    loose = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | loose
    ]


def call_name(call: ast.Call) -> str:
    return ast.unparse(call.func)
