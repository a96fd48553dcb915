"""The bytes of an approved version stay as they are: every way to write through the server, tried on real ones."""

from __future__ import annotations

import functools
import http.client
import io
import json
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
import requests
from click.testing import CliRunner
from conftest import Installation, Server, form_files, gated_server
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from moto.server import ThreadedMotoServer

from registry_gate.cli import cli
from registry_gate.evidence.envelope import envelope_digest
from registry_gate.ledger import Ledger
from registry_gate.ledger.frozen import FrozenError, FrozenTrees
from registry_gate.mlflow_plugin.store import build_store

ROUTES = ("/api/2.0/mlflow-artifacts", "/ajax-api/2.0/mlflow-artifacts")
WEIGHTS = "model/model.safetensors"


# ---------------------------------------------------------------------------------------------------------------------
# How


def raw(server: Server, method: str, target: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    """One request with the path as it is written here: other clients would tidy it up first."""
    host, port = server.uri.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    try:
        connection.request(method, target, body=body, headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    try:
        parsed = json.loads(data)
    except ValueError:
        parsed = {"text": data.decode(errors="replace")}
    return answer.status, parsed if isinstance(parsed, dict) else {"json": parsed}


def code(answer: dict[str, Any]) -> str | None:
    reasons = answer.get("registry_gate", {}).get("reasons", [])
    return reasons[0]["code"] if reasons else None


def tree(server: Server, name: str, version: int) -> str:
    """Path of a version's files below the artifact root."""
    location = server.client.get_model_version_download_uri(name, str(version))
    return urllib.parse.urlparse(location).path.lstrip("/")


def content(server: Server, path: str) -> bytes:
    answer = requests.get(f"{server.uri}{ROUTES[0]}/artifacts/{path}", timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.content


def approved(server: Server, name: str) -> tuple[int, str]:
    """A version that is `champion`, and where its files are."""
    version = server.registered(name)
    server.client.set_registered_model_alias(name, "champion", str(version))
    return version, tree(server, name, version)


def bytes_below(directory: Path) -> dict[Path, bytes]:
    """Every file below a directory."""
    return {file: file.read_bytes() for file in sorted(directory.rglob("*")) if file.is_file()}


def percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def other_spellings(path: str) -> Iterator[str]:
    """Other ways to write a path, each of which some server, proxy or file system takes for the same file."""
    head, _, tail = path.partition("/")
    yield path
    yield percent(path[0]) + path[1:]
    yield path[:-1] + percent(path[-1])
    yield path.replace("/", "%2F")
    yield path.replace("/", "%252F")
    yield percent(path).replace("%", "%25")
    yield path.replace("/", "//")
    yield f"./{path}"
    yield f"{head}/./{tail}"
    yield f"{head}/%2e/{tail}"
    yield path.upper()
    yield path.swapcase()
    yield path.replace("models", "MODELS")
    yield path.replace("models", "models%E2%80%8B")  # a space of no width
    yield path.replace("m", urllib.parse.quote("\uff4d"))  # full-width
    yield path.replace("k", urllib.parse.quote("\u212a")).replace("s", urllib.parse.quote("\u017f"))
    yield path.replace("/artifacts", "/artifacts.")
    yield path.replace("/artifacts", "/artifacts%20")


def climbing_spellings(path: str) -> Iterator[str]:
    """Ways that leave a directory and come back; MLflow refuses most of them itself."""
    head, _, tail = path.partition("/")
    yield f"{head}/x/../{tail}"
    yield f"x/../{path}"
    yield f"{head}/%2e%2e/{path}"
    yield f"{head}/%252e%252e/{path}"
    yield f"..%2fartifacts/{path}"
    yield path.replace("/", "\\")
    yield path.replace("/", "%5c")
    yield f"/{path}"
    yield f"%2f{path}"
    yield f"file:///{path}"


@pytest.fixture
def untouched(server: Server, clinical: str) -> Iterator[tuple[Server, str, int, str]]:
    """An approved version; afterwards its files are byte for byte what they were, and nobody added one."""
    version, path = approved(server, clinical)
    directory = server.directory_of(clinical, version)
    before = bytes_below(directory)
    yield server, clinical, version, path
    assert bytes_below(directory) == before
    assert server.alias(clinical, "champion") == version


# ---------------------------------------------------------------------------------------------------------------------
# Writes


@pytest.mark.parametrize("route", ROUTES)
def test_an_upload_into_an_approved_version_is_refused_however_the_path_is_spelt(untouched, route):
    server, _, _, path = untouched
    for spelling in other_spellings(f"{path}/{WEIGHTS}"):
        status, answer = raw(server, "PUT", f"{route}/artifacts/{spelling}", b"other bytes")
        assert (status, code(answer)) == (403, "frozen"), (spelling, status, answer)
        assert answer["error_code"] == "PERMISSION_DENIED"
    for spelling in climbing_spellings(f"{path}/{WEIGHTS}"):
        status, answer = raw(server, "PUT", f"{route}/artifacts/{spelling}", b"other bytes")
        assert status in (400, 403, 404), (spelling, status, answer)


def test_the_refusal_names_the_version_the_decision_and_what_to_do(untouched):
    server, name, version, path = untouched
    _, answer = raw(server, "PUT", f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}", b"x")
    ((decision,),) = server.sql("SELECT id FROM registry_gate_decision WHERE model = :name AND allowed", name=name)
    assert answer["registry_gate"]["decision_ids"] == [decision]
    message = answer["message"]
    assert f"decision {decision} (models:/{name}/{version} for {name}@champion)" in message
    assert "log other files as a new version" in message
    assert f"once no registered model version has the location mlflow-artifacts:/{path} any more" in message


@pytest.mark.parametrize("route", ROUTES)
def test_a_new_file_inside_an_approved_version_is_refused(untouched, route):
    server, _, _, path = untouched
    for new in ("model/code.py", "extra.txt", "model/model.safetensors/deeper", "a/b/c"):
        status, answer = raw(server, "PUT", f"{route}/artifacts/{path}/{new}", b"x")
        assert (status, code(answer)) == (403, "frozen"), new


@pytest.mark.parametrize("route", ROUTES)
def test_a_deletion_is_refused_in_all_spellings_and_from_every_directory_above(untouched, route):
    server, _, _, path = untouched
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    for target in [f"{path}/{WEIGHTS}", f"{path}/model", *above]:
        for spelling in [*other_spellings(target + "/"), *other_spellings(target)]:
            status, answer = raw(server, "DELETE", f"{route}/artifacts/{spelling}")
            assert (status, code(answer)) == (403, "frozen") or status in (400, 404, 308), (spelling, status, answer)
        assert raw(server, "DELETE", f"{route}/artifacts/{target}")[0] == 403
    for spelling in [".", "./", "%2e", "%2E/", "//", "./."]:
        status, answer = raw(server, "DELETE", f"{route}/artifacts/{spelling}")
        assert status in (400, 403, 404, 308), (spelling, status, answer)


def test_a_client_is_refused_with_the_reason(untouched, tmp_path):
    server, name, version, _ = untouched
    source = server.client.get_model_version(name, str(version)).source
    (tmp_path / "MLmodel").write_bytes(b"x" * 5_000_000)
    with pytest.raises((MlflowException, requests.HTTPError), match="frozen by decision"):
        server.client.log_model_artifacts(source.removeprefix("models:/"), str(tmp_path))


def test_neighbours_stay_writable_and_reads_stay_what_they_are(untouched):
    server, name, version, path = untouched
    assert content(server, f"{path}/{WEIGHTS}")
    for neighbour in (f"{path}x/file", f"{path.rsplit('/', 1)[0]}/other/file", f"0/{uuid.uuid4().hex}/artifacts/file"):
        address = f"{server.uri}{ROUTES[0]}/artifacts/{neighbour}"
        assert requests.put(address, data=b"1", timeout=60).status_code == 200
        assert requests.put(address, data=b"2", timeout=60).status_code == 200
        assert content(server, neighbour) == b"2"
        assert requests.delete(address, timeout=60).status_code == 200
        assert requests.get(address, timeout=60).status_code == 404
    second = server.registered(name)
    server.client.set_registered_model_alias(name, "champion", str(second))
    server.client.set_registered_model_alias(name, "champion", str(version))


def test_a_version_that_is_not_approved_can_be_written(server, clinical):
    version = server.register(clinical)
    path = tree(server, clinical, version)
    status, _ = raw(server, "PUT", f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}", b"x")
    assert status == 200
    server.client.set_registered_model_alias(clinical, "candidate", str(version))
    assert raw(server, "PUT", f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}", b"y")[0] == 200


def test_the_directory_behind_the_root_is_guarded_by_its_other_names_too(untouched):
    """Anybody may create an experiment that lies there, and have the server write its runs' files."""
    server, name, version, _ = untouched
    directory = server.directory_of(name, version)
    for location in (f"{directory}", f"file://{directory}", f"file://localhost{directory}", f"gated:{directory}"):
        body = {"name": uuid.uuid4().hex, "artifact_location": location}
        experiment = server.post("/api/2.0/mlflow/experiments/create", body).json()["experiment_id"]
        run = server.post("/api/2.0/mlflow/runs/create", {"experiment_id": experiment}).json()["run"]["info"]["run_id"]
        address = f"{server.uri}/ajax-api/2.0/mlflow/upload-artifact"
        answer = requests.post(address, params={"run_uuid": run, "path": "model.py"}, data=b"x", timeout=60)
        assert (answer.status_code, code(answer.json())) == (403, "frozen"), location


def test_runs_that_lie_beside_approved_versions_by_another_name_are_written(server, tmp_path):
    for location in (f"{server.artifacts}/else/where", f"{tmp_path}/outside"):
        body = {"name": uuid.uuid4().hex, "artifact_location": location}
        experiment = server.post("/api/2.0/mlflow/experiments/create", body).json()["experiment_id"]
        run = server.post("/api/2.0/mlflow/runs/create", {"experiment_id": experiment}).json()["run"]["info"]["run_id"]
        address = f"{server.uri}/ajax-api/2.0/mlflow/upload-artifact"
        answer = requests.post(address, params={"run_uuid": run, "path": "notes.txt"}, data=b"x", timeout=60)
        assert answer.status_code == 200
        assert Path(location, run, "artifacts", "notes.txt").read_bytes() == b"x"


# ---------------------------------------------------------------------------------------------------------------------
# How long


def test_neither_rename_nor_copy_nor_removing_the_alias_unfreezes(server, clinical):
    version, path = approved(server, clinical)
    target = f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}"
    server.client.copy_model_version(f"models:/{clinical}/{version}", f"{clinical}-copy")
    server.client.rename_registered_model(clinical, f"{clinical}-renamed")
    assert code(raw(server, "PUT", target, b"x")[1]) == "frozen"
    server.client.delete_registered_model_alias(f"{clinical}-renamed", "champion")
    assert code(raw(server, "PUT", target, b"x")[1]) == "frozen"
    server.client.delete_model_version(f"{clinical}-renamed", str(version))
    # The copy still has these files.
    assert code(raw(server, "PUT", target, b"x")[1]) == "frozen"
    server.client.delete_registered_model(f"{clinical}-copy")
    assert raw(server, "PUT", target, b"x")[0] == 200
    assert raw(server, "DELETE", f"{ROUTES[0]}/artifacts/{path}")[0] == 200


def test_files_that_are_registered_again_are_frozen_again(server, clinical):
    version, path = approved(server, clinical)
    source = server.client.get_model_version(clinical, str(version)).source
    server.client.delete_registered_model(clinical)
    target = f"{ROUTES[0]}/artifacts/{path}/new.txt"
    assert raw(server, "PUT", target, b"x")[0] == 200
    server.register(clinical, source=source)
    assert code(raw(server, "PUT", target, b"y")[1]) == "frozen"


def adapter_files(base: str) -> dict[str, bytes]:
    """An adapter, which cannot be loaded without its base."""
    files = form_files(base=base, seed=uuid.uuid4().hex)
    mlmodel = json.loads(files["MLmodel"])
    del mlmodel["flavors"]["transformers"]["model_binary"]
    mlmodel["flavors"]["transformers"]["peft_adaptor"] = "peft"
    return {
        "MLmodel": json.dumps(mlmodel).encode(),
        "peft/adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": None}).encode(),
        "peft/adapter_model.safetensors": files["model/model.safetensors"],
        **{path: data for path, data in files.items() if path.startswith("components/")},
    }


