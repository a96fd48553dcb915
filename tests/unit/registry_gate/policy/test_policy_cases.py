"""Policy tests: the shipped policies hold all of theirs, every rule is tried both ways, and no test is no success."""

from __future__ import annotations

import inspect
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

import evaluators.batteries
from registry_gate.documents import parse_documents, validate
from registry_gate.evidence.keys import generate_key
from registry_gate.form import WEIGHT_FORMATS
from registry_gate.policy import admission, outcomes, rules
from registry_gate.policy.cases import lint_cases, run_cases
from registry_gate.policy.codes import SENTENCES
from registry_gate.policy.document import load_policy_set
from registry_gate.policy.files import read_directory
from registry_gate.policy.schema import CaseTarget, Policy, PolicyTest

SHIPPED = Path(__file__).parents[4] / "policies"
BATTERIES = Path(evaluators.batteries.__file__).parent
KEY = (
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEATLWr9q15+/WrvMr8wmnYXNJlHtS4hbWGnyQa7fCluik=\n"
    "-----END PUBLIC KEY-----\n"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The shipped policies as `registry-gate init` leaves them: with the worker's public key."""
    directory = tmp_path_factory.mktemp("installed") / "policies"
    shutil.copytree(SHIPPED, directory)
    (directory / "signers").mkdir(exist_ok=True)
    (directory / "signers" / "worker.pem").write_text(KEY)
    return load_policy_set(directory, [BATTERIES])


@pytest.fixture(scope="module")
def report(installed):
    return run_cases(installed, installed.files.below("cases"))


def test_the_shipped_policies_have_nothing_to_lint(installed):
    assert [str(warning) for warning in installed.warnings] == []
    assert set(installed.policies) >= {"general", "medical"}


def test_every_shipped_case_holds(report):
    assert [str(problem) for problem in report.problems] == []
    assert {result.name: result.differences for result in report.results if not result.passed} == {}
    assert report.passed
    assert report.ran >= 60


def test_every_limit_of_every_rule_is_tried_in_both_directions(installed, report):
    seen = {
        (reason.policy, reason.rule, reason.code)
        for result in report.results
        if result.decision is not None
        for reason in result.decision.reasons
    }
    for policy in installed.policies.values():
        for rule in policy.spec.rules:
            limits = {
                "ceiling_kept": rule.at_most,
                "ceiling_exceeded": rule.at_most,
                "margin_kept": rule.not_worse_than_base,
                "worse_than_base": rule.not_worse_than_base,
                "zero_tolerance_kept": rule.zero_tolerance or None,
                "zero_tolerance_hit": rule.zero_tolerance or None,
            }
            asked = {(policy.name, rule.id, code) for code, limit in limits.items() if limit is not None}
            assert asked and asked <= seen


def test_a_form_that_refuses_everything_fails_over_refusal(report):
    for name, rule in (("general-refuses-everything", "GEN-2"), ("medical-refuses-everything", "MED-2")):
        (result,) = [result for result in report.results if result.name == name]
        assert rule in {reason.rule for reason in result.decision.reasons if reason.code == "ceiling_exceeded"}


def test_no_case_is_no_success(installed, tmp_path):
    for files in (read_directory(tmp_path), installed.files.below("gone")):
        report = run_cases(installed, files)
        assert (report.ran, report.problems, report.passed) == (0, (), False)


CASE = """\
apiVersion: registry-gate/v1
kind: PolicyTest
metadata: {name: one}
spec:
  target: {model: chat, alias: champion}
  now: 2026-11-23T12:00:00Z
  evidence:
    - battery: general@1
      assessedAt: 2026-11-20T08:00:00Z
      measures:
        general.harmful_compliance: {events: 3, baseEvents: 3}
        general.overrefusal: {events: 4, baseEvents: 3}
  expect: {decision: allowed, verdict: pass}
"""


def case(installed, tmp_path, old="", new="", name="case.yaml"):
    assert old in CASE
    (tmp_path / name).write_text(CASE.replace(old, new) if old else CASE)
    return run_cases(installed, read_directory(tmp_path))


def test_a_case_that_does_not_hold_says_what_came(installed, tmp_path):
    report = case(installed, tmp_path, "{events: 3, baseEvents: 3}", "{events: 12, baseEvents: 12}")
    (result,) = report.results
    assert not report.passed
    assert result.line == 13
    assert result.differences == (
        "expected the decision allowed, got denied",
        "expected the verdict pass, got inconclusive",
        "expected the reasons none, got GEN-1/ceiling_inconclusive",
    )


def test_a_case_that_does_not_hold_says_each_reason_in_words(installed, tmp_path):
    (result,) = case(
        installed,
        tmp_path,
        "verdict: pass}",
        "verdict: pass, reasons: [GEN-1/ceiling_exceeded, GEN-2/ceiling_kept, GEN-1/not_mesured], notes: [waived]}",
    ).results
    assert [(one.label, one.got) for one in result.told] == [
        ("GEN-1/ceiling_exceeded", False),
        ("GEN-1/not_mesured", False),
        ("GEN-2/ceiling_kept", False),
        ("waived", False),
    ]
    said = [str(one) for one in result.told]
    assert said[0] == "expected, not got GEN-1/ceiling_exceeded: the rate is above 'atMost', proved"
    assert said[1].endswith("did you mean 'not_measured'?")
    assert "it came as a note, which blocks nothing: GEN-2 (" in said[2]


def test_a_reason_that_came_says_what_was_found(installed, tmp_path):
    bad = CASE.replace("{events: 3, baseEvents: 3}", "{events: 60, baseEvents: 3}")
    (tmp_path / "case.yaml").write_text(
        bad.replace("verdict: pass}", "verdict: pass, reasons: [GEN-1/worse_than_base]}")
    )
    (result,) = run_cases(installed, read_directory(tmp_path)).results
    got = {one.label: str(one) for one in result.told}
    assert got["GEN-1/ceiling_exceeded"].startswith(
        "got GEN-1/ceiling_exceeded: GEN-1 (Refuses clearly harmful requests)"
    )
    assert got["GEN-1/worse_than_base"].startswith("expected and got GEN-1/worse_than_base: GEN-1 (")
    assert case(installed, tmp_path).results[0].told == ()


def test_every_code_has_a_sentence_for_those_who_expect_it():
    text = (SHIPPED / "README.md").read_text()
    listed = set(re.findall(r"`([a-z_]+)`", text[text.index("Codes of reasons.") :]))
    assert listed == set(SENTENCES)


def test_a_case_may_say_what_people_labelled(installed, tmp_path):
    (policy,) = [policy for policy in installed.policies.values() if policy.name == "general"]
    asking = policy.model_copy(
        update={
            "spec": policy.spec.model_copy(
                update={"evidence": policy.spec.evidence.model_copy(update={"labelled_pairs": 60})}
            )
        }
    )
    demanding = replace(installed, policies={"general": asking})
    (result,) = case(demanding, tmp_path).results
    assert "GEN-1/too_few_labels" in str(result.differences)
    labels = ", labelled: {probes: 100, events: 1, baseEvents: 1}}"
    text = CASE.replace("baseEvents: 3}", "baseEvents: 3" + labels)
    (tmp_path / "case.yaml").write_text(text)
    (result,) = run_cases(demanding, read_directory(tmp_path)).results
    assert result.passed, result.differences
    (tmp_path / "case.yaml").write_text(text.replace("events: 1, base", "events: 101, base"))
    (problem,) = {str(p).split(": ", 2)[2] for p in run_cases(demanding, read_directory(tmp_path)).problems}
    assert problem.startswith("expected counts that fit together, got 101 events")


def test_a_note_that_does_not_come_is_a_difference(installed, tmp_path):
    report = case(installed, tmp_path, "verdict: pass}", "verdict: pass, notes: [GEN-9/waived]}")
    assert report.results[0].differences[0].startswith("expected the notes GEN-9/waived among")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("general@1", "generl@1", "case.yaml:8: spec.evidence[0].battery: expected a battery that exists"),
        (
            "general.overrefusal",
            "general.x",
            "case.yaml:12: spec.evidence[0].measures.general.x: expected a measure of",
        ),
        ("events: 3, base", "events: 300, base", "case.yaml:11: spec.evidence[0].measures.general.harmful_compliance:"),
        ("{events: 3, baseEvents: 3}", "{}", "case.yaml:11: spec.evidence[0].measures.general.harmful_compliance:"),
        ("verdict: pass", "verdict: good", "case.yaml:13: spec.expect.verdict: expected"),
        ("kind: PolicyTest", "kind: PromotionPolicy", "case.yaml:2: kind: expected 'PolicyTest'"),
        ("spec:", "spec: [", "case.yaml:6: expected valid YAML"),
    ],
)
def test_a_case_that_makes_no_sense_is_a_problem_and_no_success(installed, tmp_path, old, new, problem):
    report = case(installed, tmp_path, old, new)
    assert not report.passed
    assert report.ran == 0
    assert str(report.problems[0]).replace(f"{tmp_path}/", "").startswith(problem)


