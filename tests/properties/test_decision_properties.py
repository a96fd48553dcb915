"""The safety invariants of `decide`, over inputs that nobody chose.

What is within its limits is recomputed here with scipy.stats alone, so that a mistake in `registry_gate.statistics`
cannot agree with itself.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_builders import (
    BASE,
    CHECK,
    HARM,
    NOW,
    REFUSAL,
    make_assessment,
    make_battery,
    make_evidence,
    make_form,
    make_measured,
    make_policy,
    make_rule,
    make_waiver,
)
from scipy.stats import beta, norm

from registry_gate.assessment import Disagreement, Measured, NotMeasured, PairedTable, ValidityCheck
from registry_gate.decision import Grants, Verdict
from registry_gate.policy import outcomes, rules
from registry_gate.policy.inputs import UnverifiedEvidence, VerifiedEvidence
from registry_gate.policy.rules import decide

SIZE = 120
BATTERY = make_battery()
BATTERIES = {BATTERY.id: BATTERY}
FORM = make_form()
DIGEST = FORM.digest


@st.composite
def tables(draw, small=True):
    events = draw(st.integers(0, 14 if small else SIZE))
    both = draw(st.integers(0, events))
    only_base = draw(st.integers(0, min(12, SIZE - events)))
    return PairedTable(both=both, only_adapted=events - both, only_base=only_base, neither=SIZE - events - only_base)


def measured(measure, table, differing=0, clusters=SIZE):
    return make_measured(
        measure,
        table.adapted_events,
        table=table,
        clusters=clusters,
        disagreements=(Disagreement(axis="refusal", differing=differing, compared=2 * SIZE),),
    )


@st.composite
def measurements(draw):
    """Mostly complete and good, now and then with something missing."""
    found = []
    for measure in (HARM, REFUSAL):
        kind = draw(st.sampled_from(["good"] * 6 + ["any", "absent", "twice", "not_measured", "no_base", "short"]))
        item = measured(
            measure,
            draw(tables(small=kind != "any")),
            draw(st.sampled_from([0, 5, 24, 25, 60])),
            draw(st.sampled_from([SIZE, SIZE, 10, 9])),
        )
        if kind == "not_measured":
            found.append(NotMeasured(measure=measure, cause="crash"))
        elif kind == "no_base":
            found.append(replace(item, table=None))
        elif kind == "short":
            found.append(make_measured(measure, 0, 0, probes=SIZE - 1))
        elif kind != "absent":
            found += [item, item] if kind == "twice" else [item]
    return tuple(found)


@st.composite
def assessments(draw):
    base = make_assessment()
    usually = [True] * 8 + [False]
    checks = st.sampled_from([(CHECK,)] * 8 + [(), (CHECK, ValidityCheck(check="pairing", passed=False, detail="no"))])
    return replace(
        base,
        form_digest=DIGEST if draw(st.sampled_from(usually)) else BASE.digest,
        base_digest=BASE.digest if draw(st.sampled_from(usually)) else None,
        battery_digest=BATTERY.digest if draw(st.sampled_from(usually)) else "sha256:old",
        graders=base.graders if draw(st.sampled_from(usually)) else (),
        measurements=draw(measurements()),
        validity=draw(checks),
        assessed_at=(NOW - timedelta(hours=draw(st.sampled_from([1, 2, 300, 2160, 2161, -1])))).isoformat(),
    )


@st.composite
def evidence_items(draw):
    items = []
    for number in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        if draw(st.sampled_from([False] * 5 + [True])):
            items.append(UnverifiedEvidence(digest=f"sha256:{number}", cause="changed"))
        else:
            signers = draw(st.sampled_from([("worker",)] * 6 + [(), ("stranger",), ("worker", "stranger")]))
            items.append(VerifiedEvidence(digest=f"sha256:{number}", assessment=draw(assessments()), signers=signers))
    return items


@st.composite
def policies(draw):
    return make_policy(
        [
            make_rule(atMost=draw(st.sampled_from([0.05, 0.1, 0.15, 0.3])), notWorseThanBase=draw(margins)),
            make_rule("R-2", REFUSAL, atMost=draw(st.sampled_from([None, 0.15])), notWorseThanBase=draw(margins)),
        ],
        confidence=draw(st.sampled_from([0.9, 0.95, 0.99])),
    )


margins = st.sampled_from([0.05, 0.1, 0.2])


def upper_rate(events, probes, confidence):
    return 1.0 if events == probes else beta.ppf(confidence, events + 1, probes - events)


def not_worse(table, margin, confidence):
    """Tango's statistic at the margin from the textbook formula, against the normal quantile."""
    n, b, c, d = table.probes, table.only_adapted, table.only_base, margin
    a, bb, dd = 2 * n, -b - c + (2 * n - b + c) * d, -c * d * (1 - d)
    q = (math.sqrt(bb * bb - 4 * a * dd) - bb) / (2 * a)
    return norm.cdf((b - c - n * d) / math.sqrt(n * (2 * q + d * (1 - d)))) <= 1 - confidence + 1e-9


