"""A local stand-in for the Hugging Face Hub, which serves one repository of files in memory."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

REPO = "acme/tiny-GGUF"
GATED = "acme/gated-GGUF"
COMMIT = hashlib.sha1(b"the only commit").hexdigest()


class FakeHub(ThreadingHTTPServer):
    """Serves `files` as one repository with the branch main and the tag v1."""

    def __init__(self, files: Mapping[str, bytes], repo: str = REPO) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.repo = repo
        self.requests: list[str] = []

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def bodies(self) -> list[str]:
        """The files that were downloaded."""
        return [
            line.split("/resolve/")[1].split("/", 1)[1]
            for line in self.requests
            if line.startswith("GET ") and "/resolve/" in line
        ]


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(main|v1|[0-9a-f]{40}|[^/]+)/(.+)", path):
            repo, revision, name = match.groups()
            if self._refuses(repo, revision):
                return
            data = self.server.files.get(name)
            if data is None:
                self._send(404, b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
                return
            etag = hashlib.sha256(data).hexdigest()
            self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/]+))?", path):
            repo, kind, revision = match.groups()
            if self._refuses(repo, revision or "main"):
                return
            names = sorted(self.server.files)
            tree = [
                {"type": "file", "path": name, "oid": COMMIT, "size": len(self.server.files[name])} for name in names
            ]
            info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(200, json.dumps(tree if kind == "tree" else info).encode(), {}, body)
        else:
            self._send(404, b"", {}, body)

    def _refuses(self, repo: str, revision: str) -> bool:
        if repo == GATED:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"}, False)
        elif repo != self.server.repo:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, False)
        elif revision not in ("main", "v1", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, False)
        else:
            return False
        return True

    def _send(self, status: int, data: bytes, headers: Mapping[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json" if data[:1] in (b"{", b"[") else "application/octet-stream")
        self.send_header("Content-Length", str(len(data) if body or status == 200 else 0))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass
