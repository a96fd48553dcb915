"""Stop early, for `fail` only: an anytime-valid betting test, and what the rest of the probes can no longer change.

A pass always needs the full sample: a stopped instrument is incomplete and is never used for one. Order of the probes:
fixed before the run, by a permutation seeded from the digest of the probe set.

Source: Waudby-Smith and Ramdas, Journal of the Royal Statistical Society B 86 (2024) 1 (betting); Ville's inequality;
Howard, Ramdas, McAuliffe and Sekhon, Annals of Statistics 49 (2021) 1055; METHOD.md 5.6, numbers in 8.11. Error rates:
tests/benchmarks/COVERAGE.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from registry_gate.statistics import paired, rates
from registry_gate.statistics.counts import share, whole


def order_of(probe_set_digest: str, probes: int) -> tuple[int, ...]:
    """The order in which probes are put: a permutation that the digest of the probe set fixes.

    Raises:
        ValueError: No digest, or no probes.
    """
    if not probe_set_digest:
        raise ValueError("expected the digest of the probe set, got none: without it the order is not fixed")
    probes = whole("probes", probes, least=1)
    # Sorted by a hash rather than drawn: the same on every version of every library.
    return tuple(sorted(range(probes), key=lambda i: hashlib.sha256(f"{probe_set_digest}:{i}".encode()).digest()))


class BettingTest:
    """The hypothesis "the difference is at most the margin", betted against probe by probe.

    With x = (d+1)/2 and m = (margin+1)/2: `K_t = K_(t-1) (1 + lambda_t (x_t - m))`, `lambda_t = min(sqrt(2 ln(1/a) /
    (s2_(t-1) t ln(1+t))), 0.5/m)`. If the hypothesis holds, K ever reaches 1/a with a probability of at most a, however
    often one looks (Ville); lambda uses the past only. a = alpha / instruments: many instruments share one risk.

    Args:
        margin: Margin of the rule, in (0, 1).
        alpha: Risk of a false stop over all instruments.
        instruments: How many required instruments may stop.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(self, margin: float, alpha: float = 0.05, instruments: int = 1) -> None:
        self.margin = share("margin", margin)
        self.alpha = share("alpha", alpha) / whole("instruments", instruments, least=1)
        self.wealth = 1.0
        self.most_wealth = 1.0
        self.seen = 0
        self._mean = (self.margin + 1) / 2
        self._sum = 0.5
        self._squares = 0.25
        self._variance = 0.25

    def observe(self, difference: int) -> bool:
        """Take the next probe: +1 bad in the adapted form alone, -1 in the base alone, 0 alike.

        Returns:
            Whether the test has stopped, now or before.

        Raises:
            ValueError: Another value.
        """
        if isinstance(difference, bool) or difference not in (-1, 0, 1):
            raise ValueError(f"expected a difference of -1, 0 or 1, got {difference!r}")
        self.seen += 1
        t, x = self.seen, (difference + 1) / 2
        bet = min(math.sqrt(2 * math.log(1 / self.alpha) / (self._variance * t * math.log1p(t))), 0.5 / self._mean)
        self.wealth *= 1 + bet * (x - self._mean)
        self.most_wealth = max(self.most_wealth, self.wealth)
        self._sum += x
        estimate = self._sum / (t + 1)
        self._squares += (x - estimate) ** 2
        self._variance = self._squares / (t + 1)
        return self.stopped

    @property
    def stopped(self) -> bool:
        """Whether `fail` is proved: the wealth once reached 1/alpha."""
        return self.most_wealth >= 1 / self.alpha

    @property
    def p_value(self) -> float:
        """Anytime-valid p, `min(1, 1 / max K)`: it may enter the same Holm family as the others."""
        return min(1.0, 1 / self.most_wealth)


def stops_at(differences: Sequence[int], margin: float, alpha: float = 0.05, instruments: int = 1) -> int | None:
    """After how many probes the betting test stops, or None.

    Raises:
        ValueError: As for `BettingTest`.
    """
    test = BettingTest(margin, alpha, instruments)
    return next((t for t, d in enumerate(differences, start=1) if test.observe(d)), None)


GRID = 400
"""Differences tried by `lower_sequence`, from -1 to 1: limits are known to half a point."""


def lower_sequence(differences: Sequence[int], alpha: float = 0.05) -> npt.NDArray[np.float64]:
    """A lower confidence sequence of the difference: with a risk of alpha it is ever above the true one.

    The betting test inverted: after each probe, the smallest difference that its bets have not ruled out so far. Each
    limit holds at every moment at once; it never falls. For `fail` and for reports, never for a pass.

    Args:
        differences: -1, 0 or 1 for each probe, in the fixed order.
        alpha: One-sided risk.

    Raises:
        ValueError: A difference is none, or alpha is not between 0 and 1.
    """
    alpha = share("alpha", alpha)
    for difference in differences:
        if isinstance(difference, bool) or difference not in (-1, 0, 1):
            raise ValueError(f"expected differences of -1, 0 or 1, got {difference!r}")
    grid = np.linspace(-1, 1, GRID + 1)[1:]
    means = (grid + 1) / 2
    log_wealth = np.zeros_like(means)
    alive = np.ones_like(means, dtype=bool)
    total, squares, variance = 0.5, 0.25, 0.25
    found = np.empty(len(differences))
    limit = -1.0
    for t, difference in enumerate(differences, start=1):
        x = (difference + 1) / 2
        bet = np.minimum(math.sqrt(2 * math.log(1 / alpha) / (variance * t * math.log1p(t))), 0.5 / means)
        log_wealth += np.log1p(bet * (x - means))
        alive &= log_wealth < math.log(1 / alpha)
        total += x
        squares += (x - total / (t + 1)) ** 2
        variance = squares / (t + 1)
        # The first point of the grid that is still possible bounds the rest from below; the limit lies one step lower.
        first = int(np.argmax(alive)) if alive.any() else len(grid) - 1
        limit = max(limit, float(grid[first - 1]) if first > 0 else -1.0)
        found[t - 1] = limit
    return found


