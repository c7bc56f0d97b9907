"""Perplexity against a plain loop over transformers' own loss, and its conventions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch

from slimgpt.errors import CalibrationError, ConfigError, ModelError
from slimgpt.evaluation import Perplexity, perplexity, read_text

SEQLEN = 32
TEXT = "Hér stendur texti, þýddur, and some plain words, numbers 123, and more of the same. " * 8


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama.make_model()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_llama.make_tokenizer()


@pytest.fixture(scope="module")
def measured(model: Any, tokenizer: Any) -> Perplexity:
    return perplexity(model, tokenizer, TEXT, SEQLEN)


def windows(tokenizer: Any) -> list[torch.Tensor]:
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return [torch.tensor([ids[i : i + SEQLEN]]) for i in range(0, len(ids) - SEQLEN + 1, SEQLEN)]


@torch.inference_mode()
def test_equals_a_plain_loop(model: Any, tokenizer: Any, measured: Perplexity) -> None:
    losses = [model(input_ids=ids, labels=ids).loss.double() for ids in windows(tokenizer)]
    assert measured.num_windows == len(losses) > 10
    assert measured.num_tokens == len(losses) * (SEQLEN - 1)
    assert measured.nll_per_token == pytest.approx((sum(losses) / len(losses)).item(), rel=1e-6)
    assert measured.perplexity == pytest.approx(math.exp(measured.nll_per_token), rel=1e-12)


def test_bits_per_byte_are_the_same_figure_in_other_units(tokenizer: Any, measured: Perplexity) -> None:
    """One token is one byte here, so it is nats over log 2, but for characters cut at a window's edge."""
    assert measured.bits_per_byte == pytest.approx(measured.nll_per_token / math.log(2), rel=0.02)


def test_bits_per_byte_of_plain_english_are_exact(model: Any, tokenizer: Any) -> None:
    found = perplexity(model, tokenizer, "plain words only, of one byte a character. " * 10, SEQLEN)
    assert found.bits_per_byte == pytest.approx(found.nll_per_token / math.log(2), rel=1e-12)


def test_standard_error_is_that_of_the_tokens(model: Any, tokenizer: Any, measured: Perplexity) -> None:
    with torch.inference_mode():
        ids = torch.cat(windows(tokenizer))
        log_probabilities = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        losses = -log_probabilities.gather(2, ids[:, 1:, None]).flatten()
    assert measured.standard_error == pytest.approx((losses.std() / len(losses) ** 0.5).item(), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_batch_size_changes_nothing(model: Any, tokenizer: Any, measured: Perplexity, batch_size: int) -> None:
    found = perplexity(model, tokenizer, TEXT, SEQLEN, batch_size=batch_size)
    assert found.nll_per_token == pytest.approx(measured.nll_per_token, rel=1e-6)


def test_window_length_matters(model: Any, tokenizer: Any, measured: Perplexity) -> None:
    """Negative control: figures of two window lengths are not one figure."""
    assert perplexity(model, tokenizer, TEXT, 8).nll_per_token != pytest.approx(measured.nll_per_token, rel=1e-4)


def test_max_tokens_takes_the_beginning(model: Any, tokenizer: Any) -> None:
    found = perplexity(model, tokenizer, TEXT, SEQLEN, max_tokens=3 * SEQLEN + 5)
    assert found.num_windows == 3
    cut = TEXT.encode()[: 3 * SEQLEN].decode(errors="ignore") + "   "
    assert found.nll_per_token == pytest.approx(perplexity(model, tokenizer, cut, SEQLEN).nll_per_token, rel=1e-2)


def test_no_special_tokens_are_added(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: (seen.append(given["input_ids"]), forward(**given))[1])
    perplexity(model, tokenizer, TEXT, SEQLEN)
    assert torch.cat(seen).max() < 256


def test_progress_counts_all_tokens(model: Any, tokenizer: Any, measured: Perplexity) -> None:
    counts: list[int] = []
    perplexity(model, tokenizer, TEXT, SEQLEN, batch_size=4, progress=counts.append)
    assert sum(counts) == measured.num_windows * SEQLEN


def test_windows_beyond_the_context_are_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="--seqlen 65 is beyond the model's context of 64 tokens"):
        perplexity(model, tokenizer, TEXT, 65)


def test_a_text_shorter_than_a_window_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(CalibrationError, match="has 5 tokens, less than one window of 32: give more text"):
        perplexity(model, tokenizer, "short", SEQLEN)


def test_a_tokenizer_of_another_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"token \d+, but the model has embeddings for 90 tokens"):
        perplexity(tiny_llama.make_model(vocab_size=90, bos_token_id=0, eos_token_id=1), tokenizer, TEXT, SEQLEN)


def test_texts_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("línur\r\nog\n".encode())
    assert read_text(str(path)) == "línur\r\nog\n"
