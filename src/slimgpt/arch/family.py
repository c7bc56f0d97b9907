"""What the pruner needs to know of a model family, as data.

A family says where the decoder layers are, which sites a layer of a given configuration has, and which configuration
keys describe a layer with fewer units. Everything else (statistics, solving, slicing, storing) is the same code for
all families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn

from slimgpt.errors import ConfigError
from slimgpt.sites import Kept, Site


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model_type: the stock ``model_type`` of transformers.
        layers: module path of the list of decoder layers in the causal LM.
        sites: ``sites(layer_config)``: the sites of a layer, in the order in which they are pruned.
        resized: ``resized(layer_config, kept)``: configuration keys (upstream names) of that layer when each of its
            parts keeps ``kept[part]``.
        stock_config: a stock configuration object from plain settings, for the uniform layout; raises ConfigError where
            no stock class takes them.
        pruned: for people: what goes at each site.
        spellings: part of a tensor's name in checkpoints -> what it is in the modules, where they differ.
        width_multiple: FFN widths have to be multiples of this, or kernels that the family needs refuse them.
        packs: transformers keeps examples apart that are packed into one row, by positions that start anew.
        bias_keys: configuration keys that give the consumers of all sites a bias, where they have none by nature.
        prepare: changes an empty layer into one that can be pruned and has the tensor names of checkpoints.
        sites_beside: ``sites_beside(config)``: sites that the model has behind its layers, with paths in the causal LM
            and without a block.
        resized_beside: ``resized_beside(config, kept)``: configuration keys of the model when those are cut.
        layer_config: ``layer_config(config, index)``: what ``sites`` and ``resized`` are asked with.
        own_sizes: ``own_sizes(layer_config, kept)``: what :mod:`slimgpt.modeling_by_path` builds that layer from; None
            where ``resized`` says it all, to :mod:`slimgpt.modeling_slimgpt`.
        stays: ``stays(layer_config)``: what cannot go in that layer, and why, by module path.
        returns: length of the tuple that a layer returns, the residual stream first; 0 where that is all.
        blocks_go: a layer runs without one of its blocks.
        stream_width: numbers a token in the residual stream; None for the hidden size. Hyper-connections carry several
            streams side by side.
    """

    model_type: str
    layers: str
    sites: Callable[[Any], tuple[Site, ...]]
    resized: Callable[[Any, Mapping[str, Kept]], dict[str, Any]]
    stock_config: Callable[[Mapping[str, Any]], Any]
    pruned: Mapping[str, str]
    spellings: Mapping[str, str] = field(default_factory=dict)
    width_multiple: int = 1
    packs: bool = True
    bias_keys: tuple[str, ...] = ()
    prepare: Callable[[nn.Module], None] = lambda layer: None
    sites_beside: Callable[[Any], tuple[Site, ...]] = lambda config: ()
    resized_beside: Callable[[Any, Mapping[str, Kept]], dict[str, int]] = lambda config, kept: {}
    layer_config: Callable[[Any, int], Any] = lambda config, index: config.per_layer_config[index]
    own_sizes: Callable[[Any, Mapping[str, Kept]], dict[str, Any]] | None = None
    stays: Callable[[Any], Mapping[str, str]] = lambda layer_config: {}
    returns: int = 0
    blocks_go: bool = True
    stream_width: int | None = None

    @property
    def tested(self) -> bool:
        """A file of ours describes it, and tests of ours hold it to that; else its description has been detected."""
        return self.own_sizes is None


def head_dim(config: Any) -> int:
    """Width of one head. Pruned models state it; stock ones may leave it to be derived from their number of heads."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def rope_types(config: Any) -> set[str]:
    """Kinds of rotary scaling: one, or one by type of layer; none where there are no rotary embeddings."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [one for one in parameters.values() if isinstance(one, dict)]
    return {one.get("rope_type", "default") for one in by_layer_type or [parameters] if one}


def stock(config_class: type) -> Callable[[Mapping[str, Any]], Any]:
    """``stock_config`` of a family whose own class is asked to hold the uniform sizes."""

    def stock_config(settings: Mapping[str, Any]) -> Any:
        try:
            return config_class(**settings)
        except (ValueError, StrictDataclassError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ConfigError(
                f"{config_class.__name__} refuses the uniform sizes ({reason}): use --layout per-layer, or another "
                "--ratio."
            ) from error

    return stock_config


def stock_with_implied_head_dim(
    config_class: type, heads: str = "num_attention_heads", hidden: str = "hidden_size"
) -> Callable[[Mapping[str, Any]], Any]:
    """The same for a class without ``head_dim``: its heads always fill the hidden size, so that none can go."""

    def stock_config(settings: Mapping[str, Any]) -> Any:
        if settings[heads] * settings["head_dim"] != settings[hidden]:
            raise ConfigError(
                f"{settings[heads]} heads of {settings['head_dim']} do not fill the hidden size {settings[hidden]}, as "
                f"{config_class.__name__} wants: use --layout per-layer."
            )
        return config_class(**{key: value for key, value in settings.items() if key != "head_dim"})

    return stock_config
