"""For people: are the layers of one size, and what loads the model or writes it for other tools?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from slimgpt.config import ExportConfig
from slimgpt.errors import ConfigError, SlimGPTError
from slimgpt.exports.layout import config_of, is_uniform, widest_units
from slimgpt.exports.plan import Plan
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.inspection import layer_sizes

Planners = Mapping[str, Callable[[Checkpoint, ExportConfig], Plan]]


def describe(checkpoint: Checkpoint, config: ExportConfig, planners: Planners) -> tuple[str, ...]:
    """Uniform or not, and which stock class loads it, or which of the formats of ``planners`` can be written."""
    if not is_uniform(checkpoint):
        return (f"Not uniform: {_spread(checkpoint)}.", *_fitting(checkpoint, config, planners))
    found = f"Uniform: all {len(checkpoint.layers)} layers have {_named(layer_sizes(checkpoint, 0))}."
    try:
        stock = config_of(checkpoint, widest_units(checkpoint))
    except ConfigError as error:
        return (found, f"No stock class holds it as it is: {error}", *_fitting(checkpoint, config, planners))
    if type(stock) is type(checkpoint.config):
        return found, f"It loads as {stock.architectures[0]}, without remote code."
    return found, f"It fits {stock.architectures[0]}: --format padded writes it as that, with nothing to pad."


def _fitting(checkpoint: Checkpoint, config: ExportConfig, planners: Planners) -> Iterator[str]:
    """Every format is asked, as it would be for an export."""
    for name, plan in planners.items():
        try:
            plan(checkpoint, config)
        except SlimGPTError as error:
            yield f"--format {name} does not fit: {error}"
        else:
            yield f"--format {name} fits."


def _spread(checkpoint: Checkpoint) -> str:
    layers = [layer_sizes(checkpoint, index) for index in range(len(checkpoint.layers))]
    gone = Counter(part for sizes in layers for part in sizes.pop("skip", ()))
    spans = {key: (min(sizes[key] for sizes in layers), max(sizes[key] for sizes in layers)) for key in layers[0]}
    sizes = [f"{key} from {least:,} to {most:,}" for key, (least, most) in spans.items() if least < most]
    return ", ".join(sizes + [f"no {part} in {count:,} of {len(layers):,} layers" for part, count in gone.items()])


def _named(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in sizes.items())
