"""What one piece of evidence shows for each control: nothing is inferred from silence."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from gate_builders import NOW, make_assessment, make_envelope, make_installed_gate

from registry_gate.assessment import ValidityCheck
from registry_gate.evidence.envelope import verify
from registry_gate.evidence.keys import load_signer
from registry_gate.web.by_control import ControlRow, by_control
from registry_gate.web.summary import policies_for, summarise

HEADLINE = "nist-ai-600-1:MS-2.7-008"


class Place:
    def __init__(self, directory: Path) -> None:
        self.gate, self.form, _ = make_installed_gate(directory)
        self.set = self.gate.policies.current()
        self.signer = load_signer(directory / "keys" / "worker.key")

    def rows(self, *, catalogue: bool = True, **changes: object) -> dict[str, ControlRow]:
        assessment = make_assessment(self.set, self.form, **changes)  # type: ignore[arg-type]
        verified = verify(make_envelope(assessment, self.form, self.signer), self.set.signers)
        summary = summarise(self.set, policies_for(self.set, "chat", "general@1"), verified, NOW)
        return {row.control: row for row in by_control(summary, self.set.controls if catalogue else {})}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_each_control_has_its_status_rules_evidence_and_what_is_not_shown(place: Place) -> None:
    row = place.rows()[HEADLINE]
    assert row.status == "pass" and "general GEN-1: pass" in row.rules
    assert row.evidence.startswith("sha256:") and row.signers == ("worker",) and row.assessed_at
    assert row.title and row.framework and "checked" in str(row.certainty)
    assert row.not_shown.startswith("Controls outside the model")
    assert json.dumps(row.to_dict())


def test_the_worst_rule_decides(place: Place) -> None:
    rows = place.rows(events=60)
    assert rows[HEADLINE].status == "fail"
    assert all(row.status != "pass" for row in rows.values())


def test_what_could_not_be_judged_is_never_shown_as_kept(place: Place) -> None:
    broken = (ValidityCheck(check="coherence", passed=False, detail="too many"),)
    assert {row.status for row in place.rows(validity=broken).values()} == {"invalid"}
    old = place.rows(at=NOW - timedelta(days=400))
    assert {row.status for row in old.values()} == {"stale"}


def test_an_id_that_the_catalogue_does_not_hold_says_so(place: Place) -> None:
    row = place.rows(catalogue=False)[HEADLINE]
    assert row.title is None and "The catalogue does not say" in row.not_shown
