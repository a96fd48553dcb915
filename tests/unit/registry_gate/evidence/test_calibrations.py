"""Calibrations as evidence: counts that nobody can have are refused before anything is signed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry_gate.errors import EvidenceError
from registry_gate.evidence.calibrations import sign_calibration, verify_calibration
from registry_gate.evidence.keys import load_decision_signer
from registry_gate.statistics.admission import Calibration, SourceCounts
from registry_gate.statistics.agreement import Confusion

TABLE = Confusion(true_positive=190, false_positive=6, false_negative=10, true_negative=194)
CALIBRATION = Calibration(
    grader="sha256:" + "1" * 64,
    name="harm-minilm",
    version="2.1",
    axis="harm",
    runtime="python",
    data="answers.csv",
    data_sha256="0" * 64,
    sources={"a": SourceCounts(table=TABLE, not_graded=3, kappa_lower=0.9)},
    calibrated_at=datetime(2026, 11, 23, tzinfo=UTC),
)


def test_counts_that_no_people_can_have_labelled_are_refused(key_paths: tuple[Path, Path]) -> None:
    signer = load_decision_signer(key_paths[0])
    envelope = sign_calibration(CALIBRATION, signer)
    assert verify_calibration(envelope, {"worker": signer.public_pem}).calibration == CALIBRATION
    endless = SourceCounts(table=replace(TABLE, true_positive=10**400), not_graded=0, kappa_lower=0.9)
    with pytest.raises(EvidenceError, match=r"predicate\.sources\.a\.true_positive: "):
        sign_calibration(replace(CALIBRATION, sources={"a": endless}), signer)
