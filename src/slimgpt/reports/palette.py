"""Colours of the page and its figures, by role, for light and dark.

Figures are drawn in the light colours, and on the page every colour becomes the CSS variable of its role, which dark
mode changes. The series are Okabe and Ito's (https://jfly.uni-koeln.de/color), which colour-blind people tell apart,
darkened or lightened until they stand out from the paper; and as no meaning hangs on colour alone, each has a marker
and a dash of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LIGHT = {
    "paper": "#fcfbf8",
    "panel": "#f4f1ea",
    "line": "#d8d2c7",
    "muted": "#625c54",
    "ink": "#1d1b19",
    "series-1": "#0069a8",
    "series-2": "#c04a00",
    "series-3": "#007557",
    "series-4": "#a03f78",
    "series-5": "#8a6400",
}
DARK = {
    "paper": "#171614",
    "panel": "#211f1c",
    "line": "#45413a",
    "muted": "#aba499",
    "ink": "#f1ede6",
    "series-1": "#62b6ee",
    "series-2": "#ff9457",
    "series-3": "#3fc99f",
    "series-4": "#ea9fca",
    "series-5": "#e3b63c",
}

MARKERS = ("s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)))


@dataclass(frozen=True)
class Style:
    """How one model looks in every figure."""

    colour: str
    marker: str
    dash: object
    filled: bool = True


DENSE = Style(LIGHT["ink"], "o", (0, (2, 2)), filled=False)


def style(index: int) -> Style:
    """The look of the run ``index``; after five, markers and dashes meet other colours."""
    shift = index // len(MARKERS)
    return Style(
        LIGHT[f"series-{index % 5 + 1}"],
        MARKERS[(index + shift) % len(MARKERS)],
        DASHES[(index + 2 * shift) % len(DASHES)],
    )


def as_variables(text: str) -> str:
    """Every light colour in ``text`` as the CSS variable of its role."""
    roles = {colour: role for role, colour in LIGHT.items()}
    return re.sub("|".join(roles), lambda found: f"var(--{roles[found[0]]})", text)


def css_variables(colours: dict[str, str]) -> str:
    """Declarations of all roles."""
    return " ".join(f"--{role}: {colour};" for role, colour in colours.items())
