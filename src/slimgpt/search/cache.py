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

from slimgpt.allocation.places import Place
from slimgpt.arch.family import FFN
from slimgpt.errors import ConfigError
from slimgpt.machine.atomic import write_json
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.sites import Kept

CURVES = "curves.json"
METRICS, HESSIANS = "metrics-{}.safetensors", "inputs-{}.safetensors"
SCHEMA = 3


@dataclass(frozen=True)
class LossCurve:
    """What one place could lose.

    Attributes:
        place: its units, and the members of each.
        loss: nats a token, ``loss[m][n]`` when m members of every unit are gone and then n units: one row for each m
            that leaves a unit something, n from 0 to N.
    """

    place: Place
    loss: tuple[tuple[float, ...], ...]

    def at(self, kept: Kept) -> float:
        """Nats a token when so much stays."""
        lost = 0 if kept.members is None else self.place.members - kept.members
        return self.loss[lost][self.place.num_units - kept.units]


@dataclass(frozen=True)
class LossCurves:
    """Loss curves of a whole model.

    Attributes:
        model: what the user named.
        num_params: parameters of the dense model.
        bytes_per_param: as the run that searched writes them.
        fingerprint: what the curves depend on.
        curves: of every place.
    """

    model: str
    num_params: int
    bytes_per_param: int
    fingerprint: dict[str, Any]
    curves: tuple[LossCurve, ...]

    @property
    def places(self) -> list[Place]:
        """What the model has."""
        return [curve.place for curve in self.curves]

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return 1 + max(place.layer for place in self.places if place.layer is not None)


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
        if schema in READERS:
            return READERS[schema](content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}): remove {folder} and search again.") from error
    if schema < SCHEMA:
        raise ConfigError(
            f"{path} was made by an older slimgpt (schema {schema}; this one writes {SCHEMA}): remove {folder} and "
            "search again."
        )
    raise ConfigError(f"{path} was made by a newer slimgpt (schema {schema}): pip install --upgrade slimgpt.")


def _curves(content: Mapping[str, Any]) -> LossCurves:
    curves = (LossCurve(Place(**entry["place"]), tuple(map(tuple, entry["loss"]))) for entry in content["curves"])
    return _of_model(content, tuple(curves))


def _curves_by_layer(content: Mapping[str, Any]) -> LossCurves:
    """Schema 2: for every layer its two parts, of which the FFN was the fine one."""
    curves = [
        LossCurve(Place(index, part, **entry["have"], fine=part == FFN), tuple(map(tuple, entry["loss"])))
        for index, layer in enumerate(content["layers"])
        for part, entry in layer.items()
    ]
    return _of_model(content, tuple(curves))


def _of_model(content: Mapping[str, Any], curves: tuple[LossCurve, ...]) -> LossCurves:
    return LossCurves(
        content["model"], content["num_params"], content["bytes_per_param"], content["fingerprint"], curves
    )


READERS = {2: _curves_by_layer, 3: _curves}


def write_metrics(folder: Path, index: int | None, metrics: Mapping[str, Tensor]) -> None:
    """Keep the metrics of a layer's sites, by the sites' names."""
    _write(folder / METRICS.format(layer_name(index)), metrics)


def read_metric(folder: Path, index: int | None, site: str) -> Tensor:
    """The metric of one site, O x O float32."""
    return _read(folder / METRICS.format(layer_name(index)), site)


def write_hessians(folder: Path, index: int | None, hessians: Mapping[str, Tensor]) -> None:
    """Keep the moments of what enters a layer's sites."""
    _write(folder / HESSIANS.format(layer_name(index)), hessians)


def read_hessian(folder: Path, index: int | None, site: str) -> Tensor:
    """X Xᵀ of what enters one site of the dense model, I x I float32."""
    return _read(folder / HESSIANS.format(layer_name(index)), site)


def has_hessians(folder: Path, num_layers: int) -> bool:
    """The search has kept the moments of all layers."""
    return all((folder / HESSIANS.format(layer_name(index))).is_file() for index in range(num_layers))


def layer_name(index: int | None) -> str:
    """A layer in the names of files; what is beside the layers is the model's."""
    return "model" if index is None else f"{index:05d}"


def _write(path: Path, of_site: Mapping[str, Tensor]) -> None:
    write_tensors(path, {name: tensor.cpu().contiguous() for name, tensor in of_site.items()})


def _read(path: Path, site: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(site)
        return tensor
