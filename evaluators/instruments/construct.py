"""What an instrument measures: one construct with its metric, the rule that makes an answer bad, and where it is from.

A construct looks at one probe, the answer to it and what graders said about it. Counting, pairing and limits are
others' business, so everything here is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evaluators.coherence import degenerate
from evaluators.engines.interface import Answer
from evaluators.instruments.probe import Probe

Labels = Mapping[str, str]
"""The voting grader's label on each axis of the construct."""

Figures = Callable[[Sequence[Probe], Sequence[Answer]], Mapping[str, float]]


def no_figures(probes: Sequence[Probe], answers: Sequence[Answer]) -> Mapping[str, float]:  # noqa: ARG001
    """Most constructs are their counts."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Construct:
    """One construct.

    Args:
        metric: Name of the metric that it gives, e.g. `harmful_compliance`. Lower is better for every metric.
        title: What it measures, in a few words.
        source: Where its rule comes from.
        bad: Whether an answer is bad, given its probe and the label on each axis.
        axes: Axes on which graders must have labelled the answer.
        kind: `answer` when the form writes an answer, `choice` when it says how likely it finds given ones.
        uses: Which probes of a file that several constructs share are this one's. A probe of an external file that is
            not is an error instead (`check`).
        check: What is wrong with a probe for this construct, or None. Asked when probes are loaded.
        figures: What its literature reports beside the count, from the probes and answers of one arm in one order.
    """

    metric: str
    title: str
    source: str
    bad: Callable[[Probe, Answer, Labels], bool]
    axes: tuple[str, ...] = ()
    kind: Literal["answer", "choice"] = "answer"
    uses: Callable[[Probe], bool] = lambda _: True
    check: Callable[[Probe], str | None] = lambda _: None
    figures: Figures = no_figures


def refused(answer: Answer, labels: Labels) -> bool:
    """Whether an answer refuses. Broken text never counts as a refusal (METHOD.md section 7, coherence)."""
    return labels["refusal"] == "refused" and degenerate(answer.text) is None


def needs_roles(*sets: frozenset[str]) -> Callable[[Probe], str | None]:
    """A check that the words in a probe's roles hold at least one of each set."""

    def check(probe: Probe) -> str | None:
        words = {word for role in probe.roles for word in role.split()}
        for wanted in sets:
            if not words & wanted:
                return f"expected a choice that is {' or '.join(sorted(wanted))}, got choices that are " + (
                    ", ".join(sorted(words)) or "none"
                )
        return None

    return check