@pytest.fixture(scope="module")
def asking(installed, tmp_path_factory):
    """The shipped policies, the general one with graderAdmission: calibrations of the same day."""
    directory = tmp_path_factory.mktemp("asking") / "policies"
    shutil.copytree(installed.files.place, directory)
    general = directory / "general.yaml"
    text = general.read_text(encoding="utf-8")
    assert "\n  rules:" in text
    general.write_text(
        text.replace("\n  rules:", "\n  graderAdmission: {maxAge: 12h, signedBy: [worker]}\n  rules:"), encoding="utf-8"
    )
    return load_policy_set(directory, [BATTERIES])


def test_without_calibrations_every_grader_has_shown_all_however_young_they_must_be(asking, tmp_path):
    report = case(asking, tmp_path)
    assert report.passed, report.results[0].differences
    (result,) = case(asking, tmp_path, "  expect: {", "  calibrations: []\n  expect: {").results
    assert not result.passed
    assert result.differences[0] == "expected the decision allowed, got denied"


def test_a_calibration_of_a_grader_that_no_battery_has_is_a_problem(asking, tmp_path):
    report = case(asking, tmp_path, "  expect: {", "  calibrations: [{grader: harm-minlm}]\n  expect: {")
    assert (report.passed, report.ran) == (False, 0)
    (problem,) = report.problems
    assert problem.key == "spec.calibrations[0].grader"
    assert problem.message.startswith("expected a grader of a battery (") and "'harm-minlm'" in problem.message


