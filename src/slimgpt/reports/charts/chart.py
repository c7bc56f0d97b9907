"""A figure: drawn by matplotlib, put into the page as SVG whose colours and fonts are the page's, or into a file.

Figures are one column wide and are scaled a little by the page, so that their text can be read on a phone and on a
desktop alike.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from slimgpt.reports.palette import LIGHT, Style, as_variables

WIDTH = 380  # CSS pixels
POINTS_PER_INCH = 72
PNG_DPI = 200

SETTINGS: Any = {
    "svg.hashsalt": "slimgpt",  # else ids are random
    "svg.fonttype": "none",  # text stays text: it is searched, copied and set in the page's font
    "text.parse_math": False,  # names of users' files may hold dollars
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 10.5,
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["line"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.color": LIGHT["line"],
    "ytick.labelcolor": LIGHT["ink"],
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
}


@dataclass(frozen=True)
class Table:
    """What a figure shows, in numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """A figure with all that it takes to do without seeing it.

    Attributes:
        name: stem of its file and its ids, unique on the page.
        title: what it shows.
        reading: how to read it, and the axes' conventions.
        table: the same in numbers.
        figure: the drawing.
    """

    name: str
    title: str
    reading: str
    table: Table
    figure: Figure

    def inline(self) -> Markup:
        """The SVG element for the page: no prolog, ids of its own, colours by role."""
        buffer = io.StringIO()
        with settled():
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", svg)
        opening = f'<svg role="img" aria-labelledby="{self.name}-title {self.name}-reading" focusable="false"'
        return Markup(as_variables(svg.replace("<svg", opening, 1)))  # matplotlib escapes what it writes

    def save(self, path: Path, form: str) -> None:
        """Write it on the page's light paper."""
        nothing = {"Date": None} if form == "svg" else {"Software": None}
        with settled():
            self.figure.savefig(path, format=form, dpi=PNG_DPI, facecolor=LIGHT["paper"], metadata=nothing)


@contextmanager
def settled() -> Iterator[None]:
    """Our settings, and no word on letters that matplotlib's own font lacks: the browser has them."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@contextmanager
def canvas(height: float) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure, ``height`` CSS pixels high, to be drawn in our settings."""
    with settled():
        figure = Figure(figsize=(WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH), layout="constrained")
        yield figure, figure.add_subplot()


def legend(figure: Figure, labels: int) -> None:
    """Above the axes, in two columns where there are several."""
    figure.legend(loc="outside upper left", ncols=min(2, labels), borderaxespad=0.2, columnspacing=1.2)


def log_axis(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis, also where it spans less than a decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=8))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def look(chosen: Style, line: bool = True) -> dict[str, Any]:
    """matplotlib's words for a style."""
    face = chosen.colour if chosen.filled else LIGHT["paper"]
    return {
        "color": chosen.colour,
        "marker": chosen.marker,
        "linestyle": chosen.dash if line else "none",
        "markerfacecolor": face,
        "markeredgecolor": chosen.colour,
    }


def short(name: str, limit: int = 20) -> str:
    """A name that fits beside an axis; the end of a folder's name tells most."""
    return name if len(name) <= limit else "…" + name[1 - limit :]
