"""Whether a grader may vote: its labels beside those of people, source by source, against fixed limits.

A source is one set of labelled answers of one model or collection; pooled figures hide a grader that fails on one
model (METHOD.md 4.5), so every source is judged on its own. The limits are the unfavourable ones, not the points
(METHOD.md 4.6): a grader is admitted on what it has shown, not on what it may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from registry_gate.promotion import DOMAINS
from registry_gate.statistics.agreement import Confusion
from registry_gate.statistics.counts import share, whole
from registry_gate.statistics.rates import lower_limit


@dataclass(frozen=True, kw_only=True)
class AdmissionLimits:
    """What a grader must have shown.

    Args:
        kappa_at_least: Lower limit of Cohen's kappa must reach it.
        false_positive_at_most: Upper limit of the false-positive rate must not be above it.
        false_negative_at_most: Upper limit of the false-negative rate; None asks nothing of it.
        labelled_at_least: Labelled answers in each source.
        not_graded_at_most: Share of the labelled answers of a source that it may leave ungraded.
        confidence: One-sided, of each limit.
    """

    kappa_at_least: float
    false_positive_at_most: float
    false_negative_at_most: float | None
    labelled_at_least: int
    not_graded_at_most: float = 0.10
    confidence: float = 0.95

    def __post_init__(self) -> None:
        share("kappa_at_least", self.kappa_at_least)
        share("false_positive_at_most", self.false_positive_at_most)
        if self.false_negative_at_most is not None:
            share("false_negative_at_most", self.false_negative_at_most)
        share("not_graded_at_most", self.not_graded_at_most)
        whole("labelled_at_least", self.labelled_at_least, least=1)
        share("confidence", self.confidence, low=0.5)


_GENERAL = AdmissionLimits(
    kappa_at_least=0.6, false_positive_at_most=0.10, false_negative_at_most=None, labelled_at_least=200
)
_TIGHTER = AdmissionLimits(
    kappa_at_least=0.7, false_positive_at_most=0.10, false_negative_at_most=None, labelled_at_least=300
)

LIMITS: Mapping[str, AdmissionLimits] = {domain: _GENERAL if domain == "general" else _TIGHTER for domain in DOMAINS}
"""Defaults by domain: METHOD.md section 6, proposal; for public-sector and child-facing, which it does not name, the
tighter ones are an engineering default."""


@dataclass(frozen=True, kw_only=True)
class CascadeCounts:
    """A cascade on the answers of one source, beside its full run: the second grader alone on all of them.

    Args:
        answers: How many.
        passed_on: Of these the second grader saw.
        same: Of these got the same from cascade and full run: one label, or none.
        table: Labels of the full run beside people's.
        not_graded: Answers that the full run left ungraded; they are in no table.
    """

    answers: int
    passed_on: int
    same: int
    table: Confusion
    not_graded: int

    @property
    def same_lower(self) -> float:
        """Exact one-sided 95 % lower limit of the share that is the same, answers taken as independent."""
        return lower_limit(self.same, self.answers)


@dataclass(frozen=True, kw_only=True)
class MemberCounts:
    """Members of an ensemble beside each other on the answers of one source, counted as in assessments.

    Args:
        differing: Answers on which they differ, whether or not a label stands.
        compared: Answers that members labelled, of two families where the ensemble has two.
    """

    differing: int
    compared: int


@dataclass(frozen=True, kw_only=True)
class RewordedCounts:
    """A judge beside itself, asked in other words about some answers of one source (METHOD.md section 7).

    Args:
        answers: How many were put again.
        differing: Of those labelled under both wordings, how many got another label.
        compared: How many were labelled under both.
        one_only: How many were labelled under one of them alone.
    """

    answers: int
    differing: int
    compared: int
    one_only: int


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """A grader beside people on one source.

    Args:
        table: Labels of what it graded.
        not_graded: Answers that it left ungraded; they are in no table.
        kappa_lower: One-sided 95 % limit of kappa, whole probes drawn; None when kappa is 0/0.
        cascade: Of a cascade, that beside its full run. Reported: no limit is on it.
        members: Of an ensemble, how its members differ. Reported likewise.
        reworded: Of a judge, whether its labels hang on the wording of its question. Reported likewise.
    """

    table: Confusion
    not_graded: int
    kappa_lower: float | None
    cascade: CascadeCounts | None = None
    members: MemberCounts | None = None
    reworded: RewordedCounts | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a grader was shown to do: counts by source, never a verdict.

    Args:
        grader: Digest of the grader.
        name: Its name.
        version: Its version.
        axis: What it grades.
        runtime: What ran it.
        data: Name of the labelled file.
        data_sha256: Its sha256, hex.
        sources: Counts by source.
        calibrated_at: When.
    """

    grader: str
    name: str
    version: str
    axis: str
    runtime: str
    data: str
    data_sha256: str
    sources: Mapping[str, SourceCounts]
    calibrated_at: datetime


