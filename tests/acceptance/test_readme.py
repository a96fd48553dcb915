"""The README's tour, run as it stands: only the port is another, because 5000 may be taken."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from registry_gate.cli import COMMANDS, cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOUR = README.split("<!-- tour:")[1].split("<!-- end of tour -->")[0]


def test_the_tour_works_as_it_is_written(tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", TOUR, flags=re.DOTALL)
    assert len(blocks) >= 8
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    # The settings that `init` writes name port 5000; the variable is the documented way to say another.
    script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\nset -x\n" + "\n".join(blocks)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "REGISTRY_GATE_"))}
    environment = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REGISTRY_GATE_TRACKING_URI": f"http://127.0.0.1:{port}",
        "OMP_WAIT_POLICY": "PASSIVE",
        # A busy machine may take longer than the tour's reader waits.
        "REGISTRY_GATE_LIMIT_S": "60",
    }
    done = subprocess.run(
        ["bash", "-c", script.replace("5000", port)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert "allowed: clinical-triage@champion is version 1" in done.stdout
    assert "MED-1" in done.stdout
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_command_of_the_readme_exists_with_its_options():
    named = set(re.findall(r"`?registry-gate ([a-z-]+)", README))
    assert named - {"demo"} <= set(COMMANDS) | {"audit", "evidence"}
    for command in COMMANDS:
        result = CliRunner().invoke(cli, [command, "--help"])
        assert result.exit_code == 0, result.output
        assert result.output.startswith("Usage: ")


def test_every_file_that_the_readme_points_to_exists():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
