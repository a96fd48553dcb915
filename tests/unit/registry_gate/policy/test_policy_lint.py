"""Lint: what is well formed and still wrong, with its line, its numbers and its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_gate.battery import battery_from
from registry_gate.documents import parse_documents, validate
from registry_gate.policy.document import check_policy_set
from registry_gate.policy.lint import lint_policy, lint_set
from registry_gate.policy.schema import Policy, PolicySetFile

ROOT = Path(__file__).parents[4]
CONTROLS = dict(
    check_policy_set(ROOT / "policies", (ROOT / "evaluators" / "batteries",), keys=False).policy_set.controls
)
POLICY = """\
apiVersion: registry-gate/v1
kind: PromotionPolicy
metadata: {name: one, title: A policy, owner: somebody}
spec:
  match:
    any:
      - {models: ["a-*"], aliases: [champion]}
  evidence: {battery: probe@1, maxAge: 90d, signedBy: [worker]}
  rules:
    - id: R-1
      title: Refuses
      measure: x.harmful_compliance
      atMost: 0.10
      notWorseThanBase: 0.10
      discordance: 0.15
      severity: high
      controls: [nist-ai-600-1:MS-2.7-008]
  disagreement: {graders: {atMost: 0.1}}
"""
BATTERY = """\
apiVersion: registry-gate/v1
kind: Battery
metadata: {name: probe, version: 1}
spec:
  instruments:
    - {name: x, metric: harmful_compliance, size: 120, probes: [{shipped: p.jsonl}], graders: [one, two, three]}
"""
SET = """\
apiVersion: registry-gate/v1
kind: PolicySet
metadata: {name: test}
spec:
  unmatched: deny
  signers: [{name: worker, publicKey: w.pem}]
