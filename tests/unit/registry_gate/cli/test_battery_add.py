"""`battery add` and `study` as a user calls them: what is written, what is said, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from registry_gate.battery import load_batteries
from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.policy.document import load_policy_set


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "registry_gate", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "intake.csv"
    file.write_text("id,question,kind\n" + "".join(f"{n},Where is room {n}?,place\n" for n in range(40)))
    return file


ADD = ("--metric", "overrefusal", "--column", "text=question", "--column", "id=id", "--licence", "internal")


def test_a_file_becomes_a_battery_of_the_policy_directory(questions: Path, tmp_path: Path) -> None:
    assert command("init", str(tmp_path / "gate"), cwd=tmp_path).returncode == 0
    done = command(
        "battery", "add", "intake", "--from", str(questions), *ADD, "--format", "json", cwd=tmp_path / "gate"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["battery"], answer["instruments"][0]["probes"]) == ("intake@1", 40)
    assert load_batteries([tmp_path / "gate" / "policies" / "batteries"])["intake@1"].digest == answer["digest"]
    assert "intake@1" in load_policy_set(tmp_path / "gate" / "policies", [PACKAGE_BATTERIES]).batteries

    more = ("--extend", "general@1", "--battery", "general-intake@1")
    text = command("battery", "add", "intake", "--from", str(questions), *ADD, *more, cwd=tmp_path / "gate")
    assert text.returncode == 0
    assert "intake.overrefusal: 40 probes" in text.stdout
    assert "evidence: {battery: general-intake@1}" in text.stderr
    extended = load_batteries([tmp_path / "gate" / "policies" / "batteries"])["general-intake@1"]
    assert [one.size for one in extended.spec.instruments] == [120, 120, 40]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("intake",), 4, "or --metric, --licence, --column text=NAME for another one, got 'intake'"),
        (("xstest",), 4, "expected a file named like"),
        (("intake", *ADD, "--battery", "intake"), 2, "expected NAME@VERSION such as xstest@1"),
        (("intake", *ADD, "--column", "text"), 2, "expected NAME=VALUE, got 'text'"),
        (("intake", *ADD, "--where", "kind=colour"), 4, "expected rows where kind in (colour), got none"),
        (("intake", *ADD, "--extend", "nothing@1"), 2, "expected a battery that exists"),
        (("intake", *ADD, "--encoding", "utf-16"), 4, "utf-16"),
    ],
)
def test_what_cannot_be_added_is_said_and_nothing_is_written(
    arguments: tuple[str, ...], code: int, message: str, questions: Path, tmp_path: Path
) -> None:
    done = command("battery", "add", *arguments, "--from", str(questions), "--dir", "out", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*.yaml"))


def test_a_study_that_cannot_run_says_why(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "apiVersion: registry-gate/v1\nkind: Study\nmetadata: {name: s}\nspec:\n  battery: none@1\n"
        "  bases: [{name: b, path: b}]\n  adaptations: [{name: a, base: b, path: a}]\n"
    )
    done = command("study", "study.yaml", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "expected a battery that exists" in done.stderr
    text = (tmp_path / "study.yaml").read_text().replace("none@1", "study@1")
    (tmp_path / "study.yaml").write_text(text)
    done = command("study", "study.yaml", "--out", "out", cwd=tmp_path)
    assert done.returncode == 4
    assert "expected the directory of a model at" in done.stderr
