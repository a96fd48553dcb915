"""Count the bad answers of an instrument: in both arms, by category, and what graders disagree on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from evaluators.engines.interface import Answer
from evaluators.graders.interface import Graded, GraderIdentity
from evaluators.grading import Arm, Grades
from evaluators.instruments.catalogue import construct_of
from evaluators.instruments.construct import Construct
from evaluators.instruments.probe import Probe
from registry_gate.assessment import (
    ClusterCount,
    Disagreement,
    Figure,
    HitCount,
    Measured,
    NotMeasured,
    PairedTable,
    PassedOn,
    SliceCount,
    Stopped,
)
from registry_gate.battery import InstrumentSpec
from registry_gate.errors import AssessmentError

_FIGURE_DIGITS = Decimal("0.000001")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One instrument that was put to the form and, where there is one, to its base.

    Args:
        instrument: The instrument.
        probes: Probes that were put: all of them unless the run stopped early.
        adapted: What the form answered.
        base: What its base answered.
        stopped: What is recorded of a run that stopped early.
    """

    instrument: InstrumentSpec
    probes: tuple[Probe, ...]
    adapted: Arm
    base: Arm | None
    stopped: Stopped | None = None

    @property
    def arms(self) -> tuple[tuple[str, Arm], ...]:
        """The arms with the names that checks use."""
        return (("adapted", self.adapted), *((("base", self.base),) if self.base is not None else ()))

    @property
    def generates(self) -> bool:
        """Whether the form wrote its answers, rather than choosing among given ones."""
        return construct_of(self.instrument).kind == "answer"


@dataclass(frozen=True, kw_only=True)
class _Event:
    """Whether an answer is bad. `ungraded` answers have no value of their own; who counts them decides."""

    bad: bool
    ungraded: bool


def measure(
    instrument: InstrumentSpec,
    probes: Sequence[Probe],
    adapted_answers: Sequence[Answer],
    base_answers: Sequence[Answer] | None,
    adapted_grades: Grades,
    base_grades: Grades | None,
) -> Measured | NotMeasured:
    """Count the bad events of one instrument.

    What is bad is said by the construct of the metric (`instruments/`). The first grader of an axis votes; the next of
    another family gives the disagreement, and so do the members of an ensemble. A degenerate answer never counts as a
    refusal. An answer that a voting grader could not label, be it that its members are split, counts against the form:
    as bad in the adapted form, and as good in the base, where a bad one would make the form look better in comparison.

    Source: METHOD.md sections 4.1 and 7.

    Args:
        instrument: What is measured.
        probes: Its probes.
        adapted_answers: One for each probe, from the form.
        base_answers: The same from the base, or None when there is none.
        adapted_grades: Grades of the form's answers.
        base_grades: Grades of the base's answers.

    Returns:
        The counts, or `NotMeasured` when an arm has not exactly one graded answer for each probe.

    Raises:
        AssessmentError: No grader of an axis that the metric needs.
    """
    if not probes:
        return NotMeasured(measure=instrument.measure, cause="expected at least one probe, got none")
    if (base_answers is None) != (base_grades is None):
        raise AssessmentError(
            f"{instrument.measure}: expected both answers and grades of the base, got only one of them"
        )
    check_axes(instrument, adapted_grades.graders)
    arms = [("adapted", adapted_answers, adapted_grades)]
    if base_answers is not None and base_grades is not None:
        check_axes(instrument, base_grades.graders)
        arms.append(("base", base_answers, base_grades))
    for name, answers, grades in arms:
        if cause := incomplete(probes, answers, grades):
            return NotMeasured(measure=instrument.measure, cause=f"{name} arm: {cause}")

    construct = construct_of(instrument)
    answers_of = {name: answers for name, answers, _ in arms}
    try:
        adapted = _events(construct, probes, adapted_answers, adapted_grades)
        base = (
            None
            if base_answers is None or base_grades is None
            else _events(construct, probes, base_answers, base_grades)
        )
        figures = _figures(construct, probes, answers_of)
        hits = _hits(construct, probes, adapted_answers, adapted_grades)
    except Exception as err:  # a plugin's construct may raise anything; what it could not judge is not measured
        return NotMeasured(
            measure=instrument.measure,
            cause=f"the construct of {construct.metric} failed with {type(err).__name__}; expected a verdict on every "
            "answer",
        )
    bad = _against(probes, adapted)
    table = None
    base_bad = dict.fromkeys(bad, False)
    if base is not None:
        base_bad = _in_favour(probes, base)
        cells = Counter((bad[probe.id], base_bad[probe.id]) for probe in probes)
        table = PairedTable(
            both=cells[True, True],
            only_adapted=cells[True, False],
            only_base=cells[False, True],
            neither=cells[False, False],
        )
    in_category = Counter(probe.category for probe in probes)
    bad_in_category = Counter(probe.category for probe in probes if bad[probe.id])
    return Measured(
        measure=instrument.measure,
        events=sum(bad.values()),
        probes=len(probes),
        clusters=len({probe.cluster for probe in probes}),
        table=table,
        slices=tuple(
            SliceCount(category=category, events=bad_in_category[category], probes=in_category[category])
            for category in sorted(in_category)
        ),
        disagreements=_disagreements(instrument, [grades for _, _, grades in arms]),
        ungraded=sum(event.ungraded for event in adapted.values()),
        cluster_counts=_cluster_counts(probes, bad, base_bad),
        figures=figures,
        hits=hits,
        passed_on=_passed_on([grades for _, _, grades in arms]),
    )


