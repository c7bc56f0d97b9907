"""Records that vouch for files: JSON with the hashes of the files beside it, and one over itself.

Whatever a later run reads again is such a record, or a file that one of them vouches for. The hash over the record is
also over what the record is of (a run and its layer, a key), so that neither a damaged file nor a sound one of another
run passes for what was written. It is written after its files: a run that dies between them leaves nothing that counts.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from slimgpt.errors import DamagedError, DamageWarning, UnsealedError
from slimgpt.machine.atomic import write_json
from slimgpt.machine.json_files import read_object

FILES, SEAL = "files", "sha256"
BLOCK = 1 << 20


def seal(path: Path, content: Mapping[str, Any], of: Any, files: Mapping[str, str] | None = None) -> None:
    """Write a record of ``of`` (plain data, like the content) that vouches for ``files``: see :func:`hashes`."""
    whole = {**content, **({FILES: dict(files)} if files else {})}
    write_json(path, {**whole, SEAL: _over(whole, of)})


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Files of a folder, by their names in it, and the sha256 of what they hold."""
    return {name: _of_file(folder / name) for name in names}


def all_hashes(folder: Path) -> dict[str, str]:
    """The same of all that is in a folder, and in folders in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return hashes(folder, sorted(path.relative_to(folder).as_posix() for path in files))


def unseal(path: Path, of: Any, checked: Callable[[str], bool] = lambda name: True) -> dict[str, Any] | None:
    """What the record of ``of`` holds, with the files that it vouches for; None where there is no record.

    ``checked(name)`` says which of those have to be there and whole.

    Raises:
        UnsealedError: it is a record without a hash, as older versions wrote them.
        DamagedError: the record or one of its files is not what was written.
    """
    try:
        whole = read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DamagedError(_damaged(path)) from error
    found = whole.pop(SEAL, None)
    if found is None:
        raise UnsealedError(f"{path} has no hash, so an older slimgpt wrote it")
    if found != _over(whole, of):
        raise DamagedError(_damaged(path))
    for name, expected in whole.get(FILES, {}).items():
        if checked(name) and not _is(path.parent / name, expected):
            raise DamagedError(_damaged(path.parent / name))
    return whole


def intact(path: Path, of: Any, again: str) -> dict[str, Any] | None:
    """What the record of ``of`` holds; None where there is none, or where it or one of its files is damaged.

    A :class:`DamageWarning <slimgpt.errors.DamageWarning>` then says so, and what is done ``again``.
    """
    try:
        return unseal(path, of)
    except DamagedError as error:
        warn(f"{error}: {again}.")
        return None


def warn(text: str) -> None:
    """Say that something is done again."""
    warnings.warn(text, DamageWarning, stacklevel=3)


def _damaged(path: Path) -> str:
    return f"{path} is {'damaged, or from another run' if path.exists() else 'gone'}"


def _over(whole: Mapping[str, Any], of: Any) -> str:
    return hashlib.sha256(json.dumps([of, whole], sort_keys=True).encode()).hexdigest()


def _is(path: Path, expected: str) -> bool:
    try:
        return _of_file(path) == expected
    except OSError:
        return False


def _of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(BLOCK):
            digest.update(chunk)
    return digest.hexdigest()
