"""The decision: allowed or denied, with the verdict and every reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """The states of knowing, worst first (METHOD.md section 2)."""

    INVALID = "invalid"
    STALE = "stale"
    FAIL = "fail"
    CONFLICT = "conflict"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"
    PASS_WITH_NOTES = "pass_with_notes"  # noqa: S105 - a verdict, no password
    PASS = "pass"  # noqa: S105

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Verdict).index(self)

    @property
    def promotes(self) -> bool:
        """Whether a promotion may happen on this verdict (policies may still refuse notes)."""
        return self in (Verdict.WAIVED, Verdict.PASS_WITH_NOTES, Verdict.PASS)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of some verdicts; of none it is `invalid`, because what was not judged is not safe."""
    return min(verdicts, key=lambda verdict: verdict.rank, default=Verdict.INVALID)


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One reason, complete enough for a person and for a machine.

    Args:
        code: Stable word, e.g. `evidence_missing`, `rule_failed`.
        message: The sentence a person reads: what was expected, what was found.
        verdict: What this reason alone makes of the decision.
        blocking: False for notes and for rules that only warn.
        policy: Name of the policy, when a policy is the cause.
        rule: Id of the rule, when a rule is the cause.
        measure: Measure that the rule reads.
        observed: What was measured, e.g. `14 of 120 (11.7 %)`.
        interval: Limits that were compared, e.g. `upper 95 % limit 17.7 %`.
        threshold: What the policy asks, e.g. `at most 5 %`.
        probes: Number of probes behind the value.
        severity: As the rule says.
        controls: Control ids of the rule.
        fix: What to do next, a command where there is one.
        staged: `warn` or `dryrun` where this would block if the rule or policy denied already.
    """

    code: str
    message: str
    verdict: Verdict
    blocking: bool = True
    policy: str | None = None
    rule: str | None = None
    measure: str | None = None
    observed: str | None = None
    interval: str | None = None
    threshold: str | None = None
    probes: int | None = None
    severity: str | None = None
    controls: tuple[str, ...] = ()
    fix: str | None = None
    staged: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, absent fields left out."""
        # Not `asdict`, which copies deeply: every field is immutable, and each promotion writes its reasons twice.
        return {key: value for key, value in vars(self).items() if value is not None and value != ()}


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """A named approver lets one form through named rules until a date. Never through `invalid` or `stale`.

    Args:
        id: Id under which it was granted.
        form_digest: The one form.
        policy: Name of the policy.
        rules: Ids of the rules.
        approver: Who approved; their signature under it verified.
        requester: Who asked; never the approver.
        reason: Why.
        ticket: Where the reason is followed up.
        granted_at: When it was signed.
        expires_at: From this moment on it no longer counts.
        revoked: Who took it back and why, or None.
    """

    id: str
    form_digest: str
    policy: str
    rules: tuple[str, ...]
    approver: str
    requester: str
    reason: str
    ticket: str
    granted_at: datetime
    expires_at: datetime
    revoked: str | None = None


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A named person approves one form under one policy as it is written, on top of what the evidence shows.

    Args:
        id: Id under which it was given.
        form_digest: The one form.
        policy: Name of the policy.
        policy_digest: What the policy said; under other words it no longer counts.
        approver: Who approved; their signature under it verified.
        requester: Who asked for it; never the approver.
        reason: Why.
        approved_at: When it was signed.
        revoked: Who took it back and why, or None.
    """

    id: str
    form_digest: str
    policy: str
    policy_digest: str
    approver: str
    requester: str
    reason: str
    approved_at: datetime
    revoked: str | None = None


@dataclass(frozen=True, kw_only=True)
class BreakGlass:
    """Somebody whom the policy set names overrides every policy for a short time, loudly.

    Args:
        id: Id under which it was opened.
        person: Who opened it; their signature under it verified.
        role: In which role of the policy set.
        reason: Why.
        ticket: Where that is followed up.
        workspace: The one workspace that it covers.
        models: Names of registered models that it covers, or patterns.
        opened_at: When it was signed.
        expires_at: From this moment on it no longer counts.
        closed: Who closed it and why, or None.
    """

    id: str
    person: str
    role: str
    reason: str
    ticket: str
    workspace: str
    models: tuple[str, ...]
    opened_at: datetime
    expires_at: datetime
    closed: str | None = None


@dataclass(frozen=True, kw_only=True)
class RefusedGrant:
    """What does not verify as somebody's signature; nothing else of it counts. Another type, so that nothing reads it.

    Args:
        id: Id under which it is filed.
        cause: What does not verify.
    """

    id: str
    cause: str


@dataclass(frozen=True, kw_only=True)
class Grants:
    """What people signed that a decision must know of, verified.

    Args:
        waivers: Everything granted under the policies, for other forms too: a policy's budget is shared.
        approvals: Everything approved under the policies.
        break_glass: Every opening that covers the model, past ones too.
    """

    waivers: tuple[Waiver | RefusedGrant, ...] = ()
    approvals: tuple[Approval | RefusedGrant, ...] = ()
    break_glass: tuple[BreakGlass | RefusedGrant, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What `decide` says about one form under all policies that govern a target.

    Args:
        verdict: The worst verdict over all policies and rules.
        allowed: Whether the promotion may happen.
        reasons: Every reason, blocking ones first; a decision that allows has none that blocks.
        form_digest: The form decided on; None when its manifest could not be read.
        policies: `(name, digest)` of every policy applied.
        evidence: Digests of the evidence used.
        waivers: Ids of the waivers that let a rule through.
        approvals: Ids of the approvals that count.
        break_glass: Id of the opening by which it is allowed although policies deny it, or None.
        assessments_needed: Battery ids that must be run, or run again, for a better answer.
        valid_until: From this moment on something that an allowed decision rests on (the age of evidence, a waiver) no
            longer counts. None when it was denied, or rests on nothing that ends.
    """

    verdict: Verdict
    allowed: bool
    reasons: tuple[Reason, ...]
    form_digest: str | None
    policies: tuple[tuple[str, str], ...] = ()
    evidence: tuple[str, ...] = ()
    assessments_needed: tuple[str, ...] = ()
    waivers: tuple[str, ...] = ()
    approvals: tuple[str, ...] = ()
    break_glass: str | None = None
    valid_until: datetime | None = None

    def __post_init__(self) -> None:
        if self.allowed and (not self.verdict.promotes or any(reason.blocking for reason in self.reasons)):
            raise ValueError(f"expected no blocking reason in an allowed decision, got verdict {self.verdict}")
        if not self.allowed and not any(reason.blocking for reason in self.reasons):
            raise ValueError("expected at least one blocking reason in a denial, got none")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "decision": "allowed" if self.allowed else "denied",
            "verdict": str(self.verdict),
            "reasons": [reason.to_dict() for reason in self.reasons],
            "form": self.form_digest,
            "policies": [{"name": name, "digest": digest} for name, digest in self.policies],
            "evidence": list(self.evidence),
            "assessments_needed": list(self.assessments_needed),
            # Only where there are some: what was decided before they were counted keeps its bytes.
            **({"waivers": list(self.waivers)} if self.waivers else {}),
            **({"approvals": list(self.approvals)} if self.approvals else {}),
            **({"break_glass": self.break_glass} if self.break_glass is not None else {}),
            "valid_until": None if self.valid_until is None else self.valid_until.astimezone(UTC).isoformat(),
        }
