"""Which files a storage location means: those that a reader would get, or none at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_gate.artifact import HashCache, LocalTree
from registry_gate.errors import FormError
from registry_gate.mlflow_plugin.candidate import STORES, RepositoryTree, tree_at
from registry_gate.mlflow_plugin.root import DEFAULT_ROOT_VARIABLE, DESTINATION_VARIABLE


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Variables of an MLflow server whose artifacts lie in a local directory behind the gate."""
    monkeypatch.setenv(DESTINATION_VARIABLE, f"gated:{tmp_path / 'root'}")
    monkeypatch.setenv(DEFAULT_ROOT_VARIABLE, "mlflow-artifacts:/")
    return tmp_path / "root"


def place(location: str, workspace: str = "default") -> str:
    return tree_at(location, HashCache(), workspace).place


def test_proxied_location_is_below_the_artifact_root(server: Path) -> None:
    assert place("mlflow-artifacts:/1/models/m-1/artifacts") == f"{server}/1/models/m-1/artifacts"
    assert place("mlflow-artifacts:/1/a%20b") == f"{server}/1/a b"


FOREIGN = {
    "mlflow-artifacts://elsewhere:5000/1/models": "location_foreign",
    "http://elsewhere/1": "location_foreign",
    "https://elsewhere/api/2.0/mlflow-artifacts/artifacts/1": "location_foreign",
    "ftp://elsewhere/1": "location_foreign",
    "sftp://elsewhere/1": "location_foreign",
    "unheard-of://elsewhere/1": "location_foreign",
    "mlflow-artifacts:/1?x=2": "location_ambiguous",
    "mlflow-artifacts:/1#x": "location_ambiguous",
    "s3://bucket/1?versionId=2": "location_ambiguous",
    "/somewhere/else": "location_local",
    "file:///somewhere/else": "location_local",
    "file://host/somewhere": "location_local",
    "somewhere": "location_local",
    "": "location_local",
    "mlflow-artifacts:/": "artifact_missing",
    "mlflow-artifacts:/a/../../b": "artifact_missing",
    "mlflow-artifacts:/a/%2e%2e/b": "artifact_missing",
    "runs:/1/model": "source_mutable",
    "models:/name/1": "source_mutable",
}


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("location", FOREIGN)
def test_location_that_means_other_files_to_others_is_refused(location: str) -> None:
    with pytest.raises(FormError) as caught:
        place(location)
    assert caught.value.code == FOREIGN[location]
    assert "expected" in str(caught.value)


def test_directory_below_a_root_of_the_server_is_its_own(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place(f"{server}/1") == f"{server}/1"
    shared = tmp_path / "shared"
    with pytest.raises(FormError):
        place(f"{shared}/1")
    monkeypatch.setenv(DEFAULT_ROOT_VARIABLE, str(shared))
    assert place(f"file://{shared}/1") == f"{shared}/1"
    with pytest.raises(FormError):
        place(f"{shared}/../elsewhere")


def test_outside_a_server_a_directory_is_what_the_caller_sees(tmp_path: Path) -> None:
    assert isinstance(tree_at(str(tmp_path), HashCache()), LocalTree)
    assert isinstance(tree_at("mlflow-artifacts:/1/model", HashCache()), RepositoryTree)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("scheme", sorted(STORES - {"mlflow-artifacts"}))
def test_object_stores_are_read_where_they_are(scheme: str) -> None:
    tree = tree_at(f"{scheme}://bucket/1", HashCache())
    assert isinstance(tree, RepositoryTree)
    assert tree.place == f"{scheme}://bucket/1"


def test_each_workspace_reads_what_the_proxy_serves_it(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place("mlflow-artifacts:/1/m", "team") == f"{server}/1/m"
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    assert place("mlflow-artifacts:/1/m") == f"{server}/1/m"
    assert place("mlflow-artifacts:/1/m", "team") == f"{server}/workspaces/team/1/m"
    assert place("mlflow-artifacts:/workspaces/team/1/m", "team") == f"{server}/workspaces/team/1/m"
    for workspace in ("default", "other"):
        with pytest.raises(FormError) as caught:
            place("mlflow-artifacts:/workspaces/team/1/m", workspace)
        assert caught.value.code == "location_foreign"