def test_the_base_of_an_adapter_is_frozen_with_it(server, clinical):
    base_name = f"base-{uuid.uuid4().hex[:8]}"
    server.register(base_name, form_files(base=None, seed=uuid.uuid4().hex))
    base = tree(server, base_name, 1)
    target = f"{ROUTES[0]}/artifacts/{base}/README.md"
    assert raw(server, "PUT", target, b"a base may be written")[0] == 200

    version = server.register(clinical, adapter_files(f"models:/{base_name}/1"))
    server.assess(clinical, version)
    server.client.set_registered_model_alias(clinical, "champion", str(version))

    _, answer = raw(server, "PUT", target, b"x")
    assert code(answer) == "frozen"
    assert f"models:/{clinical}/{version} for {clinical}@champion" in answer["message"]
    server.client.delete_registered_model(clinical)
    assert raw(server, "PUT", target, b"x")[0] == 200


# ---------------------------------------------------------------------------------------------------------------------
# Races


def slow_upload(server: Server, path: str, halfway: threading.Event, go_on: threading.Event) -> Callable[[], int]:
    """An upload that stops in the middle of its body until it is told to go on. Gives the status."""
    found: list[int] = []

    def body() -> Iterator[bytes]:
        yield b"half of other "
        halfway.set()
        go_on.wait(120)
        yield b"bytes"

    def run() -> None:
        address = f"{server.uri}{ROUTES[0]}/artifacts/{path}"
        found.append(requests.put(address, data=body(), timeout=240).status_code)

    thread = threading.Thread(target=run)
    thread.start()

    def wait() -> int:
        thread.join(240)
        return found[0]

    return wait


