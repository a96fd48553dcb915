"""Decide whether the evidence about an adapted form satisfies the policies that govern a target.

Everything here is pure: no clock, no network, no file, no environment. The gate, the CLI, policy tests, replay, the
pages and the offline verifier all call `decide`; they fetch the inputs and store the outcome.

Enforcement. The verdict is the worst over everything that may deny: policies and rules with `enforcement: deny`. What
a rule on `warn` or `dryrun`, or one with `required: false`, finds is returned as a note that says what it would have
been; a note leaves the verdict at best at `pass_with_notes`. A rule whose `effectiveFrom` is to come warns until then.
While a whole policy only warns, its missing evidence is a note too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, assert_never

from registry_gate.assessment import Assessment
from registry_gate.battery import Battery
from registry_gate.decision import Approval, BreakGlass, Decision, Grants, Reason, RefusedGrant, Verdict, Waiver, worst
from registry_gate.form import FormManifest
from registry_gate.policy.admission import Standing, standings
from registry_gate.policy.grants import CLOCK_TOLERANCE, age_of, approval_faults, break_glass_fault, waiver_faults
from registry_gate.policy.inputs import (
    CalibrationItem,
    EvidenceItem,
    UnreadableForm,
    UnverifiedEvidence,
    VerifiedEvidence,
)
from registry_gate.policy.outcomes import RuleOutcome, rule_outcomes
from registry_gate.policy.schema import BreakGlassSpec, Policy

NO_GRANTS = Grants()

WAIVABLE = (Verdict.FAIL, Verdict.CONFLICT, Verdict.INCONCLUSIVE)
"""What a person may let through. Never `invalid` or `stale`: there nobody knows what is let through."""


@dataclass(frozen=True, kw_only=True)
class _Remark:
    """A reason before enforcement: `deny` blocks, `note` is reported, `warn` and `dryrun` are staged."""

    reason: Reason
    mode: Literal["deny", "note", "warn", "dryrun"]
    waivable: bool = True
    begins: datetime | None = None
    """When a rule that only warns by its date begins to deny."""


def decide(
    *,
    policies: Sequence[Policy],
    batteries: Mapping[str, Battery],
    form: FormManifest | UnreadableForm,
    evidence: Sequence[EvidenceItem],
    calibrations: Sequence[CalibrationItem] = (),
    grants: Grants = NO_GRANTS,
    break_glass: BreakGlassSpec | None = None,
    requester: str | None = None,
    now: datetime,
) -> Decision:
    """Judge one form under all policies that govern a target. The order of no input matters.

    Not checked here: which policies govern the target (`PolicySet.governing`), signatures (the evidence says whether
    they verified), and that the form's digest was computed from the bytes as they are now. The caller does these.

    Args:
        policies: Every policy that governs the target.
        batteries: Batteries in force, by id.
        form: The adapted form as it is now, or why it cannot be read.
        evidence: Everything presented for it.
        calibrations: What graders were shown to do, as it lies with the policy set.
        grants: What people signed: waivers, approvals, and break-glass for the model.
        break_glass: Who may open that, as the policy set says.
        requester: Who asks, who never counts as an approver; None where nobody asks.
        now: The one moment of this review, with zone.

    Raises:
        ValueError: `now` has no zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"expected a moment with zone, got {now.isoformat()}")
    reasons: list[Reason] = []
    used: set[str] = set()
    needed: set[str] = set()
    waived: set[str] = set()
    approved: set[str] = set()
    ends: list[datetime] = []

    # (1) Where no policy applies nothing is known to be required, so nothing is allowed.
    if not policies:
        message = "no policy governs this target, so nothing says what it must satisfy"
        fix = "add a policy whose match covers the model and the alias or stage"
        reasons.append(Reason(code="no_policy", message=message, verdict=Verdict.INVALID, fix=fix))

    # (2) A form that cannot be read has no digest, and evidence of what cannot be told apart is of no use.
    if isinstance(form, UnreadableForm):
        reasons.append(Reason(code=form.code, message=form.message, verdict=Verdict.INVALID))
        decision = _decision(reasons, None, policies, used, needed, waived, approved, ends)
        return _under_break_glass(decision, grants.break_glass, break_glass, now)

    # (3) Each policy on its own; all of them must allow.
    digest = form.digest
    for policy in policies:
        review = _review(
            policy.as_of(now), policy, batteries, form, digest, evidence, calibrations, grants, requester, now
        )
        reasons.extend(review.reasons)
        if review.evidence is not None:
            used.add(review.evidence)
        waived.update(review.waived)
        approved.update(review.approved)
        ends.extend(review.ends)
        if review.needs_assessment:
            needed.add(policy.spec.evidence.battery)
    decision = _decision(reasons, digest, policies, used, needed, waived, approved, ends)
    return _under_break_glass(decision, grants.break_glass, break_glass, now)


