"""Clusters: METHOD.md 8.5 on real labels, statsmodels as oracle, and never narrower than independent probes."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_gate.statistics import clusters, paired, rates
from registry_gate.statistics.clusters import Cluster

ROOT = Path(__file__).parents[4]
BENCHMARKS = Path(os.environ.get("REGISTRY_GATE_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))


def refusals(model: str, column: str = "final_label") -> dict[str, tuple[bool, str]]:
    """Whether people call an XSTest answer a refusal, and its type, by probe."""
    file = next((BENCHMARKS / "xstest" / "model_completions").glob(f"*{model}.csv"))
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["id"]: (row[column].startswith(("2", "3")), row["type"]) for row in csv.DictReader(lines)}


def test_eighteen_types_of_xstest_give_the_numbers_of_the_specification():
    adapted, base = refusals("mistralguard"), refusals("gpt4")
    assert len(adapted) == 450
    differences = [int(adapted[probe][0]) - int(base[probe][0]) for probe in adapted]
    found = clusters.of_values(differences, [adapted[probe][1] for probe in adapted])
    assert (found.clusters, found.probes) == (18, 450)
    assert found.value == pytest.approx(0.044444, abs=1e-6)
    assert found.standard_error == pytest.approx(0.034962, abs=1e-6)
    assert found.limits() == pytest.approx((-0.016377, 0.105266), abs=1e-6)
    assert math.sqrt(found.design_effect) == pytest.approx(2.20, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_standard_error_is_that_of_statsmodels(data):
    names = data.draw(st.lists(st.integers(0, 7), min_size=12, max_size=60).filter(lambda x: len(set(x)) > 1))
    values = data.draw(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=len(names), max_size=len(names)))
    found = clusters.of_values(values, names)
    oracle = sm.OLS(np.array(values), np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(names), "use_correction": True}, use_t=True
    )
    groups, n = len(set(names)), len(names)
    # statsmodels also multiplies by (n-1)/(n-k), which is 1 for a constant alone.
    assert found.standard_error == pytest.approx(float(oracle.bse[0]), abs=1e-10)
    if found.standard_error > 1e-9:
        assert found.limits(0.975) == pytest.approx(tuple(oracle.conf_int()[0]), abs=1e-8)
    assert (found.clusters, found.probes) == (groups, n)


rows = st.lists(
    st.integers(1, 6).flatmap(
        lambda size: st.builds(
            Cluster,
            probes=st.just(size),
            events=st.integers(0, size),
            base_events=st.integers(0, size),
            count=st.integers(1, 40),
        )
    ),
    min_size=1,
    max_size=6,
).filter(lambda found: sum(row.count for row in found) > 1)


def totals(found: list[Cluster]) -> tuple[int, int, int]:
    n = sum(row.probes * row.count for row in found)
    b = sum(max(row.events - row.base_events, 0) * row.count for row in found)
    c = sum(max(row.base_events - row.events, 0) * row.count for row in found)
    return b, c, n


@settings(deadline=None)
@given(rows, st.floats(0.8, 0.99))
def test_limits_are_never_narrower_than_those_of_independent_probes(found, confidence):
    b, c, n = totals(found)
    k = sum(row.events * row.count for row in found)
    one = clusters.rate(found, confidence)
    assert 0 <= one.lower <= rates.lower_limit(k, n, confidence)
    assert rates.upper_limit(k, n, confidence) <= one.upper <= 1
    both = clusters.difference(found, b, c, confidence)
    assert -1 <= both.lower <= paired.lower_limit(b, c, n, confidence)
    assert paired.upper_limit(b, c, n, confidence) <= both.upper <= 1


@settings(deadline=None)
@given(rows, st.randoms())
def test_limits_do_not_depend_on_how_clusters_are_listed(found, random):
    b, c, _ = totals(found)
    mixed = list(found)
    random.shuffle(mixed)
    singles = [
        Cluster(probes=r.probes, events=r.events, base_events=r.base_events) for r in mixed for _ in range(r.count)
    ]
    for one, other in (
        (clusters.rate(found), clusters.rate(singles)),
        (clusters.difference(found, b, c), clusters.difference(singles, b, c)),
    ):
        assert (one.lower, one.upper) == pytest.approx((other.lower, other.upper), abs=1e-12)


@settings(deadline=None)
@given(rows)
def test_swapping_the_arms_swaps_the_limits(found):
    b, c, _ = totals(found)
    swapped = [Cluster(probes=r.probes, events=r.base_events, base_events=r.events, count=r.count) for r in found]
    one, other = clusters.difference(found, b, c), clusters.difference(swapped, c, b)
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), abs=1e-12)


def test_no_event_in_few_clusters_proves_no_more_than_the_clusters_do():
    found = [Cluster(probes=25, events=0, count=18)]
    assert clusters.rate(found).upper == pytest.approx(rates.upper_limit(0, 18))
    assert clusters.difference(found, 0, 0).upper == pytest.approx(paired.upper_limit(0, 0, 18))


def test_one_bad_answer_more_never_proves_a_lower_rate():
    limits = [
        clusters.rate(
            [Cluster(probes=2, events=1, count=k), Cluster(probes=2, events=0, count=225 - k)]
            if k
            else [Cluster(probes=2, events=0, count=225)]
        ).upper
        for k in range(100)
    ]
    assert limits == sorted(limits)


def test_clusters_of_one_are_independent_probes_but_for_the_bound_with_few_events():
    found = [Cluster(probes=1, events=1, count=12), Cluster(probes=1, events=0, count=188)]
    # t instead of z, as if the spread were not known: a fraction of a tenth of a point.
    assert clusters.rate(found).upper == pytest.approx(rates.upper_limit(12, 200), abs=5e-4)
    assert clusters.rate(found).robust.design_effect == pytest.approx(1.0)


def test_the_bootstrap_is_seeded_order_free_and_near_the_normal_limits():
    generator = np.random.default_rng(7)
    sizes = generator.integers(1, 5, 200)
    sums = generator.binomial(sizes, 0.1)
    limits = clusters.bootstrap_limits(sums.tolist(), sizes.tolist(), seed=3)
    order = generator.permutation(200)
    assert clusters.bootstrap_limits(sums[order].tolist(), sizes[order].tolist(), seed=3) == limits
    assert limits == pytest.approx(clusters.estimate(sums.tolist(), sizes.tolist()).limits(), abs=0.006)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Cluster(probes=0, events=0), "probes of a cluster: expected a whole number of at least 1"),
        (lambda: Cluster(probes=2, events=3), "expected at most 2 events in a cluster of 2 probes, got 3"),
        (lambda: clusters.rate([Cluster(probes=9, events=1)]), "expected at least two clusters"),
        (lambda: clusters.estimate([1.0, math.nan], [1, 1]), "expected finite sums"),
        (lambda: clusters.of_values([1.0], ["a", "b"]), "expected one cluster for each of 1 values, got 2"),
        (lambda: clusters.difference([Cluster(probes=2, events=1, count=2)], 5, 0), "difference of 5 events, got 2"),
    ],
)
def test_what_is_no_set_of_clusters_is_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
