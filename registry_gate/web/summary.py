"""What the policies make of one piece of evidence: the rows and the decision behind every table and report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from registry_gate.calibrations import calibrations_of
from registry_gate.decision import Decision, Grants, Waiver
from registry_gate.evidence.envelope import Verified
from registry_gate.policy.document import PolicySet
from registry_gate.policy.inputs import VerifiedEvidence
from registry_gate.policy.outcomes import RuleOutcome, rule_outcomes, signs_of
from registry_gate.policy.rules import NO_GRANTS, decide
from registry_gate.policy.schema import Policy
from registry_gate.web.report import ReportData, ReportRow, render_report


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One piece of evidence under some policies.

    Args:
        verified: The evidence.
        policies: The policies that rest on its battery.
        outcomes: What each of their rules found.
        decision: What they decide together.
        decided_at: The moment they were asked about.
        waivers: Those that let a rule through.
    """

    verified: Verified
    policies: tuple[Policy, ...]
    outcomes: tuple[RuleOutcome, ...]
    decision: Decision
    decided_at: datetime
    waivers: tuple[Waiver, ...] = ()


def policies_for(policy_set: PolicySet, model: str, battery: str) -> tuple[Policy, ...]:
    """The policies that may govern a model and rest on a battery, by name.

    Of a model that none of them governs (a base, say), all that rest on the battery: what they would make of it.
    """
    resting = [p for _, p in sorted(policy_set.policies.items()) if p.spec.evidence.battery == battery]
    governing = [p for p in resting if p.may_govern(model)]
    return tuple(governing or resting)


def summarise(
    policy_set: PolicySet,
    policies: Iterable[Policy],
    verified: Verified,
    now: datetime,
    grants: Grants = NO_GRANTS,
) -> Summary:
    """Apply policies to evidence, as the hook would if its form were asked for now."""
    chosen = tuple(policies)
    assessment = verified.assessment
    outcomes: list[RuleOutcome] = []
    for policy in chosen:
        battery = policy_set.batteries[policy.spec.evidence.battery]
        outcomes += rule_outcomes(policy.as_of(now), assessment, battery)
    decision = decide(
        policies=chosen,
        batteries=policy_set.batteries,
        form=verified.statement.manifest,
        evidence=[VerifiedEvidence(digest=verified.digest, assessment=assessment, signers=verified.signers)],
        calibrations=calibrations_of(policy_set),
        grants=grants,
        break_glass=policy_set.break_glass,
        now=now,
    )
    used = tuple(one for one in grants.waivers if isinstance(one, Waiver) and one.id in decision.waivers)
    return Summary(
        verified=verified,
        policies=chosen,
        outcomes=tuple(outcomes),
        decision=decision,
        decided_at=now,
        waivers=used,
    )


def report(summary: Summary) -> str:
    """The HTML report of a summary."""
    statement = summary.verified.statement
    digest = summary.verified.digest
    return render_report(
        ReportData(
            assessment=statement.assessment,
            manifest=statement.manifest,
            decision=summary.decision,
            rows=tuple(_row(outcome) for outcome in summary.outcomes),
            model_version=statement.name,
            target=f"any target governed by {', '.join(policy.name for policy in summary.policies) or 'no policy'}",
            decided_at=summary.decided_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            evidence_digest=digest,
            signers=summary.verified.signers,
            verify_command=f"registry-gate evidence verify {digest.removeprefix('sha256:')}.dsse.json",
            tool=statement.assessment.tool,
            signs=_signs(summary),
        )
    )


def _signs(summary: Summary) -> tuple[tuple[str, str], ...]:
    found = []
    for policy in summary.policies:
        signs = signs_of([outcome for outcome in summary.outcomes if outcome.policy == policy.name])
        if signs is not None:
            found.append((policy.name, str(signs)))
    return tuple(found)


def _row(outcome: RuleOutcome) -> ReportRow:
    rule, adapted, base, difference = outcome.rule, outcome.adapted, outcome.base, outcome.difference
    return ReportRow(
        policy=outcome.policy,
        rule=rule.id,
        title=rule.title,
        measure=rule.measure,
        adapted_events=adapted.events if adapted else None,
        adapted_probes=adapted.probes if adapted else None,
        adapted_lower=adapted.lower if adapted else None,
        adapted_upper=adapted.upper if adapted else None,
        base_events=base.events if base else None,
        base_lower=base.lower if base else None,
        base_upper=base.upper if base else None,
        difference=difference.value if difference else None,
        difference_lower=difference.lower if difference else None,
        difference_upper=difference.upper if difference else None,
        ceiling=rule.at_most,
        margin=rule.not_worse_than_base,
        verdict=outcome.verdict,
        controls=rule.controls,
        severity=rule.severity,
        note=" ".join(finding.message for finding in outcome.findings),
        weight=difference.people.weight if difference and difference.people else None,
    )
