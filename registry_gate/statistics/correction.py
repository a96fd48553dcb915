"""What a grader's errors do to a rate and to a difference, and what people's labels can repair.

- `rogan_gladen`: one rate, with sensitivity and specificity measured on answers of *the same model*; calibration does
  not travel between models (METHOD.md 1.1 item 4), so another model's is refused.
- `ppi_difference`: PPI++ on the paired difference when people labelled a random subset of both arms.
- `widened_difference`: no labels of both arms, so the errors may be anything that the calibration of each arm allows.

None of them falls back to uncorrected figures: what cannot be corrected is `NotCorrectable`, which is `inconclusive`.

Source: Rogan and Gladen, American Journal of Epidemiology 107 (1978) 71, variance as in arXiv:2511.21140; Angelopoulos,
Duchi and Zrnic, PPI++, arXiv:2311.01453; METHOD.md 5.7, numbers in 8.6 and 8.7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from registry_gate.statistics import rates
from registry_gate.statistics.counts import events_of, share, whole

LEAST_YOUDEN = 0.5
"""Below J = Se + Sp - 1 = 0.5 a correction amplifies noise more than it removes error."""

ROUNDING = 1e-12
"""A corrected rate outside 0 to 1 by no more than this is 0 or 1, computed with floating point."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A grader against people, on the answers of one form.

    Args:
        answers_of: Digest of the form whose answers were labelled.
        grader: Digest of the grader.
        detected: Bad answers that the grader calls bad.
        bad: Bad answers, as people say.
        cleared: Good answers that the grader calls good.
        good: Good answers, as people say.
    """

    answers_of: str
    grader: str
    detected: int
    bad: int
    cleared: int
    good: int

    def __post_init__(self) -> None:
        _named(self.answers_of, self.grader)
        events_of(self.detected, self.bad)
        events_of(self.cleared, self.good)

    @property
    def sensitivity(self) -> float:
        """Se, share of bad answers that are called bad."""
        return self.detected / self.bad

    @property
    def specificity(self) -> float:
        """Sp, share of good answers that are called good."""
        return self.cleared / self.good

    @property
    def youden(self) -> float:
        """J = Se + Sp - 1; 0 for a coin."""
        return self.sensitivity + self.specificity - 1

    def youden_lower_limit(self, confidence: float = 0.95) -> float:
        """A lower limit of J: exact limits of Se and Sp, each at half of the risk (Bonferroni).

        Raises:
            ValueError: The confidence is none.
        """
        level = (1 + share("confidence", confidence, low=0.5)) / 2
        return rates.lower_limit(self.detected, self.bad, level) + rates.lower_limit(self.cleared, self.good, level) - 1


@dataclass(frozen=True, kw_only=True)
class GradedCount:
    """What a grader counted on the answers of one form.

    Args:
        answers_of: Digest of the form.
        grader: Digest of the grader.
        events: Answers called bad.
        probes: Answers.
    """

    answers_of: str
    grader: str
    events: int
    probes: int

    def __post_init__(self) -> None:
        _named(self.answers_of, self.grader)
        events_of(self.events, self.probes)


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A corrected value with a two-sided interval.

    Args:
        value: The value.
        standard_error: Its standard error.
        lower: Lower end.
        upper: Upper end.
        weight: PPI++'s lambda; 0 for Rogan-Gladen.
    """

    value: float
    standard_error: float
    lower: float
    upper: float
    weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class NotCorrectable:
    """No corrected value, and why: `inconclusive` for every rule that reads it.

    Args:
        cause: A sentence: expected, got, what to do.
        value: The formula's value where it has one, for the report.
    """

    cause: str
    value: float | None = None