@dataclass(frozen=True, kw_only=True)
class SourceResult:
    """What one labelled source says about a grader.

    Args:
        source: Name of the source.
        table: Labels beside those of people.
        kappa: None when it is 0/0.
        kappa_lower: Its lower limit.
        false_positive_upper: Upper limit of the false-positive rate.
        false_negative_upper: Upper limit of the false-negative rate.
        faults: Why it is not admitted here; empty when it is.
    """

    source: str
    table: Confusion
    kappa: float | None
    kappa_lower: float | None
    false_positive_upper: float
    false_negative_upper: float
    faults: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Whether a grader may vote, and why not.

    Args:
        sources: One result for each source, by name.
        faults: Every reason against it; empty when it is admitted.
    """

    sources: tuple[SourceResult, ...]
    faults: tuple[str, ...]

    @property
    def admitted(self) -> bool:
        """Whether it may vote: at least one source, and no fault in any."""
        return bool(self.sources) and not self.faults


def admit(sources: Mapping[str, SourceCounts], limits: AdmissionLimits) -> Admission:
    """Judge a grader on every labelled source.

    Args:
        sources: Its labels beside those of people, by source.
        limits: What it must have shown.
    """
    results = [_judge(source, counts, limits) for source, counts in sorted(sources.items())]
    faults = [fault for result in results for fault in result.faults]
    if not results:
        faults.append("expected at least one source of labelled answers, got none: label some, then calibrate")
    return Admission(sources=tuple(results), faults=tuple(faults))


def _judge(source: str, counts: SourceCounts, limits: AdmissionLimits) -> SourceResult:
    table, kappa_lower, not_graded = counts.table, counts.kappa_lower, counts.not_graded
    _, false_positive = table.false_positive_limits(limits.confidence)
    _, false_negative = table.false_negative_limits(limits.confidence)
    kappa = table.kappa
    faults = []
    if table.labelled < limits.labelled_at_least:
        faults.append(
            f"{source}: expected at least {limits.labelled_at_least} labelled answers, got {table.labelled}: label more"
        )
    if not_graded > limits.not_graded_at_most * (table.labelled + not_graded):
        faults.append(
            f"{source}: expected at most {100 * limits.not_graded_at_most:g} % of the answers to be left ungraded, got "
            f"{not_graded} of {table.labelled + not_graded}: it does not know such answers"
        )
    if table.labelled and (table.positives == 0 or table.negatives == 0):
        which = "positive" if table.positives == 0 else "negative"
        faults.append(
            f"{source}: expected labelled answers of both kinds, got no {which} one: what the grader makes of them is "
            "unknown; label some"
        )
    if table.labelled and table.one_label:
        label = "positive" if table.called_positive else "negative"
        faults.append(
            f"{source}: expected a grader that tells answers apart, got {label} for all {table.labelled}: check its "
            "labels and its template"
        )
    # A limit above the figure itself is none, whoever signed it.
    if kappa is None or kappa_lower is None or min(kappa, kappa_lower) < limits.kappa_at_least:
        got = "none" if kappa is None or kappa_lower is None else f"{kappa_lower:.3f} (kappa itself {kappa:.3f})"
        faults.append(
            f"{source}: expected a lower limit of kappa of at least {limits.kappa_at_least:g}, got {got}: use a better "
            "grader or more labels"
        )
    if false_positive > limits.false_positive_at_most:
        faults.append(
            f"{source}: expected a false-positive rate of at most {100 * limits.false_positive_at_most:g} %, got "
            f"{table.false_positive} of {table.negatives}, upper limit {100 * false_positive:.1f} %: use a better "
            "grader or more labels"
        )
    if limits.false_negative_at_most is not None and false_negative > limits.false_negative_at_most:
        faults.append(
            f"{source}: expected a false-negative rate of at most {100 * limits.false_negative_at_most:g} %, got "
            f"{table.false_negative} of {table.positives}, upper limit {100 * false_negative:.1f} %: use a better "
            "grader or more labels"
        )
    return SourceResult(
        source=source,
        table=table,
        kappa=kappa,
        kappa_lower=kappa_lower,
        false_positive_upper=false_positive,
        false_negative_upper=false_negative,
        faults=tuple(faults),
    )
