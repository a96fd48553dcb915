"""Decide whether the evidence about an adapted form satisfies the policies that govern a target.

Everything here is pure: no clock, no network, no file, no environment. The gate, the CLI, policy tests, replay, the
pages and the offline verifier all call `decide`; they fetch the inputs and store the outcome.

Enforcement. The verdict is the worst over everything that may deny: policies and rules with `enforcement: deny`. What
a rule on `warn` or `dryrun`, or one with `required: false`, finds is returned as a note that says what it would have
been; a note leaves the verdict at best at `pass_with_notes`. While a whole policy only warns, its missing evidence is
a note too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, assert_never

from registry_gate.assessment import Assessment
from registry_gate.battery import Battery
from registry_gate.decision import Decision, Reason, Verdict, Waiver, worst
from registry_gate.form import FormManifest
from registry_gate.policy.inputs import EvidenceItem, UnreadableForm, UnverifiedEvidence, VerifiedEvidence
from registry_gate.policy.outcomes import RuleOutcome, rule_outcomes
from registry_gate.policy.schema import Policy

CLOCK_TOLERANCE = timedelta(minutes=5)
"""Evidence may be this much ahead of the gate's clock; beyond it one of the clocks is wrong."""

WAIVABLE = (Verdict.FAIL, Verdict.CONFLICT, Verdict.INCONCLUSIVE)
"""What a person may let through. Never `invalid` or `stale`: there nobody knows what is let through."""


@dataclass(frozen=True, kw_only=True)
class _Remark:
    """A reason before enforcement: `deny` blocks, `note` is reported, `warn` and `dryrun` are staged."""

    reason: Reason
    mode: Literal["deny", "note", "warn", "dryrun"]


def decide(
    *,
    policies: Sequence[Policy],
    batteries: Mapping[str, Battery],
    form: FormManifest | UnreadableForm,
    evidence: Sequence[EvidenceItem],
    waivers: Sequence[Waiver] = (),
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
        waivers: Everything granted for it.
        now: The one moment of this review, with zone.

    Raises:
        ValueError: `now` has no zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"expected a moment with zone, got {now.isoformat()}")
    reasons: list[Reason] = []
    used: set[str] = set()
    needed: set[str] = set()

    # (1) Where no policy applies nothing is known to be required, so nothing is allowed.
    if not policies:
        message = "no policy governs this target, so nothing says what it must satisfy"
        fix = "add a policy whose match covers the model and the alias or stage"
        reasons.append(Reason(code="no_policy", message=message, verdict=Verdict.INVALID, fix=fix))

    # (2) A form that cannot be read has no digest, and evidence of what cannot be told apart is of no use.
    if isinstance(form, UnreadableForm):
        reasons.append(Reason(code=form.code, message=form.message, verdict=Verdict.INVALID))
        return _decision(reasons, None, policies, used, needed)

    # (3) Each policy on its own; all of them must allow.
    digest = form.digest
    for policy in policies:
        review = _review(policy, batteries, form, digest, evidence, waivers, now)
        reasons.extend(review.reasons)
        if review.evidence is not None:
            used.add(review.evidence)
        if review.needs_assessment:
            needed.add(policy.spec.evidence.battery)
    return _decision(reasons, digest, policies, used, needed)


def _decision(
    reasons: Sequence[Reason], digest: str | None, policies: Sequence[Policy], used: set[str], needed: set[str]
) -> Decision:
    # (4) The worst verdict stands, and what blocks is never averaged away by what passed.
    return Decision(
        verdict=worst(reason.verdict for reason in reasons),
        allowed=not any(reason.blocking for reason in reasons),
        reasons=tuple(sorted(reasons, key=_reading_order)),
        form_digest=digest,
        policies=tuple(sorted((policy.name, policy.digest) for policy in policies)),
        evidence=tuple(sorted(used)),
        assessments_needed=tuple(sorted(needed)),
    )


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


