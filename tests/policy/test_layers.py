"""Who may import whom, who may name modules, write parameters and print: the narrow waist, held by a test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "slimgpt"


@dataclass(frozen=True)
class Layer:
    """Modules (or packages), and what they may import beside the standard library and each other."""

    modules: str
    slimgpt: str = ""
    outside: str = ""


KERNELS = "linalg stats sites solvers masks"
STREAMING = "activations conveyor prefetch write_behind team memory"
MODEL_SIDE = (
    "arch atomic hold schema weights checkpoint biases outer resident stream surgery calibration journal runtime "
    "planning goal vocabulary predictions " + STREAMING
)
RUN = (
    "job search_text model_checks output outcome record card card_kinds measured driver ranking sparsify depth search "
    "loading inspection generation latency timing selftext quantisation"
)

LAYERS = [
    Layer("errors _version"),
    Layer("allocation heads", "errors"),
    Layer("config", "errors", "tyro.conf yaml"),
    Layer("goal", "errors allocation heads config"),
    Layer(KERNELS, "errors", "torch"),
    Layer("modeling_slimgpt", "", "torch transformers huggingface_hub"),
    Layer("arch", "errors sites modeling_slimgpt", "torch transformers huggingface_hub"),
    Layer("calibration", "errors runtime", "torch transformers safetensors datasets pyarrow zstandard"),
    Layer("runtime", "errors", "torch"),
    Layer("vocabulary", "", "torch"),
    Layer("predictions", "vocabulary", "torch"),
    Layer("atomic"),
    Layer("hold", "errors"),
    Layer("journal", "errors atomic hold", "torch safetensors"),
    Layer("schema", "errors"),
    Layer("weights", "errors", "torch safetensors"),
    Layer("naming", "weights", "torch"),
    Layer(
        "checkpoint",
        "errors sites arch modeling_slimgpt weights naming schema",
        "torch transformers accelerate huggingface_hub gguf",
    ),
    Layer("surgery", "sites arch", "torch"),
    Layer("biases", "weights checkpoint", "torch"),
    Layer("activations conveyor prefetch write_behind", "errors", "torch"),
    Layer("team", "errors", "torch"),
    Layer("memory", "errors sites arch checkpoint runtime stream", "torch psutil"),
    Layer("outer", "checkpoint", "torch"),
    Layer("resident", "checkpoint weights", "torch"),
    Layer(
        "stream",
        f"errors {KERNELS} checkpoint outer arch activations conveyor",
        "torch transformers accelerate",
    ),
    Layer("planning", "errors sites allocation arch checkpoint config goal", "torch yaml"),
    Layer(
        RUN,
        f"errors _version config allocation heads modeling_slimgpt {KERNELS} {MODEL_SIDE}",
        "torch transformers safetensors huggingface_hub accelerate numpy yaml psutil torchao",
    ),
    Layer("evaluation", f"errors config {MODEL_SIDE} {RUN}", "torch transformers lm_eval yaml"),
    Layer("export", f"errors config modeling_slimgpt {KERNELS} {MODEL_SIDE} {RUN}", "torch transformers gguf numpy"),
    Layer(
        "study",
        "errors _version atomic hold config",
        "pyarrow scipy yaml ray",
    ),
    Layer(
        "report",
        f"study errors _version config evaluation allocation {MODEL_SIDE} {RUN}",
        "rich matplotlib jinja2 markupsafe yaml",
    ),
    Layer("recovery", f"errors config masks {MODEL_SIDE} {RUN}", "torch transformers peft safetensors"),
    Layer("bench", f"errors config {KERNELS} {MODEL_SIDE} {RUN}", "torch"),
]
EVERYTHING = ["cli", "__init__", "__main__"]

MODULE_NAMES = re.compile(
    r"\b([qkvo]_proj|(gate|up|down|gate_up|qkv)_proj|self_attn|self_attention|c_attn|c_proj|c_fc|query_key_value|"
    r"dense_h_to_4h|dense_4h_to_h|fc[12]|mlp)\b"
)
PARAMETERS_IN = {"surgery", "outer"}  # outer fills the empty skeleton around its layers, nothing else
PRINTS_IN = {"cli", "report"}

MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path for path in SRC.rglob("*.py")
}


def test_there_are_modules_to_look_at() -> None:
    assert {"driver", "solvers.obs", "arch", "report.console"} <= set(MODULES)


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.split(".")[0] not in EVERYTHING))
def test_imports_only_what_its_layer_may(module: str) -> None:
    layer = layer_of(module)
    ours, outside = imports(MODULES[module])
    allowed = set(layer.slimgpt.split()) | set(layer.modules.split())
    assert not {name for name in ours if name not in allowed}, f"{module} may import only {sorted(allowed)}"
    allowed_outside = layer.outside.split()
    assert not {name for name in outside if not any(inside(name, package) for package in allowed_outside)}, (
        f"{module} may import only {allowed_outside} from outside the standard library"
    )


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.split(".")[0] in KERNELS.split()))
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


def test_outer_makes_parameters_in_one_place() -> None:
    makers = [
        function.name
        for function in ast.walk(tree(MODULES["outer"]))
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
        "    import slimgpt.report.console\n"
        "    return f'layers.{i}.q_proj'\n"
    )
    assert imports(file) == ({"config", "errors", "report"}, {"transformers.models"})
    assert [text for text in string_constants(file) if MODULE_NAMES.search(text)] == [".q_proj"]


# --- reading the source ----------------------------------------------------------------------------


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer_of(module: str) -> Layer:
    top = module.split(".")[0]
    found = [layer for layer in LAYERS if top in layer.modules.split()]
    assert found, f"{module} has no place in the table LAYERS: say what it may import"
    return found[0]


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
