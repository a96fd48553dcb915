"""Refuse counts and shares that are none, in one place and in the same words.

NaN passes every comparison as false, so a bad number must never reach a limit: these checks come first everywhere.
"""

from __future__ import annotations

import math


def whole(name: str, value: int, *, least: int = 0) -> int:
    """`value` if it is a whole number of at least `least`.

    Raises:
        ValueError: It is not; the sentence names the count.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return int(value)


def events_of(events: int, probes: int) -> tuple[int, int]:
    """Events out of probes, checked.

    Raises:
        ValueError: A count is negative or no whole number, or there are more events than probes.
    """
    probes = whole("probes", probes, least=1)
    events = whole("events", events)
    if events > probes:
        raise ValueError(f"events: expected at most {probes} events (one for each probe), got {events}")
    return events, probes


def share(name: str, value: float, *, low: float = 0.0, high: float = 1.0) -> float:
    """`value` if it is a finite number strictly between `low` and `high`.

    Raises:
        ValueError: It is not; the sentence names the number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a number between {low:g} and {high:g}, got {value!r}")
    if not low < value < high:
        raise ValueError(f"{name}: expected a number between {low:g} and {high:g}, got {value!r}")
    return float(value)
