"""Losses read a layer and a piece of the vocabulary at a time are those of the whole model, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from slimgpt.model.checkpoint import open_checkpoint
from slimgpt.streaming.other_way import losses, told


@pytest.mark.parametrize("piece", [100, 8192])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_streamed_losses_are_those_of_the_whole_model(
    name: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of 100 do not divide the vocabulary."""
    monkeypatch.setattr("slimgpt.model.embeddings_and_head.PIECE", piece)
    tiny.save_model(tmp_path / "model", name)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    chance = torch.Generator().manual_seed(0)
    sets = [torch.randint(0, 256, shape, generator=chance) for shape in ((3, 20), (2, 31))]
    found = losses(open_checkpoint(str(tmp_path / "model")), sets, torch.device("cpu"), torch.float32)
    for losses_BT, ids_BT in zip(found, sets, strict=True):
        logits = model(input_ids=ids_BT).logits[:, :-1].detach().log_softmax(-1)
        torch.testing.assert_close(losses_BT, -logits.gather(2, ids_BT[:, 1:, None])[..., 0], rtol=1e-4, atol=1e-4)


def test_a_note_needs_a_difference_worth_a_word() -> None:
    assert told(3.0, 2.9, "<s>", begins=False) is None
    assert told(3.0, float("nan"), "<s>", begins=False) is None
    assert told(2.0, 3.0, "<s>", begins=False) is None
    assert told(2.0, 3.0, "<s>", begins=True) == (
        "note: without <s> this model's loss on the text is 2.00 nats a token, and 3.00 as it is read now: consider "
        "--bos never."
    )
