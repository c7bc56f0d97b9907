"""Where a model is: a local folder, a GGUF file, or a snapshot of the hub."""

from __future__ import annotations

from pathlib import Path

from slimgpt.config.paths import path_of
from slimgpt.errors import ModelError, last_line, shown

HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "*.tiktoken", "*.txt"]
HUB_FILES += ["LICEN[CS]E*", "COPYING*", "NOTICE*", "*USE_POLICY*"]


def resolve(model: str) -> Path:
    """Local path of a model: a folder, a ``.gguf`` file, or the snapshot of a hub id.

    Raises:
        ModelError: nothing of that name is here, and the hub does not have it or cannot be reached.
        ConfigError: it is no path.
    """
    path = path_of(model, "model")
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                f"model {shown(model)} is a file, but not a .gguf file: name the folder of the checkpoint."
            )
        return path
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or path.suffix == ".gguf":
        raise ModelError(f"model {shown(model)} does not exist: name a local folder, a .gguf file or a hub id.")
    return _download(model)


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=HUB_FILES))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ModelError(
            f"model {shown(repo)} is neither a local folder nor to be had from the hub ({last_line(error)}). "
            "Check the name, or the connection, or name a local folder or .gguf file."
        ) from error
