"""Find the bytes of a model version: storage location in, artifact tree or manifest out."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from registry_gate.artifact import ArtifactTree, HashCache, LocalTree, TreeFile, VersionTree, read_manifest
from registry_gate.errors import FormError
from registry_gate.form import FormManifest
from registry_gate.promotion import ModelVersionRef

DESTINATION_VARIABLE = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
"""MLflow's server tells its processes here where `--artifacts-destination` is. Absent outside a server."""

PROMPT_SOURCES = frozenset({"dummy-source", "prompt-template"})
"""Source of a version that is a prompt. Structural and immutable, unlike the tag (MLFLOW.md section 6)."""

Locate = Callable[[str, int], str]
"""Storage location of a registered model version."""


class RepositoryTree:
    """An artifact behind an MLflow artifact repository (S3, HTTP, ...), read through a private temporary copy.

    Args:
        uri: Its location.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._copy: LocalTree | None = None

    @property
    def place(self) -> str:
        """The location."""
        return self._uri

    def local(self) -> LocalTree:
        """The copy, downloaded once and removed with this object.

        Raises:
            FormError: The artifact cannot be downloaded.
        """
        if self._copy is None:
            directory = tempfile.mkdtemp(prefix="registry-gate-")
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            try:
                get_artifact_repository(self._uri).download_artifacts("", dst_path=directory)
            except Exception as err:  # repositories raise whatever their client library does
                raise FormError(
                    f"{self._uri}: expected artifacts that can be read, got {type(err).__name__}: {err}",
                    code="artifact_unreadable",
                ) from err
            self._copy = LocalTree(Path(directory), HashCache())
        return self._copy

    def files(self) -> list[TreeFile]:
        """See `ArtifactTree.files`."""
        return self.local().files()

    def digests(self, paths: Sequence[str]) -> dict[str, str]:
        """See `ArtifactTree.digests`."""
        return self.local().digests(paths)

    def read(self, path: str) -> bytes:
        """See `ArtifactTree.read`."""
        return self.local().read(path)


def tree_at(location: str, cache: HashCache) -> ArtifactTree:
    """The artifact at a storage location.

    Raises:
        FormError: The location is one whose meaning can change (`runs:/`), or leaves the artifact root.
    """
    parsed = urlparse(location)
    if parsed.scheme in ("runs", "models"):
        raise FormError(
            f"expected a version registered from a fixed location, got the source {location!r}, which is resolved anew "
            "at every read: register the logged model itself (models:/m-<id>)",
            code="source_mutable",
        )
    if parsed.scheme == "mlflow-artifacts":
        destination = os.environ.get(DESTINATION_VARIABLE)
        if destination is None:
            return RepositoryTree(location)
        relative = unquote(parsed.path).lstrip("/")
        if ".." in relative.split("/") or not relative:
            raise FormError(f"expected a location inside the artifact root, got {location!r}", code="artifact_missing")
        return tree_at(destination.rstrip("/") + "/" + relative, cache)
    if parsed.scheme == "file":
        return LocalTree(Path(unquote(parsed.path)), cache)
    if parsed.scheme == "" or os.path.isabs(location):
        return LocalTree(Path(location).absolute(), cache)
    return RepositoryTree(location)


class Candidates:
    """Reads the forms of model versions; implements `gate.FormReader`.

    Args:
        locate: Storage location of a registered version, for bases that are registered versions.
    """

    def __init__(self, locate: Locate) -> None:
        self._locate = locate
        self._cache = HashCache()

    def read(self, version: ModelVersionRef) -> FormManifest:
        """The form as its bytes are now. See `gate.FormReader.read`."""
        return read_manifest(tree_at(version.location, self._cache), self._version_tree)

    @property
    def version_tree(self) -> VersionTree:
        """Resolves `models:/name/version`."""
        return self._version_tree

    def _version_tree(self, name: str, version: int) -> ArtifactTree:
        try:
            location = self._locate(name, version)
        except MlflowException as err:
            raise FormError(
                f"expected the base models:/{name}/{version} to be registered, got: {err.message}",
                code="base_unresolved",
            ) from err
        return tree_at(location, self._cache)
