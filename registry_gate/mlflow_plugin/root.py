"""Where the server's artifact root is, and which places below it a location means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import get_uri_scheme

from registry_gate.ledger.frozen import OutsideRootError, spellings
from registry_gate.mlflow_plugin.artifacts import GuardingBuilder

PREFIX = "gated:"
DESTINATION_VARIABLE = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
"""MLflow's server tells its processes here where `--artifacts-destination` is. Absent outside a server."""

DEFAULT_ROOT_VARIABLE = "_MLFLOW_SERVER_ARTIFACT_ROOT"
"""And here where experiments without a location of their own keep theirs. Present in every server."""

_ROUTE = "/mlflow-artifacts/artifacts/"
"""What stands before the path in the address of a proxied artifact, whatever the server's prefix."""


def ungated(uri: str) -> str:
    """A URI without `gated:` before it."""
    while uri.startswith(PREFIX):
        uri = uri.removeprefix(PREFIX)
    return uri


def destination() -> str | None:
    """The server's artifact root, past the gate; None outside a server that serves artifacts."""
    value = os.environ.get(DESTINATION_VARIABLE)
    return None if value is None else ungated(value)


def is_gated() -> bool:
    """Whether this server's artifact root has the guard before it."""
    return os.environ.get(DESTINATION_VARIABLE, "").startswith(PREFIX)


def is_local(uri: str) -> bool:
    """Whether a URI names a directory of this machine."""
    return urlparse(uri).scheme in ("", "file") or os.path.isabs(uri)


def is_servers_own(directory: Path) -> bool:
    """Whether a directory lies in a root that the operator of this server chose; true of all outside a server.

    Whoever may create an experiment may name any directory, and readers look for it on their own machine.
    """
    if DEFAULT_ROOT_VARIABLE not in os.environ:
        return True
    roots = [ungated(os.environ[name]) for name in (DEFAULT_ROOT_VARIABLE, DESTINATION_VARIABLE) if name in os.environ]
    real = Path(os.path.realpath(directory))
    return any(real.is_relative_to(os.path.realpath(local_file_uri_to_path(root))) for root in roots if is_local(root))


def below_root(uri: str) -> str | None:
    """The path of a URI below the server's artifact root, `.` for the root itself; None when it is not below it."""
    root = destination()
    if root is None:
        return None
    uri = ungated(uri)
    if is_local(root):
        if not is_local(uri):
            return None
        real_root, real = (os.path.realpath(local_file_uri_to_path(one)) for one in (root, uri))
        relative = os.path.relpath(real, real_root)
        return None if relative == ".." or relative.startswith("../") else relative
    # Parsed as MLflow's repositories do it, so that `S3://` and a query are no other place.
    whole, part = urlparse(root), urlparse(uri)
    above, path = whole.path.rstrip("/"), part.path.rstrip("/")
    if (part.scheme, part.netloc) != (whole.scheme, whole.netloc):
        return None
    if path == above:
        return "."
    return path.removeprefix(above + "/") if path.startswith(above + "/") else None


def repository_at(uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    """MLflow's own repository for a location, past the gate.

    A server of MLflow connects only to the hosts of its own roots, and does not see which host stands behind `gated:`;
    what lies below the root that the operator chose is built directly.

    Raises:
        MlflowException: MLflow knows no repository for it, or refuses the host.
    """
    from mlflow.store.artifact import artifact_repository_registry as registry

    uri = ungated(uri)
    known = registry._artifact_repository_registry.get_registered_artifact_repositories()
    builder = known.get(get_uri_scheme(uri))
    if is_gated() and builder is not None and below_root(uri) is not None:
        plain = builder.plain if isinstance(builder, GuardingBuilder) else builder
        return plain(uri, tracking_uri=tracking_uri, registry_uri=registry_uri)
    return registry.get_artifact_repository(uri, tracking_uri, registry_uri)


def places_of(location: str, workspace: str) -> tuple[str, ...]:
    """Every place below the artifact root whose bytes a storage location can mean; none when it lies elsewhere.

    Args:
        location: Storage location of a model version, or a directory.
        workspace: MLflow workspace of the version. The proxy puts `workspaces/<workspace>/` before paths of all but
            the default one, so both the path as it stands and that one are meant.
    """
    found: list[str] = []
    for path in _paths(location):
        try:
            found += spellings(path)
            if workspace != "default":
                found += spellings(f"workspaces/{workspace}/{path}")
        except OutsideRootError:
            # Nothing can be read there: `tree_at` refuses it as the artifact of a version.
            continue
    return tuple(dict.fromkeys(place for place in found if place))


def _paths(location: str) -> Iterator[str]:
    parsed = urlparse(location)
    if parsed.scheme == "mlflow-artifacts":
        yield parsed.path
    elif parsed.scheme in ("http", "https") and _ROUTE in parsed.path:
        yield parsed.path.partition(_ROUTE)[2]
    elif (relative := below_root(location)) is not None:
        yield relative
