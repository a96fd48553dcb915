"""`registry-gate verify` and `audit export` against a real gated server, and offline with the public key alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.artifacts
import pytest
from conftest import Installation, Server, form_files
from sqlalchemy import update

from registry_gate.cli import main
from registry_gate.ledger.tables import DECISION

Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def verify(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`registry-gate verify ... --format json` of the server's installation: exit code and answer."""
    for name in [name for name in os.environ if name.startswith("REGISTRY_GATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(server.installation.config))

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["verify", *arguments, "--format", "json"])
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        try:
            return code, json.loads(said.out)
        except ValueError:
            return code, {"error": said.err}

    return run


def codes(answer: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in answer["findings"]]


def promoted(server: Server, name: str, alias: str = "champion") -> int:
    version = server.registered(name)
    server.client.set_registered_model_alias(name, alias, str(version))
    return version


def exported(server: Server, name: str, tmp_path: Path) -> Path:
    """The signed decision of a model in a file, written by the command."""
    (decision,) = [d for d in server.ledger.decisions(model=name) if d["decision"] == "allowed"][:1]
    file = tmp_path / "decision.dsse.json"
    with pytest.raises(SystemExit) as ended:
        main(["audit", "export", decision["id"], "-o", str(file)])
    assert ended.value.code == 0
    return file


def downloaded(server: Server, name: str, version: int, directory: Path) -> Path:
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=str(directory)))


# -- a name in the registry -------------------------------------------------------------------------------------------


def test_what_was_promoted_verifies_by_alias_stage_and_version(server: Server, clinical: str, verify: Command) -> None:
    version = promoted(server, clinical)
    server.client.transition_model_version_stage(clinical, str(version), "Production")
    for what in (
        (f"models:/{clinical}@champion",),
        (f"models:/{clinical}/production",),
        (f"models:/{clinical}/{version}", "--target", f"{clinical}@champion"),
    ):
        code, answer = verify(*what)
        assert (code, answer["verified"], answer["findings"]) == (0, True, []), answer
        assert answer["form"] == server.manifest(clinical, version).digest
        assert answer["version"] == version
        assert answer["valid_until"] > "2026"
        assert len(answer["key"]) == 64


def test_a_pointer_written_with_sql_does_not_verify(server: Server, clinical: str, verify: Command) -> None:
    version = server.register(clinical)
    insert = (
        "INSERT INTO registered_model_aliases (alias, version, name, workspace) VALUES ('champion', :v, :n, 'default')"
    )
    server.sql(insert, v=version, n=clinical)
    try:
        code, answer = verify(f"models:/{clinical}@champion")
    finally:
        server.sql("DELETE FROM registered_model_aliases WHERE name = :n", n=clinical)
    assert (code, codes(answer)) == (6, ["ungoverned"])
    assert "it was written past the gate" in answer["findings"][0]["message"]


def test_a_pointer_moved_with_sql_does_not_verify(server: Server, clinical: str, verify: Command) -> None:
    first, second = promoted(server, clinical), server.register(clinical)
    move = "UPDATE registered_model_aliases SET version = :v WHERE name = :n"
    server.sql(move, v=second, n=clinical)
    try:
        code, answer = verify(f"models:/{clinical}@champion")
    finally:
        server.sql(move, v=first, n=clinical)
    assert (code, codes(answer)) == (6, ["mismatched"])
    assert f"version {first}, got version {second}" in answer["findings"][0]["message"]


def test_a_changed_byte_does_not_verify(server: Server, clinical: str, verify: Command) -> None:
    version = promoted(server, clinical)
    weights = server.directory_of(clinical, version) / "model" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    code, answer = verify(f"models:/{clinical}@champion")
    assert (code, codes(answer)) == (6, ["changed"])
    weights.write_bytes(before)
    assert verify(f"models:/{clinical}@champion")[0] == 0


def test_an_edited_decision_does_not_verify(server: Server, clinical: str, verify: Command) -> None:
    """Row, then row and envelope exchanged for another decision's: neither passes."""
    version = promoted(server, clinical)
    other = promoted(server, clinical, "challenger")
    decision = next(d for d in server.ledger.decisions(model=clinical) if d["version"]["version"] == version)
    genuine = server.ledger.decision(decision["id"])
    borrowed = server.ledger.decision(
        next(d["id"] for d in server.ledger.decisions(model=clinical) if d["version"]["version"] == other)
    )
    assert genuine is not None
    assert borrowed is not None

    def rewrite(**values: Any) -> tuple[int, dict[str, Any]]:
        with server.engine.begin() as connection:
            connection.execute(update(DECISION).where(DECISION.c.id == genuine.id).values(**values))
        try:
            return verify(f"models:/{clinical}@champion")
        finally:
            with server.engine.begin() as connection:
                connection.execute(
                    update(DECISION)
                    .where(DECISION.c.id == genuine.id)
                    .values(
                        body=genuine.body,
                        envelope=(genuine.envelope or b"").decode(),
                        form_digest=genuine.form_digest,
                        allowed=True,
                    )
                )

    for values in (
        {"body": genuine.body.replace('"verdict":"pass"', '"verdict":"waived"', 1)},
        {"envelope": (borrowed.envelope or b"").decode()},
        {"envelope": "{}"},
        {"form_digest": "sha256:" + "0" * 64},
        {"allowed": False},
    ):
        code, answer = rewrite(**values)
        assert (code, codes(answer)) == (6, ["forged"]), values
    code, answer = rewrite(envelope=None)
    assert (code, codes(answer)) == (6, ["unsigned"])
    assert verify(f"models:/{clinical}@champion")[0] == 0


