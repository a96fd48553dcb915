"""Which examples train each shipped grader, which choose nothing but measure, and why.

Trained on as far as people labelled them: XSTest's completions, the GPTFuzz answers, chatgpt-refusals. How a grader
fares with a model family or a kind of attack that it has never seen is measured by leaving that source out, fitting
anew and grading it (`LEFT_OUT`).

Held out whole: SimpleSafetyTests, HarmBench, MedSafetyBench and HaluEval (also for their terms), and the shipped
probes under `evaluators/instruments/probes` (they are the measuring instrument). A training probe that shares five
words in a row with SimpleSafetyTests, HarmBench or a shipped probe is dropped. Held out in part: all of TRIDENT but
half of its law prompts, a quarter of the GPTFuzz questions, a fifth of the political figures, of the constructed deeds
and of the minimal pairs.

What is held out does not depend on what is trained on: it is drawn from a generator of its own, so that the figures of
two graders are about the same rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evaluators.graders.rules import declines
from evaluators.graders.training import boilerplate, constructed, longer, lookalikes
from evaluators.graders.training.constructed import BENIGN_DEEDS, HARMFUL_DEEDS, Built, Request
from evaluators.graders.training.sources import XSTEST_MODELS, Example, Sources

PROBES = Path(__file__).parents[2] / "instruments" / "probes"

_COMPLYING = ("comply", "taken back", "disclaim", "kindly")
_LONG = ("long refusal", "long evasion", "long answer", "at the end")

LEFT_OUT = {
    "refusal": tuple(f"xstest {model}" for model in XSTEST_MODELS),
    "harm": ("gptfuzz", "xstest, half of its prompts", "xstest, the other half"),
}
"""Sources that are left out of training one at a time, to measure what the grader makes of them unseen."""


@dataclass(frozen=True)
class Data:
    """Examples to fit on, and held-out examples that each bear the name of their kind as `source`.

    Args:
        left_out: The examples of the source that was left out; none where nothing was.
    """

    train: list[Example]
    held_out: list[Example]
    left_out: list[Example] = dataclasses.field(default_factory=list)


def refusal(sources: Sources, seed: int, without: str = "") -> Data:
    """Refused: the answer does not deliver what was asked. A refusal that then complies is answered.

    Args:
        without: One of `LEFT_OUT["refusal"]`.
    """
    rng = random.Random(seed)
    train: list[Example] = rng.sample([e for e in sources.chatgpt_refusals() if not _held_out(e.group, 5)], 360)

    # People say jailbroken: answered, however it opens. People say not jailbroken and it opens by declining: refused.
    # What is neither may be anything on this axis and is left out.
    jailbreaks = [e for e in sources.gptfuzz() if not _held_out(e.group, 4)]
    answered = [_as(e, "gptfuzz answered", False) for e in jailbreaks if e.positive]
    refused = [_as(e, "gptfuzz refused", True) for e in jailbreaks if not e.positive and declines(e.answer)]
    train += rng.sample(answered, 260) + rng.sample(refused, 260)
    train += _pairs("truthfulqa", rng.sample(sources.truthfulqa(), 300), positive=False)
    replies = [(q, a) for q, a in _trident_law(sources) if declines(a)]
    train += _pairs("trident law (declining openings)", replies, positive=True)

    built: list[Built] = []
    for request in _requests(sources, rng, harmful=(60, 50, 50), benign=(90, 40)):
        built += rng.sample(constructed.build(request, rng), 1)
        # Most of the long ones are refusals: answers at length come from people's questions as well.
        if rng.random() < 0.75:
            built.append(longer.build(request, rng.choices(_LONG, (3, 2, 3, 1))[0], rng))
    built += _topics(rng, answers=7, refusals=4)
    everything = _requests(sources, rng, harmful=(30, 30, 30), benign=(60, 30))
    built += [constructed.beside_the_point(request, rng) for request in rng.sample(everything, 60)]
    built += [constructed.silence(request, rng) for request in rng.sample(everything, 30)]
    built += boilerplate.pairs(700, rng)
    built += [constructed.noised(one, rng) for one in rng.sample(built, 250)]
    train += [_example(b, "refused") for b in built]

    completions = [e for model in XSTEST_MODELS for e, _unsafe in sources.xstest_completions(model)]
    train += [e for e in completions if e.source != without and not near_shipped_probe(e.probe)]
    left_out = [e for e in completions if e.source == without]
    return Data(train, _refusal_held_out(sources, random.Random(seed + 1)), left_out)


def _refusal_held_out(sources: Sources, rng: random.Random) -> list[Example]:
    held_out = [e for e in sources.chatgpt_refusals() if _held_out(e.group, 5)]
    held_out += [_example(b, "refused") for b in _built_held_out(rng)]
    for domain in ("law", "med"):
        replies = [(q, a) for d, q, a in _trident_held_out(sources) if d == domain and declines(a)]
        held_out += _pairs(f"trident {domain} (declining openings)", replies[:250], positive=True)
    stock = rng.sample(sources.medsafety(), 200)
    held_out += _pairs("medsafety (stock refusals)", stock, positive=True)
    everyday = [(q, a) for q, a in sources.halueval() if not declines(a)]
    held_out += _pairs("halueval (no declining opening)", rng.sample(everyday, 400), positive=False)
    return held_out


def harm(sources: Sources, seed: int, without: str = "") -> Data:
    """Harmful: the answer does what a harmful probe asks, however little it says.

    Args:
        without: One of `LEFT_OUT["harm"]`.
    """
    rng = random.Random(seed)
    jailbreaks = [e for e in sources.gptfuzz() if not _held_out(e.group, 4)]
    train: list[Example] = [] if without == "gptfuzz" else list(jailbreaks)
    truths = sources.truthfulqa()
    train += _pairs("truthfulqa", truths, positive=False)
    # Polite or not, nothing that was said about a public figure does what a harmful probe asks.
    political = [e for e in sources.chatgpt_refusals() if not _held_out(e.group, 5)]
    train += [_as(e, "chatgpt-refusals", False) for e in political]
    train += _pairs("trident replies", rng.sample(_trident_law(sources), 60), positive=False)
    # A harmless text stays harmless under a harmful probe that it does not answer.
    train += _pairs("mismatched", [(rng.choice(sources.advbench()), a) for _q, a in truths[:80]], positive=False)

    built: list[Built] = []
    for request in _requests(sources, rng, harmful=(260, 200, 330), benign=(300, 80), ways=2):
        kinds = constructed.build(request, rng)
        built += rng.sample([b for b in kinds if b.kind.split(" ", 1)[1] in _COMPLYING], 1)
        if rng.random() < 0.3:
            built += rng.sample([b for b in kinds if b.kind.split(" ", 1)[1] not in _COMPLYING], 1)
        if rng.random() < 0.2:
            built.append(longer.build(request, rng.choices(_LONG, (2, 1, 3, 4))[0], rng))
    built += _topics(rng, answers=3, refusals=1)
    everything = _requests(sources, rng, harmful=(60, 30, 60), benign=(60, 30))
    built += [constructed.beside_the_point(request, rng) for request in rng.sample(everything, 60)]
    built += [constructed.silence(request, rng) for request in rng.sample(everything, 30)]
    built += [longer.build_background(request, rng) for request in rng.sample(everything, 90)]
    built += boilerplate.pairs(300, rng)
    built += [constructed.noised(one, rng) for one in rng.sample(built, 400)]
    train += [_example(b, "harmful") for b in built]

    completions = _xstest_harm(sources)
    halves = {name: half for half, name in enumerate(LEFT_OUT["harm"][1:])}
    out = halves.get(without)
    train += [e for e in completions if _half(e.probe) != out and not near_shipped_probe(e.probe)]
    left_out = [e for e in completions if _half(e.probe) == out]
    if without == "gptfuzz":
        left_out = sources.gptfuzz()
    return Data(train, _harm_held_out(sources, random.Random(seed + 1)), left_out)


def _xstest_harm(sources: Sources) -> list[Example]:
    """People's labels on XSTest: a refusal is harmless, and so is every answer to a safe prompt.

    Answers to unsafe prompts that people call compliant are not labelled for harm, so they are left out.
    """
    return [
        _as(e, f"xstest {model} {'refusals' if e.positive else 'answers to safe prompts'}", False)
        for model in XSTEST_MODELS
        for e, unsafe in sources.xstest_completions(model)
        if e.positive or not unsafe
    ]


def _half(text: str) -> int:
    """Which half of XSTest a prompt belongs to, however often it was answered."""
    return int(_held_out(text, 2))


def _harm_held_out(sources: Sources, rng: random.Random) -> list[Example]:
    held_out = [
        _as(e, "gptfuzz held-out questions", e.positive) for e in sources.gptfuzz() if _held_out(e.group, 4)
    ]  # fmt: skip
    held_out += _pairs("halueval answers", rng.sample(sources.halueval(), 500), positive=False)
    held_out += [_example(b, "harmful") for b in _built_held_out(rng)]

    # Whole sources of probes that the grader has not seen, with every kind of short constructed answer.
    unseen = {
        "simplesafetytests": [Request(text, None, True) for text in sources.simple_safety_tests()],
        "harmbench": [Request(text, None, True) for text in sources.harmbench_standard()],
        "trident law": [Request(q, None, True) for d, q, _a in _trident_held_out(sources) if d == "law"][:200],
        "medsafety": [Request(q, None, True) for q, _a in rng.sample(sources.medsafety(), 200)],
        "shipped probes": shipped_probes(),
    }
    for source, requests in unseen.items():
        for request in requests:
            built = constructed.build(request, rng)
            held_out += [_as(_example(b, "harmful"), f"{source}: {b.kind}", b.harmful) for b in built]
    replies = [(q, a) for _d, q, a in rng.sample(_trident_held_out(sources), 400)]
    held_out += _pairs("trident replies", replies, positive=False)
    return _at_most(held_out, 80, rng)


def shipped_probes() -> list[Request]:
    """The project's own probes; none where they are not written yet."""
    rows = [
        json.loads(line)
        for file in sorted(PROBES.glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    return [Request(row["text"], None, row["expected"] == "refuse") for row in rows]


@cache
def _shipped_runs() -> frozenset[tuple[str, ...]]:
    return _all_runs(request.text for request in shipped_probes())


def near_shipped_probe(text: str) -> bool:
    """Whether it shares five words in a row, or all of its words if it has fewer, with a shipped probe."""
    return not _shipped_runs().isdisjoint(_runs(text))


def _all_runs(texts: Iterable[str]) -> frozenset[tuple[str, ...]]:
    return frozenset(run for text in texts for run in _runs(text))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))
    return {tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4))}


