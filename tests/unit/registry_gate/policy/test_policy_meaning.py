"""What changed in meaning: every key has a direction, and no change is told as safer than it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, get_args

import pytest
from policy_builders import HARM, NOW, REFUSAL, make_battery, make_policy, make_rule
from pydantic import BaseModel

from registry_gate.policy.document import PolicySet
from registry_gate.policy.files import PolicyFiles
from registry_gate.policy.meaning import MEANINGS, Direction, compare
from registry_gate.policy.schema import Policy, PolicySetFile

STRICTER, LOOSER, NEITHER, WORDING = Direction.STRICTER, Direction.LOOSER, Direction.NEITHER, Direction.WORDING


def make_set(*policies: Policy, unmatched: str = "deny", free: tuple[str, ...] = ("candidate",)) -> PolicySet:
    document = PolicySetFile.model_validate(
        {
            "apiVersion": "registry-gate/v1",
            "kind": "PolicySet",
            "metadata": {"name": "set"},
            "spec": {
                "freeAliases": free,
                "unmatched": unmatched,
                "signers": ({"name": "worker", "publicKey": "signers/worker.pem"},),
            },
        }
    )
    return PolicySet(
        files=PolicyFiles(place="policies", contents={}, refused={}),
        document=document,
        policies=MappingProxyType({policy.name: policy for policy in policies}),
        batteries=MappingProxyType({"probe@1": make_battery()}),
        signers=MappingProxyType({}),
        digest="sha256:0",
    )


def leaves(model: type[BaseModel], path: str = "") -> set[str]:
    """The dotted path of every key that holds a value, as policies write it."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}" if path else field.alias or name
        inner = [part for part in flat(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        many = "tuple" in str(field.annotation) and inner
        found |= leaves(inner[0], f"{here}[]" if many else here) if inner else {here}
    return found


def flat(annotation: Any) -> list[Any]:
    return [annotation, *(part for one in get_args(annotation) for part in flat(one))]


def test_every_key_of_the_schema_has_a_meaning() -> None:
    assert set(MEANINGS) == leaves(Policy)


def changed(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Direction]]:
    found = compare(make_set(make_policy(**old)), make_set(make_policy(**new)))
    return [(change.key, change.direction) for change in found]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"approvals": {"count": 2, "from": ("dana", "kim")}}, "approvals.count was 0, is 2"),
        ({"waivers": {"approvers": ("dana", "kim"), "longest": "30d", "budget": 3}}, "waivers.budget was 5, is 3"),
        ({"disagreement": {"graders": {"atMost": 0.2}}}, "disagreement.graders.atMost was 0.1, is 0.2"),
        ({"confidence": 0.99}, "confidence was 0.95, is 0.99"),
        ({"rules": [make_rule(atMost=0.1), make_rule("R-2", REFUSAL)]}, "atMost was 0.15, is 0.1"),
    ],
)
def test_a_sentence_names_the_key_with_all_that_it_lies_in(change: dict[str, Any], sentence: str) -> None:
    assert sentence in [one.sentence for one in compare(make_set(make_policy()), make_set(make_policy(**change)))]


EVIDENCE = {"battery": "probe@1", "maxAge": "90d", "signedBy": ("worker",)}
EARLIER = NOW - timedelta(days=1)
TWO_SIGNERS = {**EVIDENCE, "signedBy": ("worker", "other")}


def with_second(**changes: Any) -> dict[str, Any]:
    return {"rules": [make_rule(), make_rule("R-2", **changes)]}


