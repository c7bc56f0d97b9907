"""What ``slimgpt recover`` takes, by stage.

Formulas count tensors that are there at once where most of them are. Their factors are checked against measured peaks
(benchmarks/memory_plan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from slimgpt.arch.family import weight_OI
from slimgpt.config import RecoverConfig
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.proof.memory import proved
from slimgpt.recovery import lora
from slimgpt.solvers.memory import FLOAT32
from slimgpt.streaming import memory
from slimgpt.streaming.memory import Needs, Stage
from slimgpt.streaming.sizes import LayerSize, ModelSize

CURE = (
    "lower --micro-batch-size or --seqlen, add --gradient-checkpointing, train adapters instead of --full, or leave "
    "the teacher on disk with --teacher-streamed"
)
LEARNT = 3  # float32 numbers for each weight that learns: its gradient and AdamW's two moments
WIDE, NARROW, SCORES = 4, 12, 2  # of a layer, tensors that its backward pass needs: of the FFN, of the stream, scores
ADAPTED = 2 * FLOAT32 + 1  # bytes for each number that enters an adapter: in float32, dropped out, and which it was
LOGITS = 2  # and their gradient
LINE = 3  # float32 numbers for each weight that learns: the first, the last, and the model of the first
SCORED = 2 * FLOAT32 + 1  # bytes for each weight that movement scores: its score, its rest, its mask
TIED_UP = 1.1  # glibc keeps what is freed (machine.host.keep_memory), and not every hole fits what comes


@dataclass(frozen=True)
class Training:
    """A run, as far as memory goes by it.

    Attributes:
        config: the options.
        checkpoint: the model that learns.
        size: its numbers.
        teacher: the dense model's; None where there is none, or only transformers can read it.
        device: where training runs.
        computed: dtype of matrix products, and of weights that stay as they are.
        pass_tokens: tokens in one forward and backward pass.
        plain_attention: attention forms all its scores.
    """

    config: RecoverConfig
    checkpoint: Checkpoint
    size: ModelSize
    teacher: ModelSize | None
    device: torch.device
    computed: torch.dtype
    pass_tokens: int
    plain_attention: bool

    def needs(self) -> Needs:
        """Those of the run, with the proof of its folder."""
        written = self.checkpoint.dtype
        num_bytes = self.size.params * written.itemsize
        stages = proved(list(self._stages()), num_bytes, written, torch.float32, self.device)
        return memory.needs(stages, self.device)

    def _stages(self) -> Iterator[Stage]:
        if self.teacher is not None and not self.config.hidden_weight:
            yield _stage("the teacher's reading", {"teacher": self._of_teacher(), "logits": self._logits(1)})
        there = {"weights": self._weights(), "gradients and moments": LEARNT * FLOAT32 * self._learning()}
        yield _stage("training", {**there, **self._pass(), **self._beside()})
        if self.config.extrapolate:
            yield _stage("extrapolation", {**there, "the line": LINE * FLOAT32 * self._learning()})
        yield _stage("writing", {**there, "merged weights": 0 if self.config.full else FLOAT32 * self.size.params})

    def _weights(self) -> int:
        return self.size.params * (FLOAT32 if self.config.full else self.computed.itemsize)

    def _learning(self) -> int:
        """Weights that learn."""
        if self.config.full:
            return self.size.params - (0 if self.config.train_embeddings else self._in_tables())
        return self.config.rank * sum(map(sum, self._adapted()))

    def _in_tables(self) -> int:
        model: Any = self.checkpoint.skeleton
        tables = {id(table.weight): table.weight.numel() for table in _tables(model)}
        return sum(tables.values())

    def _adapted(self) -> list[tuple[int, int]]:
        """Outputs and inputs of each projection that has an adapter."""
        paths = lora.adapted_paths(self.checkpoint)
        weights = [weight_OI(layer.get_submodule(path)) for layer in self.checkpoint.layers for path in paths]
        return [(weight.shape[0], weight.shape[1]) for weight in weights]

    def _pass(self) -> dict[str, int]:
        """What a forward pass leaves for the backward pass."""
        layers = [self._of_layer(layer) for layer in self.size.layers]
        carried = self.pass_tokens * self.size.hidden * self._carried()
        kept = max(layers) + len(layers) * carried if self.config.gradient_checkpointing else sum(layers)
        return {"activations": kept, "logits": self._logits(LOGITS)}

    def _of_layer(self, layer: LayerSize) -> int:
        scores = SCORES * self.size.heads * self.config.seqlen * FLOAT32 if self.plain_attention else 0
        number = WIDE * layer.widest * self.computed.itemsize + NARROW * self.size.hidden * self._carried()
        adapted = (
            0 if self.config.full else ADAPTED * sum(inputs for _, inputs in self._adapted()) // len(self.size.layers)
        )
        return self.pass_tokens * (number + scores + adapted)

    def _carried(self) -> int:
        """Bytes of a number in the residual stream, which has the dtype of the weights."""
        return FLOAT32 if self.config.full else self.computed.itemsize

    def _logits(self, count: int) -> int:
        return count * self.pass_tokens * self.size.vocabulary * self.computed.itemsize

    def _beside(self) -> dict[str, int]:
        """What options keep beside the model."""
        found = {}
        if self.config.hidden_weight:
            states = 2 * (len(self.size.layers) + 1) * self.pass_tokens * self.size.hidden * self._carried()
            found["the teacher and hidden states"] = self._of_teacher() + states + self._logits(1)
        if self.config.movement:
            found["scores"] = SCORED * self._learning()
        if self.config.full and self.computed.itemsize < FLOAT32:
            found["weights in bfloat16"] = self.size.params * self.computed.itemsize
        return found

    def _of_teacher(self) -> int:
        if self.teacher is None:
            return 0
        params = self.teacher.rest + max(layer.params for layer in self.teacher.layers)
        return (params if self.config.teacher_streamed else self.teacher.params) * self.computed.itemsize


def _tables(model: Any) -> list[Any]:
    return [model.get_input_embeddings(), model.get_output_embeddings()]


def _stage(name: str, parts: dict[str, int]) -> Stage:
    return Stage(name, {part: round(TIED_UP * num_bytes) for part, num_bytes in parts.items()})
