"""Containers: what they pin is what slimgpt may use, and what they copy is there. (They are built by hand.)"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS = ("", "eval", "recover", "report", "study")
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))


def pinned() -> dict[str, str]:
    lines = (ROOT / "docker" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_dependency_is_pinned_within_its_range() -> None:
    versions = pinned()
    asked = [Requirement(line) for line in metadata.requires("slimgpt") or ()]
    own = [one for one in asked if one.marker is None or any(one.marker.evaluate({"extra": name}) for name in EXTRAS)]
    assert len(own) > 15
    for one in own:
        assert one.specifier.contains(versions[one.name.lower().replace("_", "-")], prereleases=True), one


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_it_copies_what_is_there_and_runs_as_nobody_special(file: Path) -> None:
    text = file.read_text()
    sources = [name for line in re.findall(r"^COPY (?!--from)(.*)", text, re.MULTILINE) for name in line.split()[:-1]]
    shown = {line.lstrip("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources and all((ROOT / name).exists() for name in sources) and set(sources) <= shown
    assert re.search(r"^USER (?!root)\w+", text, re.MULTILINE) and text.count("FROM ") == 2
    extras = re.search(r'"\.\[(.*)\]"', text)
    assert extras and {"", *extras[1].split(",")} == set(EXTRAS)
