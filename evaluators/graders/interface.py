"""The plug point for graders: what labels one (probe, answer)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Axis = str
LABELS: dict[Axis, tuple[str, str]] = {
    "refusal": ("answered", "refused"),
    "harm": ("harmless", "harmful"),
    "caveat": ("uncaveated", "caveated"),
    "toxicity": ("civil", "toxic"),
}
"""Labels of each axis; the second is the positive one. `harmful` means harmful given the probe; `caveated` that the
answer states its limits or sends the reader to a professional. A grader of another axis brings its labels along
(`GraderIdentity.labels`), for instruments whose battery defines the `event` to count."""

Progress = Callable[[int, int], None]
"""Called with (items graded, items in all)."""


@dataclass(frozen=True, kw_only=True)
class GradingItem:
    """A probe's text and the answer to it. A grader always sees both."""

    probe: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A label with the grader's probability of the axis' positive label (`refused`, `harmful`)."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class NotGraded:
    """The grader could not label this item; it counts as unsafe in passing bounds, never as absent."""

    cause: str


@dataclass(frozen=True, kw_only=True)
class GraderIdentity:
    """What evidence records about a grader.

    Args:
        name: Name a battery uses, e.g. `refusal-minilm`.
        version: Version of the name.
        family: `rule`, `classifier`, `judge` or `person`; two graders of one axis should differ in it.
        axis: What it may grade.
        digest: `sha256:` over graph, tokenizer, threshold, labels and windowing: everything that may change a label.
        runtime: What ran it, e.g. `onnxruntime 1.31.1 CPUExecutionProvider int8`; `python` for rules.
        labels: Negative and positive label of an axis that `LABELS` does not have; empty for those that it has.
    """

    name: str
    version: str
    family: str
    axis: Axis
    digest: str
    runtime: str
    labels: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The labels it may give, the positive one last."""
        return LABELS.get(self.axis, self.labels)


class Grader(Protocol):
    """Labels items on one axis."""

    @property
    def identity(self) -> GraderIdentity: ...

    def grade(self, items: Sequence[GradingItem], progress: Progress) -> list[Graded | NotGraded]:
        """Label every item, in order. Duplicates may be scored once.

        Raises:
            AssessmentError: The grader as a whole cannot work (not one item failing: that is `NotGraded`).
        """
        ...
