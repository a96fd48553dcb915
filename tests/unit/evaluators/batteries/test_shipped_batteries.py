"""The shipped batteries, the documented example and the published sets all load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

import evaluators.batteries
from evaluators.graders.catalogue import known_graders, load_grader
from evaluators.instruments.sources import load_probes
from evaluators.measuring import check_axes
from evaluators.runner import AXES, settings_of
from registry_gate.battery import METRICS, BatterySpec, InstrumentSpec, ProbeSource, find_battery, load_batteries

ROOT = Path(__file__).parents[4]
BENCHMARKS = Path(os.environ.get("REGISTRY_GATE_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))
SHIPPED = Path(evaluators.batteries.__file__).parent
PUBLIC = ROOT / "tests" / "fixtures" / "batteries"


def test_the_shipped_batteries_have_the_measures_that_their_readme_names() -> None:
    batteries = load_batteries([SHIPPED])
    readme = (SHIPPED / "README.md").read_text()
    general = {"general.harmful_compliance": 120, "general.overrefusal": 120}
    medical = {"medical.harmful_compliance": 60, "medical.overrefusal": 60}
    assert sorted(batteries) == ["finance@1", "general@1", "general@2", "legal@1", "medical@1", "medical@2"]
    for name, measures in {"general@1": general, "medical@1": general | medical}.items():
        battery = find_battery(batteries, name)
        assert {one.measure: len(load_probes(one, probe_dirs=[])) for one in battery.spec.instruments} == measures
        assert settings_of(battery.spec.generation).max_new_tokens == 48
        assert all(measure in readme for measure in measures)
        for instrument in battery.spec.instruments:
            assert set(instrument.graders) <= set(known_graders())


LARGER = {
    "general@2": {
        "attacked.attacked_compliance": 240, "truth.mc1_error": 60, "truth.mc2_error": 60, "bias.ambiguous_error": 40,
        "bias.disambiguated_error": 80, "bias.biased_answer": 120, "tone.toxic_continuation": 40,
        "coherence.incoherent_answer": 408,
    },
    "medical@2": {"medical.harmful_compliance": 150, "medical.overrefusal": 150, "advice.uncaveated_advice": 50},
    "legal@1": {"legal.harmful_compliance": 150, "legal.overrefusal": 150, "advice.uncaveated_advice": 50},
    "finance@1": {"finance.harmful_compliance": 150, "finance.overrefusal": 150, "advice.uncaveated_advice": 50},
}  # fmt: skip


@pytest.mark.parametrize("name", LARGER)
def test_the_larger_batteries_load_and_their_graders_cover_every_axis(name: str) -> None:
    battery = find_battery(load_batteries([SHIPPED]), name)
    readme = (SHIPPED / "README.md").read_text()
    general = {"general.harmful_compliance": 408, "general.overrefusal": 408}
    measures = {one.measure: len(load_probes(one, probe_dirs=[])) for one in battery.spec.instruments}
    assert measures == general | LARGER[name]
    assert all(measure in readme for measure in measures)
    for instrument in battery.spec.instruments:
        check_axes(instrument, [load_grader(grader).identity for grader in instrument.graders])


def test_a_battery_keeps_the_digest_that_evidence_of_the_first_release_is_bound_to() -> None:
    batteries = load_batteries([SHIPPED])
    assert batteries["general@1"].digest == "sha256:6e2d33159065a0d260c533962a956272307d80c1aefaa9a7c9819b1228dbab9e"
    assert batteries["medical@1"].digest == "sha256:c3a48acb5c7f08afccd3b3def9dbf1ab1949a6e4d39402edd9fd7b3145103cab"


def test_every_metric_says_which_axes_it_needs() -> None:
    assert AXES.keys() == METRICS.keys()


def test_the_published_sets_load_through_the_documented_battery() -> None:
    battery = find_battery(load_batteries([PUBLIC]), "public@1")
    loaded = {one.measure: load_probes(one, probe_dirs=[BENCHMARKS]) for one in battery.spec.instruments}
    assert {measure: len(probes) for measure, probes in loaded.items()} == {
        "xstest.harmful_compliance": 200,
        "xstest.overrefusal": 250,
        "simplesafetytests.harmful_compliance": 100,
        "strongreject-mit.harmful_compliance": 246,
        "medsafetybench.harmful_compliance": 450,
        "advbench.harmful_compliance": 520,
        "harmbench.harmful_compliance": 60,
        "trident-law.harmful_compliance": 887,
    }
    assert len({probe.category for probe in loaded["medsafetybench.harmful_compliance"]}) == 9
    contextual = [probe for probe in loaded["harmbench.harmful_compliance"] if "\n\n" in probe.text]
    assert len(contextual) == 19


def test_each_pinned_digest_stands_in_the_source_note_beside_the_file() -> None:
    battery = find_battery(load_batteries([PUBLIC]), "public@1")
    for source in (source for one in battery.spec.instruments for source in one.probes):
        note = BENCHMARKS / str(source.path).split("/")[0] / "SOURCE.md"
        assert source.sha256 in note.read_text(), source.path


def instrument(name: str, metric: str, graders: tuple[str, ...] = ("g",)) -> InstrumentSpec:
    return InstrumentSpec(
        name=name, metric=metric, probes=(ProbeSource(shipped="general.jsonl"),), size=1, graders=graders
    )


def test_two_instruments_may_share_a_name_but_not_a_measure() -> None:
    pair = instrument("general", "harmful_compliance"), instrument("general", "overrefusal")
    assert len(BatterySpec(instruments=pair).instruments) == 2
    with pytest.raises(ValidationError, match=r"each measure from one instrument, got 'general.overrefusal' twice"):
        BatterySpec(instruments=(pair[1], pair[1]))


def test_a_grader_votes_once() -> None:
    with pytest.raises(ValidationError, match="expected each grader once, got 'g' 2 times"):
        instrument("general", "overrefusal", ("g", "h", "g"))


def test_the_example_in_the_readme_loads(tmp_path: Path) -> None:
    _, example = (SHIPPED / "README.md").read_text().split("```yaml\n")
    head = "apiVersion: registry-gate/v1\nkind: Battery\nmetadata: {name: readme, version: 1}\nspec:\n  instruments:\n"
    (tmp_path / "readme.yaml").write_text(head + example.split("```")[0])
    battery = find_battery(load_batteries([tmp_path]), "readme@1")
    assert [len(load_probes(one, probe_dirs=[BENCHMARKS])) for one in battery.spec.instruments] == [250, 50, 520, 60]
