"""`waiver key, grant, list, export, revoke`, and what `decide`, `explain` and `report` make of them."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from answers import Answer, Run
from gate_builders import file_evidence, make_assessment, make_envelope, make_form

from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.evidence.keys import load_signer
from registry_gate.ledger import Ledger
from registry_gate.policy.document import load_policy_set

NOW = datetime.now(UTC)
SOON = (NOW + timedelta(days=3)).isoformat()
WAIVERS = "  waivers: {approvers: [dana], longest: 30d, budget: 1}\n  allowNotes: true\n"


@pytest.fixture
def granting(installed: Path, run: Run) -> Path:
    """An installation whose general policy lets dana waive, with evidence of a form that breaks every rule."""
    for name in ("dana", "kim"):
        assert run("waiver", "key", name).code == 0
    policies = installed / "policies"
    path = policies / "policy-set.yaml"
    people = ", ".join(f"{{name: {name}, publicKey: people/{name}.pem}}" for name in ("dana", "kim"))
    path.write_text(path.read_text(encoding="utf-8") + f"  people: [{people}]\n", encoding="utf-8")
    path = policies / "general.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("  allowNotes: true\n", WAIVERS), encoding="utf-8")
    policy_set = load_policy_set(policies, (PACKAGE_BATTERIES,))
    form = make_form()
    assessment = make_assessment(policy_set, form, events=60, at=NOW - timedelta(days=3))
    envelope = make_envelope(assessment, form, load_signer(installed / "keys" / "worker.key"))
    (installed / "bad.dsse.json").write_bytes(envelope)
    file_evidence(Ledger.connect(f"sqlite:///{installed / 'mlflow.db'}"), envelope, form)
    return installed


def grant(run: Run, **changes: str) -> Answer:
    options = {
        "policy": "general",
        "reason": "pilot",
        "ticket": "RISK-1",
        "approver": "dana",
        "requester": "alex",
        "expires": SOON,
        "form": make_form().digest,
        "key": "dana.key",
        **changes,
    }
    named = [part for key, value in options.items() for part in (f"--{key}", value)]
    rules = [] if "rule" in changes else ["--rule", "GEN-1", "--rule", "GEN-2"]
    return run("waiver", "grant", "models:/chat/1", *rules, *named, "--format", "json")


def decide(run: Run, *more: str) -> Answer:
    return run("decide", "--evidence", "bad.dsse.json", "--target", "chat@champion", "--format", "json", *more)


def test_a_waiver_is_granted_listed_exported_used_and_taken_back(granting: Path, run: Run) -> None:
    assert decide(run).code == 3
    waiver = grant(run).json
    assert waiver["counts"] and waiver["rules"] == ["GEN-1", "GEN-2"]
    assert run("waiver", "export", waiver["id"], "-o", "w.dsse.json").code == 0
    answer = decide(run, "--waiver", "w.dsse.json")
    assert answer.code == 0
    assert answer.json["verdict"] == "waived" and answer.json["waivers"] == [waiver["id"]]
    assert decide(run, "--waiver", "w.dsse.json", "--now", (NOW + timedelta(days=4)).isoformat()).code == 3
    assert decide(run, "--waiver", "w.dsse.json", "--workspace", "other").code == 3
    assert "1 of 1 count today" in run("waiver", "list").out
    assert run("waiver", "revoke", waiver["id"], "--reason", "over", "--by", "kim", "--key", "kim.key").code == 0
    (row,) = run("waiver", "list", "--format", "json").json
    assert not row["counts"] and "it was revoked: by kim at" in row["fault"]
    again = run("waiver", "revoke", waiver["id"], "--reason", "over", "--by", "kim", "--key", "kim.key")
    assert again.code == 4 and "revoked already" in again.err


def test_a_report_shows_the_waiver(granting: Path, run: Run) -> None:
    waiver = grant(run).json
    digest = json.loads(decide(run).out)["evidence"][0]
    page = run("report", digest).out
    assert waiver["id"] in page and "waived by dana" in page


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"policy": "nope"}, 2, "expected the name of a policy"),
        ({"rule": "GEN-9"}, 2, "expected a rule of policy general (GEN-1, GEN-2"),
        ({"requester": "Dana"}, 2, "approved what they asked for themselves"),
        ({"approver": "kim", "key": "kim.key"}, 2, "kim is not among those who may approve"),
        ({"approver": "eve"}, 2, "eve is not among those who may approve"),
        ({"key": "kim.key"}, 2, "expected the private key of dana, got another one"),
        ({"expires": "2026-13-01"}, 2, "expected a date such as"),
        ({"expires": "2099-01-01T00:00:00"}, 2, "with its zone"),
        ({"expires": "2099-01-01T00:00:00Z"}, 2, "the policy allows 30d"),
        ({"expires": "2020-01-01T00:00:00Z"}, 2, "it expired at"),
        ({"reason": " "}, 2, "--reason: expected words, got none"),
        ({"ticket": ""}, 2, "--ticket: expected words, got none"),
        ({"policy": "medical", "rule": "MED-1"}, 2, "policy medical grants no waivers"),
    ],
)
def test_what_the_gate_would_not_count_is_not_signed(
    changes: dict[str, str], code: int, said: str, granting: Path, run: Run
) -> None:
    answer = grant(run, **changes)
    assert answer.code == code and said in answer.err
    assert run("waiver", "list").code == 5


def test_a_budget_that_is_used_up_refuses_the_next(granting: Path, run: Run) -> None:
    assert grant(run).code == 0
    answer = grant(run, form="sha256:" + "2" * 64)
    assert answer.code == 2 and "use up the budget of 1" in answer.err


def test_a_version_that_nobody_assessed_has_no_form_to_waive(granting: Path, run: Run) -> None:
    answer = run(
        *("waiver", "grant", "models:/chat/1", "--policy", "general", "--rule", "GEN-1", "--reason", "r"),
        *("--ticket", "t", "--approver", "dana", "--requester", "alex", "--expires", SOON, "--key", "dana.key"),
    )
    assert answer.code == 4 and "expected evidence of models:/chat/1" in answer.err


def test_an_unknown_waiver_is_said_to_be_unknown(granting: Path, run: Run) -> None:
    assert "waiver list" in run("waiver", "export", "nope").err
    assert run("waiver", "revoke", "nope", "--reason", "r", "--by", "kim", "--key", "kim.key").code == 4


def test_an_edited_waiver_file_counts_nothing(granting: Path, run: Run) -> None:
    assert run("waiver", "export", grant(run).json["id"], "-o", "w.dsse.json").code == 0
    assert run("waiver", "export", "nope", "-o", "w.dsse.json").code == 4
    data = json.loads((granting / "w.dsse.json").read_text(encoding="utf-8"))
    data["signatures"][0]["sig"] = "A" * 88
    (granting / "w.dsse.json").write_text(json.dumps(data), encoding="utf-8")
    answer = decide(run, "--waiver", "w.dsse.json")
    assert answer.code == 3
    assert any(reason["code"] == "waiver_not_counted" for reason in answer.json["reasons"])


def test_keys_are_private_and_never_overwritten(granting: Path, run: Run) -> None:
    assert stat.S_IMODE((granting / "dana.key").stat().st_mode) == 0o600
    assert run("waiver", "key", "dana").code == 2
    assert run("waiver", "key", "../eve").code == 2


def test_lint_wants_approvers_that_exist_and_waivers_that_end(granting: Path, run: Run) -> None:
    path = granting / "policies" / "general.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("approvers: [dana]", "approvers: [danna]"), encoding="utf-8")
    answer = run("policy", "lint")
    assert answer.code == 2
    assert (
        "expected somebody under 'people' of policy-set.yaml (dana, kim), got 'danna'; did you mean 'dana'?"
        in answer.out
    )
    path.write_text(text.replace("longest: 30d", "longest: 365d"), encoding="utf-8")
    assert "outlive what they were granted for" in run("policy", "lint").out
    path.write_text(text.replace("budget: 1", "budget: 0"), encoding="utf-8")
    assert run("policy", "lint").code == 2


def test_two_people_with_one_key_are_refused(granting: Path, run: Run) -> None:
    people = granting / "policies" / "people"
    (people / "kim.pem").write_bytes((people / "dana.pem").read_bytes())
    answer = run("policy", "lint")
    assert answer.code == 2 and "expected a key that is nobody else's" in answer.out
