"""What policy tests and lint found, in the formats of CI servers: JUnit XML, and annotations of GitHub Actions.

Source: the JUnit schema that Jenkins and GitLab read; GitHub's workflow commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

from registry_gate.documents import Problem
from registry_gate.policy.cases import CaseReport


def junit(report: CaseReport) -> str:
    """One test suite; a file that could not be read is an error, and that no case ran is one too."""
    errors = [(problem.file, str(problem)) for problem in report.problems]
    if not report.ran and not errors:
        errors.append(("cases", "expected at least one case, got none: nothing was tested"))
    failed = sum(not result.passed for result in report.results)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    counts = f'tests="{report.ran + len(errors)}" failures="{failed}" errors="{len(errors)}"'
    lines.append(f'<testsuites {counts}><testsuite name="registry-gate policy test" {counts}>')
    for result in report.results:
        head = f"<testcase classname={_quoted('.'.join(result.policies) or 'ungoverned')} name={_quoted(result.name)}"
        head += f" file={_quoted(_file(result.file))} line={_quoted(str(result.line))}"
        if result.passed:
            lines.append(f"{head}/>")
        else:
            said = "\n".join((*result.differences, *map(str, result.told)))
            lines.append(f"{head}><failure message={_quoted(result.differences[0])}>{_text(said)}</failure></testcase>")
    for name, message in errors:
        lines.append(f'<testcase classname="files" name={_quoted(name)}><error message={_quoted(message)}/></testcase>')
    lines.append("</testsuite></testsuites>")
    return "\n".join(lines)


def github(problems: Iterable[tuple[str, Problem]]) -> list[str]:
    """Workflow commands that put each problem beside its line.

    Args:
        problems: `error` or `warning`, with the problem.
    """
    return [
        f"::{level} file={_property(_file(problem.file))},line={problem.line or 1}::"
        f"{_data(f'{problem.key}: {problem.message}' if problem.key else problem.message)}"
        for level, problem in problems
    ]


def as_problems(report: CaseReport) -> list[tuple[str, Problem]]:
    """Every file that could not be read and every case that does not hold, as errors."""
    failed = []
    for result in report.results:
        # What the reasons say stands below the last difference: that is the one about reasons, where one is.
        messages = [*result.differences[:-1], "\n".join((*result.differences[-1:], *map(str, result.told)))]
        failed += [
            Problem(file=result.file, line=result.line, key=result.name, message=message)
            for message in messages
            if message
        ]
    return [("error", problem) for problem in (*report.problems, *failed)]


def _file(shown: str) -> str:
    """The file alone: several documents of one file are shown with their number."""
    return re.sub(r"#[0-9]+$", "", shown)


def _clean(text: str) -> str:
    # XML 1.0 has no place for control characters, not even as references.
    return "".join(c if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff") else "\ufffd" for c in text)


def _quoted(text: str) -> str:
    return quoteattr(_clean(text).replace("\n", " "))


def _text(text: str) -> str:
    return escape(_clean(text))


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