def test_an_upload_that_began_before_the_approval_does_not_land_after_it(server, clinical):
    version = server.registered(clinical)
    path = tree(server, clinical, version)
    before = content(server, f"{path}/{WEIGHTS}")
    halfway, go_on = threading.Event(), threading.Event()
    status = slow_upload(server, f"{path}/{WEIGHTS}", halfway, go_on)
    try:
        assert halfway.wait(60)
        time.sleep(0.5)  # let the server take the first half in; whether it did changes nothing
        server.client.set_registered_model_alias(clinical, "champion", str(version))
    finally:
        go_on.set()
    assert status() == 403
    assert content(server, f"{path}/{WEIGHTS}") == before
    assert not list(server.directory_of(clinical, version).rglob(".artifact.uploading.*"))
    assert not list(server.artifacts.glob(".artifact.uploading.*"))


def test_uploads_and_promotions_at_the_same_time_never_leave_other_bytes_behind_a_name(server, clinical):
    """Whoever comes first: either the form changed before it was decided on, or the upload is refused."""
    for _ in range(3):
        version = server.registered(clinical)
        digest = server.manifest(clinical, version).digest
        path = tree(server, clinical, version)
        stop = threading.Event()

        def overwrite(path: str = path, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                raw(server, "PUT", f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}", uuid.uuid4().bytes)
                raw(server, "DELETE", f"{ROUTES[0]}/artifacts/{path}/components")

        threads = [threading.Thread(target=overwrite) for _ in range(2)]
        for thread in threads:
            thread.start()
        body = {"name": clinical, "alias": "champion", "version": str(version)}
        try:
            answer = server.post("/api/2.0/mlflow/registered-models/alias", body)
            assert answer.status_code in (200, 403), answer.text
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if server.alias(clinical, "champion") == version:
            assert server.manifest(clinical, version).digest == digest


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def test_nothing_is_written_while_the_ledger_does_not_answer(server, clinical):
    version = server.register(clinical)
    path = tree(server, clinical, version)
    server.sql("ALTER TABLE registry_gate_frozen RENAME TO registry_gate_frozen_away")
    try:
        for method in ("PUT", "DELETE"):
            status, answer = raw(server, method, f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}", b"x")
            assert (status, code(answer)) == (403, "ledger_unavailable"), answer
            assert "postgresql" not in json.dumps(answer)
        assert content(server, f"{path}/{WEIGHTS}") != b"x"
    finally:
        server.sql("ALTER TABLE registry_gate_frozen_away RENAME TO registry_gate_frozen")
    assert raw(server, "PUT", f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}", b"x")[0] == 200


def test_odd_paths_get_a_clear_answer(untouched):
    server, _, _, path = untouched
    odd = [
        "%00",
        "a%00b",
        "x" * 300,
        "x/" * 3000 + "y",
        f"{path}%00",
        "%ff%fe",
        "%0a",
        "'; DROP TABLE x;--",
        "a%5c..%5cb",
    ]
    for one in odd:
        for method in ("PUT", "DELETE"):
            status, answer = raw(server, method, f"{ROUTES[0]}/artifacts/{urllib.parse.quote(one, safe='/%')}", b"x")
            assert status != 500, (method, one[:60], answer)


def doctor(server: Server) -> tuple[bool, str]:
    """What the doctor says about the artifact root of a server."""
    environment = {"REGISTRY_GATE_CONFIG": str(server.installation.config)}
    result = CliRunner().invoke(cli, ["doctor", "--format", "json"], env=environment)
    (check,) = [check for check in json.loads(result.stdout) if check["name"] == "artifacts"]
    return check["ok"], check["detail"]


def test_the_place_where_doctor_asks_is_always_refused(server):
    for method in ("PUT", "DELETE"):
        for path in (".registry-gate/doctor", "./.Registry-Gate//x", "%2eregistry-gate"):
            status, answer = raw(server, method, f"{ROUTES[0]}/artifacts/{path}", b"x")
            assert (status, code(answer)) == (403, "reserved_path")
    assert doctor(server) == (True, "files of approved versions are frozen")


# ---------------------------------------------------------------------------------------------------------------------
# Other servers and other roots


def test_the_freeze_holds_under_gunicorn_too(installation: Callable[..., Installation]):
    """Without FastAPI, uploads go through Flask, and through another method of the repository."""
    with gated_server("sqlite", installation, options=("--gunicorn-opts", "--workers 2 --timeout 120")) as server:
        mlflow.set_tracking_uri(server.uri)
        name = f"clinical-{uuid.uuid4().hex[:8]}"
        _, path = approved(server, name)
        before = content(server, f"{path}/{WEIGHTS}")
        for route in ROUTES:
            for spelling in other_spellings(f"{path}/{WEIGHTS}"):
                for method in ("PUT", "DELETE"):
                    status, answer = raw(server, method, f"{route}/artifacts/{spelling}", b"x" * 3_000_000)
                    assert (status, code(answer)) == (403, "frozen") or status in (308, 404), (method, spelling, answer)
            assert code(raw(server, "DELETE", f"{route}/artifacts/{path.split('/')[0]}")[1]) == "frozen"
            assert raw(server, "PUT", f"{route}/artifacts/{path}x/file", b"x")[0] == 200
        assert content(server, f"{path}/{WEIGHTS}") == before
    mlflow.set_tracking_uri(None)


class BucketServer(Server):
    """A server whose artifacts lie in a bucket."""

    def directory_of(self, name: str, version: int) -> Path:
        """A copy of a version's files, taken from the bucket and not through the server."""
        prefix = f"root/{tree(self, name, version)}/"
        copy = self.artifacts / uuid.uuid4().hex
        for entry in bucket().list_objects_v2(Bucket="models", Prefix=prefix)["Contents"]:
            file = copy / entry["Key"].removeprefix(prefix)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bucket().get_object(Bucket="models", Key=entry["Key"])["Body"].read())
        return copy