def _decision(
    reasons: Sequence[Reason],
    digest: str | None,
    policies: Sequence[Policy],
    used: set[str],
    needed: set[str],
    waived: set[str],
    approved: set[str],
    ends: Sequence[datetime],
) -> Decision:
    # (4) The worst verdict stands, and what blocks is never averaged away by what passed.
    allowed = not any(reason.blocking for reason in reasons)
    return Decision(
        verdict=worst(reason.verdict for reason in reasons),
        allowed=allowed,
        reasons=tuple(sorted(reasons, key=_reading_order)),
        form_digest=digest,
        policies=tuple(sorted((policy.name, policy.digest) for policy in policies)),
        evidence=tuple(sorted(used)),
        assessments_needed=tuple(sorted(needed)),
        waivers=tuple(sorted(waived)),
        approvals=tuple(sorted(approved)),
        # (5) It holds until the first thing that it rests on stops counting.
        valid_until=min(ends, default=None) if allowed else None,
    )


def _under_break_glass(
    decision: Decision, openings: Sequence[BreakGlass | RefusedGrant], allowed: BreakGlassSpec | None, now: datetime
) -> Decision:
    """The decision while break-glass may be open: whether it was needed or not, the decision says so."""
    counting: list[BreakGlass] = []
    notes: list[Reason] = []
    for one in openings:
        fault = one.cause if isinstance(one, RefusedGrant) else break_glass_fault(allowed, one, now)
        if isinstance(one, BreakGlass) and fault is None:
            counting.append(one)
        elif isinstance(one, RefusedGrant) or (one.closed is None and one.expires_at > now):
            # One that ended or was closed is history; one that never counted is something that somebody waits for.
            notes.append(_announced("break_glass_not_counted", f"break-glass {one.id} does not count: {fault}"))
    # The longest; the id breaks a tie.
    opened = max(counting, key=lambda one: (one.expires_at, one.id), default=None)
    if opened is None:
        return replace(decision, reasons=(*decision.reasons, *notes))
    until = (
        f"BREAK-GLASS is open until {opened.expires_at.isoformat()} (opened by {opened.person} as {opened.role}, "
        f"{opened.ticket}: {opened.reason})"
    )
    if decision.allowed or decision.form_digest is None:
        why = "not needed here" if decision.allowed else "of no use here, because nobody can say what these bytes are"
        notes.insert(0, _announced("break_glass_open", f"{until}: {why}"))
        return replace(decision, reasons=(*decision.reasons, *notes))
    # What the policies say stands in the decision, each reason with its verdict; it only does not block.
    head = Reason(
        code="break_glass",
        message=f"{until}: without it denied ({decision.verdict})",
        verdict=Verdict.WAIVED,
        blocking=False,
    )
    overridden = [replace(reason, blocking=False) for reason in decision.reasons]
    return replace(
        decision,
        verdict=Verdict.WAIVED,
        allowed=True,
        reasons=(head, *overridden, *notes),
        break_glass=opened.id,
        valid_until=opened.expires_at,
    )


def _announced(code: str, message: str) -> Reason:
    return Reason(code=code, message=message, verdict=Verdict.PASS, blocking=False)


def _reading_order(reason: Reason) -> tuple[bool, int, str, str, str, str]:
    return (
        not reason.blocking,
        reason.verdict.rank,
        reason.policy or "",
        reason.rule or "",
        reason.code,
        reason.message,
    )


@dataclass(frozen=True, kw_only=True)
class _Review:
    reasons: tuple[Reason, ...]
    evidence: str | None
    needs_assessment: bool
    waived: tuple[str, ...]
    approved: tuple[str, ...]
    ends: tuple[datetime, ...]


