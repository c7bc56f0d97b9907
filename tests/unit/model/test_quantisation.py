"""Weights of fewer bits: what is rounded, what it takes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import make_model, save_model

from slimgpt.config import BenchConfig, EvalConfig
from slimgpt.errors import ConfigError
from slimgpt.model import quantisation
from slimgpt.model.quantisation import GROUP, quantise_

needs_torchao = pytest.mark.skipif(
    quantisation.find_spec("torchao") is None, reason="torchao is not installed: pip install 'slimgpt[quantise]'"
)


@needs_torchao
@pytest.mark.parametrize(("scheme", "levels"), [("int8", 256), ("int4", 16)])
def test_weights_take_few_values_and_outputs_stay_near(scheme: Any, levels: int) -> None:
    model, ids_BT = make_model(), torch.arange(20)[None]
    weight_OI = model.model.layers[0].mlp.down_proj.weight.detach().clone()
    with torch.no_grad():
        before = model(ids_BT).logits
        done = quantise_(model, scheme)
        after = model(ids_BT).logits
    rounded_OI = model.model.layers[0].mlp.down_proj.weight.dequantize()
    group = GROUP if scheme == "int4" else weight_OI.shape[1]
    for row in rounded_OI.unfold(1, group, group).flatten(0, 1):
        assert len(row.unique()) <= min(levels, group)
    assert 0 < (rounded_OI - weight_OI).abs().max() < 2 * weight_OI.abs().max() / levels * 1.1
    assert not torch.equal(before, after)
    assert done.weights == sum(layer.numel() for name, layer in make_model().named_parameters() if "proj" in name)


@needs_torchao
def test_packed_bytes_are_those_of_a_count_by_hand() -> None:
    model = make_model()
    rest = sum(own.numel() for name, own in model.named_parameters() if "proj" not in name)
    linear = {name: own.shape for name, own in model.named_parameters() if "proj" in name}
    done = quantise_(model, "int4")
    scales = sum(outputs * (inputs // GROUP if inputs % GROUP == 0 else 1) for outputs, inputs in linear.values())
    assert done.packed_bytes == 4 * rest + sum(o * i for o, i in linear.values()) // 2 + 4 * scales


@needs_torchao
def test_the_head_stays_as_it_is() -> None:
    model = make_model()
    quantise_(model, "int8")
    assert type(model.lm_head.weight) is torch.nn.Parameter
    assert model.lm_head.weight is model.model.embed_tokens.weight


@needs_torchao
def test_evaluation_says_what_it_measured(tmp_path: Path) -> None:
    from slimgpt.evaluation import evaluate

    model, text = save_model(tmp_path / "model"), tmp_path / "text.txt"
    text.write_text("several words in a line. " * 60)
    plain, rounded = (
        evaluate(EvalConfig(str(model), text=str(text), seqlen=(32,), quantise=scheme)).found
        for scheme in (None, "int4")
    )
    assert plain["quantisation"] is None and rounded["quantisation"]["scheme"] == "int4"
    assert plain["results"]["text@32"] != rounded["results"]["text@32"]
    assert plain["parameters"] == rounded["parameters"]


def test_is_refused_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slimgpt.evaluation import evaluate

    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    model = save_model(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"--quantise int8 needs torchao: pip install 'slimgpt\[quantise\]'"):
        evaluate(EvalConfig(str(model), text="t.txt", quantise="int8"))


def test_is_refused_where_it_would_be_recorded_or_compared_with_nothing() -> None:
    with pytest.raises(ConfigError, match="--record keeps figures of MODEL as it is stored, and --quantise int8"):
        EvalConfig("m", text="t", record=True, quantise="int8").check()
    with pytest.raises(ConfigError, match="--record keeps figures of models as they are stored, and --quantise int4"):
        BenchConfig(("m", "n"), record=True, quantise="int4").check()
    with pytest.raises(ConfigError, match="--quantise int8 leaves the first MODEL as it is, to compare with"):
        BenchConfig(("m",), quantise="int8").check()