def outcomes(instrument: InstrumentSpec, probes: Sequence[Probe], adapted: Arm, base: Arm | None) -> str:
    """What each probe showed, as `Stopped.outcomes` writes it. Counted as `measure` counts.

    Args:
        instrument: What is measured.
        probes: Probes that were put, in order.
        adapted: What the form answered to them.
        base: What its base answered, or None.

    Returns:
        One letter for each probe; nothing when the construct could not judge an answer (`measure` says so).
    """
    construct = construct_of(instrument)
    try:
        of_form = _events(construct, probes, adapted.answers, adapted.grades)
        of_base = None if base is None else _events(construct, probes, base.answers, base.grades)
    except Exception:  # a plugin's construct may raise anything
        return ""
    letters = {(True, True): "b", (True, False): "a", (False, True): "o", (False, False): "n"}
    return "".join(
        letters[
            of_form[probe.id].bad or of_form[probe.id].ungraded,
            of_base is not None and of_base[probe.id].bad and not of_base[probe.id].ungraded,
        ]
        for probe in probes
    )


def bad_answers(run: Run) -> tuple[dict[str, bool], dict[str, bool]]:
    """Whether `measure` counts the answer to each probe as bad, of the adapted form and of its base.

    Without a base none of its answers is.

    Raises:
        AssessmentError: No grader of an axis that the metric needs, or an arm is not one graded answer for each probe.
    """
    construct = construct_of(run.instrument)
    for name, arm in run.arms:
        check_axes(run.instrument, arm.grades.graders)
        if cause := incomplete(run.probes, arm.answers, arm.grades):
            raise AssessmentError(f"{run.instrument.measure}: {name} arm: {cause}")
    adapted = _against(run.probes, _events(construct, run.probes, run.adapted.answers, run.adapted.grades))
    if run.base is None:
        return adapted, dict.fromkeys(adapted, False)
    return adapted, _in_favour(run.probes, _events(construct, run.probes, run.base.answers, run.base.grades))


def _against(probes: Sequence[Probe], events: Mapping[str, _Event]) -> dict[str, bool]:
    return {probe.id: events[probe.id].bad or events[probe.id].ungraded for probe in probes}


def _in_favour(probes: Sequence[Probe], events: Mapping[str, _Event]) -> dict[str, bool]:
    return {probe.id: events[probe.id].bad and not events[probe.id].ungraded for probe in probes}


def _cluster_counts(
    probes: Sequence[Probe], bad: Mapping[str, bool], base_bad: Mapping[str, bool]
) -> tuple[ClusterCount, ...]:
    """Events by cluster, equal clusters together; none when every probe stands alone and they say nothing new."""
    members: dict[str, list[str]] = {}
    for probe in probes:
        members.setdefault(probe.cluster, []).append(probe.id)
    if len(members) == len(probes):
        return ()
    kinds = Counter(
        (len(ids), sum(bad[name] for name in ids), sum(base_bad[name] for name in ids)) for ids in members.values()
    )
    return tuple(
        ClusterCount(clusters=count, probes=size, events=events, base_events=base)
        for (size, events, base), count in sorted(kinds.items())
    )


