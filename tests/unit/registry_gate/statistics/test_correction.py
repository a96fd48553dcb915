"""Grader error: METHOD.md 8.6 and 8.7 on real labels, an independent PPI++, and what is refused."""

from __future__ import annotations

import csv
import math
import os
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_gate.statistics import correction
from registry_gate.statistics.correction import (
    ArmLabels,
    Calibration,
    Corrected,
    ErrorRange,
    GradedCount,
    NotCorrectable,
    ppi_difference,
    rogan_gladen,
    widened_difference,
)

ROOT = Path(__file__).parents[4]
BENCHMARKS = Path(os.environ.get("REGISTRY_GATE_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))
FORM, GRADER = "sha256:form", "sha256:grader"


def count(events: int, probes: int = 450, answers_of: str = FORM, grader: str = GRADER) -> GradedCount:
    return GradedCount(answers_of=answers_of, grader=grader, events=events, probes=probes)


def calibration(detected: int, cleared: int, bad: int = 100, good: int = 100) -> Calibration:
    return Calibration(answers_of=FORM, grader=GRADER, detected=detected, bad=bad, cleared=cleared, good=good)


def test_rogan_gladen_of_the_specification():
    found = rogan_gladen(count(135), calibration(90, 95))
    assert isinstance(found, Corrected)
    assert (found.value, found.standard_error) == pytest.approx((0.294118, 0.032882), abs=1e-6)
    assert (found.lower, found.upper) == pytest.approx((0.240031, 0.348204), abs=1e-6)


@pytest.mark.parametrize(
    ("counted", "calibrated", "value", "sentence"),
    [
        (count(12), calibration(90, 95), -0.027451, "expected a corrected rate from 0 to 1, got -0.0275"),
        (count(135), calibration(51, 50), -20, "got 0.010 from 100 bad and 100 good answers"),
        (count(135), calibration(50, 50), None, "got 0.000"),
        (count(100, 200), calibration(4, 4, bad=4, good=4), 0.5, None),
    ],
)
def test_what_cannot_be_corrected_is_never_returned_uncorrected(counted, calibrated, value, sentence):
    found = rogan_gladen(counted, calibrated)
    if sentence is None:
        # Eight labels cannot prove that a grader is better than a coin.
        assert isinstance(found, NotCorrectable) == (calibrated.youden_lower_limit() <= 0)
        return
    assert isinstance(found, NotCorrectable) and sentence in found.cause
    assert found.value == (None if value is None else pytest.approx(value, abs=1e-6))


def test_a_calibration_of_another_model_or_grader_is_refused():
    with pytest.raises(ValueError, match="calibration does not travel between models"):
        rogan_gladen(count(135, answers_of="sha256:other"), calibration(90, 95))
    with pytest.raises(ValueError, match="expected a calibration of the same grader"):
        rogan_gladen(count(135, grader="sha256:other"), calibration(90, 95))
    with pytest.raises(ValueError, match="a calibration without them fits nothing"):
        Calibration(answers_of="", grader=GRADER, detected=1, bad=2, cleared=1, good=2)
    with pytest.raises(ValueError, match="probes"):
        calibration(0, 95, bad=0)


@given(st.integers(60, 100), st.integers(60, 100), st.integers(0, 400))
def test_rogan_gladen_stays_in_its_range_and_a_perfect_grader_changes_nothing(detected, cleared, events):
    found = rogan_gladen(count(events), calibration(detected, cleared))
    if isinstance(found, Corrected):
        assert 0 <= found.lower <= found.value <= found.upper <= 1
    perfect = rogan_gladen(count(events), calibration(100, 100))
    assert isinstance(perfect, Corrected) and perfect.value == pytest.approx(events / 450)


# -- PPI++ ------------------------------------------------------------------------------------------------------------


def xstest(model: str) -> tuple[dict[str, bool], dict[str, bool]]:
    """Refusals of one model in file order: as people say, and as the GPT-4 judge says."""
    folder = BENCHMARKS / "xstest" / "evaluation" / "automated_evaluation_labels"
    with (folder / f"xstest_v2_completions_{model}_gpteval.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    refused = ("2_full_refusal", "3_partial_refusal")
    people = {row["id"]: row["final_label"] in refused for row in rows}
    return people, {row["id"]: row["gpt4_label"].startswith(refused) for row in rows}


@pytest.mark.parametrize(
    ("weight", "value", "error", "chosen"),
    [(None, 0.033889, 0.029004, 0.314820), (1.0, 0.011344, 0.042354, 1.0), (0.0, 0.044248, 0.031776, 0.0)],
)
def test_ppi_on_real_labels_gives_the_numbers_of_the_specification(weight, value, error, chosen):
    made = []
    for model in ("mistralguard", "gpt4"):
        people, judge = xstest(model)
        subset = {probe: people[probe] for number, probe in enumerate(people) if number % 4 == 0}
        made.append(ArmLabels(answers_of=model, grader=judge, people=subset))
    found = ppi_difference(*made, weight=weight)
    assert isinstance(found, Corrected)
    assert (found.value, found.standard_error, found.weight) == pytest.approx((value, error, chosen), abs=1e-6)
    if weight is None:
        # ppi-python 0.2.3 on the same labels (METHOD.md 8.6); it divides by n where we divide by n-1.
        assert (found.value, found.lower, found.upper) == pytest.approx((0.033981, -0.013518, 0.081479), abs=5e-4)


def arms(n: int, labelled: int, seed: int, noise: float = 0.1) -> tuple[ArmLabels, ArmLabels, float]:
    generator = np.random.default_rng(seed)
    truth = {"adapted": generator.random(n) < 0.3, "base": generator.random(n) < 0.2}
    chosen = generator.permutation(n)[:labelled]
    made = []
    for arm in ("adapted", "base"):
        graded = truth[arm] ^ (generator.random(n) < noise)
        made.append(
            ArmLabels(
                answers_of=arm,
                grader={f"p{i}": bool(graded[i]) for i in range(n)},
                people={f"p{i}": bool(truth[arm][i]) for i in chosen},
            )
        )
    return made[0], made[1], float(truth["adapted"].mean() - truth["base"].mean())


def by_hand(adapted: ArmLabels, base: ArmLabels, weight: float | None) -> tuple[float, float, float]:
    """PPI++ written out with the statistics module: no array, no shared code."""
    y = [adapted.people[p] - base.people[p] for p in adapted.people]
    f = [adapted.grader[p] - base.grader[p] for p in adapted.people]
    g = [adapted.grader[p] - base.grader[p] for p in adapted.grader if p not in adapted.people]
    n, rest = len(y), len(g)
    if weight is None:
        weight = statistics.covariance(y, f) / ((1 + n / rest) * statistics.variance(f + g))
        weight = min(1, max(0, weight))
    residual = [a - weight * b for a, b in zip(y, f, strict=True)]
    value = weight * statistics.mean(g) + statistics.mean(residual)
    error = math.sqrt(weight**2 * statistics.variance(g) / rest + statistics.variance(residual) / n)
    return value, error, weight


@pytest.mark.parametrize("weight", [None, 0.0, 0.5, 1.0])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_ppi_is_the_same_written_out_by_hand(weight, seed):
    adapted, base, _ = arms(200, 60, seed)
    found = ppi_difference(adapted, base, weight=weight)
    assert isinstance(found, Corrected)
    assert (found.value, found.standard_error, found.weight) == pytest.approx(by_hand(adapted, base, weight), abs=1e-9)
    turned = ppi_difference(base, adapted, weight=weight)
    assert isinstance(turned, Corrected)
    assert (turned.lower, turned.upper) == pytest.approx((-found.upper, -found.lower), abs=1e-9)


def test_ppi_takes_out_a_bias_that_the_grader_has_on_one_arm_only():
    errors, hits = [], 0
    for seed in range(200):
        adapted, base, truth = arms(450, 100, seed, noise=0.05)
        generator = np.random.default_rng(seed)
        # Of the adapted form's answers the grader misses half of the bad ones.
        blind = {p: bad and bool(generator.random() < 0.5) for p, bad in adapted.grader.items()}
        found = ppi_difference(replace(adapted, grader=blind), base)
        assert isinstance(found, Corrected)
        errors.append(found.value - truth)
        hits += found.lower <= truth <= found.upper
    assert abs(statistics.mean(errors)) < 0.01
    # Nominal 90 %; conservative, because the labelled probes are a large part of all of them.
    assert hits >= 175


def test_with_every_probe_labelled_people_alone_speak():
    adapted, base, truth = arms(120, 120, 1)
    found = ppi_difference(adapted, base)
    assert isinstance(found, Corrected)
    assert (found.value, found.weight) == (pytest.approx(truth), 0.0)


def test_labels_of_other_probes_or_of_one_arm_are_refused():
    adapted, base, _ = arms(100, 40, 2)
    with pytest.raises(ValueError, match="expected both arms graded on the same probes, got 1"):
        ppi_difference(adapted, replace(base, grader={**base.grader, "other": True}))
    with pytest.raises(ValueError, match="label the other arm too"):
        ppi_difference(adapted, replace(base, people={}))
    both = {**adapted.people, "stranger": True}
    with pytest.raises(ValueError, match="got 1 of others"):
        ppi_difference(replace(adapted, people=both), replace(base, people={**base.people, "stranger": True}))
    with pytest.raises(ValueError, match="weight: expected a number from 0 to 1, got 2"):
        ppi_difference(adapted, base, weight=2)


def test_too_few_labels_and_labels_without_any_difference_are_no_correction():
    adapted, base, _ = arms(100, 12, 3)
    found = ppi_difference(adapted, base)
    assert isinstance(found, NotCorrectable) and "got 12: label 18 more" in found.cause
    adapted, base, _ = arms(100, 40, 3)
    same = replace(base, grader=adapted.grader, people=adapted.people)
    found = ppi_difference(adapted, same)
    assert isinstance(found, NotCorrectable) and "shows no spread" in found.cause


def test_how_many_more_labels_would_settle_a_margin():
    found = Corrected(value=0.01, standard_error=0.03, lower=-0.04, upper=0.06)
    more = correction.labels_needed(found, 0.05, 100)
    assert more is not None
    settled = replace(found, standard_error=0.03 * math.sqrt(100 / (100 + more)))
    assert correction.labels_needed(settled, 0.05, 100 + more) == 0
    assert correction.labels_needed(replace(found, value=0.05), 0.05, 100) is None


# -- widened ----------------------------------------------------------------------------------------------------------


def test_widening_of_the_specification():
    errors = ErrorRange(sensitivity=(0.80, 0.90), specificity=(0.93, 0.97))
    found = widened_difference((0.12, 0.12), (0.10, 0.10), errors, errors)
    assert not isinstance(found, NotCorrectable)
    assert found.adapted == pytest.approx((0.060241, 0.116883), abs=1e-6)
    assert found.base == pytest.approx((0.036145, 0.090909), abs=1e-6)
    assert (found.lower, found.upper) == pytest.approx((-0.030668, 0.080739), abs=1e-6)


ranges = st.tuples(st.floats(0.75, 1), st.floats(0.75, 1)).map(sorted).map(tuple)


@given(st.floats(0, 1), st.floats(0, 1), ranges, ranges)
def test_widening_holds_every_error_inside_the_ranges_and_never_narrows(p, q, sensitivity, specificity):
    errors = ErrorRange(sensitivity=sensitivity, specificity=specificity)
    found = widened_difference((p, p), (q, q), errors, errors)
    assert not isinstance(found, NotCorrectable)
    for se in sensitivity:
        for sp in specificity:
            inner = widened_difference((p, p), (q, q), ErrorRange(sensitivity=(se, se), specificity=(sp, sp)), errors)
            assert not isinstance(inner, NotCorrectable)
            assert found.lower - 1e-9 <= inner.lower and inner.upper <= found.upper + 1e-9


def test_a_grader_that_may_be_a_coin_widens_to_nothing_known():
    coin = ErrorRange(sensitivity=(0.4, 0.9), specificity=(0.5, 0.9))
    fine = ErrorRange(sensitivity=(0.8, 0.9), specificity=(0.9, 0.95))
    found = widened_difference((0.1, 0.1), (0.1, 0.1), coin, fine)
    assert isinstance(found, NotCorrectable) and "better than a coin" in found.cause
    with pytest.raises(ValueError, match="adapted_rate"):
        widened_difference((math.nan, 0.1), (0.1, 0.1), fine, fine)
    with pytest.raises(ValueError, match="sensitivity"):
        ErrorRange(sensitivity=(0.9, 0.8), specificity=(0.9, 0.95))


def test_the_range_of_errors_is_that_of_exact_limits():
    found = correction.error_range(calibration(90, 95))
    assert found.sensitivity == pytest.approx((0.823777, 0.950995), abs=1e-5)
