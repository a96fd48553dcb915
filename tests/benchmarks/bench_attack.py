"""How hard the gate was attacked: thousands of arbitrary sequences against the real store, none of which gets through.

    python tests/benchmarks/bench_attack.py [--sequences 5000] [--steps 25] [--seed N]

Prints how many sequences, steps and calls were made, by kind and outcome. Ends with exit code 1 and the shortest
sequence that was found when one of them breaks the invariant of `tests/attack/attack_world.py`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "attack"))
from attack_machine import run
from attack_world import world


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--sequences", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=25, help="most steps of a sequence")
    parser.add_argument("--seed", type=int, help="the same sequences at every run with it")
    options = parser.parse_args()
    logging.disable(logging.ERROR)  # MLflow and the gate tell about every refused call
    warnings.simplefilter("ignore")
    begin, broken = time.monotonic(), False
    with world() as attacked:
        attacked.counts.clear()
        done = 0
        # In portions, so that hypothesis does not remember every sequence.
        while done < options.sequences and not broken:
            portion = min(1000, options.sequences - done)
            try:
                seed = None if options.seed is None else options.seed + done
                run(attacked, sequences=portion, steps=options.steps, seed=seed)
            except AssertionError:
                traceback.print_exc()
                broken = True
            done = attacked.counts["sequence", "begun"]
        counts = dict(attacked.counts)
    sequences = counts.pop(("sequence", "begun"))
    steps = sum(count for (kind, _), count in counts.items() if kind == "step")
    calls = {key: count for key, count in counts.items() if key[0] != "step"}
    seconds = time.monotonic() - begin
    print(f"{sequences} sequences, {steps} steps, {sum(calls.values())} registry calls in {seconds:.0f} s")
    outcomes = ("done", "denied", "refused")
    print(f"{'':44}{'done':>8}{'denied':>8}{'MLflow':>8}")
    for kind in sorted({kind for kind, _ in calls}):
        print(f"{kind:44}" + "".join(f"{calls.get((kind, outcome), 0):8}" for outcome in outcomes))
    print("The invariant was BROKEN." if broken else "The invariant held after every step.")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
