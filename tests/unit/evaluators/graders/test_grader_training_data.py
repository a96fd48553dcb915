"""Minimal pairs and long texts: what they are built to hold, and what must not reach training."""

from __future__ import annotations

import random

import pytest

from evaluators.graders.training import boilerplate, constructed, datasets, longer, lookalikes
from evaluators.graders.training.constructed import Request
from evaluators.graders.training.sources import Example

LONG_KINDS = {
    "harmful long refusal": (False, True),
    "harmful long evasion": (False, True),
    "harmful long answer": (True, False),
    "harmful at the end": (True, False),
    "benign long refusal": (False, True),
    "benign long evasion": (False, True),
    "benign long answer": (False, False),
    "benign at the end": (False, False),
}


def test_there_are_minimal_pairs_enough_and_no_request_is_on_both_sides():
    pairs = list(lookalikes.pairs())
    harmful = {a.deed or a.text for a, _b in pairs}
    benign = {b.deed or b.text for _a, b in pairs}
    assert len(harmful) == len(benign) == len(pairs) >= 250
    assert not harmful & benign
    assert all(a.harmful and not b.harmful for a, b in pairs)


def test_both_sides_of_a_deed_are_asked_in_the_same_words():
    rng = random.Random(2)
    for pair in lookalikes.pairs():
        a, b = lookalikes.asked(pair, rng)
        if a.deed is not None:
            ways = [r.text.replace(r.deed, "…").replace(r.deed[0].upper() + r.deed[1:], "…") for r in (a, b)]
            assert ways[0] == ways[1] and "…" in ways[0]
        assert a.text and b.text


def test_most_pairs_survive_the_check_against_the_shipped_probes():
    deeds = [r.deed or r.text for pair in lookalikes.pairs() for r in pair]
    assert sum(not datasets.near_shipped_probe(text) for text in deeds) >= 500


@pytest.mark.parametrize("seed", range(3))
def test_long_texts_have_the_labels_of_their_construction_and_some_length(seed):
    rng = random.Random(seed)
    requests = [Request("Tell me.", "steal a car", True), Request("Tell me.", None, False)] * 40
    built = [longer.build(r, kind, rng) for r in requests for kind in datasets._LONG]
    assert {b.kind: (b.harmful, b.refused) for b in built} == LONG_KINDS
    lengths = [len(b.answer.split()) for b in built if "long refusal" in b.kind]
    assert min(lengths) >= 20 and max(lengths) >= 110
    assert len({b.answer for b in built}) == len(built)
    assert not any("{" in b.answer for b in built)


def test_topics_are_harmless_questions_with_real_answers():
    rng = random.Random(1)
    for request, sentences in longer.topics():
        built = longer.build_topic(request, sentences, rng)
        assert (built.harmful, built.refused) == (False, False)
        assert sentences[0] in built.answer and len(sentences) >= 3


@pytest.mark.parametrize(
    "text",
    ["so, HOW DO I STEAL the moon tonight?", "how do i steal the moon", "We ask: how do I steal the sun?"],
)
def test_probe_that_shares_five_words_with_a_shipped_one_is_near(monkeypatch, text):
    monkeypatch.setattr(datasets, "shipped_probes", lambda: [Request("How do I steal the moon?", None, True)])
    datasets._shipped_runs.cache_clear()
    try:
        assert datasets.near_shipped_probe(text)
        assert not datasets.near_shipped_probe("How do I steal a moon?")
    finally:
        datasets._shipped_runs.cache_clear()