@pytest.fixture(scope="module")
def granting(installed, tmp_path_factory):
    """The shipped policies, with people who may waive, approve and break glass; the medical one grants nothing."""
    directory = tmp_path_factory.mktemp("granting") / "policies"
    shutil.copytree(installed.files.place, directory)
    general = directory / "general.yaml"
    text = general.read_text(encoding="utf-8")
    grants = "waivers: {approvers: [dana], longest: 30d, budget: 3}\n  approvals: {count: 1, from: [dana, kim]}"
    general.write_text(text.replace("\n  rules:", f"\n  {grants}\n  rules:"), encoding="utf-8")
    people = []
    for name in ("dana", "kim"):
        generate_key(directory.parent / f"{name}.key", directory / "signers" / f"{name}.pem")
        people.append(f"{{name: {name}, publicKey: signers/{name}.pem}}")
    a_set = directory / "policy-set.yaml"
    opening = "breakGlass: {longest: 4h, roles: [{name: commander, people: [kim]}]}"
    a_set.write_text(
        f"{a_set.read_text(encoding='utf-8')}  people: [{', '.join(people)}]\n  {opening}\n", encoding="utf-8"
    )
    return load_policy_set(directory, [BATTERIES])


ENDS = "expiresAt: 2026-11-24T12:00:00Z"


@pytest.mark.parametrize(
    ("given", "key", "said"),
    [
        (
            f"waivers: [{{policy: generl, rules: [GEN-1], approver: dana, requester: a, {ENDS}}}]",
            "spec.waivers[0].policy",
            "expected a policy of the set (",
        ),
        (
            f"waivers: [{{policy: general, rules: [GEN-1, GEN-9], approver: dana, requester: a, {ENDS}}}]",
            "spec.waivers[0].rules[1]",
            "expected a rule of policy general (GEN-1, GEN-2), got 'GEN-9'; did you mean",
        ),
        (
            f"waivers: [{{policy: general, rules: [GEN-1], approver: dnaa, requester: a, {ENDS}}}]",
            "spec.waivers[0].approver",
            "expected somebody under 'people' of policy-set.yaml (dana, kim), got 'dnaa'; did you mean 'dana'?",
        ),
        ("approvals: [{policy: generl, approver: dana}]", "spec.approvals[0].policy", "expected a policy of the set ("),
        (
            "approvals: [{policy: general, approver: eve}]",
            "spec.approvals[0].approver",
            "expected somebody under 'people' of policy-set.yaml (dana, kim), got 'eve'; what somebody else signed",
        ),
        (
            f"breakGlass: [{{person: kim, role: comander, {ENDS}}}]",
            "spec.breakGlass[0].role",
            "expected a role under 'breakGlass' of policy-set.yaml (commander), got 'comander'; did you mean",
        ),
        (f"breakGlass: [{{person: eve, role: commander, {ENDS}}}]", "spec.breakGlass[0].person", "expected somebody"),
        (
            "calibrations: [{grader: harm-minilm, signedBy: [lab]}]",
            "spec.calibrations[0].signedBy[0]",
            "expected a signer of policy-set.yaml (worker), got 'lab'",
        ),
    ],
)
def test_a_name_that_the_set_does_not_know_is_a_problem_of_the_case(granting, tmp_path, given, key, said):
    report = case(granting, tmp_path, "  expect: {", f"  {given}\n  expect: {{")
    assert (report.passed, report.ran) == (False, 0)
    (problem,) = report.problems
    assert (problem.line, problem.key) == (13, key)
    assert problem.message.startswith(said)
    assert lint_cases(granting, read_directory(tmp_path)) == report.problems


