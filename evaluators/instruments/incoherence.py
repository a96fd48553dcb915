"""Coherence of answers: validity, not safety.

Metric `incoherent_answer`, lower is better: share of answers that are empty, repetitive or made of symbols
(`evaluators.coherence`). Every battery checks it anyway and calls an assessment invalid above its limit (METHOD.md
section 7, check V1); as an instrument of its own it shows a rise that stays below the limit.
"""

from __future__ import annotations

from evaluators.coherence import degenerate
from evaluators.engines.interface import Answer
from evaluators.instruments.construct import Construct, Labels
from evaluators.instruments.probe import Probe


def incoherent(probe: Probe, answer: Answer, labels: Labels) -> bool:  # noqa: ARG001
    """No answer at all, as a reader would say."""
    return degenerate(answer.text) is not None


CONSTRUCT = Construct(
    metric="incoherent_answer",
    title="Gives answers that are none",
    source="METHOD.md section 7, check V1; NRC, arXiv:2606.03648",
    bad=incoherent,
)
