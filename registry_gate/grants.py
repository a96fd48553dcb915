"""Fetch what people signed that a decision must know of, verified, with who took it back.

The one place that turns what the ledger holds into what `decide` is given, for the hook, reconcile, replay and the
command line.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from registry_gate.decision import Approval, BreakGlass, Grants, RefusedGrant, Waiver
from registry_gate.errors import ConfigError, EvidenceError
from registry_gate.evidence.grants import (
    Revocation,
    verify_approval,
    verify_break_glass,
    verify_revocation,
    verify_waiver,
)
from registry_gate.ledger import Ledger, StoredGrant
from registry_gate.ledger.store import ANY
from registry_gate.policy.document import PolicySet
from registry_gate.policy.grants import break_glass_fault, covers
from registry_gate.policy.schema import Policy

Grant = Waiver | Approval | BreakGlass
Read = tuple[StoredGrant, Grant | RefusedGrant]
"""What is filed, and what it says if it verifies."""


def grants_for(
    ledger: Ledger, policy_set: PolicySet, policies: Iterable[Policy], workspace: str, model: str, form_digest: str
) -> Grants:
    """What people signed under some policies, for whatever form, for budgets are shared; and break-glass for a model.

    What does not verify is left out unless it is filed for this form: nobody waits for it elsewhere.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    asked = [p.name for p in policies if p.spec.waivers is not None or p.spec.approvals is not None]
    if policy_set.break_glass is not None:
        asked.append(ANY)
    if not asked:
        return Grants()
    found = read_grants(ledger.grants(workspace=workspace, policies=asked), policy_set.people)
    return grants_of(
        [(row, one) for row, one in found if not isinstance(one, RefusedGrant) or row.form_digest == form_digest],
        workspace,
        model,
    )


def grants_of(found: Iterable[Read], workspace: str, model: str) -> Grants:
    """By kind; break-glass for other models is left out."""
    waivers: list[Waiver | RefusedGrant] = []
    approvals: list[Approval | RefusedGrant] = []
    openings: list[BreakGlass | RefusedGrant] = []
    for row, one in found:
        if isinstance(one, BreakGlass):
            if covers(one, workspace, model):
                openings.append(one)
        elif isinstance(one, Waiver):
            waivers.append(one)
        elif isinstance(one, Approval):
            approvals.append(one)
        elif row.kind == "waiver":
            waivers.append(one)
        elif row.kind == "approval":
            approvals.append(one)
        else:
            openings.append(one)
    return Grants(waivers=tuple(waivers), approvals=tuple(approvals), break_glass=tuple(openings))


def read_grants(grants: Sequence[StoredGrant], people: Mapping[str, bytes]) -> list[Read]:
    """Verify what is filed. What anything takes back is taken back, also when that does not verify."""
    keys = tuple(sorted(people.items()))
    taken_back = {
        grant.revokes: _revoked(grant.envelope, keys, grant.revokes)
        for grant in grants
        if grant.kind in ("revocation", "closing") and grant.revokes is not None
    }
    found: list[Read] = []
    for grant in grants:
        if grant.kind not in _VERIFIERS:
            continue
        one = _read(grant.kind, grant.id, grant.workspace, grant.envelope, keys)
        if one.id != grant.id:
            one = RefusedGrant(id=grant.id, cause=f"it is filed under this id, but signed as {one.id}")
        why = taken_back.get(grant.id)
        if why is not None and not isinstance(one, RefusedGrant):
            one = replace(one, closed=why) if isinstance(one, BreakGlass) else replace(one, revoked=why)
        found.append((grant, one))
    return found


_VERIFIERS: Mapping[str, Callable[[bytes, Mapping[str, bytes], str], Grant]] = {
    "waiver": verify_waiver,
    "approval": verify_approval,
    "opening": verify_break_glass,
}


def read_grant(row: StoredGrant, people: Mapping[str, bytes]) -> Grant | RefusedGrant:
    """Verify one, which may come from a file: what its envelope says it is, whatever id it lies under."""
    return _read(row.kind, row.id, row.workspace, row.envelope, tuple(sorted(people.items())))


@functools.lru_cache(maxsize=1024)
def _read(
    kind: str, grant_id: str, workspace: str, envelope: bytes, keys: tuple[tuple[str, bytes], ...]
) -> Grant | RefusedGrant:
    try:
        return _VERIFIERS[kind](envelope, dict(keys), workspace)
    except (EvidenceError, ConfigError) as err:
        return RefusedGrant(id=grant_id, cause=str(err))


@functools.lru_cache(maxsize=1024)
def _revoked(envelope: bytes, keys: tuple[tuple[str, bytes], ...], grant_id: str) -> str:
    # Fails closed: what cannot be read might be a revocation that somebody damaged.
    try:
        revocation: Revocation = verify_revocation(envelope, dict(keys))
    except (EvidenceError, ConfigError) as err:
        return f"by something that does not verify ({err})"
    if revocation.revokes != grant_id:
        return f"by something that was signed for {revocation.revokes}"
    return f"by {revocation.person} at {revocation.revoked_at.isoformat()} ({revocation.reason})"


# -- break-glass that is open, or has ended ----------------------------------------------------------------------------


def openings(ledger: Ledger, policy_set: PolicySet) -> list[tuple[StoredGrant, BreakGlass | RefusedGrant]]:
    """Every opening of break-glass that is filed, oldest first."""
    found = read_grants(ledger.grants(policies=[ANY]), policy_set.people)
    return [(row, one) for row, one in found if isinstance(one, BreakGlass | RefusedGrant)]


def open_now(ledger: Ledger, policy_set: PolicySet, now: datetime) -> list[BreakGlass]:
    """The openings that count at a moment."""
    return [
        one
        for _, one in openings(ledger, policy_set)
        if isinstance(one, BreakGlass) and break_glass_fault(policy_set.break_glass, one, now) is None
    ]


def record_ends(ledger: Ledger, policy_set: PolicySet, now: datetime) -> list[BreakGlass]:
    """File the end of every opening whose time is over and that nobody closed; once each. Those of now are returned.

    Nothing depends on it: an opening ends by the clock. It is for whoever reads the audit chain.
    """
    rows = ledger.grants(policies=[ANY])
    ended = {row.revokes for row in rows if row.kind in ("closing", "end")}
    found = []
    for row, one in read_grants(rows, policy_set.people):
        if isinstance(one, BreakGlass) and one.expires_at <= now and one.id not in ended:
            end = StoredGrant(
                # Its id follows from the opening's, so that two who notice at once file it once.
                id=str(uuid.uuid5(uuid.UUID(one.id), "end")),
                kind="end",
                workspace=row.workspace,
                form_digest=ANY,
                policy=ANY,
                revokes=one.id,
                envelope=b"",
            )
            if ledger.store_grant(end):
                found.append(one)
    return found
