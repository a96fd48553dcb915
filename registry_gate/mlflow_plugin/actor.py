"""Who asks: the authenticated user of the HTTP request, else the address, else the user that runs this process."""

from __future__ import annotations

import getpass
import ipaddress
from collections.abc import Sequence

from flask import g, has_request_context, request

from registry_gate.config import GateSettings
from registry_gate.errors import ConfigError
from registry_gate.promotion import Actor

MAX_NAME = 256
"""Longest name that is recorded, characters; a header can hold anything."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Identity:
    """Tells who calls the registry.

    Args:
        settings: `trusted_proxies` and `identity_header`; without both no header is believed: anyone can send it.

    Raises:
        ConfigError: A proxy that is no address or network, or only one of the two settings.
    """

    def __init__(self, settings: GateSettings) -> None:
        if bool(settings.trusted_proxies) != bool(settings.identity_header):
            raise ConfigError(
                "[gate] expected trusted_proxies and identity_header together, got one of them: without the other no "
                "header would be believed"
            )
        self._header = settings.identity_header
        self._proxies = [_network(proxy) for proxy in settings.trusted_proxies]

    def current(self) -> Actor:
        """The caller.

        MLflow's basic-auth sets `flask.g.mlflow_authenticated_user` before its shortcut for admins (MLFLOW.md section
        10), so admins have a name here too. A proxy's word is taken only where MLflow itself authenticated nobody.
        """
        if not has_request_context():
            return Actor(name=_os_user(), kind="os-user", via="in-process")
        address, via = request.remote_addr, f"{request.method} {request.path}"[:MAX_NAME]
        user = getattr(g, "mlflow_authenticated_user", None)
        if user:
            return Actor(name=str(user)[:MAX_NAME], kind="basic-auth", address=address, via=via)
        named = request.headers.get(self._header, "").strip() if self._header else ""
        if named and _is_one_of(address, self._proxies):
            return Actor(name=named[:MAX_NAME], kind="proxy", address=address, via=via)
        return Actor(name="anonymous", kind="anonymous", address=address, via=via)


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as err:
        raise ConfigError(
            f"[gate] trusted_proxies: expected addresses or networks (10.0.0.5, 10.0.0.0/8), got {text!r}"
        ) from err


def _is_one_of(address: str | None, networks: Sequence[_Network]) -> bool:
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:  # a Unix socket has no address
        return False
    return any(found.version == network.version and found in network for network in networks)


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process whose user id has no name
        return "unknown"