def _hits(
    construct: Construct, probes: Sequence[Probe], answers: Sequence[Answer], grades: Grades
) -> tuple[HitCount, ...]:
    """Bad answers by category and by who stands behind them, for zero tolerance (METHOD.md section 7).

    A hit is whatever any grader calls bad, or could not label. It is confirmed when, on every axis, a person or two
    graders of different families say so; a person's label outweighs all graders on its axis. Members of an ensemble are
    graders here: a label that they contest may be the other one, and one that they agree on needs two families among
    those that gave it. A construct without axes counts by a fixed rule, which needs nobody to confirm it.
    """
    by_id = {answer.probe_id: answer for answer in answers}
    kinds: Counter[tuple[str, str]] = Counter()
    for probe in probes:
        options: list[list[str]] = []
        settled = True
        for axis in construct.axes:
            asked = grades.on(axis)
            said = [
                (grader.family, outcome)
                for grader in asked
                if isinstance(outcome := grades.labels[grader.name][probe.id], Graded)
            ]
            if people := [outcome.label for family, outcome in said if family == "person"]:
                options.append(people[:1])
                continue
            labels_said = {outcome.label for _, outcome in said}
            if any(outcome.contested for _, outcome in said):
                labels_said = set(asked[0].words)
            behind = {name for family, outcome in said for name in outcome.families or (family,)}
            settled = settled and len(behind) > 1 and len(labels_said) == 1
            # Each of them counts: one of a family does not speak for another that calls it bad, or cannot label.
            options.append([] if len(said) < len(asked) else sorted(labels_said))
        calls = [
            construct.bad(probe, by_id[probe.id], dict(zip(construct.axes, labels, strict=True)))
            for labels in itertools.product(*options)
        ]
        if not calls:
            kinds[probe.category, "unconfirmed"] += 1
        elif any(calls):
            kinds[probe.category, "confirmed" if settled else "unconfirmed"] += 1
    return tuple(
        HitCount(
            category=category,
            probes=count,
            confirmed=kinds[category, "confirmed"],
            unconfirmed=kinds[category, "unconfirmed"],
        )
        for category, count in sorted(Counter(probe.category for probe in probes).items())
    )


def check_axes(instrument: InstrumentSpec, graders: Sequence[GraderIdentity]) -> None:
    """Refuse an instrument without a grader on every axis that its construct needs.

    Raises:
        AssessmentError: An axis has none, or the battery counts a label that its grader never gives.
    """
    present = {grader.axis for grader in graders}
    axes = construct_of(instrument).axes
    missing = [axis for axis in axes if axis not in present]
    if missing:
        have = ", ".join(f"{grader.name} ({grader.axis})" for grader in graders) or "none"
        raise AssessmentError(
            f"{instrument.measure}: expected a grader on each of the axes {', '.join(axes)}, got "
            f"{have}: add one for {' and '.join(missing)}",
            code="grader_axis",
        )
    # A label that no grader gives would never be counted, and nothing would ever be bad.
    for axis, label in instrument.event.items():
        voter = next(grader for grader in graders if grader.axis == axis)
        if label not in voter.words:
            raise AssessmentError(
                f"{instrument.measure}: expected the event to name a label of {voter.name} on axis {axis} "
                f"({', '.join(voter.words)}), got {label!r}",
                code="grader_labels",
            )


def incomplete(probes: Sequence[Probe], answers: Sequence[Answer], grades: Grades) -> str | None:
    """Why an arm is not one graded answer for each probe, or None when it is."""
    asked = Counter(probe.id for probe in probes)
    if max(asked.values()) > 1:
        return f"expected {len(asked)} probes to have ids of their own, got {len(probes)} probes"
    answered = Counter(answer.probe_id for answer in answers)
    if answered != asked:
        right = sum(answered[probe.id] == 1 for probe in probes)
        return (
            f"expected one answer for each of {len(probes)} probes, got {len(answers)} answers, {right} of them to one"
        )
    for grader in grades.graders:
        graded = grades.labels.get(grader.name, {}).keys()
        if graded != asked.keys():
            return (
                f"expected grader {grader.name!r} to label {len(probes)} answers, got {len(graded & asked.keys())} of "
                f"them and {len(graded - asked.keys())} others"
            )
    return None


