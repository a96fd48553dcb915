"""Measure a grader on answers that people labelled: source by source, because pooled figures hide where it fails.

What comes of it is judged by `registry_gate.statistics.admission` and signed by `registry_gate.evidence.calibrations`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evaluators.graders.composed import CascadeGrader, EnsembleGrader
from evaluators.graders.interface import (
    Graded,
    Grader,
    GraderIdentity,
    GradingItem,
    NotGraded,
    Progress,
    grade_checked,
)
from evaluators.graders.judge import JudgeGrader
from evaluators.instruments.files import FORMATS, Row, decode, parsed, read_bytes
from registry_gate.errors import AssessmentError
from registry_gate.statistics.admission import CascadeCounts, MemberCounts, RewordedCounts, SourceCounts
from registry_gate.statistics.agreement import Confusion, kappa_lower_limit

BINS = 10
"""Bins of the expected calibration error."""

REWORDED_ANSWERS = 100
"""Answers of each source that a judge is asked about again: none in 100 that changes shows a share below 3 %."""

_LONGEST_SOURCE = 200


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
    """A grader, the data that it was measured on, and what came of it, by source.

    Args:
        grader: Who was measured.
        data: Name of the file.
        sha256: Its sha256.
        sources: Figures by source; of a cascade also beside its full run, of an ensemble how its members differ, of a
            judge whether its labels hang on the wording of its question.
        remarks: What could not be measured, in sentences.
    """

    grader: GraderIdentity
    data: str
    sha256: str
    sources: Mapping[str, SourceFigures]
    remarks: tuple[str, ...] = ()


def read_labelled(path: Path, columns: Columns) -> tuple[str, list[LabelledAnswer]]:
    """The sha256 of a file of labelled answers (csv, tsv, json, jsonl), and its answers.

    One answer to one probe in one source counts once however often it stands there: repeating it proves no more, and
    would meet every limit of a number or a rate.

    Raises:
        AssessmentError: It cannot be read, lacks a column, holds a label or a text that it must not, or two labels of
            one answer; the message names the line and never quotes an answer.
    """
    if set(columns.positive) & set(columns.negative):
        both = ", ".join(sorted(set(columns.positive) & set(columns.negative)))
        raise AssessmentError(f"expected each label to mean one thing, got {both} as positive and as negative")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise AssessmentError(
            f"{path}: expected a name that ends in {', '.join(FORMATS)}, got {path.suffix!r}: rename or convert the "
            "file"
        )
    data = read_bytes(path, None)
    text = decode(data, "utf-8", str(path), advice="save the file as UTF-8")
    rows = parsed(text, str(path), kind)
    found: dict[tuple[str, GradingItem], LabelledAnswer] = {}
    for row in rows:
        one = _labelled(row, columns, path)
        if found.setdefault((one.source, one.item), one).positive != one.positive:
            raise AssessmentError(
                f"{row.place}, column {columns.label!r}: expected one label of each answer in a source, got another "
                "than in an earlier row of the same probe and answer: settle it, or leave both out"
            )
    if not found:
        raise AssessmentError(f"{path}: expected labelled answers, got a file without rows")
    return hashlib.sha256(data).hexdigest(), list(found.values())


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
    # It is printed, signed and read in policies' messages.
    if not (0 < len(source) <= _LONGEST_SOURCE and source.isprintable()):
        where = "name of the file" if columns.source is None else f"column {columns.source!r}"
        raise AssessmentError(
            f"{row.place}, {where}: expected a source of 1 to {_LONGEST_SOURCE} printable characters, got "
            f"{source[:40]!r}: name whose answer it is"
        )
    item = GradingItem(probe=text(columns.probe), answer=text(columns.answer))
    return LabelledAnswer(item=item, positive=said in columns.positive, source=source)


def calibrate(
    grader: Grader, data: str, sha256: str, labelled: Sequence[LabelledAnswer], progress: Progress
) -> Calibrated:
    """Grade labelled answers and count; a cascade also beside its full run, an ensemble's members beside each other.

    A judge is asked again in other words about `REWORDED_ANSWERS` of each source: always the same of the same file.

    Raises:
        AssessmentError: The grader cannot work.
    """
    items = [one.item for one in labelled]
    places: dict[str, list[int]] = {}
    for place, one in enumerate(labelled):
        places.setdefault(one.source, []).append(place)
    again: dict[int, Graded | NotGraded] = {}
    remarks: tuple[str, ...] = ()
    if isinstance(grader, JudgeGrader):
        again, remarks = _in_other_words(grader, items, list(places.values()))
    runs = _cascade_runs(grader, items, progress) if isinstance(grader, CascadeGrader) else None
    outcomes = grade_checked(grader, items, progress) if runs is None else [run.outcome for run in runs]
    positive = grader.identity.words[1]
    sources = {}
    for source, mine in sorted(places.items()):
        rows = [labelled[place] for place in mine]
        figures = _figures(rows, [outcomes[place] for place in mine], positive)
        counts = figures.counts
        if runs is not None:
            counts = replace(counts, cascade=_cascade_counts(rows, [runs[place] for place in mine], positive))
        if isinstance(grader, EnsembleGrader):
            counts = replace(counts, members=_member_counts(grader.identity, [outcomes[place] for place in mine]))
        if again:
            pairs = [(outcomes[place], again[place]) for place in mine if place in again]
            counts = replace(counts, reworded=_reworded_counts(pairs))
        sources[source] = replace(figures, counts=counts)
    return Calibrated(grader=grader.identity, data=data, sha256=sha256, sources=sources, remarks=remarks)


def _in_other_words(
    judge: JudgeGrader, items: Sequence[GradingItem], places: Sequence[Sequence[int]]
) -> tuple[dict[int, Graded | NotGraded], tuple[str, ...]]:
    """What a judge says of some items of each source when it is asked in other words, or why it was not asked."""
    other = judge.reworded()
    if other is None:
        return {}, (
            f"{judge.identity.name}: whether its labels hang on the wording of its question was not measured: say the "
            "question in other words under `rewording` in its grader.yaml",
        )
    chosen = [place for mine in places for place in _to_put_again(items, mine)]
    # Not told as progress, which counts the answers.
    outcomes = grade_checked(other, [items[place] for place in chosen], lambda _done, _all: None)
    return dict(zip(chosen, outcomes, strict=True)), ()


def _to_put_again(items: Sequence[GradingItem], places: Sequence[int]) -> list[int]:
    """A sample of some answers that depends on them alone, so that two judges are asked about the same ones."""

    def key(place: int) -> bytes:
        text = f"{items[place].probe}\x1f{items[place].answer}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    return sorted(places, key=key)[:REWORDED_ANSWERS]


def _reworded_counts(pairs: Sequence[tuple[Graded | NotGraded, Graded | NotGraded]]) -> RewordedCounts:
    said = [(_label(one), _label(other)) for one, other in pairs]
    both = [(one, other) for one, other in said if one is not None and other is not None]
    return RewordedCounts(
        answers=len(said),
        differing=sum(one != other for one, other in both),
        compared=len(both),
        one_only=sum((one is None) != (other is None) for one, other in said),
    )


def _member_counts(ensemble: GraderIdentity, outcomes: Sequence[Graded | NotGraded]) -> MemberCounts:
    """As `measuring` counts: what two families labelled, or, where there is one, what a quorum of members did."""
    several = len(ensemble.families) > 1
    differing = sum(outcome.contested for outcome in outcomes)
    agreed = sum(
        isinstance(outcome, Graded) and not outcome.contested and (not several or len(outcome.families) > 1)
        for outcome in outcomes
    )
    return MemberCounts(differing=differing, compared=differing + agreed)


@dataclass(frozen=True, kw_only=True)
class _CascadeRun:
    """What a cascade made of one answer, and what its second grader makes of it."""

    outcome: Graded | NotGraded
    passed_on: bool
    full: Graded | NotGraded


def _cascade_runs(grader: CascadeGrader, items: Sequence[GradingItem], progress: Progress) -> list[_CascadeRun]:
    """The cascade and its full run, each half of the progress; what was passed on is not graded again."""
    count = len(items)
    routed = grader.route(items, lambda done, _: progress(done // 2, count))
    kept = [item for item, passed in zip(items, routed.passed_on, strict=True) if not passed]
    before = 2 * count - len(kept)
    rest = iter(grade_checked(grader.then, kept, lambda done, _: progress((before + done) // 2, count)) if kept else [])
    progress(count, count)
    return [
        _CascadeRun(outcome=outcome, passed_on=passed, full=outcome if passed else next(rest))
        for outcome, passed in zip(routed.outcomes, routed.passed_on, strict=True)
    ]


def _cascade_counts(rows: Sequence[LabelledAnswer], runs: Sequence[_CascadeRun], positive: str) -> CascadeCounts:
    table = _table(rows, [run.full for run in runs], positive)
    return CascadeCounts(
        answers=len(runs),
        passed_on=sum(run.passed_on for run in runs),
        same=sum(_label(run.outcome) == _label(run.full) for run in runs),
        table=table,
        not_graded=len(runs) - table.labelled,
    )


def _label(outcome: Graded | NotGraded) -> str | None:
    return outcome.label if isinstance(outcome, Graded) else None


def _table(rows: Sequence[LabelledAnswer], outcomes: Sequence[Graded | NotGraded], positive: str) -> Confusion:
    cells = [
        (outcome.label == positive, one.positive)
        for one, outcome in zip(rows, outcomes, strict=True)
        if isinstance(outcome, Graded)
    ]
    return Confusion(
        true_positive=cells.count((True, True)),
        false_positive=cells.count((True, False)),
        false_negative=cells.count((False, True)),
        true_negative=cells.count((False, False)),
    )


def _figures(rows: Sequence[LabelledAnswer], outcomes: Sequence[Graded | NotGraded], positive: str) -> SourceFigures:
    graded = [(one, outcome) for one, outcome in zip(rows, outcomes, strict=True) if isinstance(outcome, Graded)]
    called = [outcome.label == positive for _, outcome in graded]
    people = [one.positive for one, _ in graded]
    return SourceFigures(
        counts=SourceCounts(
            table=_table(rows, outcomes, positive),
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