def _review(
    policy: Policy,
    batteries: Mapping[str, Battery],
    form: FormManifest,
    digest: str,
    evidence: Sequence[EvidenceItem],
    waivers: Sequence[Waiver],
    now: datetime,
) -> _Review:
    """Steps (3.1) to (3.9): one policy."""
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

    if battery is not None and chosen is not None:
        # (3.4) The measurement itself held: every check passed, and there were checks and graders.
        problems = _validity_problems(battery_id, chosen.assessment)
        for code, message in problems:
            fix = f"find the cause, then assess this form again with battery {battery_id}"
            add(code, message, Verdict.INVALID, fix=fix)
        # (3.5) Every rule. A broken measurement has no numbers to judge.
        if not problems:
            for outcome in rule_outcomes(policy, chosen.assessment, battery):
                remarks.extend(_remarks_of(policy, outcome))

    # (3.6) Waivers: a named person lets this form through named rules. They never touch what is invalid or stale.
    remarks = [_waived(remark, digest, waivers, now) for remark in remarks]
    remarks.extend(_waiver_remarks(policy, digest, waivers, now))

    # (3.7) A policy may refuse notes; what is only staged is no note of its own rules.
    if not policy.spec.allow_notes and policy.enforces:
        noted = [r.reason for r in remarks if r.mode == "note" and r.reason.verdict is not Verdict.PASS]
        if noted:
            names = ", ".join(sorted({reason.rule or reason.code for reason in noted}))
            add("notes_not_allowed", f"policy {policy.name} allows no notes, got {names}", Verdict.PASS_WITH_NOTES)

    # (3.8) Enforcement: what does not deny becomes a note that says what it would have been.
    # (3.9) Running a battery helps only where evidence is what is missing.
    return _Review(
        reasons=tuple(_enforced(remark) for remark in remarks),
        evidence=None if chosen is None else chosen.digest,
        needs_assessment=battery is not None and chosen is None and acceptable,
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
    eligible: list[tuple[datetime, VerifiedEvidence]] = []
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
                    eligible.append((moment, item))
            case other:
                assert_never(other)

    if not eligible:
        if not of_this_form:
            message = f"no evidence: this form ({_short(digest)}) was never assessed with battery {battery.id}"
            discard("evidence_missing", message, Verdict.INVALID)
        return _Selection(chosen=None, reasons=tuple(reasons))

    _, chosen = max(eligible, key=lambda entry: (entry[0], entry[1].digest))
    # Evidence that no longer counts beside newer evidence is history, not a note on this form. What does not verify
    # stays a note, because somebody must look at it.
    kept = [
        reason if reason.code == "signature_invalid" else replace(reason, verdict=Verdict.PASS, fix=None)
        for reason in reasons
    ]
    for _, item in eligible:
        if item is not chosen:
            message = f"evidence {_short(item.digest)} is superseded by the newer {_short(chosen.digest)}"
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
    elif now - moment > policy.spec.evidence.max_age_delta:
        message = (
            f"assessed on {moment:%Y-%m-%d}, {_age(now - moment)} ago; "
            f"the policy counts evidence of at most {policy.spec.evidence.max_age}"
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


def _remarks_of(policy: Policy, outcome: RuleOutcome) -> list[_Remark]:
    """What a rule found, as reasons with everything that a person and a machine need."""
    # A rule that denies but is not required is a note; one that only warns or runs dry is staged.
    mode: Literal["deny", "note", "warn", "dryrun"] = outcome.enforcement
    if mode == "deny" and not outcome.blocking:
        mode = "note"
    rule = outcome.rule
    return [
        _Remark(
            mode=mode,
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


def _waiver_fault(waiver: Waiver, now: datetime) -> str | None:
    """Why a waiver does not count, or None when it does."""
    approver, requester = waiver.approver.strip().casefold(), waiver.requester.strip().casefold()
    if not approver or not requester:
        return "it does not name both who asked and who approved"
    if approver == requester:
        return f"{waiver.approver} approved what they asked for themselves"
    if waiver.expires_at.tzinfo is None:
        return "its expiry has no zone"
    if waiver.expires_at <= now:
        return f"it expired at {waiver.expires_at.isoformat()}"
    return None


def _waived(remark: _Remark, digest: str, waivers: Sequence[Waiver], now: datetime) -> _Remark:
    reason = remark.reason
    if remark.mode != "deny" or reason.rule is None or reason.verdict not in WAIVABLE:
        return remark
    covering = [
        waiver
        for waiver in waivers
        if waiver.form_digest == digest
        and waiver.policy == reason.policy
        and reason.rule in waiver.rules
        and _waiver_fault(waiver, now) is None
    ]
    if not covering:
        return remark
    # The one that lasts longest is named; the id breaks a tie.
    waiver = max(covering, key=lambda waiver: (waiver.expires_at, waiver.id))
    message = (
        f"waived by {waiver.approver} until {waiver.expires_at.isoformat()} (waiver {waiver.id}: {waiver.reason}); "
        f"without it {reason.verdict}: {reason.message}"
    )
    return _Remark(
        mode=remark.mode,
        reason=replace(reason, code="waived", message=message, verdict=Verdict.WAIVED, blocking=False),
    )


def _waiver_remarks(policy: Policy, digest: str, waivers: Sequence[Waiver], now: datetime) -> list[_Remark]:
    """Waivers for this form and policy that do not count, so that nobody wonders why."""
    remarks = []
    for waiver in waivers:
        if waiver.form_digest != digest or waiver.policy != policy.name:
            continue
        fault = _waiver_fault(waiver, now)
        if fault is not None:
            message = f"waiver {waiver.id} for {', '.join(sorted(waiver.rules))} does not count: {fault}"
            reason = Reason(code="waiver_not_counted", message=message, verdict=Verdict.PASS, policy=policy.name)
            remarks.append(_Remark(mode="note", reason=reason))
    return remarks


def _enforced(remark: _Remark) -> Reason:
    reason = remark.reason
    # What passed, what is waived and what is history blocks nowhere.
    if reason.verdict is Verdict.PASS or reason.verdict is Verdict.WAIVED:
        return replace(reason, blocking=False)
    if remark.mode == "deny":
        return replace(reason, blocking=True)
    introduction = {"note": "not required", "warn": "warning only", "dryrun": "dry run"}[remark.mode]
    would = f"{introduction}, would be {reason.verdict}"
    if remark.mode == "note" and reason.rule is None:
        would = "remark"
    return replace(reason, blocking=False, verdict=Verdict.PASS_WITH_NOTES, message=f"{would}: {reason.message}")


def _short(digest: str | None) -> str:
    """Enough of a digest to recognise it in a sentence."""
    if digest is None:
        return "none"
    head, _, rest = digest.rpartition(":")
    return f"{head}:{rest[:12]}" if head else digest[:12]


def _age(duration: timedelta) -> str:
    hours = int(duration.total_seconds() // 3600)
    return f"{duration.days} days" if duration.days >= 2 else f"{hours} hours"
