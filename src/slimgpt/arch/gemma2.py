"""Gemma 2: norms after attention and FFN too, soft-capped scores, every other layer with a sliding window."""

from __future__ import annotations

from transformers import Gemma2Config

from slimgpt.arch import gated

GEMMA2 = gated.stock_family("gemma2", Gemma2Config)
