"""Graded scores: scipy as oracle for the permutation test and the bootstrap; repeats and arms that do not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, permutation_test

from registry_gate.statistics import paired, scores

OF_SCIPY = {"two-sided": "two-sided", "worse": "greater", "better": "less"}

few = st.lists(st.integers(-8, 8).map(lambda x: x / 4), min_size=2, max_size=9)


@pytest.mark.parametrize("alternative", OF_SCIPY)
@settings(max_examples=25, deadline=None)
@given(values=few)
def test_the_exact_test_is_that_of_scipy(alternative, values):
    found = scores.sign_flip(values, alternative=alternative)
    oracle = permutation_test(
        (np.array(values),), np.sum, permutation_type="samples", alternative=OF_SCIPY[alternative], n_resamples=np.inf
    )
    assert found.exact
    # Two-sided, scipy doubles the smaller tail; ours counts sums as far from 0 on either side. Flips are symmetric.
    assert found.p == pytest.approx(min(1.0, oracle.pvalue), abs=1e-9)


def test_of_yes_and_no_the_exact_test_is_mcnemar():
    assert scores.sign_flip([1] * 9 + [-1] * 3).p == pytest.approx(paired.mcnemar_p(9, 3), abs=1e-12)
    assert scores.sign_flip([1] * 9 + [-1] * 3).p == pytest.approx(binomtest(3, 12).pvalue, abs=1e-12)


def test_monte_carlo_is_seeded_order_free_never_zero_and_near_the_exact_p():
    values = [1] * 36 + [-1] * 16 + [0] * 398
    found = scores.sign_flip(values, seed=5)
    assert (found.exact, found.units) == (False, 450)
    assert found.p == scores.sign_flip(values[::-1], seed=5).p
    assert found.p == pytest.approx(0.007787, abs=0.003)
    assert scores.sign_flip([1.0] * 450, draws=1000).p == pytest.approx(1 / 1001)


def test_a_shift_asks_whether_the_mean_is_beyond_it():
    values = np.random.default_rng(1).normal(0.2, 1, 400)
    assert scores.sign_flip(values.tolist(), alternative="worse").p < 0.01
    assert scores.sign_flip(values.tolist(), shift=0.4, alternative="worse").p > 0.9
    assert scores.sign_flip(values.tolist(), shift=0.4, alternative="better").p < 0.01


@settings(max_examples=50, deadline=None)
@given(few)
def test_turning_all_signs_turns_the_alternative(values):
    turned = [-value for value in values]
    assert scores.sign_flip(values, alternative="worse").p == scores.sign_flip(turned, alternative="better").p
    assert scores.sign_flip(values).p == scores.sign_flip(turned).p
    assert 0 < scores.sign_flip(values).p <= 1


def test_a_cluster_flips_as_one():
    # Ten equal answers to one request are one observation, not ten.
    found = scores.sign_flip([1.0] * 10, ["a"] * 10)
    assert (found.p, found.units) == (1.0, 1)
    assert scores.sign_flip([1.0] * 10).p == pytest.approx(2 / 1024)


def test_bca_limits_are_those_of_scipy():
    values = np.random.default_rng(3).exponential(1, 120) - 0.7
    found = scores.bca_limits(values.tolist(), draws=4000, seed=11)
    oracle = bootstrap(
        (np.sort(values),), np.mean, confidence_level=0.9, n_resamples=4000, rng=np.random.default_rng(11)
    ).confidence_interval
    assert (found.lower, found.upper) == pytest.approx((oracle.low, oracle.high), abs=0.01)
    plain = scores.mean_limits(values.tolist())
    assert found.upper - found.value > plain.value - plain.lower  # skewed to the right, as the data are
    clustered = scores.bca_limits(np.repeat(values, 3).tolist(), [i // 3 for i in range(360)], draws=4000, seed=11)
    assert (clustered.lower, clustered.upper) == pytest.approx((found.lower, found.upper), abs=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40), st.floats(0.6, 0.99))
def test_limits_of_the_mean_are_around_it_and_antisymmetric(values, confidence):
    found = scores.mean_limits(values, confidence=confidence)
    turned = scores.mean_limits([-value for value in values], confidence=confidence)
    assert found.lower <= found.value <= found.upper
    assert (turned.lower, turned.upper) == pytest.approx((-found.upper, -found.lower), abs=1e-9)


@pytest.mark.parametrize(
    ("values", "clusters", "units"),
    [([0.5], None, 1), ([0.25] * 50, None, 50), ([0.0] * 50, None, 50), ([0.1, 0.9], ["a", "a"], 1)],
)
def test_without_spread_or_with_one_unit_no_limit_says_anything(values, clusters, units):
    for limits in (scores.mean_limits, scores.bca_limits):
        found = limits(values, clusters)
        assert (found.method, found.units, found.lower, found.upper) == ("degenerate", units, -math.inf, math.inf)


def test_repeats_are_averaged_before_anything_else():
    adapted = {"p1": [1.0, 0.0, 1.0], "p2": [0.0, 0.0, 0.0]}
    base = {"p2": [1.0, 1.0, 0.0], "p1": [0.0, 0.0, 0.0]}
    assert scores.paired_differences(adapted, base) == pytest.approx({"p1": 2 / 3, "p2": -2 / 3})


@pytest.mark.parametrize(
    ("adapted", "base", "message"),
    [
        ({"a": [1.0]}, {"b": [1.0]}, "expected both arms on the same probes, got 1 .* and 1 "),
        ({"a": [1.0, 0.0]}, {"a": [1.0]}, "probe 'a': expected as many repeats in both arms, got 2 and 1"),
        ({"a": [math.nan]}, {"a": [1.0]}, "probe 'a': expected finite scores, got nan"),
        ({"a": [1.0]}, {"a": [math.inf]}, "probe 'a': expected finite scores, got inf"),
        ({"a": []}, {"a": []}, "probe 'a': expected at least one score, got none"),
        ({"a": [True]}, {"a": [1.0]}, "probe 'a': expected finite scores, got True"),
    ],
)
def test_arms_that_do_not_fit_and_scores_that_are_none_are_refused(adapted, base, message):
    with pytest.raises(ValueError, match=message):
        scores.paired_differences(adapted, base)


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf]])
def test_differences_that_are_none_are_refused(values):
    for call in (scores.sign_flip, scores.mean_limits, scores.bca_limits):
        with pytest.raises(ValueError, match="expected"):
            call(values)


def test_clusters_must_fit():
    with pytest.raises(ValueError, match="expected one cluster for each of 2 differences, got 1"):
        scores.sign_flip([1.0, 0.0], ["a"])
