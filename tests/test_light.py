"""The server stays light: the gate imports nothing that loads models, not even for a full review."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "onnxruntime", "peft", "vllm")
COMMAND = Path(sys.executable).parent / "registry-gate"

REVIEW = """
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, {builders!r})
from gate_builders import make_installed_gate, promote

gate, form, sign = make_installed_gate(Path({directory!r}))
sign()
review = gate.review(promote())
assert review.allowed, review.decisions
with gate.ledger.transaction() as connection:
    gate.record_allowed(connection, review, {{}})
assert gate.ledger.verify_chain()[0] == 3
"""

CHECK = """
import sys
loaded = sorted(m for m in sys.modules if m.split(".")[0] in {heavy!r} or m.startswith("mlflow.pyfunc"))
assert not loaded, loaded
"""


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing a heavy package leaves a trace and fails, whoever swallows the error."""
    stubs = tmp_path / "stubs"
    for name in HEAVY:
        (stubs / name).mkdir(parents=True)
        (stubs / name / "__init__.py").write_text(
            "import pathlib, traceback\n"
            f"trace = pathlib.Path({str(tmp_path / 'imported')!r})\n"
            f"trace.write_text({name!r} + '\\n' + ''.join(traceback.format_stack()))\n"
            f"raise ImportError({name!r})\n"
        )
    paths = [str(stubs), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run(code: str, environment: dict[str, str], directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code + CHECK.format(heavy=HEAVY)],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trace = directory / "imported"
    assert not trace.exists(), trace.read_text()


@pytest.mark.parametrize("module", ["registry_gate.gate", "registry_gate.mlflow_plugin.store", "registry_gate.cli"])
def test_importing_the_gate_loads_nothing_heavy(module: str, guarded: dict[str, str], tmp_path: Path) -> None:
    run(f"import {module}\n", guarded, tmp_path)


def test_a_full_review_loads_nothing_heavy(guarded: dict[str, str], tmp_path: Path) -> None:
    builders = str(Path(__file__).parent / "unit" / "registry_gate")
    run(REVIEW.format(builders=builders, directory=str(tmp_path / "gate")), guarded, tmp_path)


def test_the_guard_notices_a_heavy_import_that_somebody_swallows(guarded: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="torch"):
        run("try:\n    import torch\nexcept ImportError:\n    pass\n", guarded, tmp_path)


def test_help_runs_and_lists_every_command(guarded: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run([COMMAND, "--help"], env=guarded, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for name in ("init", "doctor", "policy", "assess", "status", "promote", "decide", "report", "audit", "worker"):
        assert f"  {name} " in done.stdout
    assert not (tmp_path / "imported").exists()
