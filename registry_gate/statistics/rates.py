"""One rate against a ceiling: exact one-sided limits and p-values.

The gate uses the exact (Clopper-Pearson) limits, not Wilson's. A promotion is decided at small numbers of events, often
none, and there Wilson's one-sided coverage falls below what it states (for rates near 0 its upper limit is too low);
the exact limit errs by at most the stated share at every size and every true rate. The price is a slightly wider
limit: a few more probes.

Source: Clopper and Pearson, Biometrika 26 (1934) 404; METHOD.md 5.1. Checked against scipy.stats.binomtest.
"""

from __future__ import annotations

from scipy.special import bdtr, bdtrc, betaincinv

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
