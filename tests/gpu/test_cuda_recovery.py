"""Recovery on a GPU: the losses are the CPU's, and so is where a short distillation ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import recovery_shop
import torch
from recovery_shop import Shop
from torch import Tensor

from slimgpt.evaluation.predictions import divergence_loss, targets_of
from slimgpt.evaluation.vocabulary import BLOCK, BlockLoss, blended, summed_loss, token_loss
from slimgpt.recovery import recover

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and torch sees none")

POSITIONS, V = 2 * BLOCK["cuda"] + 100, 300


def losses(teacher_1PV: Tensor, label_P: Tensor, every_1P: Tensor) -> list[BlockLoss]:
    divergence = divergence_loss(targets_of(teacher_1PV, every_1P, 8, 2.0))
    return [token_loss(label_P), divergence, blended(divergence, token_loss(label_P), 0.3)]


def test_losses_and_gradients_are_the_cpus() -> None:
    torch.manual_seed(0)
    ours_1PV, teacher_1PV = 3 * torch.randn(1, POSITIONS, V), 3 * torch.randn(1, POSITIONS, V)
    label_P, every_1P = torch.randint(0, V, (POSITIONS,)), torch.ones(1, POSITIONS, dtype=torch.bool)
    results = []
    for device in ("cpu", "cuda"):
        given = [tensor.to(device) for tensor in (teacher_1PV, label_P, every_1P)]
        for loss_of in losses(*given):
            logits = ours_1PV.clone().to(device).requires_grad_()
            total = summed_loss(logits, given[2], loss_of, 2.0)
            total.backward()
            assert logits.grad is not None
            results.append((total.detach().cpu(), logits.grad.cpu()))
    for expected, found in zip(results[:3], results[3:], strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)


def test_a_distillation_ends_where_the_cpus_ends(shop: Shop, tmp_path: Path) -> None:
    ends = {}
    for device in ("cpu", "cuda"):
        config = recovery_shop.options(shop, tmp_path / device, teacher=str(shop.dense), full=True, device=device)
        ends[device] = recover(config).record["recovery"][-1]["held_out"]
    assert ends["cuda"] == pytest.approx(ends["cpu"], rel=0.02)