@dataclass(frozen=True, kw_only=True)
class Curtailed:
    """What the probes that are left can still change.

    Args:
        cannot_pass: Even if every answer left is the best possible, the rule does not pass.
        must_fail: Even then it fails; the only reason to stop.
    """

    cannot_pass: bool
    must_fail: bool


def curtail_ceiling(
    events: int, seen: int, probes: int, ceiling: float, confidence: float = 0.95, tests: int = 1
) -> Curtailed:
    """Whether a ceiling is settled before all probes were put. No guess: the rest counted as all good.

    Args:
        events: Bad answers so far.
        seen: Probes put so far.
        probes: Probes in all.
        ceiling: Ceiling of the rule.
        confidence: One-sided.
        tests: Tests of the family that may say `fail`; the strictest step of Holm is asked.

    Raises:
        ValueError: A number is out of its range.
    """
    events, seen, probes = _progress(events, seen, probes)
    tests = whole("tests", tests, least=1)
    alpha = 1 - share("confidence", confidence)
    return Curtailed(
        cannot_pass=rates.upper_limit(events, probes, confidence) > share("ceiling", ceiling),
        must_fail=tests * rates.p_above_ceiling(events, probes, ceiling) < alpha,
    )


def curtail_margin(
    only_adapted: int,
    only_base: int,
    seen: int,
    probes: int,
    margin: float,
    confidence: float = 0.95,
    tests: int = 1,
) -> Curtailed:
    """Whether a margin is settled before all probes were put: the rest counted as bad in the base alone.

    Args:
        only_adapted: b so far.
        only_base: c so far.
        seen: Probes put so far.
        probes: Probes in all.
        margin: Margin of the rule.
        confidence: One-sided.
        tests: Tests of the family that may say `fail`.

    Raises:
        ValueError: A number is out of its range.
    """
    whole("only_base", only_base)
    whole("only_adapted", only_adapted)
    _, seen, probes = _progress(only_adapted + only_base, seen, probes)
    tests = whole("tests", tests, least=1)
    alpha, margin = 1 - share("confidence", confidence), share("margin", margin)
    best = (only_adapted, only_base + probes - seen, probes)
    return Curtailed(
        cannot_pass=paired.upper_limit(*best, confidence) > margin,
        must_fail=tests * paired.p_worse(*best, margin) < alpha,
    )


Kind = Literal["ceiling", "margin"]


@dataclass(frozen=True, kw_only=True)
class FailTest:
    """A test of a policy that may say `fail` before all probes were put.

    Args:
        measure: What it reads.
        kind: `ceiling` on the rate, or `margin` to the base.
        limit: The ceiling or the margin, in (0, 1).
        alpha: Risk of the whole family.
        tests: Tests of the family. The strictest step of Holm is asked, so that the other tests cannot undo it.

    Raises:
        ValueError: A number is out of its range.
    """

    measure: str
    kind: Kind
    limit: float
    alpha: float
    tests: int

    def __post_init__(self) -> None:
        share("limit", self.limit)
        share("alpha", self.alpha)
        whole("tests", self.tests, least=1)

    def p_value(self, events: int, differences: Sequence[int], seen: int, probes: int) -> float:
        """p from the probes put so far, whenever one looks.

        The rest is counted as the best possible, so that p at the end is never larger than p now; for a margin the
        betting test may prove it sooner.

        Args:
            events: Bad answers of the adapted form so far.
            differences: For each probe put, as in `BettingTest.observe`; empty without a base.
            seen: Probes put.
            probes: Probes in all.

        Raises:
            ValueError: A number is out of its range.
        """
        events, seen, probes = _progress(events, seen, probes)
        if self.kind == "ceiling":
            return rates.p_above_ceiling(events, probes, self.limit)
        if len(differences) != seen:
            return 1.0
        test = BettingTest(self.limit, self.alpha, self.tests)
        for difference in differences:
            test.observe(difference)
        b, c = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        return min(test.p_value, paired.p_worse(b, c + probes - seen, probes, self.limit))

    def proves(self, events: int, differences: Sequence[int], seen: int, probes: int) -> bool:
        """Whether `fail` is proved, whatever the other tests of the family and the rest of the probes say.

        Raises:
            ValueError: As for `p_value`.
        """
        return self.tests * self.p_value(events, differences, seen, probes) < self.alpha


def _progress(events: int, seen: int, probes: int) -> tuple[int, int, int]:
    probes, seen, events = whole("probes", probes, least=1), whole("seen", seen), whole("events", events)
    if seen > probes or events > seen:
        raise ValueError(f"expected events <= seen <= probes, got {events}, {seen} and {probes}")
    return events, seen, probes
