"""Signed decisions: an allowed decision as an in-toto statement in a DSSE envelope, signed with the gate's key.

Whoever holds the gate's public key can check with it, without ledger, server or policies, that exactly these bytes were
allowed for exactly this target. Signing and verifying are pure functions of bytes and keys; whether the bytes at hand
are those that were decided on, and whether the decision still holds, is for the caller. The format is in `FORMAT.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry_gate import __version__
from registry_gate.assessment import STRICT
from registry_gate.errors import EvidenceError, IntegrityError
from registry_gate.evidence.envelope import envelope_digest, open_envelope, seal
from registry_gate.evidence.keys import DecisionSigner
from registry_gate.evidence.statement import MAX_STATEMENT_BYTES, STATEMENT_TYPE, schema_faults, strict_json
from registry_gate.form import BaseReference, canonical_json
from registry_gate.promotion import Target, TargetKind

PREDICATE_TYPE = "https://registry-gate.dev/decision/v1"
"""A name, never fetched."""

_DIGEST_PREFIX = "sha256:"


@dataclass(frozen=True, kw_only=True)
class SignedDecision:
    """An allowed decision whose signature verified. Only `verify_decision` makes it.

    Args:
        id: Its id in the ledger.
        decided_at: When, as the ledger writes it.
        target: What was allowed to mean the version.
        version: Number of the version.
        created_ms: Creation time of the version's row, milliseconds since the epoch.
        location: Where the version's files were.
        form: Digest of the form that was decided on.
        base: The form's base as it was resolved then, or None.
        verdict: The verdict.
        valid_until: From this moment on something that it rests on no longer counts; None when nothing ends.
        policies: `(name, digest)` of every policy applied.
        evidence: Digests of the evidence used.
        policy_set: Digest of the policy set.
        rollback: Whether it returned the target to a form that was allowed there before.
        actor: Who asked, and from where.
        key_id: The key that signed.
        digest: `sha256:` of the envelope.
        body: The decision as the ledger and its audit chain keep it.
    """

    id: str
    decided_at: str
    target: Target
    version: int
    created_ms: int
    location: str
    form: str
    base: BaseReference | None
    verdict: str
    valid_until: datetime | None
    policies: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]
    policy_set: str | None
    rollback: bool
    actor: Mapping[str, Any]
    key_id: str
    digest: str
    body: Mapping[str, Any] = field(repr=False)


def sign_decision(
    body: Mapping[str, Any], *, decided_at: str, base: BaseReference | None, signer: DecisionSigner
) -> bytes:
    """Sign an allowed decision and return the envelope, byte for byte what is to be stored.

    Args:
        body: As the ledger keeps it (`StoredDecision.body`).
        decided_at: When, as the ledger writes it.
        base: The base of the form that was decided on.
        signer: The gate's key.

    Raises:
        EvidenceError: The decision allows nothing, or would not be accepted when read back; nothing was signed.
    """
    payload = canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {
                    "name": f"models:/{body['version']['name']}/{body['version']['version']}",
                    "digest": {"sha256": str(body["form"]).removeprefix(_DIGEST_PREFIX)},
                }
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "decision": body,
                "decided_at": decided_at,
                "base": None if base is None else asdict(base),
                "gate": {"name": "registry-gate", "version": __version__},
            },
        }
    )
    _parse(payload)  # never sign what we would refuse to read
    return seal(payload, signer)


def verify_decision(envelope: bytes, keys: Mapping[str, bytes]) -> SignedDecision:
    """Verify a signed decision and return what it allows.

    Checks that the bytes are intact, signed with one of `keys`, and agree with themselves. It does *not* check that the
    decision still holds (`valid_until`), that it is of the target and version at hand, or that the bytes that will be
    served have its form digest: the caller must.

    Args:
        envelope: The stored bytes.
        keys: Public keys (PEM) of the gate, by name.

    Raises:
        IntegrityError: Malformed, unsigned, signed with another key, changed, or it contradicts itself.
        EvidenceError: The signature is good, but it is no decision of a known type.
        ConfigError: `keys` is empty or holds something that is no Ed25519 public key.
    """
    opened = open_envelope(envelope, keys)
    wire = _parse(opened.payload)
    body = strict_json(opened.payload, "a statement", MAX_STATEMENT_BYTES)["predicate"]["decision"]
    said = wire.predicate.decision
    return SignedDecision(
        id=said.id,
        decided_at=wire.predicate.decided_at,
        target=Target(
            kind=TargetKind(said.target.kind),
            model=said.target.model,
            name=said.target.name,
            workspace=said.workspace,
        ),
        version=said.version.version,
        created_ms=said.version.created_ms,
        location=said.version.location,
        form=said.form,
        base=wire.predicate.base,
        verdict=said.verdict,
        valid_until=None if said.valid_until is None else datetime.fromisoformat(said.valid_until),
        policies=tuple((policy.name, policy.digest) for policy in said.policies),
        evidence=said.evidence,
        policy_set=said.policy_set,
        rollback=any(reason.code == "rollback" for reason in said.reasons),
        actor=said.actor,
        key_id=opened.key_ids[0],
        digest=envelope_digest(envelope),
        body=body,
    )


class _Wire(BaseModel):
    """Unknown keys are refused, as in evidence: a field that we do not know could limit what was allowed."""

    model_config = STRICT


class _Described(BaseModel):
    """What only describes, for people: it may grow."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Target(_Wire):
    kind: Literal["alias", "stage"]
    model: str
    name: str
    key: str


