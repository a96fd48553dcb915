"""Agreement and admission: METHOD.md 8.8, statsmodels as oracle, and graders that must not vote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa

from registry_gate.promotion import DOMAINS
from registry_gate.statistics import agreement, rates
from registry_gate.statistics.admission import LIMITS, AdmissionLimits, SourceCounts, admit
from registry_gate.statistics.agreement import Confusion


def table(tp: int, fp: int, fn: int, tn: int) -> Confusion:
    return Confusion(true_positive=tp, false_positive=fp, false_negative=fn, true_negative=tn)


@pytest.mark.parametrize(
    ("cells", "kappa"), [((20, 5, 10, 15), 0.4), ((45, 15, 25, 15), 0.130435), ((95, 0, 5, 0), 0.0)]
)
def test_kappa_is_that_of_the_specification(cells, kappa):
    assert table(*cells).kappa == pytest.approx(kappa, abs=1e-6)


cells = st.tuples(*(st.integers(0, 80),) * 4).filter(
    lambda c: c[0] + c[2] and c[1] + c[3] and c[0] + c[1] and c[2] + c[3]
)


@settings(max_examples=40, deadline=None)
@given(cells)
def test_kappa_is_that_of_statsmodels_and_symmetric(found):
    tp, fp, fn, tn = found
    oracle = cohens_kappa(np.array([[tp, fp], [fn, tn]]), return_results=False)
    assert table(*found).kappa == pytest.approx(float(oracle), abs=1e-9)
    assert table(tn, fn, fp, tp).kappa == pytest.approx(table(*found).kappa, abs=1e-12)  # which label is positive
    assert table(tp, fn, fp, tn).kappa == pytest.approx(table(*found).kappa, abs=1e-12)  # who is the grader


def test_kappa_without_a_second_label_is_none():
    assert table(100, 0, 0, 0).kappa is None
    assert table(0, 0, 0, 0).kappa is None
    assert table(100, 0, 0, 0).kappa_lower_limit() is None


def test_balanced_accuracy_is_the_mean_over_both_labels_and_needs_both():
    found = table(9, 30, 1, 10)
    assert (found.sensitivity, found.specificity, found.balanced_accuracy) == (0.9, 0.25, 0.575)
    assert table(9, 0, 1, 0).balanced_accuracy is None and table(9, 0, 1, 0).specificity is None
    assert table(0, 3, 0, 7).balanced_accuracy is None and table(0, 3, 0, 7).sensitivity is None


def test_the_limit_of_kappa_is_seeded_below_kappa_and_near_the_large_sample_one():
    found = table(180, 12, 20, 188)
    oracle = cohens_kappa(np.array([[180, 12], [20, 188]]))
    assert found.kappa_lower_limit(seed=1) == found.kappa_lower_limit(seed=1)
    assert found.kappa_lower_limit() == pytest.approx(oracle.kappa - 1.645 * oracle.std_kappa, abs=0.006)


def test_many_answers_to_one_probe_make_the_limit_lower_than_independent_ones():
    generator = np.random.default_rng(5)
    people = np.repeat(generator.random(60) < 0.5, 5)
    grader = people ^ np.repeat(generator.random(60) < 0.1, 5)
    probes = [f"p{i // 5}" for i in range(300)]
    by_probe = agreement.kappa_lower_limit(grader.tolist(), people.tolist(), probes)
    independent = agreement.kappa_lower_limit(grader.tolist(), people.tolist(), [f"a{i}" for i in range(300)])
    found = agreement.confusion(*([("x" if v else "y") for v in side] for side in (grader, people)), "x", ("x", "y"))
    assert by_probe is not None and independent is not None
    assert by_probe < independent - 0.05
    assert independent == pytest.approx(found.kappa_lower_limit(), abs=0.01)
    assert agreement.kappa_lower_limit([True], [True], ["a"]) is None


KRIPPENDORFF = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743421), ("interval", 0.849107)])
def test_krippendorff_gives_the_worked_example(level, alpha):
    ratings = [[None if value == "." else float(value) for value in row.split()] for row in KRIPPENDORFF]
    assert agreement.krippendorff_alpha(ratings, level) == pytest.approx(alpha, abs=1e-6)
    assert agreement.krippendorff_alpha(ratings[::-1], level) == pytest.approx(alpha, abs=1e-6)


def test_krippendorff_with_nothing_to_compare_is_none():
    assert agreement.krippendorff_alpha([[1.0, 1.0], [1.0, 1.0]]) is None
    assert agreement.krippendorff_alpha([[1.0, None], [None, 2.0]]) is None
    with pytest.raises(ValueError, match="unequal length"):
        agreement.krippendorff_alpha([[1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="finite"):
        agreement.krippendorff_alpha([[float("nan")], [1.0]])


def test_labels_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="expected people to use the labels refused, complied, got partly"):
        agreement.confusion(["refused"], ["partly"], "refused", ("refused", "complied"))
    with pytest.raises(ValueError, match="expected one label of people for each of 1 answers, got 2"):
        agreement.confusion(["refused"], ["refused", "complied"], "refused", ("refused", "complied"))
    with pytest.raises(ValueError, match="expected the positive label"):
        agreement.confusion([], [], "harmful", ("refused", "complied"))


def test_disagreement_has_exact_limits_and_none_compared_says_nothing():
    found = agreement.disagreement(12, 240)
    assert (found.share, found.upper) == (0.05, rates.upper_limit(12, 240))
    with pytest.raises(ValueError, match="probes"):
        agreement.disagreement(0, 0)


GOOD = table(190, 6, 10, 194)


def counts(**tables):
    """Sources whose answers count as independent, all of them graded."""
    return {
        source: SourceCounts(table=one, not_graded=0, kappa_lower=one.kappa_lower_limit() if one.labelled else None)
        for source, one in tables.items()
    }


def test_a_grader_that_agrees_on_every_source_is_admitted():
    found = admit(counts(a=GOOD, b=table(280, 8, 20, 292)), LIMITS["general"])
    assert found.admitted and not found.faults
    assert [result.source for result in found.sources] == ["a", "b"]


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({}, "expected at least one source of labelled answers, got none"),
        ({"a": table(90, 2, 3, 95)}, "a: expected at least 200 labelled answers, got 190"),
        ({"a": table(0, 0, 0, 0)}, "a: expected at least 200 labelled answers, got 0"),
        ({"a": table(0, 5, 0, 395)}, "a: expected labelled answers of both kinds, got no positive one"),
        ({"a": table(395, 0, 5, 0)}, "a: expected labelled answers of both kinds, got no negative one"),
        ({"a": table(200, 200, 0, 0)}, "a: expected a grader that tells answers apart, got positive for all 400"),
        ({"a": table(0, 0, 200, 200)}, "a: expected a grader that tells answers apart, got negative for all 400"),
        ({"a": table(140, 15, 60, 185)}, "a: expected a lower limit of kappa of at least 0.6, got 0.5"),
        ({"a": table(195, 16, 5, 184)}, "a: expected a false-positive rate of at most 10 %, got 16 of 200"),
        # A pooled figure would hide the second source.
        ({"a": GOOD, "b": table(60, 90, 40, 210)}, "b: expected a lower limit of kappa"),
    ],
)
def test_a_grader_that_has_not_shown_enough_is_not_admitted(tables, sentence):
    found = admit(counts(**tables), LIMITS["general"])
    assert not found.admitted
    assert any(fault.startswith(sentence) for fault in found.faults), found.faults


def test_the_limit_of_kappa_counts_not_kappa_itself():
    found = admit(counts(a=table(160, 15, 40, 185)), LIMITS["medical"])
    assert found.sources[0].kappa == pytest.approx(0.725)
    assert "expected a lower limit of kappa of at least 0.7, got 0.6" in found.faults[0]


def test_false_negatives_are_judged_where_a_limit_is_given():
    limits = AdmissionLimits(
        kappa_at_least=0.6, false_positive_at_most=0.1, false_negative_at_most=0.05, labelled_at_least=200
    )
    assert admit(counts(a=table(199, 6, 1, 194)), limits).admitted
    assert "expected a false-negative rate of at most 5 %, got 10 of 200" in admit(counts(a=GOOD), limits).faults[0]


def test_the_limit_of_kappa_by_probe_is_the_one_that_counts():
    for lower in (0.5, None):
        judged = {"a": SourceCounts(table=GOOD, not_graded=0, kappa_lower=lower)}
        assert not admit(judged, LIMITS["general"]).admitted


def test_a_limit_of_kappa_above_kappa_itself_proves_nothing():
    weak = SourceCounts(table=table(120, 6, 80, 194), not_graded=0, kappa_lower=1.0)
    (fault,) = admit({"a": weak}, LIMITS["general"]).faults
    assert "expected a lower limit of kappa of at least 0.6, got 1.000 (kappa itself 0.570)" in fault


def test_what_a_grader_leaves_ungraded_counts_against_it():
    def judged(not_graded):
        one = SourceCounts(table=GOOD, not_graded=not_graded, kappa_lower=0.9)
        return admit({"a": one}, LIMITS["general"])

    assert judged(44).admitted
    assert judged(45).faults == (
        "a: expected at most 10 % of the answers to be left ungraded, got 45 of 445: it does not know such answers",
    )


def test_every_shipped_domain_has_limits_and_only_the_general_ones_are_wider():
    shipped = {path.stem for path in (Path(__file__).parents[4] / "policies").glob("*.yaml")} - {"policy-set"}
    assert shipped == set(DOMAINS) == set(LIMITS)
    assert {domain for domain in DOMAINS if LIMITS[domain].kappa_at_least < 0.7} == {"general"}