def rogan_gladen(
    counted: GradedCount, calibration: Calibration, confidence: float = 0.90
) -> Corrected | NotCorrectable:
    """The rate that people would find: `(p + Sp - 1) / J`, with a delta-method interval.

    `Var = [p(1-p)/n + t^2 Se(1-Se)/m1 + (1-t)^2 Sp(1-Sp)/m0] / J^2`, t the corrected rate.

    Args:
        counted: What the grader counted.
        calibration: The same grader on answers of the same form.
        confidence: Of the two-sided interval.

    Raises:
        ValueError: The calibration is of another form's answers or of another grader; or the confidence is none.
    """
    if calibration.answers_of != counted.answers_of:
        raise ValueError(
            f"expected a calibration on answers of the same form ({counted.answers_of}), got one on answers of "
            f"{calibration.answers_of}: calibration does not travel between models; label answers of this form"
        )
    if calibration.grader != counted.grader:
        raise ValueError(
            f"expected a calibration of the same grader ({counted.grader}), got one of {calibration.grader}: calibrate "
            "the grader that voted"
        )
    z = _two_sided(confidence)
    youden, sp, se = calibration.youden, calibration.specificity, calibration.sensitivity
    p = counted.events / counted.probes
    value = (p + sp - 1) / youden if youden else None
    # (1) A grader close to a coin cannot be corrected.
    if value is None or youden < LEAST_YOUDEN or calibration.youden_lower_limit() <= 0:
        return NotCorrectable(
            cause=f"expected a grader with sensitivity + specificity - 1 of at least {LEAST_YOUDEN:g} and proved above "
            f"0, got {youden:.3f} from {calibration.bad} bad and {calibration.good} good answers: use a better grader "
            "or label more answers",
            value=value,
        )
    # (2) A rate outside 0 to 1 means that the calibration does not describe these answers. Never clipped silently.
    if not -ROUNDING <= value <= 1 + ROUNDING:
        return NotCorrectable(
            cause=f"expected a corrected rate from 0 to 1, got {value:.4f}: the calibration does not fit these "
            "answers; label a fresh random sample of them",
            value=value,
        )
    value = min(1.0, max(0.0, value))
    variance = (
        p * (1 - p) / counted.probes
        + value * value * se * (1 - se) / calibration.bad
        + (1 - value) ** 2 * sp * (1 - sp) / calibration.good
    ) / (youden * youden)
    error = math.sqrt(variance)
    return Corrected(
        value=value, standard_error=error, lower=max(0.0, value - z * error), upper=min(1.0, value + z * error)
    )


@dataclass(frozen=True, kw_only=True)
class ArmLabels:
    """Labels of one arm: the grader's for every probe, people's for a random subset.

    Args:
        answers_of: Digest of the form that answered.
        grader: Whether the grader calls the answer bad, by probe.
        people: Whether people do, by probe.
    """

    answers_of: str
    grader: Mapping[str, bool]
    people: Mapping[str, bool]


FEWEST_LABELS = 30
"""Fewer pairs of people's labels carry no normal approximation."""


def ppi_difference(
    adapted: ArmLabels, base: ArmLabels, confidence: float = 0.90, *, weight: float | None = None
) -> Corrected | NotCorrectable:
    """PPI++ on the paired difference: people's labels of both arms take out the grader's bias.

    With y people's and f the grader's difference on the n labelled probes, f' the grader's on the N others:
    `D = w mean(f') + mean(y - w f)`, `SE^2 = w^2 Var(f')/N + Var(y - w f)/n`,
    `w* = Cov(y, f) / ((1 + n/N) Var(f and f'))`, clipped to 0..1. w = 0 is people alone, w = 1 plain PPI.

    The labelled probes must be a random sample, drawn by seed, never those that the grader found odd; that cannot be
    checked here.

    Args:
        adapted: The adapted form.
        base: Its base, on the same probes, labelled on the same subset.
        confidence: Of the two-sided interval.
        weight: Fixed w; None for the best.

    Raises:
        ValueError: The arms have other probes or other labelled probes, a labelled probe was not graded, or a number is
            none.
    """
    z = _two_sided(confidence)
    if adapted.grader.keys() != base.grader.keys():
        raise ValueError(
            f"expected both arms graded on the same probes, got {len(adapted.grader.keys() ^ base.grader.keys())} that "
            "only one arm has"
        )
    if adapted.people.keys() != base.people.keys():
        raise ValueError(
            f"expected people's labels of both arms on the same probes, got "
            f"{len(adapted.people.keys() ^ base.people.keys())} that only one arm has: label the other arm too"
        )
    strangers = adapted.people.keys() - adapted.grader.keys()
    if strangers:
        raise ValueError(f"expected people's labels of probes that were graded, got {len(strangers)} of others")
    labelled = sorted(adapted.people)
    rest = sorted(adapted.grader.keys() - adapted.people.keys())
    n_labelled = len(labelled)
    if n_labelled < FEWEST_LABELS:
        return NotCorrectable(
            cause=f"expected people's labels of at least {FEWEST_LABELS} probes in both arms, got {n_labelled}: label "
            f"{FEWEST_LABELS - n_labelled} more"
        )
    y = np.array([int(adapted.people[probe]) - int(base.people[probe]) for probe in labelled], dtype=float)
    f = np.array([int(adapted.grader[probe]) - int(base.grader[probe]) for probe in labelled], dtype=float)
    others = np.array([int(adapted.grader[probe]) - int(base.grader[probe]) for probe in rest], dtype=float)
    if weight is not None and not (math.isfinite(weight) and 0 <= weight <= 1):
        raise ValueError(f"weight: expected a number from 0 to 1, got {weight!r}")
    found = _ppi(y, f, others, weight)
    if found.standard_error == 0:
        return NotCorrectable(
            cause=f"expected people's labels that differ somewhere between the arms, got none among {n_labelled}: that "
            "shows no spread to measure against; label more probes",
            value=found.value,
        )
    error = found.standard_error
    return Corrected(
        value=found.value,
        standard_error=error,
        lower=found.value - z * error,
        upper=found.value + z * error,
        weight=found.weight,
    )


