"""The loop over rounds and layers: watch what enters the projections of a layer, put zeros into them, go on through it.

A round carries the calibration tokens through the layers that it has made sparse itself. The next round starts from
what this one has written, with new statistics.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from slimgpt.arch.family import projections, weight_OI
from slimgpt.errors import NumericalError
from slimgpt.machine.clock import Clock
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.model import surgery
from slimgpt.model.layer_loading import materialised, read_layer
from slimgpt.model.weights import require_finite
from slimgpt.solvers.linalg import relative_error
from slimgpt.sparsity.inputs import LayerInputs, watched_inputs
from slimgpt.sparsity.job import Job
from slimgpt.sparsity.masks import METHODS, NEED_INPUTS
from slimgpt.sparsity.masks.method import MaskOptions
from slimgpt.sparsity.outliers import outlier_share
from slimgpt.streaming.activations import ActivationRoom
from slimgpt.streaming.observer import StreamObserver
from slimgpt.streaming.prefetch import Prefetcher
from slimgpt.streaming.stream import ActivationStream


class Rounds:
    """Carries a job out in its working folder, where every layer has a shard that each round replaces.

    Args:
        job: the checked job.
        folder: the working folder.
        observer: is told how it goes.
        clock: seconds by stage.
    """

    def __init__(self, job: Job, folder: Path, observer: StreamObserver, clock: Clock) -> None:
        self.job = job
        self.folder = folder
        self.observer = observer
        self.clock = clock
        self.needs_inputs = job.config.method in NEED_INPUTS

    def shard(self, index: int) -> Path:
        """Where the weights of layer ``index`` lie."""
        return self.folder / f"layer-{index:05d}.safetensors"

    def outliers(self) -> list[float]:
        """The share of outliers in every layer of the dense model."""
        shares = []
        with closing(self._open_stream()) as stream:
            for index, layer in self._layers("outliers", first=True, passes=1):
                with self._timed("statistics"), watched_inputs(layer) as inputs:
                    stream.advance(layer, index)
                with self._naming(index):
                    shares.append(_outlier_share(layer, inputs))
        return shares

    def carry_out(self, name: str, sparsities: Sequence[Mapping[str, float]], first: bool) -> list[dict[str, Any]]:
        """One round: every projection as sparse as it is told, by layer and path; what came of it, by layer."""
        records = []
        with closing(self._open_stream()) if self.needs_inputs else nullcontext() as stream:
            for index, layer in self._layers(name, first, passes=2):
                records.append(self._layer(layer, index, sparsities[index], stream))
        return records

    def _layers(self, name: str, first: bool, passes: int) -> Iterator[tuple[int, nn.Module]]:
        """The layers one after the other, each with its weights while it is its turn."""
        job, num_layers = self.job, len(self.job.checkpoint.layers)
        windows_BT = job.windows_BT
        self.observer.stage(name, windows_BT.numel() * passes * num_layers if windows_BT is not None else None)
        read = partial(read_layer, job.checkpoint, dtype=job.stored_dtype) if first else self.written
        with closing(Prefetcher(read, num_layers)) as states:
            for index in range(num_layers):
                layer = job.checkpoint.layers[index]
                with materialised(layer, states.get(index), job.device, job.compute_dtype):
                    yield index, layer

    def written(self, index: int) -> dict[str, Tensor]:
        """Weights of a layer as the last round has left them, by their names in the layer."""
        prefix = self.job.checkpoint.layer_prefix(index)
        return {name.removeprefix(prefix): tensor for name, tensor in load_file(self.shard(index)).items()}

    def _layer(
        self, layer: nn.Module, index: int, sparsities: Mapping[str, float], stream: ActivationStream | None
    ) -> dict[str, Any]:
        inputs = None
        if stream is not None:
            with self._timed("statistics"), watched_inputs(layer) as inputs:
                stream.visit(layer, index)
        record = {}
        with self._timed("masks"), self._naming(index):
            for path, sparsity in sparsities.items():
                record[path] = self._projection(layer, index, path, sparsity, inputs)
        if stream is not None:
            with self._timed("advance"):
                stream.advance(layer, index)
        with self._timed("write"):
            prefix, dtype = self.job.checkpoint.layer_prefix(index), self.job.stored_dtype
            state = layer.state_dict()
            write_tensors(self.shard(index), {prefix + key: state[key].to("cpu", dtype).contiguous() for key in state})
        return record

    def _projection(
        self, layer: nn.Module, index: int, path: str, sparsity: float, inputs: LayerInputs | None
    ) -> dict[str, Any]:
        """Put zeros into one projection. What comes later must see the weight that will be on disk: it is rounded."""
        config, dtype = self.job.config, self.job.stored_dtype
        before_OI = weight_OI(layer.get_submodule(path))
        hessian_II = inputs.hessian_II(path) if inputs is not None else None
        seed = (config.seed + zlib.crc32(f"{index} {path}".encode())) % 2**63
        group = config.kept_of_group[1] if config.kept_of_group else 0
        options = MaskOptions(group, config.damping, seed)
        after_OI = METHODS[config.method](before_OI, hessian_II, sparsity, options)
        require_finite("the repaired weight", after_OI, dtype)
        after_OI = after_OI.to(dtype).to(before_OI)
        surgery.replace_weight(layer, path, after_OI)
        all_I = torch.ones(before_OI.shape[1], dtype=torch.bool)
        return {
            "shape": list(before_OI.shape),
            "zeros": int((after_OI == 0).sum()),
            "error": None if hessian_II is None else relative_error(before_OI, hessian_II, all_I, after_OI),
        }

    def _open_stream(self) -> ActivationStream:
        job = self.job
        assert job.windows_BT is not None
        with self._timed("embed"):
            return ActivationStream(
                job.checkpoint,
                job.windows_BT,
                job.device,
                job.compute_dtype,
                job.batch_size,
                ActivationRoom(
                    job.checkpoint.dtype,
                    self.folder / "activations" if job.needs.offloaded else None,
                    pinned=job.device.type == "cuda",
                ),
                self.observer.tokens,
            )

    def _timed(self, stage: str) -> Any:
        return self.clock.timed(stage, self.job.device)

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Give a numerical failure the number of the layer that it happened in."""
        try:
            yield
        except NumericalError as error:
            raise NumericalError(f"layer {index}: {error}") from error


def _outlier_share(layer: nn.Module, inputs: LayerInputs) -> float:
    """The share of outliers in a layer, of what its inputs were."""
    modules = projections(layer)
    norms = [inputs.hessian_II(path).diagonal().sqrt() for path in modules]
    return outlier_share([weight_OI(module) for module in modules.values()], norms)
