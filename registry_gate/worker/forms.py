"""Fetch a model version and its base onto this machine, and check that they are what was asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.workspace_context import WorkspaceContext

from evaluators.engines.interface import LocalForm
from registry_gate.artifact import (
    SYSTEM_PROMPT_KEY,
    ArtifactTree,
    HashCache,
    Layout,
    LocalTree,
    read_layout,
    read_manifest,
)
from registry_gate.errors import AssessmentError, FormError, RegistryError
from registry_gate.form import BaseReference, FormManifest

DEFAULT_WORKSPACE = "default"
"""What MLflow calls the workspace of a server that has no others."""


@contextmanager
def in_workspace(workspace: str) -> Iterator[None]:
    """Let MLflow's client mean the models of this workspace: the same name and version exists once in each."""
    # No header at all for the default: a server without workspaces refuses it, one with them takes it for granted.
    with WorkspaceContext(None if workspace == DEFAULT_WORKSPACE else workspace):
        yield


@dataclass(frozen=True, kw_only=True)
class FetchedForm:
    """A form on this machine.

    Args:
        manifest: What it consists of.
        form: Ready to load.
        base: Its base ready to load, or None.
    """

    manifest: FormManifest
    form: LocalForm
    base: LocalForm | None


class FormFetcher:
    """Downloads model versions through MLflow's own client.

    Args:
        tracking_uri: Address of the MLflow server.
        directory: Where downloads are kept.
    """

    def __init__(self, tracking_uri: str, directory: Path) -> None:
        self._tracking_uri = tracking_uri
        self._directory = directory
        self._cache = HashCache()
        self._fetched_trees: dict[tuple[str, int], LocalTree] = {}

    def client(self) -> MlflowClient:
        """A client for the server."""
        return MlflowClient(tracking_uri=self._tracking_uri, registry_uri=self._tracking_uri)

    def manifest_of(self, name: str, version: int) -> FormManifest:
        """The manifest of a registered version, from a fresh download.

        Raises:
            RegistryError: The version cannot be had or is no form.
        """
        self._fetched_trees.clear()
        return read_manifest(self._version_tree(name, version), self._registered_base)

    def fetch(self, name: str, version: int, form_digest: str | None = None) -> FetchedForm:
        """Download a version and everything that it needs to load.

        Args:
            name: Registered model.
            version: Its version.
            form_digest: The form that was asked for; None takes what is there.

        Raises:
            RegistryError: The version cannot be had, is no form, or is another form by now.
            AssessmentError: The form can be identified but not loaded by this worker.
        """
        self._fetched_trees.clear()
        tree = self._version_tree(name, version)
        manifest = read_manifest(tree, self._registered_base)
        if form_digest is not None and manifest.digest != form_digest:
            raise FormError(
                f"models:/{name}/{version}: expected the form {form_digest}, got {manifest.digest}: its files changed "
                "since the assessment was asked for; ask for the promotion again",
                code="form_changed",
            )
        return self._fetched(tree, manifest)

    # -- where the parts are ------------------------------------------------------------------------------------------

    def _fetched(self, tree: LocalTree, manifest: FormManifest) -> FetchedForm:
        layout = read_layout(tree)
        metadata = manifest.settings.get("metadata") or {}
        prompt = metadata.get(SYSTEM_PROMPT_KEY)
        conf = (manifest.settings.get("flavors") or {}).get("transformers") or {}
        if conf.get("prompt_template"):
            raise AssessmentError(
                f"{tree.place}: expected a form that is served with its chat template, got an MLflow prompt_template: "
                "put the wording into the tokenizer's chat template",
                code="prompt_template",
            )
        if manifest.flavor not in ("transformers", "checkpoint"):
            raise AssessmentError(
                f"{tree.place}: expected a transformers model, got the flavor {manifest.flavor or 'none'!r}: no engine "
                "of this worker can load it",
                code="unsupported_flavor",
            )
        base = None
        if manifest.base is not None:
            base_tree = self._base_tree(manifest.base)
            base = _checkpoint(base_tree, read_layout(base_tree), manifest.base.digest)
        model_dir = _inside(tree, layout.model) or (base.model_dir if base else None)
        tokenizer_dir = _inside(tree, layout.tokenizer) or (base.tokenizer_dir if base else None)
        if model_dir is None or tokenizer_dir is None:
            missing = "config.json with weights" if model_dir is None else "a tokenizer"
            raise AssessmentError(f"{tree.place}: expected {missing} in the artifact, got none", code="no_weights")
        form = LocalForm(
            digest=manifest.digest,
            model_dir=model_dir,
            tokenizer_dir=tokenizer_dir,
            adapter_dir=_inside(tree, layout.adapter),
            system_prompt=prompt,
        )
        return FetchedForm(manifest=manifest, form=form, base=base)

    def _base_tree(self, base: BaseReference) -> LocalTree:
        match base.kind:
            case "path":
                return LocalTree(Path(base.name), self._cache)
            case "version":
                name, version = base.name.removeprefix("models:/").split("/")
                return self._version_tree(name, int(version))
            case "hub":
                return LocalTree(self._from_hub(base.name, str(base.revision)), self._cache)

    def _from_hub(self, repository: str, revision: str) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        target = self._directory / "hub" / f"{repository.replace('/', '--')}-{revision}"
        try:
            snapshot_download(
                repository,
                revision=revision,
                local_dir=target,
                allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"],
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as err:
            raise AssessmentError(
                f"expected the base {repository}@{revision} on the model hub, got {type(err).__name__}: give the "
                "worker access to the hub, or register the base and name it in the metadata",
                code="base_unresolved",
            ) from err
        shutil.rmtree(target / ".cache", ignore_errors=True)
        return target

    def _registered_base(self, name: str, version: int) -> LocalTree:
        """A base that is a registered version; when it is not there, the form's owner must act."""
        try:
            return self._version_tree(name, version)
        except RegistryError as err:
            raise FormError(str(err), code="base_unresolved") from err

    # -- downloads ----------------------------------------------------------------------------------------------------

    def _version_tree(self, name: str, version: int) -> LocalTree:
        """A download that is fresh for this form: a copy from earlier may be of bytes that are no longer there."""
        if (name, version) in self._fetched_trees:
            return self._fetched_trees[(name, version)]
        try:
            row = self.client().get_model_version(name, str(version))
        except MlflowException as err:
            raise RegistryError(
                f"expected models:/{name}/{version} in the registry at {self._tracking_uri}, got: {err.message}"
            ) from err
        target = self._directory / "versions" / f"{_safe(name)}-{version}-{row.creation_timestamp}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        try:
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{name}/{version}",
                dst_path=str(target),
                tracking_uri=self._tracking_uri,
                registry_uri=self._tracking_uri,
            )
        except MlflowException as err:
            raise FormError(
                f"models:/{name}/{version}: expected artifacts that can be downloaded, got: {err.message}",
                code="artifact_unreadable",
            ) from err
        tree = LocalTree(target, self._cache)
        self._fetched_trees[(name, version)] = tree
        return tree


def _checkpoint(tree: ArtifactTree, layout: Layout, digest: str) -> LocalForm:
    """A base ready to load. It must bring its own tokenizer and template: they are never guessed."""
    if (
        not isinstance(tree, LocalTree)
        or layout.model is None
        or layout.tokenizer is None
        or layout.adapter is not None
    ):
        lacks = ", ".join(
            what
            for what, absent in (
                ("config.json with weights", layout.model is None),
                ("a tokenizer", layout.tokenizer is None),
                ("weights of its own instead of an adapter", layout.adapter is not None),
            )
            if absent
        )
        raise AssessmentError(
            f"{tree.place}: expected a base that can answer beside the form, but it lacks {lacks}",
            code="base_unresolved",
        )
    return LocalForm(
        digest=digest, model_dir=tree.root / layout.model, tokenizer_dir=tree.root / layout.tokenizer, adapter_dir=None
    )


def _inside(tree: LocalTree, directory: str | None) -> Path | None:
    return None if directory is None else tree.root / directory


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):x}" for c in name)[:100]