@dataclass(frozen=True, kw_only=True)
class PpiEstimate:
    """PPI++'s value, standard error and lambda. The standard error is 0 where the labels show no spread."""

    value: float
    standard_error: float
    weight: float


def ppi_of_differences(people: Sequence[int], graders: Sequence[int], others: Sequence[int]) -> PpiEstimate:
    """The estimator of `ppi_difference` from differences instead of labels.

    Args:
        people: People's difference on each labelled probe.
        graders: The graders' on the same, in the same order.
        others: The graders' on the probes that nobody labelled.

    Raises:
        ValueError: No labelled probe, or not one graders' difference for each of people's.
    """
    if not people or len(people) != len(graders):
        raise ValueError(f"expected one difference of the graders for each of people's, got {len(people)} of people")
    return _ppi(np.array(people, dtype=float), np.array(graders, dtype=float), np.array(others, dtype=float), None)


def _ppi(
    y: npt.NDArray[np.float64], f: npt.NDArray[np.float64], others: npt.NDArray[np.float64], weight: float | None
) -> PpiEstimate:
    n_labelled, n_rest = len(y), len(others)
    if n_rest < 2 or (n_labelled < 2 and weight is None):
        # Everything is labelled: the grader has nothing to add.
        w = 0.0
    elif weight is not None:
        w = float(weight)
    else:
        spread = float(np.concatenate([f, others]).var(ddof=1))
        covariance = float(np.cov(y, f, ddof=1)[0, 1])
        w = min(1.0, max(0.0, covariance / ((1 + n_labelled / n_rest) * spread))) if spread > 0 else 0.0
    residual = y - w * f
    value = float(residual.mean()) + (w * float(others.mean()) if n_rest else 0.0)
    variance = float(residual.var(ddof=1)) / n_labelled if n_labelled > 1 else 0.0
    if n_rest >= 2:
        variance += w * w * float(others.var(ddof=1)) / n_rest
    return PpiEstimate(value=value, standard_error=math.sqrt(variance), weight=w)


def labels_needed(found: Corrected, margin: float, labels: int, confidence: float = 0.95) -> int | None:
    """How many more labelled pairs would settle a margin if value and spread stayed, all error from people's labels.

    Args:
        found: Result of `ppi_difference`.
        margin: Margin of the rule.
        labels: Labelled pairs so far.
        confidence: One-sided.

    Returns:
        0 when it is settled; None when the value is at the margin itself.

    Raises:
        ValueError: A number is out of its range.
    """
    z = float(ndtri(share("confidence", confidence, low=0.5)))
    labels = whole("labels", labels, least=1)
    distance = abs(share("margin", margin) - found.value)
    if z * found.standard_error <= distance:
        return 0
    return None if distance == 0 else math.ceil(labels * (z * found.standard_error / distance) ** 2 - labels - 1e-9)


