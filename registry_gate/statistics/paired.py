"""The adapted form against its base on the same probes: score limits, exact McNemar, non-inferiority.

Notation of METHOD.md 5.2: of n probes, b are bad in the adapted form alone, c in the base alone; the difference is
(b-c)/n, positive is worse. Samples are paired, so limits for independent samples would be wrong here.

Source: Tango, Statistics in Medicine 17 (1998) 891 for the score statistic; McNemar, Psychometrika 12 (1947) 153 with
the exact binomial tail. Checked against METHOD.md 8.4, 8.5, 8.10 and statsmodels.
"""

from __future__ import annotations

import math

from scipy.special import bdtr, ndtr, ndtri

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
