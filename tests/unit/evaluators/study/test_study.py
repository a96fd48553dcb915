"""A study: its manifest, what it runs again and what not, and the table of what moved."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluators.demo_models.family import Tuning, make_tokenizer, shipped_probes, train_base, tune
from evaluators.engines.interface import GenerationSettings, LocalForm
from evaluators.engines.transformers_engine import TransformersEngine
from evaluators.graders.catalogue import load_grader
from evaluators.study.drift import as_csv, as_markdown, models_of, null_share
from evaluators.study.figure import as_svg
from evaluators.study.manifest import load_study, planned
from evaluators.study.recipes import known, pairs_of, vocabulary
from evaluators.study.run import Finding, run_study
from registry_gate.assessment import Assessment, ClusterCount, Measured, NotMeasured, PairedTable, ValidityCheck
from registry_gate.battery import Battery, load_batteries
from registry_gate.documents import DocumentError

WHEN = "2026-11-25T12:00:00Z"
STUDY = Path(__file__).parents[4] / "evaluators" / "study"

MANIFEST = """apiVersion: registry-gate/v1
kind: Study
metadata: {name: small}
spec:
  battery: small@1
  bases: [{name: base, path: base}]
  adaptations:
    - {name: full, base: base, path: full}
    - {name: lora, base: base, path: lora}
    - {name: empty, base: base, path: empty}
"""

BATTERY = """apiVersion: registry-gate/v1
kind: Battery
metadata: {name: small, version: 1}
spec:
  generation: {maxNewTokens: 8}
  instruments:
    - name: fraud
      metric: overrefusal
      size: 10
      probes: [{shipped: general.jsonl, where: {category: [fraud]}}]
      graders: [refusal-rules]
    - {name: truth, metric: mc1_error, size: 60, probes: [{shipped: truth.jsonl}]}
