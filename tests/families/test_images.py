"""Models that see: pruned in what writes, they read images as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import CLOSE, Case, difference, load, logits, masked
from tiny_llama import tokens
from torch import Tensor

SIDE, PATCH = 32, 16  # pixels, of the tiny models


def seen(seed: int, *shape: int) -> Tensor:
    """An image, in whatever form."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_image(config: Any, num_tokens: int) -> Tensor:
    """Text with an image's tokens in it, 1 x T."""
    ids_1T = tokens(1, 12, seed=1)
    ids_1T[ids_1T == config.image_token_id] += 1
    ids_1T[:, 3 : 3 + num_tokens] = config.image_token_id
    return ids_1T


def llava(config: Any, seed: int) -> dict[str, Any]:
    """A token a patch."""
    pixels = seen(seed, 1, 3, SIDE, SIDE)
    return {"ids_BT": with_image(config, (SIDE // PATCH) ** 2), "pixel_values": pixels}


def gemma3(config: Any, seed: int) -> dict[str, Any]:
    """As many tokens as the configuration says, which see each other."""
    ids_BT = with_image(config, config.mm_tokens_per_image)
    more = {"token_type_ids": (ids_BT == config.image_token_id).int()}
    return {"ids_BT": ids_BT, "pixel_values": seen(seed, 1, 3, SIDE, SIDE), **more}


def qwen2_5_vl(config: Any, seed: int) -> dict[str, Any]:
    """Patches in a row, two frames deep, and how many there are in time, height and width."""
    patches = seen(seed, (SIDE // PATCH) ** 2, 3 * 2 * PATCH**2)
    ids_BT = with_image(config, 1)
    more = {"image_grid_thw": torch.tensor([[1, 2, 2]]), "mm_token_type_ids": (ids_BT == config.image_token_id).int()}
    return {"ids_BT": ids_BT, "pixel_values": patches, **more}


INPUTS: dict[str, Callable[[Any, int], dict[str, Any]]] = {one.__name__: one for one in (llava, gemma3, qwen2_5_vl)}
SLOWER = ("gemma3", "qwen2_5_vl")


@pytest.mark.parametrize(
    "model_type", [pytest.param(one, marks=pytest.mark.families if one in SLOWER else ()) for one in INPUTS]
)
def test_an_image_is_read_as_by_the_model_that_does_not_read_what_went(
    model_type: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = Case(model_type, tmp_path_factory.mktemp(model_type))
    smaller, dense = load(case.pruned), masked(case)
    assert smaller.num_parameters() < dense.num_parameters()
    first, other = (INPUTS[model_type](dense.config, seed) for seed in (0, 1))
    assert difference(logits(smaller, **first), logits(dense, **first)) < CLOSE
    assert difference(logits(smaller, **other), logits(smaller, **first)) > 10 * CLOSE  # the image is looked at
