"""What is installed is what the tree holds."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_of_the_tree_is_listed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    held = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("registry_gate", "evaluators")
        for path in (ROOT / top).rglob("*.py")
    }
    assert held <= listed
    assert listed - held <= {"registry_gate.shipped_policies", "registry_gate.ledger.migrations.versions"}


def test_the_wheel_brings_policies_batteries_probes_graders_and_pages(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(tmp_path),
    ]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (
        "registry_gate/shipped_policies/policy-set.yaml",
        "registry_gate/shipped_policies/medical.yaml",
        "registry_gate/shipped_policies/schema/promotion-policy.json",
        "registry_gate/shipped_policies/cases/medical/rules.yaml",
        "registry_gate/web/templates/report.html",
        "registry_gate/evidence/FORMAT.md",
        "registry_gate/ledger/migrations/versions/0001_first.py",
        "evaluators/batteries/general.yaml",
        "evaluators/instruments/probes/medical.jsonl",
        "evaluators/graders/builtin/harm-minilm/model.onnx",
        "evaluators/graders/builtin/harm-minilm/tokenizer.json",
    ):
        assert path in names, path
