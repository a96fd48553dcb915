"""The plug point for graders: what labels one (probe, answer)."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from registry_gate.errors import AssessmentError

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

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GradingItem:
    """A probe's text and the answer to it. A grader always sees both."""

    probe: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A label with the grader's probability of the axis' positive label (`refused`, `harmful`).

    Args:
        label: What the grader says.
        probability: Of the positive label, from 0 to 1.
        contested: Whether graders that it was put together from said different things.
        families: Families of those that said this label, where it was put together from several graders' or handed on;
            empty where the grader said it by itself.
        passed_on: Names of the cascades that asked their second grader about this item.
    """

    label: str
    probability: float
    contested: bool = False
    families: tuple[str, ...] = ()
    passed_on: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NotGraded:
    """The grader could not label this item; it counts as unsafe in passing bounds, never as absent.

    Args:
        cause: Why.
        contested: Whether the graders that it is made of worked, and differ. That is no failure of the measurement: it
            is counted as disagreement, not as a label that is missing.
        passed_on: Names of the cascades that asked their second grader about this item.
    """

    cause: str
    contested: bool = False
    passed_on: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GraderIdentity:
    """What evidence records about a grader.

    Args:
        name: Name a battery uses, e.g. `refusal-minilm`.
        version: Version of the name.
        family: `rule`, `classifier`, `judge` or `person`, `ensemble` or `cascade`; two graders of one axis should
            differ in it.
        axis: What it may grade.
        digest: `sha256:` over graph, tokenizer, threshold, labels and windowing: everything that may change a label.
        runtime: What ran it, e.g. `onnxruntime 1.31.1 CPUExecutionProvider int8`; `python` for rules.
        labels: Negative and positive label of an axis that `LABELS` does not have; empty for those that it has.
        made_of: Families of the graders that an ensemble or a cascade asks; empty for a grader that asks none.
        asks: Those graders.
        passes_on: Whether it is a cascade, which asks the second of them about some items only.
    """

    name: str
    version: str
    family: str
    axis: Axis
    digest: str
    runtime: str
    labels: tuple[str, ...] = ()
    made_of: tuple[str, ...] = ()
    asks: tuple[GraderIdentity, ...] = ()
    passes_on: bool = False

    @property
    def families(self) -> frozenset[str]:
        """Families that may stand behind a label of it. Graders that share none are opinions of their own."""
        return frozenset(self.made_of or (self.family,))

    @property
    def words(self) -> tuple[str, ...]:
        """The labels it may give, the positive one last."""
        return LABELS.get(self.axis, self.labels)

    @property
    def everyone(self) -> tuple[GraderIdentity, ...]:
        """It and all that it asks, however deep; one that is asked twice is there twice."""
        return (self, *(one for asked in self.asks for one in asked.everyone))


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


def grade_checked(grader: Grader, items: Sequence[GradingItem], progress: Progress) -> list[Graded | NotGraded]:
    """What a grader says, held to what a grader may say: whoever counts labels or puts them together asks so.

    Raises:
        AssessmentError: The grader cannot work, whatever it raises, does not return one outcome for each item, or
            returns a label that its axis does not have or a probability outside 0 to 1.
        MemoryError: The machine's failure, not the grader's; and whatever `progress` raises.
    """
    identity = grader.identity
    not_its_own: list[Exception] = []

    def told(done: int, of: int) -> None:
        try:
            progress(done, of)
        except Exception as err:
            not_its_own.append(err)
            raise

    try:
        outcomes = grader.grade(items, told)
    except (AssessmentError, MemoryError):
        raise
    except Exception as err:  # a plugin may raise anything, and its words may quote what it graded
        if err in not_its_own:
            raise
        # Where, and not what it says.
        where = "".join(traceback.format_tb(err.__traceback__))
        _logger.error("grader %r raised %s:\n%s", identity.name, type(err).__name__, where)
        raise AssessmentError(
            f"grader {identity.name!r}: expected {len(items)} outcomes, got {type(err).__name__}: repair it, or name "
            "another",
            code="grader_failed",
        ) from err
    if len(outcomes) != len(items):
        raise AssessmentError(
            f"grader {identity.name!r}: expected {len(items)} outcomes, got {len(outcomes)}", code="grader_output"
        )
    for outcome in outcomes:
        _check_outcome(identity, outcome)
    return outcomes


def _check_outcome(grader: GraderIdentity, outcome: Graded | NotGraded) -> None:
    if isinstance(outcome, NotGraded):
        return
    if not isinstance(outcome, Graded):
        raise AssessmentError(
            f"grader {grader.name!r}: expected Graded or NotGraded for each item, got {type(outcome).__name__}",
            code="grader_output",
        )
    if outcome.label not in grader.words:
        raise AssessmentError(
            f"grader {grader.name!r}: expected a label of the axis {grader.axis} ({', '.join(grader.words)}), "
            f"got {outcome.label!r}",
            code="grader_labels",
        )
    if not (math.isfinite(outcome.probability) and 0 <= outcome.probability <= 1):
        raise AssessmentError(
            f"grader {grader.name!r}: expected a probability from 0 to 1, got {outcome.probability}",
            code="grader_output",
        )
