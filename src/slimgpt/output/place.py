"""Where an output goes: checked before work, worked for beside it, and given its name when it is whole.

A run works in ``OUT.partial``, which it holds: two runs into one OUT are one too many, whichever commands they are. The
finished folder (or file) is put together inside it and then renamed to ``OUT``. An older OUT that is to be replaced
waits in ``OUT.partial/replaced`` until then, so that at every moment one of the two is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from slimgpt.config.paths import path_of
from slimgpt.errors import OutputError, ProofError
from slimgpt.machine.atomic import sync
from slimgpt.machine.folder_lock import LOCK, FolderLock, clear, partial_folder, remove
from slimgpt.machine.full_disk import AGAIN, full_disk_named
from slimgpt.output.standing import FOLDER, MODEL, Kind, refuse_standing, standing

ONE_FILE_BYTES = 1 << 30  # up to this the weights are merged into one file, which has to pass through memory


SPARE_BYTES = 64 << 20  # tokenizer, record and room to breathe


FINISHED, REPLACED = "finished", "replaced"  # in the working folder: the output to be, and the older one it replaces
JOURNAL = "journal.json"  # in that of a run that can go on; without it there is nothing to go on from
MARKS = {LOCK, JOURNAL}  # by which a working folder is known for ours

NOTHING_KEPT = f"Nothing was kept. {AGAIN}"


class Place:
    """One output, from the first check to its name.

    Args:
        out: as the user wrote it.
        kind: what it is to be.
        option: what the user calls it.

    Attributes:
        out: where it goes, absolute.
        partial: the working folder beside it.
        finished: what is put together there, to become ``out``.
    """

    def __init__(self, out: str | Path, kind: Kind = MODEL, option: str = "OUT") -> None:
        self.out = Path(os.path.abspath(path_of(str(out), option)))
        self.partial = partial_folder(self.out)
        self.finished = self.partial / (FINISHED if kind.what == FOLDER else f"{FINISHED}{self.out.suffix}")
        self._kind = kind
        self._option = option
        self._lock = FolderLock(self.partial)
        self._force = False

    def check(self, model: Path | None, num_bytes: int | None, force: bool, resume: bool = False) -> None:
        """Refuse, before any work, an output that could not be written or would overwrite something.

        ``model`` is what it must stay clear of, and ``num_bytes`` its size, if they are known.

        Raises:
            OutputError: OUT exists, is the model or inside it, its parent is not a folder, the disk is too full, or
                another run is at work, or was, where this one would be.
        """
        self._check_apart(model)
        if self._is_working_folder():
            with self._lock:
                self._settle()
                self._refuse_unfinished(force or resume)
        self.refuse_standing(force or resume)
        self._check_room(num_bytes)

    def hold(self, force: bool, resume: bool = False) -> None:
        """Keep others out until :meth:`close`, set right what a run that died has left, and look again: what was
        checked before may have changed since.

        Raises:
            OutputError: as :meth:`check`.
        """
        self._lock.acquire()
        try:
            self._settle()
            self._refuse_unfinished(force or resume)
            self.refuse_standing(force or resume)
        except BaseException:  # whoever catches it may well try again
            self.close()
            raise
        self._force = force

    def close(self) -> None:
        """Let others in."""
        self._lock.release()

    @contextmanager
    def work(self, force: bool) -> Iterator[Path]:
        """The working folder, held and empty, for a command that has nothing to resume: it is gone afterwards, whatever
        happens. Only what could not be proved stays until the next run, for whoever wants to know why.
        """
        with full_disk_named(self.out.parent, NOTHING_KEPT):
            self.hold(force)
            unproved = False
            try:
                clear(self.partial)
                yield self.partial
                clear(self.partial)
            except ProofError:
                unproved = True
                raise
            except BaseException:
                clear(self.partial)
                raise
            finally:
                self.close()
                if unproved:
                    (self.partial / LOCK).touch()  # by which the next run knows that it may clear the folder

    def full_disk_named(self, num_bytes: int) -> AbstractContextManager[None]:
        """Inside, a disk that takes no more is an OutputError with the cure of a run that can be resumed."""
        return full_disk_named(_standing_parent(self.out), lambda: self._how_to_go_on(num_bytes))

    def publish(self) -> None:
        """Give what is finished its name, replacing an older OUT only now, and empty the working folder.

        No system renames one folder over another. Between the two renames the older OUT is ``OUT.partial/replaced``; a
        run that dies there is set right by the next one.

        Raises:
            OutputError: something has come to stand at OUT meanwhile.
        """
        self.refuse_standing(self._force)
        inside = sorted(self.finished.iterdir()) if self.finished.is_dir() else []
        for path in (*inside, self.finished):  # not all of them were written by us
            sync(path)
        if standing(self.out) is not None:
            os.replace(self.out, self.partial / REPLACED)
        os.replace(self.finished, self.out)
        sync(self.out.parent)
        clear(self.partial)

    def refuse_standing(self, force: bool) -> None:
        """Raise OutputError where something stands at OUT that is not to be replaced, or not ours."""
        refuse_standing(self.out, self._kind, self._option, force)

    def _check_apart(self, model: Path | None) -> None:
        standing(self.out)  # raises where no disk could bear the name
        out, here = _real(self.out), Path.cwd()
        say, choose = f"{self._option} {self.out}", f"choose another {self._kind.noun}."
        if model is not None and _real(model) in (out, *out.parents):
            raise OutputError(f"{say} is the model's own folder or inside it: {choose}")
        if model is not None and out in _real(model).parents:
            raise OutputError(f"{say} contains the model {model}: {choose}")
        if out in (here, *here.parents):
            raise OutputError(f"{say} is or contains the working folder: {choose}")

    def _is_working_folder(self) -> bool:
        """There is one, of ours.

        Raises:
            OutputError: something else has its name.
        """
        found = standing(self.partial)
        if found is None:
            return False
        inside = {path.name for path in self.partial.iterdir()} if found == FOLDER else {""}
        if inside and not inside & MARKS:
            raise OutputError(
                f"{self._option} {self.out}: the run would work in {self.partial}, {found} that slimgpt did not "
                "make: move it away, or choose another name."
            )
        return True

    def _settle(self) -> None:
        """Set right what a run that died while it assembled or published has left in its working folder."""
        older = self.partial / REPLACED
        if standing(older) is not None and standing(self.out) is None:
            os.replace(older, self.out)
        remove(self.finished)

    def _refuse_unfinished(self, allowed: bool) -> None:
        if (self.partial / JOURNAL).exists() and not allowed:
            raise OutputError(
                f"an unfinished run is in {self.partial}: continue it with --resume, or drop it with --force."
            )

    def _check_room(self, num_bytes: int | None) -> None:
        parent = _standing_parent(self.out)
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise OutputError(
                f"{self._option} {self.out} cannot be made: {parent} is not a folder that may be written to."
            )
        needed, free = self._bytes_to_write(num_bytes or 0), shutil.disk_usage(parent).free
        if num_bytes is not None and needed > free:
            raise OutputError(
                f"{self._option} {self.out} needs {_mib(needed)}, but {parent} has {_mib(free)} free: make room, or "
                "choose another disk."
            )

    def _bytes_to_write(self, num_bytes: int) -> int:
        """What a run still has to write, beside the layers that it has written."""
        written = sum(file.stat().st_size for file in self.partial.glob("*.safetensors"))
        return max(num_bytes - written, 0) + merged_bytes(num_bytes) + SPARE_BYTES

    def _how_to_go_on(self, num_bytes: int) -> str:
        remove(self.finished)
        needed, free = self._bytes_to_write(num_bytes), shutil.disk_usage(_standing_parent(self.out)).free
        return (
            f"The run has about {_mib(needed)} still to write there, and {_mib(free)} are free. Finished layers are "
            "kept: make room, and give the same command with --resume."
        )


def merged_bytes(num_bytes: int) -> int:
    """What passes through memory, and lies on the disk twice, where layers become one file."""
    return num_bytes if num_bytes <= ONE_FILE_BYTES else 0


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve it bears links that go round in a circle


def _standing_parent(out: Path) -> Path:
    """The nearest folder above OUT that is there: it tells the disk."""
    return next((folder for folder in out.parents if folder.exists()), Path("/"))


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
