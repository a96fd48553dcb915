"""Sign statements and verify them: DSSE envelopes.

Verification takes bytes and public keys and nothing else: no clock, network or file. The bytes that were signed are the
bytes that are parsed and kept. Whether a signer is allowed is for the policy, which gets the names of all signers that
verified. Keys are made and loaded in `keys`.

Source: DSSE v1.0 (protocol.md, envelope.md), in-toto Attestation Framework v1 (envelope layer).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry_gate.assessment import Assessment
from registry_gate.errors import ConfigError, IntegrityError
from registry_gate.evidence.keys import DecisionSigner, EvidenceSigner, keys_by_id
from registry_gate.evidence.statement import MAX_STATEMENT_BYTES, Statement, parse_statement, schema_faults, strict_json
from registry_gate.form import canonical_json

PAYLOAD_TYPE = "application/vnd.in-toto+json"

MAX_ENVELOPE_BYTES = MAX_STATEMENT_BYTES * 4 // 3 + 64 * 1024
"""The largest statement in base64, and room for signatures."""

MAX_SIGNATURES = 64
"""More than any policy asks for; bounds the work that an envelope can cause."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A statement whose signatures verified. Only `verify` makes it.

    Args:
        statement: Parsed from the very bytes that were signed.
        signers: Names of all signers whose signature verified, sorted; at least one.
        digest: `sha256:` of the envelope's bytes, under which the evidence is stored and cited.
        payload: The signed bytes themselves.
    """

    statement: Statement
    signers: tuple[str, ...]
    digest: str
    payload: bytes = field(repr=False)

    @property
    def assessment(self) -> Assessment:
        """What was measured."""
        return self.statement.assessment


def envelope_digest(envelope: bytes) -> str:
    """`sha256:` of exactly these bytes: the evidence digest."""
    return "sha256:" + hashlib.sha256(envelope).hexdigest()


def sign(statement: Statement, *signers: EvidenceSigner) -> bytes:
    """Sign a statement and return the envelope, byte for byte what is to be stored.

    Raises:
        IntegrityError, EvidenceError: The statement would not be accepted when read back; nothing was signed.
        ConfigError: No signer, or one given twice.
    """
    # Imported here: it costs half a second because it looks for every cloud's client, and only the worker signs.
    from securesystemslib.dsse import Envelope

    keys = [signer.key_id for signer in signers]
    if not keys or len(set(keys)) != len(keys):
        raise ConfigError(f"expected one or more different signers, got {', '.join(keys) or 'none'}")
    payload = statement.to_bytes()
    parse_statement(payload)  # never sign what we would refuse to read
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    for signer in signers:
        envelope.sign(signer.backend)
    return canonical_json(envelope.to_dict())


class _Signature(BaseModel):
    # DSSE envelope.md: consumers MUST ignore unrecognized fields. They are unsigned, so they mean nothing here.
    model_config = ConfigDict(strict=True, extra="ignore")

    sig: str
    keyid: str = ""


class _Envelope(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    payload: str
    payload_type: Annotated[str, Field(alias="payloadType")]
    signatures: tuple[_Signature, ...]


def verify(envelope: bytes, signers: Mapping[str, bytes]) -> Verified:
    """Verify an envelope and return what it states.

    Checks that the bytes are intact, signed by at least one of `signers`, and agree with themselves. It does *not*
    check that the statement is recent, that its signer is allowed by a policy, or that it is of the form being
    promoted: the caller must compare `statement.subject` with the digest of the form as it is now.

    Args:
        envelope: The stored bytes.
        signers: Public key (PEM) of each signer, by the signer's name.

    Raises:
        IntegrityError: The envelope is malformed, or no signature verifies, or one that claims a known key does not.
        EvidenceError: The signature is good, but the statement is of an unknown type or schema.
        ConfigError: `signers` is empty, holds something that is no Ed25519 public key, or one key under two names.
    """
    opened = open_envelope(envelope, signers)

    # (6) Only now is the payload read, and it is the bytes that were verified.
    return Verified(
        statement=parse_statement(opened.payload),
        signers=opened.signers,
        digest=envelope_digest(envelope),
        payload=opened.payload,
    )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A payload whose signatures verified, not yet read. Only `open_envelope` makes it.

    Args:
        payload: The signed bytes.
        signers: Names of all signers whose signature verified, sorted; at least one.
        key_ids: Ids of their keys, sorted.
    """

    payload: bytes = field(repr=False)
    signers: tuple[str, ...]
    key_ids: tuple[str, ...]


