"""What lies in memory while text goes through the layers, by stage: the plan of :mod:`slimgpt.streaming.stream`.

Formulas count tensors that are there at once where most of them are. Their factors are counted in the code that they
are about, and checked against measured peaks (benchmarks/memory_plan.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slimgpt.machine import host
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.streaming.memory import Stage
from slimgpt.streaming.sizes import LayerSize, ModelSize, SiteSize, model_size

FLOAT32 = 4  # bytes
WIDE, NARROW = 4, 4  # tensors of a gated FFN's width, and of the residual stream's, at once in a layer's forward pass
SCORES = 3  # tensors of all attention scores, where an attention forms them
HELD = 2  # blocks that glibc may keep of those that it does not map anew each time
IN_FLIGHT = 3  # layers on the host at once: one that is read, one at work, one that is written
CONVEYED = 3  # batches of each kept tensor on a GPU at once: the one at work, the one that comes, the one that goes


@dataclass(frozen=True)
class Passage:
    """Text on its way through the layers.

    Attributes:
        size: of the model.
        device: where layers run.
        tokens: of this process.
        used_tokens: different ones among them.
        seqlen: tokens of a window.
        batch_tokens: tokens of a batch.
        computed: dtype in which layers run.
        written: dtype in which they are read and written.
        carried: dtype in which activations are kept.
    """

    size: ModelSize
    device: torch.device
    tokens: int
    used_tokens: int
    seqlen: int
    batch_tokens: int
    computed: torch.dtype
    written: torch.dtype
    carried: torch.dtype

    def kept(self, width: int) -> int:
        """So many numbers of every token."""
        return self.tokens * width * self.carried.itemsize

    def batch(self, layer: LayerSize, wide: int = WIDE, narrow: int = NARROW, scores: int = SCORES) -> int:
        """What a layer makes of a batch, at most at once: so many tensors of each kind."""
        formed = scores * self.size.heads * self.seqlen if self.size.eager else 0
        of_token = wide * layer.widest + narrow * self.size.hidden + formed
        held = HELD * min(self._wide_block(layer), host.MAPPED_BYTES) if self.device.type == "cpu" else 0
        return self.batch_tokens * of_token * self.computed.itemsize + held

    def _wide_block(self, layer: LayerSize) -> int:
        return self.batch_tokens * layer.widest * self.computed.itemsize

    def weights(self, layer: LayerSize) -> tuple[int, int]:
        """Bytes of layers, on the device and beside it on the host."""
        in_flight = IN_FLIGHT * layer.params * self.written.itemsize
        if self.device.type == "cpu" and self.written == self.computed:
            return 0, in_flight  # the one at work is one of them
        return layer.params * self.computed.itemsize, in_flight

    def stage(
        self, name: str, layer: LayerSize, width: int, device: Mapping[str, int], host: Mapping[str, int] | None = None
    ) -> Stage:
        """A stage at a layer, while ``width`` numbers a token are kept."""
        at_work, in_flight = self.weights(layer)
        conveyed = CONVEYED * self.batch_tokens * width * self.computed.itemsize if self.device.type == "cuda" else 0
        on_device = {"a layer at work": at_work, "batches on their way": conveyed, **device}
        return Stage(name, on_device, {"layers": in_flight, **(host or {})}, self.kept(width))

    def embedding(self) -> Stage:
        """The residual stream is filled."""
        table = self.used_tokens * self.size.hidden * self.computed.itemsize
        others = max(self.size.rest - 2 * self.size.vocabulary * self.size.hidden, 0) * self.computed.itemsize
        batch = self.batch_tokens * self.size.hidden * self.computed.itemsize
        return Stage(
            "embedding", host={"embeddings": table + others, "a batch": batch}, activations=self.kept(self.size.hidden)
        )

    def writing(self, merged_bytes: int) -> Stage:
        """What is outside the layers, and the layers where all goes into one file of ``merged_bytes`` (they are
        mapped)."""
        layers = max(merged_bytes - self.size.rest * self.written.itemsize, 0)
        return Stage(
            "writing", host={"embeddings and head": self.size.read(self.size.rest, self.written), "layers": layers}
        )


def passage_of(
    checkpoint: Checkpoint,
    windows_BT: Tensor | None,
    seqlen: int,
    batch_size: int,
    device: torch.device,
    computed: torch.dtype,
    written: torch.dtype,
) -> Passage:
    """That of these windows, or of none."""
    num_windows = 0 if windows_BT is None else len(windows_BT)
    return Passage(
        size=model_size(checkpoint, device),
        device=device,
        tokens=num_windows * seqlen,
        used_tokens=0 if windows_BT is None else len(windows_BT.unique()),
        seqlen=seqlen,
        batch_tokens=min(batch_size, num_windows) * seqlen,
        computed=computed,
        written=written,
        carried=checkpoint.dtype,
    )


def statistics(part: tuple[SiteSize, ...], with_gap: bool = False) -> int:
    """Bytes of the accumulators of one part's sites; those of an error correction are two, each with a cross moment."""
    squares = sum(site.num_inputs**2 for site in part)
    crosses = sum(site.num_outputs * site.num_inputs for site in part)
    return FLOAT32 * (2 * (squares + crosses) if with_gap else squares)
