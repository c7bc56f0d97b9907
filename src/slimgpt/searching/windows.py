"""Which calibration windows a search reads, and on which it tries allocations out."""

from __future__ import annotations

import math

from torch import Tensor

from slimgpt.errors import ConfigError

SHARE = 2
"""One calibration window in so many is searched on: a pass forward and back costs as much as pruning on two."""

SEARCHED_TOKENS = 65536
"""At most about so many tokens are searched on: what enters every layer is kept, which for a large model is much."""

TRIED_TOKENS = 4096
"""A candidate is judged on about so many tokens."""


def search_windows(windows_BT: Tensor, processes: int) -> Tensor:
    """The windows that are searched on: at least one for each process."""
    wanted = min(math.ceil(len(windows_BT) / SHARE), math.ceil(SEARCHED_TOKENS / windows_BT.shape[1]))
    return windows_BT[: max(processes, wanted)]


def tried_windows(num_candidates: int, windows_BT: Tensor, processes: int) -> Tensor:
    """The windows that candidates are judged on, which the search has not seen; none where nothing is tried.

    Raises:
        ConfigError: all windows are searched on, or several processes share them.
    """
    if num_candidates == 0:
        return windows_BT[:0]
    if processes > 1:
        raise ConfigError(
            f"--search-candidates {num_candidates} runs in one process, and here are {processes}: fill a "
            "--search-cache by slimgpt prune in one process first, or drop it."
        )
    unseen_BT = windows_BT[len(search_windows(windows_BT, processes)) :]
    if not len(unseen_BT):
        raise ConfigError(
            f"--search-candidates {num_candidates} needs calibration windows that the search does not read: "
            "raise --samples to 2 or more."
        )
    return unseen_BT[: math.ceil(TRIED_TOKENS / windows_BT.shape[1])]
