"""Every way of running MLflow that its own documentation offers: gated alike, and nothing else of it broken.

One real server for each way, on loopback with SQLite, in a process of its own. Each is led through the same tour: a
promotion refused, evidence, the promotion allowed, a demotion, prompts, search, pages; then what is special about it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from conftest import Installation, Server, assert_invariant, form_files, free_port, mlflow_server, signed_envelope
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookEvent
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client
from mlflow.utils.workspace_context import WorkspaceContext
from sqlalchemy import create_engine, inspect

from registry_gate.artifact import HashCache, LocalTree, read_manifest
from registry_gate.evidence.envelope import envelope_digest
from registry_gate.ledger import Ledger, RequestState
from registry_gate.ledger.migrate import current_version, newest_version
from registry_gate.mlflow_plugin.store import build_store
from registry_gate.worker.forms import FormFetcher, in_workspace

ADMIN = ("admin", "correct-horse-battery")
SOMEBODY = ("dana", "staple-for-the-gate-1")


@contextmanager
def served(
    make: Callable[..., Installation],
    options: Sequence[str] = (),
    *,
    prefix: str = "",
    variables: Mapping[str, str] | None = None,
    health: str | None = None,
) -> Iterator[Server]:
    """A gated server that is run in a way of its own."""
    port = free_port()
    made = make(tracking_uri=f"http://127.0.0.1:{port}{prefix}")
    with mlflow_server(
        made.directory,
        backend=made.ledger_uri,
        registry=f"gated:{made.ledger_uri}",
        port=port,
        environment={**made.environment(), **(variables or {})},
        options=options,
        health=health or f"{prefix}/health",
    ) as log:
        engine = create_engine(made.ledger_uri)
        mlflow.set_tracking_uri(made.tracking_uri)
        try:
            server = Server(
                database="sqlite", installation=made, engine=engine, artifacts=made.directory / "artifacts", log=log
            )
            yield server
            assert_invariant(server)
        finally:
            mlflow.set_tracking_uri(None)
            engine.dispose()


def refused(call: Callable[[], Any]) -> dict[str, Any]:
    with pytest.raises(MlflowException) as caught:
        call()
    assert caught.value.error_code == "PERMISSION_DENIED", caught.value
    payload: dict[str, Any] = caught.value.json["registry_gate"]  # type: ignore[attr-defined]
    assert payload["decision"] == "denied"
    return payload


def codes(payload: Mapping[str, Any]) -> list[str]:
    return [reason["code"] for reason in payload["reasons"] if reason["blocking"]]


def tour(server: Server, *, actor: str = "anonymous", auth: tuple[str, str] | None = None) -> str:
    """What must hold on every server. Returns the model's name."""
    client, model = server.client, f"clinical-{uuid.uuid4().hex[:8]}"

    # Logging and registering.
    run = client.create_run("0").info.run_id
    client.log_metric(run, "loss", 0.5)
    client.log_text(run, "words", "notes.txt")
    assert mlflow.artifacts.load_text(f"runs:/{run}/notes.txt") == "words"
    version = server.register(model)

    # Refused without evidence, through client, REST and the address of the pages alike; stages too.
    assert codes(refused(lambda: client.set_registered_model_alias(model, "champion", str(version)))) == [
        "evidence_missing"
    ]
    body = {"name": model, "alias": "champion", "version": str(version)}
    for api in ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow"):
        answer = requests.post(f"{server.uri}{api}/registered-models/alias", json=body, auth=auth, timeout=60)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
        assert codes(answer.json()["registry_gate"]) == ["evidence_missing"]
    assert codes(refused(lambda: client.transition_model_version_stage(model, str(version), "staging"))) == [
        "evidence_missing"
    ]
    assert server.alias(model, "champion") is None

    # Allowed with evidence, and loaded by the name.
    server.assess(model, version)
    client.set_registered_model_alias(model, "champion", str(version))
    assert client.get_model_version_by_alias(model, "champion").version == str(version)
    loaded = Path(mlflow.artifacts.download_artifacts(f"models:/{model}@champion"))
    assert (loaded / "MLmodel").is_file()
    (allowed,) = (d for d in server.ledger.decisions(model=model) if d["decision"] == "allowed")
    assert (allowed["actor"]["name"], allowed["actor"]["address"]) == (actor, "127.0.0.1")

    # A demotion, a free alias, and back: recorded by whom.
    client.delete_registered_model_alias(model, "champion")
    assert server.alias(model, "champion") is None
    client.set_registered_model_alias(model, "candidate", str(version))
    client.set_registered_model_alias(model, "champion", str(version))

    # Prompts, search, and the pages.
    prompt = f"prompt-{model}"
    client.register_prompt(prompt, "Answer in {{ language }}.")
    client.set_prompt_alias(prompt, "production", 1)
    assert client.load_prompt(f"prompts:/{prompt}@production").template == "Answer in {{ language }}."
    assert model in [found.name for found in client.search_registered_models(f"name LIKE '{model[:-2]}%'")]
    assert [found.version for found in client.search_model_versions(f"name = '{model}'")] == [str(version)]
    page = requests.get(f"{server.uri}/", auth=auth, timeout=60)
    assert page.status_code == 200 and "<html" in page.text.lower()
    listed = requests.get(f"{server.uri}/ajax-api/2.0/mlflow/registered-models/search", auth=auth, timeout=60)
    assert model in [found["name"] for found in listed.json()["registered_models"]]
    return model


