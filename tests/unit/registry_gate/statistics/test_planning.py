"""What sizes prove: the tables of METHOD.md 5.8 and 8.3, and that advice about more probes comes true."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom

from registry_gate.statistics import paired, planning, rates


@pytest.mark.parametrize(
    ("ceiling", "probes"), [(0.1, 29), (0.05, 59), (0.02, 149), (0.01, 299), (0.005, 598), (0.001, 2995)]
)
def test_zero_failures_that_prove_a_ceiling(ceiling, probes):
    assert planning.probes_for_ceiling(ceiling) == probes
    assert planning.smallest_ceiling(probes) <= ceiling < planning.smallest_ceiling(probes - 1)


@pytest.mark.parametrize(
    ("discordance", "margin", "probes"),
    [
        (0.1, 0.05, 248),
        (0.1, 0.03, 687),
        (0.1, 0.02, 1546),
        (0.1, 0.01, 6183),
        (0.2, 0.05, 495),
        (0.2, 0.03, 1374),
        (0.2, 0.02, 3092),
        (0.2, 0.01, 12366),
        (0.3, 0.05, 742),
        (0.3, 0.03, 2061),
        (0.3, 0.02, 4637),
        (0.3, 0.01, 18548),
    ],
)
def test_paired_sizes(discordance, margin, probes):
    assert planning.probes_for_margin(margin, discordance) == probes


@pytest.mark.parametrize(
    ("discordance", "margin", "probes"), [(0.1, 0.05, 314), (0.1, 0.03, 873), (0.2, 0.05, 628), (0.2, 0.03, 1745)]
)
def test_paired_sizes_at_a_stricter_level(discordance, margin, probes):
    # The specification rounds to the nearest whole probe, the gate up: a size that is needed is never understated.
    assert planning.probes_for_margin(margin, discordance, confidence=0.975) in (probes, probes + 1)


@pytest.mark.parametrize(
    ("probes", "most", "provable", "floor"),
    [
        (100, (None, 1, 4, 8, 17), (7.9, 11.1, 13.6), 2.63),
        (200, (0, 4, 12, 21, 39), (5.6, 7.9, 9.6), 1.33),
        (450, (3, 14, 34, 54, 97), (3.7, 5.2, 6.4), 0.60),
        (854, (10, 31, 70, 110, 192), (2.7, 3.8, 4.7), 0.32),
        (1200, (15, 47, 102, 159, 274), (2.3, 3.2, 3.9), 0.22),
    ],
)
def test_the_table_of_sizes(probes, most, provable, floor):
    ceilings = (0.02, 0.05, 0.10, 0.15, 0.25)
    assert tuple(planning.most_events(probes, ceiling) for ceiling in ceilings) == most
    got = [100 * planning.provable_margin(probes, discordance) for discordance in (0.1, 0.2, 0.3)]
    assert got == pytest.approx(provable, abs=0.051)
    assert 100 * planning.smallest_margin(probes) == pytest.approx(floor, abs=0.006)


@pytest.mark.parametrize(
    ("probes", "ceiling", "rate"), [(450, 0.05, 0.0260), (854, 0.05, 0.0319), (450, 0.10, 0.0669), (1200, 0.10, 0.0789)]
)
def test_the_true_rate_that_passes_four_times_of_five(probes, ceiling, rate):
    assert planning.chance_to_keep_ceiling(probes, ceiling, rate) == pytest.approx(0.8, abs=0.005)


@given(st.integers(1, 800), st.floats(0.01, 0.5))
def test_most_events_is_where_the_limit_crosses_the_ceiling(probes, ceiling):
    most = planning.most_events(probes, ceiling)
    assume(all(abs(binom.cdf(k, probes, ceiling) - 0.05) > 1e-9 for k in {most or 0, (most or 0) + 1}))
    if most is None:
        assert rates.upper_limit(0, probes) > ceiling
        assert planning.chance_to_keep_ceiling(probes, ceiling, 0.01) == 0
    else:
        assert rates.upper_limit(most, probes) <= ceiling
        assert most + 1 == probes or rates.upper_limit(most + 1, probes) > ceiling


@given(st.integers(0, 300), st.integers(20, 300), st.floats(0.02, 0.4))
def test_advice_about_a_ceiling_comes_true_when_the_rate_stays(events, probes, ceiling):
    assume(events <= probes)
    more = planning.more_probes_for_ceiling(events, probes, ceiling)
    now_settled = rates.upper_limit(events, probes) <= ceiling or rates.lower_limit(events, probes) > ceiling
    if more is None:
        assert not now_settled
        return
    assert (more == 0) == now_settled
    # Whole multiples of the sample keep the rate exactly.
    times = -(-(probes + more) // probes)
    upper, lower = (f(events * times, probes * times) for f in (rates.upper_limit, rates.lower_limit))
    assert upper <= ceiling + 1e-9 or lower > ceiling - 1e-9


@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 400), st.floats(0.02, 0.3))
def test_advice_about_a_margin_comes_true_when_the_shares_stay(b, c, n, margin):
    more = planning.more_probes_for_margin(b, c, n, margin)
    now_settled = paired.upper_limit(b, c, n) <= margin or paired.lower_limit(b, c, n) > margin
    if more is None:
        assert not now_settled
        return
    times = -(-(n + more) // n)
    upper, lower = (f(b * times, c * times, n * times) for f in (paired.upper_limit, paired.lower_limit))
    assert upper <= margin + 1e-9 or lower > margin - 1e-9
    assert now_settled or more > 0


def test_a_rate_at_the_ceiling_is_settled_by_no_number():
    assert planning.more_probes_for_ceiling(10, 100, 0.1) is None


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match="discordance: expected a number between 0 and 1, got 20"):
        planning.probes_for_margin(0.05, 20)


@pytest.mark.parametrize(
    ("probes", "fewest"),
    [(450, (15, 31, 57, 81, 129)), (854, (25, 54, 101, 146, 235)), (1200, (33, 74, 138, 202, 326))],
)
def test_fewest_events_that_fail_are_those_of_the_specification(probes, fewest):
    ceilings = (0.02, 0.05, 0.10, 0.15, 0.25)
    assert tuple(planning.fewest_events_to_fail(probes, ceiling) for ceiling in ceilings) == fewest
    for ceiling, k in zip(ceilings, fewest, strict=True):
        assert rates.lower_limit(k, probes) > ceiling >= rates.lower_limit(k - 1, probes)


def test_a_ceiling_that_not_even_all_events_break_says_so():
    assert planning.fewest_events_to_fail(1, 0.5) is None


@pytest.mark.parametrize(
    ("probes", "ceiling", "rate"),
    [(450, 0.05, 0.0260), (854, 0.05, 0.0319), (450, 0.10, 0.0669), (1200, 0.10, 0.0789)],
)
def test_rate_that_passes_is_that_of_the_specification(probes, ceiling, rate):
    assert planning.passing_rate(probes, ceiling) == pytest.approx(rate, abs=5e-5)
    assert planning.chance_to_keep_ceiling(probes, ceiling, planning.passing_rate(probes, ceiling)) == pytest.approx(
        0.8
    )
    assert planning.passing_rate(20, 0.05) is None


@pytest.mark.parametrize(
    ("probes", "three", "five"),
    [(100, 0.015, 0.040), (200, 0.029, 0.081), (450, 0.066, 0.182), (854, 0.124, 0.345), (1200, 0.175, 0.485)],
)
def test_most_discordance_is_that_of_the_specification(probes, three, five):
    assert planning.most_discordance(probes, 0.03) == pytest.approx(three, abs=6e-4)
    assert planning.most_discordance(probes, 0.05) == pytest.approx(five, abs=6e-4)
    assert planning.most_discordance(100_000, 0.5) == 1.0


@pytest.mark.parametrize("probes", [60, 120, 450])
def test_the_smallest_proved_margin_is_where_limit_and_exact_test_both_hold(probes):
    margin = planning.smallest_proved_margin(probes)
    assert planning.provable_at_best(probes, margin)
    assert not planning.provable_at_best(probes, margin - 1e-4)
    assert planning.provable_at_best(planning.probes_for_margin_at_best(margin), margin)
    assert not planning.provable_at_best(planning.probes_for_margin_at_best(margin) - 1, margin)


def test_more_probes_for_the_exact_test_pass_it():
    b, c, n, margin = 5, 1, 120, 0.08
    assert paired.upper_limit(b, c, n) <= margin or paired.p_not_worse_exact(b, c, n, margin) > 0.05
    more = planning.more_probes_for_exact_margin(2, 0, 100, 0.05)
    assert more is not None and more > 0
    assert planning.more_probes_for_exact_margin(0, 0, 450, 0.05) == 0
    assert planning.more_probes_for_exact_margin(40, 0, 120, 0.05) is None
