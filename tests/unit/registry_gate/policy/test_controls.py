"""The control catalogue: data for people, strict like the rest, and without a say in any decision."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry_gate.policy.document import Checked, check_policy_set

ROOT = Path(__file__).parents[4]
BATTERIES = (ROOT / "evaluators" / "batteries",)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    return tmp_path / "policies"


def check(directory: Path) -> Checked:
    return check_policy_set(directory, BATTERIES, keys=False)


def test_every_control_of_the_shipped_policies_is_in_the_catalogue(directory: Path) -> None:
    policy_set = check(directory).policy_set
    assert policy_set is not None
    named = {c for p in policy_set.policies.values() for rule in p.spec.rules for c in rule.controls}
    assert named <= set(policy_set.controls)
    assert not [w for w in check(directory).warnings if w.code.startswith("control")]
    for control in policy_set.controls.values():
        assert control.title and control.not_shown and control.certainty in ("checked", "secondary", "memory")


def test_it_changes_no_digest(directory: Path) -> None:
    before = check(directory).policy_set
    shutil.rmtree(directory / "controls")
    after = check(directory).policy_set
    assert before is not None and after is not None and before.digest == after.digest
    assert not [w for w in check(directory).warnings if w.code.startswith("control")]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("certainty: checked", "certainty: sure", "certainty"),
        ("      evidence: full", "      evidence: total", "evidence"),
        ("    - id: MS-2.5-001", "    - id: MS-2.3-001", "expected each control once"),
        ("kind: ControlCatalogue", "kind: Controls", "kind"),
        ('verified: "2026-08-31"', "verified: august", "verified"),
        ("  edition:", "  editon:", "editon"),
    ],
)
def test_a_catalogue_that_is_wrong_stops_the_load(old: str, new: str, said: str, directory: Path) -> None:
    path = directory / "controls" / "nist-ai-600-1.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    checked = check(directory)
    assert checked.policy_set is None
    assert any(said in str(problem) and "nist-ai-600-1.yaml:" in str(problem) for problem in checked.errors)


def test_a_catalogue_among_the_policies_is_sent_to_its_folder(directory: Path) -> None:
    (directory / "controls" / "others.yaml").rename(directory / "others.yaml")
    assert any("it belongs under controls/" in str(problem) for problem in check(directory).errors)
