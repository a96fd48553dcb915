"""Fetch past decisions with what they could rest on, so that `policy.replay` can decide them again.

Evidence and what people signed are those that were filed by the moment of the decision, verified with the keys of the
policy set in force: the sets that are compared may be old revisions that hold none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from registry_gate.decision import Grants, Reason, RefusedGrant, Verdict
from registry_gate.errors import ConfigError, EvidenceError
from registry_gate.evidence.envelope import verify
from registry_gate.form import FormManifest
from registry_gate.grants import grants_of, read_grants
from registry_gate.ledger import Ledger, StoredGrant
from registry_gate.policy.document import PolicySet
from registry_gate.policy.inputs import EvidenceItem, UnverifiedEvidence, VerifiedEvidence
from registry_gate.policy.replay import Past
from registry_gate.standing import target_of


def past_decisions(ledger: Ledger, in_force: PolicySet, *, since: str | None = None, limit: int) -> Iterator[Past]:
    """Past decisions, oldest first.

    Args:
        ledger: Where they are.
        in_force: Its keys verify evidence and what people signed.
        since: Only those from this moment on, as the ledger writes moments.
        limit: The newest so many.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    known: dict[tuple[str, str], tuple[FormManifest | None, list[tuple[str, EvidenceItem]]]] = {}
    grants = ledger.grants()
    for body in reversed(ledger.decisions(limit=limit)):
        if since is not None and body["decided_at"] < since:
            continue
        workspace, digest = str(body["workspace"]), body.get("form")
        form: FormManifest | None = None
        items: tuple[EvidenceItem, ...] = ()
        if digest is not None:
            key = (workspace, str(digest))
            if key not in known:
                known[key] = _filed(ledger, in_force, *key)
            form, filed = known[key]
            items = tuple(item for at, item in filed if at <= body["decided_at"])
        yield Past(
            id=str(body["id"]),
            target=target_of(body),
            version=f"models:/{body['version']['name']}/{body['version']['version']}",
            decided_at=datetime.fromisoformat(body["decided_at"]),
            allowed=body["decision"] == "allowed",
            reasons=tuple(_reason(reason) for reason in body["reasons"]),
            form=form,
            evidence=items,
            grants=_grants(grants, in_force, workspace, str(body["target"]["model"]), body["decided_at"]),
            requester=str(body["actor"]["name"]),
            rollback=any(reason["code"] == "rollback" for reason in body["reasons"]),
        )


def _filed(
    ledger: Ledger, in_force: PolicySet, workspace: str, digest: str
) -> tuple[FormManifest | None, list[tuple[str, EvidenceItem]]]:
    """The form, where evidence of any time says what it is, and all evidence with the moment it was filed."""
    form: FormManifest | None = None
    found: list[tuple[str, EvidenceItem]] = []
    for stored in ledger.evidence_for(digest, workspace):
        try:
            verified = verify(stored.envelope, in_force.signers)
        except (EvidenceError, ConfigError) as err:
            found.append((stored.stored_at, UnverifiedEvidence(digest=stored.digest, cause=str(err))))
            continue
        # The row is a claim: evidence that is filed under another form says nothing of this one.
        if verified.statement.manifest.digest == digest:
            form = verified.statement.manifest
        found.append(
            (
                stored.stored_at,
                VerifiedEvidence(digest=verified.digest, assessment=verified.assessment, signers=verified.signers),
            )
        )
    return form, found


def _grants(grants: list[StoredGrant], in_force: PolicySet, workspace: str, model: str, moment: str) -> Grants:
    """What was signed, and not taken back, by a moment."""
    then = [grant for grant in grants if grant.workspace == workspace and grant.stored_at <= moment]
    found = [(row, one) for row, one in read_grants(then, in_force.people) if not isinstance(one, RefusedGrant)]
    return grants_of(found, workspace, model)


def _reason(said: Mapping[str, Any]) -> Reason:
    return Reason(
        code=said["code"],
        message=said["message"],
        verdict=Verdict(said["verdict"]),
        blocking=bool(said["blocking"]),
        policy=said.get("policy"),
        rule=said.get("rule"),
    )
