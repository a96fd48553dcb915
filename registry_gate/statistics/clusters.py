"""Probes that belong together (one template, one seed request, one passage) count for less than they are.

Several estimates, and `rate` and `difference` take the wider of all that apply (METHOD.md 5.3):

- cluster-robust: SE = sqrt(G/(G-1) * sum over clusters of (sum of deviations)^2) / n, with a t quantile of G-1 degrees.
  Source: Liang and Zeger, Biometrika 73 (1986) 13; Miller, arXiv:2411.00640. Equals statsmodels OLS on a constant with
  `cov_type="cluster"`.
- effective size (rates): the exact limit at n / design effect probes, which follows the skewness that t ignores.
  Source: Korn and Graubard, Survey Methodology 24 (1998) 193.
- compound: that estimate is blind while few clusters hold an event (none: SE 0). So also: the limit of the share of
  clusters that hold one, as for independent units, times the mean share of bad probes inside such clusters, with one
  further cluster that is bad throughout. Ours; its coverage is in tests/benchmarks/COVERAGE.md.

The percentile bootstrap over clusters is for reports: with few clusters it is narrower than it states.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri, stdtr, stdtrit

from registry_gate.statistics import paired, rates
from registry_gate.statistics.counts import share, whole

BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal clusters: how many there are, and what each of them holds.

    Args:
        probes: Probes in each.
        events: Bad answers of the adapted form in each.
        base_events: Bad answers of the base in each; 0 without a base.
        count: How many clusters look like this.
    """

    probes: int
    events: int
    base_events: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        probes = whole("probes of a cluster", self.probes, least=1)
        whole("clusters", self.count, least=1)
        if whole("events of a cluster", self.events) > probes or whole("base events", self.base_events) > probes:
            raise ValueError(
                f"expected at most {probes} events in a cluster of {probes} probes, got {self.events} and "
                f"{self.base_events} in the base"
            )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over clusters with its cluster-robust uncertainty.

    Args:
        value: Mean over probes.
        standard_error: Cluster-robust.
        clusters: G.
        probes: n.
        design_effect: Squared ratio to the standard error of independent probes; 1 when neither varies.
    """

    value: float
    standard_error: float
    clusters: int
    probes: int
    design_effect: float

    def limits(self, confidence: float = 0.95) -> tuple[float, float]:
        """One-sided limits `value -/+ t SE`, each at this confidence, t of G-1 degrees. Without a floor of its own.

        Raises:
            ValueError: The confidence is none.
        """
        t = float(stdtrit(self.clusters - 1, share("confidence", confidence, low=0.5)))
        return self.value - t * self.standard_error, self.value + t * self.standard_error

    def p_above(self, bound: float) -> float:
        """Small when the true value is above the bound; 0 or 1 when the standard error is 0."""
        if self.standard_error == 0:
            return 0.0 if self.value > bound else 1.0
        return float(stdtr(self.clusters - 1, -(self.value - bound) / self.standard_error))

    def p_below(self, bound: float) -> float:
        """Small when the true value is below the bound; 0 or 1 when the standard error is 0."""
        if self.standard_error == 0:
            return 0.0 if self.value < bound else 1.0
        return float(stdtr(self.clusters - 1, (self.value - bound) / self.standard_error))


def estimate(sums: Sequence[float], sizes: Sequence[int], squares: float | None = None) -> Estimate:
    """The mean and its cluster-robust standard error.

    Args:
        sums: Sum of the values in each cluster.
        sizes: Probes in each cluster.
        squares: Sum of the squared values of all probes, for the design effect; None leaves it at 1.

    Raises:
        ValueError: Fewer than two clusters, sizes that do not fit, or a sum that is not finite.
    """
    total, counts = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    if total.shape != counts.shape or total.ndim != 1 or total.size < 2:
        raise ValueError(f"expected at least two clusters with one size each, got {total.size} and {counts.size}")
    if not np.isfinite(total).all() or not (counts >= 1).all():
        raise ValueError("expected finite sums and clusters of at least one probe, got others")
    n, groups = float(counts.sum()), total.size
    mean = float(total.sum()) / n
    deviations = total - counts * mean
    error = math.sqrt(groups / (groups - 1) * float((deviations**2).sum())) / n
    effect = 1.0
    if squares is not None and n > 1:
        independent = max(squares - n * mean * mean, 0.0) / (n * (n - 1))
        effect = error * error / independent if independent > 0 else 1.0
    return Estimate(value=mean, standard_error=error, clusters=groups, probes=int(n), design_effect=effect)


def of_values(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The same from one value and one cluster name for each probe.

    Raises:
        ValueError: As for `estimate`.
    """
    if len(values) != len(clusters):
        raise ValueError(f"expected one cluster for each of {len(values)} values, got {len(clusters)}")
    sums: dict[Hashable, float] = {}
    sizes: dict[Hashable, int] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
        sizes[cluster] = sizes.get(cluster, 0) + 1
    return estimate(list(sums.values()), list(sizes.values()), sum(value * value for value in values))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """One-sided limits that account for clusters: never narrower than those of independent probes.

    Args:
        lower: Lower limit.
        upper: Upper limit.
        robust: The cluster-robust estimate beside them.
    """

    lower: float
    upper: float
    robust: Estimate


