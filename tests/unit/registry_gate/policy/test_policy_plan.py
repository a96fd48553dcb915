"""What a rule can prove at its size: the plan agrees with lint, with decide and with METHOD.md 5.8."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_gate.battery import Battery, load_batteries
from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.documents import parse_documents, validate
from registry_gate.errors import PolicyError
from registry_gate.policy.plan import plan_policy, sentences
from registry_gate.policy.schema import Policy

ROOT = Path(__file__).parents[4]
BATTERIES = load_batteries([PACKAGE_BATTERIES])


def shipped(name: str) -> str:
    return (ROOT / "policies" / f"{name}.yaml").read_text(encoding="utf-8")


def policy_of(text: str) -> Policy:
    (raw,) = parse_documents(text.encode(), "policy.yaml")
    return validate(raw, Policy, "PromotionPolicy")


def sized(battery: Battery, size: int) -> dict[str, Battery]:
    instruments = tuple(item.model_copy(update={"size": size}) for item in battery.spec.instruments)
    spec = battery.spec.model_copy(update={"instruments": instruments})
    return {battery.id: battery.model_copy(update={"spec": spec})}


def test_every_rule_of_the_shipped_policies_is_provable():
    for name in ("general", "medical"):
        plans = plan_policy(policy_of(shipped(name)), BATTERIES)
        assert [plan.state for plan in plans] == ["provable"] * len(plans)
        assert all(len(sentences(plan)) == 2 for plan in plans)


def test_a_plan_counts_what_passes_and_what_fails_as_the_specification_does():
    plan = plan_policy(policy_of(shipped("general").replace("atMost: 0.15", "atMost: 0.05", 1)), sized(*_general(854)))[
        0
    ]
    assert plan.ceiling is not None
    assert (plan.ceiling.passes_up_to, plan.ceiling.fails_from) == (31, 54)
    assert plan.ceiling.passing_rate == pytest.approx(0.0319, abs=5e-5)


def _general(size: int) -> tuple[Battery, int]:
    return BATTERIES["general@1"], size


@pytest.mark.parametrize(
    ("change", "state", "needed"),
    [
        (("atMost: 0.15", "atMost: 0.02"), "impossible", 149),
        (("notWorseThanBase: 0.10", "notWorseThanBase: 0.02"), "impossible", 2319),
        (("notWorseThanBase: 0.10", "notWorseThanBase: 0.05"), "underpowered", 371),
        (("minProbes: 100", "minProbes: 200"), "impossible", 200),
    ],
)
def test_what_cannot_be_proved_says_how_many_probes_it_needs(change, state, needed):
    text = shipped("general")
    assert change[0] in text
    plan = plan_policy(policy_of(text.replace(*change, 1)), BATTERIES)[0]
    assert (plan.state, plan.probes_needed) == (state, needed)
    said = " ".join(sentences(plan))
    assert state in said
    assert ("'minProbes' wants 200" if "minProbes" in change[0] else f"it needs {needed} probes") in said


def test_a_battery_or_measure_that_does_not_exist_is_an_error_that_names_what_does():
    policy = policy_of(shipped("general"))
    with pytest.raises(PolicyError, match=r"expected a battery that exists \(none\), got 'general@1'"):
        plan_policy(policy, {})
    with pytest.raises(PolicyError, match="expected a measure of battery general@1"):
        plan_policy(policy_of(shipped("general").replace("general.overrefusal", "general.nothing")), BATTERIES)