class _Version(_Wire):
    name: str
    version: int
    created_ms: int
    location: str
    source: str


class _Policy(_Wire):
    name: str
    digest: str


class _Reason(_Described):
    code: str
    message: str


class _Decision(_Wire):
    id: str
    operation: str
    target: _Target
    workspace: str
    version: _Version
    actor: dict[str, Any]
    policy_set: str | None
    decision: Literal["allowed"]
    verdict: str
    reasons: tuple[_Reason, ...]
    form: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    policies: tuple[_Policy, ...]
    evidence: tuple[str, ...]
    assessments_needed: tuple[str, ...]
    waivers: tuple[str, ...] = ()
    approvals: tuple[str, ...] = ()
    break_glass: Annotated[str | None, Field(min_length=1)] = None
    valid_until: str | None


class _DigestSet(_Wire):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Subject(_Wire):
    name: str
    digest: _DigestSet


class _Predicate(_Wire):
    decision: _Decision
    decided_at: str
    base: BaseReference | None
    gate: _Described


class _Statement(_Wire):
    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[_Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["https://registry-gate.dev/decision/v1"], Field(alias="predicateType")]
    predicate: _Predicate


def _parse(payload: bytes) -> _Statement:
    # (1) JSON without what readers understand differently. (2) The schema.
    strict_json(payload, "a statement", MAX_STATEMENT_BYTES)
    try:
        wire = _Statement.model_validate_json(payload)
    except ValidationError as err:
        raise EvidenceError(
            f"expected a signed decision (in-toto statement of predicate type {PREDICATE_TYPE}), got: "
            f"{schema_faults(err)}",
            code="statement_schema",
        ) from err
    said = wire.predicate.decision
    # (3) The subject is the form that was decided on.
    if _DIGEST_PREFIX + wire.subject[0].digest.sha256 != said.form:
        raise IntegrityError(
            f"expected the subject {said.form} (the form that was decided on), got {wire.subject[0].digest.sha256}",
            code="subject_mismatch",
        )
    # (4) Its moments are moments.
    for name, text in (("decided_at", wire.predicate.decided_at), ("valid_until", said.valid_until)):
        if text is not None and not _is_moment(text):
            raise EvidenceError(f"expected {name} to be a moment with zone, got {text!r}", code="statement_schema")
    return wire


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
