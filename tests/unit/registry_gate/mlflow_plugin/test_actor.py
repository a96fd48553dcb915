"""Who asks: nobody's word is taken but that of who was declared trusted."""

from __future__ import annotations

import pytest
from flask import Flask, g

from registry_gate.config import GateSettings
from registry_gate.errors import ConfigError
from registry_gate.mlflow_plugin.actor import MAX_NAME, Identity
from registry_gate.promotion import Actor

PATH = "/api/2.0/mlflow/registered-models/alias"
PROXIED = GateSettings(trusted_proxies=("10.0.0.5", "192.168.0.0/16", "fd00::/8"), identity_header="X-User")


def ask(settings: GateSettings, address: str, *, user: str | None = None, **headers: str) -> Actor:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    with Flask("test").test_request_context(PATH, method="POST", headers=named, environ_base={"REMOTE_ADDR": address}):
        if user is not None:
            g.mlflow_authenticated_user = user
        return Identity(settings).current()


def test_header_is_not_believed_unless_a_proxy_is_trusted() -> None:
    assert ask(GateSettings(), "10.0.0.5", X_User="ana") == Actor(
        name="anonymous", kind="anonymous", address="10.0.0.5", via=f"POST {PATH}"
    )


@pytest.mark.parametrize("address", ["10.0.0.5", "192.168.7.7", "fd00::1"])
def test_trusted_proxy_names_the_user(address: str) -> None:
    actor = ask(PROXIED, address, X_User=" ana ")
    assert (actor.name, actor.kind, actor.address) == ("ana", "proxy", address)


@pytest.mark.parametrize("address", ["10.0.0.6", "::1", "not an address", ""])
def test_others_cannot_name_anybody(address: str) -> None:
    assert ask(PROXIED, address, X_User="ana", X_Forwarded_For="10.0.0.5").kind == "anonymous"


def test_proxy_that_names_nobody_names_nobody() -> None:
    assert ask(PROXIED, "10.0.0.5", X_User="  ").kind == "anonymous"


def test_authenticated_user_outranks_the_proxy() -> None:
    actor = ask(PROXIED, "10.0.0.5", user="admin", X_User="ana")
    assert (actor.name, actor.kind) == ("admin", "basic-auth")


def test_long_names_are_cut() -> None:
    assert len(ask(PROXIED, "10.0.0.5", X_User="a" * 10_000).name) == MAX_NAME


def test_outside_a_request_it_is_the_user_of_the_process() -> None:
    actor = Identity(GateSettings()).current()
    assert (actor.kind, actor.address, actor.via) == ("os-user", None, "in-process")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (GateSettings(trusted_proxies=("10.0.0.5",)), "expected trusted_proxies and identity_header together"),
        (GateSettings(identity_header="X-User"), "expected trusted_proxies and identity_header together"),
        (
            GateSettings(trusted_proxies=("10.0.0.5/8",), identity_header="X-User"),
            "expected addresses or networks .10.0.0.5, 10.0.0.0/8., got '10.0.0.5/8'",
        ),
    ],
)
def test_settings_that_would_mislead_are_refused(settings: GateSettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Identity(settings)
