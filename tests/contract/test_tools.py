"""A per-layer checkpoint in the tools that people use next: peft, pipelines, accelerate's device map, lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_model
from tiny_llama import tokens
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import slimgpt  # noqa: F401  (teaches transformers the type)
from slimgpt import PruneConfig, prune


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    dense = save_model(folder / "dense", "llama", torch.float32)
    text = folder / "text.txt"
    text.write_text("".join(chr(32 + i * i % 1000) for i in range(4000)), encoding="utf-8")
    options: dict[str, Any] = {"ratio": 0.3, "calibration": str(text), "samples": 8, "seqlen": 32, "device": "cpu"}
    return prune(PruneConfig(str(dense), str(folder / "pruned"), **options)).path


def test_lora_by_peft_trains_and_merges(pruned: Path) -> None:
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(pruned)
    ids = tokens(2, 20, seed=0)
    plain = model(ids).logits
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(ids, labels=ids).loss.backward()
        optimizer.step()
    adapted.eval()
    trained = adapted(ids).logits
    assert not torch.allclose(trained, plain, atol=1e-4)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, trained, atol=1e-4, rtol=1e-4)


def test_the_text_generation_pipeline_runs_it(pruned: Path) -> None:
    generator = pipeline("text-generation", model=str(pruned), tokenizer=str(pruned), device="cpu")
    answer = generator("abc", max_new_tokens=5, do_sample=False)[0]["generated_text"]
    assert answer.startswith("abc")
    assert len(answer) > len("abc")


def test_a_device_map_places_it(pruned: Path) -> None:
    ids = tokens(1, 12, seed=0)
    plain = AutoModelForCausalLM.from_pretrained(pruned)(ids).logits
    mapped = AutoModelForCausalLM.from_pretrained(pruned, device_map={"": "cpu"})
    torch.testing.assert_close(mapped(ids).logits, plain)


def test_lm_eval_scores_it_as_transformers_does(pruned: Path) -> None:
    models = pytest.importorskip("lm_eval.models.huggingface")
    instance = pytest.importorskip("lm_eval.api.instance")
    harness = models.HFLM(pretrained=str(pruned), trust_remote_code=True, device="cpu", batch_size=1)
    request = instance.Instance("loglikelihood", {}, arguments=("abcd", "efg"), idx=0)
    score, _ = harness.loglikelihood([request], disable_tqdm=True)[0]
    tokenizer = AutoTokenizer.from_pretrained(pruned)
    context, whole = (tokenizer(text)["input_ids"] for text in ("abcd", "abcdefg"))
    log_probs = AutoModelForCausalLM.from_pretrained(pruned)(torch.tensor([whole])).logits[0].log_softmax(-1)
    expected = sum(log_probs[i - 1, whole[i]].item() for i in range(len(context), len(whole)))
    assert score == pytest.approx(expected, abs=1e-4)
