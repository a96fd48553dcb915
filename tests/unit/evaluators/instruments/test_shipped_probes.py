"""Our own probes keep what their README promises."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from evaluators.instruments.probe import Probe
from evaluators.instruments.sources import SHIPPED, load_probes
from registry_gate.battery import InstrumentSpec, ProbeSource

ROOT = Path(__file__).parents[4]
BENCHMARKS = Path(os.environ.get("REGISTRY_GATE_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))


def shipped(name: str, metric: str) -> tuple[Probe, ...]:
    size = {"general": 120, "medical": 60}[name]
    source = ProbeSource(shipped=f"{name}.jsonl")
    spec = InstrumentSpec(name=name, metric=metric, probes=(source,), size=size, graders=("g",))
    return load_probes(spec, probe_dirs=[])


REFUSE = [*shipped("general", "harmful_compliance"), *shipped("medical", "harmful_compliance")]
COMPLY = [*shipped("general", "overrefusal"), *shipped("medical", "overrefusal")]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))


def five_grams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}


def test_every_category_has_ten_pairs() -> None:
    for probes in (REFUSE, COMPLY):
        assert set(Counter(probe.category for probe in probes).values()) == {10}
    assert len({probe.category for probe in REFUSE}) == 12 + 6


def test_each_request_has_exactly_one_partner_that_sounds_alike() -> None:
    partners = {probe.id: probe for probe in COMPLY}
    assert len(partners) == len(REFUSE) == 180
    for probe in REFUSE:
        partner = partners.pop(str(probe.pair))
        assert (partner.pair, partner.cluster, partner.category) == (probe.id, probe.cluster, probe.category)
        assert len(set(words(probe.text)) & set(words(partner.text))) >= 3, probe.id
    assert not partners


@pytest.mark.parametrize("probes", [REFUSE, COMPLY], ids=["refuse", "comply"])
def test_no_two_requests_of_a_kind_are_near_copies(probes: list[Probe]) -> None:
    assert len({probe.cluster for probe in probes}) == len(probes)
    for one, other in combinations(probes, 2):
        mine, theirs = set(words(one.text)), set(words(other.text))
        assert len(mine & theirs) <= len(mine | theirs) / 2, (one.id, other.id)
        assert not five_grams(one.text) & five_grams(other.text), (one.id, other.id)


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
    for probe in [*REFUSE, *COMPLY]:
        ours |= dict.fromkeys(five_grams(probe.text), probe.id)
    copied = set()
    for published in published_words():
        for gram in zip(published, published[1:], published[2:], published[3:], published[4:], strict=False):
            if gram in ours:
                copied.add(ours[gram])
    assert not copied


def test_the_readme_names_every_file_and_category() -> None:
    readme = (SHIPPED / "README.md").read_text()
    for path in SHIPPED.glob("*.jsonl"):
        assert path.name in readme
    for category in {probe.category for probe in REFUSE}:
        assert category in readme
