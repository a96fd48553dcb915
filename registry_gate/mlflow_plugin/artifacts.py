"""The artifact repository behind `--artifacts-destination gated:<root>`. `guard` says what it refuses.

MLflow imports this module in every process that imports its artifact repositories, while it is still importing them:
so nothing of MLflow or the gate is imported here before a repository is asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlparse

Builder = Callable[..., Any]
"""How MLflow makes a repository: `(artifact_uri, tracking_uri=None, registry_uri=None)`."""


def build_repository(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    """MLflow's repository for the URI after `gated:`, with the guard before everything that writes.

    Args:
        artifact_uri: `gated:` and the URI of any root that MLflow knows, or of a directory below the server's root.
        tracking_uri: Handed on.
        registry_uri: Handed on.

    Raises:
        MlflowException: There is no URI after `gated:`, or MLflow knows no repository for it.
    """
    from registry_gate.mlflow_plugin.guard import guarded_repository

    return guarded_repository(artifact_uri, tracking_uri, registry_uri)


class GuardingBuilder:
    """Builds what MLflow builds for a scheme, and guards what lies below this server's gated root.

    Anybody may create an experiment whose artifact location is the directory or bucket behind the root, without
    `gated:`, and have the server write to it.

    Args:
        plain: MLflow's own builder.
    """

    def __init__(self, plain: Builder) -> None:
        self.plain = plain
        # MLflow makes the names of dataset sources out of this.
        self.__name__ = plain.__name__

    def __call__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
        """See `build_repository`."""
        from registry_gate.mlflow_plugin.root import below_root

        if below_root(artifact_uri) is not None:
            return build_repository(artifact_uri, tracking_uri, registry_uri)
        return self.plain(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)


def _guard_the_root_by_every_name() -> None:
    """In a server with a gated root, put the guard before other ways to name it. Elsewhere nothing changes."""
    root = os.environ.get("_MLFLOW_SERVER_ARTIFACT_DESTINATION", "")
    module = sys.modules.get("mlflow.store.artifact.artifact_repository_registry")
    registry = getattr(module, "_artifact_repository_registry", None)
    if not root.startswith("gated:") or registry is None:
        return
    scheme = urlparse(root.removeprefix("gated:")).scheme
    for name in ("", "file") if scheme in ("", "file") else (scheme,):
        known = registry.get_registered_artifact_repositories().get(name)
        if known is not None and not isinstance(known, GuardingBuilder):
            registry.register(name, GuardingBuilder(known))


_guard_the_root_by_every_name()
