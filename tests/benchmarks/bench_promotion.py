"""What the gate costs a registry call: a gated and a plain MLflow server side by side, calls interleaved.

    python tests/benchmarks/bench_promotion.py [--database sqlite|postgresql] [--rounds 200] [--decisions 10 1000]

A promoting write alternates an alias between two versions that have evidence, so each one is decided from stored
evidence and written with its signed decision and audit entry. Reads and a download of a file of the promoted version
are measured in the same rounds. All of it again with more decisions in the ledger, half of them about the very target.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import create_engine, func, insert, select, update

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import Installation, Server, free_port, gated_server, install, mlflow_server, postgresql

from registry_gate.ledger.chain import entry_hash
from registry_gate.ledger.store import as_text
from registry_gate.ledger.tables import AUDIT, AUDIT_HEAD, DECISION

API = "/api/2.0/mlflow"
NAME = "clinical-bench"


@contextlib.contextmanager
def plain_server(database: str, directory: Path) -> Iterator[Server]:
    """MLflow alone, on a database of its own."""
    with contextlib.ExitStack() as stack:
        uri = f"sqlite:///{directory / 'mlflow.db'}" if database == "sqlite" else stack.enter_context(postgresql())
        port = free_port()
        made = Installation(directory=directory, ledger_uri=uri, tracking_uri=f"http://127.0.0.1:{port}")
        environment = {k: v for k, v in made.environment().items() if not k.startswith("REGISTRY_GATE_")}
        log = stack.enter_context(
            mlflow_server(
                directory,
                backend=uri,
                registry=uri,
                port=port,
                environment=environment,
                artifacts=str(directory / "artifacts"),
            )
        )
        yield Server(
            database=database,
            installation=made,
            engine=create_engine(uri),
            artifacts=directory / "artifacts",
            log=log,
        )


def calls(server: Server, session: requests.Session) -> dict[str, Callable[[int], requests.Response]]:
    """The measured calls; each takes the number of the round."""

    def write(number: int) -> requests.Response:
        body = {"name": NAME, "alias": "champion", "version": str(1 + number % 2)}
        return session.post(f"{server.uri}{API}/registered-models/alias", json=body, timeout=60)

    def by_alias(_: int) -> requests.Response:
        query = {"name": NAME, "alias": "champion"}
        return session.get(f"{server.uri}{API}/registered-models/alias", params=query, timeout=60)

    def search(_: int) -> requests.Response:
        query = {"filter": f"name = '{NAME}'"}
        return session.get(f"{server.uri}{API}/model-versions/search", params=query, timeout=60)

    file = server.directory_of(NAME, 1).relative_to(server.artifacts) / "model" / "model.safetensors"

    def download(_: int) -> requests.Response:
        return session.get(f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/{file.as_posix()}", timeout=60)

    return {
        "set alias (promotion)": write,
        "get_model_version_by_alias": by_alias,
        "search_model_versions": search,
        "download of one file": download,
    }


def fill(server: Server, decisions: int) -> None:
    """Bring the ledger to a number of decisions, as the gate would have written them, chain and signatures included."""
    with server.engine.begin() as connection:
        there = connection.execute(select(func.count()).select_from(DECISION)).scalar() or 0
        genuine = connection.execute(select(DECISION).where(DECISION.c.allowed).limit(1)).one()._asdict()
        head = connection.execute(select(AUDIT_HEAD.c.seq, AUDIT_HEAD.c.hash)).one()
        seq, previous = int(head.seq), str(head.hash)
        rows, entries = [], []
        began = datetime.now(UTC) - timedelta(days=300)
        for number in range(max(0, decisions - there)):
            at = as_text(began + timedelta(minutes=4 * number % 400_000, microseconds=number))
            name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{there}-{number}"))
            key = genuine["target_key"] if number % 2 else "sha256:" + hashlib.sha256(name.encode()).hexdigest()
            # Denials and decisions about other forms, so that the ledger must look for what it needs.
            other = {"form_digest": "sha256:" + hashlib.sha256(name.encode()).hexdigest(), "allowed": number % 4 == 0}
            rows.append({**genuine, "id": name, "decided_at": at, "target_key": key, **other})
            seq += 1
            digest = entry_hash(seq, at, "decision", genuine["body"], previous)
            entries.append(
                {
                    "seq": seq,
                    "at": at,
                    "event": "decision",
                    "body": genuine["body"],
                    "previous": previous,
                    "hash": digest,
                }
            )
            previous = digest
        for begin in range(0, len(rows), 2000):
            connection.execute(insert(DECISION), rows[begin : begin + 2000])
            connection.execute(insert(AUDIT), entries[begin : begin + 2000])
        connection.execute(update(AUDIT_HEAD).values(seq=seq, hash=previous))


def measure(servers: dict[str, Server], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of every call, by call and server. The order of the servers changes from round to round."""
    taken: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        table = {}
        for name, server in servers.items():
            session = stack.enter_context(requests.Session())
            # Kept connections stay with one worker process each, and may or may not meet TCP's delayed
            # acknowledgement (40 ms): a connection for each call spreads both evenly.
            session.headers["Connection"] = "close"
            table[name] = calls(server, session)
        for number in range(-20, rounds):  # the first twenty warm up every worker process
            order = list(servers) if number % 2 else list(reversed(servers))
            for call in next(iter(table.values())):
                for name in order:
                    begin = time.perf_counter()
                    answer = table[name][call](number)
                    milliseconds = 1000 * (time.perf_counter() - begin)
                    if answer.status_code != 200:
                        sys.exit(f"{name} server, {call}: expected HTTP 200, got {answer.status_code}: {answer.text}")
                    if number >= 0:
                        taken.setdefault(call, {}).setdefault(name, []).append(milliseconds)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--decisions", type=int, nargs="+", default=[10, 1_000, 100_000])
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (root / "plain").mkdir()
        servers = {
            "plain": stack.enter_context(plain_server(options.database, root / "plain")),
            "gated": stack.enter_context(gated_server(options.database, partial(install, root / "gated"))),
        }
        for server in servers.values():
            for _ in range(2):
                server.register(NAME)
        for version in (1, 2):
            servers["gated"].assess(NAME, version)
        time.sleep(2.5)  # files younger than two seconds are hashed at every review
        print(f"{options.rounds} rounds, {options.database}, uvicorn with 4 workers; milliseconds")
        measure(servers, 0)  # decisions to copy
        for decisions in options.decisions:
            fill(servers["gated"], decisions)
            report(decisions, measure(servers, options.rounds))


def report(decisions: int, taken: dict[str, dict[str, list[float]]]) -> None:
    """One table."""
    print(f"\nabout {decisions:,} decisions in the ledger")
    print(f"{'':28}{'plain':>16}{'gated':>16}{'difference':>18}{'ratio':>8}")
    print(f"{'':28}{'p50':>8}{'p99':>8}{'p50':>8}{'p99':>8}{'p50':>9}{'p99':>9}{'p50':>8}")
    for call, by_server in taken.items():
        row: list[Any] = []
        for name in ("plain", "gated"):
            row += [statistics.median(by_server[name]), statistics.quantiles(by_server[name], n=100)[98]]
        plain50, plain99, gated50, gated99 = row
        print(
            f"{call:28}{plain50:8.1f}{plain99:8.1f}{gated50:8.1f}{gated99:8.1f}"
            f"{gated50 - plain50:+9.1f}{gated99 - plain99:+9.1f}{gated50 / plain50:8.2f}"
        )


if __name__ == "__main__":
    main()
