"""Signing and verifying: whatever is not exactly what a trusted signer signed is refused, in a sentence."""

from __future__ import annotations

import base64
import dataclasses
import json
import pickle
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

import registry_gate.evidence
from registry_gate.errors import ConfigError, EvidenceError, IntegrityError
from registry_gate.evidence.envelope import (
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    Verified,
    envelope_digest,
    pre_auth_encoding,
    sign,
    verify,
)
from registry_gate.evidence.keys import EvidenceSigner
from registry_gate.evidence.statement import Statement
from registry_gate.form import canonical_json

GOLDEN = Path(__file__).parents[3] / "golden" / "evidence"
KEEP_FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def with_(envelope: bytes, **changes: Any) -> bytes:
    return canonical_json({**json.loads(envelope), **changes})


def signed_by_hand(payload: bytes, signer: EvidenceSigner, kind: str = PAYLOAD_TYPE) -> bytes:
    """What a holder of the key could sign with other software."""
    signature = signer.backend.sign(pre_auth_encoding(kind, payload))
    return canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [
                {"keyid": signer.key_id, "sig": base64.b64encode(bytes.fromhex(signature.signature)).decode()}
            ],
        }
    )


def test_round_trip(statement: Statement, envelope: bytes, trusted: dict[str, bytes]) -> None:
    verified = verify(envelope, trusted)
    assert verified == Verified(
        statement=statement, signers=("worker",), digest=envelope_digest(envelope), payload=statement.to_bytes()
    )
    assert verified.assessment == statement.assessment


def test_signing_is_deterministic_so_that_a_resumed_worker_gives_the_same_file(
    statement: Statement, envelope: bytes, signer: EvidenceSigner
) -> None:
    assert sign(statement, signer) == envelope


def test_pre_auth_encoding_is_that_of_the_specification() -> None:
    # The test vector of DSSE's protocol.md.
    encoded = pre_auth_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_securesystemslib_verifies_what_we_sign(envelope: bytes, signer: EvidenceSigner) -> None:
    key = SSlibKey.from_crypto(load_pem_public_key(signer.public_pem))
    assert key.keyid == signer.key_id
    assert list(Envelope.from_dict(json.loads(envelope)).verify([key], 1)) == [signer.key_id]


def test_all_signers_are_reported_not_only_the_first(
    statement: Statement, signer: EvidenceSigner, other_signer: EvidenceSigner
) -> None:
    envelope = sign(statement, signer, other_signer)
    names = {"worker": signer.public_pem, "auditor": other_signer.public_pem}
    assert verify(envelope, names).signers == ("auditor", "worker")


def test_signature_of_an_unknown_co_signer_takes_nothing_away_and_adds_nothing(
    statement: Statement, signer: EvidenceSigner, other_signer: EvidenceSigner, trusted: dict[str, bytes]
) -> None:
    assert verify(sign(statement, other_signer, signer), trusted).signers == ("worker",)


def test_two_signatures_by_one_key_are_one_signer(envelope: bytes, trusted: dict[str, bytes]) -> None:
    twice = with_(envelope, signatures=json.loads(envelope)["signatures"] * 2)
    assert verify(twice, trusted).signers == ("worker",)


def test_fields_that_dsse_says_to_ignore_are_ignored(envelope: bytes, trusted: dict[str, bytes]) -> None:
    [signature] = json.loads(envelope)["signatures"]
    assert verify(with_(envelope, extra=1, signatures=[{**signature, "cert": "x"}]), trusted).signers == ("worker",)


@pytest.mark.parametrize("keyid", [{}, {"keyid": ""}])
def test_key_id_is_only_a_hint(envelope: bytes, trusted: dict[str, bytes], keyid: dict[str, str]) -> None:
    [signature] = json.loads(envelope)["signatures"]
    assert verify(with_(envelope, signatures=[{"sig": signature["sig"], **keyid}]), trusted).signers == ("worker",)


