"""Masks: which single weights of a projection become zero, and what the others are then. One file each, one signature.

The shapes of the weights stay. What that saves and what it does not is in docs/sparsity.md.
"""

from __future__ import annotations

from slimgpt.sparsity.masks.magnitude import magnitude
from slimgpt.sparsity.masks.method import MaskMethod
from slimgpt.sparsity.masks.random import random
from slimgpt.sparsity.masks.sparsegpt import sparsegpt
from slimgpt.sparsity.masks.wanda import wanda

METHODS: dict[str, MaskMethod] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": sparsegpt,
    "random": random,
}

NEED_INPUTS = frozenset({"wanda", "sparsegpt"})
"""Methods that ask for X Xᵀ; the others look at no text."""
