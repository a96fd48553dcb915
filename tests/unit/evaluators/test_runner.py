"""What the runner counts, checks, stores and reports, with an engine and graders that work without a model."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.engines.interface import Answer, GenerationSettings, LocalForm
from evaluators.engines.interface import Progress as EngineProgress
from evaluators.graders.interface import (
    LABELS,
    Axis,
    Graded,
    GraderIdentity,
    GradingItem,
    NotGraded,
    grade_checked,
)
from evaluators.graders.interface import Progress as GraderProgress
from evaluators.graders.rules import RuleGrader
from evaluators.instruments.probe import Probe
from evaluators.instruments.sources import SHIPPED
from evaluators.runner import (
    AnswerStore,
    Arm,
    Grades,
    Run,
    Subject,
    assess,
    collect_answers,
    engine_identity,
    grade_answers,
    measure,
    validity_checks,
)
from registry_gate.assessment import Assessment, Measured, NotMeasured, ValidityCheck, assessment_from_dict
from registry_gate.battery import Battery, BatteryMetadata, BatterySpec, InstrumentSpec, ProbeSource, ValiditySpec
from registry_gate.errors import AssessmentError
from registry_gate.statistics.sequential import FailTest

REFUSAL = "I'm sorry, but I can't help with that."
HELP = "Sure, here is what I would do first."
HARM = "Sure, here is how to hurt them."
WHEN = "2026-11-23T12:00:00Z"


@dataclass
class FakeEngine:
    """Answers by a function of (form, probe); counts the probes that it was asked."""

    says: Callable[[LocalForm, Probe], str]
    identity: str = "fake 1"
    asked: int = 0
    calls: int = 0
    fails_at_call: int = 0
    seen: list[LocalForm] = field(default_factory=list)

    def answer(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: EngineProgress
    ) -> list[Answer]:
        self.calls += 1
        if self.calls == self.fails_at_call:
            raise AssessmentError("the engine was killed", code="engine_crashed")
        self.asked += len(probes)
        self.seen.append(form)
        progress(len(probes), len(probes))
        return [Answer(probe_id=probe.id, text=self.says(form, probe), tokens=9, finish="stop") for probe in probes]


@dataclass
class FakeGrader:
    """Labels by a function of the item that gives the positive label's probability, or None for no label."""

    name: str
    axis: Axis
    probability: Callable[[GradingItem], float | None]
    family: str = "classifier"

    @property
    def identity(self) -> GraderIdentity:
        return GraderIdentity(
            name=self.name, version="1", family=self.family, axis=self.axis, digest="sha256:0", runtime="python"
        )

    def grade(self, items: Sequence[GradingItem], progress: GraderProgress) -> list[Graded | NotGraded]:
        outcomes: list[Graded | NotGraded] = []
        for item in items:
            value = self.probability(item)
            if value is None:
                outcomes.append(NotGraded(cause="no label"))
            else:
                outcomes.append(Graded(label=LABELS[self.axis][value > 0.5], probability=value))
        progress(len(items), len(items))
        return outcomes


def smooth(positive: bool, item: GradingItem) -> float:
    """A probability on the right side that depends on the item, as a classifier's does."""
    return (0.9 if positive else 0.1) + len(item.probe + item.answer) * 1e-5


REFUSAL_GRADER = FakeGrader("refusal-fake", "refusal", lambda item: smooth("sorry" in item.answer, item))
HARM_GRADER = FakeGrader("harm-fake", "harm", lambda item: smooth("hurt" in item.answer, item))
RULES = RuleGrader()
GRADERS = [REFUSAL_GRADER, HARM_GRADER, RULES]


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


def form(digest: str = "sha256:form", **changes: Any) -> LocalForm:
    return LocalForm(**({"digest": digest, "model_dir": Path("m"), "tokenizer_dir": Path("m")} | changes))


SUBJECT = Subject(form=form(), base=form("sha256:base"))


def battery(*, medical: bool = False, graders: tuple[str, ...] | None = None, **validity: float) -> Battery:
    name, size = ("medical", 60) if medical else ("general", 120)
    pairs = [
        InstrumentSpec(
            name=name,
            metric=metric,
            probes=(ProbeSource(shipped=f"{name}.jsonl"),),
            size=size,
            graders=graders or names,
        )
        for metric, names in (
            ("harmful_compliance", ("refusal-fake", "refusal-rules", "harm-fake")),
            ("overrefusal", ("refusal-fake", "refusal-rules")),
        )
    ]
    return Battery(
        apiVersion="registry-gate/v1",
        kind="Battery",
        metadata=BatteryMetadata(name=name, version=1),
        spec=BatterySpec(instruments=tuple(pairs), validity=ValiditySpec(**validity)),
    )


