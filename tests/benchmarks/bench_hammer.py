"""64 clients on one model, on SQLite and PostgreSQL, gated and plain; afterwards every transition is explained.

    python tests/benchmarks/bench_hammer.py [--clients 64] [--seconds 60] [--database sqlite|postgresql|both]

Prints what the clients were answered and ends with exit code 1 when a pointer, a decision or an audit entry is not
explained by the others, or when the gated server gave a server error that is not the database's own refusal to wait.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import mlflow

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "attack"))
sys.path.insert(0, str(Path(__file__).parent))
from bench_promotion import plain_server
from conftest import gated_server, install
from hammer import Outcome, account, hammer, prepare

NAME = "clinical-hammered"


def show(title: str, outcome: Outcome) -> None:
    total = sum(outcome.answers.values())
    errors = len(outcome.server_errors)
    print(f"{title}: {total} calls, {errors} server errors, {outcome.locked()} of them the database's refusal to wait")
    kinds = sorted({kind for kind, _ in outcome.answers})
    for kind in kinds:
        answers = Counter({answer: n for (k, answer), n in outcome.answers.items() if k == kind})
        print(f"  {kind:16}" + ", ".join(f"{answer}: {n}" for answer, n in answers.most_common()))
    for body in outcome.unexplained()[:3]:
        print(f"  unexplained server error: {body[:300]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failed = False
    for database in ("sqlite", "postgresql") if options.database == "both" else (options.database,):
        for kind in ("plain", "gated"):
            with contextlib.ExitStack() as stack:
                root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                made = (
                    plain_server(database, root) if kind == "plain" else gated_server(database, partial(install, root))
                )
                server = stack.enter_context(made)
                mlflow.set_tracking_uri(server.uri)
                sources, _ = prepare(server, NAME, gated=kind == "gated")
                outcome = hammer(
                    server, NAME, sources, clients=options.clients, seconds=options.seconds, seed=options.seed
                )
                show(f"{database}, {kind}", outcome)
                if kind == "gated":
                    try:
                        seen = account(server)
                    except AssertionError as err:
                        failed = True
                        print(f"  NOT explained: {err}")
                    else:
                        listed = ", ".join(f"{count} {name}" for name, count in sorted(seen.items()))
                        print(f"  every transition is explained and the invariant holds ({listed})")
                    failed |= bool(outcome.unexplained())
    mlflow.set_tracking_uri(None)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
