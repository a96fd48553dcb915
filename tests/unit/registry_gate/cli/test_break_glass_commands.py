"""`approval` and `break-glass` as people type them, and where the rest of the program says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from answers import Answer, Run
from gate_builders import Forms, make_form, promote
from test_waiver_commands import decide
from test_waiver_commands import granting as granting

from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.evidence.keys import GateKey
from registry_gate.gate import Gate
from registry_gate.ledger import Ledger
from registry_gate.ledger.store import utc_now
from registry_gate.policy.source import PolicySource


@pytest.fixture
def place(granting: Path) -> Path:
    """Kim may open break-glass, and the general policy asks for an approval by dana or kim."""
    path = granting / "policies" / "policy-set.yaml"
    opens = "  breakGlass: {longest: 4h, roles: [{name: commander, people: [kim]}]}\n"
    path.write_text(path.read_text(encoding="utf-8") + opens, encoding="utf-8")
    path = granting / "policies" / "general.yaml"
    asks = "  approvals: {count: 1, from: [dana, kim]}\n  allowNotes: true\n"
    path.write_text(path.read_text(encoding="utf-8").replace("  allowNotes: true\n", asks), encoding="utf-8")
    return granting


def open_it(run: Run, **changes: str) -> Answer:
    said = {"role": "commander", "by": "kim", "ttl": "30m", "reason": "down", "ticket": "INC-7", "key": "kim.key"}
    return run("break-glass", "open", *[part for k, v in {**said, **changes}.items() for part in (f"--{k}", v)])


def approve(run: Run, **changes: str) -> Answer:
    said = {"policy": "general", "approver": "dana", "requester": "alex", "reason": "read", "key": "dana.key"}
    options = {**said, "form": make_form().digest, **changes}
    return run("approval", "grant", "models:/chat/1", *[part for k, v in options.items() for part in (f"--{k}", v)])


def gate_of(place: Path) -> Gate:
    return Gate(
        ledger=Ledger.connect(f"sqlite:///{place / 'mlflow.db'}"),
        policies=PolicySource(place / "policies", (PACKAGE_BATTERIES,)),
        forms=Forms(make_form()),
        key=GateKey(place / "keys" / "gate.key"),
        clock=utc_now,
    )


def test_an_approval_is_given_listed_exported_used_and_taken_back(place: Path, run: Run) -> None:
    assert "approvals_missing" in {reason["code"] for reason in decide(run).json["reasons"]}
    assert approve(run).code == 0
    (row,) = run("approval", "list", "--format", "json").json
    assert row["counts"] and row["approver"] == "dana"
    assert run("approval", "export", row["id"], "-o", "a.dsse.json").code == 0
    said = decide(run, "--approval", "a.dsse.json").json
    assert said["approvals"] == [row["id"]] and said["decision"] == "denied"
    said = decide(run, "--approval", "a.dsse.json", "--requester", "Dana").json
    assert "approvals" not in said
    revoked = run("approval", "revoke", row["id"], "--reason", "r", "--by", "kim", "--key", "kim.key")
    assert revoked.code == 0 and "revoked" in revoked.out
    listed = run("approval", "list")
    assert "it was revoked: by kim" in listed.out and "0 of 1 count today" in listed.out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": "nope"}, "expected the name of a policy"),
        ({"policy": "medical"}, "policy medical asks for no approvals"),
        ({"approver": "eve"}, "eve is not among those who may approve (dana, kim)"),
        ({"requester": "dana"}, "approved what they asked for themselves"),
        ({"key": "kim.key"}, "expected the private key of dana, got another one"),
        ({"reason": " "}, "--reason: expected words, got none"),
    ],
)
def test_an_approval_that_would_not_count_is_not_signed(
    changes: dict[str, str], said: str, place: Path, run: Run
) -> None:
    answer = approve(run, **changes)
    assert answer.code == 2 and said in answer.err
    assert run("approval", "list").code == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"by": "dana", "key": "dana.key"}, "dana may not open it as commander (who may: commander: kim)"),
        ({"role": "chief"}, "kim may not open it as chief"),
        ({"ttl": "5h"}, "it lasts 5 hours, and the policy set allows 4h"),
        ({"ttl": "0m"}, "--ttl: expected a time such as 30m, 2h or 1d, got '0m'"),
        ({"ttl": "soon"}, "got 'soon'"),
        ({"key": "dana.key"}, "expected the private key of kim, got another one"),
        ({"ticket": " "}, "--ticket: expected words, got none"),
    ],
)
def test_break_glass_that_would_not_count_is_not_signed(
    changes: dict[str, str], said: str, place: Path, run: Run
) -> None:
    answer = open_it(run, **changes)
    assert answer.code == 2 and said in answer.err
    assert run("break-glass", "list").code == 5


def test_break_glass_is_opened_announced_used_and_closed(place: Path, run: Run) -> None:
    opened = open_it(run)
    assert opened.code == 0 and "is open until" in opened.out
    (row,) = run("break-glass", "list", "--format", "json").json
    assert row["counts"] and row["uses"] == []
    # Everywhere where somebody looks.
    assert f"BREAK-GLASS {row['id']} is open until" in run("audit", "list").err
    assert "BREAK-GLASS" in run("status", "models:/chat/1").err
    assert "OPEN until" in run("doctor").out
    page = run("report", decide(run).json["evidence"][0]).out
    assert 'class="alarm"' in page and "BREAK-GLASS is open until" in page
    assert run("break-glass", "export", row["id"], "-o", "b.dsse.json").code == 0
    answer = decide(run, "--break-glass", "b.dsse.json")
    assert answer.code == 0 and answer.json["break_glass"] == row["id"]
    # A use, as the hook records it.
    gate = gate_of(place)
    review = gate.review(promote())
    with gate.ledger.transaction() as connection:
        (decision,) = gate.record_allowed(connection, review, {})
    listed = run("audit", "list")
    assert "1 of 1 allowed decisions were let through by break-glass alone" in listed.err
    assert f"remains promoted because of break-glass {row['id']}: chat@champion -> version 1" in listed.err
    assert run("audit", "list", "--format", "json").json[0]["remains"] is True
    closed = run("break-glass", "close", row["id"], "--reason", "repaired", "--by", "dana", "--key", "dana.key")
    assert closed.code == 0 and f"decision {decision}" in closed.out
    listed = run("break-glass", "list")
    assert (
        "it was closed: by dana" in listed.out and "remains promoted" in listed.out and "0 of 1 are open" in listed.out
    )
    assert decide(run, "--break-glass", "b.dsse.json").code == 0  # a file knows of no closing
    assert not gate.review(promote()).allowed
    assert "1 names remain promoted" in run("doctor").out
    again = run("break-glass", "close", row["id"], "--reason", "r", "--by", "dana", "--key", "dana.key")
    assert again.code == 4 and "closed already" in again.err


def test_policies_say_who_may(place: Path, run: Run) -> None:
    said = run("policy", "explain").out
    assert "In an emergency, kim as commander may override every policy for at most 4 hours" in said
    assert "Then 1 of dana and kim must approve" in said
    path = place / "policies" / "policy-set.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("people: [kim]", "people: [kmi]"), encoding="utf-8")
    answer = run("policy", "lint", "policies")
    assert answer.code == 2 and "expected somebody under 'people' (dana, kim), got 'kmi'" in answer.out + answer.err
    path.write_text(text.replace("longest: 4h", "longest: 3d"), encoding="utf-8")
    assert "a second way in, not an emergency" in "".join(
        vars(run("policy", "lint", "policies")).get(k) for k in ("out", "err")
    )