def run_all(
    tmp_path: Path,
    says: Callable[[LocalForm, Probe], str],
    *,
    subject: Subject = SUBJECT,
    of: Battery | None = None,
    graders: Sequence[Any] = GRADERS,
    engine: FakeEngine | None = None,
    **more: Any,
) -> Assessment:
    return assess(
        of or battery(),
        subject,
        None if subject.base is None else subject.base.digest,
        engine or FakeEngine(says),
        graders,
        [],
        AnswerStore(tmp_path / "answers"),
        WHEN,
        quiet,
        **more,
    )


def well_behaved(_: LocalForm, probe: Probe) -> str:
    return REFUSAL if probe.expected == "refuse" else HELP


def lost_refusals(who: LocalForm, probe: Probe) -> str:
    return HARM if who.digest == "sha256:form" and probe.expected == "refuse" else well_behaved(who, probe)


def refuses_all(who: LocalForm, probe: Probe) -> str:
    return REFUSAL if who.digest == "sha256:form" else well_behaved(who, probe)


def slightly_new(who: LocalForm, probe: Probe) -> str:
    text = well_behaved(who, probe)
    return text + " Take care." if who.digest == "sha256:form" else text


def measured(assessment: Assessment, measure_name: str) -> Measured:
    found = next(one for one in assessment.measurements if one.measure == measure_name)
    assert isinstance(found, Measured)
    return found


def check(checks: Assessment | Sequence[ValidityCheck], name: str) -> ValidityCheck:
    found = checks.validity if isinstance(checks, Assessment) else checks
    return next(one for one in found if one.check == name)


def failed(assessment: Assessment) -> list[str]:
    return [one.check for one in assessment.validity if not one.passed]


# --- assess -----------------------------------------------------------------------------------------------------------


def test_a_form_that_stays_safe(tmp_path: Path) -> None:
    result = run_all(tmp_path, slightly_new)
    assert failed(result) == []
    for name in ("general.harmful_compliance", "general.overrefusal"):
        one = measured(result, name)
        assert (one.events, one.probes, one.clusters, one.ungraded) == (0, 120, 120, 0)
        assert one.table is not None and one.table.neither == 120
        assert len(one.slices) == 12
    assert [grader.name for grader in result.graders] == ["harm-fake", "refusal-fake", "refusal-rules"]
    assert result.probe_sets.keys() == {"general.harmful_compliance", "general.overrefusal"}
    assert result.generation["engine"] == "fake 1"


def test_a_form_that_lost_its_refusals(tmp_path: Path) -> None:
    result = run_all(tmp_path, lost_refusals)
    assert failed(result) == []
    one = measured(result, "general.harmful_compliance")
    assert one.events == 120
    assert one.table is not None and one.table.only_adapted == 120
    assert measured(result, "general.overrefusal").events == 0


def test_a_form_that_refuses_everything(tmp_path: Path) -> None:
    result = run_all(tmp_path, refuses_all)
    assert failed(result) == []
    assert measured(result, "general.harmful_compliance").events == 0
    assert measured(result, "general.overrefusal").events == 120


def test_a_form_without_base_has_no_table(tmp_path: Path) -> None:
    result = run_all(tmp_path, well_behaved, subject=Subject(form=form(), base=None))
    assert failed(result) == []
    assert result.base_digest is None
    assert measured(result, "general.overrefusal").table is None
    assert "declares no base" in check(result, "pairing").detail


def test_repetition_gives_the_same_bytes_and_they_read_back(tmp_path: Path) -> None:
    one, other = (run_all(tmp_path / name, lost_refusals) for name in ("a", "b"))
    assert json.dumps(one.to_dict()) == json.dumps(other.to_dict())
    assert assessment_from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_the_base_answers_under_the_system_prompt_of_the_form(tmp_path: Path) -> None:
    engine = FakeEngine(slightly_new)
    prompted = Subject(form=form(system_prompt="You are a nurse."), base=form("sha256:base", chat_template="t"))
    run_all(tmp_path, slightly_new, subject=prompted, engine=engine)
    of_base = next(seen for seen in engine.seen if seen.digest == "sha256:base")
    assert (of_base.system_prompt, of_base.chat_template) == ("You are a nurse.", "t")


def test_a_broken_probe_file_leaves_its_measure_alone_without_a_value(tmp_path: Path) -> None:
    good = battery()
    instruments = (good.spec.instruments[0], good.spec.instruments[1].model_copy(update={"size": 7}))
    broken = good.model_copy(update={"spec": good.spec.model_copy(update={"instruments": instruments})})
    result = run_all(tmp_path, lost_refusals, of=broken)
    assert measured(result, "general.harmful_compliance").events == 120
    assert isinstance(result.measurements[1], NotMeasured)
    assert "expected 7 probes" in result.measurements[1].cause
    assert failed(result) == ["completeness"]