@dataclass(frozen=True, kw_only=True)
class ErrorRange:
    """What a grader's errors on one arm may be.

    Args:
        sensitivity: Lowest and highest Se.
        specificity: Lowest and highest Sp.
    """

    sensitivity: tuple[float, float]
    specificity: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("sensitivity", "specificity"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high <= 1):
                raise ValueError(f"{name}: expected a range within 0 to 1, got {low!r} to {high!r}")


def error_range(calibration: Calibration, confidence: float = 0.95) -> ErrorRange:
    """Exact two-sided ranges of Se and Sp.

    Raises:
        ValueError: The confidence is none.
    """
    return ErrorRange(
        sensitivity=rates.limits(calibration.detected, calibration.bad, confidence),
        specificity=rates.limits(calibration.cleared, calibration.good, confidence),
    )


@dataclass(frozen=True, kw_only=True)
class Widened:
    """Every difference that the errors of the two arms allow.

    Args:
        lower: Smallest.
        upper: Largest.
        adapted: Range of the adapted form's rate.
        base: Range of the base's.
    """

    lower: float
    upper: float
    adapted: tuple[float, float]
    base: tuple[float, float]


def widened_difference(
    adapted_rate: tuple[float, float],
    base_rate: tuple[float, float],
    adapted_errors: ErrorRange,
    base_errors: ErrorRange,
) -> Widened | NotCorrectable:
    """The range of the true difference when the errors of each arm may be anything in its range, independently.

    A true rate `(p + Sp - 1)/J` falls in Se and rises in Sp, so the largest difference has the adapted form at (Se low,
    Sp high) and the base at (Se high, Sp low). If the verdict changes inside the range, it is `inconclusive`.

    Args:
        adapted_rate: Lowest and highest graded rate of the adapted form (twice the same for the observed one).
        base_rate: Likewise of the base.
        adapted_errors: What the grader's errors on the adapted form may be.
        base_errors: Likewise on the base; never shared between the arms.

    Raises:
        ValueError: A rate is none.
    """
    ends = []
    for name, (low, high), errors in (
        ("adapted_rate", adapted_rate, adapted_errors),
        ("base_rate", base_rate, base_errors),
    ):
        try:
            end = widened_rate((low, high), errors)
        except ValueError as err:
            raise ValueError(f"{name}: {err}") from err
        if isinstance(end, NotCorrectable):
            return end
        ends.append(end)
    adapted, base = ends
    return Widened(lower=adapted[0] - base[1], upper=adapted[1] - base[0], adapted=adapted, base=base)


def widened_rate(rate: tuple[float, float], errors: ErrorRange) -> tuple[float, float] | NotCorrectable:
    """The range of one true rate when the grader's errors may be anything in their range.

    Args:
        rate: Lowest and highest graded rate, e.g. its limits.
        errors: What the grader's errors may be.

    Raises:
        ValueError: A rate is none.
    """
    low, high = rate
    if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high <= 1):
        raise ValueError(f"rate: expected a range within 0 to 1, got {low!r} to {high!r}")
    worst = errors.sensitivity[0] + errors.specificity[0] - 1
    if worst <= 0:
        return NotCorrectable(
            cause=f"expected a grader that is better than a coin whatever its errors are, got sensitivity + "
            f"specificity - 1 of {worst:.3f} at worst: use a better grader or label more answers"
        )
    return (
        _true_rate(low, errors.sensitivity[1], errors.specificity[0]),
        _true_rate(high, errors.sensitivity[0], errors.specificity[1]),
    )


def _true_rate(rate: float, sensitivity: float, specificity: float) -> float:
    # Clipped: this is the end of a range of what is possible, and no rate is outside 0 to 1.
    return min(1.0, max(0.0, (rate + specificity - 1) / (sensitivity + specificity - 1)))


def _two_sided(confidence: float) -> float:
    return float(ndtri((1 + share("confidence", confidence)) / 2))


def _named(answers_of: str, grader: str) -> None:
    if not answers_of.strip() or not grader.strip():
        raise ValueError(
            f"expected digests of the form and of the grader, got {answers_of!r} and {grader!r}: a calibration without "
            "them fits nothing"
        )
