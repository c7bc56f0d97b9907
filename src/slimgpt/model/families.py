"""Which family a model is of: one that a file describes, or one that is detected.

Comes in: a configuration. Goes out: its family, and the classes of transformers that hold it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

import slimgpt.modeling_by_path as by_path
import slimgpt.modeling_slimgpt as per_layer
from slimgpt.arch import FAMILIES, family_of, is_tested
from slimgpt.arch.family import Family
from slimgpt.detection.building import model_class
from slimgpt.errors import ModelError, shown
from slimgpt.model.detected import detected_family

PREFIX = per_layer.PREFIX
"""Before the stock type in the types that slimgpt writes."""

KNOWN, PROVED = "known", "proved"
"""Families that are accepted: those that tests of ours name, or all whose units can be proved."""


def register() -> None:
    """Teach transformers' Auto classes every type that slimgpt writes."""
    per_layer.register()
    by_path.register()


def require_type(model_type: str) -> None:
    """Refuse types in our words, and not in transformers'.

    Raises:
        ModelError: no class of transformers of this type writes text.
    """
    if not is_tested(model_type) and model_type.removeprefix(PREFIX) not in written():
        raise ModelError(
            f"model_type {shown(model_type)} is neither one of the tested families ({', '.join(sorted(FAMILIES))}) nor "
            "a type of the installed transformers that writes text, whose units could be proved. Where it comes with "
            "code of its own, that is never run; a newer transformers may know it."
        )


def written() -> set[str]:
    """Types of transformers that write text."""
    return {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    }


def config_class(model_type: str) -> Any:
    """The configuration class of a type, stock or of ours."""
    if model_type.startswith(PREFIX) and not is_tested(model_type):
        stock = CONFIG_MAPPING[model_type.removeprefix(PREFIX)]
        by_path.register_type(stock)
        return by_path.slim_config(stock)
    return CONFIG_MAPPING[model_type]


def auto_class(config: Any) -> Any:
    """The Auto class that opens a model of this configuration as what it was saved from."""
    if is_tested(config.model_type):
        return transformers.AutoModelForCausalLM
    kind = model_class(config)
    return next(
        getattr(transformers, auto)
        for auto, mapping in by_path.AUTO_CLASSES.items()
        if getattr(modeling_auto, mapping).get(type(config), None) is kind and auto != "AutoModel"
    )


def modelling_file(config: Any) -> Path:
    """What travels in a checkpoint of layers with sizes of their own."""
    return Path(str((by_path if hasattr(config, by_path.LAYERS) else per_layer).__file__))


def family_for(config: Any, accepted: str = PROVED) -> Family:
    """The family of a configuration.

    Raises:
        ModelError: no file describes it, and only such families are accepted; or nothing in it can be proved.
    """
    if accepted == KNOWN or is_tested(config.model_type):
        return family_of(config)
    return detected_family(config)
