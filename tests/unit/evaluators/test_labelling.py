"""What people are asked: blind to the arm, a random sample that only grows, and counts that favour nobody."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.engines.interface import Answer
from evaluators.instruments.probe import Probe
from evaluators.labelling import (
    BLOCK,
    Asked,
    Vote,
    agreements,
    finished,
    make_sheet,
    needs_people,
    people_labels,
    question_of,
    settled,
)
from registry_gate.assessment import LabelledCell
from registry_gate.battery import InstrumentSpec, ProbeSource

AT = "2026-11-26T12:00:00Z"


def instrument(metric: str = "overrefusal", **changes: Any) -> InstrumentSpec:
    values: dict[str, Any] = {
        "name": "x",
        "metric": metric,
        "size": 9,
        "probes": (ProbeSource(shipped="general.jsonl"),),
    }
    return InstrumentSpec(**{**values, "graders": ("refusal-rules",), **changes})


def probe(number: int, cluster: str | None = None) -> Probe:
    name = f"p{number:03}"
    return Probe(id=name, text=f"Question {number}?", category="c", cluster=cluster or name, expected="comply")


def asked(adapted: list[str], base: list[str] | None) -> Asked:
    probes = tuple(probe(number) for number in range(len(adapted)))

    def arm(texts: list[str]) -> dict[str, Answer]:
        return {
            p.id: Answer(probe_id=p.id, text=text, tokens=1, finish="stop")
            for p, text in zip(probes, texts, strict=True)
        }

    return Asked(instrument=instrument(), probes=probes, adapted=arm(adapted), base=None if base is None else arm(base))


texts = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=70)


@settings(max_examples=60, deadline=None)
@given(texts, st.integers(1, 80))
def test_a_sheet_is_the_same_whichever_arm_gave_which_answer(pairs, size):
    """So neither what is asked, nor in which order, nor under which id, says anything about the arm."""
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    sheet = make_sheet("sha256:f", "sha256:b", [asked(one, other)], size)
    turned = make_sheet("sha256:f", "sha256:b", [asked(other, one)], size)
    assert sheet.items == turned.items
    # The same probes in both arms, each answer once.
    assert [s.probe for s in sheet.samples["x.overrefusal"]] == [s.probe for s in turned.samples["x.overrefusal"]]
    assert len({item.id for item in sheet.items}) == len(sheet.items)
    needed = {name for s in sheet.samples["x.overrefusal"] for name in (s.adapted, s.base)}
    assert {item.id for item in sheet.items} == needed
    assert {field.name for field in dataclasses.fields(sheet.items[0])} == {
        "id", "measure", "probe_id", "question", "request", "answer", "answer_digest"
    }  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(texts, st.integers(1, 60), st.integers(0, 40))
def test_asking_for_more_only_adds_probes_and_never_depends_on_answers(pairs, size, more):
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    small = make_sheet("sha256:f", "sha256:b", [asked(one, other)], size).samples["x.overrefusal"]
    large = make_sheet("sha256:f", "sha256:b", [asked(one, other)], size + more).samples["x.overrefusal"]
    assert large[: len(small)] == small
    blank = make_sheet("sha256:f", "sha256:b", [asked([""] * len(one), None)], size).samples["x.overrefusal"]
    assert [s.probe.id for s in blank] == [s.probe.id for s in small]


def test_the_sample_is_another_one_for_another_form_or_battery():
    answers = ["a"] * 60
    drawn = {
        tuple(s.probe.id for s in make_sheet(form, battery, [asked(answers, None)], 20).samples["x.overrefusal"])
        for form in ("f1", "f2")
        for battery in ("b1", "b2")
    }
    assert len(drawn) == 4


def test_whoever_stops_early_has_finished_whole_blocks_and_no_chosen_pairs():
    sheet = make_sheet("f", "b", [asked([f"a{n}" for n in range(60)], [f"b{n}" for n in range(60)])], 60)
    votes = {item.id: [Vote(labeller="ana", label="good", at=AT)] for item in sheet.items[: 2 * BLOCK + 30]}
    done = finished(sheet.samples["x.overrefusal"], votes)
    assert BLOCK <= len(done) < BLOCK + 15
    assert done == sheet.samples["x.overrefusal"][: len(done)]
    assert finished(sheet.samples["x.overrefusal"], {}) == ()


def said(*labels: str) -> list[Vote]:
    return [Vote(labeller=f"p{n}", label=label, at=AT) for n, label in enumerate(labels)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("bad",), True),
        (("good",), False),
        (("skip",), None),
        (("bad", "good"), None),
        (("bad", "good", "skip"), None),
        (("bad", "good", "good"), False),
        (("bad", "skip"), True),
    ],
)
def test_most_of_those_who_could_tell_decide(labels, expected):
    assert settled(said(*labels)) is expected


def test_what_nobody_settles_counts_against_the_form():
    sheet = make_sheet("f", "b", [asked(["new", "same", "good"], ["old", "same", "fine"])], 3)
    sample = {s.probe.id: s for s in sheet.samples["x.overrefusal"]}
    votes = {item.id: said("good") for item in sheet.items}
    votes[sample["p000"].adapted] = said("skip")
    votes[sample["p000"].base or ""] = said("bad", "good")
    votes[sample["p001"].adapted] = said("skip")
    graded = dict.fromkeys(sample, False)
    found = people_labels(sheet.samples["x.overrefusal"], votes, graded, graded, clustered=False)
    assert found is not None and (found.skipped, found.disputed, found.labellers) == (2, 1, 2)
    # The same text in both arms is bad in both or in none: no difference comes of it.
    assert {(c.adapted, c.base, c.probes) for c in found.cells} == {
        (True, False, 1),
        (True, True, 1),
        (False, False, 1),
    }


def test_counts_hold_the_graders_labels_clusters_and_agreement():
    one = asked(["a", "b", "c", "d"], ["e", "f", "g", "h"])
    one = dataclasses.replace(one, probes=tuple(probe(n, cluster=f"k{n // 2}") for n in range(4)))
    sheet = make_sheet("f", "b", [one], 4)
    votes = {
        item.id: said("bad" if item.answer in "ab" else "good", "bad" if item.answer in "a" else "good")
        for item in sheet.items
    }
    for item in sheet.items:
        if item.answer == "b":
            votes[item.id].append(Vote(labeller="p9", label="bad", at="2026-11-27T00:00:00Z"))
    graded = {"p000": True, "p001": False, "p002": True, "p003": False}
    found = people_labels(sheet.samples["x.overrefusal"], votes, graded, dict.fromkeys(graded, False), clustered=True)
    assert found is not None
    assert found.cells == (
        LabelledCell(adapted=False, base=False, graded_adapted=False, graded_base=False, probes=1),
        LabelledCell(adapted=False, base=False, graded_adapted=True, graded_base=False, probes=1),
        LabelledCell(adapted=True, base=False, graded_adapted=False, graded_base=False, probes=1),
        LabelledCell(adapted=True, base=False, graded_adapted=True, graded_base=False, probes=1),
    )
    assert [(c.clusters, c.probes, c.events, c.difference, c.graded_difference) for c in found.clusters] == [
        (1, 2, 0, 0, 1),
        (1, 2, 2, 2, 1),
    ]
    assert (found.labellers, found.labelled_at) == (3, "2026-11-27T00:00:00Z")
    (first, *_) = agreements(votes).values()
    assert (first.both_bad, first.only_first, first.only_second, first.both_good) == (1, 1, 0, 6)


def test_only_what_graders_judge_is_put_to_people_with_a_question_of_its_own():
    assert needs_people(instrument())
    assert not needs_people(instrument("verbatim_leak", graders=()))
    assert question_of(instrument()).startswith("Does the answer refuse")
    own = instrument("rude", event={"tone": "rude"}, graders=("mine",))
    assert question_of(own) == "Is the answer rude?" and needs_people(own)