def bucket() -> Any:
    return boto3.client("s3", endpoint_url=BUCKET_ADDRESS["uri"])


BUCKET_ADDRESS: dict[str, str] = {}


@pytest.fixture(scope="module")
def bucket_server(installation: Callable[..., Installation], tmp_path_factory: Any) -> Iterator[BucketServer]:
    """A gated server on a bucket of an S3 service of our own."""
    service = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    service.start()
    host, port = service.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        BUCKET_ADDRESS["uri"] = f"http://{host}:{port}"
        variables = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        bucket().create_bucket(Bucket="models")
        environment = {**variables, "MLFLOW_S3_ENDPOINT_URL": BUCKET_ADDRESS["uri"]}
        with gated_server(
            "sqlite",
            installation,
            artifacts="gated:s3://models/root",
            options=("--workers", "2"),
            environment=environment,
        ) as server:
            mlflow.set_tracking_uri(server.uri)
            yield BucketServer(**{**vars(server), "artifacts": tmp_path_factory.mktemp("copies")})
    mlflow.set_tracking_uri(None)
    service.stop()


def under_way(server: Server) -> list[Any]:
    """Writes that the ledger takes for under way; ended ones are kept, with a time that sorts before all others."""
    return server.sql("SELECT * FROM registry_gate_upload WHERE until > '2'")


