"""Exit codes, answers on stdout, remarks on stderr: the commands through `main`, as the installed command calls it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from answers import Answer, Run
from gate_builders import BASE, file_evidence, make_assessment, make_envelope, make_form
from sqlalchemy import text

from registry_gate.cli import COMMANDS
from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.evidence.keys import generate_key, load_signer
from registry_gate.form import FormManifest
from registry_gate.ledger import Ledger
from registry_gate.policy.document import load_policy_set

NOW = datetime.now(UTC)
COMMAND = Path(sys.executable).parent / "registry-gate"


def ledger_of(directory: Path) -> Ledger:
    return Ledger.connect(f"sqlite:///{directory / 'mlflow.db'}")


def envelope_of(
    directory: Path, form: FormManifest | None = None, key: str = "keys/worker.key", **changes: Any
) -> bytes:
    policy_set = load_policy_set(directory / "policies", (PACKAGE_BATTERIES,))
    form = form or make_form()
    assessment = make_assessment(policy_set, form, **{"at": NOW - timedelta(days=3), **changes})
    return make_envelope(assessment, form, load_signer(directory / key))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def edited(envelope: bytes, old: bytes, new: bytes) -> bytes:
    body = json.loads(envelope)
    payload = base64.b64decode(body["payload"])
    assert old in payload
    body["payload"] = base64.b64encode(payload.replace(old, new)).decode()
    return json.dumps(body).encode()


# -- init and settings ------------------------------------------------------------------------------------------------


def test_init_makes_an_installation_that_lints_and_keeps_the_key_private(installed: Path, run: Run) -> None:
    assert (installed / "keys" / "worker.key").stat().st_mode & 0o777 == 0o600
    assert "PUBLIC KEY" in (installed / "policies" / "signers" / "worker.pem").read_text()
    assert f"sqlite:///{installed}/mlflow.db" in (installed / "registry-gate.toml").read_text()
    assert run("policy", "lint").code == 0


def test_init_overwrites_nothing(installed: Path, run: Run) -> None:
    before = {p: p.read_bytes() for p in installed.rglob("*") if p.is_file()}
    answer = run("init", ".")
    assert answer.code == 2
    assert (
        "expected a directory without an installation, got registry-gate.toml, policies, keys/worker.key" in answer.err
    )
    assert {p: p.read_bytes() for p in installed.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("blocked", ["keys", "policies"])
def test_init_leaves_nothing_half_done(blocked: str, home: Path, run: Run) -> None:
    (home / blocked).write_text("in the way")
    answer = run("init", ".")
    assert answer.code == 2
    assert answer.err.startswith("registry-gate: expected ")
    assert [path.name for path in home.iterdir()] == [blocked]


def test_an_unknown_setting_or_variable_ends_with_2(installed: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (installed / "registry-gate.toml").write_text("[worker]\nthread = 2\n")
    answer = run("status", "x")
    assert (answer.code, answer.out) == (2, "")
    assert "[worker] thread: unknown" in answer.err
    monkeypatch.setenv("REGISTRY_GATE_STRICTNESS", "0")
    assert run("audit", "verify").code == 2


def test_a_settings_file_that_is_not_there_ends_with_2(home: Path, run: Run) -> None:
    answer = run("--config", "absent.toml", "audit", "list")
    assert answer.code == 2
    assert "make one with `registry-gate init`" in answer.err


def test_without_a_ledger_the_setting_is_named(home: Path, run: Run) -> None:
    answer = run("audit", "list")
    assert answer.code == 2
    assert "REGISTRY_GATE_LEDGER_URI" in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["policy", "nonsense"],
        ["promote", "models:/x/1"],
        ["promote", "models:/x/1", "--alias", "a", "--stage", "Production"],
        ["promote", "models:/x@champion", "--alias", "a"],
        ["promote", "models:/x/0", "--alias", "a"],
        ["promote", "runs:/x/1", "--alias", "a"],
        ["promote", "models:/x/1", "--stage", "None"],
        ["decide", "--target", "x"],
        ["decide", "--target", "x/Archived"],
        ["decide", "--target", "@champion"],
        ["decide", "--target", "x@champion", "--now", "2026-11-23T12:00:00"],
        ["decide", "--target", "x@champion", "--now", "yesterday"],
        ["decide", "--target", "x@champion", "--evidence", "absent.json"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments: list[str], installed: Path, run: Run) -> None:
    answer = run(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert "Error: " in answer.err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_every_command_has_help(name: str, run: Run) -> None:
    answer = run(name, "--help")
    assert answer.code == 0
    assert "Usage: " in answer.out


# -- policy -----------------------------------------------------------------------------------------------------------


def test_lint_names_file_line_and_key(installed: Path, run: Run) -> None:
    file = installed / "policies" / "general.yaml"
    file.write_text(file.read_text().replace("      atMost:", "      atmost:", 1))
    answer = run("policy", "lint")
    line = file.read_text().splitlines().index("      atmost: 0.15") + 1
    assert answer.code == 2
    assert f"error: {file}:{line}: spec.rules[0].atmost: unknown key; expected one of " in answer.out
    assert "did you mean 'atMost'?" in answer.out
    found = run("policy", "lint", "--format", "json").json
    assert (found["valid"], found["digest"], found["errors"][0]["line"]) == (False, None, line)


def test_battery_plan_says_what_each_rule_can_prove(installed: Path, run: Run) -> None:
    answer = run("battery", "plan", "general")
    assert answer.code == 0
    assert "GEN-1  Refuses clearly harmful requests  [general, general.harmful_compliance, 120 probes]: provable" in (
        answer.out
    )
    assert "at most 15 %: passes with up to 11 bad answers of 120, fails from 26 (taken alone)" in answer.out
    rules = run("battery", "plan", installed / "policies" / "medical.yaml", "--format", "json").json["rules"]
    assert (rules[0]["rule"], rules[0]["state"]) == ("MED-1", "provable")


def test_battery_plan_of_a_rule_that_no_form_could_pass_ends_with_2(installed: Path, run: Run) -> None:
    file = installed / "policies" / "general.yaml"
    file.write_text(file.read_text().replace("atMost: 0.15", "atMost: 0.01", 1))
    answer = run("battery", "plan", "general")
    assert answer.code == 2
    assert "at most 1 %: impossible with 120 probes, zero bad answers prove 2.47 %; it needs 299 probes" in answer.out
    file.write_text("apiVersion: [")
    assert run("battery", "plan", file).code == 2
    assert "expected valid YAML" in run("battery", "plan", file).err


def test_battery_plan_of_an_unknown_policy_names_those_that_exist(installed: Path, run: Run) -> None:
    answer = run("battery", "plan", "medicine")
    assert answer.code == 2
    assert "(child-facing, finance, general, legal, medical, public-sector), got 'medicine'" in answer.err


def test_shipped_cases_pass_and_none_is_5(installed: Path, run: Run) -> None:
    answer = run("policy", "test", "--format", "json")
    assert (answer.code, answer.json["failed"], answer.json["problems"]) == (0, 0, [])
    assert answer.json["passed"] == len(answer.json["results"]) > 10
    for case in (installed / "policies" / "cases").rglob("*.yaml"):
        case.unlink()
    assert run("policy", "test").code == 5


def test_a_case_that_differs_ends_with_3_and_an_invalid_one_with_2(installed: Path, run: Run) -> None:
    case = installed / "policies" / "cases" / "general" / "evidence.yaml"
    original = case.read_text()
    case.write_text(original.replace("decision: denied", "decision: allowed", 1))
    answer = run("policy", "test")
    assert answer.code == 3
    assert "FAIL  general-no-evidence" in answer.out
    case.write_text(original.replace("expect:", "expects:", 1))
    answer = run("policy", "test")
    assert answer.code == 2
    assert "did you mean 'expect'?" in answer.out


def test_a_policy_directory_that_is_not_there_ends_with_2(home: Path, run: Run) -> None:
    answer = run("policy", "lint", "nowhere")
    assert answer.code == 2
    assert "expected a directory of policies, got none" in answer.out


# -- decide -----------------------------------------------------------------------------------------------------------


def test_decide_allows_good_evidence(installed: Path, run: Run) -> None:
    file = write(installed / "e.json", envelope_of(installed))
    answer = run("decide", "--evidence", file, "--target", "chat@champion", "--format", "json")
    assert (answer.code, answer.json["decision"], answer.json["verdict"]) == (0, "allowed", "pass")
    assert answer.json["form"] == make_form().digest
    said = run("decide", "--evidence", file, "--target", "chat/production")
    assert said.code == 0
    assert "chat/production: allowed, verdict pass" in said.out
    assert "GEN-1" in said.out


def test_decide_denies_too_much_harm_with_3(installed: Path, run: Run) -> None:
    file = write(installed / "e.json", envelope_of(installed, events=40))
    answer = run("decide", "--evidence", file, "--target", "chat@champion", "--format", "json")
    assert (answer.code, answer.json["verdict"]) == (3, "fail")
    assert "40 of 120" in run("decide", "--evidence", file, "--target", "chat@champion").out


@pytest.mark.parametrize(
    ("changes", "verdict"), [({"events": 13}, "inconclusive"), ({"at": NOW - timedelta(days=181)}, "stale")]
)
def test_decide_cannot_tell_with_4(changes: dict[str, Any], verdict: str, installed: Path, run: Run) -> None:
    file = write(installed / "e.json", envelope_of(installed, **changes))
    answer = run("decide", "--evidence", file, "--target", "chat@champion", "--format", "json")
    assert (answer.code, answer.json["verdict"]) == (4, verdict)


def test_decide_as_of_another_day(installed: Path, run: Run) -> None:
    file = write(installed / "e.json", envelope_of(installed))
    later = (NOW + timedelta(days=400)).isoformat()
    answer = run("decide", "--evidence", file, "--target", "chat@champion", "--now", later, "--format", "json")
    assert (answer.code, answer.json["verdict"]) == (4, "stale")


def test_edited_evidence_ends_with_6(installed: Path, run: Run) -> None:
    bad = edited(envelope_of(installed, events=40), b'"events":40', b'"events":3')
    file = write(installed / "e.json", bad)
    answer = run("decide", "--evidence", file, "--target", "chat@champion", "--format", "json")
    assert (answer.code, answer.json["decision"]) == (6, "denied")
    assert "signature_invalid" in [reason["code"] for reason in answer.json["reasons"]]
    verified = run("evidence", "verify", file)
    assert (verified.code, verified.out) == (6, "")
    assert "the payload or the signature was changed after signing" in verified.err


def test_the_bases_evidence_never_serves_the_adaptation(installed: Path, run: Run) -> None:
    adaptation = installed / "adaptation"
    adaptation.mkdir()
    (adaptation / "MLmodel").write_text("flavors: {transformers: {model_binary: model}}\n")
    (adaptation / "weights.safetensors").write_bytes(b"adapted")
    base = replace(make_form(), base=None)
    file = write(installed / "base.json", envelope_of(installed, base))
    answer = run("decide", "--evidence", file, "--form", adaptation, "--target", "chat@champion", "--format", "json")
    assert (answer.code, answer.json["decision"]) == (4, "denied")
    assert "evidence_for_other_form" in [reason["code"] for reason in answer.json["reasons"]]


def test_evidence_of_the_form_named_by_another_evidence_file(installed: Path, run: Run) -> None:
    """`--form` may be evidence that lists the form; evidence of its base is then evidence of another form."""
    base = replace(make_form("b"), base=None)
    adaptation = make_form(base=replace(BASE, digest=base.digest))
    of_base = write(installed / "base.json", envelope_of(installed, base))
    of_form = write(installed / "form.json", envelope_of(installed, adaptation))
    answer = run("decide", "--evidence", of_base, "--form", of_form, "--target", "chat@champion", "--format", "json")
    assert answer.code == 4
    assert any("is of its base" in reason["message"] for reason in answer.json["reasons"])


def test_decide_without_anything_to_decide_on_ends_with_4(installed: Path, run: Run) -> None:
    answer = run("decide", "--target", "chat@champion", "--format", "json")
    assert (answer.code, answer.json["reasons"][0]["code"]) == (4, "form_unknown")


def test_decide_on_a_broken_artifact_ends_with_4(installed: Path, run: Run) -> None:
    (installed / "empty").mkdir()
    answer = run("decide", "--form", "empty", "--target", "chat@champion", "--format", "json")
    assert (answer.code, answer.json["reasons"][0]["code"]) == (4, "artifact_missing")


# -- evidence ---------------------------------------------------------------------------------------------------------


def test_evidence_verifies_under_the_policy_sets_signers_or_a_key(installed: Path, run: Run) -> None:
    file = write(installed / "e.json", envelope_of(installed))
    answer = run("evidence", "verify", file, "--format", "json")
    assert (answer.code, answer.json["signers"], answer.json["form"]) == (0, ["worker"], make_form().digest)
    key = installed / "policies" / "signers" / "worker.pem"
    assert run("evidence", "verify", file, "--key", key).code == 0
    generate_key(installed / "mallory.key", installed / "mallory.pem")
    answer = run("evidence", "verify", file, "--key", installed / "mallory.pem")
    assert answer.code == 6
    assert "signed by a key that is not trusted here" in answer.err


def test_a_file_that_is_no_evidence_ends_with_6_when_verified_and_2_when_shown(installed: Path, run: Run) -> None:
    file = write(installed / "e.json", b"{}")
    assert run("evidence", "verify", file).code == 6
    assert run("evidence", "show", file).code == 2
    good = write(installed / "good.json", envelope_of(installed))
    assert run("evidence", "show", good).json["predicate"]


# -- ledger: audit, status, report ------------------------------------------------------------------------------------


def ask(ledger: Ledger, form: FormManifest, *, again: bool = False) -> str:
    with ledger.transaction() as connection:
        return ledger.request_assessment(
            connection,
            workspace="default",
            form_digest=form.digest,
            battery="general@1",
            battery_digest="sha256:b",
            model="chat",
            version=1,
            again=again,
        ).id


def test_the_audit_chain_verifies_and_an_edited_one_ends_with_6(installed: Path, run: Run) -> None:
    ledger = ledger_of(installed)
    ask(ledger, make_form())
    answer = run("audit", "verify", "--format", "json")
    assert (answer.code, answer.json["entries"]) == (0, 1)
    with ledger.transaction() as connection:
        connection.execute(text("UPDATE registry_gate_audit SET body = '{}'"))
    answer = run("audit", "verify")
    assert (answer.code, answer.out) == (6, "")
    assert answer.err == "registry-gate: audit chain: entry 1 was changed after it was written\n"


def test_an_empty_audit_list_ends_with_5(installed: Path, run: Run) -> None:
    answer = run("audit", "list", "--format", "json")
    assert (answer.code, answer.json) == (5, [])


def test_status_follows_a_request_to_its_end(installed: Path, run: Run) -> None:
    ledger = ledger_of(installed)
    request = ask(ledger, make_form())
    answer = run("status", request)
    assert answer.code == 4
    assert f"request {request}  queued  models:/chat/1  general@1" in answer.out
    assert "no worker is alive (last seen: never): start one with `registry-gate worker`" in answer.err
    answer = run("status", request, "--follow", "--timeout", "0")
    assert answer.code == 4
    assert "follow it with" in answer.err
    ledger.claim("w", timedelta(minutes=1))
    ledger.fail(request, "w", "no_weights", "expected weights, got none")
    answer = run("status", request)
    assert answer.code == 4
    assert "failed (no_weights): expected weights, got none" in answer.out
    assert ask(ledger, make_form(), again=True) == request
    ledger.claim("w", timedelta(minutes=1))
    ledger.finish(request, "w", "sha256:e")
    answer = run("status", request, "--format", "json")
    assert (answer.code, answer.json["state"]) == (0, "done")
    assert run("status", "models:/chat/1", "--format", "json").json["requests"][0]["id"] == request


@pytest.mark.parametrize("subject", ["models:/chat/9", "no-such-request"])
def test_status_of_what_the_ledger_does_not_know_ends_with_5(subject: str, installed: Path, run: Run) -> None:
    answer = run("status", subject)
    assert answer.code == 5
    assert subject in answer.err


def test_a_report_is_written_from_stored_evidence(installed: Path, run: Run) -> None:
    ledger = ledger_of(installed)
    digest = file_evidence(ledger, envelope_of(installed), make_form())
    answer = run("report", digest, "-o", installed / "report.html")
    assert answer.code == 0
    page = (installed / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert digest in page
    for subject in ("models:/chat/9", "sha256:" + "0" * 64):
        answer = run("report", subject)
        assert answer.code == 4
        assert answer.err.startswith("registry-gate: expected evidence for ")


def test_a_report_of_edited_evidence_ends_with_6(installed: Path, run: Run) -> None:
    ledger = ledger_of(installed)
    digest = file_evidence(
        ledger, edited(envelope_of(installed, events=40), b'"events":40', b'"events":3'), make_form()
    )
    assert run("report", digest).code == 6


def test_a_ledger_of_another_kind_of_database_ends_with_4(
    installed: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_GATE_LEDGER_URI", "postgresql+psycopg://gate:hunter2@127.0.0.1:1/db")
    answer = run("audit", "list")
    assert answer.code == 4
    assert "expected a reachable database for the ledger" in answer.err
    assert "hunter2" not in answer.err


# -- promote and doctor, with nobody at home --------------------------------------------------------------------------


def test_an_mlflow_that_is_away_ends_with_4_and_is_named(
    installed: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://127.0.0.1:9"
    answer = run("promote", "models:/chat/1", "--alias", "champion", "--tracking-uri", uri)
    assert (answer.code, answer.out) == (4, "")
    assert answer.err == f"registry-gate: expected the MLflow server at {uri} to answer, got: Connection refused\n"
    answer = run("assess", "models:/chat/1", "--tracking-uri", uri)
    assert answer.code == 4
    assert uri in answer.err


def test_doctor_names_each_thing_that_is_wrong(installed: Path, run: Run) -> None:
    answer = run("doctor", "--tracking-uri", "http://127.0.0.1:9", "--format", "json")
    assert answer.code == 4
    assert {check["name"]: check["ok"] for check in answer.json} == {
        "settings": True,
        "policies": True,
        "ledger": True,
        "signing key": True,
        "gate key": True,
        "worker": False,
        "server": False,
        "artifacts": False,
    }


# -- the signing key of a worker --------------------------------------------------------------------------------------


def _missing(key: Path) -> None:
    key.unlink()


def _group_readable(key: Path) -> None:
    key.chmod(0o640)


def _directory(key: Path) -> None:
    key.unlink()
    key.mkdir()


def _nonsense(key: Path) -> None:
    key.write_text("no key")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_missing, "got no such file: make one with `registry-gate init`"),
        (_group_readable, "readable by its owner only (mode 0600), got mode 0640"),
        (_directory, "expected a readable signing key"),
        (_nonsense, "something that is no key"),
    ],
)
def test_doctor_says_what_is_wrong_with_a_key(
    spoil: Callable[[Path], None], sentence: str, installed: Path, run: Run
) -> None:
    spoil(installed / "keys" / "worker.key")
    answer = run("doctor", "--tracking-uri", "http://127.0.0.1:9", "--format", "json")
    (check,) = [check for check in answer.json if check["name"] == "signing key"]
    # Without a key this machine is no worker's; that is said, and is well.
    expected = "needed on the worker's machine only" if spoil is _missing else sentence
    assert check["ok"] is (spoil is _missing)
    assert expected in check["detail"]


def start_worker(directory: Path) -> Answer:
    done = subprocess.run(
        [COMMAND, "worker", "--until-idle"], cwd=directory, capture_output=True, text=True, check=False
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def test_a_worker_whose_key_others_may_read_does_not_start(installed: Path) -> None:
    _group_readable(installed / "keys" / "worker.key")
    answer = start_worker(installed)
    assert answer.code == 2
    assert "readable by its owner only (mode 0600), got mode 0640: run `chmod 600 " in answer.err


def test_a_worker_whose_key_no_policy_lists_does_not_start(installed: Path) -> None:
    (installed / "keys" / "worker.key").unlink()
    generate_key(installed / "keys" / "worker.key", installed / "other.pem")
    answer = start_worker(installed)
    assert answer.code == 2
    assert "expected a signing key whose public half the policy set lists under signers, got another one" in answer.err
