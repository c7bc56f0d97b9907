"""Names that do harm in a model's files where they are heeded, and values that would do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hostile import Harm

EVIL_CODE = "raise SystemExit('this is the code of a model')"
EVIL: Sequence[Any] = (
    {"AutoConfig": "evil.A", "AutoModelForCausalLM": "evil.A", "AutoTokenizer": [None, "evil.A"]},
    {"AutoConfig": "a/b--evil.A", "AutoModelForCausalLM": "a/b--evil.A"},
    ["evil.A", None],
    "evil.A",
)
KERNELS = ("nobody/kernels", "kernels-community/flash-attn", "flash_attention_2", "eager")
DTYPES = ("evil", "load", "int8", "float8_e4m3fn", "bfloat16", "nn")
ROPES = tuple(
    {"rope_type": name, "factor": 2.0} for name in ("linear", "dynamic", "yarn", "longrope", "llama3", "evil")
)
TEMPLATES = ("{{ evil() }}", "{% for", "{{ 1 / 0 }}", "{{ messages[7].role }}", "{{ ''.__class__.__mro__ }}")


def _any(names: str) -> Harm:
    """Names that harm by values that harm everywhere."""
    return dict.fromkeys(names.split(), ())


CONFIG: Harm = {
    **_any("layer_types num_labels id2label tie_word_embeddings sliding_window pad_token_id head_dim rope_theta"),
    **_any("attribute_map to_dict __class__ __dict__ return_dict torchscript fusion_config distributed_config"),
    **_any("base_model_tp_plan hidden_act use_cache output_attentions output_hidden_states is_encoder_decoder"),
    "auto_map": EVIL,
    "_attn_implementation": KERNELS,
    "attn_implementation": KERNELS,
    "_attn_implementation_internal": KERNELS,
    "_experts_implementation": KERNELS,
    "dtype": DTYPES,
    "torch_dtype": DTYPES,
    "rope_parameters": ROPES,
    "rope_scaling": ROPES,
    "per_layer_config": ([], {"0": {"num_attention_heads": 0}}, {"7": {}}, {"0": []}, {"a": {}}, {"-1": {"x": 1}}),
    "quantization_config": ({"quant_method": "gptq"}, {"quant_method": ["x"]}, {"load_in_4bit": True}),
    "architectures": (["LlamaForSequenceClassification"], ["LlamaModel"], ["EvilForCausalLM"]),
    "model_type": ("t5", "llava", "slimgpt_llama", "slimgpt_evil", "ministral"),
    "transformers_weights": ("other.safetensors", "../other.safetensors", "adapter_model.bin"),
    "_name_or_path": ("a/b",),
    "name_or_path": ("a/b",),
}

GENERATION: Harm = {
    **_any("max_new_tokens max_length min_new_tokens num_beams num_return_sequences num_beam_groups guidance_scale"),
    **_any("forced_bos_token_id suppress_tokens bad_words_ids sequence_bias constraints repetition_penalty do_sample"),
    **_any("eos_token_id pad_token_id bos_token_id prompt_lookup_num_tokens no_repeat_ngram_size max_time use_cache"),
    **_any("compile_config watermarking_config cache_config stop_strings temperature top_p"),
    "custom_generate": ("a/b", "evil.py"),
    "assistant_model": ("a/b",),
    "trust_remote_code": (True,),
    "penalty_alpha": (0.6,),
    "dola_layers": ("low",),
    "top_k": (4,),
    "cache_implementation": ("static", "quantized", "offloaded", "evil"),
}

TOKENIZER: Harm = {
    **_any("bos_token extra_special_tokens additional_special_tokens added_tokens_decoder model_max_length"),
    **_any("add_prefix_space padding_side model_input_names fix_mistral_regex"),
    "auto_map": EVIL,
    "chat_template": (*TEMPLATES, {"default": 5}, [{"name": "a", "template": 7}]),
    "tokenizer_class": ("GPT2Tokenizer", "LlamaTokenizer", "EvilTokenizer", "AutoTokenizer"),
    "backend": ("sentencepiece", "mistral"),
    "tokenizer_file": ("../tokenizer.json", "a/b"),
    "vocab_file": ("../vocab.json", "a/b"),
    "name_or_path": ("a/b", "mistralai/Mistral-7B-v0.1"),
}