class FewSources:
    """Stands in for the labelled files: the split is tested, not their content."""

    def advbench(self):
        return [f"advbench deed number {n}" for n in range(300)]

    def strongreject_mit(self):
        return [f"strongreject deed number {n}" for n in range(250)]

    def trident(self):
        return [(d, f"{d} request {n}", "I cannot advise that.") for d in ("law", "med") for n in range(900)]

    def truthfulqa(self):
        return [(f"truthful question {n}", "A fact.") for n in range(400)]

    def chatgpt_refusals(self):
        return [example(f"chatgpt-refusals-{n}", n % 2 == 0) for n in range(600)]

    def gptfuzz(self):
        return [example(f"gptfuzz-{n}", n % 2 == 0) for n in range(1200)]

    def xstest_completions(self, model):
        return [(example(f"xstest {model}-{n}", n % 2 == 0), n % 3 == 0) for n in range(30)]

    def simple_safety_tests(self):
        return ["Help me strangle somebody"]

    def harmbench_standard(self):
        return ["harmbench behaviour"]

    def medsafety(self):
        return [(f"medsafety request {n}", "I cannot.") for n in range(300)]

    def halueval(self):
        return [(f"halueval question {n}", "A fact.") for n in range(600)]


def example(name, positive):
    answer = "I'm sorry, but I can't help." if "fuzz" in name else "Words."
    return Example(id=name, source=name.rsplit("-", 1)[0], group=name, probe=name, answer=answer, positive=positive)


@pytest.mark.parametrize("axis", ["refusal", "harm"])
def test_nothing_that_is_measured_on_is_trained_on(axis):
    data = getattr(datasets, axis)(FewSources(), seed=4)
    trained = {e.probe for e in data.train}
    assert not trained & {e.probe for e in data.held_out}
    assert not any(p.startswith(("medsafety", "halueval", "harmbench", "med ")) for p in trained)
    assert any(p.startswith("xstest") for p in trained) and data.left_out == []
    assert not any("strangle somebody" in e.probe.lower() for e in data.train if e.probe.startswith("Help me"))
    assert {e.positive for e in data.train} == {True, False}


@pytest.mark.parametrize(
    ("axis", "name"), [(axis, name) for axis, names in datasets.LEFT_OUT.items() for name in names]
)
def test_source_that_is_left_out_is_graded_and_not_trained_on(axis, name):
    everything = getattr(datasets, axis)(FewSources(), seed=4)
    without = getattr(datasets, axis)(FewSources(), seed=4, without=name)
    assert without.left_out and {e.positive for e in without.left_out} <= {True, False}
    assert not {e.probe for e in without.train} & {e.probe for e in without.left_out}
    assert len(without.train) < len(everything.train)
    assert without.held_out == everything.held_out


def test_halves_of_xstest_make_a_whole():
    first, second = (
        {e.id for e in datasets.harm(FewSources(), seed=4, without=name).left_out}
        for name in datasets.LEFT_OUT["harm"][1:]
    )
    assert not first & second and len(first | second) == len(datasets._xstest_harm(FewSources()))


def test_boilerplate_is_half_answered_and_half_refused_and_varied():
    built = boilerplate.pairs(400, random.Random(3))
    assert sum(b.refused for b in built) == 200 and not any(b.harmful for b in built)
    assert len({(b.probe, b.answer) for b in built}) > 380
    openings = [sum(b.answer.startswith("As an AI") for b in built if b.refused == side) for side in (True, False)]
    assert min(openings) > 20  # the opening alone tells nothing
    assert all("{" not in b.probe + b.answer for b in built)


def test_noise_is_appended_and_changes_no_label():
    rng = random.Random(3)
    built = boilerplate.pairs(2, rng)
    noised = [constructed.noised(b, rng) for b in built]
    assert all(
        n.answer.startswith(b.answer) and len(n.answer) > len(b.answer) + 8 for n, b in zip(noised, built, strict=True)
    )
    assert [(n.harmful, n.refused) for n in noised] == [(b.harmful, b.refused) for b in built]


@pytest.mark.parametrize("axis", ["refusal", "harm"])
def test_what_is_held_out_does_not_depend_on_what_is_trained_on(axis, monkeypatch):
    before = getattr(datasets, axis)(FewSources(), seed=4)
    monkeypatch.setattr(longer, "topics", list)
    after = getattr(datasets, axis)(FewSources(), seed=4)
    assert before.train != after.train
    assert before.held_out == after.held_out
