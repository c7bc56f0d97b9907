"""A uniform model as ONNX, run by onnxruntime; ``make test-export``."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama
import torch
from tiny_llama import prune_config

from slimgpt import load_model, prune
from slimgpt.config import ExportConfig
from slimgpt.exports import export

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install 'slimgpt[onnx]'")
pytest.importorskip("onnxscript", reason="onnxscript is missing: pip install 'slimgpt[onnx]'")

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uniform")
    model = tiny_llama.save_model(folder / "model")
    return prune(prune_config(model, folder / "pruned", ratio=0.3, layout="uniform", round_to=8)).path


@pytest.mark.parametrize(("windows", "length"), [(1, 1), (1, 40), (3, 17)])
def test_any_batch_and_length_with_padding(uniform, windows, length, tmp_path):
    folder = tmp_path / "onnx"
    export(ExportConfig(str(uniform), str(folder), format="onnx"))
    ids = tiny_llama.tokens(windows, length)
    mask = torch.ones_like(ids)
    mask[0, : length // 3] = 0
    model, _ = load_model(str(uniform), "cpu")
    with torch.inference_mode():
        expected = model(ids, attention_mask=mask).logits
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    found = torch.from_numpy(session.run(["logits"], feed)[0])
    assert torch.allclose(found[mask.bool()], expected[mask.bool()], atol=1e-4)


def test_verified(uniform, tmp_path):
    done = export(ExportConfig(str(uniform), str(tmp_path / "onnx"), format="onnx", verify=True))
    assert done.notes[-1].startswith("Verified with onnxruntime")