def _review(
    policy: Policy,
    written: Policy,
    batteries: Mapping[str, Battery],
    form: FormManifest,
    digest: str,
    evidence: Sequence[EvidenceItem],
    calibrations: Sequence[CalibrationItem],
    grants: Grants,
    requester: str | None,
    now: datetime,
) -> _Review:
    """Steps (3.1) to (3.12): one policy as it holds now, and as it is written for what begins later."""
    remarks: list[_Remark] = []
    battery_id = policy.spec.evidence.battery
    whole: Literal["deny", "warn", "dryrun"] = "deny" if policy.enforces else _staging(policy)

    def add(
        code: str, message: str, verdict: Verdict, *, fix: str | None = None, mode: Literal["note"] | None = None
    ) -> None:
        reason = Reason(code=code, message=message, verdict=verdict, policy=policy.name, fix=fix)
        remarks.append(_Remark(reason=reason, mode=mode or whole))

    # (3.1) The form is of a kind that the policy accepts at all.
    for code, message, fix in _subject_problems(policy, form):
        add(code, message, Verdict.INVALID, fix=fix)
    acceptable = not remarks

    # (3.2) The battery that the policy requires exists; without it nothing can be said about evidence.
    battery = batteries.get(battery_id)
    chosen: VerifiedEvidence | None = None
    if battery is None:
        known = ", ".join(sorted(batteries)) or "none"
        add("battery_missing", f"expected battery {battery_id}, got none (there are: {known})", Verdict.INVALID)
    else:
        # (3.3) The newest evidence of this form by this battery that is signed, fresh and of the right base.
        selection = _select(policy, battery, form, digest, evidence, now)
        chosen = selection.chosen
        # Beside evidence that holds, what was left aside is a remark.
        aside: Literal["deny", "note", "warn", "dryrun"] = whole if chosen is None else "note"
        remarks.extend(_Remark(reason=reason, mode=aside) for reason in selection.reasons)

    graders: list[Standing] = []
    if battery is not None and chosen is not None:
        # (3.4) The measurement itself held: every check passed, and there were checks and graders.
        problems = _validity_problems(battery_id, chosen.assessment)
        for code, message in problems:
            fix = f"find the cause, then assess this form again with battery {battery_id}"
            add(code, message, Verdict.INVALID, fix=fix)
        # (3.5) Every grader that voted may: whose labels are of unknown worth measured nothing.
        graders = standings(policy, battery, chosen.assessment, calibrations, now)
        for standing in graders:
            how = None if standing.verdict is Verdict.PASS else _HOW_TO_CALIBRATE
            add(standing.code, standing.message, standing.verdict, fix=how)
        # (3.6) Every rule. A broken measurement has no numbers to judge.
        if not problems and all(standing.verdict is Verdict.PASS for standing in graders):
            for outcome in rule_outcomes(policy, chosen.assessment, battery):
                remarks.extend(_remarks_of(policy, outcome, _begins(written, outcome.rule.id, now)))
        # (3.7) A run that stopped early proves `fail` or nothing. Whatever else it holds, nothing passes by it.
        stopped = chosen.assessment.stopped
        if stopped and not any(r.mode == "deny" and not r.waivable for r in remarks):
            names = ", ".join(f"{one.measure} after {one.probes} of {one.planned} probes" for one in stopped)
            message = (
                f"expected a full run with {battery_id}, got one that stopped early ({names}): nothing passes by it"
            )
            fix = "ask for an assessment in full: registry-gate assess models:/NAME/VERSION --again"
            add("stopped_early", message, Verdict.INCONCLUSIVE, fix=fix)

    # (3.8) Waivers: a named person lets this form through named rules. They never touch what is invalid or stale.
    waivers = grants.waivers
    faults = waiver_faults(policy, waivers, now)
    counting = [
        w for w in waivers if isinstance(w, Waiver) and w.form_digest == digest and faults.get(w.id, "") is None
    ]
    waiving = [_waiver_of(remark, counting) for remark in remarks]
    remarks = [_waived(remark, waiver) for remark, waiver in zip(remarks, waiving, strict=True)]
    remarks.extend(_waiver_remarks(policy, digest, waivers, faults))

    # (3.9) A policy may refuse notes; what is only staged is no note of its own rules.
    if not policy.spec.allow_notes and policy.enforces:
        noted = [r.reason for r in remarks if r.mode == "note" and r.reason.verdict is not Verdict.PASS]
        if noted:
            names = ", ".join(sorted({reason.rule or reason.code for reason in noted}))
            add("notes_not_allowed", f"policy {policy.name} allows no notes, got {names}", Verdict.PASS_WITH_NOTES)

    # (3.10) People on top of the machine: enough of them approved exactly this form under exactly this policy.
    approved, missing, said = _approvals(written, digest, grants.approvals, requester, now)
    remarks.extend(_Remark(reason=reason, mode="note") for reason in said)
    if missing is not None:
        add("approvals_missing", missing, Verdict.INCONCLUSIVE, fix=_HOW_TO_APPROVE.format(policy.name))

    # Evidence of a policy that only warns could be missing altogether, so nothing ends with it.
    ends = [waiver.expires_at for waiver in waiving if waiver is not None]
    assessed = None if chosen is None else _moment(chosen.assessment.assessed_at)
    if assessed is not None and policy.enforces:
        ends.append(assessed + policy.spec.evidence.max_age_delta)
        ends.extend(standing.ends for standing in graders if standing.ends is not None)
    # What is only told today denies from its date on; a policy of which nothing denies yet will want evidence then.
    ends.extend(
        remark.begins for remark in remarks if remark.begins is not None and remark.reason.verdict is not Verdict.PASS
    )
    if not policy.enforces and written.enforces:
        dates = [_begins(written, rule.id, now) for rule in written.spec.rules if written.spec.enforces(rule)]
        ends.append(min(date for date in dates if date is not None))

    # (3.11) Enforcement: what does not deny becomes a note that says what it would have been.
    # (3.12) Running a battery helps only where evidence is what is missing.
    return _Review(
        reasons=tuple(_enforced(remark) for remark in remarks),
        evidence=None if chosen is None else chosen.digest,
        needs_assessment=battery is not None and acceptable and (chosen is None or _open_after_stop(remarks)),
        waived=tuple(waiver.id for waiver in waiving if waiver is not None),
        approved=approved,
        ends=tuple(ends),
    )