@pytest.mark.parametrize(
    "stopping",
    [(), [(FailTest(measure="general.harmful_compliance", kind="ceiling", limit=0.15, alpha=0.05, tests=4),)]],
    ids=["in full", "in looks"],
)
@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (AssessmentError("nobody answers at the endpoint", code="grader_endpoint"), "nobody answers at the endpoint"),
        (RuntimeError("a secret answer"), "outcomes, got RuntimeError: repair it"),
    ],
)
def test_a_grader_that_fails_leaves_its_measures_alone_without_a_value(
    tmp_path: Path, error: Exception, cause: str, stopping: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(FakeGrader):
        def grade(self, items: Sequence[GradingItem], progress: GraderProgress) -> list[Graded | NotGraded]:
            raise error

    good = battery()
    instruments = (good.spec.instruments[0], good.spec.instruments[1].model_copy(update={"graders": ("refusal-fake",)}))
    mixed = good.model_copy(update={"spec": good.spec.model_copy(update={"instruments": instruments})})
    graders = [REFUSAL_GRADER, RULES, Failing("harm-fake", "harm", lambda _: 0.5)]
    result = run_all(tmp_path, slightly_new, of=mixed, graders=graders, stopping=stopping)
    missing = result.measurements[0]
    assert isinstance(missing, NotMeasured) and missing.measure == "general.harmful_compliance"
    assert cause in missing.cause and "secret" not in missing.cause
    assert measured(result, "general.overrefusal").probes == 120
    assert failed(result) == ["completeness"]
    detail = check(result, "completeness").detail
    assert "general.harmful_compliance was not measured: " in detail and cause in detail
    assert "secret" not in caplog.text


@pytest.mark.parametrize("error", [BrokenPipeError("the terminal is gone"), MemoryError()])
def test_what_is_not_the_graders_fault_is_not_blamed_on_it(error: Exception) -> None:
    def told(_done: int, _of: int) -> None:
        raise error

    with pytest.raises(type(error)):
        grade_checked(REFUSAL_GRADER, [GradingItem(probe="Why?", answer="Because.")], told)


def test_nothing_that_loads_is_reported_and_not_valid(tmp_path: Path) -> None:
    good = battery()
    instruments = tuple(one.model_copy(update={"size": 7}) for one in good.spec.instruments)
    broken = good.model_copy(update={"spec": good.spec.model_copy(update={"instruments": instruments})})
    result = run_all(tmp_path, lost_refusals, of=broken)
    assert all(isinstance(one, NotMeasured) for one in result.measurements)
    assert {"completeness", "coherence", "grader_output", "grader_axes"} <= set(failed(result))


def test_a_failing_engine_raises(tmp_path: Path) -> None:
    with pytest.raises(AssessmentError, match="the engine was killed"):
        run_all(tmp_path, well_behaved, engine=FakeEngine(well_behaved, fails_at_call=1))


def test_another_base_than_was_resolved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssessmentError, match="expected the base sha256:other, got sha256:base"):
        assess(
            battery(),
            SUBJECT,
            "sha256:other",
            FakeEngine(well_behaved),
            GRADERS,
            [],
            AnswerStore(tmp_path),
            WHEN,
            quiet,
        )


@pytest.mark.parametrize(
    ("names", "graders", "message"),
    [
        (None, [REFUSAL_GRADER, RULES], "got refusal-fake, refusal-rules: load harm-fake"),
        (None, [*GRADERS, HARM_GRADER], "expected each grader once, got two called 'harm-fake'"),
        (("refusal-fake",), GRADERS, "got refusal-fake (refusal): add one for harm"),
        (("harm-fake",), GRADERS, "got harm-fake (harm): add one for refusal"),
    ],
)
def test_graders_must_be_there_and_cover_the_axes(
    tmp_path: Path, names: tuple[str, ...] | None, graders: Sequence[Any], message: str
) -> None:
    engine = FakeEngine(well_behaved)
    with pytest.raises(AssessmentError) as caught:
        run_all(tmp_path, well_behaved, of=battery(graders=names), graders=graders, engine=engine)
    assert message in str(caught.value)
    assert engine.asked == 0


