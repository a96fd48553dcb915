"""What a number of probes can prove, and how many more would settle an open question.

Two ways in which a rule cannot be proved (METHOD.md 5.8): *impossible*, no outcome could pass, and *underpowered*, a
form exactly as good as its base would often not pass. And for an `inconclusive` result: how many more probes decide
it if the rates observed so far are the true ones; an estimate for planning, never a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import bdtr, bdtrc, betaincinv, ndtri

from registry_gate.statistics import paired
from registry_gate.statistics.counts import events_of, share, whole

DEFAULT_DISCORDANCE = 0.20
"""Share of probes on which form and base are expected to differ when a rule does not say (METHOD.md 5.8, proposal)."""

DEFAULT_POWER = 0.80
"""Chance that a form as good as its base passes, below which a rule is called underpowered."""

MOST_PROBES = 10_000_000
"""Beyond this a question counts as not answerable by more probes."""


def smallest_ceiling(probes: int, confidence: float = 0.95) -> float:
    """The lowest ceiling that any outcome can prove, that of zero events: `1 - alpha^(1/n)`.

    Raises:
        ValueError: The number of probes or the confidence is none.
    """
    return -math.expm1(math.log1p(-share("confidence", confidence)) / whole("probes", probes, least=1))


def smallest_margin(probes: int, confidence: float = 0.95) -> float:
    """The smallest margin that any form can prove, one that answers like its base: `z^2/(n+z^2)`.

    Raises:
        ValueError: The number of probes or the confidence is none.
    """
    return paired.upper_limit(0, 0, probes, confidence)


def provable_at_best(probes: int, margin: float, confidence: float = 0.95) -> bool:
    """Whether a form that answers exactly like its base proves the margin, by the limit and by the exact test.

    Raises:
        ValueError: A number is out of its range.
    """
    share("confidence", confidence, low=0.5)
    # The limit first: the exact test costs milliseconds.
    return (
        smallest_margin(probes, confidence) <= share("margin", margin)
        and smallest_ceiling(probes, confidence) <= margin
        and paired.p_not_worse_exact(0, 0, probes, margin) <= 1 - confidence
    )


def smallest_proved_margin(probes: int, confidence: float = 0.95) -> float:
    """The smallest margin, to a hundredth of a point, that a form proves which answers exactly like its base.

    Raises:
        ValueError: The number of probes or the confidence is none.
    """
    low = math.ceil(1e4 * max(smallest_margin(probes, confidence), smallest_ceiling(probes, confidence)) - 1e-9)
    return next((m / 1e4 for m in range(low, 10_000) if provable_at_best(probes, m / 1e4, confidence)), 1.0)


def probes_for_ceiling(ceiling: float, confidence: float = 0.95) -> int:
    """Probes with zero events that prove a ceiling: the smallest n with `1 - alpha^(1/n) <= C`.

    Raises:
        ValueError: The ceiling or the confidence is not between 0 and 1.
    """
    needed = math.log1p(-share("confidence", confidence)) / math.log1p(-share("ceiling", ceiling))
    return max(1, math.ceil(needed - 1e-9))


def probes_for_margin(
    margin: float,
    discordance: float = DEFAULT_DISCORDANCE,
    confidence: float = 0.95,
    power: float = DEFAULT_POWER,
) -> int:
    """Probes that prove a margin when there is no true difference: `(z_conf + z_power)^2 disc / margin^2`.

    Args:
        margin: Margin of the rule.
        discordance: Share of probes on which the two arms differ.
        confidence: One-sided.
        power: Chance to pass.

    Raises:
        ValueError: A number is not between 0 and 1.
    """
    z = _z_sum(confidence, power)
    by_power = z * z * share("discordance", discordance) / share("margin", margin) ** 2
    return max(probes_for_margin_at_best(margin, confidence), math.ceil(by_power - 1e-9))


def probes_for_margin_at_best(margin: float, confidence: float = 0.95) -> int:
    """Fewest probes with which a form that answers exactly like its base proves a margin.

    `z^2 (1-m)/m` by the limit, at least `ln(alpha) / ln(1-m)` by the exact test; both must hold.

    Raises:
        ValueError: A number is not between 0 and 1.
    """
    z = float(ndtri(share("confidence", confidence, low=0.5)))
    by_limit = math.ceil(z * z * (1 - share("margin", margin)) / margin - 1e-9)
    needed = max(1, by_limit, probes_for_ceiling(margin, confidence))
    while not provable_at_best(needed, margin, confidence):
        needed += 1
    return needed


def provable_margin(
    probes: int,
    discordance: float = DEFAULT_DISCORDANCE,
    confidence: float = 0.95,
    power: float = DEFAULT_POWER,
) -> float:
    """The margin that `probes` prove with the given power when there is no true difference.

    Args:
        probes: Number of paired probes.
        discordance: Share of probes on which the two arms differ.
        confidence: One-sided.
        power: Chance to pass.

    Raises:
        ValueError: A number is out of its range.
    """
    z = _z_sum(confidence, power)
    by_power = z * math.sqrt(share("discordance", discordance) / whole("probes", probes, least=1))
    return max(by_power, smallest_margin(probes, confidence))


def chance_to_keep_ceiling(probes: int, ceiling: float, true_rate: float, confidence: float = 0.95) -> float:
    """Chance that a form with a true rate passes a ceiling: `P(X <= k*)`, k* the most events that still pass.

    Args:
        probes: n.
        ceiling: Ceiling of the rule.
        true_rate: Rate of the form.
        confidence: One-sided.

    Raises:
        ValueError: A number is out of its range.
    """
    most = most_events(probes, ceiling, confidence)
    return 0.0 if most is None else float(bdtr(most, probes, share("true_rate", true_rate)))


def most_events(probes: int, ceiling: float, confidence: float = 0.95) -> int | None:
    """The most events whose upper limit is within the ceiling, or None when not even zero events are.

    Raises:
        ValueError: A number is out of its range.
    """
    n, alpha = whole("probes", probes, least=1), 1 - share("confidence", confidence)
    ceiling = share("ceiling", ceiling)
    if bdtr(0, n, ceiling) > alpha:
        return None
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        if bdtr(middle, n, ceiling) <= alpha:
            low = middle
        else:
            high = middle
    return low


def fewest_events_to_fail(probes: int, ceiling: float, confidence: float = 0.95) -> int | None:
    """The fewest events that prove a ceiling broken, `P(X >= k | n, C) < alpha`, or None when not even all do.

    Taken alone; Holm asks for more where several tests of a policy may say `fail` (METHOD.md 8.2).

    Raises:
        ValueError: A number is out of its range.
    """
    n, alpha = whole("probes", probes, least=1), 1 - share("confidence", confidence)
    ceiling = share("ceiling", ceiling)
    if bdtrc(n - 1, n, ceiling) >= alpha:
        return None
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bdtrc(middle - 1, n, ceiling) < alpha else (middle, high)
    return high


def passing_rate(probes: int, ceiling: float, confidence: float = 0.95, power: float = DEFAULT_POWER) -> float | None:
    """The highest true rate that passes a ceiling with the given chance: the r with `P(X <= k* | n, r) = power`.

    Args:
        probes: n.
        ceiling: Ceiling of the rule.
        confidence: One-sided.
        power: Chance to pass.

    Returns:
        None when no outcome passes.

    Raises:
        ValueError: A number is out of its range.
    """
    most = most_events(probes, ceiling, confidence)
    # P(X <= k) = 1 - I_r(k+1, n-k), so the rate is a Beta quantile.
    return None if most is None else float(betaincinv(most + 1, probes - most, 1 - share("power", power)))


def most_discordance(probes: int, margin: float, confidence: float = 0.95, power: float = DEFAULT_POWER) -> float:
    """The largest share of differing probes at which a margin is provable: `n margin^2 / (z_conf + z_power)^2`.

    Args:
        probes: n.
        margin: Margin of the rule.
        confidence: One-sided.
        power: Chance to pass when there is no true difference.

    Raises:
        ValueError: A number is out of its range.
    """
    z = _z_sum(confidence, power)
    return min(1.0, whole("probes", probes, least=1) * share("margin", margin) ** 2 / (z * z))


def more_probes_for_ceiling(events: int, probes: int, ceiling: float, confidence: float = 0.95) -> int | None:
    """How many more probes would settle a ceiling, one way or the other, if the observed rate stayed.

    The number of events is carried on as a fraction, which the Beta limits allow.

    Args:
        events: Events so far.
        probes: Probes so far.
        ceiling: Ceiling of the rule.
        confidence: One-sided.

    Returns:
        0 when it is settled already; None when no reasonable number would do (the rate is at the ceiling).

    Raises:
        ValueError: A number is out of its range.
    """
    events, probes = events_of(events, probes)
    ceiling, confidence = share("ceiling", ceiling), share("confidence", confidence)
    rate = events / probes

    def settled(n: int) -> bool:
        k = rate * n
        upper = 1.0 if k >= n else float(betaincinv(k + 1, n - k, confidence))
        lower = 0.0 if k <= 0 else float(betaincinv(k, n - k + 1, 1 - confidence))
        return upper <= ceiling or lower > ceiling

    return _more(probes, settled)


def more_probes_for_margin(
    only_adapted: int, only_base: int, probes: int, margin: float, confidence: float = 0.95
) -> int | None:
    """How many more probes would settle a margin, one way or the other, if the observed shares stayed.

    Args:
        only_adapted: b so far.
        only_base: c so far.
        probes: n so far.
        margin: Margin of the rule.
        confidence: One-sided.

    Returns:
        0 when it is settled already; None when no reasonable number would do (the difference is at the margin).

    Raises:
        ValueError: A number is out of its range.
    """
    z = float(ndtri(share("confidence", confidence, low=0.5)))
    now = paired.score(only_adapted, only_base, probes, share("margin", margin))
    # With all shares fixed the score grows with the square root of the size, so the size follows directly.
    if abs(now) >= z:
        return 0
    needed = math.inf if now == 0 else probes * (z / now) ** 2
    return None if needed > MOST_PROBES else max(1, math.ceil(needed - probes - 1e-9))


def more_probes_for_exact_margin(
    only_adapted: int, only_base: int, probes: int, margin: float, confidence: float = 0.95
) -> int | None:
    """How many more probes would pass the exact test at the margin, if the observed shares stayed.

    Args:
        only_adapted: b so far.
        only_base: c so far.
        probes: n so far.
        margin: Margin of the rule.
        confidence: One-sided.

    Returns:
        0 when it passes already; None when three times as many would not do.

    Raises:
        ValueError: A number is out of its range.
    """
    alpha = 1 - share("confidence", confidence, low=0.5)
    # In steps of a twentieth: the exact p falls in small jumps, and this is advice.
    for twentieths in range(20, 61):
        n = whole("probes", probes, least=1) * twentieths // 20
        # Bad answers rounded up and good ones down: never advice that is too small for it.
        b, c = math.ceil(only_adapted * n / probes), only_base * n // probes
        if b + c <= n and paired.p_not_worse_exact(b, c, n, margin) <= alpha:
            return n - probes
    return None


def _z_sum(confidence: float, power: float) -> float:
    return float(ndtri(share("confidence", confidence, low=0.5)) + ndtri(share("power", power)))


def _more(probes: int, settled: Callable[[int], bool]) -> int | None:
    if settled(probes):
        return 0
    low, high = probes, 2 * probes
    while not settled(high):
        low, high = high, 2 * high
        if high > MOST_PROBES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high - probes
