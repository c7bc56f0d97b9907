"""The options of ``slimgpt recover``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from slimgpt.config.calibration import Bos
from slimgpt.config.checks import Model, Out, at_least, check_seed
from slimgpt.errors import ConfigError

LORA_RATE = 1e-4
"""The paper's learning rate, for adapters."""

FULL_RATE = 3e-4
"""The learning rate where all weights learn."""


@dataclass(frozen=True)
class RecoverConfig:
    """Fine-tune a pruned model for a short time, by LoRA or whole, on data or towards the dense model's predictions."""

    model: Model
    """Local folder of the pruned (or any other) model."""

    out: Out
    """Folder of the recovered model, of the same layout; it appears only when it is complete."""

    data: str
    """JSONL, CSV, TSV or Parquet with instruction/input/output, or messages, or text in each row; or a text file."""

    teacher: str | None = None
    """The dense model: learn its predictions (forward KL) rather than the data's own tokens."""

    recipe: str | None = None
    """YAML file with any of these options; flags win over it."""

    mix: str | None = None
    """A second file of data, for example instructions beside general text."""

    mix_share: float = 0.2
    """Share of the training rows that comes from --mix."""

    loss_on: Literal["response", "all"] = "response"
    """Instructions and messages: learn the responses alone, or every token. Plain text is learned whole."""

    full: bool = False
    """Train all weights, but for embeddings and head, rather than LoRA adapters."""

    train_embeddings: bool = False
    """With --full: train embeddings and head too, which pruning has left as they were (slower)."""

    keep_zeros: bool = False
    """With --full: weights that are zero stay zero, as in a model made by slimgpt sparsify."""

    movement: float = 0.0
    """With --full and --keep last: prune while training, this share of every projection's weights by movement pruning
    (zeros in place, see slimgpt sparsify). 0 prunes nothing."""

    rank: int = 8
    """LoRA: rank of the adapters, on every projection that pruning touched."""

    alpha: float = 16.0
    """LoRA: adapters are scaled by alpha / rank."""

    dropout: float = 0.05
    """LoRA: dropout before the adapters."""

    learning_rate: float | None = None
    """Peak of the cosine schedule. Default: 1e-4 for LoRA (the paper's), 3e-4 with --full."""

    warmup: int = 10
    """Optimiser steps from 0 to the peak."""

    weight_decay: float = 0.0
    """AdamW's."""

    epochs: float = 1.0
    """Passes over the data. The teacher reads a row once, however often the student does."""

    max_steps: int = 0
    """Stop after so many optimiser steps, of as many rows as fill them in --epochs passes; 0 takes all rows."""

    batch_size: int = 64
    """Rows in one optimiser step, over all processes."""

    micro_batch_size: int = 0
    """Rows in one forward and backward pass of a process; the rest of the batch is accumulated. 0 chooses."""

    seqlen: int = 256
    """Tokens in a row; longer texts are cut into several, longer instructions cut off."""

    packing: bool = True
    """Put several short examples into one row, invisible to each other (not for OPT, whose rows hold one each)."""

    text_field: str = "text"
    """Column or field that holds plain text, or a list of chat messages; it comes before instructions and messages."""

    bos: Bos = "auto"
    """Every row begins with the beginning-of-sequence token, unless a chat template writes it. auto: where the
    tokenizer puts it before a text by itself. always, never: whatever the tokenizer does."""

    join_texts: bool = False
    """Plain texts run on: each sees what comes before it in its row. Dialogues stay apart."""

    temperature: float = 1.0
    """Distillation: softens both models' predictions."""

    top_k: int = 64
    """Distillation: the teacher's likeliest tokens that are kept for each position; the others count as one."""

    label_share: float = 0.0
    """Distillation: share of the text's own tokens in the loss over the vocabulary; the rest is the teacher's
    predictions (Hinton et al., https://arxiv.org/abs/1503.02531)."""

    hidden_weight: float = 0.0
    """Distillation: weight of the hidden states' relative error, by layer (runs the teacher at each step)."""

    teacher_cache: str | None = None
    """Distillation: folder that keeps the teacher's predictions for other runs. Default: beside the unfinished run."""

    teacher_streamed: bool = False
    """Distillation: leave the teacher's layers on disk and bring them in one after the other."""

    held_out: float = 0.05
    """Share of the examples set aside to choose the best checkpoint (64 rows of a file at most)."""

    eval_every: int = 0
    """Optimiser steps between measurements (and checkpoints) on the held-out examples; 0 makes ten a run."""

    keep: Literal["best", "last"] = "best"
    """best: the checkpoint that predicts the held-out examples best, and nothing where that is the model itself. last:
    what all steps led to, better or not, as a comparison of models after equal tuning needs it; no early stop."""

    patience: int = 3
    """Stop after so many measurements in a row without a better one."""

    extrapolate: bool = False
    """With --full: after training go on along the straight line from the first weights through the last ones, a tenth
    of the way at a time, while held-out perplexity falls (each tenth costs a measurement)."""

    keep_adapter: bool = False
    """LoRA: also write the adapter, to OUT/adapter."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third slower."""

    compile: bool = False
    """Compile the decoder layers by torch.compile: on a CPU a step takes a fifth less time, after one or two minutes
    (needs a C++ compiler; a GPU needs Triton)."""

    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the matrix products; auto takes bfloat16 where the device has it. With --full the weights that the optimiser
    holds are float32 in any case."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Several GPUs: start one process for each by accelerate launch or torchrun."""

    seed: int = 0
    """Seed of the order, the held-out examples, dropout and adapters."""

    resume: bool = False
    """Continue an interrupted run of the same command from its last checkpoint."""

    force: bool = False
    """Replace OUT if it exists, and start anew if an unfinished run is there."""

    @property
    def peak_rate(self) -> float:
        """The learning rate, or its default."""
        return self.learning_rate if self.learning_rate is not None else FULL_RATE if self.full else LORA_RATE

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        counts = ("rank", "batch_size", "top_k", "patience")
        for name in (*counts, "warmup", "max_steps", "micro_batch_size", "eval_every"):
            at_least(name.replace("_", "-"), getattr(self, name), int(name in counts))
        at_least("seqlen", self.seqlen, 2)
        check_seed(self.seed)
        for name in ("epochs", "alpha", "temperature", "peak_rate"):
            _positive(name.replace("peak_rate", "learning_rate"), getattr(self, name))
        for name in ("hidden_weight", "weight_decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 0 or more.")
        for name in ("dropout", "mix_share", "label_share", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)} is outside [0, 1).")
        if self.held_out == 0:
            raise ConfigError("--held-out 0 leaves nothing to choose the best checkpoint by: 0.05 is usual.")
        self._check_together()

    def _check_together(self) -> None:
        """Options that mean nothing without another one."""
        if self.teacher is None and any(
            (self.label_share, self.hidden_weight, self.teacher_cache, self.teacher_streamed)
        ):
            raise ConfigError(
                "--label-share, --hidden-weight, --teacher-cache and --teacher-streamed need --teacher DENSE."
            )
        if self.hidden_weight and self.teacher_cache:
            raise ConfigError("--teacher-cache: with --hidden-weight the teacher runs at each step. Drop one.")
        if self.train_embeddings and not self.full:
            raise ConfigError("--train-embeddings is for --full: adapters sit on the projections alone.")
        if not 0 <= self.movement < 1:
            raise ConfigError(f"--movement {self.movement} is outside [0, 1): it is the share of weights that go.")
        if self.movement and not (self.full and self.keep == "last"):
            raise ConfigError(
                "--movement scores the steps of all weights, and its sparsity rises to the last one: add --full and "
                "--keep last."
            )
        if self.extrapolate and not (self.full and self.keep == "best" and not self.movement):
            raise ConfigError(
                "--extrapolate needs --full, and goes with neither --keep last, which takes what all steps led to, nor "
                "--movement."
            )
        if self.keep_zeros and not self.full:
            raise ConfigError("--keep-zeros is for --full: merged adapters change every weight of a projection.")
        if self.full and self.keep_adapter:
            raise ConfigError("--keep-adapter: --full trains all weights, so there is no adapter. Drop one of the two.")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"--{name.replace('_', '-')} {value} must be above 0.")