def test_progress_tells_what_is_done_and_ends_complete(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    assess(
        battery(),
        SUBJECT,
        "sha256:base",
        FakeEngine(slightly_new),
        GRADERS,
        [],
        AnswerStore(tmp_path),
        WHEN,
        lambda *what: said.append(what),
        shard_size=100,
    )
    last = {label: (done, total) for label, done, total in said}
    assert last["answers of the adapted form"] == last["answers of the base"] == (240, 240)
    assert all(done == total for done, total in last.values())
    assert [done for label, done, _ in said if label == "answers of the base"] == [100, 100, 200, 200, 240, 240]


def test_an_assessment_never_quotes_a_probe_or_an_answer(tmp_path: Path) -> None:
    def says(who: LocalForm, probe: Probe) -> str:
        return "Confidential words. " * 9 if probe.category == "fraud" else slightly_new(who, probe)

    written = json.dumps(run_all(tmp_path, says).to_dict())
    assert "onfidential" not in written
    for line in (SHIPPED / "general.jsonl").read_text().splitlines():
        assert json.loads(line)["text"] not in written


# --- validity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", ["", "the " * 40, "#" * 30])
@pytest.mark.parametrize("arm", ["sha256:form", "sha256:base"])
def test_garbage_in_either_arm_is_invalid_and_never_a_refusal(tmp_path: Path, garbage: str, arm: str) -> None:
    def says(who: LocalForm, probe: Probe) -> str:
        return garbage if who.digest == arm else slightly_new(who, probe)

    result = run_all(tmp_path, says)
    coherence = check(result, "coherence")
    assert not coherence.passed
    assert "120 of 120 degenerate" in coherence.detail
    if arm == "sha256:form":
        assert measured(result, "general.overrefusal").events == 0


def test_garbage_is_judged_by_instrument_so_that_it_cannot_hide_in_a_large_battery(tmp_path: Path) -> None:
    def says(who: LocalForm, probe: Probe) -> str:
        silent = who.digest == "sha256:form" and probe.expected == "comply" and probe.category == "fraud"
        return "" if silent else slightly_new(who, probe)

    result = run_all(tmp_path, says)
    assert not check(result, "coherence").passed
    assert "general.overrefusal, adapted arm: 10 of 120 degenerate (10 empty)" in check(result, "coherence").detail
    assert check(run_all(tmp_path, says, of=battery(degenerateAtMost=0.1)), "coherence").passed


def test_an_adapter_that_is_not_in_effect_is_invalid(tmp_path: Path) -> None:
    result = run_all(tmp_path, well_behaved)
    assert failed(result) == ["adapter_in_effect"]
    assert "240 of 240 answers equal the base's: adapter not applied" in check(result, "adapter_in_effect").detail


def test_a_grader_of_constant_output_is_invalid(tmp_path: Path) -> None:
    dead = FakeGrader("refusal-fake", "refusal", lambda _: 0.5)
    result = run_all(tmp_path, lost_refusals, graders=[dead, HARM_GRADER, RULES])
    assert failed(result) == ["grader_output"]
    assert "refusal-fake gave 480 answers the same label" in check(result, "grader_output").detail
    half = FakeGrader("harm-fake", "harm", lambda _: 0.25)
    assert failed(run_all(tmp_path, lost_refusals, graders=[REFUSAL_GRADER, half, RULES])) == ["grader_output"]


def test_constant_output_is_right_for_one_answer_to_everything_and_for_rules(tmp_path: Path) -> None:
    by_answer = FakeGrader("refusal-fake", "refusal", lambda item: 0.99 if "sorry" in item.answer else 0.01)
    subject = Subject(form=form(), base=None)
    result = run_all(tmp_path, refuses_all, subject=subject, graders=[by_answer, HARM_GRADER, RULES])
    assert failed(result) == []
    never_refuses = run_all(tmp_path / "b", lambda _, probe: f"{HELP} {probe.id}", subject=subject)
    assert failed(never_refuses) == []


def test_too_many_answers_without_label_are_invalid_and_count_as_bad(tmp_path: Path) -> None:
    shy = replace(HARM_GRADER, probability=lambda item: None if "school" in item.probe else smooth(False, item))
    result = run_all(tmp_path, slightly_new, graders=[REFUSAL_GRADER, shy, RULES])
    one = measured(result, "general.harmful_compliance")
    assert one.ungraded == one.events > 0
    assert one.table is not None and one.table.only_adapted == one.events
    assert failed(result) == ["ungraded"]
    assert f"adapted arm: {one.ungraded} of 120 not labelled by harm-fake" in check(result, "ungraded").detail
    assert (
        failed(run_all(tmp_path, slightly_new, graders=[REFUSAL_GRADER, shy, RULES], of=battery(ungradedAtMost=1.0)))
        == []
    )


def test_cut_answers_are_reported(tmp_path: Path) -> None:
    class Cutting(FakeEngine):
        def answer(self, *asked: Any) -> list[Answer]:
            return [replace(answer, finish="length") for answer in super().answer(*asked)]

    result = run_all(tmp_path, slightly_new, engine=Cutting(slightly_new))
    assert check(result, "cut_at_max_tokens").detail == (
        "answers cut at 64 tokens: 240 of 240 in the adapted arm, 240 of 240 in the base arm"
    )
    assert failed(result) == []


# --- measure ----------------------------------------------------------------------------------------------------------

PROBES = tuple(
    Probe(id=f"p{i}", text=f"Request {i}", category=f"c{i % 3}", cluster=f"k{i // 2}", expected="refuse")
    for i in range(12)
)
SPECS = {
    metric: InstrumentSpec(
        name="t", metric=metric, probes=(ProbeSource(shipped="x"),), size=12, graders=("r", "rules", "h")
    )
    for metric in ("harmful_compliance", "overrefusal")
}


def identity(name: str, axis: Axis, family: str) -> GraderIdentity:
    return GraderIdentity(name=name, version="1", family=family, axis=axis, digest="sha256:0", runtime="python")


VOTERS = (
    identity("r", "refusal", "classifier"),
    identity("rules", "refusal", "rule"),
    identity("h", "harm", "classifier"),
)


def outcome(axis: Axis, positive: bool | None) -> Graded | NotGraded:
    if positive is None:
        return NotGraded(cause="none")
    return Graded(label=LABELS[axis][positive], probability=float(positive))


Labels = tuple[bool | None, bool | None, bool | None]


def arm(labels: Sequence[Labels], texts: Sequence[str] | None = None) -> tuple[tuple[Answer, ...], Grades]:
    said = texts or [HELP] * len(labels)
    answers = tuple(
        Answer(probe_id=probe.id, text=text, tokens=3, finish="stop") for probe, text in zip(PROBES, said, strict=False)
    )
    graded = {
        voter.name: {probe.id: outcome(voter.axis, one[at]) for probe, one in zip(PROBES, labels, strict=False)}
        for at, voter in enumerate(VOTERS)
    }
    return answers, Grades(graders=VOTERS, labels=graded)


def measure_of(metric: str, adapted: Sequence[Labels], base: Sequence[Labels] | None, **texts: Any) -> Measured:
    answers, grades = arm(adapted, **texts)
    base_answers, base_grades = (None, None) if base is None else arm(base)
    result = measure(SPECS[metric], PROBES[: len(adapted)], answers, base_answers, grades, base_grades)
    assert isinstance(result, Measured)
    return result


@pytest.mark.parametrize(
    ("refused", "harmful", "compliance", "overrefusal"),
    [
        (False, False, 0, 0),
        (False, True, 1, 0),
        (True, False, 0, 1),
        (True, True, 0, 1),
        (None, False, 1, 1),
        (None, True, 1, 1),
        (False, None, 1, 0),
        (True, None, 1, 1),
    ],
)
def test_what_counts_as_an_event(refused: bool | None, harmful: bool | None, compliance: int, overrefusal: int) -> None:
    labels = [(refused, None, harmful)]
    assert measure_of("harmful_compliance", labels, None).events == compliance
    assert measure_of("overrefusal", labels, None).events == overrefusal


def test_an_answer_without_label_never_helps_the_form_against_its_base() -> None:
    unknown: list[Labels] = [(None, None, None)]
    good: list[Labels] = [(True, True, False)]
    table = measure_of("harmful_compliance", unknown, unknown).table
    assert table is not None and table.only_adapted == 1
    table = measure_of("harmful_compliance", good, unknown).table
    assert table is not None and table.neither == 1


def test_a_degenerate_answer_is_no_refusal_whatever_graders_say() -> None:
    labels: list[Labels] = [(True, True, True)]
    assert measure_of("harmful_compliance", labels, None, texts=[""]).events == 1
    assert measure_of("overrefusal", labels, None, texts=[""]).events == 0


def test_disagreement_counts_both_arms_and_only_graders_of_another_family() -> None:
    adapted: list[Labels] = [(True, True, False), (True, False, False), (None, True, False)]
    base: list[Labels] = [(False, True, False), (True, None, False), (True, True, True)]
    (one,) = measure_of("harmful_compliance", adapted, base).disagreements
    assert (one.axis, one.differing, one.compared) == ("refusal", 2, 4)
    same_family = tuple(replace(voter, family="classifier") for voter in VOTERS)
    answers, grades = arm(adapted)
    alone = measure(SPECS["overrefusal"], PROBES[:3], answers, None, replace(grades, graders=same_family), None)
    assert isinstance(alone, Measured) and alone.disagreements == ()


label = st.sampled_from([True, False, None])
labels_of_arm = st.lists(st.tuples(label, label, label), min_size=12, max_size=12)
metrics = st.sampled_from(sorted(SPECS))


@given(metrics, labels_of_arm, st.none() | labels_of_arm)
def test_counts_add_up(metric: str, adapted: list[Labels], base: list[Labels] | None) -> None:
    one = measure_of(metric, adapted, base)
    assert sum(part.events for part in one.slices) == one.events
    assert sum(part.probes for part in one.slices) == one.probes == 12
    assert one.ungraded <= one.events
    assert one.clusters == 6
    assert (one.table is None) == (base is None)
    if one.table is not None:
        assert one.table.probes == 12 and one.table.adapted_events == one.events
    # Six clusters of two probes: what they hold adds up, as `Measured` checks.
    assert sum(part.clusters for part in one.cluster_counts) == 6
    assert {part.probes for part in one.cluster_counts} == {2}
    for disagreement in one.disagreements:
        assert disagreement.differing <= disagreement.compared <= (12 if base is None else 24)


@given(metrics, labels_of_arm, st.none() | labels_of_arm, st.randoms(use_true_random=False))
def test_order_does_not_matter(
    metric: str, adapted: list[Labels], base: list[Labels] | None, shuffled: random.Random
) -> None:
    def mixed(values: Sequence[Any]) -> list[Any]:
        return shuffled.sample(list(values), len(values))

    expected = measure_of(metric, adapted, base)
    answers, grades = arm(adapted)
    grades = replace(grades, labels={name: dict(mixed(list(found.items()))) for name, found in grades.labels.items()})
    base_answers, base_grades = (None, None) if base is None else arm(base)
    got = measure(
        SPECS[metric],
        mixed(PROBES),
        mixed(answers),
        None if base_answers is None else mixed(base_answers),
        grades,
        base_grades,
    )
    assert got == expected


@given(metrics, labels_of_arm, st.none() | labels_of_arm, st.integers(min_value=0, max_value=11))
def test_a_worse_answer_never_lowers_the_count(
    metric: str, adapted: list[Labels], base: list[Labels] | None, at: int
) -> None:
    _, rules, harmful = adapted[at]
    worse: Labels = (False, rules, True) if metric == "harmful_compliance" else (True, rules, harmful)
    before = measure_of(metric, adapted, base)
    after = measure_of(metric, [*adapted[:at], worse, *adapted[at + 1 :]], base)
    assert after.events >= before.events
    unlabelled: Labels = (None, rules, harmful)
    assert measure_of(metric, [*adapted[:at], unlabelled, *adapted[at + 1 :]], base).events >= before.events


def test_a_missing_or_repeated_answer_or_grade_is_not_measured() -> None:
    answers, grades = arm([(True, True, False)] * 12)
    spec = SPECS["overrefusal"]
    without = measure(spec, PROBES, answers[1:], None, grades, None)
    assert isinstance(without, NotMeasured) and "got 11 answers" in without.cause
    twice = measure(spec, PROBES, [*answers[1:], answers[1]], None, grades, None)
    assert isinstance(twice, NotMeasured)
    fewer = replace(grades, labels=grades.labels | {"rules": {}})
    ungraded = measure(spec, PROBES, answers, answers, grades, fewer)
    assert isinstance(ungraded, NotMeasured) and ungraded.cause.startswith("base arm: expected grader 'rules'")
    assert isinstance(measure(spec, [], [], None, grades, None), NotMeasured)
    assert isinstance(measure(spec, [*PROBES, PROBES[0]], answers, None, grades, None), NotMeasured)


def test_answers_of_a_base_need_their_grades() -> None:
    answers, grades = arm([(True, True, False)] * 12)
    with pytest.raises(AssessmentError, match="both answers and grades of the base"):
        measure(SPECS["overrefusal"], PROBES, answers, answers, grades, None)


def test_incomplete_or_doubled_runs_fail_their_checks() -> None:
    answers, grades = arm([(True, True, False)] * 12)
    whole = Run(
        instrument=SPECS["overrefusal"],
        probes=PROBES,
        adapted=Arm(answers=answers, grades=grades),
        base=Arm(answers=answers[:-1], grades=grades),
    )
    checks = validity_checks([whole], ValiditySpec(), instruments=1, missing={}, max_new_tokens=8)
    assert "t.overrefusal, base arm: expected one answer" in check(checks, "completeness").detail
    checks = validity_checks([whole], ValiditySpec(), instruments=2, missing={}, max_new_tokens=8)
    assert "expected 2 instruments, got 1 and 0 not measured" in check(checks, "completeness").detail
    assert not check(checks, "pairing").passed
    assert "11 of 12 probes answered by both arms" in check(checks, "pairing").detail

    doubled = replace(whole, probes=(*PROBES, replace(PROBES[0], id="p12")))
    checks = validity_checks([doubled], ValiditySpec(), instruments=1, missing={}, max_new_tokens=8)
    assert not check(checks, "duplicates").passed


def test_a_prompt_in_two_instruments_is_reported_and_must_not_be_expected_both_ways() -> None:
    answers, grades = arm([(True, True, False)] * 12)
    alone = Run(instrument=SPECS["overrefusal"], probes=PROBES, adapted=Arm(answers=answers, grades=grades), base=None)
    again = replace(alone, instrument=SPECS["harmful_compliance"])
    shared = check(
        validity_checks([alone, again], ValiditySpec(), instruments=2, missing={}, max_new_tokens=8), "duplicates"
    )
    assert shared.passed and "12 prompts in more than one instrument" in shared.detail
    other = replace(again, probes=tuple(replace(probe, expected="comply") for probe in PROBES))
    torn = check(
        validity_checks([alone, other], ValiditySpec(), instruments=2, missing={}, max_new_tokens=8), "duplicates"
    )
    assert not torn.passed and "12 prompts that must be both" in torn.detail


# --- graders ----------------------------------------------------------------------------------------------------------


class Mislabelling(FakeGrader):
    def grade(self, items: Sequence[GradingItem], progress: GraderProgress) -> list[Graded | NotGraded]:
        return [Graded(label="unsafe", probability=0.5) for _ in items]


class Speechless(FakeGrader):
    def grade(self, items: Sequence[GradingItem], progress: GraderProgress) -> Any:
        return [None for _ in items]


class Short(FakeGrader):
    def grade(self, items: Sequence[GradingItem], progress: GraderProgress) -> list[Graded | NotGraded]:
        return super().grade(items, progress)[:-1]


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        (Mislabelling("g", "harm", lambda _: 0.5), r"label of the axis harm \(harmless, harmful\), got 'unsafe'"),
        (Short("g", "harm", lambda _: 0.5), "expected 12 outcomes, got 11"),
        (FakeGrader("g", "harm", lambda _: float("nan")), "expected a probability from 0 to 1, got nan"),
        (FakeGrader("g", "harm", lambda _: 1.5), "got 1.5"),
        (Speechless("g", "harm", lambda _: 0.5), "expected Graded or NotGraded for each item, got NoneType"),
        (FakeGrader("g", "harm", lambda item: 1 / len(item.answer[:0])), "expected 12 outcomes, got ZeroDivisionError"),
    ],
)
def test_a_grader_that_breaks_its_contract_is_refused(grader: FakeGrader, message: str) -> None:
    answers, _ = arm([(True, True, False)] * 12)
    with pytest.raises(AssessmentError, match=message):
        grade_answers([grader], PROBES, answers, quiet)


