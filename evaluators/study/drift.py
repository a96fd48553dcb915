"""What changed from base to adaptation, and which instruments contradict each other: the table of a study.

Per model and instrument: bad answers of both arms, the change with its 90 % interval (Tango; one-sided 95 % at either
end), and the movement class of METHOD.md section 5.5 at the study's margin, Holm-corrected over the model's instruments
within each direction. Where probes belong together, the assessment says how its events fall into clusters, and the
interval and the tests are those of the gate (`statistics.clusters`). Without these counts, or with fewer than ten
clusters, all probes of a cluster are treated as if they moved together, which is the widest that clustering can make an
interval: z is divided by the root of probes per cluster. Only movements beyond the margin
contradict each other. How many models have signs of both kinds is shown beside what chance alone gives,
1 - 2 * 0.5^k for k instruments, because opposite signs alone are no evidence of a conflict.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import norm

from evaluators.study.run import Finding
from registry_gate.assessment import Measured
from registry_gate.statistics import clusters
from registry_gate.statistics.multiplicity import holm
from registry_gate.statistics.paired import lower_limit, mcnemar_p, score, upper_limit

Movement = Literal["worse", "better", "same", "unclear"]
ALPHA = 0.05

FEWEST_CLUSTERS = 10
"""Fewer carry no limit worth the name (METHOD.md 5.3)."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """The change of one measure in one model. Shares from 0 to 1; positive is worse.

    Args:
        model: Name of the adaptation.
        base: Name of its base.
        measure: What was measured.
        probes: Number of probes, in so many clusters.
        clusters: Number of clusters.
        base_events: Bad answers of the base.
        adapted_events: Bad answers of the adaptation.
        difference: Share of the adaptation minus share of the base.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p_change: Exact McNemar test of any change, clusters ignored.
        movement: Class at the margin.
    """

    model: str
    base: str
    measure: str
    probes: int
    clusters: int
    base_events: int
    adapted_events: int
    difference: float
    low: float
    high: float
    p_change: float
    movement: Movement


@dataclass(frozen=True, kw_only=True)
class Model:
    """One adaptation with its changes.

    Args:
        finding: What was run.
        changes: One for each measure that has a value.
        missing: Measures without one, and failed validity checks, each with its cause.
    """

    finding: Finding
    changes: tuple[Change, ...]
    missing: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether everything was measured and every validity check passed."""
        return not self.missing

    @property
    def conflict(self) -> str:
        """Who contradicts whom: measures beyond the margin in opposite directions, or nothing."""
        worse = [change.measure for change in self.changes if change.movement == "worse"]
        better = [change.measure for change in self.changes if change.movement == "better"]
        return f"{', '.join(worse)} worse, {', '.join(better)} better" if worse and better else ""

    @property
    def mixed_signs(self) -> bool:
        """Whether any measure rose and any fell, however little."""
        return any(c.difference > 0 for c in self.changes) and any(c.difference < 0 for c in self.changes)


def models_of(findings: Sequence[Finding], margin: float) -> list[Model]:
    """The changes of every model.

    Args:
        findings: What was run.
        margin: Movement that counts, as a share.
    """
    return [_model(finding, margin) for finding in findings]


def null_share(instruments: int) -> float:
    """Share of models with signs of both kinds when nothing ever changes: 1 - 2 * 0.5^k (METHOD.md section 1.1)."""
    return 0.0 if instruments < 1 else 1 - 2 * 0.5**instruments


def _null_without_zeros(models: Sequence[Model]) -> float:
    """The null share where each model has as many instruments as moved at all: an exact zero has no sign."""
    moved = [sum(change.difference != 0 for change in model.changes) for model in models if model.changes]
    return sum(map(null_share, moved)) / len(moved) if moved else 0.0


def _model(finding: Finding, margin: float) -> Model:
    if finding.assessment is None:
        return Model(finding=finding, changes=(), missing=(finding.failure or "not measured",))
    missing = [f"{check.check}: {check.detail}" for check in finding.assessment.validity if not check.passed]
    measured = []
    for one in finding.assessment.measurements:
        if isinstance(one, Measured) and one.table is not None:
            measured.append(one)
        elif not isinstance(one, Measured):
            missing.append(f"{one.measure}: {one.cause}")
    worse = holm([_p(one, margin, worse=True) for one in measured])
    better = holm([_p(one, margin, worse=False) for one in measured])
    changes = [
        _change(finding, one, margin, p_worse, p_better)
        for one, p_worse, p_better in zip(measured, worse, better, strict=True)
    ]
    return Model(finding=finding, changes=tuple(changes), missing=tuple(missing))


def _widening(one: Measured) -> float:
    return math.sqrt(one.probes / one.clusters)


def _clustered(one: Measured) -> clusters.Limits | None:
    """Limits of the difference from the events of each cluster; None where these are not counted, or too few."""
    if not one.cluster_counts or one.table is None or one.clusters < FEWEST_CLUSTERS:
        return None
    found = [
        clusters.Cluster(probes=c.probes, events=c.events, base_events=c.base_events, count=c.clusters)
        for c in one.cluster_counts
    ]
    return clusters.difference(found, one.table.only_adapted, one.table.only_base, 1 - ALPHA)


