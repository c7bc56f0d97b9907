"""What stands at a path already, and whether a command may put its output in its place.

Only what slimgpt has made is ever replaced, and only where that was asked for. Links, devices, pipes and sockets never
are, dangling links among them: what they lead to, or what listens there, is somebody's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slimgpt.errors import OutputError
from slimgpt.model.schema import RECORD

FOLDER, FILE, LINK = "a folder", "a file", "a link"
KINDS = {
    stat.S_IFDIR: FOLDER,
    stat.S_IFREG: FILE,
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Kind:
    """What an output is, and what tells slimgpt's own from others'.

    Attributes:
        what: FOLDER or FILE.
        is_ours: of something of that sort.
        others: what is said of one that is not ours.
        forced: the command has an option to replace what is there.
    """

    what: str
    is_ours: Callable[[Path], bool]
    others: str
    forced: bool = True

    @property
    def noun(self) -> str:
        """The word without its article."""
        return self.what.partition(" ")[2]


def _made_by_us(folder: Path) -> bool:
    """It carries a record, or nothing at all."""
    return (folder / RECORD).is_file() or not any(folder.iterdir())


def _gguf(file: Path) -> bool:
    """It begins as GGUF files do, or it is empty."""
    with file.open("rb") as opened:
        return opened.read(4) in (b"GGUF", b"")


MODEL = Kind(FOLDER, _made_by_us, f"has no {RECORD}, so slimgpt did not make it")
GGUF = Kind(FILE, _gguf, "is no GGUF file, so slimgpt did not make it")
PAGE = Kind(FILE, lambda file: True, "")
NEW_FILE = Kind(FILE, lambda file: False, "", forced=False)


def standing(path: Path) -> str | None:
    """What is there, links not followed; None where there is nothing.

    Raises:
        OutputError: there is no telling.
    """
    try:
        return KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "of an unknown kind")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be used ({error}): choose another name.") from error


def refuse_standing(path: Path, kind: Kind, option: str, force: bool) -> None:
    """Let pass a path where nothing stands, or, with ``force``, something of ours.

    Raises:
        OutputError: something stands there, and this is not asked for, or not ours.
    """
    found = standing(path)
    if found is None:
        return
    if found != kind.what:
        itself = " itself, not a link" if found == LINK else ""
        raise OutputError(f"{option} {path} is {found}: name a {kind.noun}{itself}.")
    if not (force and kind.forced):
        cure = "replace it with --force" if kind.forced else "remove it"
        noun = kind.noun if found == FOLDER else "name"
        raise OutputError(f"{option} {path} exists: choose another {noun}, or {cure}.")
    if os.path.ismount(path):
        raise OutputError(f"{option} {path} is a disk of its own, which has to keep its name: name a folder in it.")
    if not _is_ours(path, kind):
        raise OutputError(
            f"{option} {path} {kind.others} and --force does not replace it: choose another {kind.noun}, or remove it "
            "yourself."
        )


def _is_ours(path: Path, kind: Kind) -> bool:
    try:
        return kind.is_ours(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be read ({error.strerror}): choose another {kind.noun}.") from error