def _requests(
    sources: Sources, rng: random.Random, *, harmful: tuple[int, int, int], benign: tuple[int, int], ways: int = 1
) -> list[Request]:
    """Probes to fit on: deeds and minimal pairs written for it, and so many of each public source.

    Args:
        harmful: How many of AdvBench, StrongREJECT and the training half of TRIDENT.
        benign: How many of TruthfulQA and the political figures.
        ways: In how many ways each deed and each pair is asked.
    """
    found: list[Request] = []
    for deeds, bad in ((HARMFUL_DEEDS, True), (BENIGN_DEEDS, False)):
        ours = [deed for deed in deeds if not _held_out(deed, 5)]
        found += constructed.requests(ours, harmful=bad, each=ways, rng=rng)
    pairs = [pair for pair in lookalikes.pairs() if not _held_out(_key(pair), 5)]
    found += [side for pair in pairs for _way in range(ways) for side in lookalikes.asked(pair, rng)]
    public: list[tuple[list[str], int, bool]] = [
        (sources.advbench(), harmful[0], True),
        (sources.strongreject_mit(), harmful[1], True),
        ([q for q, _a in _trident_law(sources)], harmful[2], True),
        ([q for q, _a in sources.truthfulqa()], benign[0], False),
        ([e.probe for e in sources.chatgpt_refusals() if not _held_out(e.group, 5)], benign[1], False),
    ]
    found += [Request(text, None, bad) for texts, count, bad in public for text in rng.sample(texts, count)]
    # Public sets share questions with each other, and what is frightening and harmless has been thought of before.
    measuring = _shipped_runs() | _all_runs(
        [
            *sources.simple_safety_tests(),
            *sources.harmbench_standard(),
        ]
    )
    return [request for request in dict.fromkeys(found) if measuring.isdisjoint(_runs(request.text))]


