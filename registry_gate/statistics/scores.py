"""Graded scores (0 to 1, or 1 to 5) instead of yes and no: permutation test and intervals of the mean difference.

Repeats of a probe are averaged first (`mean_per_probe`), so that the probe stays the unit. Not used by the gate's
rules, which read counts; for studies and instruments that score. METHOD.md 5.2.

Source: Fisher, The Design of Experiments (1935) section 21 for the sign-flip test; Phipson and Smyth, Statistical
Applications in Genetics and Molecular Biology 9 (2010) 39 for (b+1)/(m+1); Efron, Journal of the American Statistical
Association 82 (1987) 171 for BCa. Checked against scipy.stats.permutation_test and scipy.stats.bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from registry_gate.statistics import clusters as clustered
from registry_gate.statistics.counts import share, whole

EXACT_UP_TO = 14
"""Up to so many units all 2^n sign patterns are tried."""

DRAWS = 10_000

_TIE = 1e-12
"""Sums that differ by less than this share of their size are equal: rounding must not decide a tie."""

Alternative = Literal["two-sided", "worse", "better"]


def mean_per_probe(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each probe's repeats.

    Raises:
        ValueError: A probe without a score, or a score that is not finite; the sentence names the probe.
    """
    means = {}
    for probe, scores in samples.items():
        if not scores:
            raise ValueError(f"probe {probe!r}: expected at least one score, got none")
        for score in scores:
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise ValueError(f"probe {probe!r}: expected finite scores, got {score!r}")
        means[probe] = math.fsum(scores) / len(scores)
    return means


