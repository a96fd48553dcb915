"""The guard knows every method by which MLflow's repositories write: one that a new MLflow adds must be looked at."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import (
    ArtifactRepository,
    MultipartDownloadMixin,
    MultipartUploadMixin,
    PresignedUploadMixin,
    StreamUploadMixin,
)
from mlflow.store.artifact.azure_blob_artifact_repo import AzureBlobArtifactRepository
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

from registry_gate.mlflow_plugin.artifacts import build_repository
from registry_gate.mlflow_plugin.guard import _Guarded, _GuardedLocal, _GuardedMultipart, _GuardedPresigned
from registry_gate.mlflow_plugin.root import below_root, places_of

GUARDED = {
    "complete_multipart_upload",
    "create_multipart_upload",
    "create_presigned_upload_url",
    "delete_artifacts",
    "log_artifact",
    "log_artifact_from_async_stream",
    "log_artifact_from_stream",
    "log_artifacts",
    "upload_archived_trace_data_bytes",
}
WRITES_BY_A_GUARDED_ONE = {
    "flush_async_logging",
    "upload_archived_trace_data",
    "upload_attachment",
    "upload_trace_data",
}
CHANGES_NOTHING_THAT_CAN_BE_READ = {"abort_multipart_upload"}
READS_OR_SAYS_HOW = {
    "artifact_dir",
    "chunk_thread_pool",
    "client",
    "download_archived_trace_data",
    "download_artifacts",
    "download_trace_attachment",
    "download_trace_attachment_to_file",
    "download_trace_data",
    "download_trace_data_pb",
    "download_trace_data_to_file",
    "get_download_presigned_url",
    "get_local_path",
    "get_s3_file_upload_extra_args",
    "list_artifacts",
    "max_threads_per_cpu",
    "max_workers",
    "parse_gcs_uri",
    "parse_s3_compliant_uri",
    "parse_wasbs_uri",
}
CLASSES = (
    ArtifactRepository,
    MultipartDownloadMixin,
    MultipartUploadMixin,
    PresignedUploadMixin,
    StreamUploadMixin,
    AzureBlobArtifactRepository,
    GCSArtifactRepository,
    HttpArtifactRepository,
    LocalArtifactRepository,
    S3ArtifactRepository,
)


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


def test_every_method_of_the_installed_mlflow_is_classified() -> None:
    found = set().union(*map(public, CLASSES))
    assert found - READS_OR_SAYS_HOW - GUARDED - WRITES_BY_A_GUARDED_ONE - CHANGES_NOTHING_THAT_CAN_BE_READ == set()


def test_every_guarded_method_has_its_guard() -> None:
    ours = set().union(*(set(vars(kind)) for kind in (_Guarded, _GuardedLocal, _GuardedMultipart, _GuardedPresigned)))
    assert ours >= GUARDED


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", f"gated:{tmp_path / 'root'}")
    return tmp_path / "root"


def test_a_guarded_repository_is_what_mlflow_asks_for_by_isinstance(root: Path) -> None:
    local = build_repository(f"gated:{root}")
    assert isinstance(local, LocalArtifactRepository) and isinstance(local, StreamUploadMixin)
    assert not isinstance(local, MultipartUploadMixin | PresignedUploadMixin)
    assert not hasattr(local, "create_presigned_upload_url")
    bucket = build_repository("gated:s3://bucket/path")
    assert isinstance(bucket, S3ArtifactRepository)
    assert isinstance(bucket, MultipartUploadMixin) and isinstance(bucket, PresignedUploadMixin)
    assert not isinstance(bucket, StreamUploadMixin)


def test_nothing_after_the_colon_is_no_root() -> None:
    with pytest.raises(MlflowException, match="got nothing after the colon") as caught:
        build_repository("gated:")
    assert caught.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    ("location", "workspace", "places"),
    [
        ("mlflow-artifacts:/1/models/m-A/artifacts", "default", ("1/models/m-a/artifacts",)),
        ("mlflow-artifacts://host:5000/1/x", "default", ("1/x",)),
        ("https://host/prefix/api/2.0/mlflow-artifacts/artifacts/1/x", "default", ("1/x",)),
        ("mlflow-artifacts:/a%20b", "default", ("a%20b", "a b")),
        ("mlflow-artifacts:/1/x", "team", ("1/x", "workspaces/team/1/x")),
        ("mlflow-artifacts:/1/../x", "default", ()),
        ("mlflow-artifacts:/", "default", ()),
        ("{root}/1/x", "default", ("1/x",)),
        ("file://{root}/1/x", "default", ("1/x",)),
        ("gated:{root}/1/x", "default", ("1/x",)),
        ("{root}-beside/1/x", "default", ()),
        ("s3://bucket/1/x", "default", ()),
        ("/etc", "default", ()),
    ],
)
def test_places_of_a_location(location: str, workspace: str, places: tuple[str, ...], root: Path) -> None:
    assert places_of(location.format(root=root), workspace) == places


def test_a_link_that_leads_below_the_root_is_a_place_below_it(root: Path, tmp_path: Path) -> None:
    (root / "1").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    assert below_root(f"{tmp_path}/link/1/x") == "1/x"
    assert below_root(f"{root}/../elsewhere") is None


@pytest.mark.parametrize("uri", ["s3://bucket/root/1/x", "S3://bucket/root/1/x", "s3://bucket/root/1/x?a=b"])
def test_a_bucket_has_one_root_however_its_address_is_written(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", "gated:s3://bucket/root/")
    assert below_root(uri) == "1/x"
    assert below_root("s3://bucket/rooted/1") is None
    assert below_root("s3://other/root/1") is None
    assert below_root("s3://bucket/root") == "."
