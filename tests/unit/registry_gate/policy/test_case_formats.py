"""Results of policy tests as CI servers read them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from registry_gate.documents import Problem
from registry_gate.policy.case_formats import as_problems, github, junit
from registry_gate.policy.cases import CaseReport, CaseResult, ToldReason


def result(name: str, *differences: str) -> CaseResult:
    return CaseResult(
        name=name,
        title="A case",
        file="cases/a.yaml#2",
        line=7,
        policies=("medical",),
        differences=differences,
        decision=None,
        told=(ToldReason(label="no_policy", expected=False, got=True, sentence="no <policy>"),) if differences else (),
    )


BAD = CaseReport(
    results=(result("holds"), result("does-not", 'expected <a> & "b"\x00, got c', "and another")),
    problems=(Problem(file="cases/b.yaml", line=3, key="spec", message="expected 100 %, got\nless"),),
)


def test_junit_counts_what_ran_failed_and_could_not_be_read() -> None:
    suites = ET.fromstring(junit(BAD))  # noqa: S314 - our own text
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "1", "1")
    cases = suites.findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == ["holds", "does-not", "cases/b.yaml"]
    assert (cases[0].get("file"), cases[0].get("line"), len(cases[0])) == ("cases/a.yaml", "7", 0)
    failure = cases[1].find("failure")
    assert (
        failure is not None
        and failure.text == 'expected <a> & "b"\ufffd, got c\nand another\ngot no_policy: no <policy>'
    )
    assert cases[2].find("error") is not None


def test_that_nothing_ran_is_an_error_for_ci_too() -> None:
    suites = ET.fromstring(junit(CaseReport(results=(), problems=())))  # noqa: S314
    assert (suites.get("tests"), suites.get("errors")) == ("1", "1")
    assert "nothing was tested" in junit(CaseReport(results=(), problems=()))


def test_annotations_stand_beside_the_line_and_break_nothing() -> None:
    lines = github(as_problems(BAD))
    assert lines[0] == "::error file=cases/b.yaml,line=3::spec: expected 100 %25, got%0Aless"
    assert lines[2] == "::error file=cases/a.yaml,line=7::does-not: and another%0Agot no_policy: no <policy>"
    assert github([("warning", Problem(file="a:b,c", line=0, key="", message="m"))]) == [
        "::warning file=a%3Ab%2Cc,line=1::m"
    ]
