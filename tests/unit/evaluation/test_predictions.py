"""The distance to a teacher's predictions against a slow twin."""

from __future__ import annotations

import oracle
import pytest
import torch
from torch.nn import functional

from slimgpt.evaluation.predictions import Targets, divergence_loss, targets_of
from slimgpt.evaluation.vocabulary import summed_loss

P, V = 12, 40
EVERY_1T = torch.ones(1, P, dtype=torch.bool)


def logits(seed: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(P, V, generator=torch.Generator().manual_seed(seed))


def kl_divergence(student_PV: torch.Tensor, kept: Targets, temperature: float) -> torch.Tensor:
    """As training has it: of one row, whose last position nothing follows."""
    logits_BTV = functional.pad(student_PV, (0, 0, 0, 1))[None]
    return summed_loss(logits_BTV, EVERY_1T, divergence_loss(kept), temperature)


def kept_of(teacher_PV: torch.Tensor, num_kept: int, temperature: float) -> Targets:
    return targets_of(teacher_PV[None], EVERY_1T, num_kept, temperature)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("num_kept", [1, 5, V])
def test_equals_the_plain_twin(num_kept: int, temperature: float) -> None:
    teacher_PV, student_PV = logits(0), logits(1)
    kept = [row.topk(num_kept).indices.tolist() for row in teacher_PV]
    expected = sum(oracle.coarse_kl(*pair, temperature) for pair in zip(teacher_PV, student_PV, kept, strict=True))
    found = kl_divergence(student_PV, kept_of(teacher_PV, num_kept, temperature), temperature)
    assert found.item() == pytest.approx(expected, rel=2e-3)  # the teacher's log-probabilities are kept in float16


def test_all_tokens_kept_is_torchs_own_divergence() -> None:
    teacher_PV, student_PV = logits(0), logits(1)
    expected = functional.kl_div(
        student_PV.log_softmax(-1), teacher_PV.log_softmax(-1), reduction="sum", log_target=True
    )
    assert kl_divergence(student_PV, kept_of(teacher_PV, 999, 1.0), 1.0).item() == pytest.approx(
        expected.item(), rel=2e-3
    )


@pytest.mark.parametrize("num_kept", [1, 5, V])
def test_is_least_and_flat_at_the_teacher_itself(num_kept: int) -> None:
    teacher_PV = logits(0)
    student_PV = teacher_PV.clone().requires_grad_()
    distance = kl_divergence(student_PV, kept_of(teacher_PV, num_kept, 1.0), 1.0)
    distance.backward()
    assert abs(distance.item()) < 1e-3 * P
    assert student_PV.grad.abs().max() < 2e-3
    assert kl_divergence(logits(1), kept_of(teacher_PV, num_kept, 1.0), 1.0) > 0.1 * P


def test_more_tokens_kept_see_more() -> None:
    found = [kl_divergence(logits(1), kept_of(logits(0), kept, 1.0), 1.0).item() for kept in (1, 3, 10, V)]
    assert found == sorted(found)


def test_mass_that_leaks_to_other_tokens_is_seen() -> None:
    """Negative control of renormalising: a student that is right among the kept tokens but likes another one best."""
    teacher_PV = logits(0)
    student_PV = teacher_PV.clone()
    student_PV.scatter_(1, teacher_PV.argmin(1, keepdim=True), 20.0)
    kept = kept_of(teacher_PV, 5, 1.0)
    assert kl_divergence(student_PV, kept, 1.0) > 5 * P
    renormalised = student_PV.gather(1, kept.token_PK.long()).log_softmax(1)
    of_teacher = teacher_PV.gather(1, kept.token_PK.long()).log_softmax(1)
    assert functional.kl_div(renormalised, of_teacher, reduction="sum", log_target=True).abs() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_certain_teacher_or_student_gives_numbers(dtype: torch.dtype) -> None:
    certain_PV = torch.full((P, V), -50.0).index_fill(1, torch.tensor([3]), 50.0)
    for teacher_PV, student_PV in ((certain_PV, logits(0)), (logits(0), certain_PV), (certain_PV, certain_PV)):
        student_PV = student_PV.to(dtype).requires_grad_()
        distance = kl_divergence(student_PV, kept_of(teacher_PV.to(dtype), 4, 1.0), 1.0)
        distance.backward()
        assert distance.isfinite()
        assert student_PV.grad.isfinite().all()
