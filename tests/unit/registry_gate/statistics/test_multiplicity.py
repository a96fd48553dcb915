"""Holm, Benjamini-Hochberg, all-must-pass and mixed signs: METHOD.md 8.8 and statsmodels."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from registry_gate.statistics.multiplicity import (
    benjamini_hochberg,
    holm,
    intersection_union,
    mixed_sign_null,
    mixed_signs,
)


@pytest.fixture(scope="module", autouse=True)
def _quick_oracle() -> Iterator[None]:
    """Statsmodels collects memory at every call, which takes seconds beside everything that other tests loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda: 0)
        yield


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


def test_benjamini_hochberg_of_the_specification():
    assert benjamini_hochberg((0.02, 0.02, 0.02)) == pytest.approx((0.02, 0.02, 0.02))


@settings(max_examples=30, deadline=None)  # the oracle is slow
@given(p_lists)
def test_benjamini_hochberg_is_that_of_statsmodels_and_never_above_holm(p_values):
    adjusted = benjamini_hochberg(p_values)
    assert adjusted == pytest.approx(tuple(multipletests(p_values, method="fdr_bh")[1]), abs=1e-12)
    assert all(bh <= h + 1e-12 for bh, h in zip(adjusted, holm(p_values), strict=True))


@given(p_lists, st.randoms())
def test_corrections_do_not_depend_on_the_order(p_values, random):
    order = list(range(len(p_values)))
    random.shuffle(order)
    for correct in (holm, benjamini_hochberg):
        plain, mixed = correct(p_values), correct([p_values[i] for i in order])
        assert [mixed[order.index(i)] for i in range(len(order))] == pytest.approx(plain, abs=1e-15)


def test_all_must_pass_is_as_sure_as_the_least_sure_test():
    assert intersection_union([0.01, 0.04, 0.02]) == 0.04
    assert intersection_union([0.01, 1.0]) == 1.0  # one that could not be made
    assert intersection_union([]) == 1.0


def test_null_of_mixed_signs_is_that_of_the_specification():
    assert [mixed_sign_null(k) for k in range(2, 8)] == [0.5, 0.75, 0.875, 0.9375, 0.96875, 0.984375]
    assert mixed_sign_null(1) == 0


def test_mixed_signs_are_counted_beside_their_null():
    found = mixed_signs([0.1, -0.2, 0.0, 0.01])
    assert (found.worse, found.better, found.unmoved, found.mixed, found.null) == (2, 1, 1, True, 0.875)
    assert "87.5 %" in str(found)
    assert not mixed_signs([0.1, 0.0]).mixed


@pytest.mark.parametrize("differences", [[], [0.1, math.nan], [math.inf]])
def test_no_differences_or_ones_that_are_not_finite_have_no_signs(differences):
    with pytest.raises(ValueError, match="expected"):
        mixed_signs(differences)
