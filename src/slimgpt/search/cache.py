"""The folder that a search leaves behind: loss curves and output metrics of every site, good for any ratio.

``curves.json`` for people and tools, and one safetensors file a layer with the metrics, which the solver scores units
with. Where allocations are tried out, another one a layer has the inputs' moments. The curves are written last: a
folder without them is not finished.

Shapes: O consumer outputs · I consumer inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from slimgpt.allocation.budget import LayerBudget, SiteBudget
from slimgpt.errors import ConfigError
from slimgpt.machine.atomic import write_json
from slimgpt.machine.tensor_files import write_tensors

CURVES = "curves.json"
METRICS, HESSIANS = "metrics-{:05d}.safetensors", "inputs-{:05d}.safetensors"
SCHEMA = 2


@dataclass(frozen=True)
class LossCurve:
    """What one part of a layer could lose.

    Attributes:
        have: its units, and the members of each.
        loss: nats a token, ``loss[m][n]`` when m members of every unit are gone and then n units: one row for each m
            that leaves a unit something, n from 0 to N.
    """

    have: SiteBudget
    loss: tuple[tuple[float, ...], ...]

    def at(self, units: int, members: int | None = None) -> float:
        """Nats a token when so many units stay, with so many members each (None: all)."""
        lost = 0 if members is None else self.have.members - members
        return self.loss[lost][self.have.num_units - units]


@dataclass(frozen=True)
class LossCurves:
    """Loss curves of a whole model.

    Attributes:
        model: what the user named.
        num_params: parameters of the dense model.
        bytes_per_param: as the run that searched writes them.
        fingerprint: what the curves depend on.
        layers: by layer, the curve of each part, ``"attention"`` and ``"ffn"``.
    """

    model: str
    num_params: int
    bytes_per_param: int
    fingerprint: dict[str, Any]
    layers: tuple[dict[str, LossCurve], ...]

    @property
    def budget(self) -> list[LayerBudget]:
        """What each layer has."""
        return [LayerBudget(layer["attention"].have, layer["ffn"].have) for layer in self.layers]


def write_curves(folder: Path, curves: LossCurves) -> None:
    """Finish a cache."""
    write_json(folder / CURVES, {"schema": SCHEMA, "kind": "search", **asdict(curves)})


def read_curves(folder: Path) -> LossCurves:
    """The curves of a finished search.

    Raises:
        ConfigError: there are none, they are damaged, or another version of slimgpt has made them.
    """
    path = folder / CURVES
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no search: it has no {CURVES}. slimgpt prune MODEL OUT --allocation searched "
            "--search-cache FOLDER makes one."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = int(content["schema"])
        if schema == SCHEMA:
            return _curves(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}): remove {folder} and search again.") from error
    if schema < SCHEMA:
        raise ConfigError(
            f"{path} was made by an older slimgpt (schema {schema}; this one writes {SCHEMA}): remove {folder} and "
            "search again."
        )
    raise ConfigError(f"{path} was made by a newer slimgpt (schema {schema}): pip install --upgrade slimgpt.")


def _curves(content: Mapping[str, Any]) -> LossCurves:
    layers = tuple(
        {part: LossCurve(SiteBudget(**c["have"]), tuple(map(tuple, c["loss"]))) for part, c in layer.items()}
        for layer in content["layers"]
    )
    return LossCurves(
        content["model"], content["num_params"], content["bytes_per_param"], content["fingerprint"], layers
    )


def write_metrics(folder: Path, index: int, metrics: Mapping[str, Tensor]) -> None:
    """Keep the metrics of a layer's sites, by the sites' names."""
    _write(folder / METRICS.format(index), metrics)


def read_metric(folder: Path, index: int, site: str) -> Tensor:
    """The metric of one site, O x O float32."""
    return _read(folder / METRICS.format(index), site)


def write_hessians(folder: Path, index: int, hessians: Mapping[str, Tensor]) -> None:
    """Keep the moments of what enters a layer's sites."""
    _write(folder / HESSIANS.format(index), hessians)


def read_hessian(folder: Path, index: int, site: str) -> Tensor:
    """X Xᵀ of what enters one site of the dense model, I x I float32."""
    return _read(folder / HESSIANS.format(index), site)


def has_hessians(folder: Path, num_layers: int) -> bool:
    """The search has kept the moments of all layers."""
    return all((folder / HESSIANS.format(index)).is_file() for index in range(num_layers))


def _write(path: Path, of_site: Mapping[str, Tensor]) -> None:
    write_tensors(path, {name: tensor.cpu().contiguous() for name, tensor in of_site.items()})


def _read(path: Path, site: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(site)
        return tensor
