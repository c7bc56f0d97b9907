"""Every type of model with routed experts: without some it is what it was when its router could not choose them.

All of them are nightly; the fast tests have five (tests/unit/experts).
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_types
import torch
from contract import CLOSE, ROUGH, SAMPLES, SEQLEN, Case, caching, difference, load, logits, rounding

from slimgpt import PruneConfig, prune
from slimgpt.detection.building import model_class
from slimgpt.detection.hollow import is_fused_experts
from slimgpt.errors import ModelError, ProofError
from slimgpt.experts.masking import masked_router, masked_state
from slimgpt.experts.mixture import find_mixture
from slimgpt.model.stock import open_stock

REFUSED = {
    "deepseek_v4": "told something of each text",  # a table of experts by token
    "hy_v4": "do not run one at a time",
    "hy_v4_vl": "do not run one at a time",
    "inkling_mm_model": "no number of its configuration alone",  # the router has rows for shared experts too
    "inkling_text": "no number of its configuration alone",
    "zaya": "no number of its configuration alone",  # the router has a row for no expert at all
}


@cache
def with_experts() -> tuple[str, ...]:
    """Types whose tiny model has experts as transformers' interface has them."""
    found = []
    for model_type in tiny_types.TYPES:
        try:
            config = tiny_types.tiny_config(model_type)
            with torch.device("meta"):
                model = model_class(config)._from_config(config)
        except Exception:  # no such model can be made, which test_all_types.py shows
            continue
        if any(is_fused_experts(module) for module in model.modules()):
            found.append(model_type)
    return tuple(found)


def remove(case: Case, source: Path, out: str) -> Any:
    numbers = {"calibration": str(case.text), "samples": SAMPLES, "seqlen": SEQLEN, "batch_size": 5}
    options = {"experts": 0.25, "expert_repair": False, "device": "cpu"}
    return prune(PruneConfig(str(source), str(case.folder / out), **options, **numbers))


def masked_logits(case: Case, kept: dict[int, list[int]]) -> torch.Tensor:
    """Of the dense model whose routers cannot choose what is gone."""
    model, checkpoint = load(case.dense), open_stock(str(case.dense))
    mixture = find_mixture(checkpoint)
    with ExitStack() as stack:
        for index, path in mixture.paths.items():
            prefix = checkpoint.layer_prefix(index)
            layer = model.get_submodule(prefix.rstrip("."))
            dims = {name.removeprefix(prefix): dim for name, dim in mixture.dims.items() if name.startswith(prefix)}
            gone_E = torch.ones(mixture.num_experts, dtype=torch.bool)
            gone_E[kept[index]] = False
            layer.load_state_dict(masked_state(layer.state_dict(), path, dims, gone_E))
            stack.enter_context(masked_router(layer, path, dims, gone_E))
        return logits(model)


@pytest.mark.families
def test_there_are_many() -> None:
    assert len(with_experts()) > 50


@pytest.mark.families
@pytest.mark.parametrize("model_type", tiny_types.TYPES)
def test_sliced_equals_masked(model_type: str, tmp_path: Path) -> None:
    if model_type not in with_experts():
        pytest.skip("it has no routed experts")
    case = Case(model_type, tmp_path)
    try:
        case.dense  # noqa: B018
    except Exception as error:
        pytest.skip(f"no random model can be made ({error})")
    if (why := REFUSED.get(model_type)) is not None:
        with pytest.raises(ModelError, match=why):
            remove(case, case.dense, "out")
        return
    try:
        result = remove(case, case.dense, "out")
    except ProofError:
        assert caching(load(case.dense)) > CLOSE, "the stock model writes with a cache what it writes without"
        return
    found, model = result.record["experts"], load(result.path)
    assert type(model) is type(load(case.dense))
    assert (found["before"], found["after"]) == (4, 3)
    kept = {layer["layer"]: layer["kept"] for layer in found["layers"]}
    assert difference(logits(model), masked_logits(case, kept)) < CLOSE
    assert difference(logits(model), logits(load(case.dense))) > 10 * CLOSE, "nothing was removed"
    assert caching(model) < CLOSE
    assert rounding(result.path) < ROUGH or rounding(case.dense) > ROUGH
    assert remove(case, result.path, "twice").record["experts"]["after"] == 2
