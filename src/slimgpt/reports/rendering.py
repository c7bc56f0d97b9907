"""Templates to pages: one file with everything in it, in the colours of the palette."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from slimgpt._version import __version__
from slimgpt.reports import palette


def render(template: str, **content: Any) -> str:
    """The page that a template of ``reports/templates`` makes of its content; whatever it lacks is an error."""
    environment = Environment(
        loader=PackageLoader("slimgpt.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        version=__version__,
        light=palette.css_variables(palette.LIGHT),
        dark=palette.css_variables(palette.DARK),
        **content,
    )
