"""A hub on this machine: what huggingface_hub asks of the real one, served from folders."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Models by id, each a folder; ``requests`` are the files that were sent, ``broken`` those that break off."""

    def __init__(self):
        self.models, self.requests, self.broken, self.closed = {}, [], set(), set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                """Silent."""

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request, *, body):
        parts = request.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        folder = self.models.get(f"{owner}/{name}")
        if f"{owner}/{name}" in self.closed:
            self.say(request, 403, {"error": "closed"}, {"X-Error-Code": "GatedRepo"})
        elif folder is None:
            self.say(request, 404, {"error": "no such model"}, {"X-Error-Code": "RepoNotFound"})
        elif rest[1:2] not in ([COMMIT], ["main"]):
            self.say(request, 404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        elif api and rest[0] == "revision":
            self.say(request, 200, {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []})
        elif api:
            files = sorted(f for f in folder.rglob("*") if f.is_file())
            self.say(request, 200, [
                {"type": "file", "path": f.relative_to(folder).as_posix(), "size": f.stat().st_size, "oid": "0" * 40}
                for f in files
            ])  # fmt: skip
        else:
            self.send(request, folder / "/".join(rest[2:]), body=body)

    def send(self, request, path, *, body):
        content = path.read_bytes()
        etag = hashlib.sha256(content).hexdigest()[:40]
        first, code = 0, 200
        if body and (wanted := request.headers.get("Range")):
            first, code = int(wanted.removeprefix("bytes=").split("-")[0]), 206
        request.send_response(code)
        request.send_header("ETag", f'"{etag}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", str(len(content) - first))
        request.end_headers()
        if not body:
            return
        self.requests.append(path.name)
        if path.name in self.broken:
            request.wfile.write(content[first : first + 100])
            request.close_connection = True
            return
        request.wfile.write(content[first:])

    def say(self, request, code, what, more=()):
        data = json.dumps(what).encode()
        request.send_response(code)
        for key, value in {**dict(more), "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(data)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that is online, and an empty cache."""
    made = Hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", made.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("workbench.machine._cache", lambda: Path(tmp_path / "cache"))
    yield made
    made.close()
