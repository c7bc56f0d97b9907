"""Where an output goes: checked before work, worked for beside it, and given its name when it is whole.

A run works in ``OUT.partial``. The finished folder is put together inside it and then renamed to ``OUT``. An older OUT
that is to be replaced waits in ``OUT.partial/replaced`` until then, so that at every moment one of the two is there.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimgpt.errors import OutputError
from slimgpt.machine.atomic import sync
from slimgpt.machine.folder_lock import FolderLock
from slimgpt.model.schema import RECORD

ONE_FILE_BYTES = 1 << 30  # up to this the weights are merged into one file, which has to pass through memory


SPARE_BYTES = 64 << 20  # tokenizer, record and room to breathe


FINISHED, REPLACED = "finished", "replaced"  # in the working folder: the output to be, and the older one it replaces


FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than the system allows (see ulimit -f)",
}


def partial_folder(out: Path) -> Path:
    """Where a run works until it is done."""
    return out.parent / f"{out.name}.partial"


def check_output(out: Path, model: Path, bytes_after: int, force: bool, resume: bool) -> None:
    """Refuse, before any work, an output that could not be written or would overwrite something.

    Raises:
        OutputError: OUT exists, is the model or inside it, its parent is not a folder, or the disk is too full.
    """
    check_place(out, model, force or resume)
    if out.is_file():
        raise OutputError(f"OUT {out} is a file: name a folder.")
    check_ours(out)
    partial = partial_folder(out)
    if partial.exists() and not (resume or force):
        raise OutputError(f"an unfinished run is in {partial}: continue it with --resume, or drop it with --force.")
    check_room(out, bytes_after)


def check_ours(out: Path) -> None:
    """Refuse to replace a folder with anything in it that slimgpt did not make.

    Raises:
        OutputError: it has no record.
    """
    if out.is_dir() and not (out / RECORD).is_file() and any(out.iterdir()):
        raise OutputError(
            f"OUT {out} has no {RECORD}, so slimgpt did not make it and --force does not replace it: "
            "choose another folder, or remove it yourself."
        )


def check_place(out: Path, model: Path, force: bool) -> None:
    """Refuse an output that would overwrite something or lie in the model.

    Raises:
        OutputError: OUT exists and ``force`` is off, or it is, holds, or lies in the model.
    """
    if out.resolve() == model.resolve() or model.resolve() in out.resolve().parents:
        raise OutputError(f"OUT {out} is the model's own folder or inside it: choose another folder.")
    if out.resolve() in model.resolve().parents:
        raise OutputError(f"OUT {out} contains the model {model}: choose another folder.")
    if out.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise OutputError(f"OUT {out} is or contains the working folder: choose another folder.")
    if out.exists() and not force:
        raise OutputError(f"OUT {out} exists: choose another folder, or replace it with --force.")


def check_room(out: Path, bytes_after: int) -> None:
    """Refuse an output that its disk cannot hold.

    Raises:
        OutputError: the parent of OUT is not a folder that may be written to, or its disk is too full.
    """
    parent = _standing_parent(out)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"OUT {out} cannot be made: {parent} is not a folder that may be written to.")
    needed, free = _bytes_to_write(out, bytes_after), shutil.disk_usage(parent).free
    if needed > free:
        raise OutputError(
            f"OUT {out} needs {needed / 2**20:,.0f} MiB, but {parent} has {free / 2**20:,.0f} MiB free: "
            "make room, or choose another disk."
        )


def _standing_parent(out: Path) -> Path:
    """The nearest folder above OUT that is there: it tells the disk."""
    return next((folder for folder in out.absolute().parents if folder.exists()), Path("/"))


def _bytes_to_write(out: Path, bytes_after: int) -> int:
    """What a run still has to write, beside the layers that it has written."""
    partial = partial_folder(out)
    written = sum(file.stat().st_size for file in partial.glob("*.safetensors")) if partial.is_dir() else 0
    merging = bytes_after if bytes_after <= ONE_FILE_BYTES else 0
    return max(bytes_after - written, 0) + merging + SPARE_BYTES


@contextmanager
def full_disk_named(out: Path, bytes_after: int) -> Iterator[None]:
    """Inside, a disk that takes no more is an OutputError with the cure."""
    try:
        yield
    except Exception as error:  # libraries in Rust raise errors of their own kinds
        reason = FULL.get(_system_error(error) or 0)
        if reason is None:
            raise
        shutil.rmtree(partial_folder(out) / FINISHED, ignore_errors=True)
        parent = _standing_parent(out)
        needed, free = _bytes_to_write(out, bytes_after), shutil.disk_usage(parent).free
        raise OutputError(
            f"{parent}: {reason}. The run has about {needed / 2**20:,.0f} MiB still to write there, and "
            f"{free / 2**20:,.0f} MiB are free. Finished layers are kept: make room, and give the same command with "
            "--resume."
        ) from error


def _system_error(error: Exception) -> int | None:
    """The number of the system's error: of Python's kind, or in the text of a library's."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def recover(out: Path) -> None:
    """Set right what a run that died while it assembled or published has left in its working folder.

    Raises:
        OutputError: that run has not died.
    """
    with FolderLock(partial := partial_folder(out)):
        if (partial / REPLACED).exists() and not out.exists():
            os.replace(partial / REPLACED, out)
        shutil.rmtree(partial / FINISHED, ignore_errors=True)


def publish(finished: Path, out: Path) -> None:
    """Give the finished folder (or file) its name, replacing an older OUT only now, and drop the working folder.

    No system renames one folder over another. Between the two renames the older OUT is ``OUT.partial/replaced``; a run
    that dies there is set right by :func:`recover`.
    """
    partial = partial_folder(out)
    inside = sorted(finished.iterdir()) if finished.is_dir() else []
    for path in (*inside, finished):  # not all of them were written by us
        sync(path)
    if out.exists():
        os.replace(out, partial / REPLACED)
    os.replace(finished, out)
    sync(out.parent)
    shutil.rmtree(partial)
