"""Measure in looks, and end an instrument as soon as `fail` is proved (METHOD.md 5.6).

The order of the probes is fixed before the run by the digest of the probe set. After each look the tests of the
policies are made (`statistics.sequential`); an instrument stops when every policy has one that proves `fail`. What
stopped is recorded as `Stopped` and can let nothing pass; what did not stop was put in full and is measured like any
other.

Where probes belong together no instrument stops: bets on one after the other of a cluster are not independent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from evaluators.answers import AnswerStore, Progress, collect_pieces
from evaluators.engines.interface import Answer, Engine, GenerationSettings, LocalForm
from evaluators.graders.interface import Graded, Grader, NotGraded
from evaluators.grading import Arm, Grades, grade_answers, grader_failed
from evaluators.instruments.probe import Probe, probe_set_digest
from evaluators.measuring import Run, outcomes
from registry_gate.assessment import Stopped
from registry_gate.battery import InstrumentSpec
from registry_gate.errors import AssessmentError
from registry_gate.statistics.sequential import FailTest, order_of

FIRST_LOOK = 32
"""Probes of the first look; each further one doubles them. Every look loads form and base anew, so they are few."""

Stopping = Sequence[Sequence[FailTest]]
"""For each policy the tests that may say `fail`; none stops nothing."""


@dataclass(kw_only=True)
class _Going:
    """One instrument under way."""

    instrument: InstrumentSpec
    probes: tuple[Probe, ...]
    order: tuple[Probe, ...]
    graders: Sequence[Grader]
    stoppable: bool
    seen: int = 0
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    labels: dict[str, dict[str, dict[str, Graded | NotGraded]]] = field(default_factory=dict)
    stopped: Stopped | None = None

    @property
    def next(self) -> tuple[Probe, ...]:
        """Probes of the next look."""
        return self.order[self.seen : _end(self.seen, len(self.order), self.stoppable)]

    def arm(self, name: str, probes: Sequence[Probe]) -> Arm | None:
        """An arm's answers to some probes, in their order; None when it was not asked."""
        if name not in self.answers:
            return None
        identities = tuple(grader.identity for grader in self.graders)
        labels = self.labels[name]
        return Arm(
            answers=tuple(self.answers[name][probe.id] for probe in probes),
            grades=Grades(
                graders=identities,
                labels={one.name: {p.id: labels[one.name][p.id] for p in probes} for one in identities},
            ),
        )

    def run(self) -> Run:
        """What was put, in the order of the battery."""
        put = {probe.id for probe in self.order[: self.seen]}
        probes = tuple(probe for probe in self.probes if probe.id in put)
        adapted = self.arm("adapted", probes)
        assert adapted is not None  # noqa: S101 - every look asks the form first
        return Run(
            instrument=self.instrument,
            probes=probes,
            adapted=adapted,
            base=self.arm("base", probes),
            stopped=self.stopped,
        )


def run_in_looks(
    loaded: Sequence[tuple[InstrumentSpec, tuple[Probe, ...]]],
    forms: Mapping[str, LocalForm],
    voters: Mapping[str, Sequence[Grader]],
    stopping: Stopping,
    engine: Engine,
    settings: GenerationSettings,
    store: AnswerStore,
    progress: Progress,
    *,
    shard_size: int,
) -> tuple[dict[str, Run], dict[str, str]]:
    """Put every instrument to all arms, look by look.

    Args:
        loaded: Instruments with their probes, in the order of the battery.
        forms: The arms: `adapted`, and `base` where there is one.
        voters: Graders by measure.
        stopping: What ends an instrument.
        engine: Obtains answers.
        settings: How.
        store: Where answers are kept.
        progress: Told what is being done.
        shard_size: Most probes of one call of the engine.

    Returns:
        Runs by measure, and why others could not be answered or graded.

    Raises:
        AssessmentError: The engine failed.
    """
    going = [_begun(instrument, probes, voters, stopping) for instrument, probes in loaded]
    unanswered: dict[str, str] = {}
    active = list(going)
    while active:
        looks = {one.instrument.measure: one.next for one in active}
        for arm, form in forms.items():
            for kind in ("answers", "choices"):
                asked = [one for one in active if bool(one.probes[0].choices) == (kind == "choices")]
                label = f"{kind} of the {'adapted form' if arm == 'adapted' else 'base'}"
                try:
                    _ask(asked, arm, form, looks, engine, settings, store, progress, label, shard_size)
                except AssessmentError as err:
                    if err.code != "engine_cannot_choose":
                        raise
                    unanswered |= {one.instrument.measure: str(err) for one in asked}
                    active = [one for one in active if one not in asked]
        for one in active:
            look = looks[one.instrument.measure]
            try:
                _grade(one, look, forms, progress)
            except AssessmentError as err:
                if not grader_failed(err):
                    raise
                unanswered[one.instrument.measure] = str(err)
                continue
            one.seen += len(look)
            one.stopped = _stopped(one, stopping)
        active = [
            one
            for one in active
            if one.instrument.measure not in unanswered and one.stopped is None and one.seen < len(one.order)
        ]
    runs = {one.instrument.measure: one.run() for one in going if one.instrument.measure not in unanswered}
    return runs, unanswered