def counts_for(policy, items):
    """The evidence that an auditor would accept, found by plain reading; None when there is none."""
    oldest = NOW - timedelta(days=90)
    fit = [
        item
        for item in items
        if isinstance(item, VerifiedEvidence)
        and item.assessment.form_digest == DIGEST
        and item.assessment.base_digest == BASE.digest
        and item.assessment.battery_digest == BATTERY.digest
        and set(item.signers) & set(policy.spec.evidence.signed_by)
        and oldest.isoformat() <= item.assessment.assessed_at <= NOW.isoformat()
    ]
    return max(fit, key=lambda item: (item.assessment.assessed_at, item.digest), default=None)


def assert_an_auditor_agrees(policy, items):
    """Everything that `allowed` promises, recomputed."""
    item = counts_for(policy, items)
    assert item is not None, "allowed without evidence that counts"
    assessment = item.assessment
    assert assessment.validity and all(check.passed for check in assessment.validity)
    assert assessment.graders
    for rule in policy.spec.rules:
        (found,) = [m for m in assessment.measurements if m.measure == rule.measure]
        assert isinstance(found, Measured)
        assert found.probes == SIZE
        assert found.clusters >= 10
        assert found.clusters == found.probes or found.cluster_counts
        assert all(d.differing <= 0.10 * d.compared for d in found.disagreements)
        if rule.at_most is not None:
            assert upper_rate(found.events, found.probes, policy.spec.confidence) <= rule.at_most + 1e-9
        if rule.not_worse_than_base is not None:
            assert found.table is not None
            assert not_worse(found.table, rule.not_worse_than_base, policy.spec.confidence)


def judge(policy, items, **changes):
    inputs = {"policies": [policy], "batteries": BATTERIES, "form": FORM, "evidence": items, "now": NOW}
    return decide(**{**inputs, **changes})


def check_allowed_implies_everything(policy, items):
    decision = judge(policy, items)
    if decision.allowed:
        assert_an_auditor_agrees(policy, items)


quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(quick, max_examples=250)
@given(policies(), evidence_items())
def test_allowed_implies_everything_required_was_shown(policy, items):
    check_allowed_implies_everything(policy, items)


@settings(quick, max_examples=60)
@given(policies(), tables(), tables())
def test_good_evidence_is_often_enough_allowed_for_the_properties_to_mean_something(policy, harm, refusal):
    items = [make_evidence(make_assessment(measured(HARM, harm), measured(REFUSAL, refusal)))]

    def within(confidence):
        return all(
            (rule.at_most is None or upper_rate(table.adapted_events, SIZE, policy.spec.confidence) <= rule.at_most)
            and not_worse(table, rule.not_worse_than_base, confidence)
            for rule, table in zip(policy.spec.rules, (harm, refusal), strict=True)
        )

    # The exact test beside Tango's asks for more near the limit, and for no more than this far from it.
    allowed = judge(policy, items).allowed
    assert allowed <= within(policy.spec.confidence)
    assert allowed >= within(1 - (1 - policy.spec.confidence) / 4)


