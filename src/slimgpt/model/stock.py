"""A model as transformers itself builds and reads it, its layers whole: for work on parts that no family describes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from slimgpt.arch import FAMILIES, family_of, is_tested
from slimgpt.arch.family import Family
from slimgpt.detection.walk import walk_of
from slimgpt.errors import ConfigError, ModelError, shown
from slimgpt.model.checkpoint import Checkpoint, open_folder, opened
from slimgpt.model.config_file import CONFIG, MEND
from slimgpt.model.families import KNOWN, PREFIX, PROVED
from slimgpt.model.reading import border
from slimgpt.model.source import resolve
from slimgpt.sites import Kept


def open_stock(model: str, families: str = PROVED) -> Checkpoint:
    """Open a folder or hub id, its modules and tensors as the class of transformers has them.

    Raises:
        ModelError: it cannot be opened, is no stock model, or its layers cannot be run one at a time.
    """
    path = resolve(model)
    if path.is_file():
        raise ModelError(f"{path} is a GGUF file: name the folder it was made from.")
    config, stored = open_folder(path)
    if families == KNOWN:
        family_of(config)
    if config.model_type.startswith(PREFIX):
        raise ModelError(
            f"{path}: model_type {shown(config.model_type)} has layers of sizes of their own, and is no stock class: "
            "start from the model that it was made from, or prune with --layout uniform."
        )
    with border(f"{path}: {CONFIG} is not valid", MEND):
        family = _family(config)
    return opened(model, path, config, stored, family)


def _family(config: Any) -> Family:
    """A family that says where the layers are, and nothing of what is in them."""
    if is_tested(config.model_type):
        known = FAMILIES[config.model_type]
        layers, returns = known.layers, known.returns
    else:
        walk = walk_of(config)
        if walk.why_not is not None:
            raise ModelError(f"model_type {shown(config.model_type)} cannot be worked on by layers ({walk.why_not}).")
        layers, returns = walk.path, walk.returns
    return Family(
        model_type=config.model_type,
        layers=layers,
        sites=lambda layer_config: (),
        resized=_none,
        stock_config=partial(_refuse, config.model_type),
        pruned={},
        packs=False,
        layer_config=lambda config, index: config.get_text_config(decoder=True).per_layer_config[index],
        own_sizes=_none,
        returns=returns,
        blocks_go=False,
    )


def _none(layer_config: Any, kept: Mapping[str, Kept]) -> dict[str, Any]:
    return {}


def _refuse(model_type: str, settings: Mapping[str, Any]) -> Any:
    raise ConfigError(f"{model_type} was opened as it is: it has no sites that could have other sizes.")
