"""Signed decisions as bytes: what verifies, what does not, and that old ones verify for good."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from registry_gate.errors import ConfigError, EvidenceError, IntegrityError
from registry_gate.evidence import envelope as envelopes
from registry_gate.evidence.decisions import sign_decision, verify_decision
from registry_gate.evidence.keys import (
    DecisionSigner,
    GateKey,
    gate_public_keys,
    generate_key,
    load_decision_signer,
    load_signer,
)
from registry_gate.form import canonical_json

GOLDEN = Path(__file__).parents[3] / "golden" / "decisions"


@pytest.fixture
def signer(tmp_path: Path) -> DecisionSigner:
    generate_key(tmp_path / "gate.key", tmp_path / "gate.pem")
    return load_decision_signer(tmp_path / "gate.key")


def golden_body() -> dict[str, Any]:
    return json.loads((GOLDEN / "decision-v1" / "expected.json").read_text())["body"]


def signed(signer: DecisionSigner, **changes: Any) -> bytes:
    return sign_decision(
        {**golden_body(), **changes}, decided_at="2026-11-23T12:00:00.000000Z", base=None, signer=signer
    )


@pytest.mark.parametrize("directory", sorted(p for p in GOLDEN.iterdir() if p.is_dir()), ids=lambda p: p.name)
def test_every_decision_that_was_ever_signed_verifies(directory: Path) -> None:
    expected = json.loads((directory / "expected.json").read_text())
    found = verify_decision(
        (directory / "envelope.dsse.json").read_bytes(), {"gate": (directory / "gate.pem").read_bytes()}
    )
    assert (found.digest, found.id, found.form) == (expected["digest"], expected["id"], expected["form"])
    assert str(found.target) == expected["target"]
    assert found.valid_until is not None
    assert found.valid_until.isoformat() == expected["valid_until"]
    assert found.body == expected["body"]


def test_there_is_a_golden_decision() -> None:
    assert [p.name for p in GOLDEN.iterdir() if p.is_dir()] == ["decision-v1"]


def test_other_tools_verify_it_too(signer: DecisionSigner, tmp_path: Path) -> None:
    envelope = Envelope.from_dict(json.loads(signed(signer)))
    generate_key(tmp_path / "x.key", tmp_path / "x.pem")
    key = load_signer(tmp_path / "gate.key").backend.public_key
    assert isinstance(key, SSlibKey)
    assert envelope.verify([key], 1)


def test_what_allows_nothing_is_never_signed(signer: DecisionSigner) -> None:
    with pytest.raises(EvidenceError, match=r"predicate\.decision\.decision: Input should be 'allowed'"):
        signed(signer, decision="denied")
    with pytest.raises(EvidenceError, match=r"predicate\.decision\.form"):
        signed(signer, form=None)


def reworded(change: Callable[[dict[str, Any]], object], signer: DecisionSigner) -> bytes:
    """The same statement, changed, signed with the gate's own key."""
    payload = json.loads(base64.b64decode(json.loads(signed(signer))["payload"]))
    change(payload)
    return envelopes.seal(canonical_json(payload), signer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(predicateType="https://registry-gate.dev/assessment/v1"), "predicateType"),
        (lambda s: s["subject"].append(s["subject"][0]), "at most 1 item"),
        (lambda s: s["predicate"]["decision"].update(surprise=1), "decision.surprise: Extra inputs"),
        (lambda s: s["predicate"]["decision"].pop("version"), "decision.version: Field required"),
        (lambda s: s["predicate"]["decision"].update(valid_until="soon"), "expected valid_until to be a moment"),
        (lambda s: s["predicate"].update(decided_at="2026-11-23T12:00:00"), "expected decided_at to be a moment"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "expected the subject sha256:1a1a"),
    ],
)
def test_what_it_must_say_is_checked_whoever_signed(change: Any, words: str, signer: DecisionSigner) -> None:
    with pytest.raises(EvidenceError) as caught:
        verify_decision(reworded(change, signer), {"gate": signer.public_pem})
    assert words in str(caught.value)


def test_an_actor_may_be_described_in_words_that_come_later(signer: DecisionSigner) -> None:
    envelope = reworded(lambda s: s["predicate"]["decision"]["actor"].update(through="proxy 10.0.0.1"), signer)
    assert verify_decision(envelope, {"gate": signer.public_pem}).actor["through"] == "proxy 10.0.0.1"


def test_a_changed_byte_or_another_key_does_not_verify(signer: DecisionSigner, tmp_path: Path) -> None:
    envelope = signed(signer)
    wire = json.loads(envelope)
    payload = bytearray(base64.b64decode(wire["payload"]))
    payload[payload.index(b"champion")] ^= 1
    changed = json.dumps({**wire, "payload": base64.b64encode(payload).decode()}).encode()
    with pytest.raises(IntegrityError, match="was changed after signing"):
        verify_decision(changed, {"gate": signer.public_pem})
    generate_key(tmp_path / "other.key", tmp_path / "other.pem")
    with pytest.raises(IntegrityError, match="not trusted here"):
        verify_decision(envelope, {"gate": (tmp_path / "other.pem").read_bytes()})
    for rubbish in (b"", b"[]", b"{}", b"\xff", envelope[:-1]):
        with pytest.raises(IntegrityError):
            verify_decision(rubbish, {"gate": signer.public_pem})


def test_the_key_shows_in_no_text_and_leaves_no_process(signer: DecisionSigner) -> None:
    assert "private" not in repr(signer)
    with pytest.raises(TypeError, match="stay in its process"):
        __import__("pickle").dumps(signer)


def test_public_keys_of_the_present_and_of_replaced_keys_are_found_beside_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected the gate's public key") as caught:
        gate_public_keys(tmp_path / "gate.key")
    assert caught.value.code == "gate_key_missing"
    generate_key(tmp_path / "gate.key", tmp_path / "gate.pem")
    generate_key(tmp_path / "old.key", tmp_path / "gate-2025.pem")
    assert set(gate_public_keys(tmp_path / "gate.key")) == {"gate", "gate-2025"}
    (tmp_path / "gate.pem").rename(tmp_path / "elsewhere")
    assert set(gate_public_keys(tmp_path / "gate.key")) == {"gate", "gate-2025"}  # the server has the private key alone
    (tmp_path / "elsewhere").rename(tmp_path / "gate.pem")
    assert GateKey(tmp_path / "gate.key").public_keys() == gate_public_keys(tmp_path / "gate.key")
    (tmp_path / "gate-2024.pem").write_text("no key")
    with pytest.raises(ConfigError, match=r"gate-2024\.pem"):
        gate_public_keys(tmp_path / "gate.key")
