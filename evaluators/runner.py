"""Turn a battery, a form and its base into an assessment: answers, grades, measurements, validity checks.

Each step is a module of its own, so that a worker can make each of them durable and a reader finds one job in one
place: `answers` obtains and keeps them, `grading` has them labelled, `measuring` counts, `validity` says whether the
counts can be believed. Apart from the `AnswerStore` there is no file, clock or randomness in them: equal answers and
grades give the byte-identical assessment, also after a run that was killed and resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluators.answers import (
    SHARD_PROBES,
    AnswerStore,
    Progress,
    collect_answers,
    engine_identity,
    settings_of,
)
from evaluators.engines.interface import Answer, Engine, GenerationSettings, LocalForm
from evaluators.graders.interface import Grader
from evaluators.grading import Arm, Grades, grade_answers, grader_failed
from evaluators.instruments.catalogue import CONSTRUCTS
from evaluators.instruments.probe import Probe, probe_set_digest
from evaluators.instruments.sources import load_probes
from evaluators.measuring import Run, check_axes, measure
from evaluators.stopping import Stopping, run_in_looks
from evaluators.validity import validity_checks
from registry_gate import __version__
from registry_gate.assessment import Assessment, GraderRecord, Measurement, NotMeasured
from registry_gate.battery import Battery, InstrumentSpec
from registry_gate.errors import AssessmentError

__all__ = [
    "AXES", "AnswerStore", "Arm", "Grades", "Run", "Subject", "assess", "collect_answers", "engine_identity",
    "grade_answers", "load_all", "measure", "settings_of", "validity_checks",
]  # fmt: skip

AXES = {metric: construct.axes for metric, construct in CONSTRUCTS.items()}
"""Axes that a metric needs a vote on (METHOD.md section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is assessed.

    Args:
        form: The adapted form.
        base: What it was adapted from, the reference of the paired comparison; None when the form declares none.
    """

    form: LocalForm
    base: LocalForm | None

    @property
    def reference(self) -> LocalForm | None:
        """The base as it is asked: under the form's system prompt, because both arms answer under the same settings."""
        return None if self.base is None else replace(self.base, system_prompt=self.form.system_prompt)


def load_all(
    battery: Battery, *, probe_dirs: Sequence[Path]
) -> tuple[dict[str, tuple[Probe, ...]], tuple[NotMeasured, ...]]:
    """The probes of every instrument by measure, and why the probes of others cannot be used."""
    loaded: dict[str, tuple[Probe, ...]] = {}
    broken: list[NotMeasured] = []
    for instrument in battery.spec.instruments:
        try:
            loaded[instrument.measure] = load_probes(instrument, probe_dirs=probe_dirs)
        except AssessmentError as err:
            broken.append(NotMeasured(measure=instrument.measure, cause=str(err)))
    return loaded, tuple(broken)


def asked_probes(loaded: Mapping[str, Sequence[Probe]]) -> dict[str, list[Probe]]:
    """What is put to a form, under ids that are unique in the battery: `answers` it writes, `choices` it weighs."""
    asked = [replace(probe, id=f"{name}/{probe.id}", pair=None) for name, probes in loaded.items() for probe in probes]
    return {
        "answers": [probe for probe in asked if not probe.choices],
        "choices": [probe for probe in asked if probe.choices],
    }


def assess(
    battery: Battery,
    subject: Subject,
    base_digest: str | None,
    engine: Engine,
    graders: Sequence[Grader],
    probe_dirs: Sequence[Path],
    store: AnswerStore,
    assessed_at: str,
    progress: Progress,
    *,
    shard_size: int = SHARD_PROBES,
    stopping: Stopping = (),
) -> Assessment:
    """Measure everything that a battery asks of a form.

    Args:
        battery: What to measure.
        subject: The form and its base, ready to load.
        base_digest: Digest of the base as it was resolved; must be that of `subject.base`.
        engine: Obtains answers.
        graders: Every grader that an instrument of the battery names; others are not used.
        probe_dirs: Where external probe files are looked for.
        store: Where answers are kept.
        assessed_at: When the run began, `2026-11-23T12:00:00Z`.
        progress: Told what is being done.
        shard_size: Probes of one call of the engine.
        stopping: What ends an instrument early, policy by policy; nothing measures everything.

    Returns:
        The assessment. An instrument whose probes cannot be loaded, or one of whose graders fails, is `NotMeasured` in
        it, and fails the check of completeness.

    Raises:
        AssessmentError: The base is another than was resolved; a grader is missing, listed twice, or does not cover an
            axis; or the engine failed. Nothing is measured then, and no evidence can come of it.
    """
    # (1) The subject, and somebody to grade it.
    resolved = None if subject.base is None else subject.base.digest
    if resolved != base_digest:
        raise AssessmentError(
            f"expected the base {base_digest or 'none'}, got {resolved or 'none'} to load", code="base_mismatch"
        )
    voters = _voters(battery, graders)

    # (2) The probes.
    loaded, broken = load_all(battery, probe_dirs=probe_dirs)
    settings = settings_of(battery.spec.generation)
    forms = {"adapted": subject.form, **({"base": subject.reference} if subject.reference is not None else {})}

    # (3) Answers of both arms to the same probes with the same settings, (4) grades.
    instruments = [(one, loaded[one.measure]) for one in battery.spec.instruments if one.measure in loaded]
    how = (engine, settings, store, progress)
    if stopping:
        by_measure, unanswered = run_in_looks(instruments, forms, voters, stopping, *how, shard_size=shard_size)
    else:
        by_measure, unanswered = _run_in_full(instruments, forms, voters, *how, shard_size=shard_size)

    # (5) Counts.
    runs = list(by_measure.values())
    measurements: dict[str, Measurement] = {one.measure: one for one in broken}
    measurements |= {name: NotMeasured(measure=name, cause=cause) for name, cause in unanswered.items()}
    for name, run in by_measure.items():
        measurements[name] = run.stopped or measure(
            run.instrument,
            run.probes,
            run.adapted.answers,
            None if run.base is None else run.base.answers,
            run.adapted.grades,
            None if run.base is None else run.base.grades,
        )

    # (6) Whether any of it can be believed, (7) all of it in one value.
    missing = {name: one.cause for name, one in measurements.items() if isinstance(one, NotMeasured)}
    used = {grader.name: grader for instrument in voters.values() for grader in (g.identity for g in instrument)}
    return Assessment(
        form_digest=subject.form.digest,
        base_digest=base_digest,
        battery=battery.id,
        battery_digest=battery.digest,
        probe_sets={name: probe_set_digest(probes) for name, probes in sorted(loaded.items())},
        graders=tuple(
            GraderRecord(
                name=used[name].name,
                version=used[name].version,
                family=used[name].family,
                axis=used[name].axis,
                digest=used[name].digest,
                runtime=used[name].runtime,
            )
            for name in sorted(used)
        ),
        generation={**settings.identity(), "engine": engine_identity(engine)},
        measurements=tuple(measurements[instrument.measure] for instrument in battery.spec.instruments),
        validity=validity_checks(
            runs,
            battery.spec.validity,
            instruments=len(battery.spec.instruments),
            missing=missing,
            max_new_tokens=settings.max_new_tokens,
        ),
        assessed_at=assessed_at,
        tool=f"registry-gate {__version__}",
    )


def _run_in_full(
    loaded: Sequence[tuple[InstrumentSpec, tuple[Probe, ...]]],
    forms: Mapping[str, LocalForm],
    voters: Mapping[str, Sequence[Grader]],
    engine: Engine,
    settings: GenerationSettings,
    store: AnswerStore,
    progress: Progress,
    *,
    shard_size: int,
) -> tuple[dict[str, Run], dict[str, str]]:
    """Every probe of every instrument put to all arms; choices in a pass of their own."""
    by_kind = asked_probes({one.measure: probes for one, probes in loaded})
    answers: dict[str, dict[str, Answer]] = {}
    unanswered: dict[str, str] = {}
    for arm, form in forms.items():
        answers[arm] = {}
        for kind, probes_of_kind in by_kind.items():
            label = f"{kind} of the {'adapted form' if arm == 'adapted' else 'base'}"
            try:
                collected = collect_answers(
                    engine, form, probes_of_kind, settings, store, progress, label=label, shard_size=shard_size
                )
            except AssessmentError as err:
                # An engine without likelihoods still measures everything else; what it cannot has its own sentence.
                if err.code != "engine_cannot_choose":
                    raise
                unanswered |= {one.measure: str(err) for one, probes in loaded if probes[0].choices}
            else:
                answers[arm] |= {answer.probe_id: answer for answer in collected}
    runs = {}
    for one, probes in loaded:
        if one.measure not in unanswered:
            try:
                arms = {
                    arm: _graded(one, probes, by_id, voters[one.measure], arm, progress)
                    for arm, by_id in answers.items()
                }
            except AssessmentError as err:
                if not grader_failed(err):
                    raise
                unanswered[one.measure] = str(err)
                continue
            runs[one.measure] = Run(instrument=one, probes=probes, adapted=arms["adapted"], base=arms.get("base"))
    return runs, unanswered


def _voters(battery: Battery, graders: Sequence[Grader]) -> dict[str, tuple[Grader, ...]]:
    by_name: dict[str, Grader] = {}
    for grader in graders:
        if grader.identity.name in by_name:
            raise AssessmentError(
                f"expected each grader once, got two called {grader.identity.name!r}", code="grader_missing"
            )
        by_name[grader.identity.name] = grader
    voters = {}
    for instrument in battery.spec.instruments:
        missing = [name for name in instrument.graders if name not in by_name]
        if missing:
            raise AssessmentError(
                f"{instrument.measure}: expected the graders {', '.join(instrument.graders)}, got "
                f"{', '.join(sorted(by_name)) or 'none'}: load {', '.join(missing)}",
                code="grader_missing",
            )
        voters[instrument.measure] = tuple(by_name[name] for name in instrument.graders)
        check_axes(instrument, [grader.identity for grader in voters[instrument.measure]])
    return voters


def _graded(
    instrument: InstrumentSpec,
    probes: Sequence[Probe],
    by_id: Mapping[str, Answer],
    graders: Sequence[Grader],
    arm: str,
    progress: Progress,
) -> Arm:
    answers = tuple(replace(by_id[f"{instrument.measure}/{probe.id}"], probe_id=probe.id) for probe in probes)
    grades = grade_answers(graders, probes, answers, progress, label=f"grades of {instrument.measure}, {arm}")
    return Arm(answers=answers, grades=grades)
