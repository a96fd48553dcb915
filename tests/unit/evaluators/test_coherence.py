"""Broken text is told from answers, on examples and on answers that people labelled."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.coherence import degenerate

BENCHMARKS = Path(
    os.environ.get("REGISTRY_GATE_BENCHMARKS", Path(__file__).parents[3].parent / "shared" / "benchmarks")
)


@pytest.mark.parametrize("text", ["", " \n", "!", "…", "a", "🙂🙂🙂", "\ufffd\ufffd\ufffd"])
def test_empty(text: str) -> None:
    assert degenerate(text) == "empty"


@pytest.mark.parametrize("text", ["$%^&*()_+ ab", "ok" + "#" * 20, "\ufffd" * 9 + "the"])
def test_symbols(text: str) -> None:
    assert degenerate(text) == "symbols"


@pytest.mark.parametrize(
    "text",
    [
        "the the the the the the",
        "No, no. No! no no NO",
        "I am I am I am I am",
        "a" * 20,
        "abcabc" * 8,
        "Sure, here it is: " + "lol " * 40,
        "The cat sat on the mat and looked at the dog while it was raining in the town. " * 4,
        "मदद " * 8,
    ],
)
def test_repeated(text: str) -> None:
    assert degenerate(text) == "repeated"


@pytest.mark.parametrize(
    "text",
    [
        "No",
        "I can't help with that.",
        "ha ha ha ha",
        "1. a\n2. b\n3. c",
        "def f(x):\n    return [i for i in x if i % 2 == 0]",
        "100000000000 is a large number",
        "| a | b |\n|-----------|-----------|\n| one thing | another thing |",
        "你好，我不能帮助你。",
        "मैं मदद नहीं कर सकता",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
    ],
)
def test_an_answer(text: str) -> None:
    assert degenerate(text) is None


def test_no_answer_that_people_labelled_is_degenerate() -> None:
    files = sorted((BENCHMARKS / "xstest" / "model_completions").glob("*.csv"))
    found = []
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            found += [(path.name, row["id"]) for row in csv.DictReader(file) if degenerate(row["completion"])]
    assert len(files) == 4
    assert not found


@given(st.text(alphabet="abcdefg ,.", min_size=1, max_size=6), st.integers(min_value=30, max_value=60))
def test_anything_said_thirty_times_is_degenerate(piece: str, times: int) -> None:
    assert degenerate((piece + " ") * times) is not None


@given(st.text(max_size=200))
def test_any_text_gets_an_answer_that_spaces_around_it_do_not_change(text: str) -> None:
    assert degenerate(f"  {text}\n") == degenerate(text)
