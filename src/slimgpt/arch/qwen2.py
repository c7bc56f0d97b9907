"""Qwen2 and Qwen2.5: the Llama shape with biases on q, k and v."""

from __future__ import annotations

from transformers import Qwen2Config

from slimgpt.arch import gated

QWEN2 = gated.stock_family("qwen2", Qwen2Config)