def _open_after_stop(remarks: Sequence[_Remark]) -> bool:
    """Whether only a full run can say more: this one stopped early, and what it proved breaks no rule of the policy."""
    left_open = any(remark.reason.code == "stopped_early" for remark in remarks)
    return left_open and not any(
        remark.mode == "deny" and remark.reason.verdict in (Verdict.FAIL, Verdict.CONFLICT) for remark in remarks
    )


def _staging(policy: Policy) -> Literal["warn", "dryrun"]:
    """How a policy that cannot deny is staged: loudest of its rules."""
    modes = {policy.spec.enforcement, *(policy.spec.enforcement_of(rule) for rule in policy.spec.rules)}
    return "warn" if "warn" in modes else "dryrun"


def _subject_problems(policy: Policy, form: FormManifest) -> list[tuple[str, str, str]]:
    """Code, sentence and fix of everything that the form itself is or lacks."""
    subject = policy.spec.subject
    accepted = ", ".join(subject.formats)
    problems = []
    if not any(entry.role in ("weights", "adapter") for entry in form.files):
        problems.append(
            (
                "weights_missing",
                "expected a model artifact with weights, got none",
                "log the model with its weights, or as an adapter with its weights",
            )
        )
    elif not form.formats:
        problems.append(
            (
                "format_unknown",
                f"expected weights in {accepted}, got files of unknown format",
                f"save the model in {accepted}",
            )
        )
    problems.extend(
        (
            "format_not_allowed",
            f"expected weights in {accepted}, got {name}",
            f"save the model in {accepted} (save_pretrained does) and register it again",
        )
        for name in sorted(set(form.formats) - set(subject.formats))
    )
    if subject.base == "required" and form.base is None:
        problems.append(
            (
                "base_missing",
                "expected the artifact to name the base that it was adapted from, got none: "
                "whether it became worse cannot be measured",
                "declare the base in the artifact (adapter_config.json or the MLmodel metadata) and register it again",
            )
        )
    if subject.remote_code == "forbidden" and form.remote_code:
        code = ", ".join(sorted(form.remote_code))
        problems.append(
            (
                "remote_code",
                f"expected no code inside the artifact that loading would run, got {code}",
                "save the model for an architecture that the library knows, without custom code",
            )
        )
    return problems


