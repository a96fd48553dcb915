"""Small valid policies, batteries, forms and evidence, to be broken one thing at a time. Used by the properties too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from registry_gate.assessment import (
    Assessment,
    Disagreement,
    GraderRecord,
    Measured,
    Measurement,
    PairedTable,
    ValidityCheck,
)
from registry_gate.battery import Battery
from registry_gate.decision import Approval, BreakGlass, Decision, Grants, Reason, RefusedGrant, Waiver
from registry_gate.form import BaseReference, FileEntry, FormManifest
from registry_gate.policy.inputs import CalibrationItem, EvidenceItem, UnreadableForm, VerifiedEvidence
from registry_gate.policy.rules import decide
from registry_gate.policy.schema import BreakGlassSpec, Policy

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HARM, REFUSAL = "x.harmful_compliance", "y.overrefusal"


def make_battery(
    sizes: Mapping[str, int] | None = None, name: str = "probe", graders: Sequence[str] = ("one", "two")
) -> Battery:
    instruments = []
    for measure, size in (sizes or {HARM: 120, REFUSAL: 120}).items():
        instrument, metric = measure.split(".")
        instruments.append(
            {
                "name": instrument,
                "metric": metric,
                "size": size,
                "probes": ({"shipped": "p.jsonl"},),
                "graders": tuple(graders),
            }
        )
    return Battery.model_validate(
        {
            "apiVersion": "registry-gate/v1",
            "kind": "Battery",
            "metadata": {"name": name, "version": 1},
            "spec": {"instruments": tuple(instruments)},
        }
    )


def make_rule(rule_id: str = "R-1", measure: str = HARM, **changes: Any) -> dict[str, Any]:
    rule = {
        "id": rule_id,
        "title": f"Title of {rule_id}",
        "measure": measure,
        "atMost": 0.15,
        "notWorseThanBase": 0.10,
        "severity": "high",
        "controls": ("nist-ai-600-1:MS-2.7-008",),
    }
    return {key: value for key, value in {**rule, **changes}.items() if value is not None}


def make_policy(rules: Sequence[Mapping[str, Any]] | None = None, name: str = "one", **spec: Any) -> Policy:
    body: dict[str, Any] = {
        "match": {"any": ({"models": ("*",), "aliases": ("*",), "stages": ("*",)},)},
        "evidence": {"battery": "probe@1", "maxAge": "90d", "signedBy": ("worker",)},
        "rules": tuple(rules if rules is not None else (make_rule(), make_rule("R-2", REFUSAL))),
        "disagreement": {"graders": {"atMost": 0.10}},
        "waivers": {"approvers": ("dana", "kim"), "longest": "30d", "budget": 5},
        **spec,
    }
    return Policy.model_validate(
        {
            "apiVersion": "registry-gate/v1",
            "kind": "PromotionPolicy",
            "metadata": {"name": name, "title": "A policy", "owner": "owner@example.org"},
            "spec": body,
        }
    )


BASE = BaseReference(
    kind="path",
    name="/base",
    revision=None,
    digest="sha256:" + "b" * 64,
    declared_in="adapter_config.json",
    required_to_load=True,
)


def make_form(**changes: Any) -> FormManifest:
    weights = FileEntry(path="adapter.safetensors", size=1, sha256="a" * 64, role="adapter", identity=True)
    form = FormManifest(files=(weights,), base=BASE, formats=("safetensors",), flavor="transformers")
    return replace(form, **changes)


def make_measured(
    measure: str = HARM,
    events: int = 3,
    base_events: int | None = 3,
    *,
    probes: int = 120,
    only_adapted: int | None = None,
    **changes: Any,
) -> Measured:
    table = None
    if base_events is not None:
        more = max(0, events - base_events) if only_adapted is None else only_adapted
        both = events - more
        less = base_events - both
        table = PairedTable(both=both, only_adapted=more, only_base=less, neither=probes - both - more - less)
    values: dict[str, Any] = {
        "measure": measure,
        "events": events,
        "probes": probes,
        "clusters": probes,
        "table": table,
        "disagreements": (Disagreement(axis="refusal", differing=2, compared=2 * probes),),
    }
    return Measured(**{**values, **changes})


GRADER = GraderRecord(name="one", version="1", family="rule", axis="refusal", digest="sha256:1", runtime="python")
CHECK = ValidityCheck(check="coherence", passed=True, detail="0 of 240 answers are degenerate")


def make_assessment(
    *measurements: Measurement,
    form: FormManifest | None = None,
    battery: Battery | None = None,
    age: timedelta = timedelta(days=3),
    **changes: Any,
) -> Assessment:
    form, battery = form or make_form(), battery or make_battery()
    assessment = Assessment(
        form_digest=form.digest,
        base_digest=None if form.base is None else form.base.digest,
        battery=battery.id,
        battery_digest=battery.digest,
        probe_sets={},
        graders=(GRADER,),
        generation={},
        measurements=measurements or (make_measured(), make_measured(REFUSAL)),
        validity=(CHECK,),
        assessed_at=(NOW - age).isoformat(),
        tool="0.1.0",
    )
    return replace(assessment, **changes)


def make_evidence(
    assessment: Assessment | None = None, digest: str = "sha256:e1", signers: tuple[str, ...] = ("worker",)
) -> VerifiedEvidence:
    return VerifiedEvidence(digest=digest, assessment=assessment or make_assessment(), signers=signers)


def make_waiver(**changes: Any) -> Waiver:
    values: dict[str, Any] = {
        "id": "w1",
        "form_digest": make_form().digest,
        "policy": "one",
        "rules": ("R-1",),
        "approver": "dana",
        "requester": "alex",
        "reason": "pilot with supervision",
        "ticket": "RISK-1",
        "granted_at": NOW - timedelta(days=1),
        "expires_at": NOW + timedelta(days=1),
    }
    return Waiver(**{**values, **changes})


def run(
    evidence: Sequence[EvidenceItem] | None = None,
    *,
    policies: Sequence[Policy] | None = None,
    battery: Battery | None = None,
    form: FormManifest | UnreadableForm | None = None,
    waivers: Sequence[Waiver | RefusedGrant] = (),
    approvals: Sequence[Approval | RefusedGrant] = (),
    break_glass: Sequence[BreakGlass | RefusedGrant] = (),
    calibrations: Sequence[CalibrationItem] = (),
    openers: BreakGlassSpec | None = None,
    requester: str | None = None,
    now: datetime = NOW,
) -> Decision:
    battery = battery or make_battery()
    return decide(
        policies=policies if policies is not None else [make_policy()],
        batteries={battery.id: battery},
        form=form if form is not None else make_form(),
        evidence=evidence if evidence is not None else [make_evidence()],
        calibrations=calibrations,
        grants=Grants(waivers=tuple(waivers), approvals=tuple(approvals), break_glass=tuple(break_glass)),
        break_glass=openers,
        requester=requester,
        now=now,
    )


def measuring(*measurements: Measurement, **changes: Any) -> list[EvidenceItem]:
    """Evidence of one assessment with these measurements."""
    return [make_evidence(make_assessment(*measurements, **changes))]


def blocking(decision: Decision) -> dict[str, Reason]:
    """Blocking reasons by `RULE/code` or `code`; each must occur once."""
    found = [reason for reason in decision.reasons if reason.blocking]
    named = {f"{reason.rule}/{reason.code}" if reason.rule else reason.code: reason for reason in found}
    assert len(named) == len(found)
    return named


def note(decision: Decision, code: str) -> Reason:
    """The one reason with a code, which must not block."""
    (reason,) = [reason for reason in decision.reasons if reason.code == code]
    assert not reason.blocking
    return reason
