"""What people sign: waivers, approvals, break-glass and what takes them back, as in-toto statements in DSSE envelopes.

Each person signs with a key of their own, so that whoever can write the ledger, or run a command on the server, cannot
grant anything in somebody's name. Signing and verifying are pure functions of bytes and keys. Whether something counts
(who signed it may, it has not expired, the policy's budget) is for `policy.grants`. The format is in `FORMAT.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from registry_gate.assessment import STRICT
from registry_gate.decision import Approval, BreakGlass, Waiver
from registry_gate.errors import EvidenceError, IntegrityError
from registry_gate.evidence.envelope import Opened, open_envelope, seal
from registry_gate.evidence.keys import DecisionSigner
from registry_gate.evidence.statement import MAX_STATEMENT_BYTES, STATEMENT_TYPE, moment_of, schema_faults, strict_json
from registry_gate.form import canonical_json

WAIVER_TYPE = "https://registry-gate.dev/waiver/v1"
APPROVAL_TYPE = "https://registry-gate.dev/approval/v1"
BREAK_GLASS_TYPE = "https://registry-gate.dev/break-glass/v1"
REVOCATION_TYPE = "https://registry-gate.dev/revocation/v1"
"""Names, never fetched."""

_PREFIX = "sha256:"


@dataclass(frozen=True, kw_only=True)
class Revocation:
    """Somebody took a waiver or an approval back, or closed break-glass.

    Args:
        revokes: Id of what is taken back.
        person: Who took it back; their signature verified.
        reason: Why.
        revoked_at: When it was signed.
    """

    revokes: str
    person: str
    reason: str
    revoked_at: datetime


def sign_waiver(waiver: Waiver, workspace: str, signer: DecisionSigner) -> bytes:
    """The envelope of a waiver for a form in one workspace, signed with the approver's key.

    Raises:
        EvidenceError: It would not be accepted when read back; nothing was signed.
    """
    predicate = {
        "id": waiver.id,
        "workspace": workspace,
        "policy": waiver.policy,
        "rules": sorted(waiver.rules),
        "approver": waiver.approver,
        "requester": waiver.requester,
        "reason": waiver.reason,
        "ticket": waiver.ticket,
        "granted_at": _text(waiver.granted_at),
        "expires_at": _text(waiver.expires_at),
    }
    payload = _payload(WAIVER_TYPE, waiver.form_digest, predicate)
    _parse(payload, _WaiverStatement, WAIVER_TYPE)
    return seal(payload, signer)


def sign_approval(approval: Approval, workspace: str, signer: DecisionSigner) -> bytes:
    """The envelope of an approval of a form in one workspace, signed with the approver's key.

    Raises:
        EvidenceError: It would not be accepted when read back; nothing was signed.
    """
    predicate = {
        "id": approval.id,
        "workspace": workspace,
        "policy": approval.policy,
        "policy_digest": approval.policy_digest,
        "approver": approval.approver,
        "requester": approval.requester,
        "reason": approval.reason,
        "approved_at": _text(approval.approved_at),
    }
    payload = _payload(APPROVAL_TYPE, approval.form_digest, predicate)
    _parse(payload, _ApprovalStatement, APPROVAL_TYPE)
    return seal(payload, signer)


def sign_break_glass(opened: BreakGlass, signer: DecisionSigner) -> bytes:
    """The envelope of an opening of break-glass, signed with the key of whoever opens it.

    Its subject is what it says, because it is of no one form.

    Raises:
        EvidenceError: It would not be accepted when read back; nothing was signed.
    """
    predicate = {
        "id": opened.id,
        "workspace": opened.workspace,
        "models": sorted(opened.models),
        "person": opened.person,
        "role": opened.role,
        "reason": opened.reason,
        "ticket": opened.ticket,
        "opened_at": _text(opened.opened_at),
        "expires_at": _text(opened.expires_at),
    }
    payload = _payload(BREAK_GLASS_TYPE, _own_digest(opened.id), predicate)
    _parse(payload, _BreakGlassStatement, BREAK_GLASS_TYPE)
    return seal(payload, signer)


def sign_revocation(revocation: Revocation, form_digest: str | None, signer: DecisionSigner) -> bytes:
    """The envelope of a revocation, signed with the key of whoever takes it back.

    Args:
        revocation: What is taken back.
        form_digest: The form that this was of; None for break-glass.
        signer: The key.

    Raises:
        EvidenceError: It would not be accepted when read back; nothing was signed.
    """
    predicate = {
        "revokes": revocation.revokes,
        "person": revocation.person,
        "reason": revocation.reason,
        "revoked_at": _text(revocation.revoked_at),
    }
    payload = _payload(REVOCATION_TYPE, form_digest or _own_digest(revocation.revokes), predicate)
    _parse(payload, _RevocationStatement, REVOCATION_TYPE)
    return seal(payload, signer)


def verify_waiver(envelope: bytes, people: Mapping[str, bytes], workspace: str) -> Waiver:
    """The waiver that an envelope holds, signed by the person whom it names as its approver.

    Args:
        envelope: The stored bytes.
        people: Public key (PEM) of each person, by name.
        workspace: Where it was found.

    Raises:
        IntegrityError: Malformed, changed, of another workspace, or signed by somebody else than it says.
        EvidenceError: The signature is good, but it is no waiver of a known type.
    """
    opened = _open(envelope, people)
    statement = _parse(opened.payload, _WaiverStatement, WAIVER_TYPE)
    said = statement.predicate
    _require_signed_by(said.approver, opened)
    _require_workspace("a waiver", said.workspace, workspace)
    return Waiver(
        id=said.id,
        form_digest=_PREFIX + statement.subject[0].digest.sha256,
        policy=said.policy,
        rules=said.rules,
        approver=said.approver,
        requester=said.requester,
        reason=said.reason,
        ticket=said.ticket,
        granted_at=moment_of(said.granted_at, "granted_at"),
        expires_at=moment_of(said.expires_at, "expires_at"),
    )


def verify_approval(envelope: bytes, people: Mapping[str, bytes], workspace: str) -> Approval:
    """The approval that an envelope holds, signed by the person whom it names as its approver.

    Raises:
        IntegrityError, EvidenceError: As `verify_waiver`.
    """
    opened = _open(envelope, people)
    statement = _parse(opened.payload, _ApprovalStatement, APPROVAL_TYPE)
    said = statement.predicate
    _require_signed_by(said.approver, opened)
    _require_workspace("an approval", said.workspace, workspace)
    return Approval(
        id=said.id,
        form_digest=_PREFIX + statement.subject[0].digest.sha256,
        policy=said.policy,
        policy_digest=said.policy_digest,
        approver=said.approver,
        requester=said.requester,
        reason=said.reason,
        approved_at=moment_of(said.approved_at, "approved_at"),
    )


def verify_break_glass(envelope: bytes, people: Mapping[str, bytes], workspace: str) -> BreakGlass:
    """The opening that an envelope holds, signed by the person whom it names.

    Raises:
        IntegrityError, EvidenceError: As `verify_waiver`.
    """
    opened = _open(envelope, people)
    said = _parse(opened.payload, _BreakGlassStatement, BREAK_GLASS_TYPE).predicate
    _require_signed_by(said.person, opened)
    _require_workspace("break-glass", said.workspace, workspace)
    return BreakGlass(
        id=said.id,
        person=said.person,
        role=said.role,
        reason=said.reason,
        ticket=said.ticket,
        workspace=said.workspace,
        models=said.models,
        opened_at=moment_of(said.opened_at, "opened_at"),
        expires_at=moment_of(said.expires_at, "expires_at"),
    )


def verify_revocation(envelope: bytes, people: Mapping[str, bytes]) -> Revocation:
    """The revocation that an envelope holds, signed by the person whom it names.

    Raises:
        IntegrityError, EvidenceError: As `verify_waiver`.
    """
    opened = _open(envelope, people)
    said = _parse(opened.payload, _RevocationStatement, REVOCATION_TYPE).predicate
    _require_signed_by(said.person, opened)
    return Revocation(
        revokes=said.revokes,
        person=said.person,
        reason=said.reason,
        revoked_at=moment_of(said.revoked_at, "revoked_at"),
    )


def _open(envelope: bytes, people: Mapping[str, bytes]) -> Opened:
    if not people:
        raise IntegrityError("expected people in policy-set.yaml whose signatures count, got none", code="unsigned")
    return open_envelope(envelope, people)


def _require_signed_by(name: str, opened: Opened) -> None:
    if name not in opened.signers:
        raise IntegrityError(
            f"expected the signature of {name}, whom it names, got that of {', '.join(opened.signers)}",
            code="signature_wrong",
        )


def _require_workspace(what: str, said: str, workspace: str) -> None:
    if said != workspace:
        raise IntegrityError(f"expected {what} of workspace {workspace}, got one of {said}", code="workspace_mismatch")


def _own_digest(grant_id: str) -> str:
    return _PREFIX + hashlib.sha256(grant_id.encode()).hexdigest()


class _Wire(BaseModel):
    """Unknown keys are refused: a field that we do not know could limit what was granted."""

    model_config = STRICT


class _DigestSet(_Wire):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Subject(_Wire):
    name: str
    digest: _DigestSet


_Words = Annotated[str, Field(min_length=1, max_length=4000)]


class _WaiverPredicate(_Wire):
    id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    workspace: _Words
    policy: _Words
    rules: Annotated[tuple[_Words, ...], Field(min_length=1)]
    approver: _Words
    requester: _Words
    reason: _Words
    ticket: _Words
    granted_at: str
    expires_at: str


class _ApprovalPredicate(_Wire):
    id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    workspace: _Words
    policy: _Words
    policy_digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    approver: _Words
    requester: _Words
    reason: _Words
    approved_at: str


class _BreakGlassPredicate(_Wire):
    id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    workspace: _Words
    models: Annotated[tuple[_Words, ...], Field(min_length=1)]
    person: _Words
    role: _Words
    reason: _Words
    ticket: _Words
    opened_at: str
    expires_at: str


class _RevocationPredicate(_Wire):
    revokes: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    person: _Words
    reason: _Words
    revoked_at: str


class _Statement(_Wire):
    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[_Subject, ...], Field(min_length=1, max_length=1)]


class _WaiverStatement(_Statement):
    predicate_type: Annotated[Literal["https://registry-gate.dev/waiver/v1"], Field(alias="predicateType")]
    predicate: _WaiverPredicate


class _ApprovalStatement(_Statement):
    predicate_type: Annotated[Literal["https://registry-gate.dev/approval/v1"], Field(alias="predicateType")]
    predicate: _ApprovalPredicate


class _BreakGlassStatement(_Statement):
    predicate_type: Annotated[Literal["https://registry-gate.dev/break-glass/v1"], Field(alias="predicateType")]
    predicate: _BreakGlassPredicate


class _RevocationStatement(_Statement):
    predicate_type: Annotated[Literal["https://registry-gate.dev/revocation/v1"], Field(alias="predicateType")]
    predicate: _RevocationPredicate


S = TypeVar("S", _WaiverStatement, _ApprovalStatement, _BreakGlassStatement, _RevocationStatement)


def _payload(predicate_type: str, form_digest: str, predicate: Mapping[str, Any]) -> bytes:
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "form", "digest": {"sha256": form_digest.removeprefix(_PREFIX)}}],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def _parse(payload: bytes, model: type[S], predicate_type: str) -> S:
    strict_json(payload, "a statement", MAX_STATEMENT_BYTES)
    try:
        return model.model_validate_json(payload)
    except ValidationError as err:
        raise EvidenceError(
            f"expected an in-toto statement of predicate type {predicate_type}, got: {schema_faults(err)}",
            code="statement_schema",
        ) from err


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
