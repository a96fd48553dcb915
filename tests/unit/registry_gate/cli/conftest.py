"""Command-line tests share the gate's builders, and run commands through `main`, as the installed command calls it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from answers import Answer, Run

from registry_gate.cli import main

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no settings from outside."""
    for name in list(os.environ):
        if name.startswith("REGISTRY_GATE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return command


@pytest.fixture
def installed(home: Path, run: Run) -> Path:
    assert run("init", ".").code == 0
    return home
