"""The first layer with experts is tried before any work: without some of them it does what it does when its router
cannot choose them.

Shapes: T tokens · E experts · N that stay.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from slimgpt.errors import ConfigError, ModelError
from slimgpt.experts.choice import best
from slimgpt.experts.files import Files
from slimgpt.experts.masking import masked_router, masked_state
from slimgpt.experts.mixture import Mixture
from slimgpt.experts.repair import is_linear, last_projection
from slimgpt.experts.rerouting import Rerouting
from slimgpt.experts.watching import Routed, gates_of, watched
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.layer_loading import materialised, read_layer
from slimgpt.streaming.activations import ActivationRoom
from slimgpt.streaming.stream import ActivationStream

CPU, FLOAT32 = torch.device("cpu"), torch.float32
CLOSE = 1e-3  # of the difference that the missing experts make


class Rehearsal:
    """Of one model, on one short window.

    Args:
        checkpoint: the model.
        mixture: its experts.
        ids_T: the window's tokens.
    """

    def __init__(self, checkpoint: Checkpoint, mixture: Mixture, ids_T: Tensor) -> None:
        self._checkpoint = checkpoint
        self._mixture = mixture
        self._index = min(mixture.paths)
        self._path = mixture.paths[self._index]
        self._state = read_layer(checkpoint, self._index, None)
        self._stream = ActivationStream(checkpoint, ids_T[None], CPU, FLOAT32, 1, ActivationRoom(FLOAT32))
        for index in range(self._index):
            with materialised(checkpoint.layers[index], read_layer(checkpoint, index, None), CPU, FLOAT32) as layer:
                self._stream.advance(layer, index)
        self._dense, self.per_token = self._seen()

    def close(self) -> None:
        """Give its memory back."""
        self._state.clear()
        self._stream.close()

    def check(self, smaller: nn.Module, num_kept: int) -> None:
        """Compare ``smaller``, the same layer of a model that is built with fewer experts.

        Raises:
            ModelError: it does something else than the layer whose router cannot choose them.
        """
        mixture, prefix = self._mixture, self._checkpoint.layer_prefix(self._index)
        lots_E = torch.rand(mixture.num_experts, generator=torch.Generator().manual_seed(0))
        kept_N = best(lots_E, num_kept, mixture.groups)
        gone_E = torch.ones(mixture.num_experts, dtype=torch.bool).index_fill_(0, kept_N, False)
        dims = mixture.dims_inside(prefix)
        masked = masked_state(self._state, self._path, dims, gone_E)
        with self._filled(masked) as layer, masked_router(layer, self._path, dims, gone_E):
            expected = self._output(layer)
        with materialised(smaller, mixture.cut(prefix, self._state, kept_N), CPU, FLOAT32):
            found = self._output(smaller)
        change, off = float((expected - self._dense).abs().max()), float((found - expected).abs().max())
        if not (change > 0 and off <= CLOSE * change):
            raise ModelError(
                f"{self._checkpoint.source}: no experts of model_type {self._checkpoint.config.model_type!r} can be "
                f"removed: layer {self._index} without some of them is not what it is when its router cannot choose "
                f"them (off by {off:.2g}, where they change {change:.2g})."
            )

    def check_rerouting(self) -> None:
        """Run the router alone.

        Raises:
            ConfigError: it does not run by itself.
        """
        dims = self._mixture.dims_inside(self._checkpoint.layer_prefix(self._index))
        with self._filled(self._state) as layer, torch.inference_mode():
            rerouting, seen, routed = Rerouting(layer, self._path, dims), list[Tensor](), list[Tensor]()
            experts = layer.get_submodule(self._path)
            with rerouting.inputs(seen.append), watched(experts, lambda _, one: routed.append(gates_of(experts, one))):
                self._output(layer)
            if not (len(seen) == 1 and torch.allclose(rerouting.gates(seen[0], ()), routed[0], atol=CLOSE)):
                raise ConfigError(
                    "--expert-score exact: the router of this model looks at more than one token at a time. Use "
                    "--expert-score reap."
                )

    def can_repair(self, files: Files) -> bool:
        """The experts' last projections can be refitted, and written as they came."""
        name = last_projection(self._checkpoint.layers[self._index], self._path)
        if not files.can_renew(self._checkpoint.layer_prefix(self._index) + name, self._state[name]):
            return False
        found: list[Routed] = []
        with self._filled(self._state) as layer, torch.inference_mode():
            experts = layer.get_submodule(self._path)
            with watched(experts, lambda _, routed: found.append(routed)):
                self._output(layer)
            return is_linear(experts, found[0].x_TD)

    def _seen(self) -> tuple[Tensor, int]:
        """What the layer makes of the window, and how many experts a token has."""
        widths: list[int] = []

        def hear(module: nn.Module, routed: Routed) -> None:
            widths.append(routed.expert_TK.shape[1])

        with self._filled(self._state) as layer, watched(layer.get_submodule(self._path), hear):
            dense = self._output(layer)
        return dense, widths[0]

    def _filled(self, state: dict[str, Tensor]) -> AbstractContextManager[nn.Module]:
        return materialised(self._checkpoint.layers[self._index], state, CPU, FLOAT32)

    @torch.inference_mode()
    def _output(self, layer: nn.Module) -> Tensor:
        return self._stream.output(layer, self._index)
