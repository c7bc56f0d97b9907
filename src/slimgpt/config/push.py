"""The options of ``slimgpt push``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from slimgpt.errors import ConfigError, shown


@dataclass(frozen=True)
class PushConfig:
    """Put a finished model on the hub: weights, tokenizer, record, and a card with what the hub's search reads."""

    folder: Annotated[str, Positional, arg(metavar="FOLDER")]
    """Made by slimgpt."""

    repo: Annotated[str, Positional, arg(metavar="OWNER/NAME")]
    """The repository; it is made where there is none."""

    private: bool = False
    """A new repository is only for who may see it."""

    base_model: str | None = None
    """Hub id of the dense model, for the card, where the record names a local folder."""

    licence: str | None = None
    """The hub's name of the licence, such as apache-2.0. By default that of the base model's card."""

    gguf: tuple[str, ...] = ()
    """GGUF files of the same model that go beside it."""

    dry_run: bool = False
    """Only say what would be sent."""

    force: bool = False
    """Add to a repository that has files, and replace those of the same names."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if self.repo.count("/") != 1 or not all(self.repo.split("/")):
            raise ConfigError(f"OWNER/NAME {shown(self.repo)} must be two words with a slash between: who, and what.")
        for file in self.gguf:
            if not file.endswith(".gguf"):
                raise ConfigError(f"--gguf {shown(file)} is no .gguf file: slimgpt export FOLDER FILE --format gguf.")
