"""`registry-gate doctor` asks running servers from outside: gated or not, with what, and whether it is as here."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import Installation, Server, free_port, mlflow_server

from registry_gate import __version__
from registry_gate.cli import main
from registry_gate.evidence.keys import generate_key, key_id, load_public_key

Doctor = Callable[..., tuple[int, dict[str, dict[str, Any]], str]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """`registry-gate doctor --format json` of an installation: exit code, checks by name, and all that was printed."""

    def run(config: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]], str]:
        for name in [name for name in os.environ if name.startswith("REGISTRY_GATE_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(config))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *arguments, "--format", "json"])
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, {check["name"]: check for check in json.loads(said.out)}, said.out + said.err

    return run


def test_a_gated_server_says_with_what(server: Server, doctor: Doctor) -> None:
    server.ledger.worker_seen("worker-1", "idle")
    code, checks, _ = doctor(server.installation.config)
    assert code == 0, checks
    assert checks["server"]["detail"].startswith(f"{server.uri} is gated: registry-gate {__version__}, MLflow 3.")
    digest = server.installation.policy_set().digest
    assert checks["server policies"]["detail"] == f"policy set {digest[:23]}, the same as here"
    gate_key = key_id(load_public_key(server.installation.directory / "keys" / "gate.pem"))
    assert checks["server gate key"]["detail"] == f"signing key {gate_key[:16]}, the same as here"
    assert checks["gate key"]["detail"] == f"signs decisions ({gate_key[:16]})"
    assert checks["server signers"]["detail"].startswith("signers worker (")
    assert checks["server ledger"]["detail"].startswith("ledger schema 0")
    assert checks["artifacts"]["detail"] == "files of approved versions are frozen"


def test_the_status_holds_no_secret_path_or_address(server: Server) -> None:
    question = {"name": "x", "key": "registry_gate.doctor", "value": "1"}
    answer = server.post("/api/2.0/mlflow/registered-models/set-tag", question)
    assert answer.status_code == 403
    payload = answer.json()["registry_gate"]
    assert payload["decision"] == "denied"
    status = payload["status"]
    assert set(status) == {
        *(
            "policy_set",
            "policy_error",
            "policy_place",
            "policy_revision",
            "signers",
            "gate_key",
            "gate_key_error",
            "ledger_schema",
            "ledger_error",
        ),
        *("artifacts_gated", "version", "mlflow"),
    }
    assert status["artifacts_gated"] is True
    for hidden in ("/", "sqlite", "postgres", "PRIVATE", str(server.installation.directory)):
        assert hidden not in json.dumps(status)
    # Other reserved tags are refused as ever, and say nothing.
    other = server.post("/api/2.0/mlflow/registered-models/set-tag", {**question, "key": "registry_gate.other"})
    assert "status" not in other.json()["registry_gate"]
    # The other way to ask changes nothing either.
    made = {"name": "never-made", "tags": [{"key": "registry_gate.doctor", "value": "1"}]}
    answer = server.post("/api/2.0/mlflow/registered-models/create", made)
    assert (answer.status_code, answer.json()["registry_gate"]["status"]) == (403, status)
    assert server.sql("SELECT name FROM registered_models WHERE name = 'never-made'") == []


def test_what_is_wrong_on_the_server_is_said(server: Server, doctor: Doctor) -> None:
    policy = server.installation.policies / "general.yaml"
    key = server.installation.directory / "keys" / "gate.key"
    before = policy.read_text()
    policy.write_text(before.replace("      atMost:", "      atmost:", 1))
    key.rename(key.with_name("away"))
    try:
        code, checks, _ = doctor(server.installation.config)
    finally:
        policy.write_text(before)
        key.with_name("away").rename(key)
    assert code == 4
    assert checks["server"]["ok"]
    assert "no usable policy set (document_invalid)" in checks["server policies"]["detail"]
    assert "no usable signing key (gate_key_missing): promotions are denied" in checks["server gate key"]["detail"]
    assert not checks["server policies"]["ok"]
    assert not checks["server gate key"]["ok"]


def test_a_server_with_other_policies_and_keys_than_here_is_told_apart(
    server: Server, doctor: Doctor, installation: Callable[..., Installation]
) -> None:
    here = installation(ledger_uri=server.installation.ledger_uri, tracking_uri=server.uri)
    code, checks, _ = doctor(here.config)
    assert code == 4
    for name in ("server policies", "server signers", "server gate key"):
        assert not checks[name]["ok"]
        assert ", but here is " in checks[name]["detail"]
    # A machine that only deploys has the public key alone.
    key = here.directory / "keys" / "gate.key"
    key.unlink()
    assert doctor(here.config)[1]["gate key"]["detail"].startswith("public only: gate (")
    generate_key(key, here.directory / "other.pem")
    assert "got another key" in doctor(here.config)[1]["gate key"]["detail"]


def test_a_plain_mlflow_is_not_gated_and_nothing_is_made_there(
    installation: Callable[..., Installation], doctor: Doctor
) -> None:
    made = installation()
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(
        made.directory, backend=made.ledger_uri, registry=made.ledger_uri, port=port, environment=made.environment()
    ):
        code, checks, _ = doctor(made.config, "--tracking-uri", uri)
        found = requests.get(f"{uri}/api/2.0/mlflow/registered-models/search", timeout=60).json()
    assert code == 4
    assert not checks["server"]["ok"]
    assert checks["server"]["detail"].startswith(f"{uri} is NOT gated: it is an MLflow server that answered HTTP 404")
    assert found.get("registered_models", []) == []


def test_a_server_with_log_in_is_asked_with_credentials(
    installation: Callable[..., Installation], doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of MLflow's basic-auth: nobody, the admin, and a user who may change no model of others."""
    made = installation()
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    auth = made.directory / "auth.ini"
    auth.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{made.directory / 'auth.db'}\n"
        "admin_username = admin\nadmin_password = correct-horse-9\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {
        **made.environment(),
        "MLFLOW_AUTH_CONFIG_PATH": str(auth),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for this test",
    }
    with mlflow_server(
        made.directory,
        backend=made.ledger_uri,
        registry=f"gated:{made.ledger_uri}",
        port=port,
        environment=environment,
        options=("--app-name", "basic-auth", "--workers", "1"),
    ):
        _, checks, _ = doctor(made.config, "--tracking-uri", uri)
        assert checks["server"]["detail"].startswith(f"{uri} wants a log-in (HTTP 401): set MLFLOW_TRACKING_USERNAME")
        created = requests.post(
            f"{uri}/api/2.0/mlflow/users/create",
            json={"username": "rosa", "password": "battery-staple-9"},
            auth=("admin", "correct-horse-9"),
            timeout=60,
        )
        assert created.status_code == 200, created.text
        for name, password in (("admin", "correct-horse-9"), ("rosa", "battery-staple-9")):
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
            _, checks, text = doctor(made.config, "--tracking-uri", uri)
            assert checks["server"]["ok"], checks
            assert checks["server policies"]["detail"].endswith(", the same as here")
            assert checks["artifacts"]["ok"], checks
            assert password not in text


