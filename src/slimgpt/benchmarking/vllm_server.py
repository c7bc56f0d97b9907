"""``vllm serve``, started for one model and asked over its HTTP interface."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil

from slimgpt.errors import LONGEST_REASON, ConfigError, ModelError, last_line, shown

NAME = "model"
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
GPU_SHARE = 0.9  # of a GPU's memory, for all servers together
FAILURE = re.compile(r"\w*(?:Error|Exception): .+")
PATIENCE_S = 60.0  # for a server that is told to end


def find_command(command: str) -> str:
    """The path of the server's command.

    Raises:
        ConfigError: there is none.
    """
    path = shutil.which(command)
    if path is None:
        raise ConfigError(
            f"--server-command {command!r} is no command here. vLLM may want other releases of torch and transformers "
            "than are here: install it, with slimgpt[vllm], in an environment of its own, and name that one's bin/vllm."
        )
    return path


@dataclass(frozen=True)
class Reply:
    """Seconds from the request to its first token, and from one token to the next."""

    first_token_s: float
    between_tokens_s: float


class Server:
    """A server that is ready for requests.

    Args:
        address: where.
        process: its first process.
    """

    def __init__(self, address: str, process: psutil.Process) -> None:
        self.address = address
        self._process = process

    def complete(self, prompt: Sequence[int], new_tokens: int) -> Reply:
        """Have exactly ``new_tokens`` tokens generated, and time them as they come.

        Raises:
            ModelError: the server failed.
        """
        asked = {"model": NAME, "prompt": list(prompt), "max_tokens": new_tokens, "ignore_eos": True, "temperature": 0}
        body = json.dumps({**asked, "stream": True, "stream_options": {"include_usage": True}}).encode()
        request = urllib.request.Request(f"{self.address}/v1/completions", body, {"Content-Type": "application/json"})
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request) as answer:
                events = [(time.perf_counter(), event) for event in _events(answer)]
        except (OSError, HTTPException) as error:
            raise ModelError(f"a server failed while it was measured: {last_line(error)}.") from error
        made = sum(event["usage"]["completion_tokens"] for _, event in events if event.get("usage"))
        if made != new_tokens:
            said = events[-1][1] if events else "nothing"
            raise ModelError(f"a server generated {made} tokens where {new_tokens} were asked, and said {shown(said)}.")
        times = [at for at, event in events if event["choices"]]
        return Reply(times[0] - start, (times[-1] - times[0]) / (new_tokens - 1))

    def version(self) -> str:
        """Of vLLM."""
        with urllib.request.urlopen(f"{self.address}/version") as answer:
            return str(json.load(answer)["version"])

    def cache_tokens(self) -> int | None:
        """Tokens that its cache has room for, where it says so."""
        with urllib.request.urlopen(f"{self.address}/metrics") as answer:
            (info,) = re.findall(r"^vllm:cache_config_info\{(.*)\}", answer.read().decode(), re.MULTILINE) or [""]
        said = dict(re.findall(r'(\w+)="(\d+)"', info))
        return int(said["block_size"]) * int(said["num_gpu_blocks"]) if "num_gpu_blocks" in said else None

    def cpu_s(self) -> float:
        """Seconds of CPU time so far, of all its processes."""
        times = [each.cpu_times() for each in (self._process, *self._process.children(recursive=True))]
        return sum(each.user + each.system for each in times)


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    """Server-sent events as they come."""
    for line in answer:
        data = line.removeprefix(b"data: ").strip()
        if data and data != b"[DONE]":
            yield json.loads(data)


@contextmanager
def serving(command: str, folder: Path, tokens: int, share: float, options: str, log: Path) -> Iterator[Server]:
    """A server that is ready; it ends with the context.

    Args:
        command: path of ``vllm``.
        folder: the model.
        tokens: of a prompt and what is generated after it.
        share: of a GPU's memory.
        options: more of the server's own.
        log: file for what it says.

    Raises:
        ModelError: it ended before it was ready.
    """
    port = _free_port()
    settings = {"--host": "127.0.0.1", "--port": port, "--served-model-name": NAME, "--max-model-len": tokens}
    settings["--gpu-memory-utilization"] = f"{share * GPU_SHARE:.3f}"
    line = [command, "serve", str(folder), *(str(word) for pair in settings.items() for word in pair)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*line, *shlex.split(options)],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, address, folder, log)
        yield Server(address, psutil.Process(process.pid))
    finally:
        _end(process)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, folder: Path, log: Path) -> None:
    """Compiling and loading may take minutes; who does not want to wait ends the command."""
    while process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return
        time.sleep(0.5)
    text = log.read_text(errors="replace")
    why = next(iter(FAILURE.findall(text)), None) or (text.strip().splitlines() or ["it said nothing"])[-1]
    raise ModelError(
        f"vllm serve {folder} ended before it was ready: {why[:LONGEST_REASON].rstrip('.')}. What helps is often one "
        "of its own options (--server-options), or, for a per-layer model, slimgpt[vllm] installed beside vLLM."
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server with all its processes."""
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
