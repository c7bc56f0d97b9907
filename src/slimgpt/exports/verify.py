"""Loads an export with the tool it is for and compares what it computes with the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from slimgpt.config import ExportConfig
from slimgpt.errors import OutputError
from slimgpt.exports.onnx import FILE
from slimgpt.exports.tools import need
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.loading import load_model
from slimgpt.proof.agreement import agreement
from slimgpt.proof.opening import TEXT

TOOLS: Mapping[str, tuple[str, str]] = {"gguf": ("llama_cpp", "llama-cpp"), "onnx": ("onnxruntime", "onnx")}
"""The package that runs a format, and the extra of ours that brings it. What transformers opens is proved without."""

EXACT = 1e-3
TOLERANCES: Mapping[str, float] = {"f32": 0.02, "f16": 0.02, "bf16": 0.05, "q8_0": 0.1, "q4_0": 0.5, "q4_1": 0.5}
"""Largest difference of a logit, as a fraction of the range of logits, that rounding explains: a wrong layout of any
tensor gives far more."""


def require_tool(config: ExportConfig) -> None:
    """Raise ConfigError where the export is to be verified and the tool for it is not installed."""
    if config.verify and config.format in TOOLS:
        need(*TOOLS[config.format])


def verify(checkpoint: Checkpoint, path: Path, config: ExportConfig) -> tuple[str, ...]:
    """Run the export and its source on the same tokens; what came of it.

    Raises:
        OutputError: they differ by more than rounding explains.
    """
    model, tokenizer = load_model(checkpoint.source, "cpu")
    ids = tokenizer(TEXT)["input_ids"][: checkpoint.config.max_position_embeddings]
    with torch.inference_mode():
        source_TV = model(torch.tensor([ids])).logits[0].float()
    del model
    tool, run = RUNNERS[config.format]
    found = agreement(source_TV, run(path, ids))
    tolerance = TOLERANCES[config.outtype] if config.format == "gguf" else EXACT
    said = f"{tool}: {found}."
    if not found.difference <= tolerance:
        raise OutputError(f"the export does not compute what MODEL does and was not kept. {said} Please report it.")
    return (f"Verified with {said}",)


def _llama_cpp(path: Path, ids: list[int]) -> Tensor:
    """Logits by llama.cpp, which also has to see the same tokens in the prompt."""
    llama_cpp = need(*TOOLS["gguf"])
    model = llama_cpp.Llama(str(path), n_ctx=len(ids) + 1, logits_all=True, verbose=False)
    seen = model.tokenize(TEXT.encode(), add_bos=True, special=True)[: len(ids)]
    if seen != ids:
        at = next(i for i, (one, other) in enumerate(zip([*seen, -1], ids, strict=False)) if one != other)
        raise OutputError(
            f"llama.cpp tokenizes otherwise than MODEL's tokenizer (from token {at} on) and the export was not kept. "
            "Please report it."
        )
    model.eval(ids)
    return torch.tensor(model.scores[: len(ids)])


def _onnxruntime(path: Path, ids: list[int]) -> Tensor:
    """Logits by onnxruntime on the CPU."""
    session = need(*TOOLS["onnx"]).InferenceSession(path / FILE, providers=["CPUExecutionProvider"])
    inputs = torch.tensor([ids])
    feed = {"input_ids": inputs.numpy(), "attention_mask": torch.ones_like(inputs).numpy()}
    return torch.from_numpy(session.run(["logits"], feed)[0][0])


RUNNERS: Mapping[str, tuple[str, Callable[[Path, list[int]], Tensor]]] = {
    "gguf": ("llama.cpp", _llama_cpp),
    "onnx": ("onnxruntime", _onnxruntime),
}
