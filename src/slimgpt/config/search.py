"""The options of ``slimgpt search``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from slimgpt.config.checks import at_least
from slimgpt.config.prune import MAX_RATIO
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class SearchConfig:
    """Say what each layer should keep at another ratio, from a search that was made before. Takes seconds."""

    cache: Annotated[str, Positional, arg(metavar="CACHE")]
    """Folder that slimgpt prune --allocation searched --search-cache CACHE has filled."""

    ratio: float = 0.25
    """Removed fraction of all parameters, embeddings included, in [0, 0.9]."""

    round_to: int = 8
    """FFN widths are multiples of this."""

    attention_units: Literal["groups", "queries"] = "groups"
    """Under grouped-query attention. groups: a KV head goes with all its query heads. queries: query heads may go as
    well, equally many from every KV head that stays, where that costs less."""

    out: str | None = None
    """Also write the ratios to this YAML file, for slimgpt prune --allocation FILE."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if not (math.isfinite(self.ratio) and 0 <= self.ratio <= MAX_RATIO):
            raise ConfigError(
                f"--ratio {self.ratio} is outside [0, {MAX_RATIO}]: it is the removed fraction of all parameters."
            )
        at_least("round-to", self.round_to, 1)
