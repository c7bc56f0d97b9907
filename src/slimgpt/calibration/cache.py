"""Windows kept on disk, so that a second run on the same text neither reads nor tokenises it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save
from torch import Tensor

from slimgpt.calibration.row_text import TEXT_FIELD, RowText
from slimgpt.calibration.sampling import windows
from slimgpt.calibration.sources import resolve
from slimgpt.machine.host import cache_folder
from slimgpt.machine.seals import hashes, intact, seal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Part of every key: raise it whenever `windows` would draw other windows than before.
ALGORITHM_VERSION = 1
RECORD = ".json"  # beside the windows; it vouches for them


def cached_windows(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    num_windows: int,
    seqlen: int,
    seed: int,
    first: Sequence[int] = (),
    text_field: str = TEXT_FIELD,
) -> Tensor:
    """What :func:`~slimgpt.calibration.windows` returns, from ``$SLIMGPT_CACHE/windows`` if it is there.

    The default of ``SLIMGPT_CACHE`` is ``~/.cache/slimgpt``. Files count as unchanged while path, size and
    modification time are; a hub data set is not looked up again. A damaged entry is replaced, and a cache
    that cannot be written is done without.

    Raises:
        CalibrationError: as :func:`~slimgpt.calibration.windows`.
    """

    def make() -> Tensor:
        return windows(source, tokenizer, num_windows, seqlen, seed, first, text_field)

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in Python has no serialised form that could tell two apart
        return make()
    text_of = RowText(text_field, tokenizer)
    key = (resolve(source, text_of).identity, backend.to_str(), num_windows, seqlen, seed, *first, text_of.identity)
    return cached(key, make)


def cached(key: tuple[object, ...], make: Callable[[], Tensor]) -> Tensor:
    """The windows kept under ``key``, all that they depend on; made, and kept, if they are not there."""
    digest = hashlib.sha256(repr((ALGORITHM_VERSION, *key)).encode()).hexdigest()
    path = cache_folder("windows") / f"{digest}.safetensors"
    if intact(path.with_suffix(RECORD), digest, "the calibration windows are drawn again") is not None:
        return load_file(path)["windows_BT"]
    windows_BT = make()
    _write(path, windows_BT, digest)
    return windows_BT


def _write(path: Path, windows_BT: Tensor, digest: str) -> None:
    with suppress(OSError):  # a read-only or full disk costs the cache and nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            scratch = Path(folder, path.name)
            scratch.write_bytes(save({"windows_BT": windows_BT}))
            seal(scratch.with_suffix(RECORD), {}, digest, hashes(scratch.parent, [path.name]))
            # Renaming is atomic: a reader sees the old entry, the whole new one, or one that its record does not fit.
            os.replace(scratch, path)
            os.replace(scratch.with_suffix(RECORD), path.with_suffix(RECORD))
