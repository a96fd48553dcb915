"""Find the bytes of a model version: storage location in, artifact tree or manifest out."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME, WORKSPACES_DIR_NAME

from registry_gate.artifact import ArtifactTree, HashCache, LocalTree, TreeFile, TreeState, VersionTree
from registry_gate.errors import FormError
from registry_gate.form import FormManifest
from registry_gate.ledger.frozen import Held
from registry_gate.mlflow_plugin.form_cache import FormCache
from registry_gate.mlflow_plugin.root import (
    PREFIX,
    destination,
    is_local,
    is_servers_own,
    places_of,
    repository_at,
    ungated,
)
from registry_gate.promotion import ModelVersionRef

PROMPT_SOURCES = frozenset({"dummy-source", "prompt-template"})
"""Source of a version that is a prompt. Structural and immutable, unlike the tag (MLFLOW.md section 6)."""

STORES = frozenset(
    {"s3", "gs", "abfss", "wasb", "wasbs", "adl", "dbfs", "hdfs", "viewfs", "r2", "b2", "mlflow-artifacts"}
)
"""Schemes that name the same files to every reader. Outside a server the proxy is one more store."""

Writes = Callable[[Sequence[str]], frozenset[tuple[str, str]]]
"""Writes to some places that the ledger knows of, under way or ended not long ago."""

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
                repository_at(self._uri).download_artifacts("", dst_path=directory)
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

    def state(self) -> TreeState | None:
        """See `ArtifactTree.state`. MLflow's listings tell sizes only, and a size says nothing about the bytes."""
        return None


def tree_at(location: str, cache: HashCache, workspace: str = "default") -> ArtifactTree:
    """The artifact at a storage location: the very files that whoever loads the model would get.

    Args:
        location: MLflow's storage location of a model version. Whoever may create an experiment may choose it.
        cache: Shared cache of digests.
        workspace: MLflow workspace of the version; its proxied artifacts have a root of their own.

    Raises:
        FormError: The location means other files to another reader or at another time, or leaves the artifact root.
    """
    if location.startswith(PREFIX):
        # The guard is for writes; what is read is read past it.
        location = ungated(location)
    parsed = urlparse(location)
    if parsed.scheme in ("runs", "models"):
        raise FormError(
            f"expected a version registered from a fixed location, got the source {location!r}, which is resolved anew "
            "at every read: register the logged model itself (models:/m-<id>)",
            code="source_mutable",
        )
    if parsed.query or parsed.fragment or parsed.params:
        raise FormError(
            f"expected a plain storage location, got {location!r} with a query or fragment: log the model in an "
            "experiment whose artifact location has none",
            code="location_ambiguous",
        )
    if parsed.scheme == "mlflow-artifacts" and (root := destination()) is not None:
        return _tree_at_root(root.rstrip("/") + "/" + _proxied_path(location, workspace), cache)
    if is_local(location):
        directory = Path(unquote(parsed.path) if parsed.scheme == "file" else location).absolute()
        if parsed.netloc or not is_servers_own(directory):
            raise FormError(
                f"expected artifacts below this server's artifact root or in an object store, got {location!r}, which "
                "means other files on another machine: log the model in an experiment with the default location",
                code="location_local",
            )
        return LocalTree(directory, cache)
    if parsed.scheme not in STORES:
        raise FormError(
            f"expected artifacts below this server's artifact root or in one of {', '.join(sorted(STORES))}, got "
            f"{location!r}: what another host answers can differ from reader to reader",
            code="location_foreign",
        )
    return RepositoryTree(location)


def _tree_at_root(location: str, cache: HashCache) -> ArtifactTree:
    if is_local(location):
        parsed = urlparse(location)
        return LocalTree(Path(unquote(parsed.path) if parsed.scheme == "file" else location).absolute(), cache)
    return RepositoryTree(location)


def _proxied_path(location: str, workspace: str) -> str:
    """The path below the artifact root that MLflow's proxy reads for a location."""
    parsed = urlparse(location)
    path = unquote(parsed.path).lstrip("/")
    if parsed.netloc:
        raise FormError(
            f"expected artifacts of this server, got {location!r} on another host: log the model in an experiment with "
            "the default location",
            code="location_foreign",
        )
    if ".." in path.split("/") or not path:
        raise FormError(f"expected a location inside the artifact root, got {location!r}", code="artifact_missing")
    first, _, rest = path.partition("/")
    if not MLFLOW_ENABLE_WORKSPACES.get() or (workspace == DEFAULT_WORKSPACE_NAME and first != WORKSPACES_DIR_NAME):
        return path
    if first != WORKSPACES_DIR_NAME:
        return f"{WORKSPACES_DIR_NAME}/{workspace}/{path}"
    if rest.partition("/")[0] != workspace:
        raise FormError(
            f"expected artifacts of the workspace {workspace!r}, got {location!r} of another one: the proxy serves it "
            "to nobody here",
            code="location_foreign",
        )
    return path


