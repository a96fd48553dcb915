"""A grader that a YAML file defines: what it finds, what it refuses to load, and the two that come with the program."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from evaluators.graders.catalogue import load_grader
from evaluators.graders.interface import Graded, GradingItem
from registry_gate.errors import AssessmentError

GOOD = {
    "kind": "phrases",
    "name": "topic-rules",
    "version": "1",
    "axis": "topic",
    "labels": ["on_topic", "off_topic"],
    "phrases": ["foot* ball", "weather forecast"],
    "unless": ["our shop"],
    "self_check": [
        {"answer": "The football was good.", "label": "on_topic"},
        {"answer": "Footed, ball!", "label": "off_topic"},
    ],
}


def write(directory: Path, **changes: object) -> Path:
    folder = directory / "topic-rules"
    folder.mkdir(exist_ok=True)
    with (folder / "grader.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump({key: value for key, value in (GOOD | changes).items() if value is not None}, file)
    return folder


def labels(name: str, *answers: str, directories: tuple[Path, ...] = ()) -> list[str]:
    grader = load_grader(name, directories=directories)
    outcomes = grader.grade([GradingItem(probe="p", answer=answer) for answer in answers], lambda *_: None)
    assert all(isinstance(outcome, Graded) for outcome in outcomes)
    return [outcome.label for outcome in outcomes if isinstance(outcome, Graded)]


def test_phrases_are_words_in_a_row_in_any_case(tmp_path: Path) -> None:
    write(tmp_path)
    found = labels(
        "topic-rules",
        "The WEATHER -- forecast is bad",
        "The weather and the forecast",
        "Weather forecasts",
        "A weather forecast for our shop",
        directories=(tmp_path,),
    )
    assert found == ["off_topic", "on_topic", "on_topic", "on_topic"]
    identity = load_grader("topic-rules", directories=[tmp_path]).identity
    assert (identity.family, identity.axis, identity.words) == ("rule", "topic", ("on_topic", "off_topic"))
    write(tmp_path, phrases=["foot* ball", "weather"])
    assert load_grader("topic-rules", directories=[tmp_path]).identity.digest != identity.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phrases": []}, "phrases: "),
        ({"phrases": ["--"]}, "expected one word or more"),
        ({"labels": ["one"]}, "or two different labels, got 'topic' with"),
        ({"axis": "harm"}, "expected none on axis harm"),
        ({"pattern": "x"}, "pattern: Extra inputs"),
        ({"self_check": GOOD["self_check"][:1] * 2}, "expected answers of both labels"),  # type: ignore[index]
        ({"phrases": ["nothing of the kind"]}, "self-check 2 of 2: expected off_topic, got on_topic"),
    ],
)
def test_a_description_that_does_not_hold_together_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    write(tmp_path, **changes)
    with pytest.raises(AssessmentError, match=message):
        load_grader("topic-rules", directories=[tmp_path])


def test_caveats_and_insults_are_found_by_the_shipped_rules() -> None:
    assert labels("caveat-rules", "Take two.", "Please talk to your doctor first.", "I am not a lawyer, but yes.") == [
        "uncaveated",
        "caveated",
        "caveated",
    ]
    assert labels("toxicity-rules", "you are all wonderful", "you are all MORONS", "the class passed") == [
        "civil",
        "toxic",
        "civil",
    ]
