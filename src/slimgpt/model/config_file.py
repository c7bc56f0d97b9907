"""config.json, from the disk to a configuration of transformers: what it may say, and what is ours to choose.

A file says how a model is built. It does not say which code runs it, where that comes from, or how much memory is taken
before anybody has looked at the weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from slimgpt.arch import is_tested
from slimgpt.errors import ModelError, last_line, shown
from slimgpt.machine.json_files import read_object
from slimgpt.model.families import config_class, register, require_type
from slimgpt.model.reading import border

CONFIG, ADAPTER = "config.json", "adapter_config.json"
MEND = "Download it again, or mend it."

OURS_TO_CHOOSE = frozenset(
    {
        "auto_map",  # code that comes with a model
        "attn_implementation",  # a name with a slash in it is a kernel, loaded from the hub
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation_internal",
        "transformers_weights",  # another file than those that are checked
        "fusion_config",
        "distributed_config",
        "_name_or_path",
        "output_hidden_states",  # what a forward pass gives back
        "return_dict",
        "torchscript",
    }
)
"""Keys that a file may have, beside the names of a configuration's methods, and that nobody asks it for."""

PROPERTIES = frozenset({"num_labels", "per_layer_config", "rope_scaling", "torch_dtype"})
"""Names of a configuration's properties that files set."""

COUNTS = ("num_hidden_layers", "n_layer", "num_experts", "num_local_experts", "num_labels")
"""Keys that say how many of something will be made in memory; all but labels have a tensor each at least."""