class Candidates:
    """Reads the forms of model versions; implements `gate.FormReader`.

    Args:
        locate: Storage location of a registered version, for bases that are registered versions.
        writes: What is known of writes to some places, see `FrozenTrees.writes_at`; none outside the gate.
    """

    def __init__(self, locate: Locate, writes: Writes | None = None) -> None:
        self._locate = locate
        self._cache = HashCache()
        self._forms = FormCache()
        self._writes = writes
        self._held: dict[int, Held] = {}

    def read(self, version: ModelVersionRef) -> FormManifest:
        """The form as its bytes are now. See `gate.FormReader.read`."""
        reading = _Reading(version.workspace, self._writes)
        reading.note(version.location)

        def version_tree(name: str, number: int) -> ArtifactTree:
            location = self._location_of(name, number)
            reading.note(location)
            return tree_at(location, self._cache, version.workspace)

        manifest = self._forms.read(
            lambda: tree_at(version.location, self._cache, version.workspace), _key(version), version_tree=version_tree
        )
        base = manifest.base
        if base is not None and base.kind == "version" and not reading.found_bases:
            # From memory, and whoever read it has not noted yet what it found.
            name, _, number = base.name.removeprefix("models:/").rpartition("/")
            reading.note(self._location_of(name, int(number)))
        reading.ended = True
        # By object, because the same bytes can be read twice, and what was written meanwhile counts for the first only.
        # A manifest from memory is there already, with the bases that were found when it was read.
        if id(manifest) not in self._held:
            weakref.finalize(manifest, self._held.pop, id(manifest), None)
            self._held[id(manifest)] = reading.held(manifest)
        return manifest

    def unchanged(self, version: ModelVersionRef, digest: str) -> bool | None:
        """See `gate.FormReader.unchanged`."""
        return self._forms.unchanged(_key(version), digest)

    def held(self, version: ModelVersionRef, manifest: FormManifest) -> Held:
        """Places below the artifact root that hold what a form is loaded from: its own files, and those of the bases
        that it cannot be loaded without. None for what lies elsewhere.

        Args:
            version: The version.
            manifest: Its form, as `read` gave it.

        Raises:
            FormError: The manifest was not given by `read`.
        """
        known = self._held.get(id(manifest))
        if known is None:
            raise FormError(f"{version}: expected a form that was just read, got another one: ask again")
        return known

    @property
    def version_tree(self) -> VersionTree:
        """Resolves `models:/name/version`."""
        return self._version_tree

    def _version_tree(self, name: str, version: int) -> ArtifactTree:
        return tree_at(self._location_of(name, version), self._cache)

    def _location_of(self, name: str, version: int) -> str:
        try:
            return self._locate(name, version)
        except MlflowException as err:
            raise FormError(
                f"expected the base models:/{name}/{version} to be registered, got: {err.message}",
                code="base_unresolved",
            ) from err


class _Reading:
    """Notes what a form is read from, and which writes to it were known before it was read.

    Args:
        workspace: The workspace of the version.
        writes: See `Candidates`.
    """

    def __init__(self, workspace: str, writes: Writes | None) -> None:
        self.ended = False
        self._workspace = workspace
        self._writes = writes
        self._began = time.monotonic()
        self._places: list[tuple[str, ...]] = []
        self._known: set[tuple[str, str]] = set()

    def note(self, location: str) -> None:
        """This location is about to be read."""
        if self.ended:
            return  # looked at again later, in a transaction that must not wait for another connection
        places = places_of(location, self._workspace)
        self._places.append(places)
        root = destination()
        # A local root publishes in one step and needs no rows about writes under way.
        if places and self._writes is not None and root is not None and not is_local(root):
            self._known |= self._writes(places)

    @property
    def found_bases(self) -> bool:
        """Whether reading led to a registered base."""
        return len(self._places) > 1

    def held(self, manifest: FormManifest) -> Held:
        """What must not be written any more when this form is approved."""
        own, *bases = self._places
        places = list(own)
        if manifest.base is not None and manifest.base.required_to_load:
            if manifest.base.kind == "path":
                places += places_of(manifest.base.name, self._workspace)
            places += [place for base in bases for place in base]
        return Held(places=tuple(dict.fromkeys(places)), known=frozenset(self._known), began_s=self._began)


def _key(version: ModelVersionRef) -> str:
    """By workspace too: a base `models:/name/version` means another artifact in each."""
    return f"{version.workspace}\n{version.location}"