def test_a_name_that_was_taken_away_and_written_back_does_not_verify(
    server: Server, clinical: str, verify: Command
) -> None:
    version = promoted(server, clinical)
    server.client.delete_registered_model_alias(clinical, "champion")
    insert = (
        "INSERT INTO registered_model_aliases (alias, version, name, workspace) VALUES ('champion', :v, :n, 'default')"
    )
    server.sql(insert, v=version, n=clinical)
    try:
        code, answer = verify(f"models:/{clinical}@champion")
    finally:
        server.sql("DELETE FROM registered_model_aliases WHERE name = :n", n=clinical)
    assert (code, codes(answer)) == (6, ["ungoverned"])
    assert "delete_registered_model_alias by anonymous" in answer["findings"][0]["message"]


def test_another_public_key_verifies_nothing(
    server: Server, clinical: str, verify: Command, installation: Callable[..., Installation]
) -> None:
    promoted(server, clinical)
    code, answer = verify(f"models:/{clinical}@champion", "--key", str(installation().directory / "keys" / "gate.pem"))
    assert (code, codes(answer)) == (6, ["forged"])
    assert "not trusted here" in answer["findings"][0]["message"]


def test_a_version_that_is_not_promoted_there_does_not_verify(server: Server, clinical: str, verify: Command) -> None:
    promoted(server, clinical)
    bad = server.registered(clinical, events={"medical.harmful_compliance": 20})
    target = ("--target", f"{clinical}@champion")
    code, answer = verify(f"models:/{clinical}/{bad}", *target)
    assert (code, codes(answer)) == (4, ["mismatched"])
    # For a name that never was: what was decided, if anything.
    elsewhere = ("--target", f"{clinical}@other")
    code, answer = verify(f"models:/{clinical}/{bad}", *elsewhere)
    assert (code, codes(answer)) == (4, ["ungoverned"])
    with pytest.raises(mlflow.exceptions.MlflowException):
        server.client.set_registered_model_alias(clinical, "other", str(bad))
    code, answer = verify(f"models:/{clinical}/{bad}", *elsewhere)
    assert (code, codes(answer)) == (3, ["denied"])
    assert "20 of 60" in answer["findings"][0]["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("models:/{m}/1",), 2, "expected --target"),
        (("models:/{m}/latest",), 2, "whatever was registered last"),
        (("models:/{m}@nothing",), 4, "expected models:/{m}@nothing in the registry"),
        (("models:/{m}/Staging",), 4, "expected a version of '{m}' in Staging, got none"),
        (("models:/{m}@champion", "--target", "other@champion"), 2, "expected --target {m}@champion"),
        (("models:/{m}@champion", "--decision", "x"), 2, "--decision goes with a PATH"),
        (("/nowhere/at/all", "--decision", "x"), 2, "or the directory of an artifact"),
        ((".", "--decision", "no-such-file"), 2, "expected --decision with a file that exists"),
        ((".",), 2, "expected --decision FILE"),
        ((".", "--decision", "11111111-2222-4333-8444-555555555555"), 4, "in the ledger, got none"),
    ],
)
def test_bad_questions_are_answered_with_what_was_expected(
    server: Server, clinical: str, verify: Command, arguments: tuple[str, ...], code: int, words: str
) -> None:
    promoted(server, clinical)
    found, answer = verify(*(argument.format(m=clinical) for argument in arguments))
    assert found == code
    assert words.format(m=clinical) in " ".join(answer["error"].split())


def test_a_rollback_without_the_key_verifies_by_the_decision_before(
    server: Server, clinical: str, verify: Command, tmp_path: Path
) -> None:
    first = promoted(server, clinical)
    promoted(server, clinical)
    key = server.installation.directory / "keys" / "gate.key"
    key.rename(key.with_name("away"))
    try:
        with pytest.raises(mlflow.exceptions.MlflowException, match="gate's signing key"):
            promoted(server, clinical)
        server.client.set_registered_model_alias(clinical, "champion", str(first))
    finally:
        key.with_name("away").rename(key)
    code, answer = verify(f"models:/{clinical}@champion")
    assert (code, codes(answer), answer["version"]) == (0, ["rollback"], first)
    # The file that is exported is the signed one.
    file = exported(server, clinical, tmp_path)
    assert json.loads(file.read_bytes())["signatures"]


# -- a directory, offline ---------------------------------------------------------------------------------------------

OFFLINE = """
import socket, sys
def refuse(*_a, **_k):
    raise OSError("this machine has no network")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
from registry_gate.cli import main
main(sys.argv[1:])
"""


