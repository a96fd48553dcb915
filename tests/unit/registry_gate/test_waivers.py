"""From the ledger to the decision: what somebody writes into the database grants nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_builders import make_installed_gate, promote
from sqlalchemy import text

from registry_gate.decision import RefusedGrant, Verdict, Waiver
from registry_gate.evidence.grants import Revocation, sign_revocation, sign_waiver
from registry_gate.evidence.keys import generate_key, load_decision_signer
from registry_gate.gate import Review
from registry_gate.grants import read_grants
from registry_gate.ledger import StoredGrant

WAIVERS = """\
  waivers:
    approvers: [dana]
    longest: 30d
    budget: 2
  allowNotes: true
"""


class Place:
    """A gate whose general policy lets dana waive, and a form that breaks every rule."""

    EVENTS = 60

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gate, self.form, file = make_installed_gate(directory)
        policies = directory / "policies"
        (policies / "people").mkdir()
        for name in ("dana", "kim"):
            generate_key(directory / f"{name}.key", policies / "people" / f"{name}.pem")
        path = policies / "policy-set.yaml"
        people = "".join(f"\n    - {{name: {name}, publicKey: people/{name}.pem}}" for name in ("dana", "kim"))
        path.write_text(path.read_text(encoding="utf-8") + f"  people:{people}\n", encoding="utf-8")
        path = policies / "general.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace("  allowNotes: true\n", WAIVERS), encoding="utf-8")
        file(events=self.EVENTS)

    def review(self) -> Review:
        return self.gate.review(promote())

    def waiver(self, **changes: Any) -> Waiver:
        now = self.gate._clock()
        values: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "form_digest": self.form.digest,
            "policy": "general",
            "rules": ("GEN-1", "GEN-2"),
            "approver": "dana",
            "requester": "alex",
            "reason": "pilot",
            "ticket": "RISK-1",
            "granted_at": now,
            "expires_at": now + timedelta(days=3),
        }
        return Waiver(**{**values, **changes})

    def file(self, waiver: Waiver, signer: str = "dana", **row: Any) -> None:
        key = load_decision_signer(self.directory / f"{signer}.key")
        values: dict[str, Any] = {
            "id": waiver.id,
            "kind": "waiver",
            "workspace": "default",
            "form_digest": waiver.form_digest,
            "policy": waiver.policy,
            "envelope": sign_waiver(waiver, "default", key),
        }
        self.gate.ledger.store_grant(StoredGrant(**{**values, **row}))

    def revoke(self, waiver: Waiver, signer: str = "kim", envelope: bytes | None = None) -> None:
        key = load_decision_signer(self.directory / f"{signer}.key")
        revocation = Revocation(revokes=waiver.id, person=signer, reason="over", revoked_at=self.gate._clock())
        self.gate.ledger.store_grant(
            StoredGrant(
                id=str(uuid.uuid4()),
                kind="revocation",
                workspace="default",
                form_digest=waiver.form_digest,
                policy=waiver.policy,
                revokes=waiver.id,
                envelope=envelope or sign_revocation(revocation, waiver.form_digest, key),
            )
        )

    def causes(self) -> str:
        (stored,) = self.review().decisions
        return " ".join(r.message for r in stored.decision.reasons if r.code == "waiver_not_counted")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    assert not found.review().allowed
    return found


def test_a_signed_waiver_lets_the_form_through_until_it_ends(place: Place) -> None:
    waiver = place.waiver()
    place.file(waiver)
    review = place.review()
    (stored,) = review.decisions
    assert review.allowed and review.verdict is Verdict.WAIVED
    assert stored.decision.waivers == (waiver.id,) and stored.body()["waivers"] == [waiver.id]
    assert stored.decision.valid_until == waiver.expires_at
    place.gate._clock.now = waiver.expires_at - timedelta(seconds=1)  # type: ignore[attr-defined]
    assert place.review().allowed
    place.gate._clock.now = waiver.expires_at  # type: ignore[attr-defined]
    assert not place.review().allowed and "it expired at" in place.causes()


Forgery = Callable[[Place, Waiver], None]


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda p, w: p.file(replace(w, form_digest="sha256:" + "1" * 64), form_digest=w.form_digest), ""),
        (lambda p, w: p.file(w, signer="kim"), "expected the signature of dana"),
        (lambda p, w: p.file(replace(w, approver="kim"), signer="kim"), "kim is not among those who may approve"),
        (lambda p, w: p.file(w, envelope=b'{"payload": "", "payloadType": "", "signatures": []}'), "does not count"),
        (lambda p, w: p.file(w, id=str(uuid.uuid4())), "but signed as"),
        (lambda p, w: p.file(w, workspace="other"), ""),
        (lambda p, w: p.file(replace(w, policy="medical"), policy="general"), ""),
        (lambda p, w: p.file(replace(w, requester="dana")), "approved what they asked for themselves"),
        (lambda p, w: p.file(replace(w, expires_at=w.granted_at + timedelta(days=31))), "the policy allows 30d"),
    ],
)  # fmt: skip
def test_what_nobody_granted_lets_nothing_through(forge: Forgery, said: str, place: Place) -> None:
    forge(place, place.waiver())
    assert not place.review().allowed
    assert said in place.causes()


def test_an_approver_who_left_the_list_approves_nothing_any_more(place: Place) -> None:
    place.file(place.waiver())
    assert place.review().allowed
    path = place.directory / "policies" / "general.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("approvers: [dana]", "approvers: [kim]"), encoding="utf-8")
    assert not place.review().allowed
    assert "dana is not among those who may approve (kim)" in place.causes()


def test_a_policy_without_waivers_asks_the_ledger_for_none(place: Place) -> None:
    place.file(place.waiver())
    path = place.directory / "policies" / "general.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace(WAIVERS, "  allowNotes: true\n"), encoding="utf-8")
    assert not place.review().allowed


def test_a_revoked_waiver_counts_no_more_and_a_damaged_revocation_revokes_too(place: Place) -> None:
    first, second = place.waiver(), place.waiver()
    place.file(first)
    place.file(second)
    place.revoke(first)
    (stored,) = place.review().decisions
    assert stored.decision.waivers == (second.id,)
    place.revoke(second, envelope=b"{}")
    assert not place.review().allowed
    assert "by something that does not verify" in place.causes() and "by kim at" in place.causes()


def test_a_revocation_of_another_waiver_is_told(place: Place) -> None:
    waiver, other = place.waiver(), place.waiver()
    place.file(waiver)
    key = load_decision_signer(place.directory / "kim.key")
    said = Revocation(revokes=other.id, person="kim", reason="x", revoked_at=place.gate._clock())
    place.revoke(waiver, envelope=sign_revocation(said, waiver.form_digest, key))
    assert not place.review().allowed and f"signed for {other.id}" in place.causes()


def test_the_budget_is_shared_by_all_forms(place: Place) -> None:
    now = place.gate._clock()
    for n in (1, 2):
        place.file(place.waiver(form_digest=f"sha256:{str(n) * 64}", granted_at=now - timedelta(minutes=n)))
    place.file(place.waiver())
    assert not place.review().allowed and "use up the budget of 2" in place.causes()


def test_every_grant_is_in_the_audit_chain_and_rows_are_never_trusted(place: Place) -> None:
    waiver = place.waiver()
    place.file(waiver)
    place.revoke(waiver)
    ledger = place.gate.ledger
    events = []
    ledger.verify_chain(lambda entry: events.append(entry.event))
    assert events[-2:] == ["waiver", "revocation"]
    with ledger.engine.begin() as connection:
        connection.execute(text("UPDATE registry_gate_grant SET envelope = '{}' WHERE kind = 'waiver'"))
    ((_, read),) = read_grants(ledger.grants(), place.gate.policies.current().people)
    assert isinstance(read, RefusedGrant)
