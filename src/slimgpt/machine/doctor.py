"""What a machine has for slimgpt: versions, devices, memory, disk, extras."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from packaging.requirements import Requirement

from slimgpt.machine import devices, host
from slimgpt.machine.versions import versions

FOR_PEOPLE = {
    "eval": "slimgpt eval --tasks, --suite",
    "llama-cpp": "slimgpt export --format gguf --verify",
    "onnx": "slimgpt export --format onnx",
    "quantise": "--quantise",
    "ray": "slimgpt study --ray",
    "recover": "slimgpt recover",
    "report": "slimgpt report",
    "study": "slimgpt study",
    "vllm": "per-layer models in vLLM, by its own classes",
}
"""What users get of each extra; the others are for who works on slimgpt."""


def examine() -> dict[str, Any]:
    """Plain data: ``versions``, ``system``, ``devices``, ``memory`` and ``disk`` in bytes, ``extras``."""
    return {
        "versions": versions(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "devices": [_device(device) for device in _devices()],
        "memory": {"total": psutil.virtual_memory().total, "free": host.free_bytes()},
        "disk": {name: _disk(path) for name, path in {"here": Path(), "cache": host.cache_folder("")}.items()},
        "extras": {extra: _extra(extra) for extra in FOR_PEOPLE},
    }


def _devices() -> Iterator[torch.device]:
    yield torch.device("cpu")
    yield from (torch.device("cuda", index) for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        yield torch.device("mps")


def _device(device: torch.device) -> dict[str, Any]:
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    return {
        "device": str(device),
        "name": devices.device_name(device),
        "computes_in": str(devices.compute_dtype(torch.bfloat16, device)).removeprefix("torch."),
        "memory": memory,
    }


def _disk(path: Path) -> dict[str, Any]:
    """Free bytes where the folder is, or will be."""
    standing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return {"path": str(path.absolute()), "free": shutil.disk_usage(standing).free}


def _extra(extra: str) -> dict[str, Any]:
    """Its libraries: the installed version of each, None where it is missing or too old."""
    asked = [Requirement(line) for line in metadata.requires("slimgpt") or ()]
    own = [one for one in asked if one.marker is not None and _is_for(one, extra)]
    return {"gives": FOR_PEOPLE[extra], "libraries": {one.name: _installed(one) for one in own}}


def _is_for(requirement: Requirement, extra: str) -> bool:
    assert requirement.marker is not None
    return requirement.marker.evaluate({"extra": extra}) and not requirement.marker.evaluate({"extra": ""})


def _installed(requirement: Requirement) -> str | None:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return None
    return version if requirement.specifier.contains(version, prereleases=True) else None
