"""A page on this machine alone on which one person labels answers.

Bound to loopback. Its address holds a random token that no other page knows, so no other page can send a label in its
name; calls under another host name are refused, so none can read it either. Every text is escaped, nothing is fetched
from elsewhere, and nothing is kept by the browser.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Protocol, cast
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from registry_gate.errors import RegistryGateError

MAX_BODY_BYTES = 4096
HOST = "127.0.0.1"

Word = Literal["bad", "good", "skip"]


class Shown(Protocol):
    """One answer to label."""

    @property
    def id(self) -> str: ...
    @property
    def measure(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def request(self) -> str: ...
    @property
    def answer(self) -> str: ...


class Labelling(Protocol):
    """Somebody at work; `worker.labels.LabelSession` is one."""

    @property
    def labeller(self) -> str: ...
    @property
    def total(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    def current(self) -> Shown | None: ...
    def label(self, item_id: str, word: Word) -> bool: ...
    def undo(self) -> bool: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, session: Labelling) -> None:
        super().__init__((HOST, 0), _Handler)
        self.session = session
        self.token = secrets.token_urlsafe(32)
        self.lock = threading.Lock()
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    timeout = 30
    server_version = "registry-gate"
    sys_version = ""

    def do_GET(self) -> None:
        if self._welcome():
            self._page()

    def do_POST(self) -> None:
        if not self._welcome():
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()) or int(length[:9]) > MAX_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "expected a short form, got something else")
            return
        try:
            form = {key: values[-1] for key, values in parse_qs(self.rfile.read(int(length)).decode()).items()}
        except ValueError:
            form = {}
        action, item = form.get("action", ""), form.get("item", "")
        server = self._server
        note = ""
        try:
            with server.lock:
                match action:
                    case "bad" | "good" | "skip":
                        if not server.session.label(item, action):
                            note = "stale"
                    case "undo":
                        server.session.undo()
                    case "quit":
                        pass
                    case _:
                        self._refuse(HTTPStatus.BAD_REQUEST, "expected one of the page's own buttons, got another")
                        return
        except RegistryGateError as err:
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, str(err))
            return
        if action == "quit":
            # The answer first: the process ends as soon as it is told.
            self._page(ended=True)
            self.wfile.flush()
            server.ended.set()
            return
        # Back to a page that may be loaded again without sending the label twice.
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", f"/{server.token}/{'?' + note if note else ''}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    @property
    def _server(self) -> _Server:
        return cast("_Server", self.server)

    def _welcome(self) -> bool:
        server = self._server
        own = f"{HOST}:{server.server_port}"
        # A name that somebody points at this machine is another host, so its pages cannot read this one.
        if self.headers.get("Host") != own or self.headers.get("Origin", f"http://{own}") != f"http://{own}":
            self._refuse(HTTPStatus.FORBIDDEN, "expected the address that the command printed, got another host")
            return False
        if not hmac.compare_digest(urlsplit(self.path).path.encode(), f"/{server.token}/".encode()):
            self._refuse(HTTPStatus.NOT_FOUND, "expected the address that the command printed, got another")
            return False
        return True

    def _page(self, *, ended: bool = False) -> None:
        session = self._server.session
        with self._server.lock:
            text = _template().render(
                item=session.current(),
                labeller=session.labeller,
                done=session.done,
                total=session.total,
                skipped=session.skipped,
                ended=ended or self._server.ended.is_set(),
                stale=urlsplit(self.path).query == "stale",
            )
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", text)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", text + "\n")

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        # A lone surrogate, which a broken tokenizer can make, is shown as a question mark.
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
             "base-uri 'none'; frame-ancestors 'none'"),
            ("Referrer-Policy", "same-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing is logged: the path holds the token."""


class Page:
    """A page that is being served.

    Args:
        url: Its address, with the token.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.url = server.url

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the person presses Stop. False when the time is over first."""
        return self._server.ended.wait(timeout_s)


@contextmanager
def serve(session: Labelling) -> Iterator[Page]:
    """Serve a page for a person at work, until the block ends."""
    server = _Server(session)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="labels", daemon=True)
    thread.start()
    try:
        yield Page(server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("registry_gate.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("label.html")
