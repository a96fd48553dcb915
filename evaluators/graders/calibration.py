"""Measure a grader on answers that people labelled: source by source, because pooled figures hide where it fails.

What comes of it is judged by `registry_gate.statistics.admission` and signed by `registry_gate.evidence.calibrations`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluators.graders.interface import Graded, Grader, GraderIdentity, GradingItem, NotGraded, Progress
from evaluators.instruments.files import FORMATS, Row, decode, parsed, read_bytes
from registry_gate.errors import AssessmentError
from registry_gate.statistics.admission import SourceCounts
from registry_gate.statistics.agreement import Confusion, kappa_lower_limit

BINS = 10
"""Bins of the expected calibration error."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a file say what.

    Args:
        probe: What was asked.
        answer: What was answered.
        label: What people said.
        source: Whose answer it is, e.g. the model; None where the file is one source.
        positive: Words of the label column that mean the positive label of the grader's axis.
        negative: Words that mean the negative one. A word in neither is refused, never skipped.
    """

    probe: str
    answer: str
    label: str
    source: str | None
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LabelledAnswer:
    """One answer with its label by people."""

    item: GradingItem
    positive: bool
    source: str


@dataclass(frozen=True, kw_only=True)
class SourceFigures:
    """What a grader makes of the answers of one source.

    Args:
        counts: Its labels beside people's.
        calibration_error: Expected calibration error of its probabilities, equal bins; None where nothing was graded.
    """

    counts: SourceCounts
    calibration_error: float | None


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A grader, the data that it was measured on, and what came of it, by source."""

    grader: GraderIdentity
    data: str
    sha256: str
    sources: Mapping[str, SourceFigures]


def read_labelled(path: Path, columns: Columns) -> tuple[str, list[LabelledAnswer]]:
    """The sha256 of a file of labelled answers (csv, tsv, json, jsonl), and its rows.

    Raises:
        AssessmentError: It cannot be read, lacks a column, or holds a label or a text that it must not; the message
            names the line and never quotes an answer.
    """
    if set(columns.positive) & set(columns.negative):
        both = ", ".join(sorted(set(columns.positive) & set(columns.negative)))
        raise AssessmentError(f"expected each label to mean one thing, got {both} as positive and as negative")
    data = read_bytes(path, None)
    rows = parsed(decode(data, "utf-8", str(path)), str(path), FORMATS.get(path.suffix.lower()))
    return hashlib.sha256(data).hexdigest(), [_labelled(row, columns, path) for row in rows]


def _labelled(row: Row, columns: Columns, path: Path) -> LabelledAnswer:
    def text(column: str) -> str:
        if column not in row.values:
            raise AssessmentError(f"{row.place}: expected a column {column!r}, got {', '.join(map(str, row.values))}")
        value = row.values[column]
        if isinstance(value, bool | int | float):
            return str(value).lower() if isinstance(value, bool) else str(value)
        if not isinstance(value, str):
            raise AssessmentError(
                f"{row.place}, column {column!r}: expected a text, got a {type(value).__name__}: leave the row out"
            )
        return value

    said = text(columns.label).strip()
    if said not in columns.positive and said not in columns.negative:
        known = ", ".join((*columns.positive, *columns.negative))
        raise AssessmentError(
            f"{row.place}, column {columns.label!r}: expected one of {known}, got {said[:40]!r}: say with "
            "--positive or --negative what it means, or leave the row out"
        )
    source = path.stem if columns.source is None else text(columns.source)
    item = GradingItem(probe=text(columns.probe), answer=text(columns.answer))
    return LabelledAnswer(item=item, positive=said in columns.positive, source=source)


def calibrate(
    grader: Grader, data: str, sha256: str, labelled: Sequence[LabelledAnswer], progress: Progress
) -> Calibrated:
    """Grade labelled answers and count.

    Raises:
        AssessmentError: The grader cannot work.
    """
    outcomes = grader.grade([one.item for one in labelled], progress)
    by_source: dict[str, list[tuple[LabelledAnswer, Graded | NotGraded]]] = {}
    for one, outcome in zip(labelled, outcomes, strict=True):
        by_source.setdefault(one.source, []).append((one, outcome))
    positive = grader.identity.words[1]
    return Calibrated(
        grader=grader.identity,
        data=data,
        sha256=sha256,
        sources={source: _figures(rows, positive) for source, rows in sorted(by_source.items())},
    )


def _figures(rows: Sequence[tuple[LabelledAnswer, Graded | NotGraded]], positive: str) -> SourceFigures:
    graded = [(one, outcome) for one, outcome in rows if isinstance(outcome, Graded)]
    called = [outcome.label == positive for _, outcome in graded]
    people = [one.positive for one, _ in graded]
    cells = [(c, p) for c, p in zip(called, people, strict=True)]
    return SourceFigures(
        counts=SourceCounts(
            table=Confusion(
                true_positive=cells.count((True, True)),
                false_positive=cells.count((True, False)),
                false_negative=cells.count((False, True)),
                true_negative=cells.count((False, False)),
            ),
            not_graded=len(rows) - len(graded),
            kappa_lower=kappa_lower_limit(called, people, [one.item.probe for one, _ in graded]) if graded else None,
        ),
        calibration_error=_calibration_error([outcome.probability for _, outcome in graded], people),
    )


def _calibration_error(probabilities: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Expected calibration error (Naeini et al. 2015): mean distance of probability and share, weighted by bin."""
    if not probabilities:
        return None
    p, y = np.asarray(probabilities), np.asarray(positive, dtype=float)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return float(
        sum(
            abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean()
            for b in range(BINS)
            if (bins == b).any()
        )
    )