# -- what is no gated MLflow at all -----------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server that answers everything the same."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>hello</html>", "is no MLflow server: it answered HTTP 200"),
        (404, b"not found", "is no MLflow server: it answered HTTP 404"),
        (200, b"[]", "is no MLflow server"),
        (200, b'{"registry_gate": "yes"}', "is no MLflow server"),
        (401, b"who are you", "wants a log-in (HTTP 401)"),
        (403, b"Invalid Host header", "answered HTTP 403 before the gate could be asked"),
        (200, b"{}", "is NOT gated: it is an MLflow server that answered HTTP 200"),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE"}', "is NOT gated"),
        (500, b'{"error_code": "INTERNAL_ERROR"}', "is NOT gated"),
    ],
)
def test_whatever_else_answers_has_its_own_sentence(
    installation: Callable[..., Installation], doctor: Doctor, status: int, body: bytes, words: str
) -> None:
    with answering(status, body) as uri:
        code, checks, _ = doctor(installation().config, "--tracking-uri", uri)
    assert code == 4
    assert not checks["server"]["ok"]
    assert words in checks["server"]["detail"]


def test_a_gate_that_says_no_more_is_gated_all_the_same(
    installation: Callable[..., Installation], doctor: Doctor
) -> None:
    with answering(403, b'{"error_code": "PERMISSION_DENIED", "registry_gate": {"decision": "denied"}}') as uri:
        _, checks, _ = doctor(installation().config, "--tracking-uri", uri)
    assert checks["server"]["ok"]
    assert "older registry-gate" in checks["server"]["detail"]


def test_nobody_there_is_said(installation: Callable[..., Installation], doctor: Doctor) -> None:
    _, checks, _ = doctor(installation().config, "--tracking-uri", "http://127.0.0.1:9")
    assert checks["server"]["detail"].startswith(
        "expected the MLflow server at http://127.0.0.1:9 to answer, got: Connection refused"
    )
