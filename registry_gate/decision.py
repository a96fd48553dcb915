"""The decision: allowed or denied, with the verdict and every reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
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
        approver: Who approved.
        requester: Who asked; never the approver.
        reason: Why.
        expires_at: From this moment on it no longer counts.
    """

    id: str
    form_digest: str
    policy: str
    rules: tuple[str, ...]
    approver: str
    requester: str
    reason: str
    expires_at: datetime


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
        assessments_needed: Battery ids that must be run, or run again, for a better answer.
    """

    verdict: Verdict
    allowed: bool
    reasons: tuple[Reason, ...]
    form_digest: str | None
    policies: tuple[tuple[str, str], ...] = ()
    evidence: tuple[str, ...] = ()
    assessments_needed: tuple[str, ...] = ()

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
        }
