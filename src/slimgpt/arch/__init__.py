"""Model families as data: ``FAMILIES`` is the one list of what slimgpt can prune."""

from __future__ import annotations

from typing import Any

from slimgpt.arch.family import Family
from slimgpt.arch.llama import LLAMA
from slimgpt.errors import ModelError
from slimgpt.modeling_slimgpt import PREFIX

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
}


def family_of(config: Any) -> Family:
    """The family of a model configuration, stock or written by slimgpt.

    Raises:
        ModelError: the family is not supported; the message lists those that are.
    """
    family = FAMILIES.get(config.model_type.removeprefix(PREFIX))
    if family is None:
        raise ModelError(
            f"model_type {config.model_type!r} is not supported. Supported: {', '.join(sorted(FAMILIES))}. "
            "docs/add_a_family.md shows how to add one."
        )
    return family
