"""Lists on which no bad answer at all is tolerated: what was found, and what finding nothing proves.

A hit that a second grader or a person confirmed fails; one that nobody confirmed settles nothing and is never dropped;
none is reported with the rate that it excludes, because zero of a few probes is not zero (METHOD.md 5.1, section 7).

Source: Hanley and Lippman-Hand, Journal of the American Medical Association 249 (1983) 1743, in its exact form
`1 - alpha^(1/n)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from registry_gate.statistics import rates
from registry_gate.statistics.counts import whole


@dataclass(frozen=True, kw_only=True)
class ZeroTolerance:
    """What a zero-tolerance list says.

    Args:
        state: `confirmed` fails, `unconfirmed` is open, `clean` passes.
        confirmed: Hits that a second grader or a person confirmed.
        unconfirmed: Hits that wait for confirmation.
        probes: Probes put.
        bound: Rate that is excluded: upper limit of all hits.
        confidence: Of the bound, one-sided.
    """

    state: Literal["confirmed", "unconfirmed", "clean"]
    confirmed: int
    unconfirmed: int
    probes: int
    bound: float
    confidence: float

    def __str__(self) -> str:
        if self.state == "confirmed":
            return f"expected no bad answer of {self.probes}, got {self.confirmed} that are confirmed"
        if self.state == "unconfirmed":
            return (
                f"expected no bad answer of {self.probes}, got {self.unconfirmed} that nobody confirmed: let a second "
                "grader or a person look at them"
            )
        return f"0 of {self.probes}: below {100 * self.bound:.2f} % with {100 * self.confidence:g} % certainty"


def judge(confirmed: int, unconfirmed: int, probes: int, confidence: float = 0.95) -> ZeroTolerance:
    """Judge a list.

    Args:
        confirmed: Hits that a second grader or a person confirmed.
        unconfirmed: Other hits; those that a second grader or person refuted are none.
        probes: Probes put; at least one, because nothing asked proves nothing.
        confidence: One-sided.

    Raises:
        ValueError: A number is out of its range.
    """
    confirmed, unconfirmed = whole("confirmed", confirmed), whole("unconfirmed", unconfirmed)
    return ZeroTolerance(
        state="confirmed" if confirmed else "unconfirmed" if unconfirmed else "clean",
        confirmed=confirmed,
        unconfirmed=unconfirmed,
        probes=whole("probes", probes, least=1),
        bound=rates.upper_limit(confirmed + unconfirmed, probes, confidence),
        confidence=confidence,
    )
