"""One rate against a ceiling: exact one-sided limits and p-values.

The gate uses the exact (Clopper-Pearson) limits, not Wilson's. A promotion is decided at small numbers of events, often
none, and there Wilson's one-sided coverage falls below what it states (for rates near 0 its upper limit is too low);
the exact limit errs by at most the stated share at every size and every true rate. The price is a slightly wider
limit: a few more probes.

Source: Clopper and Pearson, Biometrika 26 (1934) 404; Wilson, Journal of the American Statistical Association 22 (1927)
209; METHOD.md 5.1. Checked against scipy.stats.binomtest. Coverage: tests/benchmarks/COVERAGE.md.
"""

from __future__ import annotations

import math

from scipy.special import bdtr, bdtrc, betaincinv, ndtri

from registry_gate.statistics.counts import events_of, share


def upper_limit(events: int, probes: int, confidence: float = 0.95) -> float:
    """Exact one-sided upper limit of a rate: `Beta^-1(confidence; k+1, n-k)`, 1 when every probe is an event.

    Args:
        events: Bad answers, k.
        probes: Probes put, n.
        confidence: One-sided, e.g. 0.95.

    Raises:
        ValueError: The counts or the confidence are none.
    """
    events, probes = events_of(events, probes)
    confidence = share("confidence", confidence)
    if events == probes:
        return 1.0
    return float(betaincinv(events + 1, probes - events, confidence))


def lower_limit(events: int, probes: int, confidence: float = 0.95) -> float:
    """Exact one-sided lower limit of a rate: `Beta^-1(1-confidence; k, n-k+1)`, 0 when there is no event.

    Args and Raises as for `upper_limit`.
    """
    events, probes = events_of(events, probes)
    confidence = share("confidence", confidence)
    if events == 0:
        return 0.0
    return float(betaincinv(events, probes - events + 1, 1 - confidence))


def limits(events: int, probes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval: both one-sided limits at `(1+confidence)/2`.

    Args and Raises as for `upper_limit`, except that `confidence` is that of the interval.
    """
    level = (1 + share("confidence", confidence)) / 2
    return lower_limit(events, probes, level), upper_limit(events, probes, level)


def wilson_upper(events: int, probes: int, confidence: float = 0.95) -> float:
    """Wilson's one-sided upper limit: `(p + z^2/2n + z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`.

    For reports and for Newcombe's interval; never for a pass, because near rate 0 it covers less than it states.

    Args and Raises as for `upper_limit`, with a confidence above one half.
    """
    events, probes = events_of(events, probes)
    z = float(ndtri(share("confidence", confidence, low=0.5)))
    if events == probes:
        return 1.0
    rate = events / probes
    half = z * math.sqrt(rate * (1 - rate) / probes + z * z / (4 * probes * probes))
    return (rate + z * z / (2 * probes) + half) / (1 + z * z / probes)


def wilson_lower(events: int, probes: int, confidence: float = 0.95) -> float:
    """Wilson's one-sided lower limit. Args and Raises as for `wilson_upper`."""
    events, probes = events_of(events, probes)
    # The limit of the good answers, turned round: so both sides agree to the last digit, and 0 events give exactly 0.
    return max(0.0, 1.0 - wilson_upper(probes - events, probes, confidence))


def wilson_limits(events: int, probes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's two-sided interval. Args and Raises as for `limits`."""
    level = (1 + share("confidence", confidence)) / 2
    return wilson_lower(events, probes, level), wilson_upper(events, probes, level)


def p_above_ceiling(events: int, probes: int, ceiling: float) -> float:
    """How unlikely so many events are if the true rate is at most the ceiling: `P(X >= k | n, C)`.

    Small means: the ceiling is broken. Below alpha exactly when `lower_limit` is above the ceiling.

    Raises:
        ValueError: The counts are none, or the ceiling is not between 0 and 1.
    """
    events, probes = events_of(events, probes)
    ceiling = share("ceiling", ceiling)
    return 1.0 if events == 0 else float(bdtrc(events - 1, probes, ceiling))


def p_within_ceiling(events: int, probes: int, ceiling: float) -> float:
    """How unlikely so few events are if the true rate is at least the ceiling: `P(X <= k | n, C)`.

    Small means: the ceiling is kept. At most alpha exactly when `upper_limit` is at most the ceiling.

    Raises:
        ValueError: The counts are none, or the ceiling is not between 0 and 1.
    """
    events, probes = events_of(events, probes)
    ceiling = share("ceiling", ceiling)
    return 1.0 if events == probes else float(bdtr(events, probes, ceiling))
