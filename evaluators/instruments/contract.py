"""What every instrument must hold, to be run on your own before a battery names it.

For a construct in Python, in a test of your package:

    from evaluators.instruments.contract import check_construct

    def test_mine():
        check_construct(CONSTRUCT, probes, bad=[(probe, answer, labels), ...], good=[...])

For a battery in YAML: `python -m evaluators.instruments.contract my-battery.yaml [--probes DIR] [--graders DIR]` loads
every probe and every grader and checks that all of them fit together.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluators.engines.interface import Answer
from evaluators.graders.catalogue import load_grader
from evaluators.instruments.construct import Construct, Labels
from evaluators.instruments.probe import Probe
from evaluators.instruments.sources import load_probes
from evaluators.measuring import check_axes
from registry_gate.battery import METRICS, battery_from, load_batteries
from registry_gate.documents import read_documents
from registry_gate.errors import RegistryGateError

Example = tuple[Probe, Answer, Labels]


def check_construct(
    construct: Construct, probes: Sequence[Probe], *, bad: Sequence[Example], good: Sequence[Example]
) -> None:
    """Check a construct of your own.

    Args:
        construct: What the entry point gives.
        probes: Some probes that it is meant for, two or more.
        bad: Answers that it must count, with the labels that graders would give.
        good: Answers that it must not count.

    Raises:
        AssertionError: With one sentence for each thing that does not hold.
    """
    problems = [
        *_says_what_it_is(construct),
        *_takes_its_probes(construct, probes),
        *_judges(construct, bad, expected=True),
        *_judges(construct, good, expected=False),
        *_figures_hold(construct, [*bad, *good]),
    ]
    if not bad or not good:
        problems.append("expected at least one bad and one good example: a construct that never counts cannot fail")
    if problems:
        raise AssertionError(f"construct {construct.metric!r}:\n- " + "\n- ".join(problems))


def check_battery(path: Path, *, probe_dirs: Sequence[Path] = (), grader_dirs: Sequence[Path] = ()) -> list[str]:
    """Check every battery in a directory, or of one file.

    Returns:
        A line for each instrument that fits.

    Raises:
        RegistryGateError: The battery is invalid, or an instrument's probes, graders, axes and labels do not fit.
    """
    found = []
    if path.is_dir():
        batteries = list(load_batteries([path]).values())
    else:
        batteries = [battery_from(raw) for raw in read_documents(path)]
    for battery in batteries:
        for instrument in battery.spec.instruments:
            probes = load_probes(instrument, probe_dirs=probe_dirs)
            graders = [load_grader(name, directories=grader_dirs) for name in instrument.graders]
            check_axes(instrument, [grader.identity for grader in graders])
            clusters = len({probe.cluster for probe in probes})
            found.append(f"{battery.id} {instrument.measure}: {len(probes)} probes in {clusters} clusters, fits")
    return found


def _says_what_it_is(construct: Construct) -> list[str]:
    problems = []
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", construct.metric):
        problems.append(f"expected a metric of small letters, digits, - and _, got {construct.metric!r}")
    if construct.metric in METRICS:
        problems.append(f"expected a metric of its own, got {construct.metric!r}, which comes with the program")
    if not construct.title.strip() or not construct.source.strip():
        problems.append("expected a title and a source, got an empty one: whoever reads a verdict must find the rule")
    if construct.kind not in ("answer", "choice"):
        problems.append(f"expected kind answer or choice, got {construct.kind!r}")
    return problems


def _takes_its_probes(construct: Construct, probes: Sequence[Probe]) -> list[str]:
    problems = []
    if len(probes) < 2 or len({probe.id for probe in probes}) != len(probes):
        problems.append(f"expected two probes or more with ids of their own, got {len(probes)}")
    problems += [f"probe {p.id!r}: {problem}" for p in probes if (problem := construct.check(p)) is not None]
    if construct.kind == "choice":
        problems += [f"probe {p.id!r}: expected choices, got none" for p in probes if not p.choices]
    return problems


def _judges(construct: Construct, examples: Sequence[Example], *, expected: bool) -> list[str]:
    problems = []
    for number, (probe, answer, labels) in enumerate(examples, start=1):
        which = f"{'bad' if expected else 'good'} example {number}"
        missing = [axis for axis in construct.axes if axis not in labels]
        if missing:
            problems.append(f"{which}: expected a label on each axis, got none on {', '.join(missing)}")
            continue
        try:
            said = construct.bad(probe, answer, labels)
            again = construct.bad(probe, answer, dict(labels))
            renamed = construct.bad(replace(probe, id="another"), replace(answer, probe_id="another"), labels)
        except Exception as err:
            problems.append(f"{which}: expected a verdict, got {type(err).__name__}: {err}")
            continue
        if type(said) is not bool:
            problems.append(f"{which}: expected True or False, got a {type(said).__name__}")
        elif said is not expected:
            problems.append(f"{which}: expected {expected}, got {said}")
        elif (again, renamed) != (said, said):
            problems.append(f"{which}: expected the same verdict again and under another id, got another")
    return problems


def _figures_hold(construct: Construct, examples: Sequence[Example]) -> list[str]:
    probes, answers = [example[0] for example in examples], [example[1] for example in examples]
    if not examples:
        return []
    try:
        figures = construct.figures(probes, answers)
        reversed_figures = construct.figures(probes[::-1], answers[::-1])
    except Exception as err:
        return [f"figures: expected numbers, got {type(err).__name__}: {err}"]
    if not all(math.isfinite(value) for value in figures.values()):
        return [f"figures: expected finite numbers, got {dict(figures)}"]
    if any(not math.isclose(reversed_figures[name], value, abs_tol=1e-9) for name, value in figures.items()):
        return ["figures: expected the same in any order of the probes, got others"]
    return []


def main() -> None:
    """Check batteries; exit code 0 when everything fits, 2 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m evaluators.instruments.contract", description=__doc__)
    parser.add_argument("battery", type=Path, help="a battery's YAML file, or a folder of them")
    parser.add_argument("--probes", type=Path, action="append", default=[], help="probe directory")
    parser.add_argument("--graders", type=Path, action="append", default=[], help="grader directory")
    options = parser.parse_args()
    try:
        for line in check_battery(options.battery, probe_dirs=options.probes, grader_dirs=options.graders):
            print(line)
    except RegistryGateError as err:
        print(err, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