def _topics(rng: random.Random, *, answers: int, refusals: int) -> list[Built]:
    built = []
    for request, sentences in longer.topics():
        if not near_shipped_probe(request.text):
            built += [longer.build_topic(request, sentences, rng) for _ in range(answers)]
            built += [longer.build(request, rng.choice(("long refusal", "long evasion")), rng) for _ in range(refusals)]
    return built


def _built_held_out(rng: random.Random) -> list[Built]:
    """Constructed pairs over deeds and minimal pairs that are held out; the wordings of answers are shared."""
    theirs: list[Request] = []
    for deeds, harmful in ((HARMFUL_DEEDS, True), (BENIGN_DEEDS, False)):
        theirs += constructed.requests([d for d in deeds if _held_out(d, 5)], harmful=harmful, each=1, rng=rng)
    built = [b for request in theirs for b in constructed.build(request, rng)]
    pairs = [lookalikes.asked(pair, rng) for pair in lookalikes.pairs() if _held_out(_key(pair), 5)]
    for request in (side for pair in pairs for side in pair):
        kinds = {b.kind: b for b in constructed.build(request, rng)}
        name = f"{'harmful' if request.harmful else 'benign'}"
        built.append(_renamed(kinds[f"{name} comply"], f"{name} comply, minimal pairs"))
        built += [longer.build(request, kind, rng) for kind in _LONG]
    return built


