"""Tokens a second that ``vllm serve`` gives, pruned models against the first, over its own HTTP interface.

    .venv-vllm/bin/python benchmarks/vllm_speed.py dense=FOLDER pruned=FOLDER …

Every model has a server of its own; all run at once, and only one is asked at a time. They take turns, so that whatever
else runs on the machine hits all alike, and the order changes from turn to turn. Figures are medians over turns, ratios
medians of the ratios within a turn. Tokens per second of CPU time are given too: they do not count the time that other
work had the machine. Models of layers that differ need slimgpt installed beside vLLM.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import psutil

PROMPT_TOKENS = 64
START_S = 600
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
OPTIONS = ["--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "64", "--served-model-name", "m"]


@dataclass(frozen=True)
class Server:
    address: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Of the server and all its processes."""
        times = [each.cpu_times() for each in (self.process, *self.process.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def complete(self, prompt: list[int], new_tokens: int) -> None:
        body = {"model": "m", "prompt": prompt, "temperature": 0, "max_tokens": new_tokens, "min_tokens": new_tokens}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/v1/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == new_tokens


@contextmanager
def serving(folder: str, dtype: str, threads: int, log: Path) -> Any:
    """A server that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("vllm"), "serve", folder, "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("w") as out:
        process = subprocess.Popen([*command, *OPTIONS, "--dtype", dtype], env=environment, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(process, address, log)
        yield Server(address, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(process: Any, address: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(log.read_text()[-4000:])
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"no server within {START_S} s")


def turn(server: Server, clients: int, new_tokens: int, seed: int) -> tuple[float, float]:
    """Tokens a second and tokens a CPU second, with so many requests at once. No two prompts are alike."""
    prompts = [[1000 + (seed * 7919 + row * 127 + at) % 40000 for at in range(PROMPT_TOKENS)] for row in range(clients)]
    cpu, start = server.cpu_seconds(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda prompt: server.complete(prompt, new_tokens), prompts))
    tokens = clients * new_tokens
    return tokens / (time.perf_counter() - start), tokens / (server.cpu_seconds() - cpu)


def measure(models: dict[str, str], arguments: Any) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """Name -> requests at once -> what each turn found."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {
        name: {c: [] for c in arguments.clients} for name in models
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(model, arguments.dtype, arguments.threads, Path(folder) / f"{name}.log"))
            for name, model in models.items()
        }
        for round_number in range(arguments.turns + 1):
            for clients in arguments.clients:
                for name in models if round_number % 2 else reversed(models):
                    rates = turn(servers[name], clients, arguments.tokens, round_number)
                    if round_number:  # the first warms up
                        found[name][clients].append(rates)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="NAME=FOLDER; the first is what the others are compared with")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    models = dict(pair.split("=", 1) for pair in arguments.models)
    busy = psutil.getloadavg()[0]
    found = measure(models, arguments)
    print(f"{date.today()}, {platform.processor() or platform.machine()}, {arguments.threads} threads, load {busy:.1f}")
    print(f"{PROMPT_TOKENS} + {arguments.tokens} tokens a request, {arguments.dtype}, {arguments.turns} turns\n")
    print("| model | requests at once | tokens/s | against the first | tokens/CPU s | against the first |")
    print("|---|---|---|---|---|---|")
    first = next(iter(found.values()))
    for name, by_clients in found.items():
        for clients, rates in by_clients.items():
            columns = [f"| {name} | {clients}"]
            for at in range(2):
                ratio = median(mine[at] / theirs[at] for mine, theirs in zip(rates, first[clients], strict=True))
                columns.append(f"{median(rate[at] for rate in rates):.1f} | {ratio:.2f}x")
            print(" | ".join(columns), "|")


if __name__ == "__main__":
    main()
