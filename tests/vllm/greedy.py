"""Greedy tokens of models by vLLM's ``LLM``, in a process of their own: ``python greedy.py MODELS.json WAY NAME…``.

Prints a line of JSON for each: its name, the class that vLLM took and the tokens, or why it refused. What vLLM reads
from the environment is the caller's (see ``test_vllm.py``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 64,
    "max_num_seqs": 16,
    "num_gpu_blocks_override": 128,
    "distributed_executor_backend": "uni",
    "disable_log_stats": True,
}


def greedy(model: dict[str, Any], trust: bool) -> dict[str, Any]:
    try:
        llm = LLM(model["folder"], trust_remote_code=trust, **OPTIONS, **model.get("options", {}))
    except (RuntimeError, ValueError) as error:
        return {"error": str(error)}
    count = len(model["tokens"][0])
    sampling = SamplingParams(temperature=0, max_tokens=count, min_tokens=count)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in model["prompts"]], sampling, use_tqdm=False)
    made = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    found = [list(output.outputs[0].token_ids) for output in outputs]
    return {"class": f"{type(made).__module__}.{type(made).__name__}", "tokens": found}


if __name__ == "__main__":
    file, trust, *names = sys.argv[1:]
    models = {model["name"]: model for model in json.loads(Path(file).read_text())}
    for name in names:
        print(json.dumps({"name": name, **greedy(models[name], trust == "remote-code")}), flush=True)
