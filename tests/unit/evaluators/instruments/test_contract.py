"""The contract of instruments: what holds passes, and each thing that does not has its sentence."""
# ruff: noqa: ARG005 - constructs are small functions of three things, of which most look at one

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import evaluators.instruments.catalogue as catalogue
from evaluators.engines.interface import Answer
from evaluators.instruments.catalogue import check_plugins, construct_of
from evaluators.instruments.construct import Construct
from evaluators.instruments.contract import check_construct
from evaluators.instruments.probe import Probe
from registry_gate.battery import InstrumentSpec, ProbeSource
from registry_gate.errors import AssessmentError

SHOUTS = Construct(
    metric="shouting",
    title="Answers in capitals",
    source="this test",
    bad=lambda probe, answer, labels: answer.text.isupper(),
)
PROBES = [Probe(id=f"p{n}", text=f"question {n}", category="c", cluster=f"p{n}", expected="comply") for n in range(3)]


def answer(text: str) -> Answer:
    return Answer(probe_id="p0", text=text, tokens=1, finish="stop")


BAD, GOOD = [(PROBES[0], answer("NO"), {})], [(PROBES[0], answer("no"), {})]


def test_an_instrument_that_holds_passes() -> None:
    check_construct(SHOUTS, PROBES, bad=BAD, good=GOOD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "overrefusal"}, "expected a metric of its own"),
        ({"metric": "Shouting!"}, "expected a metric of small letters"),
        ({"source": " "}, "expected a title and a source"),
        ({"axes": ("refusal",)}, "expected a label on each axis, got none on refusal"),
        ({"bad": lambda probe, answer, labels: 1}, "expected True or False, got a int"),
        ({"bad": lambda probe, answer, labels: False}, "bad example 1: expected True, got False"),
        ({"bad": lambda probe, answer, labels: labels["x"]}, "expected a verdict, got KeyError"),
        ({"bad": lambda probe, answer, labels: answer.text.isupper() and probe.id == "p0"}, "under another id"),
        ({"kind": "choice"}, "expected choices, got none"),
        ({"check": lambda probe: "too short"}, "probe 'p0': too short"),
        ({"figures": lambda probes, answers: {"x": float("nan")}}, "expected finite numbers"),
        (
            {"figures": lambda probes, answers: {"x": len(answers[0].text + "a" * answers[0].text.isupper())}},
            "any order",
        ),
    ],
)
def test_what_does_not_hold_is_said(changes: dict[str, object], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_construct(replace(SHOUTS, **changes), PROBES, bad=BAD, good=GOOD)  # type: ignore[arg-type]


def test_examples_of_both_kinds_are_needed() -> None:
    with pytest.raises(AssertionError, match="a construct that never counts cannot fail"):
        check_construct(SHOUTS, PROBES, bad=[], good=GOOD)


def make() -> Construct:
    """What an entry point names when it is a function."""
    return SHOUTS


def takes_a_shipped_metric() -> Construct:
    """Nothing replaces an instrument silently."""
    return replace(SHOUTS, metric="overrefusal")


def breaks() -> Construct:
    """Other people's code may raise anything."""
    raise RuntimeError("no licence")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch):
    """Pretend that packages register entry points."""
    points: list[EntryPoint] = []

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [point for point in points if group == catalogue.PLUGIN_GROUP and name in (None, point.name)]

    monkeypatch.setattr(catalogue, "entry_points", entry_points)
    return lambda name, target: points.append(EntryPoint(name, f"{__name__}:{target}", catalogue.PLUGIN_GROUP))


def spec(metric: str, plugin: str) -> InstrumentSpec:
    return InstrumentSpec(
        name="n", metric=metric, plugin=plugin, probes=(ProbeSource(shipped="general.jsonl"),), size=2
    )


def test_a_plugin_is_found_by_its_name(plugins) -> None:
    plugins("loud", "make")
    plugins("loud-too", "SHOUTS")
    assert construct_of(spec("shouting", "loud")) is SHOUTS
    assert construct_of(spec("shouting", "loud-too")) is SHOUTS
    assert check_plugins() == ["loud", "loud-too"]
    with pytest.raises(AssessmentError, match="expected plugin 'loud' to measure 'whispering', got 'shouting'"):
        construct_of(spec("whispering", "loud"))
    plugins("loud", "make")
    with pytest.raises(AssessmentError, match=r"expected one installed package .* got 2"):
        construct_of(spec("shouting", "loud"))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("takes_a_shipped_metric", "nothing replaces an instrument silently"),
        ("breaks", "expected a construct, got RuntimeError: no licence"),
        ("missing", "expected a construct, got AttributeError"),
        ("answer", "expected a construct, got TypeError"),
    ],
)
def test_a_plugin_that_does_not_load_is_refused(plugins, target: str, message: str) -> None:
    plugins("bad", target)
    with pytest.raises(AssessmentError, match=message):
        check_plugins()


BATTERY = """apiVersion: registry-gate/v1
kind: Battery
metadata: {{name: mine, version: 1}}
spec:
  instruments:
    - name: brand
      metric: refused_or_rude
      event: {{{axis}: {label}}}
      size: 2
      probes: [{{path: q.csv, sha256: {sha}, licence: internal, columns: {{text: q}}}}]
      graders: [toxicity-rules]
"""


@pytest.mark.parametrize(
    ("axis", "label", "code", "message"),
    [
        ("toxicity", "toxic", 0, "mine@1 brand.refused_or_rude: 2 probes in 2 clusters, fits"),
        (
            "toxicity",
            "rude",
            2,
            "expected the event to name a label of toxicity-rules on axis toxicity (civil, toxic), got",
        ),
        ("harm", "harmful", 2, "expected a grader on each of the axes harm"),
    ],
)
def test_a_battery_can_be_checked_by_anyone(axis: str, label: str, code: int, message: str, tmp_path: Path) -> None:
    data = b"q\nWhere?\nWhen?\n"
    (tmp_path / "q.csv").write_bytes(data)
    (tmp_path / "mine.yaml").write_text(BATTERY.format(axis=axis, label=label, sha=sha256(data).hexdigest()))
    command = [sys.executable, "-m", "evaluators.instruments.contract", str(tmp_path / "mine.yaml")]
    done = subprocess.run([*command, "--probes", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
