"""Limits that rest on people's labels of a random sample: the paired difference by PPI++, and a rate by people alone.

PPI++'s normal limits (`correction.ppi_difference`) are too near where bad answers are rare: a hundred pairs of which
people call two worse would "prove" a margin of 5 points that one form in nine misses. So each part gets limits of its
own, and they are joined by MOVER: `U = D + sqrt((u_r - r)^2 + w^2 (u_f - f)^2)`, with r the mean of `y - w f` on the
labelled pairs, f the graders' difference on the others.

- u_f is Tango's limit.
- u_r is the empirical-likelihood limit of a bounded mean with one more pair added at the worst value, so that a hundred
  pairs without any loss bound it at 3.5 points, a little above the exact 3.0.

The limit used is the farther one of this and of PPI++'s own. Where probes belong together both parts are those of as
many independent probes as tell as much, and they are added up rather than squared, because parts of one cluster move
together.

Source: Angelopoulos, Duchi and Zrnic, PPI++, arXiv:2311.01453; Zou and Donner, Statistics in Medicine 27 (2008) 1693
(MOVER); Owen, Biometrika 75 (1988) 237 (empirical likelihood); METHOD.md 5.7. Error rates: bench_labels.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy.special import betaincinv, ndtr, ndtri

from registry_gate.statistics import clusters, correction, paired
from registry_gate.statistics.counts import share, whole

_STEPS = 44


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Probes that people labelled in both arms, all with one outcome.

    Args:
        people: Bad in the adapted form less bad in the base, as people say: -1, 0 or 1.
        graders: Likewise as the graders say.
        count: How many.
    """

    people: int
    graders: int
    count: int

    def __post_init__(self) -> None:
        if self.people not in (-1, 0, 1) or self.graders not in (-1, 0, 1):
            raise ValueError(f"expected differences of -1, 0 or 1, got {self.people!r} and {self.graders!r}")
        whole("count", self.count, least=1)


@dataclass(frozen=True, kw_only=True)
class PairCluster:
    """Equal clusters of labelled pairs.

    Args:
        count: How many look like this.
        pairs: Labelled pairs in each.
        people: Sum of people's differences in each.
        graders: Sum of the graders'.
    """

    count: int
    pairs: int
    people: int
    graders: int


@dataclass(frozen=True, kw_only=True)
class LabelledDifference:
    """The difference that people would find, with one-sided limits.

    Args:
        value: The difference, adapted less base.
        below: Distance of the lower limit from it.
        above: Distance of the upper limit from it.
        weight: PPI++'s lambda: 0 is people alone, 1 takes the graders at their word and corrects their bias.
        pairs: Labelled pairs.
        confidence: Of each limit alone.
    """

    value: float
    below: float
    above: float
    weight: float
    pairs: int
    confidence: float

    @property
    def lower(self) -> float:
        """Lower limit."""
        return max(-1.0, self.value - self.below)

    @property
    def upper(self) -> float:
        """Upper limit."""
        return min(1.0, self.value + self.above)

    def p_worse(self, margin: float) -> float:
        """p that it is above the margin; below alpha exactly when the lower limit is above it."""
        return self._p(self.value - margin, self.below)

    def p_better(self, margin: float) -> float:
        """p that it is below minus the margin."""
        return self._p(-margin - self.value, self.above)

    def _p(self, beyond: float, half: float) -> float:
        if half == 0:
            return 0.0 if beyond > 0 else 1.0
        return float(ndtr(-beyond * float(ndtri(self.confidence)) / half))


