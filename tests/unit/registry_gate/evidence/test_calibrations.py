"""Calibrations as evidence: counts that nobody can have are refused before anything is signed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from registry_gate.errors import EvidenceError
from registry_gate.evidence.calibrations import sign_calibration, verify_calibration
from registry_gate.evidence.envelope import seal
from registry_gate.evidence.keys import load_decision_signer
from registry_gate.statistics.admission import Calibration, CascadeCounts, MemberCounts, RewordedCounts, SourceCounts
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


CASCADE = CascadeCounts(answers=403, passed_on=40, same=400, table=TABLE, not_graded=3)
MEMBERS = MemberCounts(differing=20, compared=400)
REWORDED = RewordedCounts(answers=100, differing=2, compared=95, one_only=4)


def of(**composed: Any) -> Calibration:
    return replace(CALIBRATION, sources={"a": replace(CALIBRATION.sources["a"], **composed)})


@pytest.mark.parametrize("composed", [{"cascade": CASCADE}, {"members": MEMBERS}, {"reworded": REWORDED}])
def test_how_composed_graders_fare_is_signed_under_a_name_that_older_gates_refuse(
    key_paths: tuple[Path, Path], composed: dict[str, Any]
) -> None:
    signer = load_decision_signer(key_paths[0])
    keys = {"worker": signer.public_pem}
    envelope = sign_calibration(of(**composed), signer)
    assert verify_calibration(envelope, keys).calibration == of(**composed)
    payload = base64.b64decode(json.loads(envelope)["payload"])
    assert b'"predicateType":"https://registry-gate.dev/calibration/v2"' in payload
    older = seal(payload.replace(b"calibration/v2", b"calibration/v1"), signer)
    with pytest.raises(EvidenceError, match=r"expected the predicate type .*/v2 for what it says, got .*/v1"):
        verify_calibration(older, keys)
    plain = base64.b64decode(json.loads(sign_calibration(CALIBRATION, signer))["payload"])
    assert b"calibration/v1" in plain and b"cascade" not in plain and b"members" not in plain


@pytest.mark.parametrize(
    ("composed", "said"),
    [
        ({"cascade": replace(CASCADE, passed_on=404)}, "cascade: expected counts of at most 403 answers, got 404"),
        ({"cascade": replace(CASCADE, same=404)}, "cascade: expected counts of at most 403 answers, got 404"),
        ({"cascade": replace(CASCADE, not_graded=4)}, "cascade: expected a full run of 403 answers, got 404"),
        ({"members": replace(MEMBERS, differing=401)}, "expected at most 400 answers to differ, got 401"),
        ({"members": replace(MEMBERS, compared=404)}, "members: expected at most 403 answers, got 404"),
        ({"reworded": replace(REWORDED, differing=96)}, "expected at most 95 answers to differ, got 96"),
        ({"reworded": replace(REWORDED, one_only=6)}, "expected at most the 100 answers put again, got 101"),
        ({"reworded": replace(REWORDED, answers=404)}, "reworded: expected at most 403 answers, got 404"),
    ],
)
def test_counts_of_composed_graders_that_do_not_add_up_are_refused(
    key_paths: tuple[Path, Path], composed: dict[str, Any], said: str
) -> None:
    with pytest.raises(EvidenceError, match=said):
        sign_calibration(of(**composed), load_decision_signer(key_paths[0]))
