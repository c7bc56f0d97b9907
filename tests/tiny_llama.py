"""Random Llamas of a few thousand parameters with a byte-level tokenizer, saved as users' checkpoints are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slimgpt.config import PruneConfig

CONTEXT = 64
WEIGHTS = "model.safetensors"
TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"

SHAPE = {
    "vocab_size": 260,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def make_model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Weights spread so that attention is not flat and channels differ: pruning choices mean something."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                spread = 0.3 * torch.rand(parameter.shape[0]).reshape(-1, *[1] * (parameter.dim() - 1))
                parameter.copy_(torch.randn(parameter.shape) * (0.05 + spread))
    return model


def make_tokenizer(begins: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte; with ``begins``, behind a beginning-of-sequence token, as Llama's and Gemma's have it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = TEMPLATE
    if begins:
        bos = ("<s>", fast.bos_token_id)
        fast.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return fast


def save_model(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A complete checkpoint folder."""
    model = make_model(seed, **changes).to(dtype)
    model.save_pretrained(folder)
    GenerationConfig(max_new_tokens=7, bos_token_id=256, eos_token_id=257).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_sharded(folder: Path, **changes: Any) -> Path:
    """The same in several files with an index."""
    make_model(**changes).save_pretrained(folder, max_shard_size="100KB")
    make_tokenizer().save_pretrained(folder)
    return folder


def edit_weights(folder: Path, edit: Any) -> None:
    """Rewrite the weights file: ``edit`` changes the dictionary of tensors."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    """Rewrite config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def prune_config(model: Path, out: Path, **changes: Any) -> PruneConfig:
    """Options that suit these models: a second or so a run."""
    options = {"ratio": 0.2, "calibration": "builtin", "samples": 8, "seqlen": 32, "round_to": 1, "device": "cpu"}
    return PruneConfig(str(model), str(out), **{**options, **changes})


def tokens(num_windows: int, seqlen: int, seed: int = 0) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(0, 256, (num_windows, seqlen), generator=torch.Generator().manual_seed(seed))