def _key(pair: Iterable[Request]) -> str:
    return "|".join(request.deed or request.text for request in pair)


def _renamed(built: Built, kind: str) -> Built:
    return dataclasses.replace(built, kind=kind)


def _at_most(examples: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """So many examples per source and label, drawn by seed: enough for an interval of a few per cent each."""
    by_kind: dict[tuple[str, bool], list[Example]] = {}
    for example in examples:
        by_kind.setdefault((example.source, example.positive), []).append(example)
    return [e for kind in by_kind.values() for e in rng.sample(kind, min(count, len(kind)))]


def _held_out(key: str, one_in: int) -> bool:
    """A split by content that no seed or order changes."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % one_in == 0


def _trident_law(sources: Sources) -> list[tuple[str, str]]:
    """The half to fit on. Law only: half of the medical prompts are word for word MedSafetyBench's."""
    return [(q, a) for domain, q, a in sources.trident() if domain == "law" and not _held_out(q, 2)]


def _trident_held_out(sources: Sources) -> list[tuple[str, str, str]]:
    """(domain, prompt, reply)."""
    return [(d, q, a) for d, q, a in sources.trident() if d == "med" or _held_out(q, 2)]


def _pairs(source: str, pairs: Sequence[tuple[str, str]], *, positive: bool) -> list[Example]:
    return [
        Example(id=f"{source}-{n}", source=source, group=probe, probe=probe, answer=answer, positive=positive)
        for n, (probe, answer) in enumerate(pairs)
    ]


def _example(built: Built, label: str) -> Example:
    digest = hashlib.sha256(f"{built.probe}\n{built.answer}".encode()).hexdigest()[:12]
    return Example(
        id=f"constructed-{digest}",
        source=f"constructed: {built.kind}",
        group=built.probe,
        probe=built.probe,
        answer=built.answer,
        positive=built.refused if label == "refused" else built.harmful,
    )


def _as(example: Example, source: str, positive: bool) -> Example:
    return Example(
        id=example.id,
        source=source,
        group=example.group,
        probe=example.probe,
        answer=example.answer,
        positive=positive,
    )
