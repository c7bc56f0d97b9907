"""What a server makes of models: requests and tokens a second, and what a client waits for."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from slimgpt.benchmarking.asked import fitting
from slimgpt.benchmarking.spread import ratios, spread
from slimgpt.benchmarking.vllm_server import Server, find_command, serving
from slimgpt.config import BenchConfig
from slimgpt.errors import ConfigError
from slimgpt.machine.versions import versions
from slimgpt.model.checkpoint import Checkpoint

KIND, SCHEMA = "served", 1
PER_CLIENT = 2  # requests of each client in a repeat: those of others have begun before its second
QUANTITIES = (
    "requests_per_s",
    "tokens_per_s",
    "tokens_per_cpu_s",
    "time_to_first_token_ms",
    "time_between_tokens_ms",
)

Repeat = Mapping[str, float]


def measured_by_server(config: BenchConfig, progress: Callable[[], None]) -> dict[str, Any]:
    """The models with, by number of clients, the spread of each quantity and of its ratio to the first's.

    Raises:
        ConfigError: the server's command is not there, or a model is nothing for it.
        ModelError: a model cannot be read, or the server does not take it.
    """
    command = find_command(config.server_command)
    checkpoints = [_servable(model, config) for model in config.models]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        servers = []
        for number, checkpoint in enumerate(checkpoints):
            tokens, share = config.prompt_tokens + config.new_tokens, 1 / len(checkpoints)
            log = Path(logs) / f"{number}.log"
            server = serving(command, checkpoint.path, tokens, share, config.server_options, log)
            servers.append(stack.enter_context(server))
            progress()
        found = _in_turns(servers, min(c.config.vocab_size for c in checkpoints), config, progress)
        version, rooms = servers[0].version(), [server.cache_tokens() for server in servers]
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {**versions(), "vllm": version},
        "load_before": load,
        "settings": _settings(config),
        "models": [
            {
                "model": model,
                "parameters": checkpoint.num_params,
                "cache_tokens": room,
                "by_clients": {str(c): _summary(own[c], found[0][c]) for c in config.clients},
            }
            for model, checkpoint, room, own in zip(config.models, checkpoints, rooms, found, strict=True)
        ],
    }


def _servable(model: str, config: BenchConfig) -> Checkpoint:
    checkpoint = fitting(model, config)
    if checkpoint.path.is_file():
        raise ConfigError(f"{model}: vLLM serves folders of safetensors, not GGUF files. Name the folder it came from.")
    return checkpoint


def _in_turns(
    servers: Sequence[Server], vocabulary: int, config: BenchConfig, progress: Callable[[], None]
) -> list[dict[int, list[Repeat]]]:
    """Repeats by number of clients, of each model. Who comes first changes from round to round."""
    found: list[dict[int, list[Repeat]]] = [{clients: [] for clients in config.clients} for _ in servers]
    for number in range(config.warmup + config.repeats):
        turns = list(zip(servers, found, strict=True))
        for clients in config.clients:
            prompts = _prompts(vocabulary, config, number, clients)
            for server, own in turns if number % 2 == 0 else reversed(turns):
                own[clients].append(_repeat(server, prompts, clients, config.new_tokens))
                progress()
    return [{clients: repeats[config.warmup :] for clients, repeats in own.items()} for own in found]


def _prompts(vocabulary: int, config: BenchConfig, number: int, clients: int) -> list[list[int]]:
    """Random tokens, the same for all models, and new in every repeat: servers keep what they have read."""
    draw = random.Random(f"{config.seed} {number} {clients}")
    return [draw.choices(range(vocabulary), k=config.prompt_tokens) for _ in range(clients * PER_CLIENT)]


def _repeat(server: Server, prompts: Sequence[Sequence[int]], clients: int, new_tokens: int) -> Repeat:
    """All prompts, ``clients`` at a time; what clients wait for is the median over requests."""
    cpu_s, start = server.cpu_s(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        replies = list(pool.map(lambda prompt: server.complete(prompt, new_tokens), prompts))
    seconds, cpu_s = time.perf_counter() - start, server.cpu_s() - cpu_s
    values = (
        len(prompts) / seconds,
        len(prompts) * new_tokens / seconds,
        len(prompts) * new_tokens / max(cpu_s, 0.01),  # the kernel's tick
        1000 * statistics.median(reply.first_token_s for reply in replies),
        1000 * statistics.median(reply.between_tokens_s for reply in replies),
    )
    return dict(zip(QUANTITIES, values, strict=True))


def _summary(repeats: Sequence[Repeat], first: Sequence[Repeat]) -> dict[str, Any]:
    """Spreads of the quantities and of their ratios to the first model's."""
    own, theirs = ({name: [repeat[name] for repeat in each] for name in QUANTITIES} for each in (repeats, first))
    to_first = {name: ratios(own[name], theirs[name]) for name in QUANTITIES}
    return {**{name: spread(values) for name, values in own.items()}, "ratios_to_first": to_first}


def _settings(config: BenchConfig) -> dict[str, Any]:
    """What the figures depend on."""
    names = ("prompt_tokens", "new_tokens", "repeats", "warmup", "seed", "server", "server_options")
    return {**{name: getattr(config, name) for name in names}, "requests_per_client": PER_CLIENT}