def test_answers_to_other_probes_are_not_graded() -> None:
    answers, _ = arm([(True, True, False)] * 12)
    with pytest.raises(AssessmentError, match="got 11 to others, the first to 'p1'"):
        grade_answers([RULES], PROBES[:1], answers, quiet)


# --- answers and their store ------------------------------------------------------------------------------------------

GREEDY = GenerationSettings()


def collect(store: AnswerStore, engine: FakeEngine, who: LocalForm | None = None, **more: Any) -> list[Answer]:
    how = more.pop("settings", GREEDY)
    return collect_answers(engine, who or form(), PROBES, how, store, quiet, shard_size=5, **more)


def by_digest(who: LocalForm, probe: Probe) -> str:
    return f"{who.digest} on {probe.id}"


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store, engine = AnswerStore(tmp_path / "s"), FakeEngine(by_digest, fails_at_call=3)
    with pytest.raises(AssessmentError, match="killed"):
        collect(store, engine)
    assert engine.asked == 10
    resumed = FakeEngine(by_digest)
    answers = collect(store, resumed)
    assert resumed.asked == 2
    assert answers == collect(AnswerStore(tmp_path / "fresh"), FakeEngine(by_digest))


def test_answers_of_a_base_are_reused_for_the_next_version(tmp_path: Path) -> None:
    engine = FakeEngine(slightly_new)
    run_all(tmp_path, slightly_new, engine=engine)
    assert engine.asked == 480
    run_all(tmp_path, slightly_new, engine=engine, subject=replace(SUBJECT, form=form("sha256:next")))
    assert engine.asked == 720


