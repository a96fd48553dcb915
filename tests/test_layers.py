"""The layers of DESIGN.md section 6: a module imports strictly lower layers or its own sub-package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = {
    **dict.fromkeys(("errors", "promotion", "form", "assessment", "decision", "lookalikes"), 0),
    **dict.fromkeys(("statistics", "documents", "battery", "config"), 1),
    **dict.fromkeys(("artifact", "policy", "evidence"), 2),
    **dict.fromkeys(("ledger", "pending", "signed_policies", "calibrations"), 3),
    **dict.fromkeys(("standing", "gate", "grants", "policy_uses"), 4),
    **dict.fromkeys(("reconcile", "past"), 5),
    **dict.fromkeys(("mlflow_plugin", "web"), 5),
    "worker": 6,
    "cli": 7,
}
BESIDE = {"assessment": {"errors"}, "battery": {"documents"}, "gate": {"grants", "policy_uses"}}
"""Imports within a layer: reading an assessment back raises an error; a battery is a document; a review fetches
what people signed and puts down which policies it rests on."""

ENTRY_POINTS = {"__main__"}
"""`python -m registry_gate` is the command line under another name."""

HEAVY = {"torch", "transformers", "onnxruntime", "peft", "vllm"}

MODULES = sorted((ROOT / "registry_gate").rglob("*.py"))
EVALUATORS = sorted((ROOT / "evaluators").rglob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything that a file imports, wherever in the file."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from registry_gate import ledger` imports registry_gate.ledger.
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT / "registry_gate")
    return inside.parts[0].removesuffix(".py")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_module_has_a_layer() -> None:
    parts = {part_of(path) for path in MODULES} - {"__init__"} - ENTRY_POINTS
    assert parts == set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_modules_import_strictly_lower_layers_or_their_own_sub_package(path: Path) -> None:
    own = part_of(path)
    wrong = []
    for name, line in imports_of(path):
        steps = name.split(".")
        if steps[0] != "registry_gate" or len(steps) == 1:
            continue
        other = steps[1]
        if other not in LAYERS or own in ENTRY_POINTS or other == own or other in BESIDE.get(own, ()):
            continue  # names of the package itself, such as __version__
        if own == "__init__" or LAYERS[other] >= LAYERS[own]:
            wrong.append(f"{named(path)}:{line}: layer {LAYERS.get(own)} imports {name} of layer {LAYERS[other]}")
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_the_gate_never_imports_what_loads_models_nor_its_evaluators(path: Path) -> None:
    found = [f"{named(path)}:{line}: {name}" for name, line in imports_of(path) if name.split(".")[0] in HEAVY]
    if part_of(path) != "worker":
        found += [f"{named(path)}:{line}: {n}" for n, line in imports_of(path) if n.split(".")[0] == "evaluators"]
    assert not found


@pytest.mark.parametrize("path", EVALUATORS, ids=named)
def test_evaluators_import_values_and_formats_of_the_gate_only(path: Path) -> None:
    wrong = []
    for name, line in imports_of(path):
        steps = name.split(".")
        if steps[0] == "registry_gate" and len(steps) > 1 and LAYERS.get(steps[1], 0) > 1:
            wrong.append(f"{named(path)}:{line}: {name} of layer {LAYERS[steps[1]]}")
    assert not wrong


def test_imports_are_found_wherever_they_stand() -> None:
    """The checks above would hold vacuously if this parser saw nothing."""
    file = ROOT / "registry_gate" / "ledger" / "store.py"
    assert "registry_gate.decision.Decision" in {name for name, _ in imports_of(file)}
    inside = {name for name, _ in imports_of(ROOT / "registry_gate" / "cli" / "audit.py")}
    assert "registry_gate.ledger.Ledger" in inside  # imported inside a function