"""


def parsed(text, model, kind, file):
    (raw,) = parse_documents(text.encode(), file)
    return validate(raw, model, kind), raw


def lint(*edits, battery=BATTERY):
    text = POLICY
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (raw_battery,) = parse_documents(battery.encode(), "b.yaml")
    policy, raw = parsed(text, Policy, "PromotionPolicy", "p.yaml")
    return lint_policy(policy, raw, {"probe@1": battery_from(raw_battery)}, ["worker"], controls=CONTROLS)


def test_a_sound_policy_has_no_problem():
    assert lint() == []


@pytest.mark.parametrize(
    ("edit", "level", "code", "line"),
    [
        (
            ("x.harmful_compliance", "x.harmful"),
            "error",
            "measure_unknown",
            "p.yaml:12: spec.rules[0].measure: expected a measure of battery probe@1 (x.harmful_compliance), "
            "got 'x.harmful'; did you mean 'x.harmful_compliance'?",
        ),
        (
            ("probe@1", "probe@2"),
            "error",
            "battery_missing",
            "p.yaml:8: spec.evidence.battery: expected a battery that exists (probe@1), got 'probe@2'; did you mean",
        ),
        (
            ("[worker]", "[wroker]"),
            "error",
            "signer_unknown",
            "p.yaml:8: spec.evidence.signedBy[0]: expected a signer of policy-set.yaml (worker), got 'wroker'; did you",
        ),
        (
            ("  rules:", "  graderAdmission: {maxAge: 90d, signedBy: [lab], falseNegativesAtMost: 0.1}\n  rules:"),
            "error",
            "signer_unknown",
            "p.yaml:9: spec.graderAdmission.signedBy[0]: expected a signer of policy-set.yaml (worker), got 'lab'",
        ),
        (
            ("  rules:", "  graderAdmission: {maxAge: 90d, signedBy: [worker]}\n  rules:"),
            "warning",
            "misses_unlimited",
            "p.yaml:9: spec.graderAdmission: x.harmful_compliance rests on a grader of harm, and nothing limits how "
            "much harm it may miss: add falseNegativesAtMost",
        ),
        (
            ("  rules:", "  subject: {formats: [safetensor]}\n  rules:"),
            "error",
            "format_unheard_of",
            "p.yaml:9: spec.subject.formats[0]: expected a format of weights (flax, gguf, keras, numpy, onnx, other, "
            "pickle, safetensors), got 'safetensor'; did you mean 'safetensors'?",
        ),
        (
            ("  rules:", "  subject: {formats: [safetensors, pickle]}\n  rules:"),
            "warning",
            "format_runs_code",
            "p.yaml:9: spec.subject.formats[1]: pickle runs whatever code its author put there when it is loaded",
        ),
        (
            ("atMost: 0.10", "atMost: 0.02"),
            "error",
            "impossible",
            "p.yaml:13: spec.rules[0].atMost: expected a ceiling that 120 probes can prove with 95 % certainty (at "
            "least 2.47 %, that of no bad answer at all), got 2 %: no form could pass; it needs 149 probes",
        ),
        (
            ("notWorseThanBase: 0.10", "notWorseThanBase: 0.02"),
            "error",
            "impossible",
            "p.yaml:14: spec.rules[0].notWorseThanBase: expected a margin that 120 probes can prove with 95 % "
            "certainty (at least 2.47 pp, that of a form answering exactly like its base), got 2 pp: no form could "
            "pass; it needs at least 149 probes, and 2319 if form and base differ on 15 % of them",
        ),
        (
            ("notWorseThanBase: 0.10", "notWorseThanBase: 0.05"),
            "warning",
            "underpowered",
            "p.yaml:14: spec.rules[0].notWorseThanBase: 120 probes prove 8.8 pp, not 5 pp, if form and base differ on "
            "15 % of them: a form as good as its base would often be inconclusive; it needs 371 probes",
        ),
        (
            ("signedBy: [worker]", "signedBy: [worker], minProbes: 200"),
            "error",
            "impossible",
            "p.yaml:12: spec.rules[0].measure: the battery puts 120 probes of x.harmful_compliance, but 'minProbes'",
        ),
        (
            ("  evidence:", "  exclude: {models: ['a-*']}\n  evidence:"),
            "error",
            "matches_nothing",
            "p.yaml:7: spec.match.any[0]: expected a match that covers a target, got one whose every target is under",
        ),
        (
            ("  evidence:", "  exclude: {aliases: ['champ*']}\n  evidence:"),
            "error",
            "matches_nothing",
            "p.yaml:7: spec.match.any[0]: expected a match that covers a target",
        ),
        (
            ("  evidence:", "  subject: {base: optional}\n  evidence:"),
            "warning",
            "base_optional",
            "p.yaml:15: spec.rules[0].notWorseThanBase: a form without a base can never pass this rule",
        ),
        (
            ("nist-ai-600-1:MS-2.7-008", "sr-11-7"),
            "warning",
            "control_retired",
            "p.yaml:17: spec.rules[0].controls[0]: expected a control that is in force, got 'sr-11-7'; use sr-26-2",
        ),
        (
            ("nist-ai-600-1:MS-2.7-008", "nist-ai-600-1:MS-2.7-08"),
            "warning",
            "control_unknown",
            "p.yaml:17: spec.rules[0].controls[0]: expected a control of the catalogue (controls/), got "
            "'nist-ai-600-1:MS-2.7-08'; did you mean 'nist-ai-600-1:MS-2.7-008'?",
        ),
        (
            ("nist-ai-600-1:MS-2.7-008", "eu-ai-act:art-10"),
            "warning",
            "control_without_evidence",
            "p.yaml:17: spec.rules[0].controls[0]: no rule gives evidence for 'eu-ai-act:art-10'",
        ),
        (
            ("  disagreement: {graders: {atMost: 0.1}}\n", ""),
            "warning",
            "no_disagreement_limit",
            "p.yaml:4: spec: no limit on how often graders may disagree",
        ),
    ],
)
def test_each_problem_has_its_place_and_its_numbers(edit, level, code, line):
    (problem,) = lint(edit)
    assert (problem.level, problem.code) == (level, code)
    assert str(problem).startswith(line)


def test_a_margin_without_a_word_on_discordance_is_judged_at_twenty_percent():
    (problem,) = lint(("      discordance: 0.15\n", ""))
    assert "if form and base differ on 20 % of them" in problem.message


def warnings_of_set(*policy_edits, unmatched="deny", free=""):
    document, raw = parsed(SET.replace("deny", unmatched) + free, PolicySetFile, "PolicySet", "s.yaml")
    text = POLICY
    for old, new in policy_edits:
        text = text.replace(old, new)
    policy, _ = parsed(text, Policy, "PromotionPolicy", "p.yaml")
    return [(str(problem), problem.code) for problem in lint_set(document, raw, [policy])]


@pytest.mark.parametrize(("unmatched", "words"), [("deny", "is always denied"), ("allow", "is promoted unchecked")])
def test_what_no_policy_governs_is_told(unmatched, words):
    found = warnings_of_set(unmatched=unmatched)
    assert [code for _, code in found] == ["ungoverned", "ungoverned"]
    assert found[0][0].startswith("s.yaml:5: spec.unmatched: alias champion of a model that no policy names " + words)


def test_what_only_staged_policies_govern_is_told():
    edits = (("aliases: [champion]", "aliases: ['*'], stages: ['*']"), ('"a-*"', '"*"'))
    assert warnings_of_set(*edits) == []
    found = warnings_of_set(*edits, ("spec:\n", "spec:\n  enforcement: warn\n"))
    assert [code for _, code in found] == ["only_staged", "only_staged"]


def test_a_free_alias_needs_no_policy_but_one_that_people_deploy_from_is_told():
    found = warnings_of_set(free="  freeAliases: [champ*]\n")
    assert [code for _, code in found] == ["free_deployed_name", "ungoverned"]
    assert found[0][0] == "s.yaml:7: spec.freeAliases: alias champion is free: it moves without any evidence"
    assert "stage Production" in found[1][0]


@pytest.mark.parametrize(("old", "new"), [("atMost: 0.10", "atMost: 0.5"), ("Base: 0.10", "Base: 0.90")])
def test_a_limit_that_hardly_ever_decides_is_told(old, new):
    (problem,) = [problem for problem in lint((old, new)) if problem.code == "lenient"]
    assert problem.level == "warning" and "hardly ever decides" in problem.message
    assert not [problem for problem in lint() if problem.code == "lenient"]


SINGLE = ("      severity: high\n", "      severity: high\n      singleGrader: true\n")


@pytest.mark.parametrize("graders", ["[one]", "[one, two]"])
def test_a_rule_whose_battery_has_no_second_grader_is_told(graders):
    lone = BATTERY.replace("[one, two, three]", graders)
    (problem,) = lint(battery=lone)
    assert (problem.level, problem.code) == ("warning", "single_grader")
    assert "alone in battery probe@1: unless that is an ensemble, the rule stays inconclusive" in problem.message
    assert "singleGrader: true" in problem.message
    assert lint(SINGLE, battery=lone) == []
    bias = ("harmful_compliance", "biased_answer")
    assert lint(bias, battery=BATTERY.replace("[one, two, three]", "[]").replace(*bias)) == []


@pytest.mark.parametrize(
    ("graders", "edits", "why"),
    [
        ("[one, two, three]", (), "one, three, two must be compared"),
        ("[]", (("harmful_compliance", "biased_answer"),), "no grader labels it"),
        ("[one]", (("  disagreement: {graders: {atMost: 0.1}}\n", ""),), "'disagreement' asks for no second grader"),
    ],
)
def test_single_grader_where_it_changes_nothing_is_told(graders, edits, why):
    battery = BATTERY.replace("[one, two, three]", graders)
    if graders == "[]":
        battery = battery.replace(*edits[0])
    problems = lint(SINGLE, *edits, battery=battery)
    (problem,) = [problem for problem in problems if problem.code == "single_grader_idle"]
    assert problem.level == "warning" and why in problem.message
