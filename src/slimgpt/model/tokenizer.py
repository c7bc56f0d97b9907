"""A model's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from slimgpt.errors import ModelError, last_line
from slimgpt.machine.json_files import read_object
from slimgpt.model.config_file import read_config
from slimgpt.model.reading import border

SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What lies beside the vocabulary."""


def load_tokenizer(path: Path) -> Any:
    """Tokenizer of the model in a local folder or GGUF file.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    where: dict[str, Any] = {"gguf_file": path.name}
    if not path.is_file():
        _check_settings(path)
        where = {"config": read_config(path)}
    folder = path.parent if path.is_file() else path
    cure = "Put tokenizer.json (and tokenizer_config.json) beside the weights."
    with border(f"no tokenizer can be read from {path}", cure):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **where)
        tokenizer("A word, and another.")  # some damage shows only at work
        return tokenizer


def _check_settings(folder: Path) -> None:
    for file in (folder / name for name in SETTINGS):
        try:
            if file.is_file():
                read_object(file)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"no tokenizer can be read from {folder} ({file.name} is not a JSON object: {last_line(error)}). "
                "Download it again."
            ) from error
