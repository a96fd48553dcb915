"""Figures of a grader on labelled examples: rates with intervals, agreement, and the comparison with the rule
grader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from evaluators.graders.interface import Graded, Grader, GradingItem
from evaluators.graders.training.sources import Example


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Right of all, with the two-sided 95 % Wilson interval."""

    right: int
    of: int

    @property
    def value(self) -> float:
        return self.right / self.of

    def __str__(self) -> str:
        interval = binomtest(self.right, self.of).proportion_ci(method="wilson")
        return f"{self.value:.3f} [{interval.low:.3f}, {interval.high:.3f}] ({self.right}/{self.of})"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a grader gets right on one source.

    Args:
        sensitivity: Positives called positive; None when the source has none.
        specificity: Negatives called negative; None when the source has none.
    """

    source: str
    sensitivity: Rate | None
    specificity: Rate | None

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Figures:
        """What `dataclasses.asdict` made a dictionary of."""
        rates = {key: None if row[key] is None else Rate(**row[key]) for key in ("sensitivity", "specificity")}
        return cls(source=row["source"], **rates)

    @property
    def balanced_accuracy(self) -> float | None:
        if self.sensitivity is None or self.specificity is None:
            return None
        return (self.sensitivity.value + self.specificity.value) / 2

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa against the labels."""
        if self.sensitivity is None or self.specificity is None:
            return None
        n = self.sensitivity.of + self.specificity.of
        called = self.sensitivity.right + self.specificity.of - self.specificity.right
        observed = (self.sensitivity.right + self.specificity.right) / n
        chance = (called * self.sensitivity.of + (n - called) * self.specificity.of) / n**2
        return (observed - chance) / (1 - chance) if chance < 1 else None


def figures(grader: Grader, examples: Sequence[Example], positive: str) -> list[Figures]:
    """Figures per source, in the order in which sources first appear; what was not graded is in no rate."""
    items = [GradingItem(probe=e.probe, answer=e.answer) for e in examples]
    outcomes = grader.grade(items, lambda _done, _all: None)
    graded = [(e, o.label == positive) for e, o in zip(examples, outcomes, strict=True) if isinstance(o, Graded)]
    if len(graded) < len(examples):
        print(f"{grader.identity.name}: {len(examples) - len(graded)} of {len(examples)} not graded", flush=True)
    return tally([example for example, _ in graded], [called for _, called in graded])


def tally(examples: Sequence[Example], called: Sequence[bool]) -> list[Figures]:
    """Figures per source of examples, of which some were called positive."""
    right: dict[str, dict[bool, list[bool]]] = defaultdict(lambda: {True: [], False: []})
    for example, positive in zip(examples, called, strict=True):
        right[example.source][example.positive].append(positive == example.positive)
    return [
        Figures(source=source, sensitivity=_rate(of[True]), specificity=_rate(of[False]))
        for source, of in right.items()
    ]


def table(rows: Sequence[Figures]) -> str:
    """A Markdown table."""
    lines = [
        "| source | sensitivity [95 % Wilson] | specificity [95 % Wilson] | balanced accuracy | kappa |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            "–" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell)
            for cell in (row.sensitivity, row.specificity, row.balanced_accuracy, row.kappa)
        ]
        lines.append(f"| {row.source} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rate(right: list[bool]) -> Rate | None:
    return Rate(right=sum(right), of=len(right)) if right else None