@dataclass(frozen=True, kw_only=True)
class _Selection:
    chosen: VerifiedEvidence | None
    reasons: tuple[Reason, ...]


def _select(
    policy: Policy,
    battery: Battery,
    form: FormManifest,
    digest: str,
    evidence: Sequence[EvidenceItem],
    now: datetime,
) -> _Selection:
    """The evidence that counts, and a reason for everything that does not.

    What an assessment found plays no part here: the newest one that holds formally is judged, good or bad, so that
    assessing again until one result pleases is of no use.
    """
    run = f"assess this form with battery {battery.id}"
    reasons: list[Reason] = []
    eligible: list[tuple[datetime, str, VerifiedEvidence]] = []
    of_this_form = False

    def discard(code: str, message: str, verdict: Verdict, fix: str = run) -> None:
        reasons.append(Reason(code=code, message=message, verdict=verdict, policy=policy.name, fix=fix))

    # Sorted and each once, so that the outcome cannot depend on how the ledger lists them.
    seen: set[tuple[str, str]] = set()
    for item in sorted(evidence, key=lambda item: item.digest):
        if (type(item).__name__, item.digest) in seen:
            continue
        seen.add((type(item).__name__, item.digest))
        match item:
            case UnverifiedEvidence():
                message = f"evidence {_short(item.digest)} does not verify: {item.cause}"
                fix = f"somebody must find out who changed it; then {run}"
                discard("signature_invalid", message, Verdict.INVALID, fix)
            case VerifiedEvidence(assessment=assessment):
                if assessment.battery != battery.id:
                    continue
                if assessment.form_digest != digest:
                    is_base = form.base is not None and assessment.form_digest == form.base.digest
                    whose = "its base" if is_base else f"another form ({_short(assessment.form_digest)})"
                    message = f"evidence {_short(item.digest)} is of {whose}, expected of this form ({_short(digest)})"
                    discard("evidence_for_other_form", message, Verdict.INVALID)
                    continue
                of_this_form = True
                problems = _formal_problems(policy, battery, form, item, now)
                for code, message, verdict in problems:
                    discard(code, f"evidence {_short(item.digest)}: {message}", verdict)
                moment = _moment(assessment.assessed_at)
                if not problems and moment is not None:
                    # People's labels of a measurement come after it and never make it younger.
                    eligible.append((moment, assessment.labelled_at or "", item))
            case other:
                assert_never(other)

    if not eligible:
        if not of_this_form:
            message = f"no evidence: this form ({_short(digest)}) was never assessed with battery {battery.id}"
            discard("evidence_missing", message, Verdict.INVALID)
        return _Selection(chosen=None, reasons=tuple(reasons))

    newest, _, chosen = max(eligible, key=lambda entry: (*entry[:2], entry[2].digest))
    # Evidence that no longer counts beside newer evidence is history, not a note on this form. What does not verify
    # stays a note, because somebody must look at it.
    kept = [
        reason if reason.code == "signature_invalid" else replace(reason, verdict=Verdict.PASS, fix=None)
        for reason in reasons
    ]
    for moment, _, item in eligible:
        if item is not chosen:
            labelled = moment == newest and chosen.assessment.labelled_at is not None
            how = "the same measurement with later labels of people," if labelled else "the newer"
            message = f"evidence {_short(item.digest)} is superseded by {how} {_short(chosen.digest)}"
            kept.append(Reason(code="evidence_superseded", message=message, verdict=Verdict.PASS, policy=policy.name))
    return _Selection(chosen=chosen, reasons=tuple(kept))


