"""Linear CKA from streamed moments: the definition, its invariances, and a control."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimgpt.evaluation.similarity import LinearCKA

N, D, E = 300, 12, 7


def features(seed: int, width: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(N, width, generator=generator) @ mixing + offset * torch.randn(width, generator=generator)


def cka(x_ND: Tensor, y_NE: Tensor, batch: int = N) -> float:
    found = LinearCKA()
    for x, y in zip(x_ND.split(batch), y_NE.split(batch), strict=True):
        found.update(x, y)
    return found.value()


def by_gram_matrices(x_ND: Tensor, y_NE: Tensor) -> float:
    """The definition over N x N matrices, in float64: <K, L> / (‖K‖ ‖L‖) of centred Gram matrices."""
    centre_NN = torch.eye(N, dtype=torch.float64) - 1 / N
    k_NN, l_NN = (centre_NN @ z.double() @ z.double().T @ centre_NN for z in (x_ND, y_NE))
    return ((k_NN * l_NN).sum() / (k_NN.norm() * l_NN.norm())).item()


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("batch", [1, 7, 64, N])
def test_streamed_is_the_definition(batch: int, offset: float) -> None:
    x_ND = features(0, D, offset)
    y_NE = x_ND @ torch.randn(D, E, generator=torch.Generator().manual_seed(1)) + features(2, E, offset)
    expected = by_gram_matrices(x_ND, y_NE)
    assert 0.2 < expected < 0.98
    assert cka(x_ND, y_NE, batch) == pytest.approx(expected, rel=1e-5)


def test_means_far_above_the_spread_do_not_drown_it() -> None:
    """As in a residual stream; moments about zero would have lost three digits more in float32."""
    x_ND, y_NE = features(0, D), features(0, D)[:, :E]
    assert cka(x_ND + 1000, y_NE - 500, 50) == pytest.approx(by_gram_matrices(x_ND, y_NE), rel=1e-3)


def test_a_rotation_and_a_scale_change_nothing() -> None:
    x_ND = features(0, D)
    rotation_DD, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3)))
    assert cka(x_ND, 5 * x_ND @ rotation_DD) == pytest.approx(1, abs=1e-5)


def test_is_symmetric() -> None:
    assert cka(features(0, D), features(4, E)) == pytest.approx(cka(features(4, E), features(0, D)), rel=1e-5)


def test_unrelated_features_are_dissimilar() -> None:
    """Negative control."""
    assert cka(features(0, D), features(5, E)) < 0.2


def test_features_that_do_not_vary_are_similar_to_nothing() -> None:
    assert cka(torch.ones(N, D), features(0, E)) == 0
