"""What the gate signs, what it refuses to sign, and what it does without a key."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from gate_builders import NOW, Clock, Forms, alias, make_form, make_installed_gate, make_version, promote
from sqlalchemy import update

from registry_gate.decision import Decision, Verdict
from registry_gate.errors import IntegrityError
from registry_gate.evidence.decisions import SignedDecision, verify_decision
from registry_gate.evidence.keys import gate_public_keys, generate_key, load_public_key
from registry_gate.gate import Review
from registry_gate.ledger import RecordedDecision
from registry_gate.ledger.tables import DECISION
from registry_gate.promotion import ModelVersionRef, Target


class House:
    """A gate, its key file and its ledger."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gate, self.form, self.sign = make_installed_gate(directory)
        assert isinstance(self.gate.forms, Forms)
        assert isinstance(self.gate.ledger.clock, Clock)
        self.forms, self.clock, self.ledger = self.gate.forms, self.gate.ledger.clock, self.gate.ledger
        self.key = directory / "keys" / "gate.key"
        self.keys = gate_public_keys(self.key)

    def review(self, *moves: tuple[Target, ModelVersionRef]) -> Review:
        return self.gate.review(promote(*moves))

    def decide(self, *moves: tuple[Target, ModelVersionRef]) -> Decision:
        (stored,) = self.review(*moves).decisions
        return stored.decision

    def allow(self, *moves: tuple[Target, ModelVersionRef]) -> RecordedDecision:
        review = self.review(*moves)
        assert review.allowed, review.decisions
        with self.ledger.transaction() as connection:
            (decision,) = self.gate.record_allowed(connection, review, {})
        found = self.ledger.decision(decision)
        assert found is not None
        return found

    def signed(self, recorded: RecordedDecision) -> SignedDecision:
        assert recorded.envelope is not None
        return verify_decision(recorded.envelope, self.keys)

    def expire(self) -> None:
        self.clock.forward(days=1000)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "gate")


def codes(decision: Decision, *, blocking: bool = True) -> list[str]:
    return [reason.code for reason in decision.reasons if reason.blocking is blocking]


def test_an_allowed_decision_is_signed_and_says_what_was_allowed(house: House) -> None:
    evidence = house.sign()
    recorded = house.allow()
    signed = house.signed(recorded)
    assert signed.target == alias()
    assert (signed.version, signed.created_ms, signed.location) == (1, 1001, "/artifacts/chat/1")
    assert (signed.form, signed.base, signed.evidence) == (house.form.digest, house.form.base, (evidence,))
    assert signed.policies == (("general", house.gate.policies.current().policies["general"].digest),)
    assert signed.policy_set == house.gate.policies.current().digest
    assert (signed.actor["name"], signed.decided_at) == ("ana", recorded.decided_at)
    assert signed.body == json.loads(recorded.body)
    assert not signed.rollback


def test_it_holds_until_its_evidence_is_too_old(house: House) -> None:
    house.sign(at=NOW - timedelta(days=3))
    max_age = house.gate.policies.current().policies["general"].spec.evidence.max_age_delta
    assert house.signed(house.allow()).valid_until == NOW - timedelta(days=3) + max_age


def test_a_denial_is_not_signed(house: House) -> None:
    review = house.review()
    house.gate.record_denied(review)
    (found,) = house.ledger.decisions()
    recorded = house.ledger.decision(found["id"])
    assert recorded is not None
    assert recorded.envelope is None


def test_what_no_policy_governs_is_not_signed_and_needs_no_key(house: House) -> None:
    house.key.unlink()
    recorded = house.allow((alias("candidate"), make_version()))
    assert recorded.envelope is None
    assert '"code":"ungoverned"' in recorded.body


def test_without_a_key_a_promotion_is_denied_with_the_way_to_make_one(house: House) -> None:
    house.sign()
    house.key.unlink()
    decision = house.decide()
    assert codes(decision) == ["gate_key_missing"]
    assert decision.verdict is Verdict.INVALID
    assert decision.valid_until is None
    assert f"registry-gate init --gate-key {house.key}" in decision.reasons[0].message


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda key: key.chmod(0o644), "expected signing key .* to be readable by its owner only"),
        (lambda key: key.write_text("no key"), "got something that is no key"),
        (lambda key: key.write_bytes(key.with_suffix(".pem").read_bytes()), "got a public key"),
        (lambda key: (key.unlink(), key.mkdir()), "expected a readable signing key"),
    ],
    ids=["mode", "rubbish", "public", "directory"],
)
def test_a_key_that_cannot_be_used_denies_and_says_why(house: House, spoil, words) -> None:
    house.sign()
    assert house.decide().allowed  # and the good key was seen
    spoil(house.key)
    decision = house.decide()
    assert codes(decision) == ["gate_key_unreadable"]
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(decision.reasons[0].message)