def multipart(server: Server, step: str, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    directory, name = path.rsplit("/", 1)
    target = f"{ROUTES[0]}/mpu/{step}/{directory}"
    return raw(server, "POST", target, json.dumps({"path": name, **body}).encode())


def begun_multipart(server: Server, path: str, data: bytes) -> dict[str, Any]:
    """A multipart upload whose one part is uploaded; what completing it takes."""
    status, answer = multipart(server, "create", path, num_parts=1)
    assert status == 200, answer
    (part,) = answer["credentials"]
    etag = requests.put(part["url"], data=data, timeout=60).headers["ETag"]
    return {"upload_id": answer["upload_id"], "parts": [{"part_number": 1, "etag": etag, "url": part["url"]}]}


def test_an_approved_version_in_a_bucket_is_frozen(bucket_server):
    server, name = bucket_server, f"clinical-{uuid.uuid4().hex[:8]}"
    version = server.registered(name)
    path = tree(server, name, version)
    begun = begun_multipart(server, f"{path}/{WEIGHTS}", b"parts from before the approval")
    server.client.set_registered_model_alias(name, "champion", str(version))
    before = server.manifest(name, version).digest
    for route in ROUTES:
        for spelling in other_spellings(f"{path}/{WEIGHTS}"):
            for method in ("PUT", "DELETE"):
                status, answer = raw(server, method, f"{route}/artifacts/{spelling}", b"x")
                assert (status, code(answer)) == (403, "frozen") or status in (308, 404), (method, spelling, answer)
        assert code(raw(server, "DELETE", f"{route}/artifacts/0")[1]) == "frozen"
    assert code(multipart(server, "create", f"{path}/{WEIGHTS}", num_parts=1)[1]) == "frozen"
    status, answer = multipart(server, "complete", f"{path}/{WEIGHTS}", **begun)
    assert (status, code(answer)) == (403, "frozen")
    assert server.manifest(name, version).digest == before
    assert not under_way(server)


def test_the_bucket_behind_the_root_is_guarded_by_its_other_names_too(bucket_server):
    server, name = bucket_server, f"clinical-{uuid.uuid4().hex[:8]}"
    _, path = approved(server, name)
    for location in (f"s3://models/root/{path}", f"S3://models/root/{path}", f"s3://models/root/{path}?a=b"):
        body = {"name": uuid.uuid4().hex, "artifact_location": location}
        experiment = server.post("/api/2.0/mlflow/experiments/create", body).json()["experiment_id"]
        run = server.post("/api/2.0/mlflow/runs/create", {"experiment_id": experiment}).json()["run"]["info"]["run_id"]
        address = f"{server.uri}/ajax-api/2.0/mlflow/upload-artifact"
        answer = requests.post(address, params={"run_uuid": run, "path": "model.py"}, data=b"x", timeout=60)
        assert (answer.status_code, code(answer.json())) == (403, "frozen"), location
        body = {"run_id": run, "path": "model.py"}
        answer = server.post("/api/2.0/mlflow/artifacts/presigned-upload-url", body)
        assert (answer.status_code, code(answer.json())) == (403, "presigned_upload"), location


def test_a_neighbour_in_a_bucket_is_written_in_one_part_or_many(bucket_server):
    path = f"0/{uuid.uuid4().hex}/artifacts/file.bin"
    assert raw(bucket_server, "PUT", f"{ROUTES[0]}/artifacts/{path}", b"one")[0] == 200
    assert content(bucket_server, path) == b"one"
    begun = begun_multipart(bucket_server, path, b"many")
    assert multipart(bucket_server, "complete", path, **begun)[0] == 200
    assert content(bucket_server, path) == b"many"
    assert raw(bucket_server, "DELETE", f"{ROUTES[0]}/artifacts/{path}")[0] == 200
    assert not under_way(bucket_server)


def test_nothing_is_promoted_while_its_files_are_being_written_in_a_bucket(bucket_server):
    server, name = bucket_server, f"clinical-{uuid.uuid4().hex[:8]}"
    version = server.registered(name)
    path = tree(server, name, version)
    trees = FrozenTrees(server.ledger)
    for place in (f"{path}/{WEIGHTS}", path, path.split("/")[0]):
        begun = trees.begin_write([place])
        with pytest.raises(RestException) as caught:
            server.client.set_registered_model_alias(name, "champion", str(version))
        assert code(caught.value.json) == "artifact_being_written"
        assert "counts until" in caught.value.message
        assert server.alias(name, "champion") is None
        trees.end_write(begun)
    begun = trees.begin_write([f"{path}x"])
    server.client.set_registered_model_alias(name, "champion", str(version))
    trees.end_write(begun)


def test_bytes_that_are_written_after_they_were_read_are_not_promoted(bucket_server, monkeypatch):
    """The store in this process reads the bucket; then somebody uploads through the server; then it would promote."""
    server, name = bucket_server, f"clinical-{uuid.uuid4().hex[:8]}"
    version = server.registered(name)
    path = tree(server, name, version)
    monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(server.installation.config))
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", "gated:s3://models/root")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", BUCKET_ADDRESS["uri"])
    store = build_store(server.store_uri)
    review = store.gate.review

    def review_then_upload(request: Any) -> Any:
        found = review(request)
        assert found.allowed
        assert raw(server, "PUT", f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}", b"other bytes")[0] == 200
        return found

    monkeypatch.setattr(store.gate, "review", review_then_upload)
    with pytest.raises(MlflowException) as caught:
        store.set_registered_model_alias(name, "champion", version)
    assert code(caught.value.json_kwargs) == "form_changed"
    assert server.alias(name, "champion") is None