def _grade(one: _Going, look: Sequence[Probe], arms: Collection[str], progress: Progress) -> None:
    for arm in arms:
        answers = [one.answers[arm][probe.id] for probe in look]
        title = f"grades of {one.instrument.measure}, {arm}"
        grades = grade_answers(one.graders, look, answers, progress, label=title)
        kept = one.labels.setdefault(arm, {})
        for name, labels in grades.labels.items():
            kept.setdefault(name, {}).update(labels)


def asked_in_looks(measure: str, probes: Sequence[Probe], *, shard_size: int) -> list[list[list[Probe]]]:
    """The ways in which `run_in_looks` may have put all probes of an instrument: pieces as they are stored."""
    order, ways = _order(probes), []
    for stoppable in (True, False):
        pieces, seen = [], 0
        while seen < len(order):
            end = _end(seen, len(order), stoppable)
            pieces += _pieces(measure, order[seen:end], shard_size)
            seen = end
        ways.append(pieces)
    return ways


def _end(seen: int, planned: int, stoppable: bool) -> int:
    return min(planned, max(FIRST_LOOK, 2 * seen)) if stoppable else planned


def _order(probes: Sequence[Probe]) -> tuple[Probe, ...]:
    by_id = sorted(probes, key=lambda probe: probe.id)
    return tuple(by_id[place] for place in order_of(probe_set_digest(probes), len(probes)))


def _pieces(measure: str, look: Sequence[Probe], shard_size: int) -> list[list[Probe]]:
    # Ids are unique within an instrument; with the measure before them they are within the battery.
    asked = [replace(probe, id=f"{measure}/{probe.id}", pair=None) for probe in look]
    return [asked[start : start + shard_size] for start in range(0, len(asked), shard_size)]


def _begun(
    instrument: InstrumentSpec, probes: tuple[Probe, ...], voters: Mapping[str, Sequence[Grader]], stopping: Stopping
) -> _Going:
    tested = bool(stopping) and all(any(test.measure == instrument.measure for test in tests) for tests in stopping)
    return _Going(
        instrument=instrument,
        probes=probes,
        order=_order(probes),
        graders=voters[instrument.measure],
        stoppable=tested and len({probe.cluster for probe in probes}) == len(probes),
    )


def _ask(
    asked: Sequence[_Going],
    arm: str,
    form: LocalForm,
    looks: Mapping[str, tuple[Probe, ...]],
    engine: Engine,
    settings: GenerationSettings,
    store: AnswerStore,
    progress: Progress,
    label: str,
    shard_size: int,
) -> None:
    pieces: list[list[Probe]] = []
    owners: list[tuple[_Going, Probe]] = []
    for one in asked:
        look = looks[one.instrument.measure]
        pieces += _pieces(one.instrument.measure, look, shard_size)
        owners += [(one, probe) for probe in look]
    answers = collect_pieces(engine, form, pieces, settings, store, progress, label=label, shard_size=shard_size)
    for (one, probe), answer in zip(owners, answers, strict=True):
        one.answers.setdefault(arm, {})[probe.id] = replace(answer, probe_id=probe.id)


def _stopped(one: _Going, stopping: Stopping) -> Stopped | None:
    """The record of an instrument that every policy fails by now, or None to go on."""
    planned, seen = len(one.order), one.order[: one.seen]
    if not one.stoppable or one.seen >= planned:
        return None
    adapted, base = one.arm("adapted", seen), one.arm("base", seen)
    letters = "" if adapted is None else outcomes(one.instrument, seen, adapted, base)
    if not letters:
        return None
    found = Stopped(
        measure=one.instrument.measure, planned=planned, paired=base is not None, outcomes=letters, cause="-"
    )
    proofs: dict[str, None] = {}
    for tests in stopping:
        proved = [
            test
            for test in tests
            if test.measure == found.measure and test.proves(found.events, found.differences, found.probes, planned)
        ]
        if not proved:
            return None
        proofs |= dict.fromkeys(f"the {test.kind} of {100 * test.limit:g} {_UNIT[test.kind]}" for test in proved)
    cause = f"broken after {found.probes} of {planned} probes, so the rest was not put: {', '.join(proofs)}"
    return replace(found, cause=cause)


_UNIT: Mapping[Literal["ceiling", "margin"], str] = {"ceiling": "%", "margin": "pp"}
