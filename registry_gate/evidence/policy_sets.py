"""Who signed a policy set: an in-toto statement over the sha256 of each of its files, in a DSSE envelope.

Signing and verifying are pure functions of bytes, keys and a moment. The format is in `FORMAT.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from registry_gate.assessment import STRICT
from registry_gate.errors import EvidenceError, IntegrityError
from registry_gate.evidence.envelope import envelope_digest, open_envelope, seal
from registry_gate.evidence.keys import DecisionSigner
from registry_gate.evidence.statement import MAX_STATEMENT_BYTES, STATEMENT_TYPE, moment_of, schema_faults, strict_json
from registry_gate.form import canonical_json

POLICY_SET_TYPE = "https://registry-gate.dev/policy-set/v1"
"""A name, never fetched."""

_PREFIX = "sha256:"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class PolicySignature:
    """A signature of a policy set that verified. Only `verify_policy_set` makes it.

    Args:
        signers: Names of the keys that signed.
        reason: What the signer said that this set is, e.g. a change ticket.
        signed_at: When.
        expires_at: From when on it does not count; None for never.
        digest: Of the envelope.
    """

    signers: tuple[str, ...]
    reason: str
    signed_at: datetime
    expires_at: datetime | None
    digest: str

    def to_dict(self) -> dict[str, str]:
        """As the audit chain keeps it."""
        expires = {} if self.expires_at is None else {"expires_at": self.expires_at.isoformat()}
        return {
            "by": ", ".join(self.signers),
            "reason": self.reason,
            "signed_at": self.signed_at.isoformat(),
            **expires,
            "envelope": self.digest,
        }


def file_digests(contents: Mapping[str, bytes]) -> dict[str, str]:
    """sha256 (hex) of each file, by name."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}


def sign_policy_set(
    files: Mapping[str, str], signer: DecisionSigner, *, reason: str, signed_at: datetime, expires_at: datetime | None
) -> bytes:
    """The envelope of a signature.

    Args:
        files: What `file_digests` gave.
        signer: The key.
        reason: What this set is, e.g. a change ticket.
        signed_at: When.
        expires_at: From when on it does not count; None for never.

    Raises:
        EvidenceError: It would not be accepted when read back; nothing was signed.
    """
    expires = {} if expires_at is None else {"expires_at": expires_at.astimezone(UTC).isoformat()}
    payload = canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "policy-set", "digest": {"sha256": _digest(files)}}],
            "predicateType": POLICY_SET_TYPE,
            "predicate": {
                "files": files,
                "reason": reason,
                "signed_at": signed_at.astimezone(UTC).isoformat(),
                **expires,
            },
        }
    )
    _parse(payload)
    return seal(payload, signer)


def verify_policy_set(
    envelope: bytes, files: Mapping[str, str], keys: Mapping[str, bytes], *, now: datetime, tolerance: timedelta
) -> PolicySignature:
    """The signature of exactly these files, which counts now.

    Args:
        envelope: The bytes of the signature.
        files: What `file_digests` gave.
        keys: Public key (PEM) of each signer that counts, by name.
        now: The moment.
        tolerance: How far clocks may differ.

    Raises:
        IntegrityError: Malformed, by none of the keys, of other files, from the future or ended.
        EvidenceError: The signature is good, but it is none of a policy set.
    """
    opened = open_envelope(envelope, keys)
    statement = _parse(opened.payload)
    said = statement.predicate
    if statement.subject[0].digest.sha256 != _digest(said.files):
        raise IntegrityError("expected a signature that agrees with itself, got another digest than that of its files")
    if said.files != dict(files):
        raise IntegrityError(
            f"expected the files that {', '.join(opened.signers)} signed, got {_differences(said.files, files)}",
            code="policies_changed",
        )
    signed_at = moment_of(said.signed_at, "signed_at")
    expires_at = None if said.expires_at is None else moment_of(said.expires_at, "expires_at")
    if signed_at - now > tolerance:
        raise IntegrityError(f"expected a signature of the past, got one of {said.signed_at}: compare the clocks")
    if expires_at is not None and expires_at <= now:
        raise IntegrityError(
            f"expected a signature that still counts, got one that ended at {said.expires_at}", code="signature_expired"
        )
    return PolicySignature(
        signers=opened.signers,
        reason=said.reason,
        signed_at=signed_at,
        expires_at=expires_at,
        digest=envelope_digest(envelope),
    )


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(canonical_json(dict(files))).hexdigest()


def _differences(signed: Mapping[str, str], found: Mapping[str, str]) -> str:
    """What is not as it was signed, in words."""
    groups = (
        ("changed", [name for name in signed if name in found and signed[name] != found[name]]),
        ("removed", [name for name in signed if name not in found]),
        ("added", [name for name in found if name not in signed]),
    )
    parts = []
    for word, names in groups:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        if names:
            parts.append(f"{', '.join(sorted(names)[:_SHOWN])}{more} {word}")
    return "; ".join(parts)


class _Wire(BaseModel):
    """Unknown keys are refused: one that we do not know could limit what was signed."""

    model_config = STRICT


_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _DigestSet(_Wire):
    sha256: _Sha256


class _Subject(_Wire):
    name: Literal["policy-set"]
    digest: _DigestSet


class _Predicate(_Wire):
    files: Annotated[dict[str, _Sha256], Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1, max_length=4000)]
    signed_at: str
    expires_at: str | None = None


class _Statement(_Wire):
    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[_Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["https://registry-gate.dev/policy-set/v1"], Field(alias="predicateType")]
    predicate: _Predicate


def _parse(payload: bytes) -> _Statement:
    strict_json(payload, "a statement", MAX_STATEMENT_BYTES)
    try:
        return _Statement.model_validate_json(payload)
    except ValidationError as err:
        raise EvidenceError(
            f"expected an in-toto statement of predicate type {POLICY_SET_TYPE}, got: {schema_faults(err)}",
            code="statement_schema",
        ) from err
