"""Ask an MLflow server from outside whether it is gated. Standard library only; for health checks and unit files.

    python is_gated.py http://127.0.0.1:5000 [--wait SECONDS]

Sets a reserved tag on a model that does not exist: the gate refuses that with 403 and its own payload, plain MLflow
answers something else. MLflow's /health answers 200 with or without the gate, and a 403 alone may come from a proxy or
from MLflow's host check, so neither is believed. Exit code 0 when gated, 1 when not, or when nobody answers in time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request

QUESTION = {"name": "registry-gate-health-asks", "key": "registry_gate.health", "value": "1"}
PATH = "/api/2.0/mlflow/registered-models/set-tag"


def ask(server: str) -> tuple[bool, str]:
    """Whether the server is gated, and a sentence about what it answered.

    Raises:
        OSError: It does not answer.
    """
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked in `main`
        server.rstrip("/") + PATH,
        data=json.dumps(QUESTION).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            status, body = answer.status, answer.read(65536)
    except urllib.error.HTTPError as refusal:
        with refusal:
            status, body = refusal.code, refusal.read(65536)
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if status == 403 and isinstance(payload, dict) and "registry_gate" in payload:
        return True, f"{server} is gated"
    return False, f"{server} is NOT gated: expected HTTP 403 with the gate's payload, got HTTP {status}"


def main() -> int:
    """Ask once, or until somebody answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="address of the MLflow server")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long it may take to start")
    options = parser.parse_args()
    if not options.server.startswith(("http://", "https://")):
        parser.error(f"expected an http(s) address, got {options.server!r}")
    deadline = time.monotonic() + options.wait
    while True:
        try:
            gated, said = ask(options.server)
        except OSError as err:
            gated, said = False, f"{options.server} does not answer: {err}"
            if time.monotonic() < deadline:
                time.sleep(1)
                continue
        # An answer is final: a server that is not gated does not become gated by waiting.
        print(said, file=sys.stdout if gated else sys.stderr)
        return 0 if gated else 1


if __name__ == "__main__":
    sys.exit(main())
