"""What has to hold of a smaller model of any type, whoever has described it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tiny_types
import torch
import transformers
from tiny_llama import make_tokenizer, tokens
from torch import Tensor

from slimgpt import PruneConfig, prune
from slimgpt.detection.building import model_class
from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import open_checkpoint
from slimgpt.model.families import auto_class
from slimgpt.sites.projections import output_dim

SAMPLES, SEQLEN = 16, 32
PROMPT = tokens(2, 20, seed=1)
RATIOS = (0.2, 0.1, 0.05, 0.02, 0.005, 0.001, 0.0002)  # the first that can be attained
CLOSE = 1e-4  # of the range of logits
ROUGH = 0.1  # the same in bfloat16
PADDING, NEW_TOKENS = 3, 4


def write_text(file: Path) -> Path:
    """Characters of many kinds, for calibration."""
    characters = torch.randint(32, 0x7FF, (4000,), generator=torch.Generator().manual_seed(0))
    file.write_text("".join(map(chr, characters.tolist())), encoding="utf-8")
    return file


@dataclass(frozen=True)
class Case:
    """A random model of a type, and what is made of it.

    Attributes:
        model_type: of transformers.
        folder: where everything lies.
    """

    model_type: str
    folder: Path

    @cached_property
    def dense(self) -> Path:
        """The model."""
        config = tiny_types.tiny_config(self.model_type)
        model = model_class(config)._from_config(config, dtype=torch.float32).eval()
        tiny_types.fill_(model)
        model.save_pretrained(self.folder / "dense")
        make_tokenizer().save_pretrained(self.folder / "dense")
        return self.folder / "dense"

    @cached_property
    def pruned(self) -> Path:
        """The same without some of its units, which are drawn, and without repair."""
        return self.cut_as_far_as_it_goes(self.dense, "pruned", solver="random", repair=False)

    @cached_property
    def twice(self) -> Path:
        """The same without some more of them."""
        return self.cut_as_far_as_it_goes(self.pruned, "twice", solver="obs", allocation="linear")

    def cut_as_far_as_it_goes(self, source: Path, out: str, **options: Any) -> Path:
        """By a fifth, or by less where not as much can go."""
        for ratio in RATIOS:
            try:
                return self.cut(source, out, ratio=ratio, **options)
            except ConfigError as error:
                if "cannot be attained" not in str(error) or ratio == RATIOS[-1]:
                    raise
        raise AssertionError

    def cut(self, source: Path, out: str, **options: Any) -> Path:
        """``source`` pruned, in a folder of this name."""
        calibration = {"calibration": str(self.text), "samples": SAMPLES, "seqlen": SEQLEN, "batch_size": 5}
        prune(PruneConfig(str(source), str(self.folder / out), device="cpu", **calibration, **options))
        return self.folder / out

    @cached_property
    def text(self) -> Path:
        """What it is calibrated on."""
        return write_text(self.folder / "text.txt")

    def sites(self, out: Path) -> list[dict[str, Any]]:
        """Of a model's record."""
        found: list[dict[str, Any]] = json.loads((out / "slimgpt.json").read_text())["sites"]
        return found


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """As its users open it."""
    auto = auto_class(transformers.AutoConfig.from_pretrained(folder))
    return auto.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def logits(model: Any, ids_BT: Tensor = PROMPT, **more: Any) -> Tensor:
    """B x T x V, float32."""
    return model(input_ids=ids_BT, **more).logits.float()


def masked(case: Case) -> Any:
    """The dense model, which does not read what the pruned one has lost."""
    model, checkpoint = load(case.dense), open_checkpoint(str(case.dense))
    for entry in case.sites(case.pruned):
        layer = model.get_submodule(checkpoint.layer_prefix(entry["layer"]).rstrip("."))
        site = next(site for site in checkpoint.sites(entry["layer"]) if site.name == entry["site"])
        consumer = layer.get_submodule(site.consumer)
        kept = entry.get("kept_members", entry["kept"])
        pieces = entry["num_units"] * entry.get("members", 1)
        gone_P = torch.ones(pieces, dtype=torch.bool).index_fill_(0, torch.tensor(kept), False)
        weight, dim = consumer.weight.data, 1 - output_dim(consumer)
        gone_I = gone_P.repeat_interleave(weight.shape[dim] // pieces)
        weight.masked_fill_(gone_I if dim == 1 else gone_I[:, None], 0)
    return model


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, as a share of the range."""
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


def padding(model: Any) -> float:
    """How far logits of a padded text are from those of the same text alone."""
    padded = torch.cat([torch.full((len(PROMPT), PADDING), 5), PROMPT], 1)
    mask = torch.ones_like(padded).index_fill_(1, torch.arange(PADDING), 0)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = logits(model, padded, attention_mask=mask, position_ids=positions)[:, PADDING:]
    return difference(found, logits(model))


def rounding(folder: Path) -> float:
    """How far logits in bfloat16 are from those in float32, of the middle one of all tokens: a router that is nearly
    even sends some another way.
    """
    found, expected = (logits(load(folder, dtype)) for dtype in (torch.bfloat16, torch.float32))
    return float(((found - expected).abs().amax(-1) / (expected.max() - expected.min())).median())


def caching(model: Any) -> float:
    """How far logits of tokens that are written one at a time, with a cache, are from those in one pass."""
    made = model.generate(
        PROMPT[:1],
        attention_mask=torch.ones_like(PROMPT[:1]),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return difference(torch.cat(made.logits), logits(model, made.sequences[:, :-1])[0, -NEW_TOKENS:])
