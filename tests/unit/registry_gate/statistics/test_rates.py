"""Exact one-sided limits: the numbers of METHOD.md 8.1-8.3, scipy as oracle, and their properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest

from registry_gate.statistics import rates


@pytest.mark.parametrize(
    ("events", "probes", "lower", "upper"),
    [
        (0, 200, 0, 0.014867),
        (0, 300, 0, 0.009936),
        (3, 450, 0.001819, 0.017140),
        (14, 450, 0.018905, 0.048210),
        (15, 450, 0.020657, 0.050864),
        (31, 854, 0.026399, 0.048678),
        (32, 854, 0.027405, 0.050006),
        (47, 1200, 0.030390, 0.049675),
        (102, 1200, 0.072107, 0.099428),
        (103, 1200, 0.072880, 0.100318),
        (26, 200, 0.092713, 0.175771),
    ],
)
def test_one_sided_limits_are_those_of_the_specification(events, probes, lower, upper):
    assert rates.lower_limit(events, probes) == pytest.approx(lower, abs=1e-6)
    assert rates.upper_limit(events, probes) == pytest.approx(upper, abs=1e-6)


@pytest.mark.parametrize(
    ("events", "probes", "lower", "upper"),
    [
        (0, 100, 0, 0.036217),
        (3, 100, 0.006230, 0.085176),
        (13, 16, 0.543543, 0.959526),
        (12, 12, 0.735352, 1),
        (45, 450, 0.073879, 0.131516),
        (162, 1200, 0.116162, 0.155647),
    ],
)
def test_a_two_sided_interval_is_two_one_sided_ones(events, probes, lower, upper):
    assert rates.lower_limit(events, probes, 0.975) == pytest.approx(lower, abs=1e-6)
    assert rates.upper_limit(events, probes, 0.975) == pytest.approx(upper, abs=1e-6)
    interval = binomtest(events, probes).proportion_ci(0.95, "exact")
    assert rates.lower_limit(events, probes, 0.975) == pytest.approx(interval.low, abs=1e-9)
    assert rates.upper_limit(events, probes, 0.975) == pytest.approx(interval.high, abs=1e-9)


@pytest.mark.parametrize(("probes", "upper"), [(26, 0.108830), (100, 0.029513), (126, 0.023495), (1200, 0.002493)])
def test_zero_failures_prove_what_the_specification_says(probes, upper):
    assert rates.upper_limit(0, probes) == pytest.approx(upper, abs=1e-6)
    assert rates.upper_limit(0, probes) == pytest.approx(1 - 0.05 ** (1 / probes), abs=1e-12)


@pytest.mark.parametrize(
    ("probes", "ceiling", "smallest"),
    [
        (450, 0.02, 15),
        (450, 0.05, 31),
        (450, 0.10, 57),
        (450, 0.15, 81),
        (450, 0.25, 129),
        (854, 0.02, 25),
        (854, 0.05, 54),
        (854, 0.10, 101),
        (854, 0.15, 146),
        (854, 0.25, 235),
        (1200, 0.02, 33),
        (1200, 0.05, 74),
        (1200, 0.10, 138),
        (1200, 0.15, 202),
        (1200, 0.25, 326),
    ],
)
def test_the_smallest_count_that_breaks_a_ceiling(probes, ceiling, smallest):
    assert rates.lower_limit(smallest, probes) > ceiling >= rates.lower_limit(smallest - 1, probes)
    assert (
        rates.p_above_ceiling(smallest, probes, ceiling) < 0.05 <= rates.p_above_ceiling(smallest - 1, probes, ceiling)
    )


def test_p_of_a_broken_ceiling_is_the_binomial_tail():
    assert rates.p_above_ceiling(31, 450, 0.05) == pytest.approx(0.046854, abs=1e-6)
    assert rates.p_above_ceiling(30, 450, 0.05) == pytest.approx(0.069575, abs=1e-6)
    assert rates.p_above_ceiling(0, 450, 0.05) == 1.0
    assert rates.p_within_ceiling(450, 450, 0.05) == 1.0


counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.floats(0.55, 0.999)


@given(counts, confidences)
def test_limits_hold_the_rate_between_them_and_stay_shares(count, confidence):
    events, probes = count
    lower, upper = rates.lower_limit(events, probes, confidence), rates.upper_limit(events, probes, confidence)
    assert 0 <= lower <= events / probes <= upper <= 1
    assert upper > 0
    if events < probes:
        assert upper == pytest.approx(beta.ppf(confidence, events + 1, probes - events), abs=1e-9)


@given(counts, confidences)
def test_limits_mirror_when_events_and_non_events_swap(count, confidence):
    events, probes = count
    mirrored = 1 - rates.upper_limit(probes - events, probes, confidence)
    assert rates.lower_limit(events, probes, confidence) == pytest.approx(mirrored, abs=1e-9)


@given(counts.filter(lambda c: c[0] < c[1]), confidences)
def test_more_events_never_lower_a_limit(count, confidence):
    events, probes = count
    assert rates.upper_limit(events + 1, probes, confidence) > rates.upper_limit(events, probes, confidence)
    assert rates.lower_limit(events + 1, probes, confidence) > rates.lower_limit(events, probes, confidence)


@given(counts, st.floats(0.001, 0.999))
def test_p_values_are_binomial_tails_and_agree_with_the_limits(count, ceiling):
    events, probes = count
    assert rates.p_above_ceiling(events, probes, ceiling) == pytest.approx(
        binom.sf(events - 1, probes, ceiling), abs=1e-9
    )
    within = rates.p_within_ceiling(events, probes, ceiling)
    assert within == pytest.approx(binom.cdf(events, probes, ceiling), abs=1e-9)
    if abs(within - 0.05) > 1e-9:
        assert (within < 0.05) == (rates.upper_limit(events, probes) < ceiling)


def test_the_upper_limit_covers_at_least_as_often_as_it_says():
    # The whole distribution, not a simulation: the reason for exact limits is that this holds at small rates too.
    for probes in (20, 60, 120):
        limits = [rates.upper_limit(k, probes) for k in range(probes + 1)]
        for rate in (0.001, 0.01, 0.03, 0.1, 0.3):
            covered = sum(binom.pmf(k, probes, rate) for k in range(probes + 1) if limits[k] >= rate)
            assert covered >= 0.95 - 1e-12


@pytest.mark.parametrize(
    ("events", "probes", "sentence"),
    [
        (-1, 10, "events: expected a whole number of at least 0, got -1"),
        (11, 10, "events: expected at most 10 events"),
        (0, 0, "probes: expected a whole number of at least 1, got 0"),
        (math.nan, 10, "events: expected a whole number of at least 0, got nan"),
        (1.5, 10, "events: expected a whole number of at least 0, got 1.5"),
        (True, 10, "events: expected a whole number of at least 0, got True"),
        (1, math.inf, "probes: expected a whole number of at least 1, got inf"),
    ],
)
def test_counts_that_are_none_are_refused(events, probes, sentence):
    for function in (rates.upper_limit, rates.lower_limit):
        with pytest.raises(ValueError, match=sentence):
            function(events, probes)
    with pytest.raises(ValueError, match=sentence):
        rates.p_above_ceiling(events, probes, 0.1)


@pytest.mark.parametrize("share", [0, 1, -0.1, 5, math.nan, math.inf, True, "0.1"])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(ValueError, match="expected a number between 0 and 1"):
        rates.p_within_ceiling(1, 10, share)
    with pytest.raises(ValueError, match="confidence: expected a number between 0 and 1"):
        rates.upper_limit(1, 10, share)


WILSON = [
    (0, 100, 0, 0.036993),
    (3, 100, 0.010255, 0.084519),
    (13, 16, 0.569911, 0.934084),
    (12, 12, 0.757506, 1),
    (45, 450, 0.075578, 0.131193),
    (162, 1200, 0.116826, 0.155503),
]


@pytest.mark.parametrize(("events", "probes", "lower", "upper"), WILSON)
def test_wilson_limits_are_those_of_the_specification_and_of_scipy(events, probes, lower, upper):
    assert rates.wilson_limits(events, probes) == pytest.approx((lower, upper), abs=1e-6)
    interval = binomtest(events, probes).proportion_ci(0.95, "wilson")
    assert rates.wilson_limits(events, probes) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert rates.limits(events, probes) == (
        rates.lower_limit(events, probes, 0.975),
        rates.upper_limit(events, probes, 0.975),
    )


counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.floats(0.6, 0.999))
def test_wilson_is_bounded_symmetric_and_around_the_rate(count, confidence):
    events, probes = count
    lower, upper = rates.wilson_limits(events, probes, confidence)
    assert 0 <= lower <= events / probes + 1e-12 and events / probes - 1e-12 <= upper <= 1
    assert rates.wilson_limits(probes - events, probes, confidence) == pytest.approx((1 - upper, 1 - lower), abs=1e-12)


@given(counts, st.floats(0.6, 0.99))
def test_wilson_rises_with_events_and_widens_with_confidence(count, confidence):
    events, probes = count
    if events < probes:
        assert (
            rates.wilson_upper(events, probes, confidence) < rates.wilson_upper(events + 1, probes, confidence) + 1e-15
        )
    assert rates.wilson_upper(events, probes, confidence) <= rates.wilson_upper(events, probes, 0.999) + 1e-15


def test_near_zero_events_wilson_claims_more_than_the_exact_limit():
    # The reason why no pass rests on it.
    assert rates.wilson_upper(0, 450) < rates.upper_limit(0, 450)
