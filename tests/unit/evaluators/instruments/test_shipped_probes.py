"""Our own probes keep what their README promises."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from evaluators.instruments import financial_ethics, legal_ethics, medical_ethics
from evaluators.instruments.adding import Request, instruments_of
from evaluators.instruments.probe import Probe
from evaluators.instruments.sources import SHIPPED, load_probes

ROOT = Path(__file__).parents[4]
BENCHMARKS = Path(os.environ.get("REGISTRY_GATE_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))


PAIRED = ("general", "general_more", "medical", "medical_more", "legal", "finance")


def read(name: str) -> list[Probe]:
    lines = (SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Probe(**json.loads(line)) for line in lines]


ALL = [probe for path in sorted(SHIPPED.glob("*.jsonl")) for probe in read(path.stem)]
REFUSE = [probe for name in PAIRED for probe in read(name) if probe.expected == "refuse"]
COMPLY = [probe for name in PAIRED for probe in read(name) if probe.expected == "comply"]
SIZES = {"general": 12 * 34, "medical": 150, "legal": 150, "finance": 150}
PREFIXES = {"general": "gen-", "medical": "med-", "legal": "leg-", "finance": "fin-"}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))


def five_grams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}


def test_there_are_as_many_pairs_of_each_kind_as_the_readme_says() -> None:
    for domain, size in SIZES.items():
        for probes in (REFUSE, COMPLY):
            mine = [probe for probe in probes if probe.id.startswith(PREFIXES[domain])]
            assert len(mine) == size
            assert set(Counter(probe.category for probe in mine).values()) == {34 if domain == "general" else 25}
    assert Counter(probe.category for probe in read("advice")) == {"medical": 50, "legal": 50, "finance": 50}
    assert len({probe.id for probe in ALL}) == len(ALL)


def test_each_category_of_a_profession_stands_for_a_duty_of_its_code() -> None:
    for module in (medical_ethics, legal_ethics, financial_ethics):
        code = module.CODE
        found = {probe.category for probe in REFUSE if probe.id.startswith(PREFIXES[code.domain])}
        assert found == code.duties.keys()


def test_each_request_has_exactly_one_partner_that_sounds_alike() -> None:
    partners = {probe.id: probe for probe in COMPLY}
    assert len(partners) == len(REFUSE) == sum(SIZES.values())
    for probe in REFUSE:
        partner = partners.pop(str(probe.pair))
        assert (partner.pair, partner.cluster, partner.category) == (probe.id, probe.cluster, probe.category)
        assert len(set(words(probe.text)) & set(words(partner.text))) >= 3, probe.id
    assert not partners


def test_choices_have_one_right_answer_whose_place_tells_nothing() -> None:
    truth, biases = read("truth"), read("bias")
    assert [probe.roles.count("true") for probe in truth] == [1] * len(truth)
    assert set(Counter(probe.roles.index("true") for probe in truth)) == {0, 1, 2, 3}
    for probe in biases:
        assert sorted(role.removeprefix("right ") for role in probe.roles) == ["biased", "counter", "unknown"]
        assert sum(role.startswith("right") for role in probe.roles) == 1
    places = Counter(next(i for i, role in enumerate(p.roles) if role.startswith("right")) for p in biases)
    assert min(places.values()) >= len(biases) / 6
    kinds = Counter(next(role for role in p.roles if role.startswith("right")) for p in biases)
    assert set(kinds.values()) == {40}


@pytest.mark.parametrize("probes", [REFUSE, COMPLY], ids=["refuse", "comply"])
def test_no_two_requests_of_a_kind_are_near_copies(probes: list[Probe]) -> None:
    assert len({probe.cluster for probe in probes}) == len(probes)
    known = [(probe.id, frozenset(words(probe.text)), five_grams(probe.text)) for probe in probes]
    for (one, mine, my_grams), (other, theirs, their_grams) in combinations(known, 2):
        assert len(mine & theirs) <= len(mine | theirs) / 2, (one, other)
        assert not my_grams & their_grams, (one, other)


def test_requests_are_short_and_not_all_phrased_alike() -> None:
    for probe in [*REFUSE, *COMPLY]:
        assert 6 <= len(probe.text.split()) <= 22, probe.id
    for probes in (REFUSE, COMPLY):
        openings = Counter(words(probe.text)[0] for probe in probes)
        assert len(openings) >= 20
        assert max(openings.values()) <= len(probes) / 8


def published_words() -> Iterator[list[str]]:
    files = [
        path
        for path in sorted(BENCHMARKS.rglob("*"))
        if path.suffix in {".csv", ".tsv", ".json", ".jsonl"} and path.is_file()
    ]
    assert files, f"expected the published benchmarks at {BENCHMARKS}; set REGISTRY_GATE_BENCHMARKS to where they are"
    for path in files:
        yield words(path.read_text(encoding="utf-8", errors="replace"))


def test_no_five_words_in_a_row_stand_in_a_published_set() -> None:
    """A published probe copied here would be counted as if it were independent of the set it came from."""
    ours: dict[tuple[str, ...], str] = {}
    for probe in ALL:
        ours |= dict.fromkeys(five_grams(probe.text), probe.id)
    copied = set()
    for published in published_words():
        for gram in zip(published, published[1:], published[2:], published[3:], published[4:], strict=False):
            if gram in ours:
                copied.add(ours[gram])
    assert not copied


def published_prompts() -> Iterator[str]:
    """Every prompt of the sets that can be put to a model, through the loader that users have."""
    for name in ("advbench", "harmbench", "strongreject", "simplesafetytests", "xstest", "trident", "medsafetybench"):
        for added in instruments_of(Request(name=name, place=str(BENCHMARKS / name)), []):
            yield from (probe.text for probe in load_probes(added.spec, probe_dirs=[]))


def test_none_is_a_near_copy_of_a_published_prompt() -> None:
    """Word Jaccard of at most one half with every prompt of seven public sets; rare words find the candidates."""
    theirs = [frozenset(words(text)) for text in published_prompts()]
    assert len(theirs) > 4000
    holders: dict[str, list[int]] = {}
    for number, found in enumerate(theirs):
        for word in found:
            holders.setdefault(word, []).append(number)
    near = []
    for probe in [*REFUSE, *COMPLY]:
        mine = frozenset(words(probe.text))
        # Two texts that share half of their words share one of the rarest half of mine.
        rarest = sorted(mine, key=lambda word: len(holders.get(word, ())))[: len(mine) // 2 + 1]
        candidates = {number for word in rarest for number in holders.get(word, ())}
        near += [probe.id for number in candidates if len(mine & theirs[number]) > len(mine | theirs[number]) / 2]
    assert not near


def test_the_readme_names_every_file_and_category() -> None:
    readme = (SHIPPED / "README.md").read_text()
    for path in SHIPPED.glob("*.jsonl"):
        assert path.name in readme
    for category in {probe.category for probe in REFUSE}:
        assert category in readme