def _formal_problems(
    policy: Policy, battery: Battery, form: FormManifest, item: VerifiedEvidence, now: datetime
) -> list[tuple[str, str, Verdict]]:
    """Everything that keeps evidence of this form by this battery from counting, whatever it found."""
    assessment = item.assessment
    problems = []
    # The battery: other probes, graders or settings under the same name are another measurement.
    if assessment.battery_digest != battery.digest:
        message = (
            f"battery {battery.id} has changed since: assessed with {_short(assessment.battery_digest)}, "
            f"in force is {_short(battery.digest)}"
        )
        problems.append(("battery_changed", message, Verdict.STALE))
    # The base: the comparison must be with the base that the form declares now.
    expected = None if form.base is None else form.base.digest
    if assessment.base_digest != expected:
        message = f"expected the base {_short(expected)}, got measurements beside {_short(assessment.base_digest)}"
        problems.append(("base_mismatch", message, Verdict.INVALID))
    # The signer.
    allowed = policy.spec.evidence.signed_by
    if not set(item.signers) & set(allowed):
        signers = ", ".join(sorted(item.signers)) or "nobody"
        message = f"expected a signature by {' or '.join(sorted(allowed))}, got {signers}"
        problems.append(("signer_not_allowed", message, Verdict.INVALID))
    # The age.
    moment = _moment(assessment.assessed_at)
    if moment is None:
        message = f"expected a time of assessment with zone, got {assessment.assessed_at!r}"
        problems.append(("clock", message, Verdict.INVALID))
    elif moment - now > CLOCK_TOLERANCE:
        message = f"assessed at {assessment.assessed_at}, which is in the future: one of the clocks is wrong"
        problems.append(("clock", message, Verdict.INVALID))
    elif now - moment >= policy.spec.evidence.max_age_delta:
        message = (
            f"assessed on {moment:%Y-%m-%d}, {age_of(now - moment)} ago; "
            f"the policy counts evidence of less than {policy.spec.evidence.max_age}"
        )
        problems.append(("evidence_expired", message, Verdict.STALE))
    return problems


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _validity_problems(battery_id: str, assessment: Assessment) -> list[tuple[str, str]]:
    problems = []
    if not assessment.validity:
        message = (
            f"the assessment with {battery_id} lists no validity check, so nobody knows whether it measured anything"
        )
        problems.append(("no_validity_checks", message))
    if not assessment.graders:
        problems.append(
            ("graders_missing", f"the assessment with {battery_id} names no grader that judged the answers")
        )
    for check in assessment.validity:
        if not check.passed:
            message = f"the measurement with {battery_id} is broken: check {check.check} failed: {check.detail}"
            problems.append(("validity_failed", message))
    return problems


def _begins(written: Policy, rule_id: str, now: datetime) -> datetime | None:
    """When a rule of a policy begins to deny, if that is to come."""
    rule = next(one for one in written.spec.rules if one.id == rule_id)
    begins = written.spec.effective_from_of(rule) if written.spec.enforces(rule) else None
    return begins if begins is not None and begins > now else None


def _remarks_of(policy: Policy, outcome: RuleOutcome, begins: datetime | None) -> list[_Remark]:
    """What a rule found, as reasons with everything that a person and a machine need."""
    # A rule that denies but is not required is a note; one that only warns or runs dry is staged.
    mode: Literal["deny", "note", "warn", "dryrun"] = outcome.enforcement
    if mode == "deny" and not outcome.blocking:
        mode = "note"
    rule = outcome.rule
    return [
        _Remark(
            mode="note" if finding.note and mode == "deny" else mode,
            waivable=finding.waivable,
            begins=None if finding.note else begins,
            reason=Reason(
                code=finding.code,
                message=finding.message,
                verdict=finding.verdict,
                policy=policy.name,
                rule=rule.id,
                measure=rule.measure,
                observed=finding.observed,
                interval=finding.interval,
                threshold=finding.threshold,
                probes=outcome.probes,
                severity=rule.severity,
                controls=rule.controls,
                fix=finding.fix,
            ),
        )
        for finding in outcome.findings
    ]


_HOW_TO_CALIBRATE = (
    "measure it on answers that people labelled and put the signed result with the policies: registry-gate grader "
    "calibrate NAME LABELLED --key KEY --out calibrations/NAME.dsse.json"
)

_HOW_TO_APPROVE = (
    "each of them signs: registry-gate approval grant models:/NAME/VERSION --policy {} --approver NAME --key KEY"
)


