"""Paired differences: the numbers of METHOD.md 8.4, 8.5 and 8.10, statsmodels as oracle, and their properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import mcnemar

from registry_gate.statistics import paired
from registry_gate.statistics.multiplicity import holm


@pytest.mark.parametrize(
    ("table", "of_90", "of_95", "p"),
    [
        ((12, 2, 50), (0.085474, 0.320413), (0.061112, 0.344709), 0.012939),
        ((10, 6, 450), (-0.006205, 0.025120), (-0.009521, 0.028810), 0.454498),
        ((26, 0, 450), (0.042191, 0.078651), (0.039731, 0.083311), 2.980232e-8),
        ((5, 5, 450), (-0.012951, 0.012951), (-0.016067, 0.016067), 1),
        ((0, 0, 200), (-0.013347, 0.013347), (-0.018845, 0.018845), 1),
        ((40, 30, 854), (-0.004482, 0.028227), (-0.007675, 0.031548), 0.281979),
        # XSTest, real labels (METHOD.md 8.5).
        ((36, 16, 450), (0.018567, 0.071766), None, 0.007787),
        ((20, 51, 450), (-0.100252, -0.038893), None, 0.000303),
        ((35, 9, 250), (0.062600, 0.148465), None, None),
    ],
)
def test_tango_limits_and_mcnemar_are_those_of_the_specification(table, of_90, of_95, p):
    assert paired.lower_limit(*table) == pytest.approx(of_90[0], abs=1e-6)
    assert paired.upper_limit(*table) == pytest.approx(of_90[1], abs=1e-6)
    if of_95 is not None:
        assert paired.lower_limit(*table, 0.975) == pytest.approx(of_95[0], abs=1e-6)
        assert paired.upper_limit(*table, 0.975) == pytest.approx(of_95[1], abs=1e-6)
    if p is not None:
        assert paired.mcnemar_p(*table[:2]) == pytest.approx(p, abs=1e-6)


def test_mcnemar_of_a_strong_change_keeps_its_tiny_p():
    assert paired.mcnemar_p(26, 111) == pytest.approx(1.05e-13, rel=1e-2)


def test_over_refusal_of_the_real_models_is_worse_at_five_points_and_open_at_ten():
    assert paired.score(35, 9, 250, 0.05) == pytest.approx(2.139273, abs=1e-6)
    assert paired.score(35, 9, 250, 0.10) == pytest.approx(0.156181, abs=1e-6)
    assert paired.lower_limit(35, 9, 250) < 0.10 < paired.upper_limit(35, 9, 250)


def test_four_instruments_of_the_conflict_example():
    rows = [(80, 20, 854, 0.03), (12, 40, 450, 0.02), (10, 6, 450, 0.05), (5, 5, 200, 0.05)]
    worse = [paired.p_worse(*row) for row in rows]
    better = [paired.p_better(*row) for row in rows]
    assert worse == pytest.approx([0.000151, 1, 0.999735, 0.994516], abs=1e-6)
    assert better == pytest.approx([1, 0.003235, 0.999999, 0.994516], abs=1e-6)
    assert holm(worse)[0] == pytest.approx(0.000605, abs=1e-6)
    assert holm(better)[1] == pytest.approx(0.012941, abs=1e-6)
    weaker = (60, 20, 854, 0.03)
    assert paired.p_worse(*weaker) == pytest.approx(0.048119, abs=1e-6)
    assert holm([paired.p_worse(*weaker), *worse[1:]])[0] == pytest.approx(0.192477, abs=1e-6)
    assert paired.lower_limit(*weaker[:3]) == pytest.approx(0.030186, abs=1e-6)
    assert paired.upper_limit(*weaker[:3]) == pytest.approx(0.064621, abs=1e-6)


def test_without_discordant_probes_the_limit_is_closed_form_and_not_zero():
    z = norm.ppf(0.95)
    assert paired.upper_limit(0, 0, 60) == pytest.approx(z * z / (60 + z * z), abs=1e-12)


@pytest.mark.parametrize(("table", "upper"), [((50, 0, 50), 1.0), ((0, 50, 50), -0.8973336)])
def test_limits_at_the_ends_exist(table, upper):
    assert paired.upper_limit(*table) == pytest.approx(upper, abs=1e-6)


tables = st.integers(1, 1500).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, n - b), st.just(n)))
)


@given(tables)
def test_limits_hold_the_difference_between_them_and_stay_in_range(table):
    b, c, n = table
    lower, upper = paired.lower_limit(b, c, n), paired.upper_limit(b, c, n)
    assert -1 <= lower <= (b - c) / n <= upper <= 1
    assert upper > lower


@given(tables, st.floats(-0.99, 0.99))
def test_swapping_the_arms_turns_every_sign(table, difference):
    b, c, n = table
    assert paired.score(b, c, n, difference) == -paired.score(c, b, n, -difference)
    assert paired.upper_limit(b, c, n) == -paired.lower_limit(c, b, n)
    assert paired.mcnemar_p(b, c) == paired.mcnemar_p(c, b)


@given(tables, st.floats(-0.98, 0.97), st.floats(1e-3, 0.01))
def test_the_score_falls_as_the_difference_grows(table, difference, step):
    b, c, n = table
    assert paired.score(b, c, n, difference + step) <= paired.score(b, c, n, difference) + 1e-9


@given(tables.filter(lambda t: t[0] + t[1] < t[2]))
def test_more_harm_never_lowers_the_upper_limit(table):
    b, c, n = table
    assert paired.upper_limit(b + 1, c, n) >= paired.upper_limit(b, c, n) - 1e-12
    if c:
        assert paired.upper_limit(b, c - 1, n) >= paired.upper_limit(b, c, n) - 1e-12


@given(tables)
def test_the_limit_solves_the_equation_as_another_solver_does(table):
    b, c, n = table
    upper = paired.upper_limit(b, c, n)
    z = norm.ppf(0.95)
    start, end = (b - c) / n, 1 - 1e-12
    if start < 1 and paired.score(b, c, n, max(start, -1 + 1e-12)) > -z > paired.score(b, c, n, end):
        root = brentq(lambda d: paired.score(b, c, n, d) + z, max(start, -1 + 1e-12), end, xtol=1e-13)
        assert upper == pytest.approx(root, abs=1e-9)


@given(tables, st.floats(0.005, 0.5))
def test_p_values_agree_with_the_limits(table, margin):
    p = paired.p_not_worse(*table, margin)
    assert 0 <= p <= 1
    assert p + paired.p_worse(*table, margin) == pytest.approx(1, abs=1e-12)
    if abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == (paired.upper_limit(*table) < margin)
    worse = paired.p_worse(*table, margin)
    if abs(worse - 0.05) > 1e-6:
        assert (worse < 0.05) == (paired.lower_limit(*table) > margin)
    better = paired.p_better(*table, margin)
    if abs(better - 0.05) > 1e-6:
        assert (better < 0.05) == (paired.upper_limit(*table) < -margin)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_that_of_statsmodels(b, c):
    expected = mcnemar([[0, b], [c, 0]], exact=True).pvalue if b + c else 1.0
    assert paired.mcnemar_p(b, c) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ((-1, 0, 10), "only_adapted: expected a whole number of at least 0, got -1"),
        ((0, math.nan, 10), "only_base: expected a whole number of at least 0, got nan"),
        ((6, 5, 10), "expected at most 10 differing probes, got 6"),
        ((0, 0, 0), "probes: expected a whole number of at least 1, got 0"),
    ],
)
def test_tables_that_are_none_are_refused(table, sentence):
    for function in (paired.upper_limit, paired.lower_limit):
        with pytest.raises(ValueError, match=sentence):
            function(*table)


@pytest.mark.parametrize("margin", [0, -0.1, 1, math.nan, 5])
def test_margins_that_are_none_are_refused(margin):
    for function in (paired.p_not_worse, paired.p_worse, paired.p_better):
        with pytest.raises(ValueError, match="margin: expected a number between 0 and 1"):
            function(1, 1, 10, margin)


@pytest.mark.parametrize(
    ("table", "corrected", "limits"),
    [
        ((36, 12, 2, 0), True, (0.056930, 0.340428)),
        ((20, 10, 6, 414), True, (-0.010006, 0.028660)),
        ((20, 10, 6, 414), False, (-0.009494, 0.028186)),
        ((0, 5, 5, 440), True, (-0.016018, 0.016018)),
        ((0, 0, 0, 200), True, (-0.018845, 0.018845)),
    ],
)
def test_newcombe_limits_are_those_of_the_specification(table, corrected, limits):
    assert paired.newcombe_limits(*table, corrected=corrected) == pytest.approx(limits, abs=1e-6)


four_counts = st.tuples(*(st.integers(0, 300),) * 4).filter(lambda cells: sum(cells) > 0)


@given(four_counts, st.floats(0.5, 0.999))
def test_newcombe_is_bounded_antisymmetric_and_around_the_difference(cells, confidence):
    a, b, c, e = cells
    lower, upper = paired.newcombe_limits(a, b, c, e, confidence)
    assert -1 <= lower <= (b - c) / sum(cells) + 1e-12 and (b - c) / sum(cells) - 1e-12 <= upper <= 1
    assert paired.newcombe_limits(a, c, b, e, confidence) == pytest.approx((-upper, -lower), abs=1e-12)
    # Counting good answers instead of bad ones turns the sign as well as the arms: the interval stays.
    assert paired.newcombe_limits(e, c, b, a, confidence) == pytest.approx((-upper, -lower), abs=1e-9)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mid_p_is_the_exact_p_less_the_observed_table(b, c):
    p = paired.mcnemar_midp(b, c)
    assert 0 <= p <= paired.mcnemar_p(b, c) + 1e-12
    assert p == pytest.approx(paired.mcnemar_midp(c, b), abs=1e-12)
    if b + c:
        tail = 2 * binom.cdf(min(b, c), b + c, 0.5) - binom.pmf(min(b, c), b + c, 0.5)
        assert p == pytest.approx(tail, abs=1e-9)


def test_mid_p_without_discordant_probes_is_one():
    assert paired.mcnemar_midp(0, 0) == 1.0


def test_two_sided_tango_limits_are_two_one_sided_ones():
    assert paired.limits(12, 2, 50) == pytest.approx((0.061112, 0.344709), abs=1e-6)


def brute_force(b, c, n, margin):
    """The exact p by listing every table at many shares of discordant probes."""
    observed, most = paired.score(b, c, n, margin), 0.0
    region = [
        (i, j) for i in range(n + 1) for j in range(n + 1 - i) if paired.score(i, j, n, margin) <= observed + 1e-9
    ]
    for step in range(201):
        share = margin + (1 - margin) * step / 200
        pb, pc = (share + margin) / 2, (share - margin) / 2
        rest = max(0.0, 1 - pb - pc)
        most = max(
            most,
            sum(math.comb(n, i) * math.comb(n - i, j) * pb**i * pc**j * rest ** (n - i - j) for i, j in region),
        )
    return most


@pytest.mark.parametrize("margin", [0.05, 0.2])
@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 2), (2, 3), (5, 5), (12, 0), (0, 12)])
def test_the_exact_test_is_that_of_listing_every_table(b, c, margin):
    assert paired.p_not_worse_exact(b, c, 12, margin) == pytest.approx(brute_force(b, c, 12, margin), abs=2e-4)


def test_the_exact_test_without_discordant_probes_counts_at_least_the_table_itself():
    # A form worse by 1.34 points on other probes alone answers alike with a chance of 6.7 %.
    assert paired.upper_limit(0, 0, 200) <= 0.0134
    assert paired.p_not_worse_exact(0, 0, 200, 0.0134) >= 0.9866**200 > 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 150), st.data(), st.sampled_from([0.03, 0.05, 0.1]))
def test_the_exact_test_rises_with_bad_answers_and_falls_with_good_ones(n, data, margin):
    b = data.draw(st.integers(0, n - 1))
    c = data.draw(st.integers(0, n - 1 - b))
    p = paired.p_not_worse_exact(b, c, n, margin)
    assert 0 <= p <= 1
    assert paired.p_not_worse_exact(b + 1, c, n, margin) >= p - 1e-6
    assert paired.p_not_worse_exact(b, c + 1, n, margin) <= p + 1e-6


def test_beyond_three_thousand_probes_a_correction_takes_its_place():
    assert paired.p_not_worse_exact(160, 90, 3001, 0.03) >= paired.p_not_worse(160, 90, 3001, 0.03)
    assert paired.p_not_worse_exact(160, 90, 3000, 0.03) == pytest.approx(
        paired.p_not_worse_exact(160, 90, 3001, 0.03), abs=0.01
    )
