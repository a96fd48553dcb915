"""Run policy tests: a form, evidence and a date, and the decision that the policies must give.

A case names a target, not a policy, so it also tests which policies govern. It is judged by the same `decide` as a
promotion. That no case ran is a result of its own, never a success.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from registry_gate.assessment import (
    Assessment,
    ClusterCount,
    Disagreement,
    GraderRecord,
    HitCount,
    LabelledCell,
    Measured,
    Measurement,
    NotMeasured,
    PairedTable,
    PeopleLabels,
    Stopped,
    ValidityCheck,
)
from registry_gate.battery import Battery, InstrumentSpec
from registry_gate.decision import Approval, BreakGlass, Decision, Grants, Reason, RefusedGrant, Waiver
from registry_gate.documents import DocumentError, Problem, RawDocument, validate
from registry_gate.form import BaseReference, FileEntry, FormManifest
from registry_gate.policy.case_names import graders_of, unknown_names
from registry_gate.policy.codes import sentence_of
from registry_gate.policy.document import PolicySet
from registry_gate.policy.files import BATTERIES_DIRECTORY, CONTROLS_DIRECTORY, POLICY_SET_FILE, PolicyFiles
from registry_gate.policy.grants import covers
from registry_gate.policy.inputs import (
    CalibrationItem,
    EvidenceItem,
    UnreadableForm,
    UnverifiedCalibration,
    UnverifiedEvidence,
    VerifiedCalibration,
    VerifiedEvidence,
)
from registry_gate.policy.rules import decide
from registry_gate.policy.schema import (
    CaseCalibration,
    CaseEvidence,
    CaseForm,
    CaseHits,
    CaseLabels,
    CaseMeasure,
    CaseSpec,
    PolicyTest,
)
from registry_gate.statistics.admission import Calibration, SourceCounts
from registry_gate.statistics.agreement import Confusion


@dataclass(frozen=True, kw_only=True)
class ToldReason:
    """A reason that a case expects or got, with its sentence.

    Args:
        label: As cases write it.
        expected: Whether the case expects it.
        got: Whether it came, as a reason or as a note, whichever is expected.
        sentence: What it says; for one that did not come, what its code stands for.
    """

    label: str
    expected: bool
    got: bool
    sentence: str

    def __str__(self) -> str:
        how = "got" if not self.expected else "expected and got" if self.got else "expected, not got"
        return f"{how} {self.label}: {self.sentence}"


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One case that ran.

    Args:
        name: Name of the case.
        title: What it shows.
        file: File it is in.
        line: Line where its expectation stands.
        policies: Policies that governed the target.
        differences: What was expected and what came instead; empty when the case holds.
        decision: What `decide` said; None for a target that is free or that no policy governs.
        told: Reasons that the case expects or got, where it does not hold.
    """

    name: str
    title: str
    file: str
    line: int
    policies: tuple[str, ...]
    differences: tuple[str, ...]
    decision: Decision | None
    told: tuple[ToldReason, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the decision is the expected one."""
        return not self.differences


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """All cases of a directory.

    Args:
        results: Cases that ran, in order of files.
        problems: Files or cases that could not be read or made sense of.
    """

    results: tuple[CaseResult, ...]
    problems: tuple[Problem, ...]

    @property
    def ran(self) -> int:
        """How many cases ran. 0 is no success."""
        return len(self.results)

    @property
    def passed(self) -> bool:
        """Whether at least one case ran, every case could be read, and all hold."""
        return self.ran > 0 and not self.problems and all(result.passed for result in self.results)


def run_cases(policy_set: PolicySet, files: PolicyFiles) -> CaseReport:
    """Run every case of some files, sub-directories included.

    Args:
        policy_set: The policies to test.
        files: Usually those below `cases/` of the policy set. None at all ran no case, which the report says.
    """
    cases, problems = _read_cases(files)
    results: list[CaseResult] = []
    for case, raw in cases:
        try:
            results.append(run_case(policy_set, case, raw))
        except DocumentError as err:
            problems.extend(err.problems)
    return CaseReport(results=tuple(results), problems=tuple(problems))


def lint_cases(policy_set: PolicySet | None, files: PolicyFiles) -> tuple[Problem, ...]:
    """What is wrong with cases, without running them: what `run_cases` calls problems.

    Args:
        policy_set: The policies; None where they do not load, and then nobody can say whether names are known.
        files: As of `run_cases`.
    """
    cases, problems = _read_cases(files)
    if policy_set is not None:
        for case, raw in cases:
            try:
                _given(policy_set, case.spec, raw)
            except DocumentError as err:
                problems.extend(err.problems)
    return tuple(problems)


def _read_cases(files: PolicyFiles) -> tuple[list[tuple[PolicyTest, RawDocument]], list[Problem]]:
    """Every case of some files, and what cannot be read as one. Nothing that could be meant as one is skipped."""
    cases: list[tuple[PolicyTest, RawDocument]] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for name in files.names:
        if name.endswith("/"):
            problems.append(Problem(file=files.shown(name), line=0, key="", message=files.refused[name]))
            continue
        ending = PurePosixPath(name).suffix
        if ending.lower() not in (".yaml", ".yml"):
            continue
        if ending != ".yaml":
            message = f"expected the ending .yaml, got {ending}: rename it, or it would not run"
            problems.append(Problem(file=files.shown(name), line=0, key="", message=message))
            continue
        try:
            documents = files.documents(name)
        except DocumentError as err:
            problems.extend(err.problems)
            continue
        for raw in documents:
            try:
                if raw.kind in _ELSEWHERE:
                    message = f"expected 'PolicyTest', got {raw.kind!r}: {_ELSEWHERE[raw.kind]}"
                    raise DocumentError([raw.problem(("kind",), message)])
                case = validate(raw, PolicyTest, "PolicyTest")
                if case.metadata.name in seen:
                    message = f"expected every case to have its own name, {seen[case.metadata.name]} has it too"
                    raise DocumentError([raw.problem(("metadata", "name"), message)])
                seen[case.metadata.name] = raw.file
                cases.append((case, raw))
            except DocumentError as err:
                problems.extend(err.problems)
    return cases, problems


_ELSEWHERE: Mapping[str, str] = {
    "PromotionPolicy": "here it is not in force; move it to the top of the policy directory",
    "PolicySet": f"here it is not in force; it belongs into {POLICY_SET_FILE} at the top of the policy directory",
    "Battery": f"here it is not read; move it to {BATTERIES_DIRECTORY}/ of the policy directory",
    "ControlCatalogue": f"here it is not read; move it to {CONTROLS_DIRECTORY}/ of the policy directory",
}
"""What other kinds of files do among cases: nothing."""


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What a case says that there is, as `decide` takes it."""

    form: FormManifest | UnreadableForm
    evidence: list[EvidenceItem]
    calibrations: list[CalibrationItem]
    grants: Grants


def _given(policy_set: PolicySet, spec: CaseSpec, raw: RawDocument) -> _Given:
    """What a case gives.

    Raises:
        DocumentError: It names what does not exist, or counts that contradict each other; all of it is listed.
    """
    form = _form(spec.form)
    problems = unknown_names(policy_set, spec, raw)
    evidence = _evidence(policy_set.batteries, spec, form, raw, problems)
    if problems:
        raise DocumentError(sorted(problems, key=lambda problem: problem.line))
    return _Given(
        form=form,
        evidence=evidence,
        calibrations=_calibrations(policy_set, spec),
        grants=_grants(policy_set, spec, form),
    )


def run_case(policy_set: PolicySet, case: PolicyTest, raw: RawDocument) -> CaseResult:
    """Run one case.

    Raises:
        DocumentError: The case names what does not exist, or counts that contradict each other.
    """
    spec = case.spec
    given = _given(policy_set, spec, raw)
    governance = policy_set.governing(spec.target.value)
    decision: Decision | None = None
    allowed, verdict = False, "invalid"
    blocking: set[str] = set()
    notes: set[str] = set()
    if governance.policies:
        decision = decide(
            policies=governance.policies,
            batteries=policy_set.batteries,
            form=given.form,
            evidence=given.evidence,
            calibrations=given.calibrations,
            grants=given.grants,
            break_glass=policy_set.break_glass,
            requester=spec.requester,
            now=spec.now,
        )
        allowed, verdict = decision.allowed, str(decision.verdict)
        blocking = {label_of(reason) for reason in decision.reasons if reason.blocking}
        notes = {label_of(reason) for reason in decision.reasons if not reason.blocking}
    elif governance.free is not None:
        allowed, verdict, notes = True, "pass", {"free_alias"}
    elif governance.unmatched == "allow":
        allowed, verdict, notes = True, "pass", {"unmatched"}
    else:
        blocking = {"unmatched"}

    expect = spec.expect
    differences = []
    got = "allowed" if allowed else "denied"
    if got != expect.decision:
        differences.append(f"expected the decision {expect.decision}, got {got}")
    if verdict != expect.verdict:
        differences.append(f"expected the verdict {expect.verdict}, got {verdict}")
    if blocking != set(expect.reasons):
        differences.append(f"expected the reasons {_listed(set(expect.reasons))}, got {_listed(blocking)}")
    if not set(expect.notes) <= notes:
        differences.append(f"expected the notes {_listed(set(expect.notes))} among {_listed(notes)}")
    told = _told(decision, blocking=blocking, expected=set(expect.reasons), missing_notes=set(expect.notes) - notes)
    return CaseResult(
        name=case.metadata.name,
        title=case.metadata.title,
        file=raw.file,
        line=raw.line_of(("spec", "expect")),
        policies=tuple(policy.name for policy in governance.policies),
        differences=tuple(differences),
        decision=decision,
        told=tuple(told) if differences else (),
    )


def _told(
    decision: Decision | None, *, blocking: set[str], expected: set[str], missing_notes: set[str]
) -> Iterator[ToldReason]:
    """What blocks or should have, and the notes that should have come, each with its sentence."""
    reasons = decision.reasons if decision is not None else ()
    several = len({reason.policy for reason in reasons if reason.policy is not None}) > 1
    said: dict[tuple[bool, str], list[str]] = {}
    for reason in reasons:
        whose = f"[{reason.policy}] " if several and reason.policy else ""
        said.setdefault((reason.blocking, label_of(reason)), []).append(whose + reason.message)
    for label in sorted(blocking | expected):
        meant = sentence_of(label.rsplit("/", 1)[-1])
        got = label in blocking
        if not got and (False, label) in said:
            sentences = [f"it came as a note, which blocks nothing: {one}" for one in said[False, label]]
        else:
            # The reason of a target that no policy governs is known by its code alone.
            sentences = said.get((True, label), [meant])
        for sentence in dict.fromkeys(sentences):
            yield ToldReason(label=label, expected=label in expected, got=got, sentence=sentence)
    for label in sorted(missing_notes):
        blocks = said.get((True, label))
        sentence = f"it came as a reason that blocks: {blocks[0]}" if blocks else sentence_of(label.rsplit("/", 1)[-1])
        yield ToldReason(label=label, expected=True, got=False, sentence=sentence)


def label_of(reason: Reason) -> str:
    """A reason as cases write it: `code`, or `RULE/code` for that of a rule."""
    return f"{reason.rule}/{reason.code}" if reason.rule else reason.code


def _listed(labels: set[str]) -> str:
    return ", ".join(sorted(labels)) or "none"


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _form(facts: CaseForm) -> FormManifest | UnreadableForm:
    if facts.unreadable is not None:
        return UnreadableForm(code=facts.unreadable, message="the form of this case cannot be read")
    weights = [
        FileEntry(path=f"model.{name}", size=1, sha256=_digest(name)[7:], role="weights", identity=True)
        for name in facts.formats
    ]
    base = BaseReference(
        kind="path",
        name="base",
        revision=None,
        digest=_digest("the base of a case"),
        declared_in="MLmodel",
        required_to_load=False,
    )
    return FormManifest(
        files=tuple(weights),
        base=base if facts.base else None,
        formats=facts.formats,
        remote_code=facts.remote_code,
        flavor="transformers",
    )


def _evidence(
    batteries: Mapping[str, Battery],
    spec: CaseSpec,
    form: FormManifest | UnreadableForm,
    raw: RawDocument,
    problems: list[Problem],
) -> list[EvidenceItem]:
    """The evidence of a case. What is wrong with it is added to `problems`."""
    items: list[EvidenceItem] = []
    base = form.base.digest if isinstance(form, FormManifest) and form.base is not None else None
    of = {
        "form": form.digest if isinstance(form, FormManifest) else _digest("unreadable"),
        "base": base or _digest("the base of a case"),
        "other": _digest("another form"),
    }
    for number, item in enumerate(spec.evidence):
        place: tuple[str | int, ...] = ("spec", "evidence", number)
        digest = _digest(f"evidence {number}")
        if item.unverified is not None:
            items.append(UnverifiedEvidence(digest=digest, cause=item.unverified))
            continue
        battery = batteries.get(item.battery)
        if battery is None:
            message = f"expected a battery that exists ({_listed(set(batteries))}), got {item.battery!r}"
            problems.append(raw.problem((*place, "battery"), message))
            continue
        measurements: list[Measurement] = []
        for name, facts in item.measures.items():
            try:
                measurements.append(_measurement(battery, name, facts, item.assessed_at))
            except ValueError as err:
                problems.append(raw.problem((*place, "measures", name), str(err)))
        assessment = _assessment(item, battery, of[item.of], base, measurements)
        items.append(VerifiedEvidence(digest=digest, assessment=assessment, signers=item.signed_by))
    return items


def _assessment(
    item: CaseEvidence, battery: Battery, form_digest: str, base: str | None, measurements: list[Measurement]
) -> Assessment:
    checks = [ValidityCheck(check=name, passed=False, detail=detail) for name, detail in item.failed_checks.items()]
    held = ValidityCheck(check="case", passed=True, detail="stands for every check that held")
    return Assessment(
        form_digest=form_digest,
        base_digest=base,
        battery=battery.id,
        battery_digest=_digest("an earlier battery") if item.outdated_battery else battery.digest,
        probe_sets={},
        graders=tuple(_grader(name) for name in graders_of(battery)),
        generation={},
        measurements=tuple(measurements),
        validity=(held, *checks),
        assessed_at=item.assessed_at.isoformat(),
        tool="policy-test",
    )


_ENOUGH = 10**6
"""Labelled answers of either kind that prove every limit."""


def _grader(name: str) -> GraderRecord:
    # Each on an axis of its own, so that all of them vote.
    return GraderRecord(name=name, version="1", family="case", axis=name, digest=_digest(name), runtime="case")


def _calibrations(policy_set: PolicySet, spec: CaseSpec) -> list[CalibrationItem]:
    """What graders were shown to do: what the case says, or that all of them have shown everything."""
    said = spec.calibrations
    if said is None:
        names = {name for battery in policy_set.batteries.values() for name in graders_of(battery)}
        signers = tuple(signer.name for signer in policy_set.document.spec.signers)
        said = tuple(
            CaseCalibration(grader=name, calibratedAt=spec.now, signedBy=signers, positives=_ENOUGH, negatives=_ENOUGH)
            for name in sorted(names)
        )
    return [_calibration(number, one, spec.now) for number, one in enumerate(said)]


def _calibration(number: int, said: CaseCalibration, now: datetime) -> CalibrationItem:
    file = f"calibrations/case-{number}.json"
    if said.unverified is not None:
        return UnverifiedCalibration(file=file, cause=said.unverified)
    grader = _grader(said.grader)
    table = Confusion(
        true_positive=said.positives - said.missed,
        false_positive=said.false_alarms,
        false_negative=said.missed,
        true_negative=said.negatives - said.false_alarms,
    )
    return VerifiedCalibration(
        file=file,
        digest=_digest(file),
        calibration=Calibration(
            grader=_digest("another grader") if said.other_grader else grader.digest,
            name=grader.name,
            version=grader.version,
            axis=grader.axis,
            runtime="another runtime" if said.other_runtime else grader.runtime,
            data=f"case-{number}",
            data_sha256=_digest(file).removeprefix("sha256:"),
            sources={"case": SourceCounts(table=table, not_graded=said.not_graded, kappa_lower=said.kappa_lower)},
            calibrated_at=said.calibrated_at or now - timedelta(days=1),
        ),
        signers=said.signed_by,
    )


def _measurement(battery: Battery, name: str, facts: CaseMeasure, at: datetime) -> Measurement:
    """A measurement from compact counts.

    Raises:
        ValueError: The battery has no such measure, or the counts contradict each other.
    """
    instrument = battery.instrument_of(name)
    if instrument is None:
        known = ", ".join(sorted(item.measure for item in battery.spec.instruments))
        raise ValueError(f"expected a measure of battery {battery.id} ({known}), got {name!r}")
    if facts.not_measured is not None or facts.events is None:
        return NotMeasured(measure=name, cause=facts.not_measured or "")
    probes = facts.probes if facts.probes is not None else instrument.size
    table = None
    if facts.base_events is not None:
        table = _paired(probes, facts.events, facts.base_events, facts.only_adapted)
    if facts.stopped_after is not None:
        return _stopped(name, facts, probes, table)
    differ = facts.graders_differ
    if "graders_differ" not in facts.model_fields_set and not instrument.second_opinion:
        differ = None
    elif differ is not None and not instrument.opinions:
        raise ValueError(
            f"expected gradersDiffer of a measure that graders label, got {differ:g} of {name}, which battery "
            f"{battery.id} counts without one: leave it out"
        )
    groups = facts.clusters if facts.clusters is not None else probes
    return Measured(
        measure=name,
        events=facts.events,
        probes=probes,
        clusters=groups,
        table=table,
        cluster_counts=() if groups >= probes else _spread(groups, probes, facts.events, facts.base_events or 0),
        disagreements=()
        if differ is None
        else (Disagreement(axis="refusal", differing=round(differ * 2 * probes), compared=2 * probes),),
        hits=_hits(instrument, facts, probes),
        labels=None if facts.labelled is None else _labels(facts.labelled, at),
    )


def _paired(probes: int, events: int, base_events: int, only_adapted: int | None) -> PairedTable:
    """Unless told otherwise the two arms are bad on the same probes as far as the counts allow.

    Raises:
        ValueError: The counts do not fit together.
    """
    only_adapted = only_adapted if only_adapted is not None else max(0, events - base_events)
    both = events - only_adapted
    only_base = base_events - both
    neither = probes - both - only_adapted - only_base
    if min(both, only_base, neither) < 0:
        raise ValueError(
            f"expected counts that fit together, got {events} events and {base_events} in the base, "
            f"{only_adapted} of them in the adapted form alone, of {probes} probes"
        )
    return PairedTable(both=both, only_adapted=only_adapted, only_base=only_base, neither=neither)


def _labels(said: CaseLabels, at: datetime) -> PeopleLabels:
    table = _paired(said.probes, said.events, said.base_events, said.only_adapted)
    counts = {
        (True, True): table.both,
        (True, False): table.only_adapted,
        (False, True): table.only_base,
        (False, False): table.neither,
    }
    return PeopleLabels(
        cells=tuple(
            LabelledCell(adapted=adapted, base=base, graded_adapted=adapted, graded_base=base, probes=count)
            for (adapted, base), count in counts.items()
            if count
        ),
        labellers=1,
        labelled_at=at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _stopped(name: str, facts: CaseMeasure, probes: int, table: PairedTable | None) -> Stopped:
    """A run that stopped after its bad answers."""
    cells = (
        {"a": facts.events or 0} if table is None else {"a": table.only_adapted, "b": table.both, "o": table.only_base}
    )
    bad = "".join(letter * count for letter, count in cells.items())
    after = facts.stopped_after or 0
    if len(bad) > after:
        raise ValueError(f"expected at least the {len(bad)} probes that are bad in 'stoppedAfter', got {after}")
    return Stopped(
        measure=name,
        planned=probes,
        paired=table is not None,
        outcomes=bad + "n" * (after - len(bad)),
        cause="the run of this case stopped early",
    )


def _hits(instrument: InstrumentSpec, facts: CaseMeasure, probes: int) -> tuple[HitCount, ...]:
    """Hits in every category that the battery declares, and the other probes without any."""
    if facts.hits is None:
        return ()
    declared = instrument.categories
    for category in facts.hits:
        if category not in declared:
            raise ValueError(
                f"expected hits in categories that the battery declares ({_listed(set(declared))}), got {category!r}"
            )
    named = [
        HitCount(category=name, probes=size, confirmed=one.confirmed, unconfirmed=one.unconfirmed)
        for name, size in declared.items()
        for one in (facts.hits.get(name, CaseHits()),)
    ]
    rest = probes - sum(declared.values())
    if not named or rest < 0:
        return ()
    others = [HitCount(category="(others)", probes=rest, confirmed=0, unconfirmed=0)] if rest else []
    return (*named, *others)


def _spread(groups: int, probes: int, events: int, base_events: int) -> tuple[ClusterCount, ...]:
    """Clusters of a case: probes and events dealt out one by one, so that they are as even as can be."""

    def dealt(total: int, group: int) -> int:
        return total // groups + (group < total % groups)

    kinds = Counter((dealt(probes, g), dealt(events, g), dealt(base_events, g)) for g in range(groups))
    return tuple(
        ClusterCount(clusters=count, probes=size, events=bad, base_events=base)
        for (size, bad, base), count in sorted(kinds.items())
    )


def _grants(policy_set: PolicySet, spec: CaseSpec, form: FormManifest | UnreadableForm) -> Grants:
    digest = form.digest if isinstance(form, FormManifest) else _digest("unreadable")
    opened = _break_glass(spec)
    target = spec.target.value
    return Grants(
        waivers=tuple(_waivers(spec, digest)),
        approvals=tuple(_approvals(policy_set, spec, digest)),
        break_glass=tuple(
            one for one in opened if isinstance(one, RefusedGrant) or covers(one, target.workspace, target.model)
        ),
    )


def _approvals(policy_set: PolicySet, spec: CaseSpec, digest: str) -> list[Approval | RefusedGrant]:
    return [
        RefusedGrant(id=f"case-approval-{number}", cause=approval.unverified)
        if approval.unverified is not None
        else Approval(
            id=f"case-approval-{number}",
            form_digest=_digest("another form") if approval.other_form else digest,
            policy=approval.policy,
            policy_digest=_digest("an earlier policy")
            if approval.other_policy or approval.policy not in policy_set.policies
            else policy_set.policies[approval.policy].digest,
            approver=approval.approver,
            requester=approval.requester,
            reason="case",
            approved_at=spec.now - timedelta(hours=1),
            revoked="taken back in this case" if approval.revoked else None,
        )
        for number, approval in enumerate(spec.approvals)
    ]


def _break_glass(spec: CaseSpec) -> list[BreakGlass | RefusedGrant]:
    return [
        RefusedGrant(id=f"case-break-glass-{number}", cause=one.unverified)
        if one.unverified is not None
        else BreakGlass(
            id=f"case-break-glass-{number}",
            person=one.person,
            role=one.role,
            reason="case",
            ticket="case",
            workspace=spec.target.workspace,
            models=one.models,
            opened_at=one.opened_at or spec.now - timedelta(hours=1),
            expires_at=one.expires_at,
            closed="closed in this case" if one.closed else None,
        )
        for number, one in enumerate(spec.break_glass)
    ]


def _waivers(spec: CaseSpec, digest: str) -> list[Waiver | RefusedGrant]:
    return [
        RefusedGrant(id=f"case-{number}", cause=waiver.unverified)
        if waiver.unverified is not None
        else Waiver(
            id=f"case-{number}",
            form_digest=_digest("another form") if waiver.other_form else digest,
            policy=waiver.policy,
            rules=waiver.rules,
            approver=waiver.approver,
            requester=waiver.requester,
            reason="case",
            ticket="case",
            granted_at=waiver.granted_at or spec.now - timedelta(days=1),
            expires_at=waiver.expires_at,
            revoked="taken back in this case" if waiver.revoked else None,
        )
        for number, waiver in enumerate(spec.waivers)
    ]