@lru_cache(maxsize=4096)
def difference(
    pairs: tuple[Pairs, ...],
    rest: tuple[int, int, int],
    confidence: float = 0.95,
    *,
    grouped: tuple[PairCluster, ...] = (),
    rest_effect: float = 1.0,
) -> LabelledDifference:
    """PPI++ on the paired difference, with limits that hold for rare events too.

    The labelled probes must be a random sample of all; that cannot be checked here.

    Args:
        pairs: The labelled probes.
        rest: What the graders say of the others: bad in the adapted form alone, in the base alone, probes.
        confidence: Of each limit alone.
        grouped: Clusters of the labelled probes, where probes belong together.
        rest_effect: Design effect of the graders' difference, likewise.

    Raises:
        ValueError: No pair, counts that do not fit, or a number out of its range.
    """
    z = float(ndtri(share("confidence", confidence, low=0.5)))
    n = sum(one.count for one in pairs)
    if n < 1:
        raise ValueError("expected labelled pairs, got none")
    if not (math.isfinite(rest_effect) and rest_effect >= 1):
        raise ValueError(f"rest_effect: expected a finite number of at least 1, got {rest_effect!r}")
    only_adapted, only_base, others = rest
    y = [one.people for one in pairs for _ in range(one.count)]
    f = [one.graders for one in pairs for _ in range(one.count)]
    found = correction.ppi_of_differences(
        y, f, [1] * only_adapted + [-1] * only_base + [0] * (others - only_adapted - only_base)
    )
    w = found.weight
    residual: dict[float, int] = {}
    for one in pairs:
        value = one.people - w * one.graders
        residual[value] = residual.get(value, 0) + one.count
    mean = sum(value * count for value, count in residual.items()) / n
    effect = _effect(residual, w, grouped)

    def half(sign: int) -> float:
        # As many pairs as independent ones would tell as much: where nothing was lost, a root would be too near.
        turned = [(sign * value, count / effect) for value, count in residual.items()]
        own = _mean_upper(turned, 1 + w, z) - sign * mean
        if w == 0:
            return own
        b, c = (only_adapted, only_base) if sign > 0 else (only_base, only_adapted)
        graders = w * math.sqrt(rest_effect) * (paired.upper_limit(b, c, others, confidence) - (b - c) / others)
        # Parts of one cluster are on both sides of the sample, so their errors may add up.
        return own + graders if grouped else math.hypot(own, graders)

    normal = z * found.standard_error * math.sqrt(max(effect, rest_effect if grouped else 1.0))
    return LabelledDifference(
        value=max(-1.0, min(1.0, found.value)),
        below=max(normal, half(-1)),
        above=max(normal, half(1)),
        weight=w,
        pairs=n,
        confidence=confidence,
    )


def rate_limits(events: int, labels: int, confidence: float = 0.95, effect: float = 1.0) -> tuple[float, float]:
    """One-sided exact limits of the rate that people find, at `confidence` each, widened by a design effect.

    Raises:
        ValueError: The counts do not fit, or a number is out of its range.
    """
    if not (math.isfinite(effect) and effect >= 1):
        raise ValueError(f"effect: expected a finite number of at least 1, got {effect!r}")
    # The exact limits for as many independent answers as tell as much; of whole numbers they are those of `rates`.
    k, n = whole("events", events) / effect, whole("labels", labels, least=1) / effect
    level = share("confidence", confidence, low=0.5)
    if k > n:
        raise ValueError(f"expected at most {labels} events, got {events}")
    lower = 0.0 if events == 0 else float(betaincinv(k, n - k + 1, 1 - level))
    upper = 1.0 if events == labels else float(betaincinv(k + 1, n - k, level))
    return lower, upper


def _effect(residual: dict[float, int], weight: float, grouped: Sequence[PairCluster]) -> float:
    """Design effect of the residuals, at least that of clusters which are wholly alike: too few residuals differ from
    0 to estimate a smaller one from them."""
    sizes = [one.pairs for one in grouped for _ in range(one.count)]
    if len(sizes) < 2:
        return 1.0
    sums = [one.people - weight * one.graders for one in grouped for _ in range(one.count)]
    squares = sum(count * value * value for value, count in residual.items())
    return max(alike(sizes), clusters.estimate(sums, sizes, squares).design_effect)


def alike(sizes: Sequence[int]) -> float:
    """Design effect of clusters of these sizes whose members are wholly alike: `sum m^2 / sum m`."""
    return sum(size * size for size in sizes) / sum(sizes)


def _mean_upper(values: Sequence[tuple[float, float]], most: float, z: float) -> float:
    """Upper empirical-likelihood limit of a mean of values up to `most`, with one value of 1 added."""
    data = [*values, (1.0, 1.0)]
    total = sum(count for _, count in data)
    low, high = sum(value * count for value, count in data) / total, most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _evidence_against(data, middle, most) >= z * z / 2:
            high = middle
        else:
            low = middle
    return high


def _evidence_against(data: Sequence[tuple[float, float]], mean: float, most: float) -> float:
    """Least log-likelihood ratio that a mean of at least `mean` costs: `max_t sum log(1 + t (mean - v))`."""
    end = 1 / (most - mean) if most > mean else math.inf
    if math.isinf(end):
        return math.inf

    def slope(t: float) -> float:
        return sum(count * (mean - value) / (1 + t * (mean - value)) for value, count in data)

    t = _falling_root(slope, end * (1 - 1e-12))
    return sum(count * math.log1p(t * (mean - value)) for value, count in data)


def _falling_root(slope: Callable[[float], float], end: float) -> float:
    low, high = 0.0, end
    if slope(end) >= 0:
        return end
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if slope(middle) > 0:
            low = middle
        else:
            high = middle
    return low