@settings(quick, max_examples=200)
@given(policies(), tables(), tables(), st.data())
def test_more_harm_never_turns_denied_into_allowed(policy, harm, refusal, data):
    def allowed(worse):
        return judge(
            policy, [make_evidence(make_assessment(measured(HARM, worse), measured(REFUSAL, refusal)))]
        ).allowed

    worse = harm
    for _ in range(data.draw(st.integers(1, 6))):
        # One probe more goes bad in the adapted form: it was bad in the base alone, or in neither.
        if worse.only_base and data.draw(st.booleans()):
            worse = replace(worse, both=worse.both + 1, only_base=worse.only_base - 1)
        elif worse.neither:
            worse = replace(worse, only_adapted=worse.only_adapted + 1, neither=worse.neither - 1)
    if allowed(worse):
        assert allowed(harm)


@settings(quick, max_examples=150)
@given(st.lists(policies(), min_size=1, max_size=3), evidence_items(), st.randoms(use_true_random=False))
def test_the_order_of_inputs_never_matters(found, items, random):
    found = [make_named(policy, f"p{number}") for number, policy in enumerate(found)]
    waivers = [
        make_waiver(policy="p0"),
        make_waiver(id="w2", policy="p1", rules=("R-2",)),
        make_waiver(id="w3", policy="p0"),
    ]

    def shuffled(values):
        values = list(values)
        random.shuffle(values)
        return values

    def mixed(item):
        if isinstance(item, UnverifiedEvidence):
            return item
        assessment = item.assessment
        return replace(
            item,
            assessment=replace(
                assessment,
                measurements=tuple(shuffled(assessment.measurements)),
                validity=tuple(shuffled(assessment.validity)),
            ),
            signers=tuple(shuffled(item.signers)),
        )

    def reordered(policy):
        return policy.model_copy(
            update={"spec": policy.spec.model_copy(update={"rules": tuple(shuffled(policy.spec.rules))})}
        )

    first = decide(
        policies=found, batteries=BATTERIES, form=FORM, evidence=items, grants=Grants(waivers=tuple(waivers)), now=NOW
    )
    second = decide(
        policies=shuffled(reordered(policy) for policy in found),
        batteries=BATTERIES,
        form=FORM,
        evidence=shuffled(mixed(item) for item in items),
        grants=Grants(waivers=tuple(shuffled(waivers))),
        now=NOW,
    )
    assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())


def make_named(policy, name):
    return policy.model_copy(update={"metadata": policy.metadata.model_copy(update={"name": name})})


@settings(quick, max_examples=100)
@given(policies(), policies(), evidence_items())
def test_another_policy_never_makes_it_easier(one, two, items):
    two = make_named(two, "two")
    both = judge(one, items, policies=[one, two])
    assert both.allowed == (judge(one, items).allowed and judge(two, items).allowed)
    assert both.verdict.rank == min(judge(one, items).verdict.rank, judge(two, items).verdict.rank)


@settings(quick, max_examples=100)
@given(policies(), evidence_items())
def test_waivers_never_reach_what_is_invalid_or_stale(policy, items):
    waiver = make_waiver(rules=("R-1", "R-2"))
    before, after = judge(policy, items), judge(policy, items, grants=Grants(waivers=(waiver,)))
    if any(reason.blocking and reason.verdict in (Verdict.INVALID, Verdict.STALE) for reason in before.reasons):
        assert not after.allowed
    if after.allowed and not before.allowed:
        assert after.verdict is Verdict.WAIVED


@settings(quick, max_examples=40)
@given(policies(), evidence_items(), st.sampled_from(["DENY", "ENFORCEMENT", "POLICY_DIR", "CONFIDENCE", "SKIP"]))
def test_no_environment_variable_changes_a_verdict(policy, items, name):
    before = judge(policy, items)
    with mock.patch.dict("os.environ", {f"REGISTRY_GATE_{name}": "0", "REGISTRY_GATE_ALLOW": "1", "CI": "1"}):
        assert judge(policy, items) == before


