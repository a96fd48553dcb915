"""`policy new, explain, diff, schema` and the formats of `lint` and `test`, as a compliance officer calls them."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from answers import Run
from gate_builders import (
    alias,
    file_evidence,
    make_assessment,
    make_envelope,
    make_form,
    make_installed_gate,
    make_version,
    promote,
)
from loopback import s3_on_loopback

from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.evidence.keys import load_signer
from registry_gate.ledger import Ledger
from registry_gate.policy.document import load_policy_set

NEW = ("--owner", "schools@example.org", "--title", "Schools: all of them", "--battery", "general@2")


@pytest.mark.parametrize("battery", ["general@1", "general@2", "medical@2", "legal@1", "finance@1"])
def test_a_new_policy_lints_and_its_cases_hold_as_written(battery: str, installed: Path, run: Run) -> None:
    answer = run(
        "policy", "new", "education", "--models", "edu-*", "--owner", "s@x.org", "--title", "S", "--battery", battery
    )
    assert answer.code == 0, answer.err
    linted = run("policy", "lint", "--format", "json").json
    assert linted["valid"] and not [w for w in linted["warnings"] if "education" in w["file"]]
    tested = run("policy", "test", "--format", "json").json
    assert tested["failed"] == 0 and not tested["problems"]
    rules = load_policy_set(installed / "policies", (PACKAGE_BATTERIES,)).policies["education"].spec.rules
    ours = [result["name"] for result in tested["results"] if result["name"].startswith("education-")]
    assert len(ours) == len(rules) + 1


def test_a_new_policy_beside_one_that_governs_the_same_models(installed: Path, run: Run) -> None:
    assert run("policy", "new", "wards", "--models", "clinical-w-*", *NEW).code == 0
    text = (installed / "policies" / "cases" / "wards" / "rules.yaml").read_text(encoding="utf-8")
    assert "general@2" in text and "medical@1" in text
    assert run("policy", "test").code == 0


def test_new_asks_for_what_no_option_says(installed: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["edu-*", "me@example.org", "Schools", "general@1"])
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _text: next(answers))
    assert run("policy", "new", "education").code == 0
    assert 'owner: "me@example.org"' in (installed / "policies" / "education.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("medical",), "which has one"),
        (("Education",), "small letters"),
        (("education", "--battery", "nope@1"), "expected a battery that exists"),
        (("education", "--models", "candidate "), "expected a name or a pattern"),
    ],
)
def test_new_refuses_and_writes_nothing(arguments: tuple[str, ...], said: str, installed: Path, run: Run) -> None:
    before = sorted((installed / "policies").rglob("*"))
    name, *options = arguments
    answer = run("policy", "new", name, "--models", "edu-*", *NEW, *options)
    assert answer.code == 2 and said in answer.err
    assert sorted((installed / "policies").rglob("*")) == before


def test_new_overwrites_nothing(installed: Path, run: Run) -> None:
    (installed / "policies" / "cases" / "education").mkdir()
    kept = installed / "policies" / "cases" / "education" / "rules.yaml"
    kept.write_text("# mine\n", encoding="utf-8")
    answer = run("policy", "new", "education", "--models", "edu-*", *NEW)
    assert answer.code == 2 and "nothing is overwritten" in answer.err
    assert kept.read_text(encoding="utf-8") == "# mine\n"
    assert not (installed / "policies" / "education.yaml").exists()


def test_lint_looks_at_the_cases_and_says_where_a_policy_lies_that_is_not_in_force(installed: Path, run: Run) -> None:
    path = installed / "policies" / "cases" / "legal.yaml"
    shutil.copy(installed / "policies" / "legal.yaml", path)
    answer = run("policy", "lint")
    assert answer.code == 2
    assert f"error: {path}:" in answer.out and "here it is not in force; move it to the top" in answer.out
    assert "the policies load, their cases do not: child-facing" in answer.out
    assert not run("policy", "lint", "--format", "json").json["valid"]
    assert run("policy", "explain", "medical").code == 0
    path.unlink()
    assert run("policy", "lint").code == 0


def test_explain_says_all_policies_or_one(installed: Path, run: Run) -> None:
    everything = run("policy", "explain").out
    assert "A promotion that no policy governs is denied." in everything and "GEN-1" in everything
    one = run("policy", "explain", "medical").out
    assert "MED-1: Refuses harmful medical requests" in one and "GEN-1" not in one
    assert "Battery medical@1 (Clinical assistants) measures" in one and "Battery general@2" not in one
    assert "Battery general@2 (" in everything
    assert run("policy", "explain", "general@2").out.startswith("Battery general@2 (")
    found = run("policy", "explain", "medical", "--format", "json").json
    assert found["decision"] is None and any("MED-1" in sentence for sentence in found["sentences"])
    answer = run("policy", "explain", "medicine")
    assert (
        answer.code == 2
        and "expected the name of a policy (child-facing, finance, general, legal, medical, public-sector)"
        in answer.err
    )


def test_explain_a_version_that_nobody_assessed(installed: Path, run: Run) -> None:
    said = run("policy", "explain", "--for", "models:/clinical-x/1", "--target", "champion").out
    assert "Policy medical applies" in said and "Known: nothing." in said
    assert run("policy", "explain", "--for", "models:/clinical-x/1").code == 2
    assert run("policy", "explain", "medical", "--for", "models:/x/1", "--target", "a").code == 2


def test_explain_a_version_says_what_the_gate_would_decide(installed: Path, run: Run) -> None:
    policy_set = load_policy_set(installed / "policies", (PACKAGE_BATTERIES,))
    form, ledger = make_form(), Ledger.connect(f"sqlite:///{installed / 'mlflow.db'}")
    assessment = make_assessment(policy_set, form, at=datetime.now(UTC) - timedelta(days=3))
    envelope = make_envelope(assessment, form, load_signer(installed / "keys" / "worker.key"))
    with ledger.transaction() as connection:
        request = ledger.request_assessment(
            connection,
            workspace="default",
            form_digest=form.digest,
            battery="general@1",
            battery_digest=assessment.battery_digest,
            model="chat",
            version=1,
        )
    assert ledger.claim("w", timedelta(minutes=1))
    ledger.finish(request.id, "w", file_evidence(ledger, envelope, form))
    asked = ("policy", "explain", "--for", "models:/chat/1", "--target", "champion")
    found = run(*asked, "--format", "json").json
    assert found["decision"]["decision"] == "allowed"
    assert any("would be allowed" in sentence for sentence in found["sentences"])


def test_diff_tells_meaning_and_exits_with_3_where_some_changes(installed: Path, run: Run) -> None:
    assert run("policy", "diff", "policies", "policies").out == "nothing changed\n"
    assert run("policy", "diff", "policies", "policies").code == 0
    old = installed / "old"
    (installed / "policies").rename(old)
    copied = subprocess.run(["cp", "-r", old, installed / "policies"], check=False)
    assert copied.returncode == 0
    path = installed / "policies" / "medical.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("maxAge: 90d", "maxAge: 180d").replace("minProbes: 60", "minProbes: 50"), encoding="utf-8"
    )
    answer = run("policy", "diff", "old", "policies")
    assert answer.code == 3
    assert answer.out.splitlines()[0] == "looser    medical: evidence.maxAge was 90d, is 180d"
    found = run("policy", "diff", "policies", "old", "--format", "json").json
    assert found["counts"] == {"stricter": 2, "looser": 0, "neither": 0, "wording": 0}


def git(directory: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", directory, *who, *arguments], check=True, capture_output=True)


def test_diff_between_revisions_needs_no_keys(installed: Path, run: Run) -> None:
    git(installed, "init", "-q")
    (installed / ".gitignore").write_text("signers\nkeys\n", encoding="utf-8")
    git(installed, "add", ".")
    git(installed, "commit", "-qm", "one")
    git(installed, "tag", "v1")
    path = installed / "policies" / "medical.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("maxAge: 90d", "maxAge: 30d"), encoding="utf-8")
    git(installed, "commit", "-qam", "two")
    answer = run("policy", "diff", "v1..")
    assert answer.code == 3 and answer.out.startswith("stricter  medical: evidence.maxAge was 90d, is 30d")
    assert run("policy", "diff", "v1:policies", "policies").code == 3
    assert run("policy", "diff", "v1..v1").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("policies",), "expected two places"),
        (("nowhere", "policies"), "expected a directory of policies, or REV:DIRECTORY"),
        (("nope..", ), "expected a revision and a directory that it holds"),
        (("--", "--output=x..HEAD"), "expected a revision and a directory that it holds"),
        (("HEAD:elsewhere", "policies"), "expected a revision and a directory that it holds"),
        (("HEAD:/etc", "policies"), "expected a revision and a directory that it holds"),
    ],
)  # fmt: skip
def test_diff_of_what_is_not_there_ends_with_2(
    arguments: tuple[str, ...], said: str, installed: Path, run: Run
) -> None:
    git(installed, "init", "-q")
    git(installed, "add", ".")
    git(installed, "commit", "-qm", "one")
    answer = run("policy", "diff", *arguments)
    assert answer.code == 2 and said in answer.err and "registry-gate-policies-" not in answer.err


def test_diff_of_a_broken_revision_names_the_place_that_was_given(installed: Path, run: Run) -> None:
    git(installed, "init", "-q")
    (installed / "policies" / "medical.yaml").write_text("spec: [", encoding="utf-8")
    git(installed, "add", ".")
    git(installed, "commit", "-qm", "one")
    answer = run("policy", "diff", "HEAD:policies", "policies")
    assert answer.code == 2 and "HEAD:policies/medical.yaml:1" in answer.err


def test_schema_is_printed_or_written(installed: Path, run: Run) -> None:
    assert run("policy", "schema").json["properties"]["kind"]["const"] == "PromotionPolicy"
    assert run("policy", "schema", "PolicySet").json["properties"]["kind"]["const"] == "PolicySet"
    assert run("policy", "schema", "-o", "out").code == 0
    assert len(list((installed / "out").glob("*.json"))) == 5
    assert json.loads((installed / "out" / "battery.json").read_text(encoding="utf-8"))
    assert run("policy", "schema", "Nonsense").code == 2


def test_lint_and_test_speak_to_ci(installed: Path, run: Run) -> None:
    suites = ET.fromstring(run("policy", "test", "--format", "junit").out)  # noqa: S314
    assert int(suites.get("tests", "0")) > 50 and suites.get("failures") == "0"
    assert run("policy", "test", "--format", "github").out == "\n"
    path = installed / "policies" / "cases" / "general" / "broken.yaml"
    path.write_text("kind: PolicyTest\n", encoding="utf-8")
    answer = run("policy", "test", "--format", "github")
    assert answer.code == 2 and answer.out.startswith(f"::error file={path},line=1::")
    policy = installed / "policies" / "medical.yaml"
    policy.write_text(policy.read_text(encoding="utf-8").replace("maxAge: 90d", "maxage: 90d"), encoding="utf-8")
    answer = run("policy", "lint", "--format", "github")
    assert answer.code == 2 and "::error file=" in answer.out and "medical.yaml,line=" in answer.out


def test_a_set_is_published_and_read_by_every_command(
    installed: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_on_loopback(monkeypatch, "sets"):
        published = run("policy", "publish", "policies", "s3://sets/ours", "--format", "json")
        assert published.code == 0, published.err
        digest = published.json["digest"]
        assert run("policy", "lint", "--format", "json").json["digest"] == digest
        assert run("policy", "lint", "s3://sets/ours", "--format", "json").json["digest"] == digest
        assert run("policy", "test", "s3://sets/ours").code == 0
        assert run("policy", "diff", "s3://sets/ours", "policies").out == "nothing changed\n"
        monkeypatch.setenv("REGISTRY_GATE_POLICIES", "s3://sets/ours")
        assert f"digest {digest}, from s3://sets/ours at index sha256:" in run("doctor").out
        assert run("battery", "plan", "medical").code == 0
        wrote = run("policy", "new", "education", "--models", "edu-*", *NEW)
        assert wrote.code == 2 and "expected a directory of policies to write into, got s3://sets/ours" in wrote.err
        # What does not load is not published.
        policy = installed / "policies" / "medical.yaml"
        policy.write_text(policy.read_text().replace("      atMost:", "      atmost:", 1))
        refused = run("policy", "publish", "policies", "s3://sets/ours")
        assert refused.code == 2 and "unknown key" in refused.err
        assert run("policy", "lint", "s3://sets/ours", "--format", "json").json["digest"] == digest
        assert run("policy", "publish", "policies", "elsewhere").code == 2
    away = run("policy", "lint", "s3://sets/ours")
    assert away.code == 4 and "expected S3 to answer" in away.err


def test_a_set_in_git_is_read_by_every_command(installed: Path, run: Run) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for arguments in (["init", "-q"], ["add", "--all", "--force"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *arguments], cwd=installed, check=True)
    address = f"git+file://{installed}@main#policies"
    (installed / "policies" / "legal.yaml").unlink()
    assert "legal" in run("policy", "explain", "--policies", address).out
    assert run("policy", "diff", address, "policies").code == 3
    assert run("policy", "lint", str(installed / "registry-gate.toml")).code == 2


# -- replay -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def decided(home: Path) -> Path:
    """A ledger with one promotion allowed, one denied for harm, and one denied for want of evidence that came later."""
    gate, form, file = make_installed_gate(home)
    for version, digest, events in ((1, "1", 3), (2, "2", 60), (3, "3", None)):
        of = replace(form, settings={"system_prompt": f"sha256:{digest * 64}"})
        ref = make_version(version)
        gate.forms.of[ref] = of  # type: ignore[attr-defined]
        if events is not None:
            file(form=of, events=events)
        review = gate.review(promote((alias(), ref)))
        if review.allowed:
            with gate.ledger.transaction() as connection:
                gate.record_allowed(connection, review, {})
        else:
            gate.record_denied(review)
        gate._clock.forward(minutes=1)  # type: ignore[attr-defined]
    file(form=of, events=3)
    return home


def test_replay_tells_what_turns_by_rule_and_draws_it(decided: Path, run: Run) -> None:
    answer = run("policy", "replay", "policies")
    assert answer.code == 0
    assert "3 past decisions, as decided to policies: 0 would be denied, 0 released, 3 the same" in answer.out
    shutil.copytree(decided / "policies", decided / "tight")
    path = decided / "tight" / "general.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("atMost: 0.15", "atMost: 0.05"), encoding="utf-8")
    answer = run("policy", "replay", "policies", "tight", "--plot", "replay.svg")
    assert answer.code == 3
    assert "denied    chat@champion -> models:/chat/1" in answer.out
    assert "1 would be denied, 0 released, 2 the same, 0 not replayed" in answer.out
    assert "general GEN-1" in (decided / "replay.svg").read_text(encoding="utf-8")
    found = run("policy", "replay", "tight", "policies", "--format", "json").json
    assert found["counts"] == {"same": 2, "denied": 0, "released": 1, "not replayed": 0}
    assert {one["cause"] for one in found["causes"]} == {"general GEN-1", "general GEN-2"}
    assert run("policy", "replay", "tight").code == 3


def test_replay_of_nothing_ends_with_5_and_of_what_is_invalid_with_2(installed: Path, run: Run) -> None:
    assert run("policy", "replay", "policies").code == 5
    assert run("policy", "replay", "nowhere").code == 2
    assert run("policy", "replay", "policies", "--since", "yesterday").code == 2
    assert run("policy", "replay", "policies", "--since", "2026-01-01").code == 2


def test_replay_since_a_moment(decided: Path, run: Run) -> None:
    found = run("policy", "replay", "policies", "--since", "2099-01-01T00:00:00Z")
    assert found.code == 5
