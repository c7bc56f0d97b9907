"""``slimgpt bench --server``, with a stand-in for vLLM that answers as it does, at known intervals."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_llama

from slimgpt import cli
from slimgpt.benchmarking import bench
from slimgpt.config import BenchConfig
from slimgpt.errors import ConfigError, ModelError

VLLM = '''#!{python}
"""Notes how it was called, and serves; a folder named "bad" it refuses, and of one named "short" it forgets a token."""
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, port = Path(sys.argv[2]), int(sys.argv[sys.argv.index("--port") + 1])
here = Path(__file__).parent
(here / ("called-" + folder.name)).write_text(json.dumps([os.getpid(), sys.argv[1:], os.environ["HF_HUB_OFFLINE"]]))
if folder.name == "bad":
    sys.exit("Traceback: ...\\nValueError: no such architecture\\nRuntimeError: see root cause above")

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        info = 'vllm:cache_config_info{{block_size="16",num_gpu_blocks="100",other="x"}} 1.0'
        self.answer({{"/health": "", "/version": '{{"version": "0.0"}}', "/metrics": "# HELP\\n" + info}}[self.path])
    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with (here / ("asked-" + folder.name)).open("a") as file:
            file.write(json.dumps(asked) + "\\n")
        self.answer("")
        for _ in range(asked["max_tokens"]):
            time.sleep(0.01)
            self.send({{"choices": [{{"text": ""}}]}})
        made = asked["max_tokens"] - (folder.name == "short")
        self.send({{"choices": [], "usage": {{"completion_tokens": made}}}})
        self.wfile.write(b"data: [DONE]")
    def send(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")

ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''
SHORT: dict[str, Any] = {"server": "vllm", "prompt_tokens": 4, "new_tokens": 3, "repeats": 2, "clients": (1, 3)}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("served") / "dense")


@pytest.fixture(scope="module")
def vllm(dense: Path) -> Path:
    command = dense.with_name("vllm")
    command.write_text(VLLM.format(python=sys.executable))
    command.chmod(0o755)
    return command


@pytest.fixture(scope="module")
def other(dense: Path) -> Path:
    return tiny_llama.save_model(dense.with_name("other"))


@pytest.fixture(scope="module")
def result(dense: Path, other: Path, vllm: Path) -> dict[str, Any]:
    options = "--dtype float32 --note 'two words'"
    return bench(BenchConfig((str(dense), str(other)), **SHORT, server_command=str(vllm), server_options=options))


def called(folder: Path) -> Any:
    return json.loads(folder.with_name(f"called-{folder.name}").read_text())


def asked(folder: Path) -> list[Any]:
    return [json.loads(line) for line in folder.with_name(f"asked-{folder.name}").read_text().splitlines()]


def test_times_are_what_a_client_waits_for(result: dict[str, Any], dense: Path, other: Path) -> None:
    assert (result["kind"], result["versions"]["vllm"]) == ("served", "0.0")
    assert [model["model"] for model in result["models"]] == [str(dense), str(other)]
    assert json.loads(json.dumps(result)) == result
    for model in result["models"]:
        assert (model["cache_tokens"], set(model["by_clients"])) == (1600, {"1", "3"})
        for found in model["by_clients"].values():
            assert found["time_to_first_token_ms"]["low"] >= 10
            assert found["time_between_tokens_ms"]["low"] > 5  # 10, as the receiver may be late for the first
            assert found["tokens_per_s"]["median"] == pytest.approx(3 * found["requests_per_s"]["median"])
    ratios = result["models"][0]["by_clients"]["1"]["ratios_to_first"]
    assert all(spread["low"] == spread["high"] == 1 for spread in ratios.values())


def test_all_models_are_asked_the_same_and_nothing_twice(result: dict[str, Any], dense: Path, other: Path) -> None:
    first, second = (sorted(request["prompt"] for request in asked(folder)) for folder in (dense, other))
    assert first == second
    assert len(first) == (1 + 2) * 2 * (1 + 3)  # repeats, requests of a client, clients
    assert len(set(map(tuple, first))) == len(first)
    assert all(request["ignore_eos"] and request["temperature"] == 0 for request in asked(dense))


def test_servers_share_a_gpu_get_the_options_and_end(result: dict[str, Any], dense: Path, other: Path) -> None:
    for folder in (dense, other):
        process, words, offline = called(folder)
        assert words[:2] == ["serve", str(folder)] and offline == "1"
        options = dict(zip(words[2::2], words[3::2], strict=True))
        assert (options["--gpu-memory-utilization"], options["--max-model-len"]) == ("0.450", "7")
        assert (options["--dtype"], options["--note"]) == ("float32", "two words")
        with pytest.raises(ProcessLookupError):
            os.kill(process, signal.SIG_DFL)


def test_what_a_server_says_is_told(dense: Path, vllm: Path) -> None:
    bad = tiny_llama.save_model(dense.with_name("bad"))
    with pytest.raises(ModelError, match=r"ended before it was ready: ValueError: no such architecture\. What helps"):
        bench(BenchConfig((str(bad),), **SHORT, server_command=str(vllm)))
    short = tiny_llama.save_model(dense.with_name("short"))
    with pytest.raises(ModelError, match="a server generated 2 tokens where 3 were asked"):
        bench(BenchConfig((str(short),), **SHORT, server_command=str(vllm)))


def test_the_command_prints_a_row_for_each(dense: Path, vllm: Path, capsys: Any, tmp_path: Path) -> None:
    words = ["bench", str(dense), "--server", "vllm", "--server-command", str(vllm), "--clients", "1", "2"]
    words += ["--prompt-tokens", "4", "--new-tokens", "3", "--repeats", "1", "--json", str(tmp_path / "served.json")]
    assert cli.main(words) == 0
    assert "Served by vLLM 0.0" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "served.json").read_text())["models"][0]["by_clients"]) == {"1", "2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"server_command": "no-such-vllm"}, "--server-command 'no-such-vllm' is no command here"),
        ({"clients": ()}, "--server vllm needs --clients"),
        ({"clients": (0,)}, "clients"),
        ({"batch_size": 2}, "--batch-size does not go with --server vllm"),
        ({"record": True}, "--record does not go with --server vllm"),
    ],
)
def test_refuses_what_makes_no_sense(dense: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench(BenchConfig((str(dense),), **{**SHORT, **changes}))
