"""Perplexity against a plain loop over transformers' own loss, and its conventions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch

from slimgpt.calibration.row_text import RowText
from slimgpt.errors import CalibrationError, ConfigError, ModelError
from slimgpt.evaluation import Perplexity, perplexity, read_text
from slimgpt.evaluation.likelihood import token_losses
from slimgpt.evaluation.windows import cut

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


# --- overlapping windows, and where a beginning-of-sequence token stands -----------------------------


@pytest.mark.parametrize("stride", [1, 7, 31, 32])
@pytest.mark.parametrize("bos", ["never", "text", "always"])
def test_every_token_counts_once(tokenizer: Any, stride: int, bos: str) -> None:
    found = cut(tokenizer, TEXT, SEQLEN, stride, bos)
    ids = ([256] if bos == "text" else []) + tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    counted = found.ids_BT[found.counts_BT()].tolist()
    if stride == SEQLEN and bos != "always":  # without context nothing predicts a window's first token
        assert len(counted) == len(found.ids_BT) * (SEQLEN - 1)
    else:
        beginning = ids if bos == "always" else ids[1:]
        assert counted == beginning[: len(counted)]
        assert len(beginning) - len(counted) < SEQLEN


@pytest.mark.parametrize("seqlen", [9, 31, 32, 200])
@pytest.mark.parametrize("bos", ["text", "always"])
def test_to_the_end_every_token_of_the_text_counts_once(tokenizer: Any, seqlen: int, bos: str) -> None:
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    found = cut(tokenizer, TEXT, seqlen, seqlen // 2, bos, to_the_end=True)
    assert found.ids_BT[found.counts_BT()].tolist() == ids
    assert found.num_bytes(tokenizer) == pytest.approx(len(TEXT.encode()), abs=2 * len(found.ids_BT))


@torch.inference_mode()
def test_with_a_stride_equals_a_plain_loop(model: Any, tokenizer: Any) -> None:
    stride = 5
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"][:100]
    losses: list[float] = []
    for start in range(0, len(ids) - SEQLEN + 1, stride):
        window = torch.tensor([ids[start : start + SEQLEN]])
        log_probabilities = model(input_ids=window).logits[0, :-1].log_softmax(-1)
        nll = -log_probabilities.gather(1, window[0, 1:, None]).flatten()
        losses += nll.tolist() if start == 0 else nll[-stride:].tolist()
    found = perplexity(model, tokenizer, TEXT, SEQLEN, max_tokens=100, stride=stride)
    assert found.num_tokens == len(losses)
    assert found.nll_per_token == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("seqlen", [9, 33])
def test_is_that_of_lm_evals_rolling_windows(model: Any, tokenizer: Any, seqlen: int) -> None:
    """The harness puts BOS before the text and gives every later window one token of context."""
    harness = pytest.importorskip("lm_eval.models.huggingface")
    instance = pytest.importorskip("lm_eval.api.instance")
    length = (seqlen - 1) * 6
    text = TEXT.encode("ascii", "ignore").decode()[:length]
    lm = harness.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=seqlen - 1)
    request = instance.Instance("loglikelihood_rolling", {}, arguments=(text,), idx=0)
    total = lm.loglikelihood_rolling([request], disable_tqdm=True)[0]
    found = perplexity(model, tokenizer, text, seqlen, stride=seqlen - 1, bos="text")
    assert found.num_tokens == length
    assert found.perplexity == pytest.approx(math.exp(-total / length), rel=1e-4)


def test_bos_stands_where_it_was_asked_for(tokenizer: Any) -> None:
    plain, text, window = (cut(tokenizer, TEXT, SEQLEN, bos=bos).ids_BT for bos in ("never", "text", "always"))
    assert not (plain == 256).any()
    assert (text == 256).nonzero().tolist() == [[0, 0]]
    assert (window == 256).nonzero().tolist() == [[index, 0] for index in range(len(window))]
    assert window[:2, 1:].flatten().tolist() == tokenizer(TEXT, add_special_tokens=False)["input_ids"][:62]


def test_bos_changes_the_figure(model: Any, tokenizer: Any, measured: Perplexity) -> None:
    found = perplexity(model, tokenizer, TEXT, SEQLEN, bos="always")
    assert found.nll_per_token != pytest.approx(measured.nll_per_token, rel=1e-4)
    assert (found.bos, measured.bos) == ("always", "never")


def test_what_the_tokenizer_does_by_itself_is_the_default(model: Any, tokenizer: Any, measured: Perplexity) -> None:
    begins = tiny_llama.make_tokenizer(begins=True)
    assert perplexity(model, begins, TEXT, SEQLEN) == perplexity(model, tokenizer, TEXT, SEQLEN, bos="always")
    assert perplexity(model, begins, TEXT, SEQLEN, bos="never") == measured


def test_bos_of_a_tokenizer_without_one_is_refused() -> None:
    tokenizer = tiny_llama.make_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(ConfigError, match=r"--bos: this tokenizer has no beginning-of-sequence token. Use --bos never"):
        cut(tokenizer, TEXT, SEQLEN, bos="text")


@pytest.mark.parametrize("bos", ["never", "always"])
@pytest.mark.parametrize("stride", [3, None])
def test_bytes_are_those_of_the_tokens_that_count(tokenizer: Any, stride: int | None, bos: str) -> None:
    plain = "plain words only, of one byte a character. " * 10
    found = cut(tokenizer, plain, SEQLEN, stride, bos)
    assert found.num_bytes(tokenizer) == int(found.counts_BT().sum())


def test_errors_are_in_the_units_of_their_figures(measured: Perplexity) -> None:
    more = math.exp(measured.nll_per_token + 1e-6 * measured.standard_error)
    assert measured.perplexity_error == pytest.approx((more - measured.perplexity) * 1e6, rel=1e-3)
    assert measured.bits_per_byte_error / measured.bits_per_byte == pytest.approx(
        measured.standard_error / measured.nll_per_token, rel=1e-9
    )


@torch.inference_mode()
def test_bfloat16_logits_are_scored_in_float32(tokenizer: Any) -> None:
    model = tiny_llama.make_model().to(torch.bfloat16)
    nll = []
    for ids in windows(tokenizer):
        log_probabilities = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        nll.append(-log_probabilities.gather(1, ids[0, 1:, None]).flatten())
    exact = torch.cat(nll).mean().item()
    assert perplexity(model, tokenizer, TEXT, SEQLEN).nll_per_token == pytest.approx(exact, rel=1e-6)


def test_a_large_vocabulary_loses_no_digits() -> None:
    """A float32 sum of 50,000 terms one after the other would."""
    logits_NV = 3 * torch.randn(600, 49152, generator=torch.Generator().manual_seed(0))
    ids_N = torch.arange(600) * 80
    exact = torch.nn.functional.cross_entropy(logits_NV.double(), ids_N, reduction="none")
    torch.testing.assert_close(token_losses(logits_NV, ids_N).double(), exact, rtol=1e-6, atol=0)


def test_twice_is_the_same(model: Any, tokenizer: Any, measured: Perplexity) -> None:
    assert perplexity(model, tokenizer, TEXT, SEQLEN) == measured


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


def test_tables_are_texts_with_blank_lines_between(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "t.csv").write_text('body,n\n"one\ntwo",1\nthree,2\n')
    assert read_text(str(tmp_path / "t.csv"), RowText("body")) == "one\ntwo\n\nthree"
    (tmp_path / "t.jsonl").write_text('{"messages": [{"role": "user", "content": "one"}]}\n')
    assert read_text(str(tmp_path / "t.jsonl"), RowText(tokenizer=tokenizer)) == "one"
    with pytest.raises(CalibrationError, match="has no field 'text', only body, n"):
        read_text(str(tmp_path / "t.csv"))
    (tmp_path / "t.html").write_text("<p>one</p>")
    with pytest.raises(CalibrationError, match=r"ends in '.html', which is neither text \(.txt,"):
        read_text(str(tmp_path / "t.html"))
