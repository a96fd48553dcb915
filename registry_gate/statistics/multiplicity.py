"""Several tests at once: Holm's correction, Benjamini-Hochberg for slices, all-must-pass, and mixed signs.

Holm is needed where any one of several tests may say `fail`. It is not needed where all must pass: an
intersection-union test keeps its level without correction (METHOD.md 5.4).

Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65; Benjamini and Hochberg, Journal of the Royal Statistical
Society B 57 (1995) 289; Berger, Technometrics 24 (1982) 295. Checked against statsmodels `multipletests`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from registry_gate.statistics.counts import whole


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values, in the order given: `max over j <= i of min(1, (k-j+1) p_(j))`.

    Give every test of the family, 1.0 for one that could not be made: a missing test must never shrink the family.

    Raises:
        ValueError: A p-value is not a number from 0 to 1.
    """
    _check(p_values)
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return tuple(adjusted)


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values that control the false discovery rate: `min over j >= i of min(1, k/j p_(j))`.

    For slices in a report; a verdict rests on `holm`.

    Raises:
        ValueError: A p-value is not a number from 0 to 1.
    """
    _check(p_values)
    k = len(p_values)
    adjusted = [0.0] * k
    running = 1.0
    for rank, index in reversed(list(enumerate(sorted(range(k), key=lambda i: p_values[i]), start=1))):
        running = min(running, k / rank * p_values[index])
        adjusted[index] = running
    return tuple(adjusted)


def intersection_union(p_values: Sequence[float]) -> float:
    """p of "all of them pass": the largest. Give 1.0 for a test that could not be made; of no test it is 1.0 too.

    Raises:
        ValueError: A p-value is not a number from 0 to 1.
    """
    _check(p_values)
    # What was not tested has not passed.
    return max(p_values, default=1.0)


def mixed_sign_null(instruments: int) -> float:
    """Chance that k independent instruments move in both directions although nothing changed: `1 - 2 * 0.5^k`.

    To be printed beside every raw share of mixed signs, which says nothing without it (METHOD.md 1.1 item 2).

    Raises:
        ValueError: The number of instruments is none.
    """
    return 1 - 2 * 0.5 ** whole("instruments", instruments, least=1)


@dataclass(frozen=True, kw_only=True)
class MixedSigns:
    """How many instruments rose and fell, whatever their size, beside what chance alone gives.

    Args:
        worse: Instruments with a difference above 0.
        better: Instruments with a difference below 0.
        unmoved: Instruments without a difference.
        null: `mixed_sign_null` of all of them.
    """

    worse: int
    better: int
    unmoved: int
    null: float

    @property
    def mixed(self) -> bool:
        """At least one rose and one fell. No evidence of a conflict by itself."""
        return self.worse > 0 and self.better > 0

    def __str__(self) -> str:
        return (
            f"{self.worse} of {self.worse + self.better + self.unmoved} instruments moved up and {self.better} down; "
            f"signs are mixed in {100 * self.null:.4g} % of cases without any change, so signs alone say nothing"
        )


def mixed_signs(differences: Sequence[float]) -> MixedSigns:
    """Count raw signs of the differences of several instruments.

    Raises:
        ValueError: A difference is not finite, or there is none.
    """
    for difference in differences:
        if not math.isfinite(difference):
            raise ValueError(f"expected finite differences, got {difference!r}")
    worse, better = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return MixedSigns(
        worse=worse,
        better=better,
        unmoved=len(differences) - worse - better,
        null=mixed_sign_null(len(differences)),
    )


def _check(p_values: Sequence[float]) -> None:
    for p in p_values:
        if not (math.isfinite(p) and 0 <= p <= 1):
            raise ValueError(f"expected p-values from 0 to 1, got {p!r}")
