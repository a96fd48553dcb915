"""Several tests at once: Holm's step-down correction.

Needed where any one of several tests may say `fail`. Not needed where all must pass: an intersection-union test keeps
its level without correction (METHOD.md 5.4).

Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65. Checked against statsmodels `multipletests`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values, in the order given: `max over j <= i of min(1, (k-j+1) p_(j))`.

    Give every test of the family, 1.0 for one that could not be made: a missing test must never shrink the family.

    Raises:
        ValueError: A p-value is not a number from 0 to 1.
    """
    for p in p_values:
        if not (math.isfinite(p) and 0 <= p <= 1):
            raise ValueError(f"expected p-values from 0 to 1, got {p!r}")
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return tuple(adjusted)