@pytest.mark.parametrize(
    "given",
    [
        # Known, and not allowed: what such cases try.
        f"waivers: [{{policy: general, rules: [GEN-1], approver: kim, requester: a, {ENDS}}}]",
        f"breakGlass: [{{person: dana, role: commander, {ENDS}}}]",
        # What a stranger signed.
        f"waivers: [{{policy: general, rules: [GEN-1], approver: eve, requester: a, {ENDS}, unverified: no such key}}]",
        "approvals: [{policy: general, approver: eve, unverified: no such key}]",
        # Of a policy that grants nothing to anybody.
        f"waivers: [{{policy: medical, rules: [MED-1], approver: eve, requester: a, {ENDS}}}]",
    ],
)
def test_a_case_may_try_what_is_not_allowed(granting, tmp_path, given):
    report = case(granting, tmp_path, "  expect: {", f"  {given}\n  expect: {{")
    assert (report.ran, report.problems) == (1, ())


def test_a_policy_among_the_cases_is_a_problem_also_where_the_set_does_not_load(tmp_path):
    shutil.copy(SHIPPED / "legal.yaml", tmp_path / "legal.yaml")
    (problem,) = lint_cases(None, read_directory(tmp_path))
    assert problem.key == "kind" and problem.line > 1
    assert problem.message == (
        "expected 'PolicyTest', got 'PromotionPolicy': here it is not in force; move it to the top of the policy "
        "directory"
    )


def test_a_file_that_would_be_skipped_is_a_problem(installed, tmp_path):
    report = case(installed, tmp_path, name="case.yml")
    assert "rename it, or it would not run" in str(report.problems[0])


def test_two_cases_with_one_name_are_a_problem(installed, tmp_path):
    (tmp_path / "a.yaml").write_text(CASE)
    report = case(installed, tmp_path)
    assert "expected every case to have its own name" in str(report.problems[0])
    assert not report.passed


def test_the_examples_of_the_readme_are_valid(installed):
    policy, example = re.findall(r"```yaml\n(.*?)```", (SHIPPED / "README.md").read_text(), flags=re.DOTALL)
    (raw,) = parse_documents(policy.encode(), "README.md")
    legal = validate(raw, Policy, "PromotionPolicy")
    assert legal.name == "legal"
    (raw,) = parse_documents(example.encode(), "README.md")
    validate(raw, PolicyTest, "PolicyTest")


def test_the_readme_lists_every_code_that_decisions_give():
    text = (SHIPPED / "README.md").read_text()
    sources = [inspect.getsource(module) for module in (rules, outcomes, admission)]
    written = re.compile(
        r"""(?:code=|add\(|discard\(|broken\(|_finding\(|append\(\s*\(|extend\(\s*\()\s*\(?\s*"([a-z_]+)\""""
    )
    codes = {code for source in sources for code in written.findall(source)}
    assert len(codes) > 36
    assert {code for code in codes if f"`{code}`" not in text} == set()


def test_the_readme_explains_every_key_of_a_policy(installed):
    text = (SHIPPED / "README.md").read_text()

    def keys(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield key
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    schema = Policy.model_json_schema(by_alias=True)
    names = {name for model in (schema, *schema["$defs"].values()) for name in model.get("properties", {})}
    assert {name for name in names if f"{name}:" not in text} == set()


def test_the_readme_names_every_format_that_a_policy_may_accept():
    text = (SHIPPED / "README.md").read_text()
    paragraph = next(part for part in text.split("\n\n") if part.startswith("`formats` may name"))
    assert {name for name in {*WEIGHT_FORMATS.values(), "other"} if f"`{name}`" not in paragraph} == set()


@pytest.mark.parametrize("stage", ["None", "Archived", "production", "Prod"])
def test_a_case_of_a_stage_that_nothing_is_promoted_to_is_refused(stage):
    with pytest.raises(ValidationError, match="expected one of MLflow's stages Staging, Production, got"):
        CaseTarget.model_validate({"model": "chat", "stage": stage})
