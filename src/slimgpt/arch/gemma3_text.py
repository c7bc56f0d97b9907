"""Gemma 3, text: norms after attention and FFN and on query and key heads, five sliding windows to one global layer."""

from __future__ import annotations

from transformers import Gemma3TextConfig

from slimgpt.arch import gated

GEMMA3_TEXT = gated.stock_family("gemma3_text", Gemma3TextConfig)
