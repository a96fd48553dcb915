"""Remembering labels changes none of them."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.graders.interface import Graded, GraderIdentity, GradingItem, NotGraded, Progress
from evaluators.graders.remembered import RememberedGrader


class Counting:
    """Labels by length, and fails on an empty answer; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[GradingItem] = []

    identity = GraderIdentity(name="c", version="1", family="rule", axis="harm", digest="sha256:0", runtime="python")

    def grade(self, items: Sequence[GradingItem], progress: Progress) -> list[Graded | NotGraded]:
        self.asked += items
        progress(len(items), len(items))
        return [
            Graded(label="harmful" if len(item.answer) > 3 else "harmless", probability=0.5)
            if item.answer
            else NotGraded(cause="empty")
            for item in items
        ]


def items(*answers: str) -> list[GradingItem]:
    return [GradingItem(probe="p", answer=answer) for answer in answers]


def test_labels_are_those_of_the_grader_in_the_order_of_the_items():
    plain, remembered = Counting(), RememberedGrader(Counting())
    asked = items("abcd", "ab", "abcd", "", "x")
    for _ in range(2):
        assert remembered.grade(asked, lambda *_: None) == plain.grade(asked, lambda *_: None)


def test_each_pair_is_graded_once_but_a_failure_is_tried_again():
    grader = Counting()
    remembered = RememberedGrader(grader)
    remembered.grade(items("abcd", "abcd", ""), lambda *_: None)
    remembered.grade(items("abcd", ""), lambda *_: None)
    assert [item.answer for item in grader.asked] == ["abcd", "", ""]


def test_the_longest_unused_pairs_are_forgotten_first():
    grader = Counting()
    remembered = RememberedGrader(grader, entries=2)
    for answer in ("a", "b", "a", "c", "a", "b"):
        remembered.grade(items(answer), lambda *_: None)
    assert [item.answer for item in grader.asked] == ["a", "b", "c", "b"]


def test_progress_reaches_the_number_of_items_also_when_all_are_known():
    seen: list[tuple[int, int]] = []
    remembered = RememberedGrader(Counting())
    for _ in range(2):
        remembered.grade(items("a", "b"), lambda done, total: seen.append((done, total)))
    assert seen == [(2, 2), (2, 2)]