# ---------------------------------------------------------------------------------------------------------------------


class Hooks(BaseHTTPRequestHandler):
    """Keeps what is sent to it."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.server.news.release()  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiver() -> Iterator[Any]:
    listener: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hooks)
    listener.seen, listener.news = [], threading.Semaphore(0)
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    yield listener
    listener.shutdown()
    thread.join()


def test_uvicorn_with_four_workers_and_webhooks(installation: Callable[..., Installation]) -> None:
    """A webhook tells of what happened, and nothing of what was refused."""
    variables = {
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    }
    with receiver() as hooks, served(installation, ("--workers", "4"), variables=variables) as server:
        url = f"http://127.0.0.1:{hooks.server_port}/"
        server.client.create_webhook(
            "aliases", url, [WebhookEvent.from_str("model_version_alias.created")], description="tells of aliases"
        )
        model = tour(server)
        for _ in range(3):  # champion, candidate, champion
            assert hooks.news.acquire(timeout=60)
        told = sorted(
            (seen["data"]["name"], seen["data"]["alias"]) for seen in hooks.seen if seen["data"]["name"] == model
        )
        assert told == [(model, "candidate"), (model, "champion"), (model, "champion")]


def test_gunicorn(installation: Callable[..., Installation]) -> None:
    with served(installation, ("--gunicorn-opts", "--workers 2 --timeout 120")) as server:
        assert "gunicorn" in server.log.read_text().lower()
        tour(server)


def test_static_prefix(installation: Callable[..., Installation]) -> None:
    with served(installation, ("--static-prefix", "/ml/flow", "--workers", "1"), prefix="/ml/flow") as server:
        tour(server)


APP = '''
"""Somebody's own application around MLflow's: a header on every answer, and a page."""
import os


def create_app():
    if os.environ["_MLFLOW_SGI_NAME"] != "uvicorn":
        raise RuntimeError("expected uvicorn")
    from mlflow.server.fastapi_app import create_fastapi_app

    app = create_fastapi_app()

    @app.middleware("http")
    async def signed(request, call_next):
        answer = await call_next(request)
        answer.headers["X-Somebody"] = "was here"
        return answer

    return app
'''


def test_app_of_somebody_else(installation: Callable[..., Installation], tmp_path: Path) -> None:
    """`--app-name` takes any entry point of the group `mlflow.app`; it sits above the store and changes nothing."""
    (tmp_path / "somebody.py").write_text(APP)
    metadata = tmp_path / "somebody-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[mlflow.app]\nsomebody = somebody:create_app\n")
    path = ":".join([str(tmp_path), *sys.path[1:]])
    with served(installation, ("--app-name", "somebody", "--workers", "1"), variables={"PYTHONPATH": path}) as server:
        assert requests.get(f"{server.uri}/health", timeout=60).headers["X-Somebody"] == "was here"
        tour(server)


def test_basic_auth_names_who_asked_and_gates_admins(
    installation: Callable[..., Installation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\nauth_cache_ttl_seconds = 60\n"
        f"database_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        f"admin_username = {ADMIN[0]}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "only-for-this-test",
    }

    def as_user(user: tuple[str, str]) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])

    with served(installation, ("--app-name", "basic-auth", "--workers", "2"), variables=variables) as server:
        as_user(ADMIN)
        model = tour(server, actor="admin", auth=ADMIN)
        # An admin has no way of their own.
        unknown = server.register(model)
        refused(lambda: server.client.set_registered_model_alias(model, "champion", str(unknown)))

        users = get_app_client("basic-auth", tracking_uri=server.uri)
        users.create_user(*SOMEBODY)
        users.grant_user_permission(SOMEBODY[0], "registered_model", model, "EDIT")
        other = server.registered("clinical-others")
        known = server.registered(model)
        as_user(SOMEBODY)
        refused(lambda: server.client.set_registered_model_alias(model, "champion", str(unknown)))
        server.client.set_registered_model_alias(model, "live", str(known))
        # MLflow's own permissions stand before ours.
        with pytest.raises(MlflowException) as caught:
            server.client.set_registered_model_alias("clinical-others", "champion", str(other))
        assert "registry_gate" not in (getattr(caught.value, "json", None) or {})
        body = {"name": model, "alias": "champion", "version": str(unknown)}
        nobody = requests.post(f"{server.uri}/api/2.0/mlflow/registered-models/alias", json=body, timeout=60)
        assert nobody.status_code == 401
        decisions = server.ledger.decisions(model=model)
        asked = {(d["actor"]["name"], d["actor"]["kind"], d["target"]["name"], d["decision"]) for d in decisions}
        assert asked >= {
            ("admin", "basic-auth", "champion", "allowed"),
            ("admin", "basic-auth", "champion", "denied"),
            ("dana", "basic-auth", "live", "allowed"),
        }
        assert server.ledger.decisions(model="clinical-others") == []


def test_evidence_of_one_workspace_never_serves_another(
    installation: Callable[..., Installation], tmp_path: Path
) -> None:
    """The same name and version exists once for each workspace; so do targets, requests, decisions and ways back."""
    base = uuid.uuid4().hex
    with served(installation, ("--enable-workspaces", "--workers", "2")) as server:
        tour(server)
        for workspace in ("team-a", "team-b"):
            server.client.create_workspace(workspace)
        model, files = "clinical-shared", dict[str, dict[str, bytes]]()
        for workspace in ("team-a", "team-b"):
            with WorkspaceContext(workspace):
                experiment = server.client.create_experiment("forms")
                # The same bytes, file for file, under the same names and numbers.
                files = files or {
                    "base": form_files(base=None, seed=base),
                    model: form_files(base="models:/base/1", seed="shared"),
                }
                for name, content in files.items():
                    source = server.log_model(content, experiment=experiment)
                    assert server.register(name, source=source) == 1

        requests_of: dict[str, str] = {}
        for workspace in ("team-a", "team-b"):
            with WorkspaceContext(workspace):
                denial = refused(lambda: server.client.set_registered_model_alias(model, "champion", "1"))
                assert codes(denial) == ["evidence_missing"]
                requests_of[workspace] = denial["requests"][0]["id"]
        first, second = (server.ledger.request(requests_of[w]) for w in ("team-a", "team-b"))
        assert first is not None and second is not None
        assert (first.workspace, second.workspace) == ("team-a", "team-b")
        assert first.id != second.id and first.form_digest == second.form_digest

        # What a worker would do for team-a: find the form in its workspace, and file the evidence there.
        claimed = server.ledger.claim("tests", server.ledger.clock() - server.ledger.clock())
        assert claimed is not None and claimed.state is RequestState.RUNNING
        with in_workspace("team-a"):
            fetched = FormFetcher(server.uri, tmp_path).manifest_of(model, 1)
        assert fetched.digest == first.form_digest
        with pytest.raises(Exception, match="not found"), in_workspace("default"):
            FormFetcher(server.uri, tmp_path).manifest_of(model, 1)
        envelope = signed_envelope(server.installation, fetched)
        server.ledger.store_evidence(
            digest=envelope_digest(envelope),
            form_digest=fetched.digest,
            battery="medical@1",
            workspace="team-a",
            envelope=envelope,
        )
        with WorkspaceContext("team-b"):
            assert codes(refused(lambda: server.client.set_registered_model_alias(model, "champion", "1"))) == [
                "evidence_missing"
            ]
            refused(lambda: server.client.transition_model_version_stage(model, "1", "Production"))
        with WorkspaceContext("team-a"):
            server.client.set_registered_model_alias(model, "champion", "1")
            assert server.client.get_model_version_by_alias(model, "champion").version == "1"
        # Allowed in team-a is no ground for a way back in team-b.
        with WorkspaceContext("team-b"):
            refused(lambda: server.client.set_registered_model_alias(model, "champion", "1"))
            assert server.client.get_registered_model(model).aliases == {}
        rows = server.sql("SELECT workspace, alias FROM registered_model_aliases WHERE name = :name", name=model)
        assert [tuple(row) for row in rows] == [("team-a", "champion")]
        allowed = [(d["workspace"], d["decision"]) for d in server.ledger.decisions(model=model)]
        assert allowed.count(("team-a", "allowed")) == 1
        assert ("team-b", "allowed") not in allowed and ("team-b", "denied") in allowed


# ---------------------------------------------------------------------------------------------------------------------
# Without a server


def mlflow_db(command: str, uri: str, environment: Mapping[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "mlflow", "db", command, uri], env=dict(environment), check=True, capture_output=True
    )


def test_schema_upgrades_of_mlflow_and_of_the_ledger_leave_each_other_alone(
    installation: Callable[..., Installation], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = installation()
    monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(made.config))
    # Ours first, in an empty database, as when a worker is up before the server; then MLflow's; then both again.
    ledger = Ledger.connect(made.ledger_uri)
    with ledger.transaction() as connection:
        ledger.record_event(connection, "kept", {})
    store: Any = build_store(f"gated:{made.ledger_uri}")
    mlflow_db("upgrade", made.ledger_uri, made.environment())
    store.create_registered_model("m")
    names = inspect(store.engine).get_table_names()
    assert {"alembic_version", "registry_gate_alembic_version", "registered_models"} <= set(names)
    assert current_version(store.engine) == newest_version()
    assert ledger.verify_chain()[0] == 1
    assert [found.name for found in store.search_registered_models()] == ["m"]
    ledger.engine.dispose()


def test_local_client_store_is_gated_and_names_the_os_user(
    installation: Callable[..., Installation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`MLFLOW_REGISTRY_URI=gated:sqlite:///...` without any server."""
    import getpass

    made = installation()
    monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(made.config))
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"gated:{made.ledger_uri}")
    mlflow.set_registry_uri(None)
    client = MlflowClient(tracking_uri=made.ledger_uri, registry_uri=f"gated:{made.ledger_uri}")
    for name, base in (("base", None), ("clinical-local", "models:/base/1")):
        for path, data in form_files(base=base, seed=name).items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(data)
        client.create_registered_model(name)
        client.create_model_version(name, str(tmp_path / name))
    with pytest.raises(MlflowException) as caught:
        client.set_registered_model_alias("clinical-local", "champion", "1")
    assert caught.value.error_code == "PERMISSION_DENIED"
    manifest = read_manifest(
        LocalTree(tmp_path / "clinical-local", HashCache()), lambda *_: LocalTree(tmp_path / "base", HashCache())
    )
    envelope = signed_envelope(made, manifest)
    ledger = Ledger.connect(made.ledger_uri)
    ledger.store_evidence(
        digest=envelope_digest(envelope),
        form_digest=manifest.digest,
        battery="medical@1",
        workspace="default",
        envelope=envelope,
    )
    client.set_registered_model_alias("clinical-local", "champion", "1")
    assert int(client.get_model_version_by_alias("clinical-local", "champion").version) == 1
    actors = {(d["actor"]["name"], d["actor"]["kind"]) for d in ledger.decisions()}
    assert actors == {(getpass.getuser(), "os-user")}
    ledger.engine.dispose()


def test_decisions_never_rest_on_a_read_replica(
    installation: Callable[..., Installation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go to the replica as with plain MLflow; whether a version exists, and as what, the primary says."""
    import mlflow.server.handlers as handlers

    made = installation()
    monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(made.config))
    mlflow_db("upgrade", made.ledger_uri, made.environment())
    replica = tmp_path / "replica.db"
    shutil.copy(made.ledger_uri.removeprefix("sqlite:///"), replica)
    monkeypatch.setenv("_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE", f"sqlite:///{replica}")
    assert handlers._model_registry_store_registry is not None
    store: Any = build_store(f"gated:{made.ledger_uri}")
    assert str(store.read_engine.url) == f"sqlite:///{replica}"
    store.create_registered_model("m")
    store.create_model_version("m", str(tmp_path / "nothing"))
    assert store.search_registered_models() == []  # the replica is behind
    with pytest.raises(MlflowException) as caught:
        store.set_registered_model_alias("m", "champion", 1)
    assert caught.value.error_code == "PERMISSION_DENIED"  # and not: there is no such version
    store.set_registered_model_alias("m", "candidate", 1)
    assert [d["target"]["key"] for d in Ledger(store.engine).decisions()] == ["m@candidate", "m@champion"]
