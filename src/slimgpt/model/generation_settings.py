"""How a model likes to generate: generation_config.json, or in older models some keys of config.json."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from slimgpt.model.config_file import CONFIG, read_settings
from slimgpt.model.reading import border

FILE = "generation_config.json"


def check_settings(folder: Path, settings: Mapping[str, Any], config: Any) -> None:
    """Refuse settings that transformers would stumble over, as the model loads or as they are written.

    Args:
        folder: the model's.
        settings: what its config.json says.
        config: what transformers has made of them.

    Raises:
        ModelError: it cannot read them.
    """
    if (folder / FILE).is_file():
        cure = "Mend it, or remove it: transformers then has its defaults."
        with border(f"{folder / FILE} holds no settings of generation", cure):
            GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        with border(f"{folder / CONFIG} has keys of generation that are not valid", "Mend or remove them."):
            GenerationConfig.from_pretrained(folder, CONFIG, local_files_only=True, _from_model_config=True)
            _implied(settings, config)


def write_settings(model: Path, config: Any, folder: Path) -> None:
    """Put a model's settings into an output: its own, or those that its configuration implies."""
    stored = model / FILE
    if not stored.is_file():
        _implied(read_settings(model) if model.is_dir() else {}, config).save_pretrained(folder)
        return
    try:
        GenerationConfig.from_pretrained(model, local_files_only=True).save_pretrained(folder)
    except ValueError:  # transformers reads some that it does not write
        shutil.copyfile(stored, folder / FILE)


def _implied(settings: Mapping[str, Any], config: Any) -> GenerationConfig:
    """Older models keep sampling defaults in config.json. Configurations drop them as they are read, so the file is
    asked.
    """
    return GenerationConfig.from_model_config({**settings, **config.to_dict()})
