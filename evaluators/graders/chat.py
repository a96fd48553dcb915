"""Ask a chat model behind an OpenAI-compatible endpoint, and bound what it may do.

Sends one request of `POST {base_url}/chat/completions` and hands back what came, unread: what a reply means is the
business of `judge.py`. No message here quotes what was sent or received, or the key: both may be harmful text.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as PoolTimeout

_MAX_REPLY_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
_REJECTED = frozenset({400, 413, 422})
_MAY_PASS = frozenset({408, 429, 500, 502, 503, 504, 529})
"""Worth another try; 529 is what some hosts call overloaded."""


class EndpointError(Exception):
    """A request got no completion: unreachable, refused, too slow, too long, or no chat completion at all."""


class RejectedError(Exception):
    """The endpoint works, and will not have this request: too long for the model, or against the host's rules."""


class _PassingError(EndpointError):
    """One that another try may cure.

    Args:
        message: What happened.
        wait_s: What the server asked to wait; None where it did not say.
    """

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What an endpoint sent for one request.

    Args:
        model: Model that it says it ran; None where it says none.
        finish: Why the text ended; `stop` for a whole one.
        content: The text; None where there is none.
        declined: Whether the model declined in a field of its own.
        calls: Whether it called a tool instead.
    """

    model: str | None
    finish: str | None
    content: str | None
    declined: bool
    calls: bool


class _Session(requests.Session):
    def get_redirect_target(self, resp: Any) -> None:
        """Nowhere. Even where no redirect is to be followed, requests would read the body of one without bound."""


class ChatEndpoint:
    """An endpoint, with the connections to it; safe to use from several threads.

    Proxies and certificate authorities are taken from the environment, as requests does; keys and cookies are not.

    Args:
        base_url: Up to and without `/chat/completions`.
        key: Sent as bearer token; None sends none.
        timeout_s: Of connecting, of each wait for the server, and of the whole reply.
        retries: Further tries after one that failed for a reason that may pass.
        connections: Kept open.
    """

    def __init__(self, base_url: str, *, key: str | None, timeout_s: float, retries: int, connections: int) -> None:
        self._url = f"{base_url}/chat/completions"
        self._key = key
        self._timeout_s = timeout_s
        self._tries = retries + 1
        self._session = _Session()
        # One cookie for all threads would make a reply depend on the others.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=connections))

    def complete(self, request: Mapping[str, Any], stopped: threading.Event) -> Completion:
        """Send one request, and again after a failure that may pass.

        Args:
            request: Body of the request.
            stopped: Ends the waiting between two tries.

        Raises:
            EndpointError: It got no completion.
            RejectedError: The request itself is to blame.
        """
        body = json.dumps(request).encode()
        wait_s = _FIRST_WAIT_S
        for number in range(1, self._tries + 1):
            try:
                return self._once(body)
            except _PassingError as err:
                if number == self._tries:
                    raise EndpointError(f"{err}, {number} times in a row" if number > 1 else str(err)) from err
                if stopped.wait(min(wait_s if err.wait_s is None else err.wait_s, _LONGEST_WAIT_S)):
                    break
                wait_s *= 2
        raise EndpointError("nobody waits for an answer any more")

    def _once(self, body: bytes) -> Completion:
        ends_at = time.monotonic() + self._timeout_s
        try:
            with self._session.post(
                self._url,
                data=body,
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                auth=self._authorise,
                timeout=self._timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.status_code != HTTPStatus.OK:
                    raise _failure(response.status_code, response.headers.get("Retry-After"))
                return _completion(self._read(response.raw, ends_at))
        except (requests.exceptions.Timeout, PoolTimeout) as err:
            raise self._too_slow() from err
        except (requests.exceptions.RequestException, HTTPError) as err:
            raise _PassingError(f"the endpoint cannot be reached: {_reason(err)}") from err

    def _read(self, raw: Any, ends_at: float) -> bytes:
        content = bytearray()
        # As much as is there, rather than as much as was asked for: a server that drips would hold us for hours.
        while part := raw.read1(_READ_BYTES, decode_content=False):
            content += part
            if len(content) > _MAX_REPLY_BYTES:
                raise EndpointError(f"the endpoint sent more than {_MAX_REPLY_BYTES} bytes")
            if time.monotonic() > ends_at:
                raise self._too_slow()
        return bytes(content)

    def _too_slow(self) -> _PassingError:
        return _PassingError(f"the endpoint did not answer within {self._timeout_s:g} s")

    def _authorise(self, request: Any) -> Any:
        # Given also without a key: requests would otherwise look for one in ~/.netrc, which nobody named.
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _failure(status: int, retry_after: str | None) -> EndpointError | RejectedError:
    # The phrase is ours: what a server writes there may quote what it was sent.
    known = status in {one.value for one in HTTPStatus}
    said = f"the endpoint answered {status}" + (f" {HTTPStatus(status).phrase}" if known else "")
    if status in _REJECTED:
        return RejectedError(said)
    if status not in _MAY_PASS:
        return EndpointError(f"{said}, and redirects are not followed" if 300 <= status < 400 else said)
    # The other form, a date, is rare here, and needs clocks that agree: we wait as if nothing had been said.
    return _PassingError(said, float(retry_after) if retry_after and retry_after.isdecimal() else None)


def _reason(err: BaseException) -> str:
    """The operating system's word for it, where there is one: messages of clients hold addresses and more."""
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(err).__name__


def _completion(content: bytes) -> Completion:
    try:
        reply = json.loads(content)
        (choice,) = reply["choices"]
        message = choice["message"]
        return Completion(
            model=_text(reply.get("model")),
            finish=_text(choice.get("finish_reason")),
            content=_text(message.get("content")),
            declined=bool(message.get("refusal")),
            calls=bool(message.get("tool_calls") or message.get("function_call")),
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as err:
        raise EndpointError("the endpoint did not answer with one chat completion") from err


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