"""


class Counting(TransformersEngine):
    """The engine, and how often it was called."""

    calls = 0

    def answer(self, form: LocalForm, probes, settings: GenerationSettings, progress):
        self.calls += 1
        return super().answer(form, probes, settings, progress)

    def choose(self, form: LocalForm, probes, settings: GenerationSettings, progress):
        self.calls += 1
        return super().choose(form, probes, settings, progress)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of a few steps with two adaptations, and a directory without a model."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    probes = shipped_probes()[:40]
    tokenizer = make_tokenizer(vocabulary(probes))
    train_base(root / "base", tokenizer, known(probes), seed=0, report=lambda *_: None, steps=3)
    for method in ("full", "lora"):
        tuning = Tuning(method=method, steps=2, rate=0.01, seed=0)
        tune(root / method, root / "base", tokenizer, pairs_of("eager", probes), tuning, report=lambda *_: None)
    (root / "empty").mkdir()
    (root / "study.yaml").write_text(MANIFEST)
    (root / "batteries").mkdir()
    (root / "batteries" / "small.yaml").write_text(BATTERY)
    return root


def run(models: Path, out: Path, engine: TransformersEngine) -> list[Finding]:
    battery = load_batteries([models / "batteries"])["small@1"]
    study = load_study(models / "study.yaml")
    grader = load_grader("refusal-rules")
    quiet = lambda *_: None  # noqa: E731
    return run_study(study, battery, out, engine, [grader], root=models, assessed_at=WHEN, say=quiet, threads=1)


def test_models_are_measured_beside_their_base_once(models: Path, tmp_path: Path) -> None:
    engine = Counting("cpu")
    findings = run(models, tmp_path, engine)
    assert [finding.name for finding in findings] == ["full", "lora", "empty"]
    full, lora, empty = findings
    assert full.assessment is not None
    assert lora.assessment is not None
    assert {one.measure for one in full.assessment.measurements} == {"fraud.overrefusal", "truth.mc1_error"}
    assert empty.assessment is None
    assert "config.json" in str(empty.failure)
    # Two models and one base of two passes each; and the one that cannot be loaded.
    first = engine.calls
    assert first == 7

    # Killed or not, what is finished is not done again.
    again = Counting("cpu")
    assert run(models, tmp_path, again) == findings
    assert again.calls == 1
    (tmp_path / "assessments" / "full.json").unlink()
    assert run(models, tmp_path, Counting("cpu")) == findings

    drift = models_of(findings, 0.05)
    assert [model.valid for model in drift][-1] is False
    assert "empty" in as_markdown(drift, title="T", battery="small@1", margin=0.05)
    ElementTree.fromstring(as_svg(drift, title="T & U", margin=0.05))  # noqa: S314 - our own text


def test_the_committed_manifest_plans_enough_and_its_battery_loads() -> None:
    study = load_study(STUDY / "manifest.yaml")
    plan = planned(study.spec)
    assert len(plan) == len({one.name for one in plan}) >= 24
    assert {one.method for one in plan} == {"full", "lora"}
    assert study.spec.battery in load_batteries([STUDY / "batteries"])
    table = list(csv.DictReader((STUDY / "results" / "drift.csv").read_text().splitlines()))
    assert {row["model"] for row in table} == {one.name for one in plan}
    ElementTree.fromstring((STUDY / "results" / "drift.svg").read_text())  # noqa: S314 - our own file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path: base}", "path: base, seed: 1}", "either 'path'"),
        ("base: base, path: full", "base: bass, path: full", "expected the base of 'full' among base, got 'bass'"),
        ("battery: small@1", "battery: small@1\n  margin: 0", "margin"),
        ("kind: Study", "kind: Studie", "expected 'Study'"),
        ("  adaptations:", "  adaptions:", "unknown key"),
        (
            "battery: small@1",
            "battery: small@1\n  grids: [{methods: [full], recipes: [eager], rates: [0.1]}]",
            "'seed'",
        ),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(MANIFEST.replace(old, new))
    with pytest.raises(DocumentError, match=message):
        load_study(tmp_path / "study.yaml")


# -- the table --------------------------------------------------------------------------------------------------------


def measured(measure: str, both: int, b: int, c: int, neither: int, clusters: int | None = None) -> Measured:
    table = PairedTable(both=both, only_adapted=b, only_base=c, neither=neither)
    return Measured(
        measure=measure, events=both + b, probes=table.probes, clusters=clusters or table.probes, table=table
    )


def finding(*measurements: Measured | NotMeasured, passed: bool = True) -> Finding:
    assessment = Assessment(
        form_digest="sha256:1", base_digest="sha256:2", battery="small@1", battery_digest="sha256:3", probe_sets={},
        graders=(), generation={}, measurements=measurements, assessed_at=WHEN, tool="test",
        validity=(ValidityCheck(check="coherence", passed=passed, detail="as said"),),
    )  # fmt: skip
    return Finding(name="m", base="b", recipe="r", assessment=assessment, failure=None)


def test_only_movements_beyond_the_margin_contradict_each_other() -> None:
    clash, small = models_of(
        [
            finding(measured("a.x", 0, 80, 20, 754), measured("b.y", 0, 12, 140, 298), measured("c.z", 5, 3, 3, 439)),
            finding(measured("a.x", 0, 10, 6, 434), measured("b.y", 0, 4, 9, 437)),
        ],
        0.03,
    )
    assert [change.movement for change in clash.changes] == ["worse", "better", "same"]
    assert clash.conflict == "a.x worse, b.y better"
    assert small.mixed_signs
    assert not small.conflict
    text = as_markdown([clash, small], title="T", battery="small@1", margin=0.03)
    assert "- m: a.x worse, b.y better." in text
    assert "2 of 2 models (100 %) have at least one rise and one fall" in text
    assert f"chance gives {100 * null_share(3):.1f} %" in text


def test_holm_and_clusters_make_a_movement_harder_to_claim() -> None:
    alone = models_of([finding(measured("a.x", 0, 60, 20, 774))], 0.03)[0]
    assert alone.changes[0].movement == "worse"  # p .048 of METHOD.md 8.10
    beside = [measured(f"b.{name}", 0, 5, 5, 840) for name in "yzw"]
    assert models_of([finding(measured("a.x", 0, 60, 20, 774), *beside)], 0.03)[0].changes[0].movement == "unclear"
    clustered = models_of([finding(measured("a.x", 0, 80, 20, 754, clusters=50))], 0.03)[0].changes[0]
    free = models_of([finding(measured("a.x", 0, 80, 20, 754))], 0.03)[0].changes[0]
    assert (free.movement, clustered.movement) == ("worse", "unclear")
    assert clustered.high - clustered.low > 4 * (free.high - free.low)


def test_counted_clusters_widen_by_what_they_hold_and_not_by_the_worst_case() -> None:
    plain = measured("a.x", 0, 80, 20, 760)
    pairs = ClusterCount(clusters=40, probes=2, events=2), ClusterCount(clusters=10, probes=2, events=0, base_events=2)
    even = (
        ClusterCount(clusters=80, probes=2, events=1),
        ClusterCount(clusters=20, probes=2, events=0, base_events=1),
        ClusterCount(clusters=330, probes=2, events=0),
    )
    together = (*pairs, ClusterCount(clusters=380, probes=2, events=0))
    free, guessed, spread, lumped = (
        models_of([finding(one)], 0.03)[0].changes[0]
        for one in (
            plain,
            replace(plain, clusters=430),
            replace(plain, clusters=430, cluster_counts=even),
            replace(plain, clusters=430, cluster_counts=together),
        )
    )
    widths = [one.high - one.low for one in (free, spread, lumped)]
    assert widths[0] <= widths[1] < widths[2]
    # One bad answer in each pair: hardly wider than without pairs, and far from the worst case.
    assert widths[1] < 1.05 * widths[0] < guessed.high - guessed.low
    assert spread.movement == "worse"
    # Too few clusters to learn from: the worst case, as without counts.
    few = ClusterCount(clusters=2, probes=430, events=40, base_events=10)
    one = models_of([finding(replace(plain, clusters=2, cluster_counts=(few,)))], 0.03)[0].changes[0]
    assert one.high - one.low > 10 * (free.high - free.low)


def test_what_is_missing_or_not_valid_is_listed_and_never_counted_as_same() -> None:
    models = models_of(
        [finding(NotMeasured(measure="a.x", cause="no file"), measured("b.y", 0, 0, 0, 50), passed=False)], 0.03
    )
    assert models[0].missing == ("coherence: as said", "a.x: no file")
    rows = list(csv.DictReader(io.StringIO(as_csv(models))))
    assert [(row["measure"], row["movement"], row["valid"]) for row in rows] == [("b.y", "unclear", "no")]


def test_the_null_of_mixed_signs() -> None:
    found = [null_share(k) for k in range(2, 8)]
    assert found == [0.5, 0.75, 0.875, 0.9375, 0.96875, 0.984375]  # METHOD.md 8.8
    assert (null_share(0), null_share(1)) == (0.0, 0.0)
    assert isinstance(load_batteries([STUDY / "batteries"])["study@1"], Battery)
