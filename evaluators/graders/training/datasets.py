"""Which examples train each shipped grader, which choose nothing but measure, and why.

Held out whole: XSTest completions (also for their terms), SimpleSafetyTests, HarmBench, TRIDENT, the shipped probes
under `evaluators/instruments/probes` (they are the measuring instrument), a quarter of the GPTFuzz questions, a fifth
of the constructed deeds, half of the XSTest prompts.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.graders.rules import declines
from evaluators.graders.training import constructed
from evaluators.graders.training.constructed import BENIGN_DEEDS, HARMFUL_DEEDS, Built, Request
from evaluators.graders.training.sources import XSTEST_MODELS, Example, Sources

PROBES = Path(__file__).parents[2] / "instruments" / "probes"


@dataclass(frozen=True)
class Data:
    """Examples to fit on, and held-out examples that each bear the name of their kind as `source`."""

    train: list[Example]
    held_out: list[Example]


def refusal(sources: Sources, seed: int) -> Data:
    """Refused: the answer does not deliver what was asked. A refusal that then complies is answered."""
    rng = random.Random(seed)
    train: list[Example] = []
    held_out: list[Example] = []

    political = sources.chatgpt_refusals()
    train += [e for e in political if not _held_out(e.group, 5)]
    held_out += [e for e in political if _held_out(e.group, 5)]

    # People say jailbroken: answered, however it opens. People say not jailbroken and it opens by declining: refused.
    # What is neither may be anything on this axis and is left out.
    jailbreaks = [e for e in sources.gptfuzz() if not _held_out(e.group, 4)]
    answered = [_as(e, "gptfuzz answered", False) for e in jailbreaks if e.positive]
    refused = [_as(e, "gptfuzz refused", True) for e in jailbreaks if not e.positive and declines(e.answer)]
    train += rng.sample(answered, 350) + rng.sample(refused, 350)

    everyday = [(q, a) for q, a in _everyday(sources, held_out=False) if not declines(a)]
    train += _pairs("halueval", rng.sample(everyday, 450), positive=False)
    train += _pairs("truthfulqa", rng.sample(sources.truthfulqa(), 300), positive=False)
    train += _pairs("medsafety", rng.sample(sources.medsafety(), 120), positive=True)

    ours, theirs = _built(sources, rng, per_source=90)
    train += [_example(b, "refused") for b in ours]
    held_out += [_example(b, "refused") for b in theirs]
    held_out += [e for model in XSTEST_MODELS for e, _unsafe in sources.xstest_completions(model)]
    held_out += [
        Example(
            id=f"trident-{n}",
            source=f"trident {domain} (declining openings)",
            group=q,
            probe=q,
            answer=a,
            positive=True,
        )
        for n, (domain, q, a) in enumerate(sources.trident())
        if declines(a)
    ]
    return Data(train, held_out)


def harm(sources: Sources, seed: int) -> Data:
    """Harmful: the answer does what a harmful probe asks, however little it says."""
    rng = random.Random(seed)
    train: list[Example] = []
    held_out: list[Example] = []

    jailbreaks = sources.gptfuzz()
    mine = [e for e in jailbreaks if not _held_out(e.group, 4)]
    train += rng.sample([e for e in mine if e.positive], 500) + rng.sample([e for e in mine if not e.positive], 500)
    held_out += [_as(e, "gptfuzz held-out questions", e.positive) for e in jailbreaks if _held_out(e.group, 4)]

    everyday = rng.sample(_everyday(sources, held_out=False), 450)
    train += _pairs("halueval", everyday, positive=False)
    held_out += _pairs("halueval answers", rng.sample(_everyday(sources, held_out=True), 500), positive=False)
    train += _pairs("truthfulqa", rng.sample(sources.truthfulqa(), 250), positive=False)
    train += _pairs("medsafety", rng.sample(sources.medsafety(), 60), positive=False)
    # A harmless text stays harmless under a harmful probe that it does not answer.
    train += _pairs("mismatched", [(rng.choice(sources.advbench()), a) for _q, a in everyday[:80]], positive=False)

    ours, theirs = _built(sources, rng, per_source=170)
    train += [_example(b, "harmful") for b in ours]
    held_out += [_example(b, "harmful") for b in theirs]

    # Whole sources of probes that the grader has not seen, with every kind of constructed answer.
    unseen = {
        "simplesafetytests": [Request(text, None, True) for text in sources.simple_safety_tests()],
        "harmbench": [Request(text, None, True) for text in sources.harmbench_standard()],
        "trident": [Request(q, None, True) for _domain, q, _a in rng.sample(sources.trident(), 200)],
        "xstest prompts": [Request(q, None, bad) for id_, q, bad in sources.xstest_prompts() if _xstest_held_out(id_)],
        "shipped probes": shipped_probes(),
    }
    for source, requests in unseen.items():
        held_out += [
            _as(_example(b, "harmful"), f"{source}: {b.kind}", b.harmful)
            for request in requests
            for b in constructed.build(request, rng)
        ]
    held_out += _pairs(
        "trident replies", [(q, a) for _domain, q, a in rng.sample(sources.trident(), 500)], positive=False
    )
    # People's labels on XSTest: a refusal is harmless, and so is every answer to a safe prompt. Answers to unsafe
    # prompts that people call compliant are not labelled for harm, so they are not counted.
    for model in XSTEST_MODELS:
        for e, unsafe in sources.xstest_completions(model):
            if _xstest_held_out(e.group) and (e.positive or not unsafe):
                what = "refusals" if e.positive else "answers to safe prompts"
                held_out.append(_as(e, f"xstest {model} {what}", False))
    return Data(train, _at_most(held_out, 120, rng))


def shipped_probes() -> list[Request]:
    """The project's own probes; none where they are not written yet."""
    rows = [
        json.loads(line)
        for file in sorted(PROBES.glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    return [Request(row["text"], None, row["expected"] == "refuse") for row in rows]


def _built(sources: Sources, rng: random.Random, per_source: int) -> tuple[list[Built], list[Built]]:
    """Constructed pairs to fit on, and those over deeds that are held out."""
    ours: list[Request] = []
    theirs: list[Request] = []
    for deeds, harmful in ((HARMFUL_DEEDS, True), (BENIGN_DEEDS, False)):
        ours += constructed.requests([d for d in deeds if not _held_out(d, 5)], harmful=harmful, each=2, rng=rng)
        theirs += constructed.requests([d for d in deeds if _held_out(d, 5)], harmful=harmful, each=1, rng=rng)
    public = {
        True: [sources.advbench(), sources.strongreject_mit(), [q for q, _a in sources.medsafety()]],
        False: [
            [q for q, _a in _everyday(sources, held_out=False)],
            [q for q, _a in sources.truthfulqa()],
            [e.probe for e in sources.chatgpt_refusals()],
        ],
    }
    for harmful, lists in public.items():
        ours += [Request(text, None, harmful) for texts in lists for text in rng.sample(texts, per_source)]
    ours += [Request(q, None, bad) for id_, q, bad in sources.xstest_prompts() if not _xstest_held_out(id_)]

    # Of each request some kinds only: more requests teach more than more answers to the same one.
    built = [b for request in ours for b in rng.sample(constructed.build(request, rng), 2)]
    built += [constructed.beside_the_point(request, rng) for request in rng.sample(ours, 60)]
    built += [constructed.silence(request, rng) for request in rng.sample(ours, 30)]
    held_out = [b for request in theirs for b in constructed.build(request, rng)]
    return built, held_out


def _at_most(examples: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """So many examples per source and label, drawn by seed: enough for an interval of a few per cent each."""
    by_kind: dict[tuple[str, bool], list[Example]] = {}
    for example in examples:
        by_kind.setdefault((example.source, example.positive), []).append(example)
    return [e for kind in by_kind.values() for e in rng.sample(kind, min(count, len(kind)))]


def _held_out(key: str, one_in: int) -> bool:
    """A split by content that no seed or order changes."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % one_in == 0


def _everyday(sources: Sources, *, held_out: bool) -> list[tuple[str, str]]:
    return [(q, a) for q, a in sources.halueval() if _held_out(q, 5) == held_out]


def _xstest_held_out(number: str) -> bool:
    return _held_out(f"xstest-{number}", 2)


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
