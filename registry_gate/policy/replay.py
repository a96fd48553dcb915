"""Decide past decisions again under other policies, with what was known then: what a change would have changed.

Pure. Nothing is measured again; every past decision is given to `decide` with its own moment, form,
evidence and what people had signed. What cannot be replayed is counted with its cause, never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from registry_gate.decision import Decision, Grants, Reason, Verdict
from registry_gate.form import FormManifest
from registry_gate.policy.document import PolicySet
from registry_gate.policy.inputs import CalibrationItem, EvidenceItem, VerifiedCalibration
from registry_gate.policy.rules import NO_GRANTS, decide
from registry_gate.promotion import Target


@dataclass(frozen=True, kw_only=True)
class Past:
    """A decision of the ledger with what it could rest on.

    Args:
        id: Its id.
        target: What was asked for.
        version: The version that it would have meant, `models:/name/7`.
        decided_at: When.
        allowed: Whether it was allowed.
        reasons: What was said then.
        form: The form; None where no evidence says what its files are.
        evidence: What was filed by then.
        grants: What people had signed by then.
        requester: Who asked.
        rollback: Whether it returned a target to a form that was allowed there before, which no policy decides.
    """

    id: str
    target: Target
    version: str
    decided_at: datetime
    allowed: bool
    reasons: tuple[Reason, ...]
    form: FormManifest | None
    evidence: tuple[EvidenceItem, ...]
    grants: Grants = NO_GRANTS
    requester: str | None = None
    rollback: bool = False


class Outcome(StrEnum):
    """What becomes of a past decision."""

    SAME = "same"
    DENIED = "denied"
    RELEASED = "released"
    NOT_REPLAYED = "not replayed"


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One past decision under both policy sets.

    Args:
        past: The decision.
        outcome: `denied`: allowed before, and no longer. `released`: the opposite.
        causes: Why: what blocks after (denied) or blocked before (released), as `POLICY RULE`, `POLICY code` or a code.
        note: Why it was not replayed; empty otherwise.
    """

    past: Past
    outcome: Outcome
    causes: tuple[str, ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "decision": self.past.id,
            "target": str(self.past.target),
            "version": self.past.version,
            "decided_at": self.past.decided_at.isoformat(),
            "outcome": str(self.outcome),
            "causes": list(self.causes),
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Every past decision under both policy sets."""

    results: tuple[Replayed, ...]

    def of(self, outcome: Outcome) -> tuple[Replayed, ...]:
        """The decisions with one outcome."""
        return tuple(one for one in self.results if one.outcome is outcome)

    def by_cause(self, outcome: Outcome) -> list[tuple[str, int]]:
        """How many decisions each cause is behind, the commonest first; a decision counts for each of its causes."""
        counts = Counter(cause for one in self.of(outcome) for cause in one.causes)
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    @property
    def changes(self) -> bool:
        """Whether any decision turns."""
        return bool(self.of(Outcome.DENIED) or self.of(Outcome.RELEASED))


Calibrations = Callable[[PolicySet], Sequence[CalibrationItem]]


def replay(
    decisions: Iterable[Past],
    old: PolicySet | None,
    new: PolicySet,
    calibrations: Calibrations = lambda _: (),
) -> Replay:
    """What becomes of past decisions.

    Args:
        decisions: The past.
        old: What to compare with; None compares with what was decided then.
        new: The policies in question.
        calibrations: Those of a set, verified. They are part of the policies, not of the past: each counts as if it had
            been made by the moment of the decision.
    """
    return Replay(results=tuple(_one(past, old, new, calibrations) for past in decisions))


def _one(past: Past, old: PolicySet | None, new: PolicySet, calibrations: Calibrations) -> Replayed:
    if past.rollback:
        return Replayed(past=past, outcome=Outcome.NOT_REPLAYED, note="a rollback, which no policy decides")
    after = _decided(past, new, calibrations)
    before: tuple[bool, tuple[Reason, ...]] | str
    before = (past.allowed, past.reasons) if old is None else _decided(past, old, calibrations)
    for found in (before, after):
        if isinstance(found, str):
            return Replayed(past=past, outcome=Outcome.NOT_REPLAYED, note=found)
    if isinstance(before, str) or isinstance(after, str) or before[0] == after[0]:
        return Replayed(past=past, outcome=Outcome.SAME)
    denied = before[0]
    return Replayed(
        past=past,
        outcome=Outcome.DENIED if denied else Outcome.RELEASED,
        causes=_causes(after[1] if denied else before[1]),
    )


def _decided(past: Past, policy_set: PolicySet, calibrations: Calibrations) -> tuple[bool, tuple[Reason, ...]] | str:
    """Whether a set allows it, with every reason; or why that cannot be told."""
    governance = policy_set.governing(past.target)
    if governance.free is not None:
        return True, ()
    if not governance.policies:
        reason = Reason(code="unmatched", message="no policy governs this target", verdict=Verdict.INVALID)
        return (True, ()) if governance.unmatched == "allow" else (False, (reason,))
    if past.form is None:
        return "no evidence of this form was ever filed, so its files are not known"
    missing = {p.spec.evidence.battery for p in governance.policies} - set(policy_set.batteries)
    if missing:
        return f"battery {', '.join(sorted(missing))} is not there any more"
    decision: Decision = decide(
        policies=governance.policies,
        batteries=policy_set.batteries,
        form=past.form,
        evidence=past.evidence,
        calibrations=_by(past.decided_at, calibrations(policy_set)),
        grants=past.grants,
        break_glass=policy_set.break_glass,
        requester=past.requester,
        now=past.decided_at,
    )
    return decision.allowed, decision.reasons


def _by(moment: datetime, calibrations: Sequence[CalibrationItem]) -> list[CalibrationItem]:
    """Those that came later as if they had been made at the moment, one after the other as they were.

    Their order stays, because of two on the same data the newest stands.
    """
    dates = sorted({one.calibration.calibrated_at for one in calibrations if isinstance(one, VerifiedCalibration)})
    later = {
        date: moment + timedelta(microseconds=place)
        for place, date in enumerate((date for date in dates if date > moment), 1)
    }
    return [
        replace(one, calibration=replace(one.calibration, calibrated_at=later[one.calibration.calibrated_at]))
        if isinstance(one, VerifiedCalibration) and one.calibration.calibrated_at in later
        else one
        for one in calibrations
    ]


def _causes(reasons: Sequence[Reason]) -> tuple[str, ...]:
    found = [f"{r.policy} {r.rule or r.code}" if r.policy else r.code for r in reasons if r.blocking]
    return tuple(dict.fromkeys(found))


def counts(result: Replay) -> Mapping[str, int]:
    """How many decisions have each outcome."""
    return {str(outcome): len(result.of(outcome)) for outcome in Outcome}
