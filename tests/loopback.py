"""Services on loopback that the real clients of S3 and of the model hub talk to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest
from moto.server import ThreadedMotoServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that reads one data set and one model: lists of files, and files of a commit."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        name = path.partition("/resolve/")[2].partition("/")[2]
        if re.match(r"/api/(datasets|models)/owner/set/tree/", path):
            tree = [{"type": "file", "path": name, "oid": "0" * 40, "size": 1} for name in self.files]
            self._send(json.dumps(tree).encode(), "application/json")
        elif re.match(r"/api/(datasets|models)/owner/set", path):
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": "owner/set", "sha": COMMIT, "siblings": siblings}
            self._send(json.dumps(about).encode(), "application/json")
        elif re.match(r"(/datasets)?/owner/set/resolve/", path) and name in self.files:
            self._send(self.files[name], "application/octet-stream")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def hub_on_loopback(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Iterator[type[Hub]]:
    """A hub that the hub's own client talks to, with its caches in a directory. Files are set on the class given."""
    import huggingface_hub.constants as constants
    from huggingface_hub import hf_api

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
    # Read at import by the client, which another test may have imported already.
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(hf_api.constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(directory / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    yield Hub
    Hub.files = {}
    server.shutdown()
    server.server_close()


@contextmanager
def s3_on_loopback(monkeypatch: pytest.MonkeyPatch, bucket: str) -> Iterator[Any]:
    """A real S3 API with one empty bucket; gives a client."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    yield client
    server.stop()
