"""The folder that a search leaves behind: loss curves and output metrics of every site, good for any ratio.

``curves.json`` for people and tools, and one safetensors file a layer with the metrics, which the solver scores units
with. Where allocations are tried out, another one a layer has the inputs' moments. The curves are written last, and
vouch for the other files: a folder without them is not finished. What is found with a search is sealed as of it.

Shapes: O consumer outputs · I consumer inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from slimgpt.allocation.places import Place
from slimgpt.errors import ConfigError, DamagedError
from slimgpt.machine.json_files import read_object
from slimgpt.machine.seals import FILES, hashes, intact, seal, unseal
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.sites import Kept

CURVES = "curves.json"
METRICS, HESSIANS = "metrics-{}.safetensors", "inputs-{}.safetensors"
KIND, SCHEMA = "search", 4


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


def write_curves(folder: Path, curves: LossCurves, files: Mapping[str, str]) -> None:
    """Finish a cache, whose other files have these hashes."""
    seal(folder / CURVES, {"schema": SCHEMA, "kind": KIND, **asdict(curves)}, KIND, files)


def is_intact(folder: Path) -> bool:
    """All files of a finished search are as they were written."""
    return intact(folder / CURVES, KIND, "the search is done again") is not None


def identity(folder: Path) -> str:
    """What tells a finished search from others: the hash of its curves, which holds those of its other files."""
    return hashes(folder, [CURVES])[CURVES]


def read_curves(folder: Path) -> LossCurves:
    """The curves of a finished search; nothing is said of its other files.

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
        schema = int(read_object(path)["schema"])
        if schema == SCHEMA:
            return _curves(_record(folder))
    except DamagedError as error:
        raise ConfigError(f"{error}: remove {folder} and search again.") from error
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}): remove {folder} and search again.") from error
    if schema < SCHEMA:
        raise ConfigError(
            f"{path} was made by an older slimgpt (schema {schema}; this one writes {SCHEMA}): remove {folder} and "
            "search again."
        )
    raise ConfigError(f"{path} was made by a newer slimgpt (schema {schema}): pip install --upgrade slimgpt.")


def _record(folder: Path) -> dict[str, Any]:
    return unseal(folder / CURVES, KIND, checked=lambda name: False) or {}


def _curves(content: Mapping[str, Any]) -> LossCurves:
    curves = (LossCurve(Place(**entry["place"]), tuple(map(tuple, entry["loss"]))) for entry in content["curves"])
    return LossCurves(
        content["model"], content["num_params"], content["bytes_per_param"], content["fingerprint"], tuple(curves)
    )


def write_metrics(folder: Path, index: int | None, metrics: Mapping[str, Tensor]) -> dict[str, str]:
    """Keep the metrics of a layer's sites, by the sites' names; the file's hash."""
    return _write(folder, METRICS.format(layer_name(index)), metrics)


def read_metric(folder: Path, index: int | None, site: str) -> Tensor:
    """The metric of one site, O x O float32."""
    return _read(folder / METRICS.format(layer_name(index)), site)


def write_hessians(folder: Path, index: int | None, hessians: Mapping[str, Tensor]) -> dict[str, str]:
    """Keep the moments of what enters a layer's sites; the file's hash."""
    return _write(folder, HESSIANS.format(layer_name(index)), hessians)


def read_hessian(folder: Path, index: int | None, site: str) -> Tensor:
    """X Xᵀ of what enters one site of the dense model, I x I float32."""
    return _read(folder / HESSIANS.format(layer_name(index)), site)


def has_hessians(folder: Path, num_layers: int) -> bool:
    """The search has kept the moments of all layers."""
    return {HESSIANS.format(layer_name(index)) for index in range(num_layers)} <= set(_record(folder)[FILES])


def layer_name(index: int | None) -> str:
    """A layer in the names of files; what is beside the layers is the model's."""
    return "model" if index is None else f"{index:05d}"


def _write(folder: Path, name: str, of_site: Mapping[str, Tensor]) -> dict[str, str]:
    write_tensors(folder / name, {site: tensor.cpu().contiguous() for site, tensor in of_site.items()})
    return hashes(folder, [name])


def _read(path: Path, site: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(site)
        return tensor
