"""How far labels agree: grader against people, and grader against grader.

Source: Cohen, Educational and Psychological Measurement 20 (1960) 37; Krippendorff, Content Analysis (2004) chapter 11;
METHOD.md 4.6, 5.9 and 8.8. Checked against statsmodels `cohens_kappa` and the worked example of Krippendorff.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from registry_gate.statistics import rates
from registry_gate.statistics.counts import share, whole

BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A grader's labels beside those of people, for one axis: positive is `refused` or `harmful`.

    Args:
        true_positive: Both say positive.
        false_positive: The grader says positive, people do not.
        false_negative: People say positive, the grader does not; on the axis of harm the dangerous one.
        true_negative: Neither does.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    def __post_init__(self) -> None:
        for name in ("true_positive", "false_positive", "false_negative", "true_negative"):
            whole(name, getattr(self, name))

    @property
    def labelled(self) -> int:
        """Number of labelled answers."""
        return self.positives + self.negatives

    @property
    def positives(self) -> int:
        """Answers that people call positive."""
        return self.true_positive + self.false_negative

    @property
    def negatives(self) -> int:
        """Answers that people call negative."""
        return self.false_positive + self.true_negative

    @property
    def called_positive(self) -> int:
        """Answers that the grader calls positive."""
        return self.true_positive + self.false_positive

    @property
    def kappa(self) -> float | None:
        """Cohen's `(p_o - p_e) / (1 - p_e)`; None when neither side ever used a second label, where it is 0/0."""
        n = self.labelled
        if n == 0:
            return None
        agreed = (self.true_positive + self.true_negative) / n
        by_chance = (self.positives * self.called_positive + self.negatives * (n - self.called_positive)) / (n * n)
        return None if by_chance >= 1 else (agreed - by_chance) / (1 - by_chance)

    @property
    def sensitivity(self) -> float | None:
        """Share of the positives that the grader calls so; None without any."""
        return self.true_positive / self.positives if self.positives else None

    @property
    def specificity(self) -> float | None:
        """Share of the negatives that the grader calls so; None without any."""
        return self.true_negative / self.negatives if self.negatives else None

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the two; None without positives or without negatives."""
        if self.sensitivity is None or self.specificity is None:
            return None
        return (self.sensitivity + self.specificity) / 2

    @property
    def one_label(self) -> bool:
        """Whether the grader gave every answer the same label."""
        return self.called_positive in (0, self.labelled)

    def false_positive_limits(self, confidence: float = 0.95) -> tuple[float, float]:
        """One-sided exact limits of the false-positive rate; (0, 1) without negatives, where nothing is known."""
        return _limits(self.false_positive, self.negatives, confidence)

    def false_negative_limits(self, confidence: float = 0.95) -> tuple[float, float]:
        """One-sided exact limits of the false-negative rate; (0, 1) without positives."""
        return _limits(self.false_negative, self.positives, confidence)

    def kappa_lower_limit(
        self, confidence: float = 0.95, *, draws: int = BOOTSTRAP_DRAWS, seed: int = 0
    ) -> float | None:
        """One-sided lower limit of kappa: percentile bootstrap over labelled answers, answers taken as independent.

        A draw in which kappa is 0/0 counts as 0, the least favourable reading. Several answers to one probe are not
        independent: give `kappa_lower_limit` of the module the probes.

        Args:
            confidence: One-sided.
            draws: Number of resamples.
            seed: Equal seeds give equal limits.

        Returns:
            None when kappa itself is.

        Raises:
            ValueError: The confidence is none, or fewer than 1,000 draws.
        """
        level = share("confidence", confidence, low=0.5)
        draws = whole("draws", draws, least=1000)
        if self.kappa is None:
            return None
        cells = np.array([self.true_positive, self.false_positive, self.false_negative, self.true_negative])
        tables = np.random.default_rng(seed).multinomial(cells.sum(), cells / cells.sum(), size=draws)
        return float(np.quantile(_kappas(tables), 1 - level))


def _limits(events: int, out_of: int, confidence: float) -> tuple[float, float]:
    if out_of == 0:
        return 0.0, 1.0
    return rates.lower_limit(events, out_of, confidence), rates.upper_limit(events, out_of, confidence)


def _kappas(tables: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    tp, fp, fn, tn = (tables[:, column].astype(float) for column in range(4))
    n = tp + fp + fn + tn
    agreed = (tp + tn) / n
    by_chance = ((tp + fn) * (tp + fp) + (fp + tn) * (fn + tn)) / (n * n)
    return np.asarray(np.where(by_chance < 1, (agreed - by_chance) / np.where(by_chance < 1, 1 - by_chance, 1), 0.0))


def confusion(grader: Sequence[str], people: Sequence[str], positive: str, labels: Sequence[str]) -> Confusion:
    """Count a grader's labels beside people's.

    Args:
        grader: One label for each answer.
        people: One label for each answer, in the same order.
        positive: The label that counts as positive.
        labels: Every label that exists on this axis.

    Raises:
        ValueError: Lengths differ, or a label does not exist; the sentence says which.
    """
    if len(grader) != len(people):
        raise ValueError(f"expected one label of people for each of {len(grader)} answers, got {len(people)}")
    if positive not in labels:
        raise ValueError(f"expected the positive label to be one of {', '.join(labels)}, got {positive!r}")
    for source, given in (("the grader", grader), ("people", people)):
        unknown = sorted({str(label) for label in given if label not in labels})
        if unknown:
            raise ValueError(f"expected {source} to use the labels {', '.join(labels)}, got {', '.join(unknown)}")
    cells = Counter((one == positive, other == positive) for one, other in zip(grader, people, strict=True))
    return Confusion(
        true_positive=cells[True, True],
        false_positive=cells[True, False],
        false_negative=cells[False, True],
        true_negative=cells[False, False],
    )


def kappa_lower_limit(
    grader: Sequence[bool],
    people: Sequence[bool],
    probes: Sequence[str],
    confidence: float = 0.95,
    *,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> float | None:
    """One-sided lower limit of kappa, whole probes drawn with replacement (METHOD.md 4.6: bootstrap by probe).

    Args:
        grader: Positive or not, one for each answer.
        people: Likewise.
        probes: The probe that each answer is to.
        confidence: One-sided.
        draws: Number of resamples.
        seed: Equal seeds give equal limits.

    Returns:
        None when kappa is 0/0, or when there are fewer than two probes.

    Raises:
        ValueError: Lengths differ, the confidence is none, or fewer than 1,000 draws.
    """
    level, draws = share("confidence", confidence, low=0.5), whole("draws", draws, least=1000)
    if not len(grader) == len(people) == len(probes):
        raise ValueError(
            f"expected as many labels of people and probes as answers ({len(grader)}), got {len(people)} and "
            f"{len(probes)}"
        )
    tables: dict[str, list[int]] = {}
    for one, other, probe in zip(grader, people, probes, strict=True):
        cell = (0 if other else 1) if one else (2 if other else 3)
        tables.setdefault(probe, [0, 0, 0, 0])[cell] += 1
    rows = np.array(sorted(tables.values()), dtype=np.int64).reshape(-1, 4)
    total = rows.sum(axis=0)
    whole_table = Confusion(
        true_positive=int(total[0]),
        false_positive=int(total[1]),
        false_negative=int(total[2]),
        true_negative=int(total[3]),
    )
    if len(rows) < 2 or whole_table.kappa is None:
        return None
    # Equal probes are one kind: a multinomial over kinds is the same draw at a fraction of the work.
    kinds, count = np.unique(rows, axis=0, return_counts=True)
    chosen = np.random.default_rng(seed).multinomial(len(rows), count / len(rows), size=draws)
    return float(np.quantile(_kappas(chosen @ kinds), 1 - level))


@dataclass(frozen=True, kw_only=True)
class GraderDisagreement:
    """How often two graders label one answer differently.

    Args:
        differing: Answers with unequal labels.
        compared: Answers that both labelled.
        lower: One-sided exact lower limit of the share.
        upper: Upper limit.
    """

    differing: int
    compared: int
    lower: float
    upper: float

    @property
    def share(self) -> float:
        """The share itself."""
        return self.differing / self.compared


def disagreement(differing: int, compared: int, confidence: float = 0.95) -> GraderDisagreement:
    """The share of unequal labels with exact one-sided limits.

    Raises:
        ValueError: The counts are none; no answer compared is none too, because it says nothing.
    """
    return GraderDisagreement(
        differing=differing,
        compared=compared,
        lower=rates.lower_limit(differing, compared, confidence),
        upper=rates.upper_limit(differing, compared, confidence),
    )


def krippendorff_alpha(
    ratings: Sequence[Sequence[float | None]], level: Literal["nominal", "interval"] = "nominal"
) -> float | None:
    """Krippendorff's `1 - D_o/D_e` for any number of raters, with missing ratings.

    Args:
        ratings: One row for each rater, one column for each answer; None where a rater gave none.
        level: `nominal` counts unequal labels, `interval` their squared distance.

    Returns:
        None when no answer has two ratings, or all ratings are equal: there is nothing to measure against.

    Raises:
        ValueError: Rows of unequal length, or a rating that is not finite.
    """
    if len({len(row) for row in ratings}) > 1:
        raise ValueError("expected one rating (or None) of every rater for every answer, got rows of unequal length")
    units: list[list[float]] = []
    for column in zip(*ratings, strict=True):
        given = [float(value) for value in column if value is not None]
        if not all(math.isfinite(value) for value in given):
            raise ValueError("expected finite ratings, got others")
        if len(given) > 1:
            units.append(given)
    everything = [value for unit in units for value in unit]
    if len(set(everything)) < 2:
        return None

    def distance(first: float, second: float) -> float:
        return float(first != second) if level == "nominal" else (first - second) ** 2

    n = len(everything)
    observed = math.fsum(
        distance(first, second) / (len(unit) - 1) for unit in units for first in unit for second in unit
    )
    counts = Counter(everything)
    expected = math.fsum(
        counts[first] * counts[second] * distance(first, second) for first in counts for second in counts
    )
    return 1 - (n - 1) * observed / expected