def no_hits_in(category: str) -> dict[str, Any]:
    return {"rules": [make_rule(zeroTolerance=(category,))]}


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ({"confidence": 0.9}, {"confidence": 0.95}, "spec.confidence"),
        ({"allowNotes": True}, {"allowNotes": False}, "spec.allowNotes"),
        ({"subject": {"base": "optional"}}, {"subject": {"base": "required"}}, "spec.subject.base"),
        ({"subject": {"remoteCode": "allowed"}}, {"subject": {"remoteCode": "forbidden"}}, "spec.subject.remoteCode"),
        ({"subject": {"formats": ("gguf", "safetensors")}}, {"subject": {}}, "spec.subject.formats"),
        ({"disagreement": {}}, {}, "spec.disagreement.graders.atMost"),
        ({"disagreement": {"graders": {"atMost": 0.2}}}, {}, "spec.disagreement.graders.atMost"),
        ({"evidence": EVIDENCE}, {"evidence": {**EVIDENCE, "maxAge": "24h"}}, "spec.evidence.maxAge"),
        ({"evidence": EVIDENCE}, {"evidence": {**EVIDENCE, "minProbes": 50}}, "spec.evidence.minProbes"),
        ({"evidence": EVIDENCE}, {"evidence": {**EVIDENCE, "labelledPairs": 30}}, "spec.evidence.labelledPairs"),
        ({"evidence": EVIDENCE}, {"evidence": {**EVIDENCE, "graderErrors": "required"}}, "spec.evidence.graderErrors"),
        ({"evidence": TWO_SIGNERS}, {"evidence": EVIDENCE}, "spec.evidence.signedBy"),
        ({"rules": [make_rule()]}, {"rules": [make_rule(atMost=0.1)]}, "spec.rules[].atMost"),
        ({"rules": [make_rule(atMost=None)]}, {"rules": [make_rule()]}, "spec.rules[].atMost"),
        ({"rules": [make_rule()]}, {"rules": [make_rule(notWorseThanBase=0.05)]}, "spec.rules[].notWorseThanBase"),
        ({"rules": [make_rule()]}, {"rules": [make_rule(zeroTolerance=("arms",))]}, "spec.rules[].zeroTolerance"),
        (with_second(required=False), with_second(), "spec.rules[].enforcement"),
        (with_second(enforcement="warn"), with_second(), "spec.rules[].enforcement"),
        ({"rules": [make_rule()]}, {"rules": [make_rule(), make_rule("R-2")]}, "spec.rules[]"),
        ({"effectiveFrom": NOW}, {}, "spec.effectiveFrom"),
        (with_second(effectiveFrom=NOW), with_second(), "spec.rules[].effectiveFrom"),
        (with_second(effectiveFrom=NOW), with_second(effectiveFrom=EARLIER), "spec.rules[].effectiveFrom"),
    ],
)  # fmt: skip
def test_each_key_is_stricter_one_way_and_looser_the_other(old: Any, new: Any, key: str) -> None:
    assert changed(old, new) == [(key, STRICTER)]
    assert changed(new, old) == [(key, LOOSER)]


@pytest.mark.parametrize(
    ("old", "new", "key", "direction"),
    [
        ({"evidence": EVIDENCE}, {"evidence": {**EVIDENCE, "battery": "other@1"}}, "spec.evidence.battery", NEITHER),
        ({"evidence": EVIDENCE}, {"evidence": {**EVIDENCE, "stopEarly": True}}, "spec.evidence.stopEarly", WORDING),
        ({"evidence": EVIDENCE}, {"evidence": {**EVIDENCE, "maxAge": "2160h"}}, "spec.evidence.maxAge", WORDING),
        ({"rules": [make_rule()]}, {"rules": [make_rule(measure="y.overrefusal")]}, "spec.rules[].measure", NEITHER),
        ({"rules": [make_rule()]}, {"rules": [make_rule(severity="low")]}, "spec.rules[].severity", WORDING),
        (no_hits_in("a"), no_hits_in("b"), "spec.rules[].zeroTolerance", NEITHER),
    ],
)  # fmt: skip
def test_what_turns_nothing_or_cannot_be_told_says_so(old: Any, new: Any, key: str, direction: Direction) -> None:
    assert changed(old, new) == [(key, direction)]


def test_waivers_that_may_be_granted_loosen() -> None:
    allowed = {"approvers": ("dana",), "longest": "30d", "budget": 1}
    keys = {"spec.waivers.approvers", "spec.waivers.longest", "spec.waivers.budget"}
    assert set(changed({"waivers": None}, {"waivers": allowed})) == {(key, LOOSER) for key in keys}
    assert set(changed({"waivers": allowed}, {"waivers": None})) == {(key, STRICTER) for key in keys}
    more = {"approvers": ("dana", "kim"), "longest": "60d", "budget": 2}
    assert set(changed({"waivers": allowed}, {"waivers": more})) == {(key, LOOSER) for key in keys}


def test_order_and_comments_are_no_change() -> None:
    rules = [make_rule(), make_rule("R-2")]
    assert changed({"rules": rules}, {"rules": rules[::-1]}) == []


def test_rules_that_only_tell_loosen_nothing() -> None:
    silent = [make_rule(), make_rule("R-2", enforcement="warn")]
    assert changed({"rules": silent}, {"rules": [make_rule(), make_rule("R-2", enforcement="warn", atMost=0.5)]}) == [
        ("spec.rules[].atMost", WORDING)
    ]
    assert changed({"rules": silent}, {"rules": [make_rule()]}) == [("spec.rules[]", WORDING)]
    assert changed({"enforcement": "warn"}, {"enforcement": "warn", "confidence": 0.9}) == [
        ("spec.confidence", WORDING)
    ]