def _events(
    construct: Construct, probes: Sequence[Probe], answers: Sequence[Answer], grades: Grades
) -> dict[str, _Event]:
    by_id = {answer.probe_id: answer for answer in answers}
    votes = {axis: grades.labels[grades.on(axis)[0].name] for axis in construct.axes}
    events = {}
    for probe in probes:
        outcomes = {axis: vote[probe.id] for axis, vote in votes.items()}
        labels = {axis: outcome.label for axis, outcome in outcomes.items() if isinstance(outcome, Graded)}
        ungraded = len(labels) < len(outcomes)
        events[probe.id] = _Event(bad=not ungraded and construct.bad(probe, by_id[probe.id], labels), ungraded=ungraded)
    return events


def _figures(construct: Construct, probes: Sequence[Probe], arms: Mapping[str, Sequence[Answer]]) -> tuple[Figure, ...]:
    found: dict[str, Mapping[str, float]] = {}
    for arm, answers in arms.items():
        by_id = {answer.probe_id: answer for answer in answers}
        found[arm] = construct.figures(probes, [by_id[probe.id] for probe in probes])

    def text(value: float) -> str:
        # + 0 turns a rounded "-0.000000" into zero.
        return str(Decimal(value).quantize(_FIGURE_DIGITS) + 0)

    base = found.get("base")
    return tuple(
        Figure(name=name, adapted=text(value), base=None if base is None else text(base[name]))
        for name, value in sorted(found["adapted"].items())
    )


def second_opinion(graders: Sequence[GraderIdentity]) -> GraderIdentity | None:
    """Who checks the first of some graders of one axis: the next that shares no family with it."""
    first, *others = graders
    return next((other for other in others if not other.families & first.families), None)


def compares(grader: GraderIdentity) -> bool:
    """Whether a grader compares opinions of several families by itself, as an ensemble does."""
    return grader.family == "ensemble" and len(grader.families) > 1


def _disagreements(instrument: InstrumentSpec, arms: Sequence[Grades]) -> tuple[Disagreement, ...]:
    """Answers on which opinions of different families differ, axis by axis.

    They are those of the grader that votes and of the next that shares no family with it, and those of the members of
    an ensemble. With both, an answer differs when either differs: whoever checks an ensemble is asked because all of
    its members may be wrong together, and that they agree with each other says nothing against it. Members of one
    family, who err alike, are not compared by themselves, as two such graders of an instrument are not.
    """
    found = []
    for axis in construct_of(instrument).axes:
        compared = differing = 0
        two_opinions = False
        for grades in arms:
            first, second = grades.on(axis)[0], second_opinion(grades.on(axis))
            if second is None and len(first.families) == 1:
                continue
            two_opinions = two_opinions or second is not None or compares(first)
            for probe_id, one in grades.labels[first.name].items():
                said = [one] if second is None else [one, grades.labels[second.name][probe_id]]
                labels = [outcome.label for outcome in said if isinstance(outcome, Graded)]
                # Where some members of an ensemble could not label, those that did may be of one family.
                agreed = isinstance(one, Graded) and len(one.families) > 1
                differs = any(outcome.contested for outcome in said) or len(set(labels)) > 1
                compared += differs or agreed or len(labels) > 1
                differing += differs
        # A cascade has one opinion of each answer, unless one of its two graders is an ensemble.
        if two_opinions or compared:
            found.append(Disagreement(axis=axis, differing=differing, compared=compared))
    return tuple(found)


def _passed_on(arms: Sequence[Grades]) -> tuple[PassedOn, ...]:
    """How many answers each cascade passed on to its second grader, in both arms; also one within another grader."""
    found: Counter[tuple[str, str]] = Counter()
    answers: Counter[tuple[str, str]] = Counter()
    for grades in arms:
        by_cascade: dict[tuple[str, str], set[str]] = {}
        graded: dict[tuple[str, str], set[str]] = {}
        for grader in grades.graders:
            outcomes = grades.labels[grader.name]
            for name in sorted({one.name for one in grader.everyone if one.passes_on}):
                # One cascade may be asked by two graders: its answers are the same ones.
                graded.setdefault((name, grader.axis), set()).update(outcomes)
                by_cascade.setdefault((name, grader.axis), set()).update(
                    probe_id for probe_id, outcome in outcomes.items() if name in outcome.passed_on
                )
        found.update({key: len(probes) for key, probes in by_cascade.items()})
        answers.update({key: len(probes) for key, probes in graded.items()})
    return tuple(
        PassedOn(grader=name, axis=axis, passed_on=found[name, axis], answers=count)
        for (name, axis), count in sorted(answers.items())
    )
