"""The adapted form against its base on the same probes: score limits, exact McNemar, non-inferiority.

Notation of METHOD.md 5.2: of n probes, b are bad in the adapted form alone, c in the base alone; the difference is
(b-c)/n, positive is worse. Samples are paired, so limits for independent samples would be wrong here.

Source: Tango, Statistics in Medicine 17 (1998) 891 for the score statistic; McNemar, Psychometrika 12 (1947) 153 with
the exact binomial tail; Newcombe, Statistics in Medicine 17 (1998) 2635, method 10; Fagerland, Lydersen and Laake, BMC
Medical Research Methodology 13 (2013) 91 for the mid-p; Hsueh, Liu and Chen, Biometrics 57 (2001) 478 for the exact
unconditional test. Checked against METHOD.md 8.4, 8.5, 8.10 and statsmodels.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, gammaln, ndtr, ndtri, xlog1py, xlogy

from registry_gate.statistics import rates
from registry_gate.statistics.counts import share, whole


def _table(only_adapted: int, only_base: int, probes: int) -> tuple[int, int, int]:
    probes = whole("probes", probes, least=1)
    only_adapted = whole("only_adapted", only_adapted)
    only_base = whole("only_base", only_base)
    if only_adapted + only_base > probes:
        raise ValueError(f"expected at most {probes} differing probes, got {only_adapted} + {only_base}")
    return only_adapted, only_base, probes


def score(only_adapted: int, only_base: int, probes: int, difference: float) -> float:
    """Tango's score statistic z(d) for the hypothesis that the true difference is d. Falls as d grows.

    With A = 2n, B = -b-c+(2n-b+c)d, D = -c*d(1-d) and q = (sqrt(B^2-4AD)-B)/(2A), the probability of "base alone" that
    fits best under the hypothesis: z(d) = (b-c-nd) / sqrt(n(2q+d(1-d))).

    Args:
        only_adapted: b.
        only_base: c.
        probes: n.
        difference: d, strictly between -1 and 1.

    Raises:
        ValueError: The counts or the difference are none.
    """
    b, c, n = _table(only_adapted, only_base, probes)
    return _score(b, c, n, share("difference", difference, low=-1.0))


def _score(b: int, c: int, n: int, d: float) -> float:
    if d < 0:
        # Swapping the arms turns the sign of everything; using it keeps both sides equal to the last digit.
        return -_score(c, b, n, -d)
    if b == 0 and c == 0:
        return -math.sqrt(n * d / (1 - d))
    term_b = -b - c + (2 * n - b + c) * d
    root = math.sqrt(max(term_b * term_b + 8 * n * c * d * (1 - d), 0.0))
    # For a positive B the plain formula subtracts nearly equal numbers; this is the same root, multiplied out.
    q = 2 * c * d * (1 - d) / (root + term_b) if term_b > 0 else (root - term_b) / (4 * n)
    variance = n * (2 * q + d * (1 - d))
    if variance <= 0:
        return 0.0 if b == c else math.copysign(math.inf, b - c - n * d)
    return (b - c - n * d) / math.sqrt(variance)


def upper_limit(only_adapted: int, only_base: int, probes: int, confidence: float = 0.95) -> float:
    """One-sided upper score limit of the difference: the d with z(d) = -z. Never 0 without discordant probes.

    With b = c = 0 it is z^2/(n+z^2). The two-sided 90 % interval has the same limit as the one-sided 95 % one.

    Args:
        only_adapted: b.
        only_base: c.
        probes: n.
        confidence: One-sided.

    Raises:
        ValueError: The counts or the confidence are none.
    """
    b, c, n = _table(only_adapted, only_base, probes)
    z = float(ndtri(share("confidence", confidence, low=0.5)))
    if b == 0 and c == 0:
        return z * z / (n + z * z)
    low, high = (b - c) / n, 1.0
    # Bisection, because z(d) falls strictly but has no slope to trust at the ends; 60 halvings reach the last digit.
    # The upper end of the bracket is returned: rounding may make the limit wider, never narrower.
    for _ in range(60):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if _score(b, c, n, middle) > -z:
            low = middle
        else:
            high = middle
    return high


def lower_limit(only_adapted: int, only_base: int, probes: int, confidence: float = 0.95) -> float:
    """One-sided lower score limit of the difference. Args and Raises as for `upper_limit`."""
    # Checked before the arms are swapped, so that a refusal names the count that was given.
    b, c, n = _table(only_adapted, only_base, probes)
    return -upper_limit(c, b, n, confidence)


def limits(only_adapted: int, only_base: int, probes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's two-sided interval: both one-sided limits at `(1+confidence)/2`.

    Args and Raises as for `upper_limit`, except that `confidence` is that of the interval.
    """
    level = (1 + share("confidence", confidence)) / 2
    return (
        lower_limit(only_adapted, only_base, probes, level),
        upper_limit(only_adapted, only_base, probes, level),
    )


