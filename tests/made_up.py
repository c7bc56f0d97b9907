"""A model that no family file expects: layers that lack a part, one with two FFNs, and a place behind all layers.

Layer 0 has attention and an FFN, layer 1 no attention, layer 2 no FFN, layer 3 an FFN and a narrower one beside it.
What the last layer puts out passes through a neck, whose channels may go too.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import tiny_llama
import torch
import transformers
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.auto import modeling_auto
from transformers.models.mistral import modeling_mistral as mistral

from slimgpt import modeling_slimgpt
from slimgpt.arch import FAMILIES, gated
from slimgpt.arch.family import Family, stock
from slimgpt.modeling_slimgpt import Base
from slimgpt.sites import ATTENTION, FFN, Kept, Segment, Site

HIDDEN, FFN_WIDTH, SHARED_WIDTH, NECK, LAYERS = 48, 96, 56, 40, 4
SHARED, BEHIND = "shared", "neck"
LACKS = {"1": {"num_attention_heads": 0, "num_key_value_heads": 0}, "2": {"intermediate_size": 0}}
CACHE = "cache" if "cache" in signature(mistral.MistralAttention.forward).parameters else "past_key_values"
"""What this version of transformers calls it."""

OWN = {"3": {"shared_intermediate_size": SHARED_WIDTH}}


class MadeUpConfig(transformers.MistralConfig):
    """Mistral's, with widths of its own."""

    model_type = "made_up"
    shared_intermediate_size: int = 0
    neck_size: int = NECK


class MadeUpLayer(nn.Module):
    """Attention and FFNs, as far as the layer has them."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        if config.num_attention_heads:
            self.attention_norm = mistral.MistralRMSNorm(config.hidden_size)
            self.self_attn = mistral.MistralAttention(config, layer_idx)
        self.norm = mistral.MistralRMSNorm(config.hidden_size)
        if config.intermediate_size:
            self.mlp = mistral.MistralMLP(config)
        if config.shared_intermediate_size:
            self.shared = Gated(config.hidden_size, config.shared_intermediate_size)

    def forward(self, hidden: Tensor, **given: Any) -> Tensor:
        """The residual stream behind the layer."""
        if hasattr(self, "self_attn"):
            hidden = hidden + self.self_attn(self.attention_norm(hidden), **given)[0]
        normed = self.norm(hidden)
        return hidden + sum(getattr(self, name)(normed) for name in ("mlp", "shared") if hasattr(self, name))


class Gated(nn.Module):
    """One gated FFN."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """down(silu(gate(x)) · up(x))."""
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class MadeUpPreTrainedModel(PreTrainedModel):
    """What both classes share."""

    config_class = MadeUpConfig
    base_model_prefix = "model"
    _supports_sdpa = True


class MadeUpModel(MadeUpPreTrainedModel):
    """The decoder."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        whole = config.to_dict().get("per_layer_config")  # None while slimgpt builds its own layers
        of_layer = [config.per_layer_config[i] if whole else config for i in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(MadeUpLayer(own, index) for index, own in enumerate(of_layer))
        self.norm = mistral.MistralRMSNorm(config.hidden_size)
        self.rotary_emb = mistral.MistralRotaryEmbedding(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **given: Any,
    ) -> Any:
        """Hidden states, and the cache of the layers that have attention."""
        hidden, cache = self.embed_tokens(input_ids), given.get(CACHE)
        if use_cache and cache is None:
            cache = DynamicCache()
        seen = cache.get_seq_length() if cache is not None else 0
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None] + seen
        mask = create_causal_mask(self.config, hidden, attention_mask, cache, position_ids=positions)
        rotary = self.rotary_emb(hidden, positions)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, **{CACHE: cache})
        return BaseModelOutputWithPast(self.norm(hidden), **{CACHE: cache})


class MadeUpForCausalLM(MadeUpPreTrainedModel, GenerationMixin):
    """The decoder, a neck, and a head of its own."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = MadeUpModel(config)
        self.neck_up = nn.Linear(config.hidden_size, config.neck_size)
        self.neck_down = nn.Linear(config.neck_size, config.hidden_size, bias=False)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, logits_to_keep: int = 0, **given: Any) -> Any:
        """Logits."""
        found = self.model(input_ids, **given)
        hidden = found.last_hidden_state[:, -logits_to_keep:]
        hidden = hidden + self.neck_down(nn.functional.silu(self.neck_up(hidden)))
        return CausalLMOutputWithPast(logits=self.lm_head(hidden), **{CACHE: getattr(found, CACHE)})


def sites(config: Any) -> tuple[Site, ...]:
    """As far as the layer has them."""
    attention = (gated.attention(config),) if config.num_attention_heads else ()
    ffn = (gated.ffn("mlp", config.intermediate_size),) if config.intermediate_size else ()
    return (*attention, *ffn, *_shared(config.shared_intermediate_size))


def _shared(width: int) -> tuple[Site, ...]:
    producers = (Segment("shared.gate_proj", 1), Segment("shared.up_proj", 1))
    return (Site(SHARED, "shared", "shared.down_proj", producers, width, 1),) if width else ()


def sites_beside(config: Any) -> tuple[Site, ...]:
    """The neck."""
    return (Site(BEHIND, None, "neck_down", (Segment("neck_up", 1),), config.neck_size, 1),)


def resized(config: Any, kept: Mapping[str, Kept]) -> dict[str, int]:
    """A part that is absent has no key that could change."""
    heads = gated.heads(config, kept) if ATTENTION in kept else {"num_attention_heads": 0, "num_key_value_heads": 0}
    widths = {"intermediate_size": FFN, "shared_intermediate_size": SHARED}
    return {**heads, **{key: kept[part].units if part in kept else 0 for key, part in widths.items()}}


FAMILY = Family(
    model_type="made_up",
    layers="model.layers",
    sites=sites,
    resized=resized,
    stock_config=stock(MadeUpConfig),
    pruned={ATTENTION: "KV groups", FFN: "channels", SHARED: "channels of the second FFN", BEHIND: "channels"},
    sites_beside=sites_beside,
    resized_beside=lambda config, kept: {"neck_size": kept[BEHIND].units} if BEHIND in kept else {},
)


def add(monkeypatch: Any) -> None:
    """Make the family known to transformers and to slimgpt, as if both had it."""
    for auto, made in (("AutoModel", MadeUpModel), ("AutoModelForCausalLM", MadeUpForCausalLM)):
        getattr(transformers, auto).register(MadeUpConfig, made, exist_ok=True)
        monkeypatch.setitem(getattr(modeling_auto, modeling_slimgpt.STOCK[auto]), "made_up", made.__name__)
        monkeypatch.setattr(transformers, made.__name__, made, raising=False)
    transformers.AutoConfig.register("made_up", MadeUpConfig, exist_ok=True)
    monkeypatch.setitem(FAMILIES, "made_up", FAMILY)
    monkeypatch.setitem(modeling_slimgpt.BASES, "made_up", Base("layers"))


def save_model(folder: Path) -> Path:
    """A random model of the family, complete with tokenizer."""
    torch.manual_seed(0)
    config = MadeUpConfig(
        **{
            **tiny_llama.SHAPE,
            "num_hidden_layers": LAYERS,
            "intermediate_size": FFN_WIDTH,
            "tie_word_embeddings": False,
            "sliding_window": None,
        },
        per_layer_config={**LACKS, **OWN},
    )
    model = MadeUpForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape) + (parameter.dim() == 1))
    model.save_pretrained(folder)
    tiny_llama.make_tokenizer().save_pretrained(folder)
    return folder