def test_url_safe_base64_is_accepted(envelope: bytes, trusted: dict[str, bytes]) -> None:
    data = json.loads(envelope)
    [signature] = data["signatures"]
    table = str.maketrans("+/", "-_")
    other = with_(
        envelope,
        payload=data["payload"].translate(table),
        signatures=[{**signature, "sig": signature["sig"].translate(table)}],
    )
    assert verify(other, trusted).signers == ("worker",)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_envelope_without_signature_is_refused(envelope: bytes, trusted: dict[str, bytes]) -> None:
    with pytest.raises(IntegrityError, match="at least one signature, got none: unsigned evidence never counts"):
        verify(with_(envelope, signatures=[]), trusted)


def test_signature_by_an_unknown_key_is_refused(
    statement: Statement, other_signer: EvidenceSigner, signer: EvidenceSigner, trusted: dict[str, bytes]
) -> None:
    with pytest.raises(IntegrityError) as caught:
        verify(sign(statement, other_signer), trusted)
    assert str(caught.value) == (
        f"expected a signature of worker ({signer.key_id}), got only {other_signer.key_id}: "
        "signed by a key that is not trusted here"
    )


def test_signature_by_an_unknown_key_without_key_id_is_refused(
    statement: Statement, other_signer: EvidenceSigner, trusted: dict[str, bytes]
) -> None:
    envelope = sign(statement, other_signer)
    [signature] = json.loads(envelope)["signatures"]
    with pytest.raises(IntegrityError, match="got only without key id: signed by a key that is not trusted here"):
        verify(with_(envelope, signatures=[{"sig": signature["sig"]}]), trusted)


def test_other_key_that_claims_the_workers_key_id_is_refused(
    statement: Statement, other_signer: EvidenceSigner, signer: EvidenceSigner, trusted: dict[str, bytes]
) -> None:
    [signature] = json.loads(sign(statement, other_signer))["signatures"]
    forged = with_(sign(statement, signer), signatures=[{**signature, "keyid": signer.key_id}])
    with pytest.raises(IntegrityError, match=r"expected signer 'worker' .* got a signature that does not fit"):
        verify(forged, trusted)


def test_edited_number_is_refused(envelope: bytes, trusted: dict[str, bytes]) -> None:
    payload = base64.b64decode(json.loads(envelope)["payload"])
    assert payload.count(b'"events":14') == 1
    edited = payload.replace(b'"events":14', b'"events":04')
    with pytest.raises(IntegrityError, match="the payload or the signature was changed after signing"):
        verify(with_(envelope, payload=base64.b64encode(edited).decode()), trusted)


def test_wrong_signature_of_a_known_key_is_refused_although_another_one_is_good(
    envelope: bytes, trusted: dict[str, bytes]
) -> None:
    [signature] = json.loads(envelope)["signatures"]
    wrong = {**signature, "sig": base64.b64encode(bytes(64)).decode()}
    with pytest.raises(IntegrityError, match="got a signature that does not fit"):
        verify(with_(envelope, signatures=[signature, wrong]), trusted)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_signature_of_another_length_is_refused(envelope: bytes, trusted: dict[str, bytes], length: int) -> None:
    [signature] = json.loads(envelope)["signatures"]
    short = {**signature, "sig": base64.b64encode(bytes(length)).decode()}
    with pytest.raises(IntegrityError, match="got a signature that does not fit"):
        verify(with_(envelope, signatures=[short]), trusted)


def test_other_payload_type_is_refused_even_when_signed(
    statement: Statement, signer: EvidenceSigner, trusted: dict[str, bytes]
) -> None:
    message = "expected payload type application/vnd.in-toto\\+json, got 'application/vnd.in-toto.other\\+json'"
    with pytest.raises(IntegrityError, match=message):
        verify(signed_by_hand(statement.to_bytes(), signer, "application/vnd.in-toto.other+json"), trusted)


def test_payload_type_put_back_after_signing_is_refused(
    statement: Statement, signer: EvidenceSigner, trusted: dict[str, bytes]
) -> None:
    signed_as_other = signed_by_hand(statement.to_bytes(), signer, "text/plain")
    with pytest.raises(IntegrityError, match="got a signature that does not fit"):
        verify(with_(signed_as_other, payloadType=PAYLOAD_TYPE), trusted)