SIZES = (
    *("hidden_size", "n_embd", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size", "num_experts", "num_local_experts"),
)
"""Keys that families compute with; not every class of transformers checks that they are whole numbers."""

FLOAT = "__float__"  # of the objects that stand for infinite numbers
SKIP = "skip"  # of a layer's own settings: parts that it has lost
MOST_LABELS = 10_000
FLOATS = ("float32", "float16", "bfloat16", "float64")  # what dtype may be

DEQUANTISERS = {
    "bitsandbytes": "(MODEL).dequantize()",
    "fp8": "(MODEL, quantization_config=FineGrainedFP8Config(dequantize=True))",
    "mxfp4": "(MODEL, quantization_config=Mxfp4Config(dequantize=True))",
    "compressed-tensors": "(MODEL, quantization_config=CompressedTensorsConfig(dequantize=True))",
}
"""By method: how transformers makes plain weights of quantised ones."""


def read_settings(folder: Path) -> dict[str, Any]:
    """What config.json says, unread by any library.

    Raises:
        ModelError: the folder is no model's, the file is no JSON object, or the family is not supported.
    """
    refuse_adapter(folder)
    file = folder / CONFIG
    if not file.is_file():
        raise ModelError(f"{folder} has no {CONFIG}: it is not a Hugging Face model folder.")
    try:
        settings = read_object(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not a JSON object: {last_line(error)}. Download it again.") from error
    if not isinstance(settings.get("model_type"), str):
        settings["model_type"] = str(settings.get("model_type"))
    require_type(_type_in_transformers(settings))
    return settings


def refuse_adapter(folder: Path) -> None:
    """Refuse adapters, which transformers would put on top of the weights that are here or somewhere else.

    Raises:
        ModelError: there is one, with or without a model.
    """
    if (folder / ADAPTER).is_file():
        raise ModelError(
            f"{folder} holds an adapter ({ADAPTER}), which is no model by itself: merge it into the one that it was "
            "trained on first, by peft: AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload()"
            f".save_pretrained(FOLDER). If the weights here are merged already, remove {ADAPTER}."
        )


def refuse_quantised(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse weights of few bits.

    Raises:
        ModelError: they are; it names the way to plain ones.
    """
    found = settings.get("quantization_config")
    if not found:
        return
    method = found.get("quant_method") if isinstance(found, dict) else found
    known = DEQUANTISERS.get(method) if isinstance(method, str) else None
    way = f", or make it plain first: AutoModelForCausalLM.from_pretrained{known}.save_pretrained(FOLDER)"
    raise ModelError(
        f"{folder} is quantised ({shown(method)}), and quantised weights cannot be repaired: name the original model"
        f"{way if known else ''}."
    )


def check_counts(folder: Path, settings: Mapping[str, Any], num_tensors: int) -> None:
    """Refuse counts that the weights cannot bear out, before anything is made of that size.

    Raises:
        ModelError: there are more layers or experts than tensors.
    """
    for part in settings.values():
        if isinstance(part, dict):
            check_counts(folder, part, num_tensors)
    for key in COUNTS:
        count, most = settings.get(key), MOST_LABELS if key == "num_labels" else num_tensors
        if isinstance(count, int) and count > most:
            raise ModelError(
                f"{folder}: {CONFIG} says {key} {shown(count)}, but the weights have {num_tensors} tensors. They do "
                "not belong together."
            )


def read_config(folder: Path) -> Any:
    """The configuration of a model's folder.

    Raises:
        ModelError: it cannot be read.
    """
    return make_config(folder, read_settings(folder))


def make_config(folder: Path, settings: Mapping[str, Any]) -> Any:
    """The configuration that transformers makes of the settings, without what is ours to choose.

    Raises:
        ModelError: it cannot.
    """
    _refuse_odd(folder, settings)
    register()
    kind = config_class(settings["model_type"])
    with border(f"{folder}: {CONFIG} is not valid", MEND):
        config = kind(**_its_own(_with_floats(settings), kind), name_or_path=str(folder))
        config.to_dict()
    return config


def _with_floats(value: Any) -> Any:
    """Infinite numbers, which JSON has no word for and transformers writes as objects."""
    if isinstance(value, list):
        return [_with_floats(one) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {FLOAT}:
        return float(value[FLOAT])
    return {key: _with_floats(one) for key, one in value.items()}


def _its_own(settings: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The settings without what is ours to choose, and without names that would stand before a method's."""
    settable = {*(field.name for field in dataclasses.fields(kind)), *PROPERTIES}
    return {
        key: value
        for key, value in settings.items()
        if key not in OURS_TO_CHOOSE and (key in settable or not hasattr(kind, key))
    }


def _refuse_odd(folder: Path, settings: Mapping[str, Any]) -> None:
    """Values that no configuration has, and that nobody checks later."""
    odd = [key for key, value in settings.items() if not _finite(value)]
    odd += [key for key in SIZES if not _is_count(settings.get(key), by_layer=not is_tested(settings["model_type"]))]
    odd += [key for key in ("dtype", "torch_dtype") if settings.get(key) not in (None, *FLOATS)]
    if not _are_sizes(settings.get("per_layer_config", {})):
        odd.append("per_layer_config")
    if odd:
        value = shown(settings[odd[0]])
        raise ModelError(f"{folder}: {CONFIG} is not valid ({odd[0]} cannot be {value}). {MEND}")


def _is_count(value: Any, by_layer: bool) -> bool:
    """A whole number, or none; or a list of them, in types that have such."""
    if by_layer and isinstance(value, list):
        return all(isinstance(one, int) for one in value)
    return isinstance(value, (int, NoneType))


def _finite(value: Any) -> bool:
    """No number in it is NaN or infinite."""
    if isinstance(value, (dict, list)):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _are_sizes(per_layer: Any) -> bool:
    """By layer, whole numbers by name (0 where a layer lacks the part), and names of parts that it skips."""
    if not isinstance(per_layer, dict) or not all(isinstance(sizes, dict) for sizes in per_layer.values()):
        return False
    found = [item for sizes in per_layer.values() for item in sizes.items()]
    return all(_are_names(value) if name == SKIP else _is_size(value) for name, value in found)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _type_in_transformers(settings: Mapping[str, Any]) -> str:
    """A Mistral whose layers differ in kind is a Ministral to transformers' AutoConfig."""
    model_type = str(settings["model_type"])
    return "ministral" if model_type == "mistral" and "layer_types" in settings else model_type
