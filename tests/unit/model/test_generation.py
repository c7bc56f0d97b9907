"""Talking to a model: the answer without the prompt, greedy unless asked, seeded, templated on request."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_llama
import torch
from tiny_llama import prune_config

from slimgpt import generate, load_model, prune
from slimgpt.errors import ModelError

PROMPT = "what is this"


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("generation")
    return load_model(str(prune(prune_config(tiny_llama.save_model(folder / "m"), folder / "out")).path), "cpu")


@torch.inference_mode()
def test_takes_the_likeliest_token_each_time(pruned: tuple[Any, Any]) -> None:
    model, tokenizer = pruned
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(10):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    assert generate(model, tokenizer, PROMPT, max_new_tokens=10) == tokenizer.decode(ids[0, start:])


def test_length_is_at_most_what_was_asked(pruned: tuple[Any, Any]) -> None:
    model, tokenizer = pruned
    assert len(tokenizer(generate(model, tokenizer, PROMPT, max_new_tokens=4))["input_ids"]) <= 4 * 4


def test_sampling_is_seeded(pruned: tuple[Any, Any]) -> None:
    answers = [generate(*pruned, PROMPT, 20, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_chat_wraps_the_prompt(pruned: tuple[Any, Any]) -> None:
    """The test tokenizer's template is the message and a line break."""
    assert generate(*pruned, PROMPT, 10, chat=True) == generate(*pruned, PROMPT + "\n", 10)
    assert generate(*pruned, PROMPT, 10, chat=True) != generate(*pruned, PROMPT, 10)


def test_chat_without_a_template_is_refused(pruned: tuple[Any, Any]) -> None:
    bare = tiny_llama.make_tokenizer()
    bare.chat_template = None
    with pytest.raises(ModelError, match="no chat template: leave --chat out"):
        generate(pruned[0], bare, PROMPT, chat=True)
