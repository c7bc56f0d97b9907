"""Pruned models in vLLM compute what they do in transformers: ``make test-vllm``, in an environment of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FOLDER = os.environ.get("SLIMGPT_VLLM_MODELS")
if FOLDER is None:
    pytest.skip("make test-vllm runs these in an environment of their own", allow_module_level=True)
pytest.importorskip("vllm")

MODELS = Path(FOLDER) / "models.json"
HERE = Path(__file__).parent
START_S = 1800  # of a server on a busy machine
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}
WAYS = {"plugin": {}, "remote-code": {"VLLM_PLUGINS": ""}}
"""slimgpt installed, or unknown to vLLM: then the folder's own modelling file is needed, and trusted."""

OURS = "slimgpt.serving.vllm_models.Slim"
BACK_END = "vllm.model_executor.models.transformers."
STOCK = ["dense", "uniform", "padded", "without-blocks-padded"]
STOCK += ["qwen2-uniform", "qwen3-uniform", "phi3-uniform", "mixtral-uniform"]
PER_LAYER = ["per-layer", "queries"]
NATIVE = ["llama", "llama-multi-head", "mistral", "qwen2", "qwen3", "phi3"]
NATIVE_ONLY = ["qwen3_moe", "mixtral", "without-blocks"]
OTHERS = ["gemma", "gemma2", "gemma3_text", "opt", "gpt_neox"]
OWN = PER_LAYER + NATIVE + NATIVE_ONLY
EQUAL = {"plugin": STOCK + OWN + OTHERS, "remote-code": PER_LAYER + NATIVE + OTHERS}
REFUSED = {
    "qwen3_moe": "moe_intermediate_size",  # the back end wants experts of one width in all layers
    "qwen2_moe": "moe_intermediate_size",
    "mixtral": "intermediate_size",
    "without-blocks": "Layer 0 does not dispatch through the Transformers attention interface",
}
SERVED = [("plugin", name) for name in ("uniform", "padded", *PER_LAYER)] + [("remote-code", "per-layer")]

each_equal = pytest.mark.parametrize(("way", "name"), [(way, name) for way in EQUAL for name in EQUAL[way]])
each_refused = pytest.mark.parametrize(
    ("way", "name"), [*(("remote-code", n) for n in REFUSED), ("plugin", "qwen2_moe")]
)
each_served = pytest.mark.parametrize(("way", "name"), SERVED)


@pytest.fixture(scope="session")
def models() -> dict[str, Any]:
    return {model["name"]: model for model in json.loads(MODELS.read_text())}


@pytest.fixture(scope="session")
def cache() -> Path:
    """What vLLM has learnt about classes of models, which costs it an import of itself for each: kept with them."""
    folder = MODELS.absolute().parent / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def found(request: pytest.FixtureRequest, cache: Path) -> dict[tuple[str, str], Any]:
    """What vLLM's ``LLM`` made of the models that the selected tests name, each way in one process: importing vLLM
    costs more than the models.
    """
    named = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    names = {way: list(dict.fromkeys(one["name"] for one in named if one["way"] == way)) for way in WAYS}
    return {(way, result["name"]): result for way in WAYS for result in in_process(way, names[way], cache)}


def in_process(way: str, names: list[str], cache: Path) -> list[dict[str, Any]]:
    command = [sys.executable, HERE / "greedy.py", MODELS, way, *names]
    done = subprocess.run(command, env=environment(way, cache), stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]


def environment(way: str, cache: Path) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, **WAYS[way], "VLLM_CACHE_ROOT": str(cache)}


@each_equal
def test_greedy_tokens_are_those_of_transformers(models: Any, found: Any, way: str, name: str) -> None:
    assert found[way, name]["tokens"] == models[name]["tokens"]


def test_with_the_plugin_vllm_s_own_classes_run_what_they_can(found: Any) -> None:
    own = {name: of["class"] for (way, name), of in found.items() if way == "plugin" and name in OWN}
    assert own and all(made.startswith(OURS) for made in own.values())


def test_the_transformers_back_end_runs_the_rest(found: Any) -> None:
    rest = [of for (way, name), of in found.items() if name not in STOCK and (way == "remote-code" or name in OTHERS)]
    assert all(of["class"].startswith(BACK_END) for of in rest if "class" in of)


@each_refused
def test_what_the_back_end_cannot_run_it_refuses(found: Any, way: str, name: str) -> None:
    assert REFUSED[name] in found[way, name]["error"]


@each_served
def test_served_tokens_are_those_of_transformers(models: Any, cache: Path, way: str, name: str) -> None:
    """By ``vllm serve`` and its HTTP interface, all prompts in one request."""
    model = models[name]
    count = len(model["tokens"][0])
    with server(model["folder"], way, cache) as address:
        asked = {"prompt": model["prompts"], "temperature": 0, "max_tokens": count, "min_tokens": count}
        answer = post(f"{address}/v1/completions", {"model": "slim", "return_token_ids": True, **asked})
    assert [choice["token_ids"] for choice in answer["choices"]] == model["tokens"]


@contextmanager
def server(folder: str, way: str, cache: Path) -> Iterator[str]:
    """The address of a server that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("vllm"), "serve", folder, "--host", "127.0.0.1", "--port", str(port)]
    options = ["--served-model-name", "slim", "--dtype", "float32", "--enforce-eager", "--max-model-len", "64"]
    options += ["--max-num-seqs", "16", "--num-gpu-blocks-override", "128"]
    trust = ["--trust-remote-code"] if way == "remote-code" else []
    log = cache / "log"
    with log.open("w") as out:
        process = subprocess.Popen([*command, *options, *trust], env=environment(way, cache), stdout=out, stderr=out)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def wait_until_ready(process: Any, address: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"no server within {START_S} s: {log.read_text()[-4000:]}")


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=START_S) as answer:
        return json.load(answer)