@pytest.mark.parametrize("text", ["%%%", "abc", "ä", "YQ", "YR==", " YQ==", "YQ==\n", "+-=="])
def test_malformed_base64_is_refused(envelope: bytes, trusted: dict[str, bytes], text: str) -> None:
    with pytest.raises(IntegrityError, match="expected payload in base64"):
        verify(with_(envelope, payload=text), trusted)
    [signature] = json.loads(envelope)["signatures"]
    with pytest.raises(IntegrityError, match=r"expected signatures\[0\].sig in base64"):
        verify(with_(envelope, signatures=[{**signature, "sig": text}]), trusted)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected an envelope as JSON, got something else: Expecting value"),
        (b"not json", "expected an envelope as JSON, got something else"),
        (b'{"payload": "", "payload": ""}', "expected an envelope as JSON, got the key 'payload' twice"),
        (b"[]", "expected a DSSE envelope with payload, payloadType and signatures"),
        (b"{}", "payload: Field required; payloadType: Field required; signatures: Field required"),
        (b'{"payload": 1, "payloadType": "x", "signatures": []}', "payload: Input should be a valid string"),
        (b'{"payload": "", "payloadType": "x", "signatures": {}}', "signatures: Input should be a valid array"),
        (b'{"payload": "", "payloadType": "x", "signatures": [{}]}', "signatures.0.sig: Field required"),
        (b" " * (MAX_ENVELOPE_BYTES + 1), "that are read"),
    ],
)
def test_malformed_envelope_is_refused(trusted: dict[str, bytes], data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        verify(data, trusted)
    assert message in str(caught.value)


def test_flood_of_signatures_is_refused(envelope: bytes, trusted: dict[str, bytes]) -> None:
    with pytest.raises(IntegrityError, match="expected at most 64 signatures, got 65"):
        verify(with_(envelope, signatures=json.loads(envelope)["signatures"] * 65), trusted)


def test_well_signed_statement_of_an_unknown_type_is_refused(signer: EvidenceSigner, trusted: dict[str, bytes]) -> None:
    with pytest.raises(EvidenceError, match="expected an in-toto statement of predicate type"):
        verify(signed_by_hand(b'{"_type": "https://in-toto.io/Statement/v1"}', signer), trusted)


def test_well_signed_statement_that_contradicts_itself_is_refused(
    statement: Statement, signer: EvidenceSigner, trusted: dict[str, bytes]
) -> None:
    data = json.loads(statement.to_bytes())
    data["subject"][0]["digest"]["sha256"] = "0" * 64
    with pytest.raises(IntegrityError, match=r"got sha256:0{64}"):
        verify(signed_by_hand(canonical_json(data), signer), trusted)


@pytest.mark.parametrize("chosen", [0, 2])
def test_signing_needs_one_or_more_different_signers(statement: Statement, signer: EvidenceSigner, chosen: int) -> None:
    with pytest.raises(ConfigError, match="expected one or more different signers"):
        sign(statement, *[signer] * chosen)


# --- what may be trusted ----------------------------------------------------------------------------------------------


def test_nothing_verifies_without_trusted_signers(envelope: bytes) -> None:
    with pytest.raises(ConfigError, match="expected the public key of at least one signer, got none"):
        verify(envelope, {})


def test_one_key_under_two_names_is_refused(envelope: bytes, signer: EvidenceSigner) -> None:
    with pytest.raises(ConfigError, match=r"a key of their own, got key \w{64} for 'approver' and 'worker'"):
        verify(envelope, {"worker": signer.public_pem, "approver": signer.public_pem})


def test_signer_whose_key_is_no_key_is_refused_by_name(envelope: bytes, trusted: dict[str, bytes]) -> None:
    with pytest.raises(ConfigError, match="expected the public key of signer 'auditor' to be an Ed25519 public key"):
        verify(envelope, {**trusted, "auditor": b"garbage"})


# --- properties -------------------------------------------------------------------------------------------------------


@KEEP_FIXTURES
@given(data=st.data())
def test_any_flipped_byte_of_payload_or_signature_is_refused(
    envelope: bytes, trusted: dict[str, bytes], data: st.DataObject
) -> None:
    """Flipped before base64, as in a database, and after it, as in a file."""
    fields = json.loads(envelope)
    [signature] = fields["signatures"]
    flip = data.draw(st.integers(1, 255))
    part = data.draw(st.sampled_from(["payload", "sig"]))
    text = fields["payload"] if part == "payload" else signature["sig"]
    raw = bytearray(base64.b64decode(text) if data.draw(st.booleans()) else text.encode())
    decoded = len(raw) != len(text)
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= flip
    changed = base64.b64encode(raw).decode() if decoded else raw.decode("latin-1")
    if part == "payload":
        other = with_(envelope, payload=changed)
    else:
        other = with_(envelope, signatures=[{**signature, "sig": changed}])
    with pytest.raises(IntegrityError):
        verify(other, trusted)


@KEEP_FIXTURES
@given(data=st.data())
def test_any_flipped_byte_of_the_file_is_refused_or_changes_its_digest(
    envelope: bytes, statement: Statement, trusted: dict[str, bytes], data: st.DataObject
) -> None:
    raw = bytearray(envelope)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        verified = verify(bytes(raw), trusted)
    except IntegrityError:
        return
    # Only what is not signed may differ, such as the key id (a hint); the evidence digest still shows it.
    assert verified.payload == statement.to_bytes()
    assert verified.digest != envelope_digest(envelope)


@KEEP_FIXTURES
@given(name=st.text(min_size=1, max_size=40).filter(lambda text: text.encode("utf-8", "ignore").decode() == text))
def test_round_trip_of_any_name(
    statement: Statement, signer: EvidenceSigner, trusted: dict[str, bytes], name: str
) -> None:
    named = dataclasses.replace(statement, name=name)
    assert verify(sign(named, signer), trusted).statement == named


@KEEP_FIXTURES
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_integrity_errors(trusted: dict[str, bytes], data: bytes) -> None:
    with pytest.raises(IntegrityError):
        verify(data, trusted)


def test_verification_needs_no_clock_network_or_file(
    envelope: bytes, trusted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("verification reached outside its arguments")

    monkeypatch.setattr(time, "time", forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr("builtins.open", forbidden)
    monkeypatch.setattr(Path, "open", forbidden)
    assert verify(envelope, trusted).signers == ("worker",)


# --- for good ---------------------------------------------------------------------------------------------------------


def test_there_is_golden_evidence() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()) == [
        "assessment-v1",
        "assessment-v3",
        "assessment-v4",
    ]


@pytest.mark.parametrize("directory", sorted(path for path in GOLDEN.iterdir() if path.is_dir()), ids=lambda p: p.name)
def test_old_signed_evidence_verifies_for_good(directory: Path) -> None:
    envelope = (directory / "envelope.dsse.json").read_bytes()
    expected = json.loads((directory / "expected.json").read_text())
    verified = verify(envelope, {"worker": (directory / "worker.pub").read_bytes()})
    assert verified.digest == expected["evidence"]
    assert verified.statement.subject == expected["form"]
    assert verified.assessment.to_dict()["measurements"] == expected["measurements"]
    assert verified.signers == ("worker",)


def test_written_format_verifies_with_openssl_and_python_alone(
    tmp_path: Path, statement: Statement, envelope: bytes, key_paths: tuple[Path, Path]
) -> None:
    """Runs the commands of FORMAT.md as they are printed there."""
    text = (Path(registry_gate.evidence.__file__).parent / "FORMAT.md").read_text()
    script = "\n".join(part.split("```sh\n")[1].split("```")[0] for part in text.split("<!-- ")[1:])
    assert shutil.which("openssl") is not None, "OpenSSL 3 is needed to test FORMAT.md"
    file = tmp_path / "evidence.dsse.json"
    file.write_bytes(envelope)
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "EVIDENCE": str(file), "PUBLIC_KEY": str(key_paths[1])}

    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        envelope_digest(envelope).removeprefix("sha256:"),
        "Signature Verified Successfully",
        statement.subject.removeprefix("sha256:"),
    ]

    edited = base64.b64encode(statement.to_bytes().replace(b'"events":14', b'"events":13')).decode()
    file.write_bytes(with_(envelope, payload=edited))
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Signature Verification Failure" in done.stdout + done.stderr


def test_signing_key_does_not_leave_its_process(signer: EvidenceSigner) -> None:
    with pytest.raises(TypeError, match="expected a signing key to stay in its process"):
        pickle.dumps(signer)
