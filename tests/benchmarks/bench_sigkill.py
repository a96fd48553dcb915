"""Workers of a server are killed at random while clients promote: never a pointer without its decision.

python tests/benchmarks/bench_sigkill.py [--kills 200] [--database sqlite|postgresql|both]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import mlflow

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "attack"))
from conftest import gated_server, install
from hammer import account
from killing import kill_at_random

NAME = "clinical-killed"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for database in ("sqlite", "postgresql") if options.database == "both" else (options.database,):
        with contextlib.ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(gated_server(database, partial(install, root)))
            mlflow.set_tracking_uri(server.uri)
            for _ in range(2):
                server.registered(NAME)
            begin = time.monotonic()
            killed = kill_at_random(server, NAME, kills=options.kills, seed=options.seed)
            seen = account(server)
            answers = ", ".join(f"{answer}: {count}" for answer, count in killed.answers.most_common())
            print(
                f"{database}: {killed.kills} workers killed in {time.monotonic() - begin:.0f} s; answers {answers}; "
                f"{seen['allowed']} decisions, each with its pointer's history; the chain holds"
            )
    mlflow.set_tracking_uri(None)


if __name__ == "__main__":
    main()
