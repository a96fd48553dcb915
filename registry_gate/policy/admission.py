"""Whether the graders behind an assessment may vote under a policy: what they were shown to do, by whom and when.

Pure. The limits are `statistics.admission`; here is what a policy says about which calibration counts. METHOD.md
section 4.6: a grader votes only when measured on answers that people labelled, as this build run by this runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry_gate.assessment import Assessment, GraderRecord
from registry_gate.battery import METRIC_AXES, Battery
from registry_gate.decision import Verdict
from registry_gate.policy.grants import CLOCK_TOLERANCE, age_of
from registry_gate.policy.inputs import CalibrationItem, UnverifiedCalibration, VerifiedCalibration
from registry_gate.policy.schema import GraderAdmissionSpec, Policy
from registry_gate.statistics.admission import admit

SOON = timedelta(days=30)
"""A calibration that ends within so long is told: to have people label answers takes about that."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Whether one grader may vote.

    Args:
        code: Stable word, e.g. `grader_admitted` or `grader_not_calibrated`.
        verdict: `pass`, or what it makes of the measurement.
        message: The sentence.
        ends: When the first calibration that it rests on is too old; None where it may not vote.
    """

    code: str
    verdict: Verdict
    message: str
    ends: datetime | None = None


def standings(
    policy: Policy,
    battery: Battery,
    assessment: Assessment,
    calibrations: Sequence[CalibrationItem],
    now: datetime,
) -> list[Standing]:
    """What is to be said of each grader whose labels the policy's rules count; nothing where it asks for no admission.

    Args:
        policy: The policy.
        battery: The battery in force, which says who votes.
        assessment: The assessment, which says who that was.
        calibrations: Everything that lies with the policy set.
        now: The moment, with zone.
    """
    asked = policy.spec.grader_admission
    if asked is None:
        return []
    return [_standing(asked, grader, calibrations, now) for grader in _voters(policy, battery, assessment)]


def missing_calibrations(policy: Policy, battery: Battery, calibrated: Mapping[str, str]) -> list[str]:
    """Graders without whose calibration no assessment counts, in words; further ones may vote too.

    The battery does not say on which axis a grader is, so of each instrument that the policy reads these are the first,
    which always votes, and some grader on each axis that its metric needs one on.

    Args:
        policy: A policy that asks for calibrations.
        battery: Its battery.
        calibrated: Axis of each grader that has a calibration which may count, by the grader's name.
    """
    read = {rule.measure for rule in policy.spec.rules}
    missing = set()
    for one in battery.spec.instruments:
        if one.measure not in read or not one.graders:
            continue
        if one.graders[0] not in calibrated:
            missing.add(one.graders[0])
        axes = {calibrated[name] for name in one.graders if name in calibrated}
        left = [name for name in one.graders if name not in calibrated]
        for axis in METRIC_AXES.get(one.metric, ()):
            # The first that is missing may be the one of this axis.
            if axis not in axes and left[:1] != [one.graders[0]]:
                missing.add(f"the one for {axis}" + (f" ({' or '.join(left)})" if left else ""))
    return sorted(missing)


def ending_calibrations(
    policy: Policy, battery: Battery, calibrations: Sequence[CalibrationItem], now: datetime
) -> dict[str, str]:
    """What is to be said of calibrations that are too old for a policy or soon will be, by the name of their file.

    Left out are those that a newer one of the same grader digest on the same answers replaces, those that do not count
    anyway, and those of graders that no measure of the policy names.

    Args:
        policy: A policy that asks for calibrations.
        battery: Its battery.
        calibrations: Everything that lies with the policy set.
        now: The moment, with zone.
    """
    asked = policy.spec.grader_admission
    if asked is None:
        return {}
    read = {rule.measure for rule in policy.spec.rules}
    graders = {name for one in battery.spec.instruments if one.measure in read for name in one.graders}
    newest: dict[tuple[str, str], VerifiedCalibration] = {}
    for one in calibrations:
        if not isinstance(one, VerifiedCalibration) or not set(one.signers) & set(asked.signed_by):
            continue
        said = one.calibration
        key = (said.grader, said.data_sha256)
        if said.name in graders and (key not in newest or said.calibrated_at > newest[key].calibration.calibrated_at):
            newest[key] = one
    # Where calibrations hold for weeks only, that one of yesterday ends soon is no news.
    soon = min(SOON, asked.max_age_delta / 2)
    found = {}
    for one in newest.values():
        ends = one.calibration.calibrated_at + asked.max_age_delta
        if ends - now > soon:
            continue
        when = f"{age_of(ends - now)} from now" if ends > now else f"{age_of(now - ends)} ago"
        found[one.file] = (
            f"the calibration of grader {one.calibration.name} {'ends' if ends > now else 'ended'} on "
            f"{ends:%Y-%m-%d}, {when}, by 'maxAge: {asked.max_age}' of policy {policy.name}"
        )
    return found


def _voters(policy: Policy, battery: Battery, assessment: Assessment) -> list[GraderRecord]:
    """The first grader of each axis of each instrument that the policy reads: the others only check it."""
    read = {rule.measure for rule in policy.spec.rules}
    records = {record.name: record for record in assessment.graders}
    found: dict[str, GraderRecord] = {}
    for instrument in battery.spec.instruments:
        if instrument.measure not in read:
            continue
        axes = set()
        for name in instrument.graders:
            # A grader that the battery names and the assessment does not is as unknown as one can be.
            record = records.get(name) or GraderRecord(
                name=name, version="", family="", axis=name, digest="(none)", runtime="(none)"
            )
            if record.axis not in axes:
                axes.add(record.axis)
                found[name] = record
    return [record for _, record in sorted(found.items())]


def _standing(
    asked: GraderAdmissionSpec, grader: GraderRecord, calibrations: Sequence[CalibrationItem], now: datetime
) -> Standing:
    named = f"grader {grader.name} ({grader.digest[:19]})"
    # (1) A calibration of exactly this grader. Why others do not count is told beside.
    mine = [one for one in calibrations if isinstance(one, VerifiedCalibration) and _is_of(one, grader)]
    if not mine:
        return Standing(
            code="grader_not_calibrated",
            verdict=Verdict.INVALID,
            message=f"expected a calibration of {named}, got none{_others(grader, calibrations)}",
        )
    # (2) Run by what runs it, signed by somebody who may, at a moment that can be.
    counting, causes = [], []
    for one in mine:
        cause = _fault(asked, grader, one, now)
        if cause is None:
            counting.append(one)
        else:
            causes.append(f"{one.file}: {cause}")
    if not counting:
        return Standing(
            code="grader_not_calibrated",
            verdict=Verdict.INVALID,
            message=f"expected a calibration of {named} that counts, got {'; '.join(sorted(causes))}",
        )
    # (3) In date. Of several on the same data, byte for byte, the newest stands; two of one moment both do.
    latest: dict[str, datetime] = {}
    for said in (one.calibration for one in counting):
        latest[said.data_sha256] = max(said.calibrated_at, latest.get(said.data_sha256, said.calibrated_at))
    newest = [one for one in counting if one.calibration.calibrated_at == latest[one.calibration.data_sha256]]
    in_date = [one for one in newest if now - one.calibration.calibrated_at < asked.max_age_delta]
    if not in_date:
        last = max(latest.values())
        return Standing(
            code="grader_calibration_expired",
            verdict=Verdict.STALE,
            message=f"{named} was calibrated on {last:%Y-%m-%d}, {age_of(now - last)} ago; the policy counts "
            f"calibrations of less than {asked.max_age}",
        )
    # (4) What it was shown to do, in every source of every one of them.
    faults = sorted(
        {f"{one.file}: {fault}" for one in in_date for fault in admit(one.calibration.sources, asked.limits).faults}
    )
    if faults:
        return Standing(
            code="grader_not_admitted", verdict=Verdict.INVALID, message=f"{named} may not vote: {'; '.join(faults)}"
        )
    shown = ", ".join(sorted({f"{one.file} ({one.digest[:19]})" for one in in_date}))
    return Standing(
        code="grader_admitted",
        verdict=Verdict.PASS,
        message=f"{named} may vote by {shown}",
        ends=min(one.calibration.calibrated_at for one in in_date) + asked.max_age_delta,
    )


def _is_of(one: VerifiedCalibration, grader: GraderRecord) -> bool:
    return one.calibration.grader == grader.digest


def _fault(asked: GraderAdmissionSpec, grader: GraderRecord, one: VerifiedCalibration, now: datetime) -> str | None:
    said = one.calibration
    if said.axis != grader.axis:
        return f"it is of the axis {said.axis}, the assessment used {grader.axis}"
    if said.runtime != grader.runtime:
        return f"expected it to be run by {grader.runtime}, got {said.runtime}"
    if not set(one.signers) & set(asked.signed_by):
        signers = ", ".join(sorted(one.signers)) or "nobody"
        return f"expected a signature by {' or '.join(sorted(asked.signed_by))}, got {signers}"
    if said.calibrated_at - now > CLOCK_TOLERANCE:
        return f"it was made at {said.calibrated_at.isoformat()}, which is in the future: one of the clocks is wrong"
    return None


def _others(grader: GraderRecord, calibrations: Sequence[CalibrationItem]) -> str:
    """What lies there instead, as the end of a sentence."""
    namesakes = [
        f"{one.file} is of another version of it ({one.calibration.grader[:19]})"
        for one in calibrations
        if isinstance(one, VerifiedCalibration) and one.calibration.name == grader.name
    ]
    broken = [
        f"{one.file} does not verify: {one.cause}" for one in calibrations if isinstance(one, UnverifiedCalibration)
    ]
    found = sorted([*namesakes, *broken])
    return f" ({'; '.join(found)})" if found else ""
