"""Stopping early: METHOD.md 8.11, validity under peeking, and curtailment against brute force."""

from __future__ import annotations

from itertools import cycle, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_gate.statistics import paired, rates, sequential
from registry_gate.statistics.sequential import BettingTest, curtail_ceiling, curtail_margin


def repeated(*pattern: int) -> list[int]:
    return list(islice(cycle(pattern), 450))


@pytest.mark.parametrize(
    ("differences", "stop", "wealth"),
    [
        (repeated(1), 9, 28.755763),
        (repeated(1, 0), 17, 23.713815),
        (repeated(1, 0, 0, 0), 37, 21.789072),
        (repeated(1, *[0] * 9), 211, 21.848975),
        (repeated(1, 1, -1, 0), 126, 20.328271),
        (repeated(0), None, None),
    ],
)
def test_the_betting_test_stops_where_the_specification_says(differences, stop, wealth):
    assert sequential.stops_at(differences, 0.05) == stop
    if stop is not None:
        test = BettingTest(0.05)
        for d in differences[:stop]:
            test.observe(d)
        assert test.wealth == pytest.approx(wealth, abs=1e-6)


def test_the_first_bets_are_those_of_the_specification():
    test, zeros = BettingTest(0.05), BettingTest(0.05)
    for all_worse, all_alike in zip(
        (1.452381, 2.109410, 3.063668, 4.449612), (0.976190, 0.952948, 0.930259), strict=False
    ):
        test.observe(1)
        zeros.observe(0)
        assert (test.wealth, zeros.wealth) == pytest.approx((all_worse, all_alike), abs=1e-6)
    assert zeros.p_value == 1.0


def test_a_stopped_test_stays_stopped_and_more_instruments_need_more():
    test = BettingTest(0.05)
    assert [test.observe(1) for _ in range(9)][-1]
    for _ in range(100):
        assert test.observe(-1)
    assert test.p_value <= 0.05
    assert sequential.stops_at(repeated(1), 0.05, instruments=4) > 9


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=120))
def test_a_larger_margin_is_never_exceeded_before_a_smaller_one(differences):
    small, large = (sequential.stops_at(differences, margin) for margin in (0.03, 0.10))
    if large is not None:
        assert small is not None and small <= large


def test_peeking_after_every_probe_keeps_the_risk():
    generator = np.random.default_rng(11)
    stops = 0
    for _ in range(400):
        d = generator.choice([1, -1, 0], p=[0.10, 0.05, 0.85], size=450)
        stops += sequential.stops_at(d.tolist(), 0.05) is not None
    # The true difference is the margin itself; METHOD.md finds 2.4 %, nominal is at most 5 %.
    assert stops / 400 <= 0.05


def test_the_lower_sequence_never_falls_and_agrees_with_the_test():
    d = repeated(1, 1, -1, 0)
    limits = sequential.lower_sequence(d)
    assert (np.diff(limits) >= 0).all()
    assert limits[-1] < 0.25
    stop = sequential.stops_at(d, 0.05)
    first = int(np.argmax(limits >= 0.05)) + 1
    assert first == pytest.approx(stop, abs=12)  # the grid is half a point wide


def test_the_lower_sequence_covers_at_every_moment():
    generator = np.random.default_rng(3)
    above = 0
    for _ in range(200):
        d = generator.choice([1, -1, 0], p=[0.15, 0.05, 0.80], size=300)
        above += bool((sequential.lower_sequence(d.tolist()) > 0.10).any())
    assert above / 200 <= 0.05


def test_the_order_of_probes_is_fixed_by_their_digest():
    order = sequential.order_of("sha256:abc", 450)
    assert sorted(order) == list(range(450))
    assert order == sequential.order_of("sha256:abc", 450) != sequential.order_of("sha256:abd", 450)
    with pytest.raises(ValueError, match="expected the digest of the probe set, got none"):
        sequential.order_of("", 450)


progress = st.integers(1, 14).flatmap(
    lambda n: st.integers(0, n).flatmap(
        lambda seen: st.tuples(
            st.integers(0, seen).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, seen - b))),
            st.just(seen),
            st.just(n),
        )
    )
)


@settings(max_examples=200, deadline=None)
@given(progress, st.sampled_from([0.05, 0.2, 0.5, 0.8]))
def test_curtailment_is_what_no_outcome_of_the_rest_can_change(state, threshold):
    (b, c), seen, n = state
    left = n - seen
    upper = [rates.upper_limit(b + more, n) for more in range(left + 1)]
    p = [rates.p_above_ceiling(b + more, n, threshold) for more in range(left + 1)]
    found = curtail_ceiling(b, seen, n, threshold)
    assert found.cannot_pass == all(value > threshold for value in upper)
    assert found.must_fail == all(value < 1 - 0.95 for value in p)
    tables = [(b + i, c + j, n) for i in range(left + 1) for j in range(left + 1 - i)]
    margin = curtail_margin(b, c, seen, n, threshold)
    assert margin.cannot_pass == all(paired.upper_limit(*table) > threshold for table in tables)
    assert margin.must_fail == all(paired.p_worse(*table, threshold) < 1 - 0.95 for table in tables)


def test_with_more_tests_of_the_family_failing_takes_more():
    assert curtail_ceiling(31, 300, 450, 0.05).must_fail
    assert not curtail_ceiling(31, 300, 450, 0.05, tests=4).must_fail


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BettingTest(0.05).observe(2), "expected a difference of -1, 0 or 1, got 2"),
        (lambda: BettingTest(0.05).observe(float("nan")), "got nan"),
        (lambda: BettingTest(0.05).observe(True), "got True"),
        (lambda: BettingTest(0), "margin: expected a number between 0 and 1"),
        (lambda: BettingTest(0.05, instruments=0), "instruments: expected a whole number of at least 1"),
        (lambda: sequential.lower_sequence([0, 3]), "expected differences of -1, 0 or 1, got 3"),
        (lambda: curtail_ceiling(3, 2, 10, 0.05), "expected events <= seen <= probes, got 3, 2 and 10"),
        (lambda: curtail_margin(1, 1, 11, 10, 0.05), "expected events <= seen <= probes"),
    ],
)
def test_what_is_no_progress_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