def _approvals(
    policy: Policy,
    digest: str,
    approvals: Sequence[Approval | RefusedGrant],
    requester: str | None,
    now: datetime,
) -> tuple[tuple[str, ...], str | None, list[Reason]]:
    """Ids of the approvals that count; what is missing, as a sentence; and what to tell about them."""

    def tell(code: str, message: str) -> Reason:
        return Reason(code=code, message=message, verdict=Verdict.PASS, policy=policy.name)

    faults = approval_faults(policy, approvals, requester, now)
    said: dict[str, Reason] = {}
    counting: dict[str, str] = {}
    for one in sorted(approvals, key=lambda one: one.id):
        if isinstance(one, RefusedGrant):
            said[one.id] = tell("approval_not_counted", f"approval {one.id} does not count: {one.cause}")
        elif one.form_digest == digest and one.policy == policy.name:
            fault = faults[one.id]
            if fault is None:
                counting.setdefault(one.approver, one.id)
            else:
                message = f"approval {one.id} by {one.approver} does not count: {fault}"
                said[one.id] = tell("approval_not_counted", message)
    asked = policy.spec.approvals
    if asked is None:
        return (), None, list(said.values())
    got = ", ".join(sorted(counting)) or "nobody"
    if len(counting) >= asked.count:
        said["approved"] = tell("approved", f"approved by {got}; the policy asks for {asked.count}")
        return tuple(sorted(counting.values())), None, list(said.values())
    missing = (
        f"expected {asked.count} of {', '.join(sorted(asked.approvers))} to approve this form under this policy as it "
        f"is written, got {got}"
    )
    return (), missing, list(said.values())


def _waiver_of(remark: _Remark, counting: Sequence[Waiver]) -> Waiver | None:
    """The waiver that lets this remark through, or None. The one that lasts longest; the id breaks a tie."""
    reason = remark.reason
    if remark.mode != "deny" or not remark.waivable or reason.rule is None or reason.verdict not in WAIVABLE:
        return None
    covering = [waiver for waiver in counting if waiver.policy == reason.policy and reason.rule in waiver.rules]
    return max(covering, key=lambda waiver: (waiver.expires_at, waiver.id), default=None)


def _waived(remark: _Remark, waiver: Waiver | None) -> _Remark:
    reason = remark.reason
    if waiver is None:
        return remark
    message = (
        f"waived by {waiver.approver} until {waiver.expires_at.isoformat()} (waiver {waiver.id}: {waiver.reason}); "
        f"without it {reason.verdict}: {reason.message}"
    )
    return _Remark(
        mode=remark.mode,
        reason=replace(reason, code="waived", message=message, verdict=Verdict.WAIVED, blocking=False),
    )


def _waiver_remarks(
    policy: Policy,
    digest: str,
    waivers: Sequence[Waiver | RefusedGrant],
    faults: Mapping[str, str | None],
) -> list[_Remark]:
    """Waivers for this form and policy that do not count, so that nobody wonders why."""
    said: dict[str, None] = {}
    for waiver in waivers:
        if isinstance(waiver, RefusedGrant):
            said[f"waiver {waiver.id} does not count: {waiver.cause}"] = None
        elif waiver.form_digest == digest and waiver.policy == policy.name and faults[waiver.id] is not None:
            named = ", ".join(sorted(waiver.rules))
            said[f"waiver {waiver.id} for {named} does not count: {faults[waiver.id]}"] = None
    return [
        _Remark(
            mode="note",
            reason=Reason(code="waiver_not_counted", message=message, verdict=Verdict.PASS, policy=policy.name),
        )
        for message in said
    ]


def _enforced(remark: _Remark) -> Reason:
    reason = remark.reason
    # What passed, what is waived and what is history blocks nowhere.
    if reason.verdict is Verdict.PASS or reason.verdict is Verdict.WAIVED:
        return replace(reason, blocking=False)
    if remark.mode == "deny":
        return replace(reason, blocking=True)
    introduction = {"note": "not required", "warn": "warning only", "dryrun": "dry run"}[remark.mode]
    if remark.begins is not None:
        introduction = f"warning only until {remark.begins.isoformat()}"
    would = f"{introduction}, would be {reason.verdict}"
    if remark.mode == "note" and (reason.rule is None or reason.verdict is Verdict.PASS_WITH_NOTES):
        would = "remark"
    return replace(
        reason,
        blocking=False,
        verdict=Verdict.PASS_WITH_NOTES,
        message=f"{would}: {reason.message}",
        staged=None if remark.mode == "note" or reason.verdict is Verdict.PASS_WITH_NOTES else remark.mode,
    )


def _short(digest: str | None) -> str:
    """Enough of a digest to recognise it in a sentence."""
    if digest is None:
        return "none"
    head, _, rest = digest.rpartition(":")
    return f"{head}:{rest[:12]}" if head else digest[:12]