def test_a_key_that_appears_later_or_is_replaced_counts_at_once(house: House) -> None:
    house.sign()
    pem = house.key.read_bytes()
    house.key.unlink()
    assert not house.decide().allowed
    house.key.touch(mode=0o600)
    house.key.write_bytes(pem)
    assert house.decide().allowed
    first = house.signed(house.allow())
    house.key.rename(house.key.with_name("old.key"))
    house.key.with_suffix(".pem").rename(house.key.with_name("gate-2025.pem"))
    generate_key(house.key, house.key.with_suffix(".pem"))
    house.keys = gate_public_keys(house.key)
    second = house.signed(house.allow())
    assert first.key_id != second.key_id
    assert set(house.keys) == {"gate", "gate-2025"}


def test_rollback_works_without_a_key_and_says_that_it_is_unsigned(house: House) -> None:
    house.sign()
    house.allow()
    house.key.unlink()
    recorded = house.allow()
    assert recorded.envelope is None
    body = json.loads(recorded.body)
    assert next(reason["code"] for reason in body["reasons"]) == "rollback"
    assert {"gate_key_missing", "unsigned"} <= {reason["code"] for reason in body["reasons"]}
    assert body["verdict"] == "pass_with_notes"
    # The decision before, which is signed, is still there to be verified.
    grounds = house.ledger.signed_before(alias(), house.form.digest)
    assert grounds is not None
    assert house.signed(grounds).form == house.form.digest


def test_a_rollback_is_signed_and_ends_when_the_decision_it_rests_on_does(house: House) -> None:
    house.sign()
    first = house.signed(house.allow())
    house.expire()
    recorded = house.allow((alias(), make_version(2)))
    signed = house.signed(recorded)
    assert signed.rollback
    assert (signed.version, signed.valid_until) == (2, first.valid_until)


def test_a_row_that_somebody_wrote_never_becomes_a_signature(house: House) -> None:
    """An allowed decision forged with SQL is ground for a rollback as before, but not for a signature."""
    house.sign()
    genuine = house.allow()
    bad = make_form("c")
    body = json.loads(genuine.body)
    body["form"] = bad.digest
    with house.ledger.transaction() as connection:
        connection.execute(update(DECISION).values(form_digest=bad.digest, body=json.dumps(body)))
    house.forms.default = bad
    recorded = house.allow()
    assert recorded.envelope is None
    assert "the signature of decision" in recorded.body
    with house.ledger.transaction() as connection:
        connection.execute(update(DECISION).values(envelope=None))
    recorded = house.allow()
    assert recorded.envelope is None
    assert "no earlier decision for it is signed" in recorded.body


def test_a_decision_of_another_gate_is_no_ground_for_a_signature(house: House) -> None:
    house.sign()
    house.allow()
    for path in (house.key, house.key.with_suffix(".pem")):
        path.unlink()
    generate_key(house.key, house.key.with_suffix(".pem"))
    house.expire()
    recorded = house.allow()
    assert recorded.envelope is None
    assert "signed by a key that is not trusted here" in recorded.body


def test_every_move_of_a_call_is_signed_for_itself(house: House) -> None:
    house.sign()
    review = house.review(*((alias(name), make_version()) for name in ("a", "b")))
    assert [verify_decision(s.envelope or b"", house.keys).target.name for s in review.decisions] == ["a", "b"]


def test_no_body_that_differs_from_what_was_signed_passes_for_it(house: House) -> None:
    house.sign()
    recorded = house.allow()
    signed = house.signed(recorded)
    assert replace(signed, form="sha256:" + "0" * 64).body == json.loads(recorded.body)
    envelope = json.loads(recorded.envelope or b"")
    envelope["payload"] = envelope["payload"][:-8] + "AAAAAAA="
    with pytest.raises(IntegrityError):
        verify_decision(json.dumps(envelope).encode(), house.keys)


def test_neither_key_signs_for_the_other(house: House) -> None:
    house.sign()
    recorded = house.allow()
    worker = load_public_key(house.directory / "policies" / "signers" / "worker.pem")
    with pytest.raises(IntegrityError, match="signed by a key that is not trusted here"):
        verify_decision(recorded.envelope or b"", {"worker": worker})
