"""How hard a running server was attacked: arbitrary sequences of HTTP calls, none of which gets a model through.

    python tests/benchmarks/bench_attack_server.py [--sequences 300] [--steps 20] [--database sqlite|postgresql|both]

Prints how many calls were made, by kind and outcome. Ends with exit code 1 and the sequence that was found when a
pointer is there that should not be, or an answer is not what it has to be.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

import mlflow

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "attack"))
from conftest import assert_invariant, gated_server, install
from rest_machine import Attacked, run_rest


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--sequences", type=int, default=300)
    parser.add_argument("--steps", type=int, default=20, help="most steps of a sequence")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    options = parser.parse_args()
    logging.disable(logging.ERROR)  # MLflow tells about every new version
    broken = False
    for database in ("sqlite", "postgresql") if options.database == "both" else (options.database,):
        with contextlib.ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(gated_server(database, partial(install, root)))
            mlflow.set_tracking_uri(server.uri)
            attacked, begin, held = Attacked(server), time.monotonic(), True
            try:
                run_rest(attacked, sequences=options.sequences, steps=options.steps)
                assert_invariant(server)
            except AssertionError:
                traceback.print_exc()
                held, broken = False, True
            sequences = attacked.counts.pop(("sequence", "begun"))
            calls, seconds = attacked.counts.total(), time.monotonic() - begin
            print(f"{database}: {sequences} sequences, {calls} HTTP calls in {seconds:.0f} s")
            outcomes = ("done", "denied", "refused")
            print(f"{'':32}" + "".join(f"{o:>9}" for o in ("done", "denied", "MLflow")))
            for kind in sorted({kind for kind, _ in attacked.counts}):
                print(f"{kind:32}" + "".join(f"{attacked.counts[kind, outcome]:9}" for outcome in outcomes))
            print("The invariant held after every step." if held else "The invariant was BROKEN.")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
