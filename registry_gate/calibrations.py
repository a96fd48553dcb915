"""Verify the calibrations of graders that lie with a policy set, for whoever decides by it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime

from registry_gate.errors import ConfigError, EvidenceError
from registry_gate.evidence.calibrations import verify_calibration
from registry_gate.policy.admission import ending_calibrations, missing_calibrations
from registry_gate.policy.document import PolicySet
from registry_gate.policy.inputs import CalibrationItem, UnverifiedCalibration, VerifiedCalibration
from registry_gate.policy.lint import LintProblem


def calibrations_of(policy_set: PolicySet, keys: Mapping[str, bytes] | None = None) -> tuple[CalibrationItem, ...]:
    """Every calibration of a set, by the name of its file.

    Args:
        policy_set: The set.
        keys: Public keys (PEM) by signer; those of the set unless others are given.
    """
    signers = tuple(sorted((policy_set.signers if keys is None else keys).items()))
    return tuple(_read(file, envelope, signers) for file, envelope in policy_set.calibrations.items())


@functools.lru_cache(maxsize=256)
def _read(file: str, envelope: bytes, keys: tuple[tuple[str, bytes], ...]) -> CalibrationItem:
    try:
        verified = verify_calibration(envelope, dict(keys))
    except (ConfigError, EvidenceError) as err:
        return UnverifiedCalibration(file=file, cause=str(err))
    return VerifiedCalibration(
        file=file, digest=verified.digest, calibration=verified.calibration, signers=verified.signers
    )


def lint_calibrations(policy_set: PolicySet, now: datetime) -> list[LintProblem]:
    """What is wrong with the calibrations of a set, or missing from them, or will be soon, as warnings.

    Args:
        policy_set: The set.
        now: The moment, with zone.
    """
    found = calibrations_of(policy_set)
    problems = [
        _problem(policy_set, one.file, "calibration_refused", f"it counts for nothing: {one.cause}")
        for one in found
        if isinstance(one, UnverifiedCalibration)
    ]
    for policy in policy_set.policies.values():
        asked = policy.spec.grader_admission
        if asked is None:
            continue
        axes = {
            one.calibration.name: one.calibration.axis
            for one in found
            if isinstance(one, VerifiedCalibration) and set(one.signers) & set(asked.signed_by)
        }
        battery = policy_set.batteries[policy.spec.evidence.battery]
        missing = missing_calibrations(policy, battery, axes)
        if missing:
            message = (
                f"policy {policy.name} counts only calibrated graders, and there is no calibration of "
                f"{' and none of '.join(missing)} signed by {' or '.join(sorted(asked.signed_by))}: nothing can be "
                "promoted"
            )
            problems.append(_problem(policy_set, "calibrations", "not_calibrated", message))
        for file, said in ending_calibrations(policy, battery, found, now).items():
            again = "calibrate the grader again (`registry-gate grader calibrate`)"
            message = f"{said}; {again}, or delete the file if the grader is out of use"
            problems.append(_problem(policy_set, file, "calibration_ends", message))
    return problems


def _problem(policy_set: PolicySet, file: str, code: str, message: str) -> LintProblem:
    return LintProblem(file=policy_set.files.shown(file), line=0, key="", message=message, code=code, level="warning")
