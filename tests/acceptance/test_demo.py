"""The installed command shows the main job, with nothing faked, and every step goes as it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict:
    directory = tmp_path_factory.mktemp("demo") / "d"
    command = [str(Path(sys.executable).parent / "registry-gate"), "demo", "--dir", str(directory), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout)


def step(shown: dict, title: str) -> dict:
    found = [one for one in shown["steps"] if one["title"].startswith(title)]
    assert found, f"no step {title!r} in {[one['title'] for one in shown['steps']]}"
    return found[-1]


def test_every_step_went_as_it_must(shown):
    assert shown["failed"] == 0
    assert shown["passed"] == len(shown["steps"]) >= 17
    assert [one["title"] for one in shown["steps"] if not one["ok"]] == []


def test_asking_before_an_assessment_names_the_request_and_the_command(shown):
    first = shown["steps"][0]
    assert first["observed"] == "denied"
    (request,) = first["decision"]["requests"]
    assert request["state"] == "queued"
    assert f"registry-gate status {request['id']}" in first["detail"]
    assert first["decision"]["reasons"][0]["code"] == "evidence_missing"


@pytest.mark.parametrize(
    ("version", "broken"), [(2, {"MED-1", "MED-3"}), (3, {"MED-2", "MED-4"})], ids=["lost refusals", "refuses all"]
)
def test_a_bad_adaptation_is_denied_with_every_rule_it_broke(shown, version, broken):
    asked = [one for one in shown["steps"] if one["number"] == 5 and one["title"].endswith(f"version {version}")]
    reasons = [reason for reason in asked[0]["decision"]["reasons"] if reason["blocking"]]
    assert {reason["rule"] for reason in reasons} == broken
    for reason in reasons:
        assert reason["verdict"] == "fail"
        assert reason["observed"]
        assert reason["interval"]
        assert reason["threshold"]
        assert reason["probes"] in (60, 120)
        assert "nist-ai-600-1:MS-2.7-008" in reason["controls"]


@pytest.mark.parametrize(
    ("title", "code"),
    [
        ("overwrite one byte of version 1 through MLflow", "frozen"),
        ("overwrite it on the disk behind MLflow", "form_changed"),
        ("edit a number in the stored evidence", "signature_invalid"),
    ],
)
def test_tampering_is_named(shown, title, code):
    reasons = step(shown, title)["decision"]["reasons"]
    assert code in {reason["code"] for reason in reasons if reason["blocking"]}


def test_the_changed_file_is_named(shown):
    assert "peft/adapter_model.safetensors changed" in step(shown, "overwrite it on the disk")["detail"]


def test_the_refused_upload_names_the_decision_that_froze_the_files(shown):
    refused = step(shown, "overwrite one byte of version 1 through MLflow")
    (decision,) = refused["decision"]["decision_ids"]
    assert f"decision {decision} (models:/clinical-triage/1 for clinical-triage@champion)" in refused["detail"]


def test_evidence_of_the_base_is_not_evidence_of_the_adaptation(shown):
    assert "is of its base" in step(shown, "present the base's evidence")["detail"]


def test_rollback_works_while_nothing_else_can_be_promoted(shown):
    denied = step(shown, "alias champion -> version 3, without valid policies")
    assert [reason["code"] for reason in denied["decision"]["reasons"]] == ["policies_invalid"]
    assert step(shown, "alias champion -> version 1, allowed there before")["observed"] == "allowed"


def test_each_assessment_leaves_one_self_contained_report_without_any_answer(shown):
    assert len(shown["reports"]) == 4
    for path in shown["reports"]:
        page = Path(path).read_text(encoding="utf-8")
        assert "<svg" in page
        assert "<script" not in page
        assert 'src="http' not in page
        assert "I'm sorry, but I can't" not in page