def newcombe_limits(
    both: int,
    only_adapted: int,
    only_base: int,
    neither: int,
    confidence: float = 0.95,
    *,
    corrected: bool = True,
) -> tuple[float, float]:
    """Newcombe's square-and-add interval of the difference (method 10), a cross-check of Tango's; no rule rests on it.

    With Wilson's limits (l1, u1) of p1 = (a+b)/n and (l2, u2) of p2 = (a+c)/n, and phi the correlation of the table
    (its numerator m = ae-bc replaced by max(m - n/2, 0) when positive; 0 when a margin is empty):
    `L = D - sqrt((p1-l1)^2 - 2 phi (p1-l1)(u2-p2) + (u2-p2)^2)`, `U = D + sqrt((u1-p1)^2 - 2 phi (u1-p1)(p2-l2) +
    (p2-l2)^2)`.

    Args:
        both: a, bad in both arms.
        only_adapted: b.
        only_base: c.
        neither: e.
        confidence: Of the interval.
        corrected: False leaves the continuity correction of phi out.

    Raises:
        ValueError: A count or the confidence is none, or all counts are 0.
    """
    a, b = whole("both", both), whole("only_adapted", only_adapted)
    c, e = whole("only_base", only_base), whole("neither", neither)
    n = whole("probes", a + b + c + e, least=1)
    p1, p2 = (a + b) / n, (a + c) / n
    lower1, upper1 = rates.wilson_limits(a + b, n, confidence)
    lower2, upper2 = rates.wilson_limits(a + c, n, confidence)
    product = (a + b) * (c + e) * (a + c) * (b + e)
    m = float(a * e - b * c)
    if corrected and m > 0:
        m = max(m - n / 2, 0.0)
    phi = m / math.sqrt(product) if product else 0.0

    def half(near: float, far: float) -> float:
        # Rounding may push a sum that is 0 for phi = 1 just below it.
        return math.sqrt(max(near * near - 2 * phi * near * far + far * far, 0.0))

    difference = (b - c) / n
    return (
        max(-1.0, difference - half(p1 - lower1, upper2 - p2)),
        min(1.0, difference + half(upper1 - p1, p2 - lower2)),
    )


def mcnemar_midp(only_adapted: int, only_base: int) -> float:
    """Mid-p McNemar: `2 P(X <= min(b, c)) - P(X = min(b, c))`. Closer to its level than the exact p, not bounded by it.

    Raises:
        ValueError: A count is none.
    """
    b, c = whole("only_adapted", only_adapted), whole("only_base", only_base)
    if b == c:
        return 1.0
    n, k = b + c, min(b, c)
    observed = math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
    return max(0.0, mcnemar_p(b, c) - observed)


def mcnemar_p(only_adapted: int, only_base: int) -> float:
    """Exact two-sided McNemar p: `min(1, 2 P(X <= min(b, c) | b+c, 1/2))`. A large one is no proof of sameness.

    Raises:
        ValueError: A count is none.
    """
    b, c = whole("only_adapted", only_adapted), whole("only_base", only_base)
    return 1.0 if b == c else min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))


def p_not_worse(only_adapted: int, only_base: int, probes: int, margin: float) -> float:
    """Non-inferiority p: `Phi(z(margin))`. Small means: the difference is below the margin.

    Raises:
        ValueError: The counts are none, or the margin is not between 0 and 1.
    """
    return float(ndtr(score(only_adapted, only_base, probes, share("margin", margin))))


EXACT_UP_TO = 3_000
"""Probes up to which `p_not_worse_exact` is computed; beyond, a continuity correction does as well."""


