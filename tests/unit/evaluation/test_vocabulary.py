"""Losses over the vocabulary, a few positions at a time, against the same losses over all at once in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slimgpt.evaluation.predictions import Targets, divergence_loss, targets_of
from slimgpt.evaluation.vocabulary import BLOCK as BLOCKS
from slimgpt.evaluation.vocabulary import BlockLoss, LogProb, Slope, blended, summed_loss, token_loss
from slimgpt.recovery.packing import IGNORED, learned

BLOCK = BLOCKS["cpu"]
B, T, V = 3, 2 * BLOCK, 50


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def labels_BT() -> Tensor:
    """A third of them not learned; of the rest the last block is not full."""
    found = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))
    found[:, ::3] = IGNORED
    assert learned(found).sum() % BLOCK
    return found


def tokens(label_P: Tensor, temperature: float) -> tuple[BlockLoss, Callable[[Tensor], Tensor]]:
    def whole(logits_PV: Tensor) -> Tensor:
        return temperature**2 * functional.cross_entropy(logits_PV / temperature, label_P, reduction="sum")

    return token_loss(label_P), whole


def predictions(label_P: Tensor, temperature: float) -> tuple[BlockLoss, Callable[[Tensor], Tensor]]:
    every_1T = torch.ones(1, len(label_P), dtype=torch.bool)
    targets = targets_of(seeded(1, len(label_P), V, seed=2), every_1T, 5, temperature)
    return divergence_loss(targets), lambda logits_PV: coarse_divergence(logits_PV, targets, temperature)


def both(label_P: Tensor, temperature: float) -> tuple[BlockLoss, Callable[[Tensor], Tensor]]:
    """Some labels are among the teacher's likeliest tokens too."""
    (ours, whole), (other, other_whole) = predictions(label_P, temperature), tokens(label_P, temperature)
    return blended(ours, other, 0.3), lambda logits_PV: 0.7 * whole(logits_PV) + 0.3 * other_whole(logits_PV)


def coarse_divergence(logits_PV: Tensor, targets: Targets, temperature: float) -> Tensor:
    """The divergence of distributions over the kept tokens and one outcome more, for autograd to differentiate."""
    prob_PV = (logits_PV.double() / temperature).softmax(-1)
    kept_PK = prob_PV.gather(1, targets.token_PK.long())
    student = torch.cat([kept_PK, 1 - kept_PK.sum(1, keepdim=True)], 1).log()
    teacher = torch.cat([targets.log_prob_PK.double(), targets.log_rest_P.double()[:, None]], 1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="sum", log_target=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("loss", [tokens, predictions, both])
def test_value_and_gradient_are_those_of_all_positions_at_once(
    labels_BT: Tensor, loss: Callable[..., object], temperature: float
) -> None:
    learned_BT = learned(labels_BT)
    blockwise, whole = loss(labels_BT[:, 1:][learned_BT], temperature)  # type: ignore[misc]
    ours_BTV = (3 * seeded(B, T, V)).requires_grad_()
    total = summed_loss(ours_BTV, learned_BT, blockwise, temperature)
    (0.5 * total).backward()
    twin_BTV = ours_BTV.detach().clone().requires_grad_()
    expected = whole(twin_BTV[:, :-1][learned_BT])
    (0.5 * expected).backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(ours_BTV.grad, twin_BTV.grad, rtol=1e-5, atol=1e-6)
    assert ours_BTV.grad is not None
    assert not ours_BTV.grad[:, :-1][~learned_BT].any()
    assert not ours_BTV.grad[:, -1].any()


def test_logits_in_half_precision_get_a_gradient_in_it_and_a_loss_in_float32(labels_BT: Tensor) -> None:
    seen: list[tuple[int, torch.dtype]] = []
    tokens = token_loss(labels_BT[:, 1:][learned(labels_BT)])

    def spy(log_prob: LogProb, block: slice) -> Slope:
        slope = tokens(log_prob, block)
        seen.append((len(slope.extra_bK), slope.loss.dtype))
        return slope

    logits_BTV = seeded(B, T, V).bfloat16().requires_grad_()
    total = summed_loss(logits_BTV, learned(labels_BT), spy)
    total.backward()
    assert total.dtype == torch.float32
    assert logits_BTV.grad is not None
    assert logits_BTV.grad.dtype == torch.bfloat16
    assert {dtype for _, dtype in seen} == {torch.float32}
    assert max(rows for rows, _ in seen) == BLOCK
    assert sum(rows for rows, _ in seen) == learned(labels_BT).sum()


def test_the_model_below_gets_the_gradient(labels_BT: Tensor) -> None:
    """Through a head, with and without autocast's bfloat16."""
    learned_BT, hidden_BTD = learned(labels_BT), seeded(B, T, 8)
    label_P = labels_BT[:, 1:][learned_BT]
    gradients = {}
    for autocast in (False, True):
        head = torch.nn.Linear(8, V, bias=False)
        head.weight.data = seeded(V, 8, seed=3)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            summed_loss(head(hidden_BTD), learned_BT, token_loss(label_P)).backward()
        gradients[autocast] = head.weight.grad
    logits_PV = functional.linear(hidden_BTD[:, :-1][learned_BT], weight := seeded(V, 8, seed=3).requires_grad_())
    functional.cross_entropy(logits_PV, label_P, reduction="sum").backward()
    torch.testing.assert_close(gradients[False], weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[True], weight.grad, rtol=5e-2, atol=0.3)


def test_a_wide_vocabulary_keeps_float32s_digits() -> None:
    """Along a dimension with a stride torch adds 50,000 terms one after the other, and loses the fourth digit."""
    labels_BT = torch.randint(0, 50_000, (1, 40), generator=torch.Generator().manual_seed(4))
    logits_BTV = seeded(1, 40, 50_000)
    found = summed_loss(logits_BTV, learned(labels_BT), token_loss(labels_BT[0, 1:]))
    exact = functional.cross_entropy(logits_BTV[0, :-1].double(), labels_BT[0, 1:], reduction="sum")
    assert found.item() == pytest.approx(exact.item(), rel=2e-6)
    assert not found.requires_grad


def test_nothing_learned_is_no_loss() -> None:
    logits_BTV = seeded(1, 4, V).requires_grad_()
    nothing_BT = torch.zeros(1, 3, dtype=torch.bool)
    total = summed_loss(logits_BTV, nothing_BT, token_loss(torch.zeros(0, dtype=torch.long)))
    total.backward()
    assert total.item() == 0.0
    assert logits_BTV.grad is not None
    assert not logits_BTV.grad.any()