def test_a_write_that_outlived_its_lease_is_recorded_when_a_promotion_came_between(bucket_server):
    server, name = bucket_server, f"clinical-{uuid.uuid4().hex[:8]}"
    version = server.registered(name)
    path = tree(server, name, version)
    now = [datetime.now(UTC)]
    trees = FrozenTrees(Ledger(server.engine, lambda: now[0]))
    begun = trees.begin_write([f"{path}/{WEIGHTS}"])
    server.sql("UPDATE registry_gate_upload SET until = '2020-01-01T00:00:00.000000Z'")
    server.client.set_registered_model_alias(name, "champion", str(version))
    with pytest.raises(FrozenError):
        trees.end_write(begun)
    (entry,) = server.events("frozen_files_written")
    assert entry["places"] == [f"{path}/{WEIGHTS}"]


def test_the_files_of_another_workspace_are_frozen_under_every_path_that_leads_there(
    installation: Callable[..., Installation],
):
    with gated_server("sqlite", installation, options=("--workers", "1", "--enable-workspaces")) as server:
        mlflow.set_tracking_uri(server.uri)
        created = server.post("/api/3.0/mlflow/workspaces", {"name": "team-a"})
        assert created.status_code == 201, created.text
        mlflow.set_workspace("team-a")
        try:
            experiment = server.client.create_experiment("forms")
            base, name = (f"{kind}-{uuid.uuid4().hex[:8]}" for kind in ("base", "clinical"))

            def register(model: str, files: dict[str, bytes], directory: Path) -> None:
                logged = server.client.create_logged_model(experiment, name="form")
                for path, data in files.items():
                    (directory / path).parent.mkdir(parents=True, exist_ok=True)
                    (directory / path).write_bytes(data)
                server.client.log_model_artifacts(logged.model_id, str(directory))
                server.client.finalize_logged_model(logged.model_id, "READY")
                server.register(model, source=f"models:/{logged.model_id}")

            register(base, form_files(base=None, seed="base"), server.artifacts.parent / base)
            register(name, form_files(base=f"models:/{base}/1", seed="form"), server.artifacts.parent / name)
            envelope = server.envelope(name, 1)
            server.ledger.store_evidence(
                digest=envelope_digest(envelope),
                form_digest=server.manifest(name, 1).digest,
                battery="medical@1",
                workspace="team-a",
                envelope=envelope,
            )
            server.client.set_registered_model_alias(name, "champion", "1")
            path = tree(server, name, 1)
        finally:
            mlflow.set_workspace(None)
        assert path.startswith("workspaces/team-a/")
        before = bytes_below(server.artifacts / path)
        short = path.removeprefix("workspaces/team-a/")
        for spelling in (path, short, path.upper(), short.upper(), path.replace("/", "//"), percent(short)):
            for method in ("PUT", "DELETE"):
                target = f"{server.uri}{ROUTES[0]}/artifacts/{spelling}/{WEIGHTS}"
                headers = {"X-MLFLOW-WORKSPACE": "team-a"}
                answer = requests.request(method, target, data=b"x", headers=headers, timeout=60)
                assert answer.status_code in (400, 403), (spelling, answer.text)
                assert code(answer.json()) == "frozen" or answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
        for above in ("workspaces/team-a", "1", "workspaces/team-a/1"):
            target = f"{server.uri}{ROUTES[0]}/artifacts/{above}"
            answer = requests.delete(target, headers={"X-MLFLOW-WORKSPACE": "team-a"}, timeout=60)
            assert (answer.status_code, code(answer.json())) == (403, "frozen")
        # The default workspace has no business there; a path of its own that looks alike is a neighbour.
        assert raw(server, "PUT", f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}", b"x")[0] in (400, 403)
        assert raw(server, "PUT", f"{ROUTES[0]}/artifacts/{short}/{WEIGHTS}", b"x")[0] == 200
        assert bytes_below(server.artifacts / path) == before
    mlflow.set_tracking_uri(None)


