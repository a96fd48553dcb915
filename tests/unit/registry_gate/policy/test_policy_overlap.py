"""Policies that get in each other's way: rules that never decide, and demands that nothing can meet together."""

from __future__ import annotations

import pytest

from registry_gate.documents import parse_documents, validate
from registry_gate.policy.lint import LintProblem, lint_overlaps
from registry_gate.policy.schema import Policy, PolicySetFile

RULE = "    - {id: R-1, title: Refuses, measure: x.harmful_compliance, atMost: 0.10, severity: high}\n"
WIDE = 'models: ["*"], aliases: ["*"], stages: ["*"]'


def a_policy(name: str, *rules: str, match: str = WIDE, **spec: str) -> str:
    values = {"evidence": "{battery: probe@1, maxAge: 90d, signedBy: [worker]}", **spec}
    return (
        f"apiVersion: registry-gate/v1\nkind: PromotionPolicy\nmetadata: {{name: {name}, title: T, owner: o}}\n"
        f"spec:\n  match: {{any: [{{{match}}}]}}\n"
        + "".join(f"  {key}: {value}\n" for key, value in values.items())
        + "  rules:\n"
        + "".join(rules or (RULE,))
    )


def lint(*policies: str, free: str = "") -> list[LintProblem]:
    text = (
        "apiVersion: registry-gate/v1\nkind: PolicySet\nmetadata: {name: s}\n"
        f"spec: {{unmatched: deny, freeAliases: [{free}], signers: [{{name: worker, publicKey: w.pem}}]}}\n"
    )
    (raw,) = parse_documents(text.encode(), "policy-set.yaml")
    read = []
    for number, one in enumerate(policies):
        (document,) = parse_documents(one.encode(), f"p{number}.yaml")
        read.append((validate(document, Policy, "PromotionPolicy"), document))
    return lint_overlaps(validate(raw, PolicySetFile, "PolicySet"), read)


def said(*policies: str, free: str = "") -> list[tuple[str, str]]:
    return [(problem.file, problem.code) for problem in lint(*policies, free=free)]


def looser(**changes: str) -> str:
    values = {"id": "R-2", "title": "L", "measure": "x.harmful_compliance", "atMost": "0.20", "severity": "high"}
    return "    - {" + ", ".join(f"{key}: {value}" for key, value in {**values, **changes}.items() if value) + "}\n"


def test_a_rule_that_another_of_its_policy_covers_never_decides() -> None:
    (problem,) = lint(a_policy("one", RULE, looser()))
    assert (problem.code, problem.key, problem.level) == ("rule_never_decides", "spec.rules[1]", "warning")
    assert problem.message == (
        "rule R-2 never decides: R-1 of the same policy demands more of x.harmful_compliance (at most 10 %): "
        "take it out"
    )


@pytest.mark.parametrize(
    "rule",
    [
        looser(atMost="0.05"),
        looser(notWorseThanBase="0.10"),
        looser(zeroTolerance="[weapons]"),
        looser(measure="x.overrefusal"),
    ],
)
def test_a_rule_that_demands_something_else_decides(rule: str) -> None:
    codes = said(a_policy("one", RULE, rule))
    # The tighter ceiling makes the first rule the one that never decides.
    assert codes == ([("p0.yaml", "rule_never_decides")] if "0.05" in rule else [])


def test_the_tighter_rule_must_deny_and_no_later() -> None:
    assert said(a_policy("one", RULE.replace("severity", "enforcement: warn, severity"), looser())) == []
    assert said(a_policy("one", RULE.replace("severity", "required: false, severity"), looser())) == []
    dated = RULE.replace("severity", "effectiveFrom: 2030-01-01T00:00:00Z, severity")
    assert said(a_policy("one", dated, looser())) == []
    assert said(a_policy("one", dated, looser(effectiveFrom="2031-01-01T00:00:00Z"))) != []


def test_of_two_that_say_the_same_the_later_is_told() -> None:
    (problem,) = lint(a_policy("one", RULE, RULE.replace("R-1", "R-2")))
    assert problem.key == "spec.rules[1]" and "demands the same" in problem.message
    (problem,) = lint(a_policy("one"), a_policy("two"))
    assert problem.file == "p1.yaml"


def test_a_looser_rule_of_a_narrower_policy_never_decides_unless_the_wider_one_excludes_it() -> None:
    narrow = a_policy("medical", looser(), match='models: ["medical-*"], aliases: ["*"]')
    (problem,) = lint(a_policy("general"), narrow)
    assert problem.file == "p1.yaml" and "exclude these models from general" in problem.message
    assert said(a_policy("general", exclude='{models: ["medical-*"]}'), narrow) == []
    # The other way round the wider rule still decides elsewhere.
    strict = a_policy("medical", RULE, match='models: ["medical-*"], aliases: ["*"]')
    assert said(a_policy("general", looser()), strict) == []


def test_policies_that_share_no_target_are_left_alone() -> None:
    one = a_policy("one", match='models: ["a-*"], aliases: [champion]')
    assert said(one, a_policy("two", looser(), match='models: ["b-*"], aliases: [champion]')) == []
    assert said(one, a_policy("two", looser(), match='models: ["a-*"], aliases: [live]')) == []
    elsewhere = a_policy("two", looser(), match='models: ["a-*"], aliases: [champion], workspaces: [w]')
    assert said(one, elsewhere) == [("p1.yaml", "rule_never_decides")]  # one without workspaces governs all of them


def test_other_batteries_or_less_certainty_are_no_substitute() -> None:
    other = "{battery: probe@2, maxAge: 90d, signedBy: [worker]}"
    assert said(a_policy("one"), a_policy("two", looser(), evidence=other)) == [
        ("p1.yaml", "two_versions_of_a_battery")
    ]
    assert said(a_policy("one", confidence="0.90"), a_policy("two", looser())) == []


def test_formats_that_no_form_has_together_contradict() -> None:
    (problem,) = lint(a_policy("one"), a_policy("two", looser(measure="y.z"), subject="{formats: [gguf]}"))
    assert (problem.code, problem.file) == ("policies_contradict", "p1.yaml")
    assert "no form can pass this policy and one: both govern" in problem.message


def test_signers_that_count_for_one_policy_each_contradict() -> None:
    other = "{battery: probe@1, maxAge: 90d, signedBy: [lab]}"
    (problem,) = lint(a_policy("one"), a_policy("two", looser(measure="y.z"), evidence=other))
    assert problem.code == "policies_contradict" and "never count the same evidence" in problem.message


def test_an_alias_that_is_both_governed_and_free_is_told() -> None:
    named = a_policy("one", match='models: ["*"], aliases: [champion, dev-ana]')
    (problem,) = lint(named, free='"dev-*"')
    assert (problem.code, problem.key) == ("free_target", "spec.match.any[0].aliases[1]")
    assert said(a_policy("one"), free='"dev-*"') == []


def test_very_many_policies_are_not_compared_and_that_is_said() -> None:
    many = [a_policy(f"p{number}", match=f'models: ["m{number}-*"], aliases: [champion]') for number in range(150)]
    assert [code for _, code in said(*many)] == ["not_compared"]
