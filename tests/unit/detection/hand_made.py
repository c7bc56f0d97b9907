"""Decoder layers made by hand, of which every unit is known, as hollow models have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.detection.bench import Bench
from slimgpt.detection.decoder import Call
from slimgpt.detection.hollow import hollow_

WIDTH, TOKENS = 12, 3


class Gated(nn.Module):
    """An FFN whose gates and ups are apart, or in one projection: in halves, or in turns."""

    def __init__(self, channels: int, layout: str = "apart") -> None:
        super().__init__()
        self.layout = layout
        if layout == "apart":
            self.gate, self.up = nn.Linear(WIDTH, channels), nn.Linear(WIDTH, channels)
        else:
            self.both = nn.Linear(WIDTH, 2 * channels)
        self.down = nn.Linear(channels, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "apart":
            gate, up = self.gate(x), self.up(x)
        elif self.layout == "halves":
            gate, up = self.both(x).chunk(2, -1)
        else:
            gate, up = self.both(x).unflatten(-1, (-1, 2)).unbind(-1)
        return self.down(torch.relu(gate) * up)


class Attention(nn.Module):
    """Causal, with grouped queries; ``keys`` heads of keys and values serve ``queries`` heads each.

    With ``sinks``, every query head has a number of its own that takes part in its softmax; with ``norm``, queries are
    normalised over all heads at once.
    """

    def __init__(self, keys: int, queries: int, dim: int = 2, sinks: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.num_keys, self.num_queries, self.dim = keys, queries, dim
        self.q = nn.Linear(WIDTH, keys * queries * dim)
        self.k, self.v = nn.Linear(WIDTH, keys * dim), nn.Linear(WIDTH, keys * dim)
        self.o = nn.Linear(keys * queries * dim, WIDTH, bias=False)
        self.sinks = nn.Parameter(torch.zeros(keys * queries)) if sinks else None
        self.norm = nn.LayerNorm(keys * queries * dim) if norm else None

    def q_of(self, x: Tensor) -> Tensor:
        return self.q(x) if self.norm is None else self.norm(self.q(x))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        q, k, v = (one.unflatten(-1, (-1, self.dim)).transpose(1, 2) for one in (self.q_of(x), self.k(x), self.v(x)))
        k, v = (one.repeat_interleave(self.num_queries, 1) for one in (k, v))
        score = (q @ k.transpose(-1, -2)).masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -torch.inf)
        if self.sinks is not None:
            score = torch.cat([score, self.sinks.view(1, -1, 1, 1).expand(*score.shape[:-1], 1)], -1)
        weights = score.softmax(-1)[..., : x.shape[1]]
        return self.o((weights @ v).transpose(1, 2).flatten(2)), None


class Layer(nn.Module):
    """Attention, then an FFN."""

    def __init__(self, attention: nn.Module | None = None, ffn: nn.Module | None = None) -> None:
        super().__init__()
        self.attention, self.ffn = attention, ffn

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is not None:
            x = x + self.attention(x)[0]
        return x if self.ffn is None else x + self.ffn(x)


def on_bench(*parts: nn.Module | None) -> Bench:
    """A hollow layer, and how it is called."""
    layer: Any = Layer(*parts).to("meta").eval()
    hollow_(layer)
    hidden = torch.zeros(1, TOKENS, WIDTH)
    return Bench(layer, Call(hidden, (), {}, None, hidden, 0))