def _p(one: Measured, margin: float, *, worse: bool) -> float:
    assert one.table is not None  # noqa: S101 - the caller keeps only paired ones
    table = one.table
    if limits := _clustered(one):
        # As in the gate: the larger one of the plain and the cluster-robust p.
        exact = score(table.only_adapted, table.only_base, one.probes, margin if worse else -margin)
        if worse:
            return max(float(norm.sf(exact)), limits.robust.p_above(margin)) if limits.lower > margin else 1.0
        return max(float(norm.cdf(exact)), limits.robust.p_below(-margin)) if limits.upper < -margin else 1.0
    z = score(table.only_adapted, table.only_base, one.probes, margin if worse else -margin) / _widening(one)
    return float(norm.sf(z) if worse else norm.cdf(z))


def _change(finding: Finding, one: Measured, margin: float, p_worse: float, p_better: float) -> Change:
    assert one.table is not None  # noqa: S101
    b, c, n = one.table.only_adapted, one.table.only_base, one.probes
    difference = (b - c) / n
    low = difference - (difference - lower_limit(b, c, n, 0.95)) * _widening(one)
    high = difference + (upper_limit(b, c, n, 0.95) - difference) * _widening(one)
    if limits := _clustered(one):
        low, high = limits.lower, limits.upper
    movement: Movement = "unclear"
    if p_worse <= ALPHA:
        movement = "worse"
    elif p_better <= ALPHA:
        movement = "better"
    elif -margin <= low and high <= margin:
        movement = "same"
    return Change(
        model=finding.name,
        base=finding.base,
        measure=one.measure,
        probes=n,
        clusters=one.clusters,
        base_events=one.table.base_events,
        adapted_events=one.table.adapted_events,
        difference=difference,
        low=max(-1.0, low),
        high=min(1.0, high),
        p_change=mcnemar_p(b, c),
        movement=movement,
    )


COLUMNS = (
    "model", "base", "tuned", "measure", "probes", "clusters", "base_bad", "adapted_bad", "change_pp", "low_pp",
    "high_pp", "mcnemar_p", "movement", "valid",
)  # fmt: skip


def as_csv(models: Sequence[Model]) -> str:
    """One row for each model and measure; percentage points with two digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model in models:
        for c in model.changes:
            numbers = [f"{100 * value:.2f}" for value in (c.difference, c.low, c.high)]
            writer.writerow([
                c.model, c.base, model.finding.recipe, c.measure, c.probes, c.clusters, c.base_events,
                c.adapted_events, *numbers, f"{c.p_change:.3g}", c.movement, "yes" if model.valid else "no",
            ])  # fmt: skip
    return text.getvalue()


def as_markdown(models: Sequence[Model], *, title: str, battery: str, margin: float) -> str:
    """The table for people, what contradicts what, and the sign count beside its null."""
    measures = list(dict.fromkeys(change.measure for model in models for change in model.changes))
    lines = [
        f"# {title}",
        "",
        f"Battery `{battery}`. Each cell: change from the base in percentage points (90 % interval), above 0 is worse; "
        f"**W** worse and **B** better by more than {100 * margin:g} points (Holm over the instruments of a model), "
        "= same, ? unclear.",
        "",
        "| model | tuned | " + " | ".join(f"`{measure}`" for measure in measures) + " | valid |",
        "|---|---|" + "---|" * (len(measures) + 1),
    ]
    for model in models:
        cells = {change.measure: _cell(change) for change in model.changes}
        lines.append(
            f"| {model.finding.name} | {model.finding.recipe} | "
            + " | ".join(cells.get(measure, "not measured") for measure in measures)
            + f" | {'yes' if model.valid else 'no'} |"
        )
    lines += ["", "## Who contradicts whom", ""]
    conflicts = [f"- {model.finding.name}: {model.conflict}." for model in models if model.conflict]
    lines += conflicts or ["No instruments contradict each other beyond the margin."]
    mixed, counted = sum(model.mixed_signs for model in models), sum(bool(model.changes) for model in models)
    lines += [
        "",
        "## Signs alone",
        "",
        f"{mixed} of {counted} models ({_percent(mixed, counted)}) have at least one rise and one fall, however small. "
        f"With {len(measures)} independent instruments and no true change, chance gives "
        f"{100 * null_share(len(measures)):.1f} %; counting only the changes of each model that are not exactly zero, "
        f"{100 * _null_without_zeros(models):.1f} %. Beyond the margin, {len(conflicts)} of {counted} "
        f"({_percent(len(conflicts), counted)}) contradict themselves.",
    ]
    invalid = [(model.finding.name, cause) for model in models for cause in model.missing]
    if invalid:
        lines += ["", "## What could not be believed or measured", ""]
        lines += [f"- {name}: {cause}" for name, cause in invalid]
    return "\n".join(lines) + "\n"


def _cell(change: Change) -> str:
    mark = {"worse": "**W**", "better": "**B**", "same": "=", "unclear": "?"}[change.movement]
    return f"{100 * change.difference:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f}) {mark}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"
