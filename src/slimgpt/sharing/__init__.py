"""push(): a finished folder on the hub, in one commit that is there whole or not at all.

folder --files_of--> what is sent --card--> README with metadata --create_commit--> repository

Comes in: a run's folder and a repository's name. Goes out: a commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from slimgpt.config import PushConfig
from slimgpt.config.paths import path_of
from slimgpt.errors import ConfigError, OutputError, last_line, shown
from slimgpt.output import measurements
from slimgpt.sharing.card import with_metadata

__all__ = ["PushResult", "push"]

CARD = measurements.CARD
MADE_BY_THE_HUB = {".gitattributes"}


@dataclass(frozen=True)
class PushResult:
    """What was sent, or would be.

    Attributes:
        url: of the commit; None in a dry run.
        files: names in the repository, sorted.
        card: the README as it is there.
    """

    url: str | None
    files: tuple[str, ...]
    card: str


def push(config: PushConfig, api: HfApi | None = None) -> PushResult:
    """Send a run's folder to the hub.

    Args:
        config: the options.
        api: whom to ask; by default the hub, as the user who is logged in.

    Raises:
        ModelError: FOLDER is no run's, or damaged.
        ConfigError: a GGUF file is not there, or the hub knows no such repository name or licence.
        OutputError: the repository has files already, or the hub refuses.
    """
    config.check()
    folder = measurements.require_run(config.folder)
    beside = [_gguf(file) for file in config.gguf]
    card = with_metadata(folder, config.repo.split("/")[1], config.base_model, config.licence)
    files = {path.relative_to(folder).as_posix(): path for path in _files(folder)} | {own.name: own for own in beside}
    names = tuple(sorted({*files, CARD}))
    if config.dry_run:
        return PushResult(None, names, card)
    sent = [CommitOperationAdd(name, str(path)) for name, path in files.items() if name != CARD]
    sent.append(CommitOperationAdd(CARD, card.encode()))
    return PushResult(_commit(api or HfApi(), config, sent), names, card)


def _gguf(file: str) -> Path:
    path = path_of(file, "--gguf")
    if not path.is_file():
        raise ConfigError(f"--gguf {shown(file)} is no file: slimgpt export FOLDER {file} --format gguf makes it.")
    return path


def _files(folder: Path) -> list[Path]:
    """All of a finished folder, but what an editor or a file manager left there."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.relative_to(folder).name.startswith(".")]


def _commit(api: HfApi, config: PushConfig, sent: Sequence[CommitOperationAdd]) -> str:
    try:
        _check_empty(api, config)
        api.create_repo(config.repo, private=config.private, exist_ok=True)
        done: Any = api.create_commit(config.repo, sent, commit_message="Made by slimgpt")
    except HFValidationError as error:
        raise ConfigError(f"OWNER/NAME {shown(config.repo)}: {last_line(error)}") from error
    except (HfHubHTTPError, OSError) as error:
        raise OutputError(
            f"the hub does not take {config.repo} ({last_line(error)}): log in by `hf auth login`, see that the owner "
            "is you or yours, and give the command again; files that it has are not sent twice."
        ) from error
    return str(done.commit_url)


def _check_empty(api: HfApi, config: PushConfig) -> None:
    """Refuse a repository that has files, unless they may be replaced."""
    try:
        standing = {*api.list_repo_files(config.repo)} - MADE_BY_THE_HUB
    except RepositoryNotFoundError:
        return
    if standing and not config.force:
        raise OutputError(
            f"{config.repo} has {len(standing)} files already, such as {min(standing)}: choose another name, or add "
            "--force to replace those of the same names."
        )
