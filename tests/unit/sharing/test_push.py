"""``slimgpt push`` against a stand-in of the hub's interface on this machine."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import run_folders
import tiny_llama
from huggingface_hub import HfApi, ModelCard

from slimgpt import PushConfig, cli, prune, push
from slimgpt.errors import ConfigError, ModelError, OutputError

REPO = "me/smaller"


@dataclass
class Hub:
    """Repositories that take files, as the hub's interface does."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    refuses: bool = False
    address: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON."""
        if self.refuses:
            return 401, {"error": "who are you?"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization") or "me", asked["name"]]))
            self.repos.setdefault(name, {".gitattributes": b""})
            if asked.get("private") or asked.get("visibility") == "private":
                self.private.add(name)
            return 200, {"url": f"{self.address}/{name}"}
        if path == "/api/validate-yaml":
            front = json.loads(body)["content"].split("---")[1]
            wrong = [{"message": "base_model is no id"}] if "base_model: /" in front else []
            return (400 if wrong else 200), {"errors": wrong, "warnings": []}
        name = "/".join(path.split("?")[0].split("/")[3:5])
        if name not in self.repos:
            return 404, {"error": "Repository not found"}
        if "/preupload/" in path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if "/commit/" in path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.repos[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return 200, {"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1", "success": True}
        return 200, [{"type": "file", "path": one, "size": 1, "oid": "0"} for one in self.repos[name]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """It answers on this machine alone; other tests may not go online at all."""
    hub = Hub()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = hub.answer(self.command, self.path, body)
            told = json.dumps(content).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = respond

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
    huggingface_hub.close_session()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with measurements, made from a model that is here and says its licence."""
    place = tmp_path_factory.mktemp("push")
    dense = tiny_llama.save_model(place / "dense")
    (dense / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Dense\n")
    folder = prune(tiny_llama.prune_config(dense, place / "run")).path
    (folder / "measured").mkdir()
    (folder / "measured" / "eval.json").write_text(json.dumps(run_folders.eval_json()))
    (folder / ".DS_Store").write_bytes(b"left by a file manager")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def pushed(hub: Hub, folder: Path, **options: Any) -> dict[str, bytes]:
    push(PushConfig(str(folder), REPO, **options), HfApi(hub.address, token="hf_x"))
    return hub.repos[REPO]


def test_everything_arrives_with_a_card_that_the_hub_reads(hub: Hub, run: Path) -> None:
    files = pushed(hub, run, base_model="owner/dense")
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert files["slimgpt.json"] == (run / "slimgpt.json").read_bytes()
    assert files["measured/eval.json"] == (run / "measured" / "eval.json").read_bytes()
    assert ".DS_Store" not in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == "owner/dense" and card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "text-generation" and "slimgpt" in card.data.tags
    scores = {(result.dataset_name, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert scores["wiki.test@128", "perplexity"] == pytest.approx(49.4, abs=0.1)
    assert ("boolq", "acc_norm") in scores
    assert "# " in card.text and "How to load it" in card.text


def test_files_beside_and_privacy(hub: Hub, run: Path, tmp_path: Path) -> None:
    (tmp_path / "smaller-q8.gguf").write_bytes(b"GGUF")
    files = pushed(hub, run, gguf=(str(tmp_path / "smaller-q8.gguf"),), private=True, licence="mit")
    assert files["smaller-q8.gguf"] == b"GGUF" and REPO in hub.private
    assert ModelCard(files["README.md"].decode()).data.license == "mit"


def test_a_repository_with_files_is_only_added_to_by_force(hub: Hub, run: Path) -> None:
    hub.repos[REPO] = {".gitattributes": b"", "config.json": b"theirs"}
    with pytest.raises(
        OutputError, match=r"has 1 files already, such as config\.json: choose another name, or add --force"
    ):
        pushed(hub, run)
    assert hub.repos[REPO]["config.json"] == b"theirs" and len(hub.repos[REPO]) == 2
    assert "model.safetensors" in pushed(hub, run, force=True)


def test_a_dry_run_asks_nobody(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no hub here at all."""
    assert cli.main(["push", str(run), REPO, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "model.safetensors\n" in shown and "license: apache-2.0" in shown


def test_a_hub_that_refuses_is_one_line(hub: Hub, run: Path) -> None:
    hub.refuses = True
    with pytest.raises(OutputError, match=f"the hub does not take {REPO} .*log in by"):
        pushed(hub, run)


@pytest.mark.parametrize("repo", ["smaller", "a/b/c", "/smaller", "me/"])
def test_a_repository_has_an_owner_and_a_name(repo: str, run: Path) -> None:
    with pytest.raises(ConfigError, match="must be two words with a slash between"):
        push(PushConfig(str(run), repo))


def test_what_the_hub_calls_no_name_is_said(hub: Hub, run: Path) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME 'me/no good'"):
        push(PushConfig(str(run), "me/no good"), HfApi(hub.address, token="hf_x"))


def test_what_is_no_run_is_not_sent(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it is not the folder of a run"):
        push(PushConfig(str(tmp_path), REPO))


def test_a_gguf_file_has_to_be_there(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.gguf' is no file"):
        push(PushConfig(str(run), REPO, gguf=("nowhere.gguf",)))


def test_damaged_measurements_are_said(run: Path) -> None:
    (run / "measured" / "eval.json").write_text('{"results": {"x": {"acc,none": []}}}')
    with pytest.raises(ModelError, match="damaged"):
        push(PushConfig(str(run), REPO, dry_run=True))
