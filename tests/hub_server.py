"""A local stand-in of the hub's HTTP API for downloads: repositories are folders."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """The few addresses that a download asks."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.respond(body=True)

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def respond(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        for repo, folder in self.server.repos.items():
            if path.startswith(f"/api/models/{repo}/tree/"):
                return self.answer(json.dumps(self.tree(folder)).encode(), body)
            if path == f"/api/models/{repo}" or path.startswith(f"/api/models/{repo}/revision/"):
                siblings = [{"rfilename": entry["path"]} for entry in self.tree(folder)]
                info = {"id": repo, "sha": COMMIT, "private": False, "siblings": siblings}
                return self.answer(json.dumps(info).encode(), body)
            prefix = f"/{repo}/resolve/"
            if path.startswith(prefix):
                name = path.removeprefix(prefix).partition("/")[2]
                if (folder / name).is_file():
                    return self.answer((folder / name).read_bytes(), body)
                return self.missing("EntryNotFound")
        return self.missing("RepoNotFound")

    @staticmethod
    def tree(folder: Path) -> list[dict]:
        return [
            {
                "type": "file",
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def answer(self, content: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub(**repos: Path) -> Iterator[ThreadingHTTPServer]:
    """A running stand-in; ``org__name=folder`` serves the repository ``org/name``.

    Its `url` is for HF_ENDPOINT; `asked` has the paths of all requests.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.asked = f"http://127.0.0.1:{server.server_port}", []
    server.repos = {name.replace("__", "/"): folder for name, folder in repos.items()}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def environment(server: ThreadingHTTPServer, home: Path) -> dict[str, str]:
    """Variables with which the hub's library asks the stand-in."""
    return {
        "HF_ENDPOINT": server.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
