"""The options of ``slimgpt eval``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slimgpt.config.checks import Model, at_least, check_seed
from slimgpt.errors import ConfigError


@dataclass(frozen=True)
class EvalConfig:
    """Measure a model: perplexity on a text, zero-shot and few-shot tasks, and how it differs from another model."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    text: str | None = None
    """Text to measure perplexity on: a UTF-8 text file, or JSONL, CSV, TSV or Parquet. Needed unless tasks are asked
    for."""

    text_field: str = "text"
    """Column or field of --text that holds the text, or a list of chat messages, which the model's own chat template
    renders. Where there is no 'text', 'messages' is taken."""

    seqlen: tuple[int, ...] = (128, 2048)
    """Tokens in a window; one figure for each. The literature uses 128 and 2048."""

    stride: int | None = None
    """Tokens from one window to the next; of a window that overlaps, only new tokens count. Default: no overlap."""

    bos: Literal["auto", "always", "never", "text"] = "auto"
    """Where a beginning-of-sequence token stands. auto: at the start of each window, where the tokenizer puts it before
    a text by itself. always: there in any case. never: nowhere. text: once, before the whole text, as in much of the
    literature. Tasks have what the tokenizer adds by itself."""

    max_tokens: int | None = None
    """Stop after this many tokens of the text; default: the whole text."""

    suite: Literal["slimgpt"] | None = None
    """slimgpt: the seven zero-shot tasks of the SlimGPT paper, and their mean."""

    tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, by name."""

    task_dir: str | None = None
    """Folder with more task files (.yaml) for lm-evaluation-harness. Their !function lines run code from there."""

    task_data: str | None = None
    """Folder with the suite's rows as JSONL (boolq.jsonl, ...); without it they come from the hub."""

    limit: int | None = None
    """Only the first rows of each task."""

    num_fewshot: int | None = None
    """Examples before each question; default: what each task says (0 in the suite)."""

    against: str | None = None
    """Another model, usually the dense one, to compare with on the text, layer by layer and under corruption."""

    against_by: Literal["token", "byte"] = "token"
    """token: all comparisons; the tokenizers must be equal. byte: only those that any two models allow."""

    quantise: Literal["int8", "int4"] | None = None
    """Round the weights of the decoder's linear layers to 8 or 4 bits first, by torchao."""

    seed: int = 0
    """Seed of the text's corruption."""

    batch_size: int = 0
    """Windows or rows in one forward pass; 0 chooses."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    json: str | None = None
    """Also write the results to this file."""

    compare_json: str | None = None
    """Also write the comparison with --against to this file."""

    record: bool = False
    """Keep the results in MODEL/measured beside what is there, and in its model card. MODEL must be made by slimgpt."""

    def check(self) -> None:
        """Raise ConfigError on a value outside its rule."""
        if not self.seqlen:
            raise ConfigError("--seqlen needs one number or more: 128 2048 is usual.")
        for seqlen in self.seqlen:
            at_least("seqlen", seqlen, 2)
        at_least("batch-size", self.batch_size, 0)
        check_seed(self.seed)
        if self.max_tokens is not None:
            at_least("max-tokens", self.max_tokens, max(self.seqlen))
        self._check_stride()
        self._check_tasks()
        self._check_comparison()

    def _check_stride(self) -> None:
        if self.stride is None:
            return
        at_least("stride", self.stride, 1)
        if self.stride > min(self.seqlen):
            raise ConfigError(
                f"--stride {self.stride} is more than the shortest --seqlen {min(self.seqlen)}, which would skip text: "
                "give a smaller stride."
            )

    def _check_tasks(self) -> None:
        if self.limit is not None:
            at_least("limit", self.limit, 1)
        if self.num_fewshot is not None:
            at_least("num-fewshot", self.num_fewshot, 0)
        if self.suite or self.tasks:
            return
        if self.text is None:
            raise ConfigError("nothing to measure: give --text FILE, --suite slimgpt or --tasks NAMES.")
        for name in ("task_dir", "task_data", "limit", "num_fewshot"):
            if getattr(self, name) is not None:
                flag = f"--{name.replace('_', '-')} {getattr(self, name)}"
                raise ConfigError(f"{flag} is for tasks: add --suite slimgpt or --tasks NAMES.")

    def _check_comparison(self) -> None:
        if self.record and self.quantise is not None:
            raise ConfigError(
                f"--record keeps figures of MODEL as it is stored, and --quantise {self.quantise} changes it: drop one "
                "of the two."
            )
        if self.against is not None and self.text is None:
            raise ConfigError(f"--against {self.against} compares on a text: add --text FILE.")
        if self.against is None and self.compare_json is not None:
            raise ConfigError(f"--compare-json {self.compare_json} is for a comparison: add --against MODEL.")
