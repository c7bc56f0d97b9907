"""A folder opened by transformers' own classes: on the meta device every file is read, and no weight."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, GenerationConfig

from slimgpt.model.families import auto_class, modelling_file
from slimgpt.model.tokenizer import load_tokenizer

TEXT = (
    "The river Danube, 2,850 km long, isn't Europe's longest: that's the Volga.\n\n"
    'She said: "Caf\u00e9s open at 7:30?" def main():\n    return 1024'
)
"""Words, contractions, numbers, other letters, white space: what tokenizers stumble over."""


class Unproved(Exception):
    """What is wrong with the folder."""


def open_model(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """The causal LM of a folder, whose weights fit it by name and shape.

    Raises:
        Unproved: they do not.
    """
    where = {} if device.type == "cpu" else {"device_map": {"": device}}
    opened: Any = auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are told
        output_loading_info=True,
        **where,
    )
    model, found = opened
    for what, said in (
        ("mismatched_keys", "do not have the shapes that config.json says"),
        ("missing_keys", "are missing"),
        ("unexpected_keys", "are none of the model's"),
        ("error_msgs", "cannot be read"),
    ):
        if names := sorted(map(str, found[what])):
            raise Unproved(f"{len(names)} tensors {said}, first {names[0]}")
    if type(model).__name__ not in model.config.architectures:
        raise Unproved(f"it opens as {type(model).__name__}, but is {', '.join(model.config.architectures)}")
    return model.eval()


def check_files(folder: Path, config: Any, tokenizer: Any) -> None:
    """Raise Unproved where what lies beside the weights is not what it should be."""
    for name in (getattr(config, "auto_map", None) or {}).values():
        _check_modelling_file(folder, config, name)
    if (folder / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(folder)
    stored = load_tokenizer(folder)
    for what, ours, theirs in (
        ("tokens", tokenizer(TEXT)["input_ids"], stored(TEXT)["input_ids"]),
        ("size", len(tokenizer), len(stored)),
        ("chat template", tokenizer.chat_template, stored.chat_template),
    ):
        if ours != theirs:
            raise Unproved(f"its tokenizer is another one than the model's: it differs by its {what}")


def _check_modelling_file(folder: Path, config: Any, name: str) -> None:
    """Plain transformers takes the class ``name`` from a file beside the weights: from ours, as it is."""
    module, _, made = name.rpartition(".")
    path, ours = folder / f"{module}.py", modelling_file(config)
    if not path.is_file() or path.read_bytes() != ours.read_bytes():
        raise Unproved(f"config.json names {name}, but {path.name} is not there, or not slimgpt's")
    if not hasattr(importlib.import_module(f"slimgpt.{ours.stem}"), made):
        raise Unproved(f"config.json names {name}, but there is no such class in {path.name}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """What it would report, we say ourselves."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
