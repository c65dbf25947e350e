"""Claims, against a loopback fake of the hub: every file goes up in one commit, to a private
repository unless asked; nothing that does not verify.
"""

from __future__ import annotations

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hub_server
import pytest
from pipelines import tiny_sd
from tiny_runs import RECIPE

from forgetcli.errors import ForgetError
from forgetcli.export import push as uploads
from forgetcli.storage.files import walk_files

REPO = "me/tiny"


class Hub(BaseHTTPRequestHandler):
    """The few of the hub's addresses that an upload asks; small files travel within the commit, as
    "regular" ones do.
    """

    def do_GET(self) -> None:
        self.server.asked.append(("GET", self.path, None))
        if self.path.startswith(f"/api/models/{REPO}") and self.server.private is not None:
            self.answer(
                200, {"id": REPO, "private": self.server.private, "sha": "0" * 40, "siblings": []}
            )
        else:
            self.answer(404, {})

    def do_POST(self) -> None:
        body = self.read()
        self.server.asked.append(("POST", self.path, body))
        if self.server.refuses or self.headers.get("Authorization") != "Bearer hf_secret":
            self.answer(403, {"error": "not yours"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            if self.server.exists:
                self.answer(409, {"error": "it exists", "url": f"{self.server.url}/{REPO}"})
                return
            self.server.private = (
                asked.get("visibility") == "private" or asked.get("private") is True
            )
            self.answer(200, {"url": f"{self.server.url}/{REPO}", "name": REPO})
        elif "/preupload/" in self.path:
            self.answer(
                200,
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in json.loads(body)["files"]
                    ]
                },
            )
        elif "/commit/" in self.path:
            self.answer(
                200,
                {
                    "success": True,
                    "commitUrl": f"{self.server.url}/{REPO}/commit/{'c' * 40}",
                    "commitOid": "c" * 40,
                },
            )
        else:
            self.answer(200, {})

    def read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status: int, data: dict) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def running():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(running):
    running.asked = []
    running.exists = running.refuses = False
    running.private = None  # there is no repository yet
    return running


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """An edit, and its report as the pipeline writes it: one that agrees with the tensors."""
    from forgetcli.pipeline import apply

    place = tmp_path_factory.mktemp("pushed")
    (place / "art.toml").write_text(RECIPE)
    tiny_sd(place / "sd")
    apply.apply(
        place / "art.toml",
        model=str(place / "sd"),
        output=place / "edited",
        device="cpu",
        strict=False,
    )
    return place / "edited"


@pytest.fixture(scope="module")
def environment(running, tmp_path_factory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("hf")
    return {**hub_server.environment(running, home), "HF_TOKEN": "hf_secret"}


@pytest.fixture
def push(forked, environment, hub, tmp_path):
    return lambda *arguments, **more: forked(
        tmp_path, "push", *arguments, **{**environment, **more}
    )


def commits(hub) -> list[dict[str, bytes]]:
    """The files of each commit that the hub was sent."""
    found = []
    for _, path, body in hub.asked:
        if "/commit/" in path:
            lines = [json.loads(line) for line in body.splitlines()]
            found.append(
                {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
            )
    return found


def test_every_file_goes_up_in_one_commit_to_a_private_repository(push, hub, original):
    done = push(original, REPO, "--json")
    assert done.code == 0, done.stderr
    assert (
        done.json["private"] is True
        and done.json["commit"] == "c" * 40
        and done.json["url"] == f"{hub.url}/{REPO}"
    )
    assert commits(hub) == [{path: (original / path).read_bytes() for path in walk_files(original)}]
    assert {
        "README.md",
        "forget.provenance.json",
        "recipe.toml",
        "text_encoder/model.safetensors",
    } <= commits(hub)[0].keys()
    assert hub.private is True and "hf_secret" not in done.stdout + done.stderr
    created = [json.loads(body) for _, path, body in hub.asked if path == "/api/repos/create"]
    assert len(created) == 1 and (
        created[0].get("visibility") == "private" or created[0].get("private") is True
    )


def test_public_and_to_a_branch_if_asked(push, hub, original):
    done = push(original, REPO, "--public", "--revision", "v2", "-q")
    assert (done.code, done.stdout) == (0, f"{hub.url}/{REPO}\n"), done.stderr
    assert hub.private is False
    paths = [path for method, path, _ in hub.asked if method == "POST"]
    assert any(path.endswith(f"{REPO}/branch/v2") for path in paths) and any(
        path.endswith("/commit/v2") for path in paths
    )


def test_what_must_not_go_up_does_not(push, hub, original, tmp_path, monkeypatch):
    edited = Path(shutil.copytree(original, tmp_path / "edited"))
    (edited / "unet" / "config.json").write_text("{}")
    for folder, repo, code in (
        (edited, REPO, "push.not-verified"),
        (original, "nonsense", "push.name"),
        (original, "a/b@c", "push.name"),
    ):
        with pytest.raises(ForgetError) as error:
            uploads.push(folder, repo)
        assert error.value.code == code
    done = push(edited, REPO)
    assert (
        done.code == 2
        and "error[push.not-verified]" in done.stderr
        and "unet/config.json" in done.stderr
    )
    assert hub.asked == []  # not even a repository was made
    with monkeypatch.context() as patch:  # a link that came after the folder was verified
        patch.setattr(uploads, "_refuse_unverified", lambda folder: None)
        (edited / "secret.txt").symlink_to("/etc/hostname")
        with pytest.raises(ForgetError) as error:
            uploads.push(edited, REPO)
    assert error.value.code == "file.outside" and hub.asked == []
    hub.exists, hub.private = True, False
    done = push(original, REPO)
    assert done.code == 2 and "error[push.is-public]" in done.stderr and commits(hub) == []
    assert push(original, REPO, "--public").code == 0 and len(commits(hub)) == 1


def test_a_hub_that_refuses_or_is_not_there(push, started, environment, original):
    assert "error[push.not-allowed]" in push(original, REPO, HF_TOKEN="hf_wrong").stderr
    nobody = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    gone = started("push", original, REPO, **nobody)
    assert gone.code == 2 and "error[push.failed]" in gone.stderr and "Traceback" not in gone.stderr
