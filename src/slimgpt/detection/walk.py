"""Where a model's layers are and how they are run one at a time, without a look at what could go in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from slimgpt.detection.building import empty_model
from slimgpt.detection.decoder import find_decoder
from slimgpt.detection.hollow import hollow_
from slimgpt.detection.whole import why_not_streamed

WINDOWS, TOKENS = 2, 8


@dataclass(frozen=True)
class Walk:
    """The way through a model's layers.

    Attributes:
        path: module path of the decoder layers.
        returns: length of the tuple that a layer returns, the residual stream first; 0 where that is all.
        why_not: why they cannot be run one at a time; None where they can.
    """

    path: str
    returns: int
    why_not: str | None


def walk_of(config: Any) -> Walk:
    """The way through the model that a configuration describes.

    Raises:
        ModelError: it does not run on text alone, or has no decoder layers.
    """
    model = empty_model(config)
    hollow_(model)
    ids_BT = 10 + torch.arange(WINDOWS * TOKENS).view(WINDOWS, TOKENS)
    decoder = find_decoder(model, ids_BT[:1])
    return Walk(decoder.path, decoder.calls[0].returns, why_not_streamed(model, decoder, ids_BT))
