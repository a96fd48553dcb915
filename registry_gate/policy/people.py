"""What people's labels of a random sample make of one measure (METHOD.md 5.7).

The margin is judged by PPI++ on the paired difference instead of by the graders' counts. A ceiling that the graders'
counts keep must be kept by people's labels alone, too: at the rates that ceilings allow, so few of a hundred answers
are bad that a correction of the graders' rate would rest on nothing.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from registry_gate.assessment import Measured, PeopleLabels
from registry_gate.statistics import clusters, labelled, rates
from registry_gate.statistics.correction import Corrected, labels_needed


def difference(item: Measured, confidence: float, rest_effect: float) -> labelled.LabelledDifference | None:
    """The difference that people would find; None where nobody labelled both arms.

    Args:
        item: The measurement.
        confidence: Of each limit alone.
        rest_effect: Design effect of the graders' difference; 1 where every probe stands alone.
    """
    labels, table = item.labels, item.table
    if labels is None or table is None:
        return None
    counted: dict[tuple[int, int], int] = {}
    for cell in labels.cells:
        key = (cell.adapted - cell.base, cell.graded_adapted - cell.graded_base)
        counted[key] = counted.get(key, 0) + cell.probes
    return labelled.difference(
        tuple(labelled.Pairs(people=y, graders=f, count=n) for (y, f), n in sorted(counted.items())),
        (
            table.only_adapted - labels.graded(True, False),
            table.only_base - labels.graded(False, True),
            table.probes - labels.probes,
        ),
        confidence,
        grouped=tuple(
            labelled.PairCluster(
                count=one.clusters, pairs=one.probes, people=one.difference, graders=one.graded_difference
            )
            for one in labels.clusters
        ),
        rest_effect=rest_effect,
    )


def rate_limits(labels: PeopleLabels, confidence: float) -> tuple[float, float]:
    """One-sided limits of the adapted form's rate by people's labels alone, wider where probes belong together."""
    effect = 1.0
    if sum(one.clusters for one in labels.clusters) > 1:
        sums = [one.events for one in labels.clusters for _ in range(one.clusters)]
        sizes = [one.probes for one in labels.clusters for _ in range(one.clusters)]
        effect = max(labelled.alike(sizes), clusters.estimate(sums, sizes, labels.events).design_effect)
    return labelled.rate_limits(labels.events, labels.probes, confidence, effect)


def more_pairs_for_margin(found: labelled.LabelledDifference, margin: float, probes: int) -> int | None:
    """Labelled pairs that would settle a margin if people go on as so far; None when all of the probes would not."""
    half = found.above if found.value <= margin else found.below
    z = NormalDist().inv_cdf(found.confidence)
    again = Corrected(
        value=found.value, standard_error=half / z, lower=found.lower, upper=found.upper, weight=found.weight
    )
    more = labels_needed(again, margin, found.pairs, found.confidence)
    return None if more is None or found.pairs + more > probes else max(1, more)


def more_labels_for_ceiling(labels: PeopleLabels, ceiling: float, probes: int, confidence: float) -> int | None:
    """Labelled probes that would keep a ceiling at the rate so far; None when all of the probes would not."""
    rate = labels.events / labels.probes
    for more in range(1, probes - labels.probes + 1):
        n = labels.probes + more
        if rates.upper_limit(math.ceil(rate * n - 1e-9), n, confidence) <= ceiling:
            return more
    return None


def described(labels: PeopleLabels) -> str:
    """`2 people labelled 100 probes in both arms`."""
    who = "1 person" if labels.labellers == 1 else f"{labels.labellers} people"
    return f"{who} labelled {labels.probes} probes"
