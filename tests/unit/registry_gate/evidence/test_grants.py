"""What people sign: only the person who is named can have signed it, and a changed byte is no grant."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry_gate.decision import Waiver
from registry_gate.errors import EvidenceError, IntegrityError
from registry_gate.evidence.envelope import seal
from registry_gate.evidence.grants import (
    Revocation,
    sign_revocation,
    sign_waiver,
    verify_revocation,
    verify_waiver,
)
from registry_gate.evidence.keys import DecisionSigner, generate_key, load_decision_signer
from registry_gate.form import canonical_json

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
WAIVER = Waiver(
    id="6f1c1a2e-0000-4000-8000-000000000001",
    form_digest="sha256:" + "a" * 64,
    policy="medical",
    rules=("MED-1", "MED-2"),
    approver="dana",
    requester="alex",
    reason="pilot",
    ticket="RISK-1",
    granted_at=NOW,
    expires_at=NOW + timedelta(days=3),
)
REVOCATION = Revocation(revokes=WAIVER.id, person="kim", reason="over", revoked_at=NOW)


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DecisionSigner]:
    directory: Path = tmp_path_factory.mktemp("people")
    found = {}
    for name in ("dana", "kim"):
        generate_key(directory / f"{name}.key", directory / f"{name}.pem")
        found[name] = load_decision_signer(directory / f"{name}.key")
    return found


@pytest.fixture(scope="module")
def people(signers: dict[str, DecisionSigner]) -> dict[str, bytes]:
    return {name: signer.public_pem for name, signer in signers.items()}


def test_what_was_granted_reads_back(signers: dict[str, DecisionSigner], people: dict[str, bytes]) -> None:
    assert verify_waiver(sign_waiver(WAIVER, "default", signers["dana"]), people, "default") == WAIVER
    envelope = sign_revocation(REVOCATION, WAIVER.form_digest, signers["kim"])
    assert verify_revocation(envelope, people) == REVOCATION


def test_only_the_person_who_is_named_can_have_signed(
    signers: dict[str, DecisionSigner], people: dict[str, bytes]
) -> None:
    forged = sign_waiver(WAIVER, "default", signers["kim"])
    with pytest.raises(IntegrityError, match=r"expected the signature of dana, whom it names, got that of kim"):
        verify_waiver(forged, people, "default")
    with pytest.raises(IntegrityError, match="expected the signature of kim"):
        verify_revocation(sign_revocation(REVOCATION, WAIVER.form_digest, signers["dana"]), people)
    with pytest.raises(IntegrityError):
        verify_waiver(forged, {"dana": people["dana"]}, "default")
    with pytest.raises(IntegrityError, match="got none"):
        verify_waiver(forged, {}, "default")


def test_a_waiver_is_of_one_workspace(signers: dict[str, DecisionSigner], people: dict[str, bytes]) -> None:
    with pytest.raises(IntegrityError, match="expected a waiver of workspace b, got one of a"):
        verify_waiver(sign_waiver(WAIVER, "a", signers["dana"]), people, "b")


def test_a_changed_byte_is_no_waiver(signers: dict[str, DecisionSigner], people: dict[str, bytes]) -> None:
    wire = json.loads(sign_waiver(WAIVER, "default", signers["dana"]))
    payload = base64.b64decode(wire["payload"]).replace(b"MED-1", b"MED-9")
    wire["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(IntegrityError, match="changed after signing"):
        verify_waiver(canonical_json(wire), people, "default")


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["predicate"].update(limit=1), "limit"),
        (lambda p: p["predicate"].pop("ticket"), "ticket"),
        (lambda p: p["predicate"].update(rules=[]), "rules"),
        (lambda p: p["predicate"].update(expires_at="2026-11-26T12:00:00"), "moment with zone"),
        (lambda p: p["predicate"].update(granted_at="soon"), "moment with zone"),
        (lambda p: p.update(predicateType="https://registry-gate.dev/revocation/v1"), "predicateType"),
        (lambda p: p["subject"].append(p["subject"][0]), "subject"),
    ],
)
def test_what_is_signed_but_malformed_grants_nothing(
    change: Change, said: str, signers: dict[str, DecisionSigner], people: dict[str, bytes]
) -> None:
    wire = json.loads(sign_waiver(WAIVER, "default", signers["dana"]))
    payload = json.loads(base64.b64decode(wire["payload"]))
    change(payload)
    with pytest.raises(EvidenceError, match=said):
        verify_waiver(seal(canonical_json(payload), signers["dana"]), people, "default")


def test_nothing_is_signed_that_would_be_refused(signers: dict[str, DecisionSigner]) -> None:
    for broken in (replace(WAIVER, id="w1"), replace(WAIVER, rules=()), replace(WAIVER, reason="")):
        with pytest.raises(EvidenceError):
            sign_waiver(broken, "default", signers["dana"])
