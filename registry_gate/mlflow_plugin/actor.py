"""Who asks: the authenticated user of the HTTP request, else the address, else the user that runs this process."""

from __future__ import annotations

import getpass

from flask import g, has_request_context, request

from registry_gate.promotion import Actor


def current_actor() -> Actor:
    """The caller of the registry.

    MLflow's basic-auth sets `flask.g.mlflow_authenticated_user` before its shortcut for admins (MLFLOW.md section 10),
    so admins have a name here too. Headers are not trusted: anyone can send them.
    """
    if has_request_context():
        user = getattr(g, "mlflow_authenticated_user", None)
        if user:
            return Actor(name=str(user), kind="basic-auth", address=request.remote_addr)
        return Actor(name="anonymous", kind="anonymous", address=request.remote_addr)
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a process whose user id has no name
        name = "unknown"
    return Actor(name=name, kind="os-user")