def open_envelope(envelope: bytes, signers: Mapping[str, bytes]) -> Opened:
    """Steps (1) to (5) of `verify`: what was signed and by whom, whatever it states.

    Raises:
        IntegrityError, ConfigError: As `verify`.
    """
    keys = keys_by_id(signers)

    # (1) Decode. Reject if decoding fails.
    data = strict_json(envelope, "an envelope", MAX_ENVELOPE_BYTES)
    try:
        wire = _Envelope.model_validate_json(canonical_json(data))
    except ValidationError as err:
        raise IntegrityError(
            f"expected a DSSE envelope with payload, payloadType and signatures, got: {schema_faults(err, 'envelope')}",
            code="envelope_malformed",
        ) from err

    # (2) The type is part of what is signed; another type is another meaning, whoever signed it.
    if wire.payload_type != PAYLOAD_TYPE:
        raise IntegrityError(f"expected payload type {PAYLOAD_TYPE}, got {wire.payload_type!r}", code="payload_type")

    # (3) No signature is no evidence.
    if not wire.signatures:
        raise IntegrityError(
            "expected at least one signature, got none: unsigned evidence never counts", code="unsigned"
        )
    if len(wire.signatures) > MAX_SIGNATURES:
        raise IntegrityError(f"expected at most {MAX_SIGNATURES} signatures, got {len(wire.signatures)}")

    # (4) Every signature that claims one of our keys must fit. DSSE would skip a wrong one; here somebody must
    #     investigate. Those of other keys are skipped: a co-signer that this registry does not know takes nothing away.
    payload = _b64decode(wire.payload, "payload")
    encoded = pre_auth_encoding(PAYLOAD_TYPE, payload)
    verified: set[str] = set()
    unknown: list[str] = []
    for number, signature in enumerate(wire.signatures):
        raw = _b64decode(signature.sig, f"signatures[{number}].sig")
        if signature.keyid in keys:
            name, key = keys[signature.keyid]
            if not _fits(key, raw, encoded):
                raise IntegrityError(
                    f"expected signer {name!r} (key {signature.keyid}) to have signed exactly this payload, got "
                    "a signature that does not fit: the payload or the signature was changed after signing",
                    code="signature_wrong",
                )
            verified.add(name)  # a set: two signatures by one key are one signer
        elif signature.keyid:
            unknown.append(signature.keyid)
        else:
            # DSSE: keyid is an optional hint. Without it every key is tried.
            matching = [name for name, key in keys.values() if _fits(key, raw, encoded)]
            verified.update(matching)
            unknown.extend([] if matching else ["without key id"])

    # (5) At least one of ours.
    if not verified:
        known = ", ".join(f"{name} ({identity})" for identity, (name, _) in sorted(keys.items()))
        raise IntegrityError(
            f"expected a signature of {known}, got only {', '.join(unknown)}: signed by a key that is not trusted here",
            code="signer_unknown",
        )

    return Opened(
        payload=payload,
        signers=tuple(sorted(verified)),
        key_ids=tuple(sorted(identity for identity, (name, _) in keys.items() if name in verified)),
    )


def seal(payload: bytes, signer: DecisionSigner) -> bytes:
    """A DSSE envelope around a payload, signed with the gate's key. What it states is the caller's business."""
    signature = signer.sign(pre_auth_encoding(PAYLOAD_TYPE, payload))
    return canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": signer.key_id, "sig": base64.b64encode(signature).decode()}],
        }
    )


def pre_auth_encoding(payload_type: str, payload: bytes) -> bytes:
    """DSSE's PAE: what is really signed, so that type and payload cannot be shifted into one another."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _fits(key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    # `cryptography` directly rather than securesystemslib's Envelope.verify: that stops at a threshold (policies need
    # all signers), needs key ids, and its import would slow down every command. Tests hold the two side by side.
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _b64decode(text: str, where: str) -> bytes:
    """Decode standard or URL-safe base64 (DSSE: verifiers MUST accept either), in its one canonical spelling."""
    try:
        raw = text.encode("ascii")
        decoded = base64.b64decode(raw, altchars=b"-_" if b"-" in raw or b"_" in raw else None, validate=True)
    except (UnicodeError, binascii.Error) as err:
        raise IntegrityError(f"expected {where} in base64, got something else: {err}", code="base64_malformed") from err
    # Python ignores the unused bits of the last character, so that several texts would mean the same bytes.
    if raw not in (base64.b64encode(decoded), base64.urlsafe_b64encode(decoded)):
        raise IntegrityError(
            f"expected {where} in base64, got a spelling that no encoder writes: it was edited", code="base64_malformed"
        )
    return decoded