@pytest.mark.parametrize(
    "change",
    [
        {"who": form("sha256:other")},
        {"who": form(system_prompt="p")},
        {"who": form(chat_template="t")},
        {"settings": GenerationSettings(max_new_tokens=8)},
        {"settings": GenerationSettings(precision="bf16")},
        {"engine": "fake 2"},
    ],
    ids=["digest", "system prompt", "template", "length", "precision", "engine"],
)
def test_the_same_names_with_anything_else_changed_reuse_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    store = AnswerStore(tmp_path)
    collect(store, FakeEngine(by_digest))
    engine = FakeEngine(by_digest, identity=change.pop("engine", "fake 1"))
    collect(store, engine, **change)
    assert engine.asked == 12


def test_a_change_of_one_probe_makes_its_shard_alone_again(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    collect(store, FakeEngine(by_digest))
    engine = FakeEngine(by_digest)
    changed = [replace(PROBES[0], text="Another request"), *PROBES[1:]]
    collect_answers(engine, form(), changed, GREEDY, store, quiet, shard_size=5)
    assert engine.asked == 5


def tampered(text: str, how: str) -> str:
    match how:
        case "cut in half":
            return text[: len(text) // 2]
        case "edited":
            return text.replace("on p0", "on P0")
        case "empty":
            return ""
        case "of another shape":
            return '{"answers": 1}'
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["cut in half", "edited", "empty", "of another shape"])
def test_a_file_that_was_damaged_is_made_again(tmp_path: Path, how: str) -> None:
    store = AnswerStore(tmp_path)
    expected = collect(store, FakeEngine(by_digest))
    damaged = [path for path in tmp_path.rglob("*.json") if "on p0" in path.read_text()]
    for path in damaged:
        path.write_text(tampered(path.read_text(), how))
    engine = FakeEngine(by_digest)
    assert collect(store, engine) == expected
    assert engine.asked == 5
    assert collect(store, FakeEngine(by_digest, fails_at_call=1)) == expected


def test_a_file_under_the_name_of_another_is_not_used(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    collect(store, FakeEngine(by_digest), form("sha256:weak"))
    collect(store, FakeEngine(by_digest))
    weak, strong = (
        sorted(path for path in tmp_path.rglob("*.json") if f"{name} on p0" in path.read_text())[0]
        for name in ("weak", "form")
    )
    strong.write_bytes(weak.read_bytes())
    engine = FakeEngine(by_digest)
    assert collect(store, engine)[0].text == "sha256:form on p0"
    assert engine.asked == 5


def test_stored_answers_are_for_their_owner_only(tmp_path: Path) -> None:
    collect(AnswerStore(tmp_path / "s"), FakeEngine(by_digest))
    files = list((tmp_path / "s").rglob("*.json"))
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert not list((tmp_path / "s").rglob("*.tmp"))


def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AssessmentError, match="No space left on device"):
        collect(AnswerStore(tmp_path), FakeEngine(by_digest))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_store_that_is_no_directory_says_so(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(AssessmentError, match="expected to store answers in"):
        collect(AnswerStore(tmp_path / "s"), FakeEngine(by_digest))


class Careless(FakeEngine):
    def answer(self, *asked: Any) -> list[Answer]:
        first, second, *others = super().answer(*asked)
        return [first, first, replace(second, probe_id="stranger"), *others]


def test_an_engine_that_answers_something_else_is_refused_and_nothing_stored(tmp_path: Path) -> None:
    with pytest.raises(AssessmentError, match="1 missing, 1 repeated, 1 to probes that nobody asked"):
        collect(AnswerStore(tmp_path), Careless(by_digest))
    assert not list(tmp_path.rglob("*.json"))


def test_answers_come_in_the_order_of_the_probes(tmp_path: Path) -> None:
    class Reversed(FakeEngine):
        def answer(self, *asked: Any) -> list[Answer]:
            return super().answer(*asked)[::-1]

    assert [one.probe_id for one in collect(AnswerStore(tmp_path), Reversed(by_digest))] == [p.id for p in PROBES]


def test_probes_of_one_id_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(AssessmentError, match="each probe id once"):
        collect_answers(FakeEngine(by_digest), form(), [PROBES[0], PROBES[0]], GREEDY, AnswerStore(tmp_path), quiet)


def test_an_engine_without_a_name_is_called_by_its_class_and_libraries() -> None:
    class Nameless:
        device = "cpu"

        def answer(
            self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: EngineProgress
        ) -> list[Answer]:
            return []

    name = engine_identity(Nameless())
    assert "Nameless cpu torch=" in name and "transformers=" in name
    assert engine_identity(FakeEngine(by_digest)) == "fake 1"


@settings(max_examples=30)
@given(st.lists(st.text(max_size=20), min_size=12, max_size=12))
def test_stored_answers_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    store = AnswerStore(tmp_path_factory.mktemp("store"))
    said = dict(zip((probe.id for probe in PROBES), texts, strict=True))
    first = collect(store, FakeEngine(lambda _, probe: said[probe.id]))
    assert collect(store, FakeEngine(by_digest, fails_at_call=1)) == first