def _expanded(clusters: Sequence[Cluster]) -> tuple[npt.NDArray[np.float64], ...]:
    count = [cluster.count for cluster in clusters]
    return tuple(
        np.repeat(np.asarray(values, dtype=float), count)
        for values in (
            [cluster.probes for cluster in clusters],
            [cluster.events for cluster in clusters],
            [cluster.base_events for cluster in clusters],
        )
    )


def _inside(sizes: npt.NDArray[np.float64], bad: npt.NDArray[np.float64]) -> float:
    """Mean share of bad probes in the clusters that hold one, with one more cluster that is bad throughout.

    In units of the mean size, so that a larger cluster takes more of the probes than its share of clusters: share of
    bad clusters times this is the rate itself, but for the one cluster more.
    """
    held = bad[bad > 0] / sizes.mean()
    return float((held.sum() + 1) / (held.size + 1))


def _effective(found: Estimate, confidence: float) -> tuple[float, float]:
    """Exact one-sided limits at the effective number of probes, `p(1-p)/SE^2` and t instead of z."""
    p = found.value
    if found.standard_error == 0 or not 0 < p < 1:
        # Without spread between clusters there is no size to take; the other limits stand.
        return p, p
    ratio = float(ndtri(confidence) / stdtrit(found.clusters - 1, confidence))
    n = min(float(found.probes), p * (1 - p) / found.standard_error**2 * ratio * ratio)
    return (
        float(betaincinv(p * n, n - p * n + 1, 1 - confidence)),
        float(betaincinv(p * n + 1, n - p * n, confidence)),
    )


def rate(clusters: Sequence[Cluster], confidence: float = 0.95) -> Limits:
    """One-sided limits of the adapted form's rate: the widest of exact, cluster-robust, effective size and compound.

    Args:
        clusters: All of them.
        confidence: One-sided.

    Raises:
        ValueError: Fewer than two clusters, or the confidence is none.
    """
    sizes, events, _ = _expanded(clusters)
    found = estimate(events.tolist(), sizes.astype(int).tolist(), float(events.sum()))
    low, high = found.limits(confidence)
    k, n, groups = int(events.sum()), int(sizes.sum()), sizes.size
    effective = _effective(found, confidence)
    upper = max(
        rates.upper_limit(k, n, confidence),
        high,
        effective[1],
        rates.upper_limit(int((events > 0).sum()), groups, confidence) * _inside(sizes, events),
    )
    lower = min(
        rates.lower_limit(k, n, confidence),
        low,
        effective[0],
        1 - rates.upper_limit(int((events < sizes).sum()), groups, confidence) * _inside(sizes, sizes - events),
    )
    return Limits(lower=max(0.0, lower), upper=min(1.0, upper), robust=found)


def difference(clusters: Sequence[Cluster], only_adapted: int, only_base: int, confidence: float = 0.95) -> Limits:
    """One-sided limits of the paired difference: the wider of Tango's, cluster-robust and compound.

    Args:
        clusters: All of them.
        only_adapted: b, over all probes.
        only_base: c, over all probes.
        confidence: One-sided.

    Raises:
        ValueError: Fewer than two clusters, counts that do not fit them, or the confidence is none.
    """
    sizes, events, base = _expanded(clusters)
    net = events - base
    n, groups = int(sizes.sum()), sizes.size
    if int(net.sum()) != only_adapted - only_base:
        raise ValueError(
            f"expected clusters with a difference of {only_adapted - only_base} events, got {int(net.sum())}"
        )
    found = estimate(net.tolist(), sizes.astype(int).tolist(), float(only_adapted + only_base))
    low, high = found.limits(confidence)
    up, down = int((net > 0).sum()), int((net < 0).sum())
    inside = _inside(sizes, np.abs(net))
    return Limits(
        lower=max(
            -1.0,
            min(
                paired.lower_limit(only_adapted, only_base, n, confidence),
                low,
                paired.lower_limit(up, down, groups, confidence) * inside,
            ),
        ),
        upper=min(
            1.0,
            max(
                paired.upper_limit(only_adapted, only_base, n, confidence),
                high,
                paired.upper_limit(up, down, groups, confidence) * inside,
            ),
        ),
        robust=found,
    )


def bootstrap_limits(
    sums: Sequence[float],
    sizes: Sequence[int],
    confidence: float = 0.95,
    *,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """One-sided percentile limits of the mean, whole clusters drawn with replacement. For reports; not for a pass.

    Args:
        sums: Sum of the values in each cluster.
        sizes: Probes in each cluster.
        confidence: Of each limit.
        draws: Number of resamples.
        seed: Equal seeds give equal limits.

    Raises:
        ValueError: As for `estimate`; or fewer than 1,000 draws.
    """
    estimate(sums, sizes)
    level, draws = share("confidence", confidence, low=0.5), whole("draws", draws, least=1000)
    # In the order of the values, so that the limits do not depend on how clusters are listed.
    order = np.lexsort((np.asarray(sizes), np.asarray(sums)))
    total, counts = np.asarray(sums, dtype=float)[order], np.asarray(sizes, dtype=float)[order]
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    # In blocks: draws x clusters indices at once would take gigabytes for large batteries.
    block = max(1, 2_000_000 // total.size)
    for start in range(0, draws, block):
        chosen = generator.integers(0, total.size, size=(min(block, draws - start), total.size))
        means[start : start + len(chosen)] = total[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    lower, upper = np.quantile(means, [1 - level, level])
    return float(lower), float(upper)