def paired_differences(adapted: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Adapted minus base for each probe, repeats averaged first.

    Raises:
        ValueError: The two arms have other probes or another number of repeats, or a score is none.
    """
    if adapted.keys() != base.keys():
        only_adapted, only_base = len(adapted.keys() - base.keys()), len(base.keys() - adapted.keys())
        raise ValueError(
            f"expected both arms on the same probes, got {only_adapted} that only the adapted form answered and "
            f"{only_base} that only the base answered: put the same probes to both"
        )
    for probe in adapted:
        if len(adapted[probe]) != len(base[probe]):
            raise ValueError(
                f"probe {probe!r}: expected as many repeats in both arms, got {len(adapted[probe])} and "
                f"{len(base[probe])}: use the same settings for both"
            )
    first, second = mean_per_probe(adapted), mean_per_probe(base)
    return {probe: first[probe] - second[probe] for probe in sorted(first)}


@dataclass(frozen=True, kw_only=True)
class FlipTest:
    """Result of a sign-flip test.

    Args:
        p: The p-value.
        exact: Whether all sign patterns were tried.
        units: Probes or clusters that were flipped as one.
    """

    p: float
    exact: bool
    units: int


def sign_flip(
    differences: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    shift: float = 0.0,
    alternative: Alternative = "two-sided",
    draws: int = DRAWS,
    seed: int = 0,
) -> FlipTest:
    """Paired permutation test: under no change each unit's difference might as well have the other sign.

    All 2^n patterns for up to 14 units; else seeded Monte Carlo with p = (b+1)/(m+1), which is never 0 and keeps its
    level. A whole cluster is flipped as one. With `shift` the hypothesis is "the mean is `shift`" for differences that
    are symmetric around it.

    Args:
        differences: Adapted minus base, one for each probe.
        clusters: One name for each probe; None when probes are independent.
        shift: Subtracted from every difference first.
        alternative: `worse` looks for a mean above the shift, `better` below it.
        draws: m.
        seed: Equal seeds give equal p.

    Raises:
        ValueError: No difference, one that is not finite, or clusters that do not fit.
    """
    values = _finite(differences) - shift
    sums = values if clusters is None else _sums(values, clusters)[0]
    # Sorted, so that the order in which probes are listed does not change a Monte Carlo p.
    sums = np.sort(sums)
    observed = float(sums.sum())
    tie = _TIE * float(np.abs(sums).sum())
    if sums.size <= EXACT_UP_TO:
        patterns = np.arange(2**sums.size)[:, None] >> np.arange(sums.size) & 1
        flipped = (1 - 2 * patterns) @ sums
        return FlipTest(p=float(_as_extreme(flipped, observed, tie, alternative).mean()), exact=True, units=sums.size)
    draws = whole("draws", draws, least=1000)
    generator = np.random.default_rng(seed)
    hits = 0
    block = max(1, 2_000_000 // sums.size)
    for start in range(0, draws, block):
        signs = generator.integers(0, 2, size=(min(block, draws - start), sums.size), dtype=np.int8) * 2 - 1
        hits += int(_as_extreme(signs @ sums, observed, tie, alternative).sum())
    return FlipTest(p=(hits + 1) / (draws + 1), exact=False, units=sums.size)


def _as_extreme(
    sums: npt.NDArray[np.float64], observed: float, tie: float, alternative: Alternative
) -> npt.NDArray[np.bool_]:
    match alternative:
        case "worse":
            return np.asarray(sums >= observed - tie)
        case "better":
            return np.asarray(sums <= observed + tie)
        case "two-sided":
            return np.asarray(np.abs(sums) >= abs(observed) - tie)


@dataclass(frozen=True, kw_only=True)
class MeanDifference:
    """Mean of paired differences with two one-sided limits.

    Args:
        value: The mean over probes.
        lower: Lower limit.
        upper: Upper limit.
        standard_error: Of the mean, cluster-robust where there are clusters.
        probes: n.
        units: Independent units: clusters, or probes.
        method: `t`, `bca`, or `degenerate` when all differences are equal and no interval says anything.
    """

    value: float
    lower: float
    upper: float
    standard_error: float
    probes: int
    units: int
    method: Literal["t", "bca", "degenerate"]


def mean_limits(
    differences: Sequence[float], clusters: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> MeanDifference:
    """Limits of the mean by t, cluster-robust where there are clusters.

    Args:
        differences: Adapted minus base, one for each probe.
        clusters: One name for each probe; None when probes are independent.
        confidence: Of each limit.

    Returns:
        With `degenerate`, an infinite interval, when all differences are equal or there is one unit alone: no spread
        was seen, which is no proof that there is none.

    Raises:
        ValueError: No difference, one that is not finite, or clusters that do not fit.
    """
    values = _finite(differences)
    share("confidence", confidence, low=0.5)
    names: Sequence[Hashable] = list(range(values.size)) if clusters is None else clusters
    if len(set(names)) < 2 and len(names) == values.size:
        return _degenerate(values, len(set(names)))
    found = clustered.of_values(values.tolist(), names)
    if found.standard_error <= _TIE * float(np.abs(values).max()):
        return _degenerate(values, found.clusters)
    lower, upper = found.limits(confidence)
    return MeanDifference(
        value=found.value,
        lower=lower,
        upper=upper,
        standard_error=found.standard_error,
        probes=values.size,
        units=found.clusters,
        method="t",
    )


def bca_limits(
    differences: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> MeanDifference:
    """Limits of the mean by the BCa bootstrap (`scipy.stats.bootstrap`), whole clusters drawn where there are some.

    Args, Returns and Raises as for `mean_limits`; equal seeds give equal limits.
    """
    # Here, because scipy.stats takes a second to load and nothing else of this package needs it.
    from scipy.stats import bootstrap

    plain = mean_limits(differences, clusters, confidence)
    if plain.method == "degenerate":
        return plain
    values = _finite(differences)
    sums, sizes = (values, np.ones(values.size)) if clusters is None else _sums(values, clusters)
    order = np.lexsort((sizes, sums))

    def mean(total: npt.NDArray[np.float64], count: npt.NDArray[np.float64], axis: int = -1) -> npt.NDArray[np.float64]:
        return np.asarray(total.sum(axis=axis) / count.sum(axis=axis))

    interval = bootstrap(
        (sums[order], sizes[order]),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=whole("draws", draws, least=1000),
        batch=max(1, 2_000_000 // sums.size),
        # scipy's level is two-sided; each of our limits has its own.
        confidence_level=2 * confidence - 1,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return MeanDifference(
        value=plain.value,
        lower=float(interval.low),
        upper=float(interval.high),
        standard_error=plain.standard_error,
        probes=plain.probes,
        units=plain.units,
        method="bca",
    )


def _degenerate(values: npt.NDArray[np.float64], units: int) -> MeanDifference:
    return MeanDifference(
        value=float(values.mean()),
        lower=-math.inf,
        upper=math.inf,
        standard_error=0.0,
        probes=values.size,
        units=units,
        method="degenerate",
    )


def _finite(differences: Sequence[float]) -> npt.NDArray[np.float64]:
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"expected at least one difference, got {values.size}")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite differences, got {int((~np.isfinite(values)).sum())} that are not")
    return values


def _sums(
    values: npt.NDArray[np.float64], clusters: Sequence[Hashable]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if len(clusters) != values.size:
        raise ValueError(f"expected one cluster for each of {values.size} differences, got {len(clusters)}")
    sums: dict[Hashable, float] = {}
    sizes: dict[Hashable, int] = {}
    for value, cluster in zip(values.tolist(), clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
        sizes[cluster] = sizes.get(cluster, 0) + 1
    return np.asarray(list(sums.values())), np.asarray(list(sizes.values()), dtype=float)
