"""Limits from people's labels: the specification's numbers, exact error rates where events are rare, and properties."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from test_correction import xstest

from registry_gate.statistics import rates
from registry_gate.statistics.labelled import PairCluster, Pairs, alike, difference, rate_limits


def kinds(counts: dict[tuple[int, int], int]) -> tuple[Pairs, ...]:
    return tuple(Pairs(people=y, graders=f, count=n) for (y, f), n in sorted(counts.items()) if n)


def test_the_numbers_of_the_specification_on_real_labels():
    """METHOD.md 8.6: lambda .314820, difference .033889, SE .029004; of 8.5 the graders alone say -.068889."""
    (people, judge), (people_base, judge_base) = xstest("mistralguard"), xstest("gpt4")
    labelled = [probe for number, probe in enumerate(people) if number % 4 == 0]
    others = [judge[p] - judge_base[p] for p in people if p not in set(labelled)]
    pairs = Counter((people[p] - people_base[p], judge[p] - judge_base[p]) for p in labelled)
    graders = [judge[p] - judge_base[p] for p in people]
    assert sum(graders) / 450 == pytest.approx(-0.068889, abs=1e-6)
    found = difference(kinds(pairs), (others.count(1), others.count(-1), len(others)))
    assert (found.value, found.weight, found.pairs) == (
        pytest.approx(0.033889, abs=1e-6),
        pytest.approx(0.314820, abs=1e-6),
        113,
    )
    # Never nearer than PPI++'s own limits, and farther by about one pair, for rare events.
    for limit, sign in ((found.lower, -1), (found.upper, 1)):
        beyond = sign * (limit - 0.033889) - 1.644854 * 0.029004
        assert -1e-5 <= beyond <= 1.5 / 113


@pytest.mark.parametrize("margin", [0.03, 0.05, 0.1])
@pytest.mark.parametrize("n", [30, 60, 100, 200])
def test_people_alone_pass_a_form_that_is_worse_by_the_margin_at_most_as_often_as_alpha_allows(n, margin):
    """Exactly, where nothing else differs: the number of losses is binomial."""
    passing = [
        k
        for k in range(n + 1)
        if k <= n * margin and difference(kinds({(1, 0): k, (0, 0): n - k}), (0, 0, 0)).upper <= margin
    ]
    assert sum(binom.pmf(k, n, margin) for k in passing) <= 0.05
    # And it is no wall: with twice the pairs that the exact limit of no loss takes, no loss passes.
    if n * margin >= 6:
        assert 0 in passing


def test_without_any_loss_people_prove_little_more_than_nothing():
    none = difference(kinds({(0, 0): 100}), (0, 0, 0))
    assert none.upper == pytest.approx(-none.lower)
    assert rates.upper_limit(0, 100) < none.upper < 0.04
    # Graders who see nothing either add nothing, however many probes they read.
    assert difference(kinds({(0, 0): 100}), (0, 0, 1100)) == none


def test_good_graders_make_the_limit_nearer_than_people_alone():
    pairs = {(1, 1): 9, (-1, -1): 9, (0, 0): 81, (1, 0): 1}
    helped = difference(kinds(pairs), (90, 90, 1000))
    alone = difference(kinds({(1, 0): 10, (-1, 0): 9, (0, 0): 81}), (0, 0, 1000))
    assert helped.weight > 0.8 and alone.weight == 0
    assert helped.upper - helped.value < 0.7 * (alone.upper - alone.value)


counts = st.dictionaries(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), st.integers(0, 40), min_size=1).filter(
    lambda found: sum(found.values()) >= 2
)
rests = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 200)).map(lambda r: (r[0], r[1], sum(r)))


@settings(max_examples=60, deadline=None)
@given(counts, rests)
def test_limits_hold_the_value_and_turn_with_the_arms(found, rest):
    one = difference(kinds(found), rest)
    assert -1 <= one.lower <= one.upper <= 1
    assert one.lower - 1e-9 <= max(-1, min(1, one.value)) <= one.upper + 1e-9
    turned = difference(kinds({(-y, -f): n for (y, f), n in found.items()}), (rest[1], rest[0], rest[2]))
    assert (turned.lower, turned.upper) == (pytest.approx(-one.upper, abs=1e-6), pytest.approx(-one.lower, abs=1e-6))
    for margin in (0.01, 0.05, 0.2):
        assert (one.p_worse(margin) < 0.05) == (one.lower > margin) or abs(one.lower - margin) < 1e-6
        assert (one.p_better(margin) < 0.05) == (one.upper < -margin) or abs(one.upper + margin) < 1e-6


@settings(max_examples=30, deadline=None)
@given(counts)
def test_one_more_loss_never_makes_a_form_look_better(found):
    more = {**found, (1, 0): found.get((1, 0), 0) + 1}
    assert difference(kinds(more), (0, 0, 0)).upper >= difference(kinds(found), (0, 0, 0)).upper - 1e-6


def test_probes_that_belong_together_widen_the_limits():
    pairs = kinds({(1, 0): 8, (0, 0): 92})
    alone = difference(pairs, (0, 0, 0))
    together = (PairCluster(count=2, pairs=4, people=4, graders=0), PairCluster(count=23, pairs=4, people=0, graders=0))
    found = difference(pairs, (0, 0, 0), grouped=together)
    assert found.upper - found.value >= 1.99 * (alone.upper - alone.value)
    assert alike([4] * 25) == 4 and alike([1] * 9) == 1


def test_a_rate_by_people_alone_is_exact_and_wider_for_clusters():
    assert rate_limits(3, 100) == pytest.approx((rates.lower_limit(3, 100), rates.upper_limit(3, 100)))
    assert rate_limits(4, 100, effect=4) == pytest.approx((rates.lower_limit(1, 25), rates.upper_limit(1, 25)))
    assert rate_limits(0, 100, effect=4) == pytest.approx((0, rates.upper_limit(0, 25)))
    assert rate_limits(9, 9)[1] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: difference((), (0, 0, 0)), "expected labelled pairs, got none"),
        (lambda: Pairs(people=2, graders=0, count=1), "expected differences of -1, 0 or 1"),
        (lambda: Pairs(people=0, graders=0, count=0), "count"),
        (lambda: difference(kinds({(0, 0): 9}), (0, 0, 9), rest_effect=0.5), "rest_effect"),
        (lambda: difference(kinds({(0, 0): 9}), (0, 0, 9), confidence=2), "confidence"),
        (lambda: rate_limits(1, 9, effect=float("nan")), "effect"),
        (lambda: rate_limits(10, 9), "events"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
