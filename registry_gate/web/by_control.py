"""What one piece of evidence shows for each control that rules name, and what it does not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from registry_gate.decision import Verdict, worst
from registry_gate.policy.controls import Control
from registry_gate.web.summary import Summary

_UNKNOWN = "The catalogue does not say: the id is in none of its files."


@dataclass(frozen=True, kw_only=True)
class ControlRow:
    """One control.

    Args:
        control: Its id.
        title: What it asks for; None where the catalogue does not hold it.
        framework: Framework and edition; None likewise.
        certainty: How far the entry was checked, and when.
        status: The worst verdict of its rules, or of the evidence as a whole where no rule could be judged.
        rules: `POLICY RULE: verdict`.
        evidence: Digest of the evidence.
        assessed_at: When it was measured.
        signers: Who signed it.
        waivers: Ids of the waivers by which its rules were let through.
        not_shown: What this does not show.
    """

    control: str
    title: str | None
    framework: str | None
    certainty: str | None
    status: str
    rules: tuple[str, ...]
    evidence: str
    assessed_at: str
    signers: tuple[str, ...]
    waivers: tuple[str, ...]
    not_shown: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def by_control(summary: Summary, catalogue: Mapping[str, Control]) -> tuple[ControlRow, ...]:
    """A row for each control that a rule of the policies names, in the order of ids."""
    named: dict[str, list[tuple[str, str]]] = {}
    for policy in summary.policies:
        for rule in policy.spec.rules:
            for control in rule.controls:
                named.setdefault(control, []).append((policy.name, rule.id))
    return tuple(_row(control, rules, summary, catalogue.get(control)) for control, rules in sorted(named.items()))


def _row(control: str, rules: list[tuple[str, str]], summary: Summary, known: Control | None) -> ControlRow:
    verdicts = {rule: _verdict(rule, summary) for rule in rules}
    waived = [rule for rule, verdict in verdicts.items() if verdict is Verdict.WAIVED]
    not_shown = _UNKNOWN if known is None else known.not_shown
    if known is not None and known.retired is not None:
        not_shown += f" It is out of force: {known.retired}."
    return ControlRow(
        control=control,
        title=None if known is None else known.title,
        framework=None if known is None else known.framework,
        certainty=None if known is None else f"{known.certainty}, {known.verified}",
        status=str(worst(verdicts.values())),
        rules=tuple(f"{policy} {rule}: {verdict}" for (policy, rule), verdict in verdicts.items()),
        evidence=summary.verified.digest,
        assessed_at=summary.verified.assessment.assessed_at,
        signers=summary.verified.signers,
        waivers=tuple(
            waiver.id
            for waiver in summary.waivers
            if any(waiver.policy == policy and rule in waiver.rules for policy, rule in waived)
        ),
        not_shown=not_shown,
    )


def _verdict(rule: tuple[str, str], summary: Summary) -> Verdict:
    """What the decision says of a rule; where it could not be judged, what stands in the way.

    Nothing is inferred: a rule of which the decision says nothing is as bad as what blocks the policy.
    """
    of_rule = [r for r in summary.decision.reasons if (r.policy, r.rule) == rule]
    if of_rule:
        return worst(reason.verdict for reason in of_rule)
    of_policy = [r for r in summary.decision.reasons if r.blocking and r.policy in (rule[0], None) and r.rule is None]
    return worst(reason.verdict for reason in of_policy)