@lru_cache(maxsize=4096)
def p_not_worse_exact(only_adapted: int, only_base: int, probes: int, margin: float) -> float:
    """Exact unconditional p of non-inferiority: for a pass, because Tango's score test alone exceeds its level.

    The score z(margin) is the statistic; p is the probability of one as small or smaller when the difference is the
    margin itself, at the least favourable share of discordant probes. With n = 120, 5 % discordance and a margin of 5
    points, say, the score test lets 5.75 % pass that should be at most 5 % (tests/benchmarks/COVERAGE.md). Beyond
    3,000 probes: the score test with `b - c` raised by one.

    Args:
        only_adapted: b.
        only_base: c.
        probes: n.
        margin: Margin of the rule.

    Raises:
        ValueError: The counts are none, or the margin is not between 0 and 1.
    """
    b, c, n = _table(only_adapted, only_base, probes)
    margin = share("margin", margin)
    observed = _score(b, c, n, margin)
    if n > EXACT_UP_TO:
        # The variance of the observed table, the numerator of the next worse one.
        shift = 0.0 if b - c == n * margin else observed / (b - c - n * margin)
        return float(ndtr(observed + shift))
    # (1) For each number of "base alone" the most "adapted alone" whose score is no larger: z rises with b.
    of_base = np.arange(n + 1)
    low, high = np.full(n + 1, -1), n - of_base
    limit = observed + 1e-9 * max(1.0, abs(observed))
    while (low < high).any():
        middle = (low + high + 1) // 2
        inside = _scores(middle, of_base, n, margin) <= limit
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    # (2) The probability of all of them at every share of discordant probes that the margin allows; then once more
    # around the largest.
    shares = margin + (1 - margin) * np.linspace(0, 1, 33) ** 2
    found = _region(low, of_base, n, margin, shares)
    at = int(np.argmax(found))
    finer = np.linspace(shares[max(at - 1, 0)], shares[min(at + 1, shares.size - 1)], 17)
    return min(1.0, float(max(found.max(), _region(low, of_base, n, margin, finer).max())))


def _scores(b: npt.NDArray[np.int64], c: npt.NDArray[np.int64], n: int, d: float) -> npt.NDArray[np.float64]:
    """`_score` of many tables at one positive difference; b may be -1 in a search, taken as 0."""
    b = np.maximum(b, 0)
    term_b = -b - c + (2 * n - b + c) * d
    root = np.sqrt(np.maximum(term_b * term_b + 8 * n * c * d * (1 - d), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(term_b > 0, 2 * c * d * (1 - d) / (root + term_b), (root - term_b) / (4 * n))
        scores = (b - c - n * d) / np.sqrt(n * (2 * q + d * (1 - d)))
    return np.asarray(np.where((b == 0) & (c == 0), -math.sqrt(n * d / (1 - d)), scores))


def _region(
    most: npt.NDArray[np.int64], c: npt.NDArray[np.int64], n: int, margin: float, shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Probability that b <= most[c], for each share of discordant probes, when the difference is the margin."""
    p_b, p_c = (shares + margin) / 2, np.maximum((shares - margin) / 2, 0.0)
    logs = (
        (gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1))[None, :]
        + xlogy(c[None, :], p_c[:, None])
        + xlog1py((n - c)[None, :], -p_c[:, None])
    )
    # What is left out is below 1e-10 in all.
    row, column = np.nonzero((logs > -30) & (most >= 0)[None, :])
    given = np.minimum(p_b[row] / (1 - p_c[row]), 1.0)
    terms = np.exp(logs[row, column]) * bdtr(most[column].astype(float), n - column, given)
    return np.asarray(np.bincount(row, weights=terms, minlength=shares.size), dtype=np.float64)


def p_worse(only_adapted: int, only_base: int, probes: int, margin: float) -> float:
    """`1 - Phi(z(margin))`. Small means: worse than the base by more than the margin.

    Raises:
        ValueError: The counts are none, or the margin is not between 0 and 1.
    """
    return float(ndtr(-score(only_adapted, only_base, probes, share("margin", margin))))


def p_better(only_adapted: int, only_base: int, probes: int, margin: float) -> float:
    """`Phi(z(-margin))`. Small means: better than the base by more than the margin.

    Raises:
        ValueError: The counts are none, or the margin is not between 0 and 1.
    """
    return float(ndtr(score(only_adapted, only_base, probes, -share("margin", margin))))
