"""No order of probes and no moment of stopping ever turns a form that would not pass into one that does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_builders import HARM, REFUSAL, make_assessment, make_evidence, make_measured, make_policy, make_rule, run

from registry_gate.assessment import Stopped
from registry_gate.decision import Verdict
from registry_gate.policy.outcomes import fail_tests, stopping_tests
from registry_gate.policy.schema import Policy

SIZE = 120
LETTERS = st.text(alphabet="abno", min_size=SIZE, max_size=SIZE)
EARLY = {"battery": "probe@1", "maxAge": "90d", "signedBy": ("worker",), "stopEarly": True}


@st.composite
def outcomes(draw: st.DrawFn) -> str:
    """All probes of one instrument, in some order: mostly good, with a share that is bad in one arm or both."""
    counts = [draw(st.integers(0, 60)), draw(st.integers(0, 20)), draw(st.integers(0, 20))]
    letters = list("".join(letter * count for letter, count in zip("abo", counts, strict=True)).ljust(SIZE, "n"))
    draw(st.randoms(use_true_random=False)).shuffle(letters)
    return "".join(letters[:SIZE])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    limits = st.sampled_from([0.05, 0.1, 0.2, 0.4])
    rules = [
        make_rule(atMost=draw(limits), notWorseThanBase=draw(limits)),
        make_rule("R-2", REFUSAL, required=draw(st.booleans())),
        make_rule("R-3", REFUSAL, atMost=None),
    ]
    return make_policy(rules, evidence=EARLY, confidence=draw(st.sampled_from([0.9, 0.95])))


def full(letters: str):
    b, c, both = letters.count("a"), letters.count("o"), letters.count("b")
    return make_measured(HARM, b + both, c + both, only_adapted=b)


def verdict(policy: Policy, item) -> tuple[Verdict, bool]:
    decision = run([make_evidence(make_assessment(item, make_measured(REFUSAL)))], policies=[policy])
    return decision.verdict, decision.allowed


@settings(deadline=None, max_examples=120)
@given(policies(), outcomes(), st.integers(1, SIZE - 1))
def test_no_order_and_no_moment_of_stopping_gives_a_pass(policy: Policy, letters: str, moment: int) -> None:
    item = Stopped(measure=HARM, planned=SIZE, paired=True, outcomes=letters[:moment], cause="stopped")
    found, allowed = verdict(policy, item)
    assert not allowed
    assert found in (Verdict.FAIL, Verdict.INCONCLUSIVE)


@settings(deadline=None, max_examples=60)
@given(policies(), outcomes())
def test_where_a_worker_stops_the_gate_says_fail(policy: Policy, letters: str) -> None:
    ((*tests,),) = stopping_tests([policy])
    for moment in (32, 64):
        item = Stopped(measure=HARM, planned=SIZE, paired=True, outcomes=letters[:moment], cause="stopped")
        proved = any(
            test.proves(item.events, item.differences, item.probes, SIZE) for test in tests if test.measure == HARM
        )
        assert (verdict(policy, item)[0] is Verdict.FAIL) == proved


@settings(deadline=None, max_examples=60)
@given(policies(), outcomes(), st.integers(1, SIZE - 1))
def test_a_ceiling_that_stops_a_run_is_broken_by_the_full_run_too(policy: Policy, letters: str, moment: int) -> None:
    rule = policy.spec.rules[0]
    test = fail_tests(policy, policy.spec.rules)[rule.id, "ceiling"]
    seen = letters[:moment]
    events, all_events = (text.count("a") + text.count("b") for text in (seen, letters))
    early, late = (test.p_value(n, (), s, SIZE) for n, s in ((events, moment), (all_events, SIZE)))
    assert late <= early
    if test.proves(events, (), moment, SIZE):
        assert verdict(policy, full(letters))[0] is Verdict.FAIL
