"""Which waivers, approvals and openings of break-glass count at a moment, and why the others do not.

Pure, and the only place that says so: `decide`, the command line and lint's advice all ask here. That a signature
verified is known by the type; here is what the policies say about who signed what, for whom and until when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from registry_gate.decision import Approval, BreakGlass, RefusedGrant, Waiver
from registry_gate.policy.names import matches
from registry_gate.policy.schema import BreakGlassSpec, Policy

CLOCK_TOLERANCE = timedelta(minutes=5)
"""What was signed may be this much ahead of the gate's clock; beyond it one of the clocks is wrong."""


def waiver_faults(policy: Policy, waivers: Sequence[Waiver | RefusedGrant], now: datetime) -> Mapping[str, str | None]:
    """Why each waiver of a policy does not count, None for those that do, by id.

    Args:
        policy: The policy.
        waivers: All of it, for whatever form; those of other policies are left out.
        now: The moment, with zone.
    """
    mine = [waiver for waiver in waivers if isinstance(waiver, Waiver) and waiver.policy == policy.name]
    faults = {waiver.id: _waiver_fault(policy, waiver, now) for waiver in mine}
    # An id that stands for two is no id: neither counts.
    for waiver in mine:
        if any(other.id == waiver.id and other != waiver for other in mine):
            faults[waiver.id] = "its id stands for another waiver too"
    allowed = policy.spec.waivers
    if allowed is not None:
        # The oldest first, so that a waiver that counts is never pushed out by a new one.
        standing = sorted({(w.granted_at, w.id) for w in mine if faults[w.id] is None})
        for _, name in standing[allowed.budget :]:
            faults[name] = (
                f"older ones use up the budget of {allowed.budget}: it counts once one of them has ended or is revoked"
            )
    return faults


def _waiver_fault(policy: Policy, waiver: Waiver, now: datetime) -> str | None:
    """Why a waiver taken alone does not count, or None when it does."""
    allowed = policy.spec.waivers
    if allowed is None:
        return f"policy {policy.name} grants no waivers"
    if not waiver.approver.strip() or not waiver.requester.strip():
        return "it does not name both who asked and who approved"
    if _same(waiver.approver, waiver.requester):
        return f"{waiver.approver} approved what they asked for themselves"
    if waiver.approver not in allowed.approvers:
        return f"{waiver.approver} is not among those who may approve ({', '.join(allowed.approvers)})"
    if waiver.expires_at.tzinfo is None or waiver.granted_at.tzinfo is None:
        return "its grant or expiry has no zone"
    if waiver.revoked is not None:
        return f"it was revoked: {waiver.revoked}"
    if (fault := _moment_fault("granted", waiver.granted_at, now)) is not None:
        return fault
    if waiver.expires_at - waiver.granted_at > allowed.longest_delta:
        return f"it lasts {age_of(waiver.expires_at - waiver.granted_at)}, and the policy allows {allowed.longest}"
    if waiver.expires_at <= now:
        return f"it expired at {waiver.expires_at.isoformat()}"
    return None


def approval_faults(
    policy: Policy, approvals: Sequence[Approval | RefusedGrant], requester: str | None, now: datetime
) -> Mapping[str, str | None]:
    """Why each approval under a policy does not count, None for those that do, by id.

    Args:
        policy: The policy as it is written, whose digest approvals name.
        approvals: All of them, for whatever form; those of other policies are left out.
        requester: Who asks for the promotion, never counted as an approver; None where nobody asks.
        now: The moment, with zone.
    """
    mine = [one for one in approvals if isinstance(one, Approval) and one.policy == policy.name]
    return {one.id: _approval_fault(policy, one, requester, now) for one in mine}


def _approval_fault(policy: Policy, approval: Approval, requester: str | None, now: datetime) -> str | None:
    asked = policy.spec.approvals
    if asked is None:
        return f"policy {policy.name} asks for no approvals"
    if approval.policy_digest != policy.digest:
        return f"policy {policy.name} has changed since it was given"
    if approval.approver not in asked.approvers:
        return f"{approval.approver} is not among those who may approve ({', '.join(asked.approvers)})"
    for asking in (approval.requester, requester):
        if asking is not None and _same(approval.approver, asking):
            return f"{approval.approver} approved what they asked for themselves"
    if not approval.requester.strip():
        return "it does not name who asked"
    if approval.revoked is not None:
        return f"it was revoked: {approval.revoked}"
    return _moment_fault("given", approval.approved_at, now)


def break_glass_fault(allowed: BreakGlassSpec | None, opened: BreakGlass, now: datetime) -> str | None:
    """Why an opening of break-glass does not count at a moment, or None when it does.

    Args:
        allowed: What the policy set in force says.
        opened: The opening.
        now: The moment, with zone.
    """
    if allowed is None:
        return "the policy set names nobody who may open break-glass"
    if opened.person not in allowed.people_of(opened.role):
        named = ", ".join(f"{role.name}: {', '.join(role.people)}" for role in allowed.roles)
        return f"{opened.person} may not open it as {opened.role} (who may: {named})"
    if opened.expires_at.tzinfo is None:
        return "its end has no zone"
    if opened.closed is not None:
        return f"it was closed: {opened.closed}"
    fault = _moment_fault("opened", opened.opened_at, now)
    if fault is not None:
        return fault
    if opened.expires_at - opened.opened_at > allowed.longest_delta:
        return f"it lasts {age_of(opened.expires_at - opened.opened_at)}, and the policy set allows {allowed.longest}"
    if opened.expires_at <= now:
        return f"it ended at {opened.expires_at.isoformat()}"
    return None


def covers(opened: BreakGlass, workspace: str, model: str) -> bool:
    """Whether an opening is for a model; letter by letter, because it loosens."""
    return opened.workspace == workspace and matches(model, opened.models)


def age_of(duration: timedelta) -> str:
    """A duration in the unit that a person would use."""
    seconds = duration.total_seconds()
    if seconds < 2 * 3600:
        return f"{int(seconds // 60)} minutes"
    return f"{duration.days} days" if duration.days >= 2 else f"{int(seconds // 3600)} hours"


def _same(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold()


def _moment_fault(what: str, moment: datetime, now: datetime) -> str | None:
    if moment.tzinfo is None:
        return f"when it was {what} has no zone"
    if moment - now > CLOCK_TOLERANCE:
        return f"it was {what} at {moment.isoformat()}, which is in the future: one of the clocks is wrong"
    return None