# ---------------------------------------------------------------------------------------------------------------------
# Roots that nobody guards


def test_a_gated_root_in_a_process_without_a_gated_registry_writes_nothing(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"x")
    root = tmp_path / "root"
    for known in (False, True):
        if known:
            monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", f"gated:{root}")
        repository = get_artifact_repository(f"gated:{root}")
        assert isinstance(repository, LocalArtifactRepository)
        writes: list[Callable[[], Any]] = [
            functools.partial(repository.log_artifact, str(file)),
            functools.partial(repository.log_artifacts, str(tmp_path)),
            functools.partial(repository.log_artifact_from_stream, io.BytesIO(b"x"), "file"),
            functools.partial(repository.delete_artifacts, "file"),
        ]
        for write in writes:
            with pytest.raises(MlflowException) as caught:
                write()
            assert caught.value.get_http_status_code() == 403
    assert not root.exists()


def test_a_plain_root_behind_a_gated_registry_is_read_again_at_the_next_promotion(
    installation: Callable[..., Installation], tmp_path
):
    root = tmp_path / "plain"
    with gated_server("sqlite", installation, artifacts=str(root), options=("--workers", "1")) as started:
        server = Server(**{**vars(started), "artifacts": root})
        mlflow.set_tracking_uri(server.uri)
        name = f"clinical-{uuid.uuid4().hex[:8]}"
        well, said = doctor(server)
        assert not well
        assert "Start it with --artifacts-destination gated:<root>" in said
        version, path = approved(server, name)
        assert raw(server, "PUT", f"{ROUTES[0]}/artifacts/{path}/{WEIGHTS}", b"x")[0] == 200
        with pytest.raises(RestException) as caught:
            server.client.set_registered_model_alias(name, "production", str(version))
        assert code(caught.value.json) == "form_changed"
    mlflow.set_tracking_uri(None)
