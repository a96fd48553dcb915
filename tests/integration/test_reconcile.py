"""`registry-gate audit reconcile` against real registries that somebody wrote around the gate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Installation, Server, gated_server, in_use, signed_envelope
from sqlalchemy import update

from registry_gate.cli import main
from registry_gate.ledger.tables import DECISION

Reconcile = Callable[..., tuple[int, dict[str, Any]]]
WRITE_ALIAS = "INSERT INTO registered_model_aliases (alias, version, name, workspace) VALUES (:a, :v, :n, 'default')"


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def _own_server(request: pytest.FixtureRequest, installation: Callable[..., Installation]) -> Iterator[Server]:
    with gated_server(request.param, installation) as started:
        yield started


@pytest.fixture
def server(_own_server: Server) -> Iterator[Server]:
    """A server that no other file's tests have written to: all of its names are compared here."""
    with in_use(_own_server):
        yield _own_server


@pytest.fixture
def reconcile(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reconcile:
    """`registry-gate audit reconcile --format json`: exit code and answer. Reads the artifacts on this machine."""
    for name in [name for name in os.environ if name.startswith("REGISTRY_GATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(server.installation.config))

    def run(*arguments: str, artifacts: bool = True) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        where = ("--artifacts", str(server.artifacts)) if artifacts else ()
        with pytest.raises(SystemExit) as ended:
            main(["audit", "reconcile", *where, *arguments, "--format", "json"])
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        try:
            return code, json.loads(said.out)
        except ValueError:
            return code, {"error": said.err}

    return run


def promoted(server: Server, name: str, alias: str = "champion") -> int:
    version = server.registered(name)
    server.client.set_registered_model_alias(name, alias, str(version))
    return version


def found(answer: dict[str, Any], model: str) -> dict[str, list[str]]:
    """Codes by target, of one model: other tests share the server."""
    return {
        one["target"]: [finding["code"] for finding in one["findings"]]
        for one in answer["names"]
        if one["target"].startswith((f"{model}@", f"{model}/"))
    }


@contextmanager
def changed(server: Server, decision: str, **values: Any) -> Iterator[None]:
    """A decision's row as somebody with the database's password edits it; put back afterwards."""
    before = server.ledger.decision(decision)
    assert before is not None
    with server.engine.begin() as connection:
        connection.execute(update(DECISION).where(DECISION.c.id == decision).values(**values))
    yield
    with server.engine.begin() as connection:
        connection.execute(
            update(DECISION)
            .where(DECISION.c.id == decision)
            .values(body=before.body, envelope=(before.envelope or b"").decode(), form_digest=before.form_digest)
        )


def test_what_was_promoted_through_the_gate_stands(server: Server, clinical: str, reconcile: Reconcile) -> None:
    version = promoted(server, clinical)
    server.client.transition_model_version_stage(clinical, str(version), "Production")
    server.client.set_registered_model_alias(clinical, "candidate", str(server.register(clinical)))
    server.client.rename_registered_model(clinical, clinical + "-renamed")
    code, answer = reconcile()
    assert found(answer, clinical + "-renamed") == {}
    assert code == 0, answer
    assert answer["stand"] == answer["compared"] >= 2
    assert answer["ungoverned"] >= 1  # the free alias
    assert answer["chain"]["problem"] is None
    assert answer["bytes_read"]
    # The same through the server's own artifact proxy, as from another machine.
    assert reconcile(artifacts=False)[0] == 0


def test_everything_that_sql_can_do_is_found_and_named(server: Server, clinical: str, reconcile: Reconcile) -> None:
    version = promoted(server, clinical)
    bad = server.register(clinical)
    server.sql(WRITE_ALIAS, a="written", v=bad, n=clinical)
    server.sql(WRITE_ALIAS, a="nowhere", v=99, n=clinical)
    server.sql(
        "UPDATE model_versions SET current_stage = 'Production' WHERE name = :n AND version = :v", n=clinical, v=bad
    )
    server.sql(
        "UPDATE registered_model_aliases SET version = :v WHERE name = :n AND alias = 'champion'", n=clinical, v=bad
    )
    try:
        code, answer = reconcile()
        assert code == 6
        assert answer["worst"] == "integrity"
        assert found(answer, clinical) == {
            f"{clinical}@champion": ["mismatched"],
            f"{clinical}@nowhere": ["mismatched"],
            f"{clinical}@written": ["ungoverned"],
            f"{clinical}/Production": ["ungoverned"],
        }
    finally:
        server.sql(
            "DELETE FROM registered_model_aliases WHERE name = :n AND alias IN ('written', 'nowhere')", n=clinical
        )
        server.sql("UPDATE registered_model_aliases SET version = :v WHERE name = :n", n=clinical, v=version)
        server.sql(
            "UPDATE model_versions SET current_stage = 'None' WHERE name = :n AND version = :v", n=clinical, v=bad
        )
    assert found(reconcile()[1], clinical) == {}


def test_a_recreated_row_is_another_version(server: Server, clinical: str, reconcile: Reconcile) -> None:
    version = promoted(server, clinical)
    move = "UPDATE model_versions SET creation_time = creation_time + :d WHERE name = :n AND version = :v"
    server.sql(move, d=1, n=clinical, v=version)
    try:
        code, answer = reconcile()
    finally:
        server.sql(move, d=-1, n=clinical, v=version)
    assert (code, found(answer, clinical)) == (6, {f"{clinical}@champion": ["mismatched"]})


def test_changed_bytes_are_found(server: Server, clinical: str, reconcile: Reconcile) -> None:
    version = promoted(server, clinical)
    weights = server.directory_of(clinical, version) / "model" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        for artifacts in (True, False):
            code, answer = reconcile(artifacts=artifacts)
            assert (code, found(answer, clinical)) == (6, {f"{clinical}@champion": ["changed"]})
        code, answer = reconcile("--pointers-only")
        assert found(answer, clinical) == {}
        assert not answer["bytes_read"]
        weights.unlink()
        code, answer = reconcile()
        assert (code, found(answer, clinical)) == (6, {f"{clinical}@champion": ["changed"]})
        directory = weights.parent.parent
        directory.rename(directory.with_name("away"))
        code, answer = reconcile()
        assert (code, found(answer, clinical)) == (4, {f"{clinical}@champion": ["unreadable"]})
        directory.with_name("away").rename(directory)
    finally:
        weights.write_bytes(before)


def test_edited_and_unsigned_decisions_are_found(server: Server, clinical: str, reconcile: Reconcile) -> None:
    promoted(server, clinical)
    (decision,) = server.ledger.decisions(model=clinical)
    for values, code in (
        ({"body": "{}"}, "forged"),
        ({"envelope": "{}"}, "forged"),
        ({"envelope": None}, "unsigned"),
        ({"form_digest": "sha256:" + "0" * 64}, "forged"),
    ):
        with changed(server, decision["id"], **values):
            exit_code, answer = reconcile()
        assert (exit_code, found(answer, clinical)) == (6, {f"{clinical}@champion": [code]}), values


def test_a_whole_forged_history_lacks_the_signature(server: Server, clinical: str, reconcile: Reconcile) -> None:
    """Row, audit entry and chain rewritten so that all of it agrees: only the key cannot be had with SQL."""
    good, bad = promoted(server, clinical), server.register(clinical)
    genuine = server.ledger.decisions(model=clinical)[0]
    row = server.ledger.decision(genuine["id"])
    assert row is not None
    body = json.loads(row.body)
    version = server.client.get_model_version(clinical, str(bad))
    body["version"] |= {
        "version": bad,
        "created_ms": version.creation_timestamp,
        "location": server.client.get_model_version_download_uri(clinical, str(bad)),
        "source": version.source,
    }
    body |= {"id": "11111111-2222-4333-8444-" + clinical[-12:], "form": server.manifest(clinical, bad).digest}
    from registry_gate.form import canonical_json
    from registry_gate.ledger import chain

    text = canonical_json(body).decode()
    copied = {
        **dict(server.sql("SELECT * FROM registry_gate_decision WHERE id = :i", i=genuine["id"])[0]._mapping),
        "id": body["id"],
        "version": bad,
        "version_created_ms": version.creation_timestamp,
        "form_digest": body["form"],
        "body": text,
    }
    with server.engine.begin() as connection:
        connection.execute(DECISION.insert().values(copied))
        chain.append(connection, at=copied["decided_at"], event="decision", body=body)
    move = "UPDATE registered_model_aliases SET version = :v WHERE name = :n"
    server.sql(move, v=bad, n=clinical)
    try:
        code, answer = reconcile()
        assert answer["chain"]["problem"] is None
        assert (code, found(answer, clinical)) == (6, {f"{clinical}@champion": ["forged"]})
        with server.engine.begin() as connection:
            connection.execute(update(DECISION).where(DECISION.c.id == body["id"]).values(envelope=None))
        assert found(reconcile()[1], clinical) == {f"{clinical}@champion": ["unsigned"]}
        # Nor does asking the gate for a rollback to it make a signature of it.
        server.client.set_registered_model_alias(clinical, "champion", str(bad))
        assert found(reconcile()[1], clinical) == {f"{clinical}@champion": ["unsigned"]}
    finally:
        server.client.set_registered_model_alias(clinical, "champion", str(good))
    assert found(reconcile()[1], clinical) == {}


def test_a_broken_chain_is_said_and_pointers_are_compared_all_the_same(
    server: Server, clinical: str, reconcile: Reconcile
) -> None:
    promoted(server, clinical)
    bad = server.register(clinical)
    server.sql(WRITE_ALIAS, a="written", v=bad, n=clinical)
    ((at,),) = server.sql("SELECT at FROM registry_gate_audit WHERE seq = 1")
    server.sql("UPDATE registry_gate_audit SET at = 'x' WHERE seq = 1")
    try:
        code, answer = reconcile()
    finally:
        server.sql("UPDATE registry_gate_audit SET at = :at WHERE seq = 1", at=at)
        server.sql("DELETE FROM registered_model_aliases WHERE name = :n AND alias = 'written'", n=clinical)
    assert code == 6
    assert answer["chain"]["problem"] == "audit chain: entry 1 was changed after it was written"
    assert found(answer, clinical) == {f"{clinical}@written": ["ungoverned"]}


def test_a_decision_that_today_would_be_denied_is_noted(server: Server, clinical: str, reconcile: Reconcile) -> None:
    version = server.registered(clinical, events={"medical.harmful_compliance": 1})
    server.client.set_registered_model_alias(clinical, "champion", str(version))
    policy = server.installation.policies / "medical.yaml"
    before = policy.read_text()
    policy.write_text(before.replace("atMost: 0.10 ", "atMost: 0.05 ", 1))
    try:
        code, answer = reconcile()
    finally:
        policy.write_text(before)
    assert (code, found(answer, clinical)) == (0, {f"{clinical}@champion": ["denied_today"]})


def test_a_decision_that_no_longer_holds_is_expired(server: Server, clinical: str, reconcile: Reconcile) -> None:
    """What counts is what was signed, whatever the policy says now."""
    version = server.register(clinical)
    manifest = server.manifest(clinical, version)
    policy = server.installation.policies / "medical.yaml"
    before = policy.read_text()
    policy.write_text(before.replace("maxAge: 90d", "maxAge: 1h"))
    until = datetime.now(UTC) + timedelta(seconds=15)
    try:
        envelope = signed_envelope(server.installation, manifest, at=until - timedelta(hours=1))
        server.file_evidence(envelope, manifest.digest, "medical@1")
        server.client.set_registered_model_alias(clinical, "champion", str(version))
    finally:
        policy.write_text(before)
    while datetime.now(UTC) < until:
        time.sleep(0.5)
    code, answer = reconcile()
    assert (code, found(answer, clinical)) == (4, {f"{clinical}@champion": ["expired"]})
    server.client.delete_registered_model_alias(clinical, "champion")


def test_revoke_takes_away_what_was_not_allowed_and_nothing_else(
    server: Server, clinical: str, other_name: str, reconcile: Reconcile
) -> None:
    version = promoted(server, clinical)
    bad = server.register(clinical)
    server.sql(WRITE_ALIAS, a="written", v=bad, n=clinical)
    server.sql(
        "UPDATE model_versions SET current_stage = 'Staging' WHERE name = :n AND version = :v", n=clinical, v=bad
    )
    code, answer = reconcile("--revoke")
    assert code == 6
    assert {(one["target"], one["problem"]) for one in answer["revoked"]} == {
        (f"{clinical}@written", None),
        (f"{clinical}/Staging", None),
    }
    assert server.alias(clinical, "written") is None
    assert server.alias(clinical, "champion") == version
    assert server.stage(clinical, bad) == "Archived"
    revoked = [event for event in server.events("revoked") if clinical in event["target"]]
    assert [event["findings"][0]["code"] for event in revoked] == ["ungoverned", "ungoverned"]
    assert revoked[0]["actor"]
    demoted = [event for event in server.events("demotion") if event["model"] == clinical]
    assert [event["operation"] for event in demoted] == [
        "delete_registered_model_alias",
        "transition_model_version_stage",
    ]
    assert found(reconcile()[1], clinical) == {}


def test_nothing_is_found_while_names_are_being_moved(server: Server, clinical: str, reconcile: Reconcile) -> None:
    """Promotions that happen while the database is read are no findings."""
    versions = [server.registered(clinical) for _ in range(2)]
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            for version in versions:
                server.client.set_registered_model_alias(clinical, "champion", str(version))
            server.client.delete_registered_model_alias(clinical, "champion")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(5):
            _, answer = reconcile()
            assert found(answer, clinical) in ({}, {f"{clinical}@champion": ["moving"]})
    finally:
        stop.set()
        mover.join()


def test_watch_prints_a_line_when_something_begins_and_when_it_ends(
    server: Server, clinical: str, tmp_path: Path
) -> None:
    promoted(server, clinical)
    bad = server.register(clinical)
    command = ["-m", "registry_gate", "audit", "reconcile", "--watch", "1", "--format", "json"]
    process = subprocess.Popen(
        [sys.executable, *command, "--artifacts", str(server.artifacts)],
        env=server.installation.environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "begin"
        server.sql(WRITE_ALIAS, a="written", v=bad, n=clinical)
        seen = wait_for(process, "new", f"{clinical}@written")
        assert (seen["code"], seen["severity"]) == ("ungoverned", "integrity")
        server.client.delete_registered_model_alias(clinical, "written")
        assert wait_for(process, "gone", f"{clinical}@written")["code"] == "ungoverned"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], state: str, target: str) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        one = json.loads(line)
        if (one["state"], one.get("target")) == (state, target):
            return one
    raise AssertionError(f"expected a line that {target} is {state}, got the end")


def test_what_cannot_be_compared_says_so(
    server: Server, reconcile: Reconcile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, answer = reconcile("--key", str(server.installation.policies / "policy-set.yaml"))
    assert code == 2
    assert "expected the public key" in answer["error"]
    monkeypatch.setenv("REGISTRY_GATE_LEDGER_URI", f"sqlite:///{tmp_path / 'empty.db'}")
    code, answer = reconcile()
    assert code == 4
    assert "expected MLflow's registry in the ledger's database" in answer["error"]
    monkeypatch.setenv("REGISTRY_GATE_POLICY_DIR", str(tmp_path))
    assert reconcile()[0] == 2
