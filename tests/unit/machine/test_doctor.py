"""What ``slimgpt doctor`` finds and prints."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch

from slimgpt import cli
from slimgpt.machine import doctor
from slimgpt.reports import console


def test_it_finds_what_is_here() -> None:
    found = doctor.examine()
    assert found["versions"]["torch"] == torch.__version__
    assert found["devices"][0]["device"] == "cpu"
    assert 0 < found["memory"]["free"] <= found["memory"]["total"]
    assert all(place["free"] > 0 for place in found["disk"].values())


def test_every_extra_for_users_is_there_with_its_libraries() -> None:
    """As ``pyproject.toml`` has them; dev and docs are for who works on slimgpt."""
    extras = doctor.examine()["extras"]
    assert set(extras) == set(metadata.metadata("slimgpt").get_all("Provides-Extra") or ()) - {"dev", "docs"}
    assert set(extras["report"]["libraries"]) == {"jinja2", "matplotlib"}


def test_a_missing_library_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    version = metadata.version

    def without(name: str) -> str:
        if name == "matplotlib":
            raise metadata.PackageNotFoundError(name)
        return "3.0" if name == "jinja2" else version(name)  # too old

    monkeypatch.setattr(metadata, "version", without)
    monkeypatch.setattr(console.out, "width", 200)
    file = tmp_path / "doctor.json"
    assert cli.main(["doctor", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["extras"]["report"]["libraries"] == {"jinja2": None, "matplotlib": None}
    assert "lacks jinja2, matplotlib: pip install 'slimgpt[report]'" in " ".join(capsys.readouterr().out.split())