def offline(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command on a machine with nothing but what lies in a directory: no network, settings, server or ledger."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("REGISTRY_GATE_", "MLFLOW_"))}
    return subprocess.run(
        [sys.executable, "-c", OFFLINE, "verify", *arguments],
        cwd=directory,
        env=kept,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_downloaded_artifact_verifies_offline_with_the_public_key_alone(
    server: Server, clinical: str, verify: Command, tmp_path: Path
) -> None:
    version = promoted(server, clinical)
    file = exported(server, clinical, tmp_path)
    artifact = downloaded(server, clinical, version, tmp_path / "model")
    key = tmp_path / "gate.pem"
    key.write_bytes((server.installation.directory / "keys" / "gate.pem").read_bytes())
    given = (str(artifact), "--decision", str(file), "--key", str(key))

    done = offline(tmp_path, *given, "--target", f"{clinical}@champion")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.startswith(f"verified: {clinical}@champion version {version}\n")

    done = offline(tmp_path, *given, "--target", f"{clinical}@other")
    assert done.returncode == 3
    assert "which says nothing about" in done.stdout

    (artifact / "model" / "model.safetensors").write_bytes(b"other")
    done = offline(tmp_path, *given)
    assert done.returncode == 6
    assert done.stdout.startswith("NOT verified")
    assert "changed: expected the form sha256:" in done.stdout

    wire = json.loads(file.read_bytes())
    wire["signatures"][0]["sig"] = wire["signatures"][0]["sig"][::-1]
    file.write_text(json.dumps(wire))
    assert offline(tmp_path, *given).returncode == 6
    assert offline(tmp_path, str(artifact), "--decision", str(file)).returncode == 2  # no key, and nobody to ask


def test_a_decision_from_the_ledger_is_verified_by_its_id(
    server: Server, clinical: str, verify: Command, tmp_path: Path
) -> None:
    version = promoted(server, clinical)
    artifact = downloaded(server, clinical, version, tmp_path / "model")
    (allowed,) = server.ledger.decisions(model=clinical)
    code, answer = verify(str(artifact), "--decision", allowed["id"])
    assert (code, answer["target"]) == (0, f"{clinical}@champion")
    bad = server.register(clinical)
    with pytest.raises(mlflow.exceptions.MlflowException):
        server.client.set_registered_model_alias(clinical, "champion", str(bad))
    denied = server.ledger.decisions(model=clinical)[0]
    code, answer = verify(str(artifact), "--decision", denied["id"])
    assert (code, codes(answer)) == (3, ["denied"])
    with pytest.raises(SystemExit) as ended:
        main(["audit", "export", denied["id"], "-o", str(tmp_path / "denied.json")])
    assert ended.value.code == 6
    assert not (tmp_path / "denied.json").exists()


# -- adapters, whose base is served too -------------------------------------------------------------------------------


def adapter_files(base: Path) -> dict[str, bytes]:
    """A logged adapter that is loaded on a base which lies in a directory."""
    mlmodel = {
        "flavors": {
            "transformers": {
                "peft_adaptor": "peft",
                "local_base_model_path": str(base),
                "task": "text-generation",
                "pipeline_model_type": "LlamaForCausalLM",
                "framework": "pt",
            }
        },
    }
    files = form_files(base=None, seed=str(base))
    return {
        "MLmodel": json.dumps(mlmodel).encode(),
        "peft/adapter_config.json": json.dumps({"base_model_name_or_path": str(base), "peft_type": "LORA"}).encode(),
        "peft/adapter_model.safetensors": files["model/model.safetensors"],
        **{path: data for path, data in files.items() if path.startswith("components/")},
    }


def test_the_base_of_an_adapter_is_verified_where_it_lies(
    server: Server, clinical: str, verify: Command, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    for path, data in form_files(base=None, seed="a base in a directory").items():
        if path.startswith("model/"):
            (base / path.removeprefix("model/")).parent.mkdir(parents=True, exist_ok=True)
            (base / path.removeprefix("model/")).write_bytes(data)
    version = server.register(clinical, adapter_files(base))
    server.assess(clinical, version)
    server.client.set_registered_model_alias(clinical, "champion", str(version))
    file = exported(server, clinical, tmp_path)
    artifact = downloaded(server, clinical, version, tmp_path / "model")
    key = server.installation.directory / "keys" / "gate.pem"
    given = (str(artifact), "--decision", str(file), "--key", str(key))
    assert offline(tmp_path, *given).returncode == 0

    # On the machine where it is deployed, the base lies elsewhere.
    elsewhere = tmp_path / "elsewhere"
    base.rename(elsewhere)
    done = offline(tmp_path, *given)
    assert done.returncode == 4
    assert "expected a base that can be resolved" in done.stdout
    assert offline(tmp_path, *given, "--base", str(elsewhere)).returncode == 0
    (elsewhere / "model.safetensors").write_bytes((elsewhere / "model.safetensors").read_bytes()[:-1] + b"x")
    done = offline(tmp_path, *given, "--base", str(elsewhere))
    assert done.returncode == 6
    assert "changed" in done.stdout
