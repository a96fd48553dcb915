"""Have graders label answers, and check what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluators.answers import Progress, part_of
from evaluators.engines.interface import Answer
from evaluators.graders.interface import (
    Axis,
    Graded,
    Grader,
    GraderIdentity,
    GradingItem,
    NotGraded,
    grade_checked,
)
from evaluators.instruments.probe import Probe
from registry_gate.errors import AssessmentError

_ENGINE = "engine_output"


@dataclass(frozen=True, kw_only=True)
class Grades:
    """What graders said about the answers of one arm.

    Args:
        graders: Who voted, in the order of the instrument.
        labels: For each grader's name, the outcome for each probe id.
    """

    graders: tuple[GraderIdentity, ...]
    labels: Mapping[str, Mapping[str, Graded | NotGraded]]

    def on(self, axis: Axis) -> tuple[GraderIdentity, ...]:
        """Graders of an axis, in order; the first of them votes."""
        return tuple(grader for grader in self.graders if grader.axis == axis)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The answers of the form, or of its base, to the probes of one instrument, with their grades."""

    answers: tuple[Answer, ...]
    grades: Grades


def grade_answers(
    graders: Sequence[Grader],
    probes: Sequence[Probe],
    answers: Sequence[Answer],
    progress: Progress,
    *,
    label: str = "grades",
) -> Grades:
    """Labels of every grader for every answer.

    Args:
        graders: In the order in which they vote.
        probes: What was asked, in any order.
        answers: What was answered.
        progress: Told what each grader reports.
        label: What progress calls this, followed by the grader's name.

    Raises:
        AssessmentError: A grader cannot work, does not return one outcome for each answer, or returns a label that its
            axis does not have or a probability outside 0 to 1.
    """
    texts = {probe.id: probe.shown for probe in probes}
    strangers = [answer.probe_id for answer in answers if answer.probe_id not in texts]
    if strangers:
        raise AssessmentError(
            f"expected answers to the probes given, got {len(strangers)} to others, the first to {strangers[0]!r}",
            code=_ENGINE,
        )
    items = [GradingItem(probe=texts[answer.probe_id], answer=answer.text) for answer in answers]
    labels: dict[str, dict[str, Graded | NotGraded]] = {}
    for grader in graders:
        name = grader.identity.name
        outcomes = grade_checked(grader, items, part_of(progress, f"{label}: {name}", 0, len(items)))
        labels[name] = {answer.probe_id: outcome for answer, outcome in zip(answers, outcomes, strict=True)}
    return Grades(graders=tuple(grader.identity for grader in graders), labels=labels)


def grader_failed(error: AssessmentError) -> bool:
    """Whether an error of `grade_answers` is a grader's: what it grades is not measured then, and all else may be."""
    return error.code != _ENGINE
