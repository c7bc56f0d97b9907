"""The options of ``slimgpt report``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class ReportConfig:
    """Make one page, readable offline in any browser, of what is known about pruned models."""

    runs: Annotated[tuple[str, ...], Positional, arg(metavar="RUN...")]
    """Folders made by slimgpt prune or slimgpt recover; their measured/*.json are read too."""

    out: Annotated[str, arg(aliases=("-o",))] = "report.html"
    """The page to make."""

    dense: str | None = None
    """Folder with eval.json and bench.json of the dense model."""

    figures: str | None = None
    """Also write every figure into this folder."""

    figure_format: Literal["png", "svg"] = "png"
    """Format of those files."""

    force: bool = False
    """Replace the page, and figures, that exist."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if not self.runs:
            raise ConfigError("no RUN is named: give folders made by slimgpt prune, slimgpt report RUN -o report.html.")
        if not self.out.endswith((".html", ".htm")):
            raise ConfigError(f"--out {self.out!r} must end in .html, by which browsers know the format.")