def test_a_note_denies_where_notes_are_not_allowed() -> None:
    noted = {"allowNotes": False, "rules": [make_rule(), make_rule("R-2", required=False, atMost=0.1)]}
    looser = {"allowNotes": False, "rules": [make_rule(), make_rule("R-2", required=False, atMost=0.2)]}
    assert changed(noted, looser) == [("spec.rules[].atMost", LOOSER)]


def test_a_policy_that_warns_instead_of_denying_is_looser_rule_by_rule() -> None:
    found = changed({}, {"enforcement": "warn"})
    assert found == [("spec.rules[].enforcement", LOOSER)] * 2


def match(*models: str, **parts: Any) -> dict[str, Any]:
    return {"match": {"any": ({"models": models, "aliases": ("*",), **parts},)}}


@pytest.mark.parametrize(
    ("old", "new", "direction"),
    [
        (match("clinical-*"), match("clinical-*", "medical-*"), STRICTER),
        (match("clinical-*"), match("*"), STRICTER),
        (match("clinical-*", "clinical-a"), match("clinical-*"), None),
        (match("*"), match("clinical-*"), LOOSER),
        (match("a?c"), match("a*c"), STRICTER),
        (match("a*"), match("a?"), LOOSER),
    ],
)
def test_governing_more_targets_beside_others_is_stricter(old: Any, new: Any, direction: Direction | None) -> None:
    everything = make_policy(name="everything")
    found = compare(make_set(make_policy(**old), everything), make_set(make_policy(**new), everything))
    assert [c.direction for c in found if c.policy == "one"] in ([[direction]] if direction else [[]])


def test_a_star_is_never_within_a_question_mark() -> None:
    everything = make_policy(name="everything")
    found = compare(make_set(make_policy(**match("a*")), everything), make_set(make_policy(**match("a?")), everything))
    assert LOOSER in [change.direction for change in found]


@pytest.mark.parametrize(("unmatched", "added", "removed"), [("deny", NEITHER, NEITHER), ("allow", STRICTER, LOOSER)])
def test_a_new_policy_opens_what_was_always_denied(unmatched: str, added: Direction, removed: Direction) -> None:
    other = make_policy(name="other", **match("legal-*"))
    alone, both = (
        make_set(other, unmatched=unmatched),
        make_set(other, make_policy(**match("x-*")), unmatched=unmatched),
    )
    assert [c.direction for c in compare(alone, both)] == [added]
    assert [c.direction for c in compare(both, alone)] == [removed]


def test_another_policy_that_excludes_something_covers_nothing_for_sure() -> None:
    careful = make_policy(name="careful", exclude={"models": ("x-*",)})
    (change,) = compare(make_set(careful, make_policy(**match("x-*"))), make_set(careful))
    assert change.direction is NEITHER


def test_exclusions_loosen_and_freed_aliases_too() -> None:
    one = make_set(make_policy())
    assert [c.direction for c in compare(one, make_set(make_policy(exclude={"aliases": ("dev",)})))] == [LOOSER]
    assert [c.direction for c in compare(make_set(make_policy(exclude={"models": ("dev",)})), one)] == [STRICTER]
    assert [c.direction for c in compare(one, make_set(make_policy(), free=("candidate", "latest-*")))] == [LOOSER]
    assert [c.direction for c in compare(one, make_set(make_policy(), free=()))] == [STRICTER]
    assert [c.direction for c in compare(one, make_set(make_policy(), unmatched="allow"))] == [LOOSER]


def test_a_battery_that_measures_otherwise_is_told() -> None:
    old = make_set(make_policy())
    new = replace(old, batteries=MappingProxyType({"probe@1": make_battery({HARM: 130, "y.overrefusal": 120})}))
    (change,) = compare(old, new)
    assert change.direction is NEITHER and "battery probe@1" in change.sentence


def test_what_loosens_is_told_first() -> None:
    old = make_policy([make_rule(), make_rule("R-2")])
    new = make_policy([make_rule(atMost=0.2), make_rule("R-2", atMost=0.1, title="Other words")])
    assert [c.direction for c in compare(make_set(old), make_set(new))] == [LOOSER, STRICTER, WORDING]
