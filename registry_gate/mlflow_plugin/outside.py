"""Read the forms of registered versions from outside the server: rows from the database, files where they are stored.

For checks that run beside the server. Inside it, `candidate` alone is used.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from urllib.parse import unquote, urlparse

from mlflow.exceptions import MlflowException
from mlflow.utils.workspace_context import WorkspaceContext
from sqlalchemy import Engine, column, select, table

from registry_gate.errors import FormError
from registry_gate.form import FormManifest
from registry_gate.mlflow_plugin.candidate import Candidates
from registry_gate.mlflow_plugin.root import ungated
from registry_gate.promotion import ModelVersionRef

DEFAULT_WORKSPACE = "default"
WORKSPACES = "workspaces"
"""Directory below the artifact root in which each workspace but the default one has its own."""

_VERSIONS = table(
    "model_versions", *(column(name) for name in ("name", "version", "source", "storage_location", "workspace"))
)


class OutsideForms:
    """Reads forms as the server does, without being it. Implements `reconcile.FormSource`.

    What lies behind the artifact proxy (`mlflow-artifacts:/...`) is read at `artifact_root` where that is given, else
    downloaded through the server, whose address must be MLflow's tracking URI.

    Args:
        engine: MLflow's registry database.
        artifact_root: The server's `--artifacts-destination`, where it can be read from here.
    """

    def __init__(self, engine: Engine, artifact_root: str | None = None) -> None:
        self._engine = engine
        self._root = None if artifact_root is None else ungated(artifact_root).rstrip("/")
        self._candidates: dict[str, Candidates] = {}

    def read(self, version: ModelVersionRef) -> FormManifest:
        """The form as its bytes are now.

        Raises:
            RegistryError: The artifact cannot be read or is no form.
        """
        workspace = version.workspace
        if workspace not in self._candidates:
            self._candidates[workspace] = Candidates(lambda name, number: self._location(workspace, name, number))
        with nullcontext() if workspace == DEFAULT_WORKSPACE else WorkspaceContext(workspace):
            return self._candidates[workspace].read(replace(version, location=self._here(version.location, workspace)))

    def _location(self, workspace: str, name: str, number: int) -> str:
        v = _VERSIONS.c
        query = select(v.storage_location, v.source).where(
            v.workspace == workspace, v.name == name, v.version == number
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise MlflowException(f"no version {number} of {name!r}")
        return self._here(str(row.storage_location or row.source), workspace)

    def _here(self, location: str, workspace: str) -> str:
        parsed = urlparse(location)
        if self._root is None or parsed.scheme != "mlflow-artifacts":
            return location
        relative = unquote(parsed.path).lstrip("/")
        if not relative or ".." in relative.split("/"):
            raise FormError(f"expected a location inside the artifact root, got {location!r}", code="artifact_missing")
        if workspace != DEFAULT_WORKSPACE and not relative.startswith(f"{WORKSPACES}/"):
            relative = f"{WORKSPACES}/{workspace}/{relative}"  # as MLflow's proxy does
        return f"{self._root}/{relative}"
