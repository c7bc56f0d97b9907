"""The options of ``slimgpt search``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from slimgpt.config.checks import at_least
from slimgpt.config.target import TargetOptions
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class SearchConfig(TargetOptions):
    """Say what each layer should keep at another ratio or target, from a search that was made before. Takes seconds."""

    cache: Annotated[str, Positional, arg(metavar="CACHE")]
    """Folder that slimgpt prune --allocation searched --search-cache CACHE has filled."""

    round_to: int = 8
    """FFN widths are multiples of this."""

    out: str | None = None
    """Also write the ratios to this YAML file, for slimgpt prune --allocation FILE."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        self.check_target()
        if self.target_latency is not None and self.latency_table is None:
            raise ConfigError(
                "slimgpt search --target-latency needs --latency-table FILE, which slimgpt prune --target-latency "
                "--latency-table FILE has measured."
            )
        at_least("round-to", self.round_to, 1)
