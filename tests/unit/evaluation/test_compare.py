"""Two models on one text: figures against their definitions, and what they mean for equal models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch

from slimgpt.config import EvalConfig
from slimgpt.errors import ConfigError
from slimgpt.evaluation import compare, evaluate
from slimgpt.evaluation.likelihood import measure
from slimgpt.evaluation.windows import Windows, cut

SEQLEN = 32
TEXT = "Plain words, and then some more of them; numbers 123.\nA second line that goes on for a while.\n" * 12
LAYERS = [f"model.layers.{index}" for index in range(3)]


def loaded(seed: int = 0, **changes: Any) -> compare.Model:
    model = tiny_llama.make_model(seed, **changes)
    layers = LAYERS[: model.config.num_hidden_layers]
    return compare.Model(model, tiny_llama.make_tokenizer(), layers)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    (place / "text.txt").write_text(TEXT)
    other = tiny_llama.save_model(place / "other", seed=1)
    spaced = tiny_llama.save_model(place / "spaced", seed=1)
    tokenizer = tiny_llama.make_tokenizer()
    tokenizer.add_tokens(["words", "of them"])
    tokenizer.save_pretrained(spaced)
    tiny_llama.edit_config(spaced, vocab_size=260)
    return {"ours": tiny_llama.save_model(place / "ours"), "other": other, "spaced": spaced, "text": place / "text.txt"}


def config(folders: dict[str, Path], against: str, **changes: Any) -> EvalConfig:
    options: dict[str, Any] = {"seqlen": (SEQLEN,), "device": "cpu"}
    paths = {"text": str(folders["text"]), "against": str(folders[against])}
    return EvalConfig(str(folders["ours"]), **{**paths, **options, **changes})


@torch.inference_mode()
def test_divergence_is_its_definition() -> None:
    ours, theirs = loaded(0), loaded(1)
    windows = cut(ours.tokenizer, TEXT, SEQLEN)
    found = compare.compare_tokens(ours, theirs, windows, batch_size=5).figures()
    p, q = (m.model(input_ids=windows.ids_BT).logits.double().softmax(-1).flatten(0, 1) for m in (theirs, ours))
    assert found["kl_nats_per_token"] == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-5)
    assert found["top1_agreement"] == pytest.approx((p.argmax(1) == q.argmax(1)).double().mean().item())
    assert found["kl_nats_per_token"] > 0.1
    assert found["top1_agreement"] < 1


@torch.inference_mode()
def test_similarity_is_of_the_layers_outputs() -> None:
    ours, theirs = loaded(0), loaded(1)
    windows = cut(ours.tokenizer, TEXT, SEQLEN)
    states = [
        m.model.model(input_ids=windows.ids_BT, output_hidden_states=True).hidden_states[1] for m in (ours, theirs)
    ]
    x_ND, y_ND = (state[:, 1:].flatten(0, 1).double() for state in states)
    x_ND, y_ND = x_ND - x_ND.mean(0), y_ND - y_ND.mean(0)
    expected = (y_ND.T @ x_ND).norm() ** 2 / ((x_ND.T @ x_ND).norm() * (y_ND.T @ y_ND).norm())
    found = compare.compare_tokens(ours, theirs, windows).figures()["cka"]
    assert len(found) == 3
    assert found[0] == pytest.approx(expected.item(), rel=1e-4)


def test_a_model_is_like_itself() -> None:
    ours = loaded()
    figures = compare.compare_tokens(ours, ours, cut(ours.tokenizer, TEXT, SEQLEN)).figures()
    assert figures["cka"] == pytest.approx([1, 1, 1], abs=1e-5)
    assert figures["kl_nats_per_token"] == pytest.approx(0, abs=1e-6)
    assert figures["top1_agreement"] == 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    ours, theirs = loaded(0), loaded(1)
    windows = cut(ours.tokenizer, TEXT, SEQLEN)
    one, other = (compare.compare_tokens(ours, theirs, windows, size).figures() for size in (batch_size, 100))
    assert one["cka"] == pytest.approx(other["cka"], rel=1e-4)
    assert one["kl_nats_per_token"] == pytest.approx(other["kl_nats_per_token"], rel=1e-5)


def test_hooks_are_gone_afterwards() -> None:
    ours = loaded()
    compare.compare_tokens(ours, ours, cut(ours.tokenizer, TEXT, SEQLEN))
    assert not any(module._forward_hooks for module in ours.model.modules())


def test_models_of_different_depth_have_no_layers_to_pair() -> None:
    ours, theirs = loaded(), loaded(num_hidden_layers=2)
    figures = compare.compare_tokens(ours, theirs, cut(ours.tokenizer, TEXT, SEQLEN)).figures()
    assert figures["cka"] == []
    assert figures["kl_nats_per_token"] > 0


def test_prompts_are_beginnings_of_lines_over_the_text() -> None:
    tokenizer = tiny_llama.make_tokenizer()
    text = "\n".join(f"{index} " + "word " * 30 for index in range(9)) + "\nshort\n"
    assert [prompt.split()[0] for prompt in compare.prompts(tokenizer, text)] == ["0", "3", "6"]
    assert compare.prompts(tokenizer, "one line") == ["one line"]


def test_the_beginning_is_the_same_characters_for_every_tokenizer() -> None:
    tokenizer = tiny_llama.make_tokenizer()
    assert compare.beginning(tokenizer, TEXT, 50) == TEXT[:50]
    assert compare.beginning(tokenizer, TEXT, 10**6) == TEXT


# --- the whole comparison ----------------------------------------------------------------------------


def test_is_complete_and_repeats(folders: dict[str, Path]) -> None:
    first, second = (evaluate(config(folders, "other")).comparison for _ in range(2))
    assert first is not None and second is not None
    assert {key: first[key] for key in first if key != "date"} == {key: second[key] for key in second if key != "date"}
    assert [row["corruption"] for row in first["robustness"]] == ["none", "typos", "case", "shuffled-words"]
    figures = {row["model_bits_per_byte"] for row in first["robustness"]}
    assert len(figures) == 4
    assert (len(first["cka"]), len(first["samples"])) == (3, compare.NUM_SAMPLES)
    assert (first["kind"], first["schema"]) == ("compare", 1)
    assert first["against"] == str(folders["other"])


def test_the_seed_changes_the_corruption_alone(folders: dict[str, Path]) -> None:
    first, second = (evaluate(config(folders, "other", seed=seed)).comparison for seed in (0, 1))
    assert first is not None and second is not None
    assert first["cka"] == second["cka"]
    assert first["robustness"][0] == second["robustness"][0]
    assert first["robustness"][1] != second["robustness"][1]


def test_different_tokenizers_are_not_compared_by_token(folders: dict[str, Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"have different tokenizers: perplexity, .* Bits per byte can: add --against-by"
    ):
        evaluate(config(folders, "spaced"))


def test_different_tokenizers_are_compared_by_byte(folders: dict[str, Path]) -> None:
    found = evaluate(config(folders, "spaced", text=str(folders["text"]), against_by="byte")).comparison
    assert found is not None
    assert (found["cka"], found["kl_nats_per_token"], found["top1_agreement"]) == ([], None, None)
    assert all(row["against_bits_per_byte"] > 0 for row in found["robustness"])


def test_by_byte_both_read_the_same_text(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    num_bytes = []

    def noted(model: Any, tokenizer: Any, windows: Windows, batch_size: int) -> Any:
        num_bytes.append(windows.num_bytes(tokenizer))
        return measure(model, tokenizer, windows, batch_size)

    monkeypatch.setattr(compare, "measure", noted)
    evaluate(config(folders, "spaced", against_by="byte", bos="always"))
    ours, theirs = num_bytes[::2], num_bytes[1::2]
    assert len(ours) == 4 and ours == theirs


def test_a_model_to_compare_with_has_to_take_the_windows(folders: dict[str, Path], tmp_path: Path) -> None:
    short = tiny_llama.save_model(tmp_path / "short", max_position_embeddings=16)
    with pytest.raises(ConfigError, match="--seqlen 32 is beyond the model's context of 16 tokens"):
        evaluate(config({**folders, "other": short}, "other"))
