"""Holm: METHOD.md 8.8 and statsmodels."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from registry_gate.statistics.multiplicity import holm


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),
        ((0.02, 0.02, 0.02), (0.06, 0.06, 0.06)),
        ((0.001, 0.2, 0.9, 0.013, 0.04, 0.5), (0.006, 0.6, 1, 0.065, 0.16, 1)),
        ((), ()),
    ],
)
def test_holm_gives_the_numbers_of_the_specification(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted, abs=1e-9)


p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)  # the oracle is slow
@given(p_lists)
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(tuple(multipletests(p_values, method="holm")[1]), abs=1e-12)


@given(p_lists)
def test_a_test_that_could_not_be_made_never_helps(p_values):
    # 1.0 stands for the missing test: with it in the family nothing gets smaller.
    assert all(with_it >= without for with_it, without in zip(holm([*p_values, 1.0]), holm(p_values), strict=False))


@given(p_lists, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(p_values, random):
    order = list(range(len(p_values)))
    random.shuffle(order)
    shuffled = holm([p_values[i] for i in order])
    assert shuffled == tuple(holm(p_values)[i] for i in order)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, math.inf])
def test_numbers_that_are_no_p_values_are_refused(bad):
    with pytest.raises(ValueError, match="expected p-values from 0 to 1"):
        holm([0.5, bad])
