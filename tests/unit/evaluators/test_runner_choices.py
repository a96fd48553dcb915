"""Instruments that choose, count by themselves or are one's own, through the whole runner; nothing broken passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from evaluators.engines.interface import Answer, GenerationSettings, LocalForm, Progress, chosen
from evaluators.graders.catalogue import load_grader
from evaluators.graders.interface import GraderIdentity, GradingItem, NotGraded
from evaluators.instruments.probe import Probe
from evaluators.runner import AnswerStore, Subject, assess
from registry_gate.assessment import Assessment, Measured, NotMeasured, assessment_from_dict
from registry_gate.battery import Battery
from registry_gate.errors import AssessmentError

WHEN = "2026-11-25T12:00:00Z"
BASE = LocalForm(digest="sha256:base", model_dir=Path("m"), tokenizer_dir=Path("m"))
FORM = LocalForm(digest="sha256:form", model_dir=Path("m"), tokenizer_dir=Path("m"))


@dataclass
class Plain:
    """An engine that only answers."""

    says: Callable[[LocalForm, Probe], str] = lambda form, probe: f"This is what {form.digest} says of {probe.id}."
    identity: str = "plain 1"

    def answer(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: Progress
    ) -> list[Answer]:
        return [Answer(probe_id=p.id, text=self.says(form, p), tokens=5, finish="stop") for p in probes]


@dataclass
class Choosing(Plain):
    """An engine that finds the choice with a role the likeliest, per form."""

    prefers: dict[str, str] = None  # type: ignore[assignment]
    lowest: float = -9.0

    def choose(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: Progress
    ) -> list[Answer]:
        role = self.prefers[form.digest]
        return [chosen(p, [-1.0 if r == role else self.lowest for r in p.roles], [1] * len(p.roles)) for p in probes]


def battery(*instruments: dict[str, object]) -> Battery:
    return Battery.model_validate(
        {
            "apiVersion": "registry-gate/v1",
            "kind": "Battery",
            "metadata": {"name": "b", "version": 1},
            "spec": {"instruments": instruments},
        },
        strict=False,
    )


TRUTH = {"name": "truth", "metric": "mc1_error", "size": 60, "probes": [{"shipped": "truth.jsonl"}]}
BIAS = {"name": "bias", "metric": "biased_answer", "size": 120, "probes": [{"shipped": "bias.jsonl"}]}
WHOLE = {
    "name": "whole",
    "metric": "incoherent_answer",
    "size": 10,
    "probes": [{"shipped": "general.jsonl", "where": {"category": ["fraud"]}}],
}


def run(
    one: Battery, engine: Plain, tmp_path: Path, *, graders: Sequence[str] = (), dirs: Sequence[Path] = ()
) -> Assessment:
    return assess(
        one,
        Subject(form=FORM, base=BASE),
        BASE.digest,
        engine,
        [load_grader(name) for name in graders],
        dirs,
        AnswerStore(tmp_path / "answers"),
        WHEN,
        lambda *_: None,
    )


def by_name(assessment: Assessment) -> dict[str, Measured | NotMeasured]:
    return {one.measure: one for one in assessment.measurements}


def failed(assessment: Assessment) -> list[str]:
    return [check.check for check in assessment.validity if not check.passed]


def test_choices_are_counted_paired_and_reported_with_their_figures(tmp_path: Path) -> None:
    engine = Choosing(prefers={"sha256:form": "false", "sha256:base": "true"})
    assessment = run(battery(TRUTH, WHOLE), engine, tmp_path)
    truth = by_name(assessment)["truth.mc1_error"]
    assert isinstance(truth, Measured)
    assert (truth.events, truth.probes) == (60, 60)
    assert truth.table is not None
    assert truth.table.only_adapted == 60
    assert [(f.name, f.adapted, f.base) for f in truth.figures] == [("mc1", "0.000000", "1.000000")]
    assert failed(assessment) == []
    assert assessment_from_dict(assessment.to_dict()) == assessment
    # From the store the same, without asking.
    assert run(battery(TRUTH, WHOLE), Choosing(prefers={}), tmp_path) == assessment


def test_bias_scores_of_both_arms_stand_beside_the_count(tmp_path: Path) -> None:
    engine = Choosing(prefers={"sha256:form": "biased", "sha256:base": "right unknown"})
    bias = by_name(run(battery(BIAS, WHOLE), engine, tmp_path))["bias.biased_answer"]
    assert isinstance(bias, Measured)
    figures = {figure.name: (figure.adapted, figure.base) for figure in bias.figures}
    assert figures["accuracy_ambiguous"] == ("0.000000", "1.000000")
    assert figures["bias_score_ambiguous"] == ("1.000000", "0.000000")
    assert bias.clusters == 20


def test_an_engine_without_likelihoods_measures_the_rest_and_says_what_it_cannot(tmp_path: Path) -> None:
    assessment = run(battery(TRUTH, WHOLE), Plain(), tmp_path)
    found = by_name(assessment)
    assert isinstance(found["whole.incoherent_answer"], Measured)
    truth = found["truth.mc1_error"]
    assert isinstance(truth, NotMeasured)
    assert "expected an engine that says how likely a form finds given answers, got plain 1" in truth.cause
    assert failed(assessment) == ["completeness"]


def test_equal_likelihoods_everywhere_mean_that_the_adapter_is_not_applied(tmp_path: Path) -> None:
    engine = Choosing(prefers={"sha256:form": "true", "sha256:base": "true"})
    assert failed(run(battery(TRUTH), engine, tmp_path)) == ["adapter_in_effect"]


def test_an_engine_whose_choice_is_not_its_likeliest_is_refused(tmp_path: Path) -> None:
    class Lying(Choosing):
        def choose(self, form, probes, settings, progress):
            answers = super().choose(form, probes, settings, progress)
            return [Answer(**{**a.to_dict(), "text": "something else"}) for a in answers]

    with pytest.raises(AssessmentError, match="expected the likeliest choice with its likelihoods"):
        run(battery(TRUTH), Lying(prefers={"sha256:form": "true", "sha256:base": "false"}), tmp_path)


def test_likelihoods_that_are_not_finite_stop_the_assessment(tmp_path: Path) -> None:
    engine = Choosing(prefers={"sha256:form": "true", "sha256:base": "true"}, lowest=float("nan"))
    with pytest.raises(AssessmentError, match="finite and at most 0"):
        run(battery(TRUTH), engine, tmp_path)


def test_attacked_requests_are_graded_as_the_plain_request(tmp_path: Path) -> None:
    seen: list[GradingItem] = []

    class Watching:
        def __init__(self, axis: str) -> None:
            self.inner = load_grader("refusal-rules")
            self.axis = axis

        @property
        def identity(self) -> GraderIdentity:
            return GraderIdentity(
                name=f"w-{self.axis}", version="1", family="judge", axis=self.axis, digest="sha256:0", runtime="python"
            )

        def grade(self, items, progress):
            seen.extend(items)
            return [NotGraded(cause="no label") for _ in items]

    source = {"shipped": "general.jsonl", "where": {"category": ["fraud"]}, "sample": 5}
    spec = {
        "name": "attacked",
        "metric": "attacked_compliance",
        "size": 10,
        "probes": [source],
        "attacks": ["base64", "role_play"],
        "graders": ["w-refusal", "w-harm"],
    }
    assessment = assess(
        battery(spec), Subject(form=FORM, base=BASE), BASE.digest, Plain(), [Watching("refusal"), Watching("harm")], [],
        AnswerStore(tmp_path / "answers"), WHEN, lambda *_: None,
    )  # fmt: skip
    assert len({item.probe for item in seen}) == 5
    attacked = by_name(assessment)["attacked.attacked_compliance"]
    assert isinstance(attacked, Measured)
    # A grader that labels nothing makes every answer bad, and the assessment invalid.
    assert (attacked.events, attacked.ungraded, attacked.clusters) == (10, 10, 5)
    assert "ungraded" in failed(assessment)


OWN = {
    "name": "mine",
    "metric": "rude_or_not",
    "size": 2,
    "event": {"toxicity": "toxic"},
    "graders": ["toxicity-rules"],
}


def own(tmp_path: Path, data: bytes = b"q\nWhere?\nWhen?\n", **changes: object) -> dict[str, object]:
    (tmp_path / "q.csv").write_bytes(data)
    source = {"path": "q.csv", "sha256": sha256(data).hexdigest(), "licence": "internal", "columns": {"text": "q"}}
    return {**OWN, "probes": [source], **changes}


def test_an_instrument_in_yaml_alone_counts(tmp_path: Path) -> None:
    engine = Plain(says=lambda form, _: "You idiot." if form is FORM else "You are welcome.")
    assessment = run(battery(own(tmp_path)), engine, tmp_path, graders=["toxicity-rules"], dirs=[tmp_path])
    mine = by_name(assessment)["mine.rude_or_not"]
    assert isinstance(mine, Measured)
    assert (mine.events, mine.table.only_adapted if mine.table else None) == (2, 2)
    assert failed(assessment) == []


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"size": 3}, "expected 3 probes as the battery's `size` says, got 2"),
        ({"data": b"q\nOnly?\n", "size": 1}, "expected at least 2 probes, got 1"),
        ({"data": b"", "size": 2}, "expected rows, got an empty file"),
        ({"data": b"p\nWhere?\nWhen?\n"}, "expected a column 'q', got 'p'"),
        ({"data": b"q\nWo ist das Caf\x8e?\nWann?\n"}, "say the file's `encoding`"),
        ({"data": b"q\nWhere?\nwhere\n"}, "a prompt asked twice counts twice"),
    ],
)
def test_a_probe_file_that_cannot_be_used_is_not_measured_and_says_why(
    change: dict[str, object], cause: str, tmp_path: Path
) -> None:
    spec = own(tmp_path, **change)  # type: ignore[arg-type]
    assessment = run(battery(spec), Plain(), tmp_path, graders=["toxicity-rules"], dirs=[tmp_path])
    (mine,) = assessment.measurements
    assert isinstance(mine, NotMeasured)
    assert cause in mine.cause
    assert "completeness" in failed(assessment)


def test_a_file_that_changed_since_it_was_pinned_is_not_measured(tmp_path: Path) -> None:
    one = battery(own(tmp_path))
    (tmp_path / "q.csv").write_bytes(b"q\nWhy?\nWho?\n")
    (mine,) = run(one, Plain(), tmp_path, graders=["toxicity-rules"], dirs=[tmp_path]).measurements
    assert isinstance(mine, NotMeasured)
    assert "expected sha256" in mine.cause


def test_a_label_that_no_grader_gives_would_never_be_bad_and_is_refused(tmp_path: Path) -> None:
    spec = own(tmp_path, event={"toxicity": "rude"})
    with pytest.raises(AssessmentError, match="expected the event to name a label of toxicity-rules"):
        run(battery(spec), Plain(), tmp_path, graders=["toxicity-rules"], dirs=[tmp_path])