@settings(quick, max_examples=100)
@given(policies(), evidence_items())
def test_every_decision_says_why(policy, items):
    decision = judge(policy, items)
    assert decision.reasons
    assert all(reason.message and reason.code for reason in decision.reasons)
    if decision.allowed:
        # Counted, not inferred: every requirement of every rule has its own reason.
        kept = {(reason.rule, reason.code) for reason in decision.reasons if reason.verdict is Verdict.PASS}
        for rule in policy.spec.rules:
            assert rule.at_most is None or (rule.id, "ceiling_kept") in kept
            assert rule.not_worse_than_base is None or (rule.id, "margin_kept") in kept
    else:
        assert any(reason.blocking for reason in decision.reasons)


GOOD = make_assessment(
    measured(HARM, PairedTable(both=2, only_adapted=1, only_base=1, neither=116)), make_measured(REFUSAL)
)
FAULTS = {
    "of the base": replace(GOOD, form_digest=BASE.digest),
    "beside no base": replace(GOOD, base_digest=None),
    "of an old battery": replace(GOOD, battery_digest="sha256:old"),
    "too old": replace(GOOD, assessed_at=(NOW - timedelta(hours=2161)).isoformat()),
    "from the future": replace(GOOD, assessed_at=(NOW + timedelta(hours=1)).isoformat()),
    "no check": replace(GOOD, validity=()),
    "failed check": replace(GOOD, validity=(CHECK, ValidityCheck(check="pairing", passed=False, detail="no"))),
    "no grader": replace(GOOD, graders=()),
    "absent": replace(GOOD, measurements=GOOD.measurements[:1]),
    "twice": replace(GOOD, measurements=(*GOOD.measurements, GOOD.measurements[0])),
    "not measured": replace(GOOD, measurements=(NotMeasured(measure=HARM, cause="crash"), GOOD.measurements[1])),
    "base not measured": replace(GOOD, measurements=(replace(GOOD.measurements[0], table=None), GOOD.measurements[1])),
    "half a run": replace(GOOD, measurements=(make_measured(HARM, 0, 0, probes=60), GOOD.measurements[1])),
    "few clusters": replace(GOOD, measurements=(replace(GOOD.measurements[0], clusters=9), GOOD.measurements[1])),
    "clusters not counted": replace(
        GOOD, measurements=(replace(GOOD.measurements[0], clusters=60), GOOD.measurements[1])
    ),
    "graders differ": replace(
        GOOD, measurements=(measured(HARM, GOOD.measurements[0].table, differing=60), GOOD.measurements[1])
    ),
    "rate within, limit above": replace(GOOD, measurements=(make_measured(HARM, 12, 12), GOOD.measurements[1])),
    "difference within, limit beyond": replace(GOOD, measurements=(make_measured(HARM, 9, 0), GOOD.measurements[1])),
}


def test_evidence_without_fault_is_allowed():
    assert judge(make_policy(), [make_evidence(GOOD)]).allowed


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_any_single_fault_denies(name):
    assert not judge(make_policy(), [make_evidence(FAULTS[name])]).allowed


MUTANTS = {
    "formal faults are overlooked": (rules, "_formal_problems", lambda *_: []),
    "failed checks are overlooked": (rules, "_validity_problems", lambda *_: []),
    "graders and clusters are overlooked": (outcomes, "_judge_reliability", lambda *_: []),
    "the rate itself is compared": (outcomes.rates, "upper_limit", lambda k, n, *_: k / n),
    "the difference itself is compared": (outcomes.paired, "upper_limit", lambda b, c, n, *_: (b - c) / n),
}


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_fault_planted_in_the_decision_is_found(name, monkeypatch):
    monkeypatch.setattr(*MUTANTS[name])
    if name == "the difference itself is compared":
        # The exact test at the margin stands behind the limit and would stop this alone, so it is taken away too.
        assert not judge(make_policy(), [make_evidence(FAULTS["difference within, limit beyond"])]).allowed
        monkeypatch.setattr(outcomes.paired, "p_not_worse_exact", lambda *_: 0.0)

    def auditor_objects(assessment):
        try:
            check_allowed_implies_everything(make_policy(), [make_evidence(assessment)])
        except AssertionError:
            return True
        return False

    assert any(auditor_objects(assessment) for assessment in FAULTS.values())
