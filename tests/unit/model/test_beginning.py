"""The rule of the beginning-of-sequence token: what tokenizers do by themselves, and what is asked in its place."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_llama
from tokenizers import processors

from slimgpt.errors import ConfigError
from slimgpt.model.beginning import adds_bos, bos_of, first_tokens


def dressed(single: str, *tokens: str) -> Any:
    """A tokenizer that dresses every text as ``single`` says."""
    tokenizer = tiny_llama.make_tokenizer()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return tokenizer


HABITS = {
    "none": (tiny_llama.make_tokenizer, False),
    "begins": (lambda: dressed("<s> $A", "<s>"), True),
    "begins and ends": (lambda: dressed("<s> $A </s>", "<s>", "</s>"), True),
    "ends alone": (lambda: dressed("$A </s>", "</s>"), False),
    "begins with another": (lambda: dressed("</s> $A", "</s>"), False),
}


@pytest.mark.parametrize(("make", "begins"), HABITS.values(), ids=HABITS)
def test_the_tokenizers_own_habit_is_what_it_does(make: Any, begins: bool) -> None:
    tokenizer = make()
    assert adds_bos(tokenizer) is begins
    assert first_tokens(tokenizer, "auto") == ([256] if begins else [])
    assert first_tokens(tokenizer, "always") == [256]
    assert first_tokens(tokenizer, "never") == []
    assert bos_of(tokenizer, "auto") == ("<s>" if begins else None)


def test_a_token_that_both_begins_and_ends_is_no_habit_where_it_only_ends() -> None:
    """GPT-2's tokens are one: a text that is followed by it does not begin with it."""
    tokenizer = dressed("$A </s>", "</s>")
    tokenizer.bos_token = "</s>"
    assert not adds_bos(tokenizer)


def test_a_tokenizer_without_the_token_has_no_habit_and_is_not_asked_for_it() -> None:
    tokenizer = dressed("<s> $A", "<s>")
    tokenizer.bos_token = None
    assert first_tokens(tokenizer, "auto") == []
    with pytest.raises(ConfigError, match=r"--bos: this tokenizer has no beginning-of-sequence token. Use --bos never"):
        first_tokens(tokenizer, "always")
